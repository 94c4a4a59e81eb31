"""What a person looks at after a run: overlays, training curves and tables."""

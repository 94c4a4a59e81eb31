"""Predicted masks against true ones: what belongs together, scores by lesion, summaries with their conventions."""

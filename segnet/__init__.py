"""Lesion segmentation from CT with state space models, from a file on disk to a scored mask."""

__version__ = "0.1.0"

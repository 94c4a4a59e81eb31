"""Pairs to prepared HDF5 files, and from these to batches. Imports `runtime` and `io`."""

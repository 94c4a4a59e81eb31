"""Image files to a prepared dataset, and from it to training batches. Imports `io` and the floors below."""

"""The training loop, its losses and its state. Imports `prediction` and the floors below."""

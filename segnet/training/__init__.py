"""The training loop. Imports `prediction` and the floors below it, and knows no report."""

"""From an image to a mask. Imports `models`, `metrics` and the floors below them."""

"""From an image to a mask. Imports `models` and the floors below."""

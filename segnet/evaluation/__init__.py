"""Predicted masks against true masks. Imports `prediction`, `training` and the floors below them."""

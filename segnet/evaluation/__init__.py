"""Predicted masks against true masks. Imports `training` and the floors below."""

"""Figures and pages. Imports every floor but `study` and `cli`."""

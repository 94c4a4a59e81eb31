"""Figures and pages. Imports `evaluation` and the floors below."""

"""What commands and report take unless told otherwise."""

from __future__ import annotations

LESIONS = 60
"""Lesions with a section and pictures of their own, the worst first."""
WINDOW_HU = (-1000.0, 400.0)
"""CT window of pictures."""

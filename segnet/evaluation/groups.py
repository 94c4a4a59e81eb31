"""Which class of size a lesion is in."""

from __future__ import annotations

SIZE_BOUNDS_MM = (10.0, 20.0, 50.0)
"""Bounds of the classes of size, each belonging to the class above it."""
SIZE_CLASSES = ("<10 mm", "10-20 mm", "20-50 mm", ">=50 mm")
NO_LESION = "no lesion"


def size_class(long_axis_mm: float) -> str:
    """Class of size by the long axis of the true lesion in mm; `NO_LESION` of 0.

    Examples
    --------
    >>> size_class(9.99), size_class(10.0), size_class(50.0), size_class(0.0)
    ('<10 mm', '10-20 mm', '>=50 mm', 'no lesion')
    """
    if long_axis_mm <= 0:
        return NO_LESION
    return SIZE_CLASSES[sum(long_axis_mm >= bound for bound in SIZE_BOUNDS_MM)]

"""Which collection a case is from, and which class of size its lesion is in."""

from __future__ import annotations

import re

SIZE_BOUNDS_MM = (10.0, 20.0, 50.0)
"""Bounds of the classes of size, each belonging to the class above it."""
SIZE_CLASSES = ("<10 mm", "10-20 mm", "20-50 mm", ">=50 mm")
NO_LESION = "no lesion"

_RULES = (
    (re.compile(r"\d{6}(?!\d)"), "DeepLesion"),
    (re.compile(r"([A-Za-z][A-Za-z0-9]*(?:[-_][A-Za-z][A-Za-z0-9]*)*)[-_]\d"), None),
    (re.compile(r"([A-Za-z]+)\d+(?:[-_]|$)"), None),
)


def set_of(case: str) -> str:
    """The collection a case's name tells of: six digits are DeepLesion's, otherwise the words before the first number.

    Returns
    -------
    str, empty where the name tells nothing.

    Examples
    --------
    >>> [set_of(case) for case in ("LIDC-IDRI-0001_R_1", "STS_002", "000010_02_02_100_lesion_01", "bone_00002_lesion_03", "x")]
    ['LIDC-IDRI', 'STS', 'DeepLesion', 'bone', '']
    """
    for rule, name in _RULES:
        if found := rule.match(case):
            return found[1] if name is None else name
    return ""


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

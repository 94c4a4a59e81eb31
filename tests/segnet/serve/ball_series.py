"""A CT series with the ball of the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pydicom
from dicom_series import make_series
from service import BALL_MM, ball_hu

SHAPE = (40, 48, 56)
SPACING = (0.9, 0.9, 1.5)


def ball_series(**changes: Any) -> list[pydicom.Dataset]:
    """Axial slices in LPS with the ball of the tests, 2 mm off the middle."""
    x, y, z = (BALL_MM * [-1, -1, 1] - np.array(SHAPE)[::-1] * SPACING * [0.5, 0.55, 0.45]).tolist()
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    affine[:3, 3] = -x, -y, z
    hu = ball_hu(SHAPE[::-1], affine).transpose(2, 1, 0)
    series = make_series(hu, spacing_xyz_mm=SPACING, origin_mm=(x, y, z), series="1.2.3.77")
    for one in series:
        one.StudyDate, one.StudyTime, one.StudyID, one.AccessionNumber = "20260301", "101500", "1", "A1"
        one.PatientID = "P1"
        one.PatientBirthDate, one.PatientSex, one.ReferringPhysicianName, one.Manufacturer = "", "O", "", "M"
        for name, value in changes.items():
            setattr(one, name, value)
    return series

"""Collections and classes of size by what names and lengths say."""

from __future__ import annotations

import pytest

from segnet.evaluation.groups import set_of, size_class


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("LIDC-IDRI-0001_R_1", "LIDC-IDRI"),
        ("STS_002", "STS"),
        ("000010_02_02_100_lesion_01", "DeepLesion"),
        ("bone_00002_lesion_03", "bone"),
        ("diag_pancreas_0004_lesion_01", "diag_pancreas"),
        ("ULS23_lidcidri_195_lesion_01", "ULS23_lidcidri"),
        ("p12", "p"),
        ("4DLung-113_HM10395_Tumor", ""),
        ("0000101", ""),
        ("someone", ""),
        ("", ""),
    ],
)
def test_sets(case: str, name: str) -> None:
    assert set_of(case) == name


def test_a_bound_belongs_to_the_class_above() -> None:
    lengths = [0.0, 0.5, 9.999, 10.0, 19.999, 20.0, 49.999, 50.0, 300.0]
    small, middle, large, largest = "<10 mm", "10-20 mm", "20-50 mm", ">=50 mm"
    assert [size_class(mm) for mm in lengths] == [
        "no lesion", small, small, middle, middle, large, large, largest, largest,
    ]  # fmt: skip

"""Classes of size by what lengths say."""

from __future__ import annotations

from segnet.evaluation.conventions import size_class


def test_a_bound_belongs_to_the_class_above() -> None:
    lengths = [0.0, 0.5, 9.999, 10.0, 19.999, 20.0, 49.999, 50.0, 300.0]
    small, middle, large, largest = "<10 mm", "10-20 mm", "20-50 mm", ">=50 mm"
    assert [size_class(mm) for mm in lengths] == [
        "no lesion", small, small, middle, middle, large, large, largest, largest,
    ]  # fmt: skip

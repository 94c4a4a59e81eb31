"""Calibration: predicted probabilities against observed frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segnet.metrics._masks import as_mask
from segnet.metrics.roc import as_probability

BINS = 10
_EDGES = np.linspace(0.0, 1.0, BINS + 1)


@dataclass(frozen=True)
class ReliabilityBin:
    """Voxels with probability in [lo, hi), in the last bin [lo, hi]: number, mean probability, share of lesion.

    `confidence` and `frequency` are None without voxels.
    """

    lo: float
    hi: float
    n: int
    confidence: float | None
    frequency: float | None


@dataclass(frozen=True, eq=False)
class Calibration:
    """Counts for reliability diagrams. Counts of several volumes can be added.

    Attributes
    ----------
    n, lesion : int64 (BINS,), voxels and voxels of lesion by bin of probability
    confidence : float64 (BINS,), sums of probability
    squares : sum of (probability − truth)² over all voxels
    """

    n: NDArray[np.int64]
    lesion: NDArray[np.int64]
    confidence: NDArray[np.float64]
    squares: float

    @classmethod
    def of(cls, probability: ArrayLike, truth: ArrayLike) -> Calibration:
        """Counts of one volume.

        Parameters
        ----------
        probability : of lesion, in [0, 1]
        truth : mask of the same shape

        Raises
        ------
        InputError
            If the shapes differ, `truth` holds values other than 0 and 1, or `probability` leaves [0, 1].
        """
        t = np.atleast_1d(as_mask(truth, "truth"))
        p = np.atleast_1d(as_probability(probability, np.shape(truth)))
        out = cls.none()
        for plane, marked in zip(p, t, strict=True):  # a slice at a time: float64 of a whole volume is large
            plane, marked = plane.ravel().astype(np.float64), marked.ravel()
            bins = np.searchsorted(_EDGES[1:-1], plane, side="right")
            out += cls(
                np.bincount(bins, minlength=BINS).astype(np.int64),
                np.bincount(bins[marked], minlength=BINS).astype(np.int64),
                np.bincount(bins, weights=plane, minlength=BINS).astype(np.float64),
                float(((plane - marked) ** 2).sum()),
            )
        return out

    @classmethod
    def none(cls) -> Calibration:
        """Counts of no voxels."""
        return cls(np.zeros(BINS, np.int64), np.zeros(BINS, np.int64), np.zeros(BINS), 0.0)

    def __add__(self, other: Calibration) -> Calibration:
        return Calibration(
            self.n + other.n,
            self.lesion + other.lesion,
            self.confidence + other.confidence,
            self.squares + other.squares,
        )

    @property
    def voxels(self) -> int:
        return int(self.n.sum())

    def gaps(self) -> NDArray[np.float64]:
        """|mean probability − share of lesion| of each bin; 0 for an empty bin."""
        return np.abs(self.confidence - self.lesion) / np.maximum(self.n, 1)

    def ece(self) -> float:
        """Expected calibration error, ``Σ_b n_b / n · |confidence_b − frequency_b|``; NaN without voxels."""
        return float((self.n * self.gaps()).sum() / self.voxels) if self.voxels else math.nan

    def mce(self) -> float:
        """Maximum calibration error, ``max_b |confidence_b − frequency_b|`` over bins with voxels; NaN without any."""
        return float(self.gaps().max()) if self.voxels else math.nan

    def brier(self) -> float:
        """Brier score, the mean of (probability − truth)²; NaN without voxels."""
        return self.squares / self.voxels if self.voxels else math.nan

    def bins(self) -> list[ReliabilityBin]:
        return [
            ReliabilityBin(
                float(_EDGES[b]),
                float(_EDGES[b + 1]),
                int(n),
                float(self.confidence[b] / n) if n else None,
                float(self.lesion[b] / n) if n else None,
            )
            for b, n in enumerate(self.n)
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, NaN where there are no voxels."""
        return {
            "ece": self.ece(),
            "mce": self.mce(),
            "brier": self.brier(),
            "voxels": self.voxels,
            "bins": [vars(b) for b in self.bins()],
        }

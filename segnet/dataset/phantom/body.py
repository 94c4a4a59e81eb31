"""The torso's outer sizes and its organs, as signed distances in mm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Body:
    """The sizes of one torso in mm. Its signed distances are negative inside and broadcast over x, y, z."""

    half_x: float
    half_y: float
    fat: float
    wall: float
    spine_y: float
    contrast: float  # 0 to 1, how far vessels and organs are enhanced
    heart: Point

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Body:
        half_x = rng.uniform(150, 185)
        half_y = half_x * rng.uniform(0.62, 0.74)
        fat = rng.uniform(6, 26)
        wall = rng.uniform(15, 20)
        heart = (-25 + rng.uniform(-8, 8), half_y - fat - wall - 58, 32 + rng.uniform(-8, 8))
        return cls(half_x, half_y, fat, wall, -half_y + fat + wall + 34, rng.uniform(0.35, 1.0), heart)

    def skin(self, x: Any, y: Any) -> Any:
        """Distance to the skin in the axial plane, true to first order near it."""
        u, v = np.abs(x) / self.half_x, np.abs(y) / self.half_y
        power = 2.4
        f = np.maximum(u**power + v**power, 1e-6) ** (1 / power)
        slope = f ** (1 - power) * np.hypot(u ** (power - 1) / self.half_x, v ** (power - 1) / self.half_y)
        return (f - 1) / np.maximum(slope, 1e-4)

    def fat_here(self, x: Any, y: Any) -> Any:
        """Thickness of the fat under the skin: more at the flanks and the back."""
        return self.fat * (1 + 0.45 * np.abs(x) / self.half_x - 0.15 * y / self.half_y)

    def cavity(self, x: Any, y: Any) -> Any:
        """Inside of the body wall."""
        back = 22 * np.exp(-((x / 36) ** 2)) * np.clip(-y / self.half_y - 0.2, 0, 1)  # muscles of the back
        return self.skin(x, y) + self.fat_here(x, y) + self.wall + back

    def dome_height(self, x: Any, y: Any) -> Any:
        """z of the diaphragm."""
        y = y + 5
        right = -36 * ((x - 72) / 62) ** 2
        left = -18 - 36 * ((x + 72) / 62) ** 2
        return np.maximum(np.maximum(right, left), -40) - 26 * (y / 70) ** 2

    def mediastinum(self, x: Any, y: Any, z: Any) -> Any:
        """The space between the lungs: a slab that is narrow in front, the heart and the spine."""
        front = (y - self.spine_y) / 110
        slab = np.abs(x + 4) - (34 - 17 * np.clip(front, 0, 1) + 4 * np.sin(z / 17))
        heart = ellipsoid((x, y, z), self.heart, (56, 46, 52))
        spine = np.hypot(x, y - self.spine_y) - 33
        return np.minimum(np.minimum(slab, heart), spine)

    def lung(self, x: Any, y: Any, z: Any) -> Any:
        apex = 150 - 60 * ((np.abs(x) - 60) / 50) ** 2 - 40 * (y / 60) ** 2
        chest = np.maximum(self.cavity(x, y) + 2.5, 0.5 * (z - apex))
        return np.maximum(np.maximum(chest, 3.5 - self.mediastinum(x, y, z)), 0.8 * (self.dome_height(x, y) - z))

    def below_dome(self, x: Any, y: Any, z: Any) -> Any:
        return np.maximum(self.cavity(x, y) + 2.5, 0.8 * (z - self.dome_height(x, y)) + 3)

    def liver(self, x: Any, y: Any, z: Any) -> Any:
        right = ellipsoid((x, y, z), (78, 0, -62), (78, 92, 82))
        left = ellipsoid((x, y, z), (8, 42, -45), (78, 42, 42))
        fissure = 2.2 - np.abs(x - 18 - 0.2 * y) + 0.6 * np.maximum(25 - y, 0)
        return np.maximum(np.maximum(smooth_min(right, left, 12), fissure), self.below_dome(x, y, z))

    def spleen(self, x: Any, y: Any, z: Any) -> Any:
        around_stomach = 6 - ellipsoid((x, y, z), (-62, 28, -62), (44, 46, 48))
        return np.maximum(
            np.maximum(ellipsoid((x, y, z), (-102, -38, -55), (34, 48, 50)), around_stomach), self.below_dome(x, y, z)
        )

    def kidney(self, side: int, x: Any, y: Any, z: Any) -> Any:
        return ellipsoid((x, y, z), (side * 62.0, self.spine_y + 24, -118 + 8.0 * side), (27, 25, 54))


def ellipsoid(at: tuple[Any, Any, Any], centre: Point, semi_axes: Point) -> Any:
    """Signed distance to an ellipsoid, true to first order in the mean of its axes."""
    away = [(a - c) / s for a, c, s in zip(at, centre, semi_axes, strict=True)]
    r = np.sqrt(np.maximum(sum(q**2 for q in away), 1e-6))
    slope2 = sum((q / s) ** 2 for q, s in zip(away, semi_axes, strict=True))
    return r * (r - 1) / np.sqrt(np.maximum(slope2, 1e-12))


def smooth_min(a: Any, b: Any, width: float) -> Any:
    """Minimum of two distances, rounded over `width` mm: a union without a crease."""
    h = np.clip(0.5 + 0.5 * (b - a) / width, 0, 1)
    return b + (a - b) * h - width * h * (1 - h)

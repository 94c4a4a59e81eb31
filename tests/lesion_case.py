"""A small case with a lesion, as arrays."""

from __future__ import annotations

import numpy as np

OBLIQUE = np.array([[-0.8, 0.02, 0, 60], [-0.02, -0.8, 0, 70], [0, 0, 2.5, -30], [0, 0, 0, 1]])
"""An LPS affine with a slight turn, as scanners write."""


def lesion_case(seed: int, shape: tuple[int, int, int] = (40, 36, 6)) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball on a noisy ground (X, Y, Z): image in HU, mask."""
    rng = np.random.default_rng(seed)
    centre = np.array(shape) / 2 + rng.uniform(-3, 3, 3) * (1, 1, 0)
    index = np.indices(shape).reshape(3, -1).T
    radius = rng.uniform(5, 9)
    scale = np.array([1, 1, 3.0])
    mask = (np.linalg.norm((index - centre) * scale, axis=1) < radius).reshape(shape)
    image = rng.normal(-700, 60, shape) + 650 * mask
    return image.astype(np.int16), mask.astype(np.uint8)

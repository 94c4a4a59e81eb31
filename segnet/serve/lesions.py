"""Lesions in the database: a mask in its box, its measurements, and what the reader says of it."""

from __future__ import annotations

import gzip
import json
import sqlite3
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segnet.io.boxes import Box, bounding_box
from segnet.io.nifti import write_mask
from segnet.metrics import lesion_statistics
from segnet.serve.database import Database
from segnet.serve.store import StoredImage

Role = Literal["target", "non-target", "node"]
MaskArray = NDArray[np.bool_]


class Stale(Exception):
    """The lesion has changed since the revision that a change was meant for."""


@dataclass(frozen=True)
class StoredLesion:
    """A lesion as the database holds it.

    Attributes
    ----------
    revision : counts changes of any kind
    facts : plain values, see `measured` and `Lesions.create`
    box : of the mask in the (Z, Y, X) array of the image, None for an empty one
    mask : bool in this box
    state, error : of the last job that was to change it
    """

    id: str
    image: str
    created: float
    revision: int
    accepted: bool
    facts: dict[str, Any]
    box: Box | None
    mask: MaskArray | None
    state: str
    error: str | None

    def as_dict(self) -> dict[str, Any]:
        """As clients see it: points in mm (RAS), the box as x, y, z and lengths."""
        return {
            "lesion": self.id,
            "image": self.image,
            "created": self.created,
            "revision": self.revision,
            "accepted": self.accepted,
            "state": self.state,
            "error": self.error,
            "box": None if self.box is None else corner_and_lengths(self.box),
            **self.facts,
        }

    @property
    def etag(self) -> str:
        return f'"{self.revision}"'


def corner_and_lengths(box: Box) -> list[int]:
    """x, y, z of the first voxel, and lengths along x, y, z."""
    return [*(part.start for part in box[::-1]), *(part.stop - part.start for part in box[::-1])]


NO_SIZE: dict[str, Any] = {
    "volume_ml": None,
    "long_axis_mm": None,
    "short_axis_mm": None,
    "axes": None,
    "mean_hu": None,
    "field_of_view_mm": None,
    "warnings": [],
}


def measured(image: StoredImage, box: Box | None, mask: MaskArray | None) -> dict[str, Any]:
    """Volume, RECIST axes with their ends in mm (RAS), and mean HU of a mask in its box.

    The numbers are those of `segnet predict`.
    """
    if box is None or mask is None:
        return {**NO_SIZE, "volume_ml": 0.0, "long_axis_mm": 0.0, "short_axis_mm": 0.0}
    found = lesion_statistics(np.asarray(image.voxels[box]), mask, image.spacing_zyx_mm)
    axes = None
    if found.axes is not None:
        moved = found.axes.moved([part.start for part in box])

        def in_mm(line: Sequence[tuple[float, float]]) -> list[list[float]]:
            return [(image.affine @ [x, y, moved.z, 1.0])[:3].tolist() for y, x in line]

        axes = {"slice": moved.z, "long": in_mm(moved.long_yx), "short": in_mm(moved.short_yx)}
    return {
        **NO_SIZE,
        "volume_ml": found.volume_ml,
        "long_axis_mm": found.long_axis_mm,
        "short_axis_mm": found.short_axis_mm,
        "axes": axes,
        "mean_hu": None if found.hu is None else found.hu.mean,
    }


def tight(mask: MaskArray, box: Box) -> tuple[Box | None, MaskArray | None]:
    """A mask in the smallest box that holds it; None for an empty one."""
    if not mask.any():
        return None, None
    inner = bounding_box(mask)
    outer: Any = tuple(slice(a.start + b.start, a.start + b.stop) for a, b in zip(box, inner, strict=True))
    return outer, mask[inner]


def save_mask(path: Path, image: StoredImage, lesion: StoredLesion) -> None:
    """Writes a lesion that has a mask on the grid of the file that was uploaded, as `segnet predict` does."""
    assert lesion.box is not None
    assert lesion.mask is not None
    whole = np.zeros(image.shape_zyx, np.uint8)
    whole[lesion.box] = lesion.mask
    write_mask(path, whole.transpose(2, 1, 0), image.volume())


def pack(mask: MaskArray) -> bytes:
    """Bytes of 0 and 1 in the order (z, y, x), gzipped; the same mask always gives the same bytes."""
    return gzip.compress(np.ascontiguousarray(mask, np.uint8).tobytes(), 1, mtime=0)


class Lesions:
    """The lesions of all images."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(self, image: str, facts: dict[str, Any]) -> str:
        """The number of a new lesion without a mask.

        Parameters
        ----------
        facts : name, site, role, clicks and threshold
        """
        number = uuid.uuid4().hex
        known = {
            "name": None,
            "site": None,
            "role": None,
            "edited": False,
            "job": None,
            "clicks": [],
            "threshold": 0.5,
            "tracking_uid": f"2.25.{uuid.uuid4().int}",
            **NO_SIZE,
            **facts,
        }
        with self.database.writing() as connection:
            connection.execute(
                "INSERT INTO lesions (id, image, created, revision, accepted, facts) VALUES (?, ?, ?, 1, 0, ?)",
                (number, image, time.time(), json.dumps(known)),
            )
        return number

    def get(self, number: str) -> StoredLesion | None:
        row = self.database.row("SELECT * FROM lesions WHERE id = ?", number)
        return None if row is None else self._lesion(row)

    def of(self, image: str) -> list[StoredLesion]:
        """In the order they were made."""
        rows = self.database.rows("SELECT * FROM lesions WHERE image = ? ORDER BY created, id", image)
        return [self._lesion(row) for row in rows]

    def change(
        self,
        number: str,
        facts: dict[str, Any],
        *,
        revision: int | None = None,
        accepted: bool | None = None,
        mask: tuple[Box | None, MaskArray | None] | None = None,
    ) -> None:
        """Changes some facts, and perhaps the mask. Part of a transaction if one is open.

        Parameters
        ----------
        revision : that the change is meant for; None: any
        mask : box and mask; None leaves them

        Raises
        ------
        Stale
            The lesion has another revision, or is gone.
        """
        with self.database.writing() as connection:
            row = connection.execute("SELECT * FROM lesions WHERE id = ?", (number,)).fetchone()
            if row is None or (revision is not None and row["revision"] != revision):
                raise Stale
            known = json.loads(row["facts"]) | facts
            flag = row["accepted"] if accepted is None else int(accepted)
            connection.execute(
                "UPDATE lesions SET revision = revision + 1, accepted = ?, facts = ? WHERE id = ?",
                (flag, json.dumps(known), number),
            )
            if mask is not None:
                box, voxels = mask
                connection.execute(
                    "UPDATE lesions SET box = ?, mask = ? WHERE id = ?",
                    (
                        None if box is None else json.dumps(corner_and_lengths(box)),
                        None if voxels is None else pack(voxels),
                        number,
                    ),
                )

    def remove(self, number: str) -> None:
        with self.database.writing() as connection:
            connection.execute("DELETE FROM lesions WHERE id = ?", (number,))

    def _lesion(self, row: sqlite3.Row) -> StoredLesion:
        facts = json.loads(row["facts"])
        job = (
            None
            if facts["job"] is None
            else self.database.row("SELECT state, error FROM jobs WHERE id = ?", facts["job"])
        )
        state, error = ("done", None) if job is None else (job["state"], job["error"])
        box: Any = None
        mask = None
        if row["box"] is not None:
            x, y, z, nx, ny, nz = json.loads(row["box"])
            box = slice(z, z + nz), slice(y, y + ny), slice(x, x + nx)
            mask = np.frombuffer(gzip.decompress(row["mask"]), np.uint8).reshape(nz, ny, nx).astype(np.bool_)
        return StoredLesion(
            row["id"],
            row["image"],
            row["created"],
            row["revision"],
            bool(row["accepted"]),
            facts,
            box,
            mask,
            state,
            error,
        )

"""Images by the hash of their content: a folder each, with voxels that are mapped instead of read, and the files they came from."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from segnet.io.volumes import Volume
from segnet.serve.database import Database

VOXELS, PICTURE, SOURCE = "voxels.npy", "volume.nii.gz", "source"
_nibabel: Any = nib


@dataclass(frozen=True)
class StoredImage:
    """What is known of an image without reading its voxels.

    Attributes
    ----------
    sha : SHA-256 of the file, or of its series' files
    facts : as `facts_of` makes them
    folder : of the image
    """

    sha: str
    name: str
    added: float
    facts: dict[str, Any]
    folder: Path

    @property
    def source(self) -> Path:
        """The file or the folder of the series that was uploaded."""
        return self.folder / SOURCE / self.facts["source_name"] if self.facts["source_name"] else self.folder / SOURCE

    @property
    def voxels(self) -> NDArray[np.float32]:
        """(Z, Y, X) in HU, mapped: pages are read when they are looked at."""
        found: NDArray[np.float32] = np.load(self.folder / VOXELS, mmap_mode="r")
        return found

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4), voxel (x, y, z) to mm in RAS."""
        return np.array(self.facts["affine"], np.float64)

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        x, y, z = self.facts["spacing_mm"]
        return z, y, x

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        x, y, z = self.facts["shape"]
        return z, y, x

    @property
    def window_hu(self) -> tuple[float, float]:
        """Grey levels to begin with: soft tissue with lung for a CT, the image's own range for others."""
        low, high = self.facts["range_hu"]
        return (-1000.0, 400.0) if low < -500 else (low, high if high > low else low + 1)

    def volume(self) -> Volume:
        """The volume, as `segnet.io.read_image` gives it, with mapped voxels."""
        grid = self.facts["grid"]
        header = getattr(_nibabel, grid["header_class"])(
            base64.b64decode(grid["header"]), endianness=grid["endianness"]
        )
        x, y, z = self.facts["spacing_mm"]
        return Volume(
            self.voxels.transpose(2, 1, 0),
            self.affine,
            (x, y, z),
            self.source,
            header,
            tuple(grid["shape"]),
            np.array(grid["affine"], np.float64),
            np.array(grid["orientation"], np.float64),
            tuple(self.facts["warnings"]),
        )


def facts_of(volume: Volume) -> dict[str, Any]:
    """The grid of a volume and of its file as plain values, so that a mask can be written on it later."""
    image = volume.array_zyx
    step = max(1, image.size // 2_000_000)
    low, high = np.percentile(image.reshape(-1)[::step], (0.1, 99.9)).tolist()
    return {
        "shape": list(volume.array.shape),
        "spacing_mm": list(volume.spacing_mm),
        "affine": volume.affine.tolist(),
        "range_hu": [low, high],
        "warnings": list(volume.warnings),
        "grid": {
            "header_class": type(volume.header).__name__,
            "header": base64.b64encode(volume.header.binaryblock).decode(),
            "endianness": volume.header.endianness,
            "shape": list(volume.source_shape),
            "affine": volume.source_affine.tolist(),
            "orientation": volume.orientation.tolist(),
        },
    }


class Store:
    """The images of the service.

    Parameters
    ----------
    folder : of the service
    """

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder, self.database = folder, database
        for name in ("images", "uploads", "exports"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)

    def folder_of(self, sha: str) -> Path:
        return self.folder / "images" / sha

    def upload_folder(self, number: str) -> Path:
        return self.folder / "uploads" / number

    def export_folder(self, number: str) -> Path:
        return self.folder / "exports" / number

    def get(self, sha: str) -> StoredImage | None:
        row = self.database.row("SELECT * FROM images WHERE sha = ?", sha)
        return None if row is None else self._image(row)

    def all(self) -> list[StoredImage]:
        """The newest first."""
        return [self._image(row) for row in self.database.rows("SELECT * FROM images ORDER BY added DESC, sha")]

    def adopt(self, ready: Path, sha: str, name: str, facts: dict[str, Any]) -> Callable[[sqlite3.Connection], None]:
        """Moves a folder that is complete to its place; the result adds it to the database as part of a transaction.

        An image that is already there stays as it is.
        """
        place = self.folder_of(sha)
        try:
            ready.rename(place)
        except OSError:
            if not place.is_dir():
                raise
            shutil.rmtree(ready)
        size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        now = time.time()

        def add(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO images (sha, name, added, used, bytes, facts) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (sha) DO UPDATE SET added = excluded.added, used = excluded.used",
                (sha, name, now, now, size, json.dumps(facts)),
            )

        return add

    def touch(self, sha: str) -> None:
        """Notes that an image was used; once an hour is enough for the order of removal."""
        now = time.time()
        if self.database.row("SELECT 1 FROM images WHERE sha = ? AND used < ?", sha, now - 3600) is not None:
            with self.database.writing() as connection:
                connection.execute("UPDATE images SET used = ? WHERE sha = ?", (now, sha))

    def remove(self, sha: str) -> None:
        """Removes an image with its lesions."""
        with self.database.writing() as connection:
            connection.execute("DELETE FROM lesions WHERE image = ?", (sha,))
            connection.execute("DELETE FROM images WHERE sha = ?", (sha,))
        shutil.rmtree(self.folder_of(sha), ignore_errors=True)

    def evict(self, *, most_bytes: int, days: float, now: float | None = None) -> list[str]:
        """Removes images that nobody uses, the least recently used ones first, and leftovers of uploads and exports.

        Images with accepted lesions, and those that a job waits for, stay.
        """
        now = time.time() if now is None else now
        held = {row["image"] for row in self.database.rows("SELECT DISTINCT image FROM lesions WHERE accepted")}
        for row in self.database.rows("SELECT payload FROM jobs WHERE state IN ('queued', 'running')"):
            held.add(json.loads(row["payload"]).get("image"))
        rows = self.database.rows("SELECT sha, used, bytes FROM images ORDER BY used")
        total, removed = sum(row["bytes"] for row in rows), []
        for row in rows:
            if row["sha"] not in held and (total > most_bytes or row["used"] < now - days * 86400):
                self.remove(row["sha"])
                total -= row["bytes"]
                removed.append(row["sha"])
        for place in (
            self.folder / "images"
        ).iterdir():  # of a worker that was killed between the files and the database
            old = place.stat().st_mtime < now - 3600
            if old and self.database.row("SELECT 1 FROM images WHERE sha = ?", place.name) is None:
                shutil.rmtree(place, ignore_errors=True)
        with self.database.writing() as connection:
            connection.execute("DELETE FROM answers WHERE created < ?", (now - days * 86400,))
            connection.execute(
                "DELETE FROM jobs WHERE ended < ? AND id NOT IN (SELECT json_extract(facts, '$.job') FROM lesions WHERE json_extract(facts, '$.job') IS NOT NULL)",
                (now - days * 86400,),
            )
        for table, folder in (("uploads", self.upload_folder), ("exports", self.export_folder)):
            for row in self.database.rows(f"SELECT id FROM {table} WHERE created < ?", now - days * 86400):
                with self.database.writing() as connection:
                    connection.execute(f"DELETE FROM {table} WHERE id = ?", (row["id"],))
                shutil.rmtree(folder(row["id"]), ignore_errors=True)
        return removed

    def _image(self, row: sqlite3.Row) -> StoredImage:
        return StoredImage(row["sha"], row["name"], row["added"], json.loads(row["facts"]), self.folder_of(row["sha"]))

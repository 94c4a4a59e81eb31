"""The owner and the state of files in a folder of results: sidecars, claims, locks.

A result is a mask, the files beside it, and a sidecar `<mask's name>.json`, written last. The sidecar holds the version, the settings,
and hashes of the image, the weights and the files, so that a later run recognises its result. While files are written, a claim lists
them, so that a later run recognises the remains of a killed process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segnet.errors import InputError
from segnet.io.names import beside
from segnet.runtime.files import remove_leftovers_of, sha256_of, write_text
from segnet.runtime.locks import locked_file

FORMAT = "segnet-prediction/1"
State = Literal["absent", "done", "unfinished", "other"]
Json = dict[str, Any]


def sidecar_path(mask: Path) -> Path:
    return beside(mask, ".json")


def read_sidecar(path: Path) -> Json | None:
    """A sidecar of this program, None for any other file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


@dataclass(frozen=True)
class Result:
    """The files of one result and its inputs.

    Attributes
    ----------
    outputs : files by kind, the mask among them
    made_from : inputs that decide the result, as plain JSON; without "image_sha256" neither image nor file contents are compared
    """

    outputs: Mapping[str, Path]
    made_from: Json

    @property
    def mask(self) -> Path:
        return self.outputs["mask"]

    @property
    def sidecar(self) -> Path:
        return sidecar_path(self.mask)

    def state(self, begun: frozenset[str] = frozenset(), *, overwrite: bool = False) -> State:
        """The state of the files on disk.

        Parameters
        ----------
        begun : names of files in a claim on it
        overwrite : a result of other inputs may be replaced

        Returns
        -------
        "absent"; "done"; "unfinished", a part of the result, to be made anew; "other", a result of other inputs.

        Raises
        ------
        InputError
            In its place stands a file of another program, a file that was changed since, or a result of other inputs that must not be
            replaced.
        """
        found = read_sidecar(self.sidecar)
        recorded = {entry["file"]: entry["sha256"] for entry in (found or {}).get("outputs", {}).values()}
        ours = recorded.keys() | begun | ({self.sidecar.name} if found else set())
        for path in (*self.outputs.values(), self.sidecar):
            if path.name not in ours and os.path.lexists(path):
                raise InputError(
                    f"output {path}: expected no file, or one that segnet predict wrote, got another; move it away, or write elsewhere"
                )
        if found is None:
            return "unfinished" if begun else "absent"
        changed = self._changed(recorded) if "image_sha256" in self.made_from else None
        if changed is not None and not begun:
            raise InputError(
                f"output {changed}: expected the file as segnet predict wrote it, got a changed one; move it away, or write elsewhere"
            )
        difference = _first_difference(found["made_from"], self.made_from)
        if difference is not None:
            if begun or overwrite:
                return "other"
            name, then, now = difference
            raise InputError(
                f"output {self.mask}: expected the {name} it was made with, {then}, got {now}; pass --overwrite to make it anew, or"
                " write elsewhere"
            )
        whole = all(path.name in recorded and path.exists() for path in self.outputs.values())
        return "done" if whole and changed is None else "unfinished"

    def _changed(self, recorded: Mapping[str, str]) -> Path | None:
        """An existing file that differs from its record."""
        for name, sha256 in recorded.items():
            path = self.sidecar.with_name(name)
            if path.exists() and sha256_of(path) != sha256:
                return path
        return None

    def complete(self, values: Json) -> Json:
        """Writes the sidecar, with `values` in it, after all files; returns it."""
        outputs = {kind: {"file": path.name, "sha256": sha256_of(path)} for kind, path in self.outputs.items()}
        whole: Json = json.loads(
            json.dumps({"format": FORMAT, **values, "made_from": self.made_from, "outputs": outputs}, allow_nan=False)
        )
        write_text(self.sidecar, json.dumps(whole, indent=1))
        return whole


def _first_difference(then: Json, now: Json, prefix: str = "") -> tuple[str, Any, Any] | None:
    """Name and both values of the first field that differs; fields missing in `now` are not compared."""
    for name, value in now.items():
        before = then.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            inner = _first_difference(before, value, f"{prefix}{name}.")
            if inner is not None:
                return inner
        elif before != value:
            return f"{prefix}{name}", before, value
    return None


class Claim:
    """A lock on one result, which ends with the process, and the names of the files that are being written.

    Attributes
    ----------
    begun : files that a stopped process had begun to write
    """

    def __init__(self, path: Path, handle: int) -> None:
        self.path, self._handle = path, handle
        self.begun = begun(path)

    def begin(self, result: Result) -> None:
        """Lists the files to write, then removes outdated ones, the sidecar first."""
        old = read_sidecar(result.sidecar) or {}
        stale = {entry["file"] for entry in old.get("outputs", {}).values()} | self.begun
        names = sorted(stale | {path.name for path in (*result.outputs.values(), result.sidecar)})
        os.pwrite(self._handle, json.dumps(names).encode(), 0)
        folder = self.path.parent
        result.sidecar.unlink(missing_ok=True)
        for name in names:
            if self.begun:
                remove_leftovers_of(folder / name)
            if name not in {path.name for path in result.outputs.values()}:
                (folder / name).unlink(missing_ok=True)

    def end(self) -> None:
        """The result is complete."""
        os.ftruncate(self._handle, 0)


def begun(claim: Path) -> frozenset[str]:
    """Names of the files in a claim: being written, or left by a stopped process."""
    try:
        return frozenset(json.loads(claim.read_bytes() or b"[]"))
    except (OSError, ValueError):  # no claim, or stopped before any file was written
        return frozenset()


def claim_path(mask: Path) -> Path:
    return mask.with_name(f".{mask.name}.claim")


@contextmanager
def claimed(mask: Path, *, wait: bool = False) -> Iterator[Claim]:
    """Holds the claim on a result; with `wait`, after another process. Files begun and not ended within the block stay on it.

    Raises
    ------
    InputError
        Another process holds it.
    """
    path = claim_path(mask)
    refusal = f"output {path.parent}: expected no other process on {mask.name}, got one; let it end, or write elsewhere"
    handle = locked_file(path, refusal, wait=wait)
    try:
        yield Claim(path, handle)
    finally:
        if not os.fstat(handle).st_size:
            path.unlink(missing_ok=True)
        os.close(handle)

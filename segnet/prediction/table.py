"""`statistics.csv`: a row for each lesion of all results in a folder."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from segnet.errors import InputError
from segnet.prediction.results import Json, claimed, read_sidecar
from segnet.runtime.files import remove_leftovers_of, write_text

TABLE = "statistics.csv"
COLUMNS = (
    *("case", "lesion", "click_x", "click_y", "click_z", "click_space", "volume_ml", "long_axis_mm", "short_axis_mm"),
    *("hu_mean", "hu_sd", "hu_min", "hu_p5", "hu_median", "hu_p95", "hu_max", "voxels", "mean_probability"),
    *("seconds", "model", "version", "mask"),
)
_NO_LESION: Json = {"volume_ml": 0.0, "long_axis_mm": 0.0, "short_axis_mm": 0.0, "voxels": 0}


def check_table(path: Path) -> None:
    """Raises InputError if another file stands in the table's place."""
    if path.exists() and path.read_text(encoding="utf-8", errors="replace").partition("\n")[0] != ",".join(COLUMNS):
        raise InputError(f"output {path}: expected no file, or a table of segnet predict, got another; move it away")


def write_table(path: Path) -> None:
    """Writes the rows of all results beside `path`; an empty mask has a row without a lesion."""
    with claimed(path, wait=True):
        remove_leftovers_of(path)
        sidecars = (read_sidecar(file) for file in sorted(path.parent.glob("*.json")))
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for sidecar in sidecars if sidecar is not None for row in _rows(sidecar))
        write_text(path, text.getvalue())


def _rows(sidecar: Json) -> list[Json]:
    click = sidecar["click"] or {"point": None, "space": None}
    centre = click["point"] == "centre"
    x, y, z = (None, None, None) if centre or click["point"] is None else click["point"]
    common: Json = {
        "case": sidecar["case"],
        "click_x": x,
        "click_y": y,
        "click_z": z,
        "click_space": "centre" if centre else click["space"],
        "seconds": round(sidecar["elapsed_s"], 3),
        "model": "+".join(f"{model['name']}:{model['sha256'][:12]}" for model in sidecar["models"]),
        "version": sidecar["version"],
        "mask": sidecar["outputs"]["mask"]["file"],
    }
    rows = []
    for lesion in sidecar["lesions"] or [_NO_LESION]:
        hu = {f"hu_{name}": value for name, value in (lesion.get("hu") or {}).items()}
        rows.append({**common, **{name: lesion[name] for name in COLUMNS if name in lesion}, **hu})
    return rows

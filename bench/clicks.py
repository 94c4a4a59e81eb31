"""Networks at clicks in lesions that their training never saw: Dice, error of the long axis and seconds, by set.

    python bench/clicks.py PREPARED FOLDS [FOLDS ...] [--part test] [--clicks 3] [--csv lesions.csv] [--worst worst.png]

FOLDS is a folder of `fold-*` runs, as `segnet compare` leaves one for each network, or a single run. Each run is clicked in the patients that its
split holds out: first in the middle of a lesion, then on voxels drawn from it. A time is of one click, without reading the image. `--worst` draws the
ten lesions of lowest Dice in the first folder, on the slice of largest area.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cpuinfo import get_cpu_info
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segnet.dataset.split import FILE as SPLIT_FILE
from segnet.dataset.store import Case, Cases, PreparedDataset, load_dataset
from segnet.metrics import axis_error, bootstrap_ci, dice, recist_axes_mm, volume_ml
from segnet.prediction.clicked import segment_clicked
from segnet.prediction.clicks import click_positions
from segnet.prediction.model import Model, load, members
from segnet.report.overlay import BACKGROUND, INK, QUIET, field_of_view, font, panel, save_png
from segnet.runtime.table import format_table, rounded

ACROSS, SIDE, GAP, FOOT = 5, 280, 10, 64
"""Pictures in a row of the sheet, and device pixels: of a picture, between two, below them."""

COLUMNS = {
    "network": "network",
    "set": "set",
    "lesions": "lesions",
    "dice": "Dice, middle",
    "lo": "95 %",
    "hi": "to",
    "median": "median",
    "below": "below 0.5",
    "anywhere": "Dice, anywhere",
    "anywhere_lo": "95 %",
    "anywhere_hi": "to",
    "long_axis": "error of the long axis",
    "seconds": "s a click",
    "slowest": "slowest",
}


def mask_of(run: Any, config: Any, case: Case, click: tuple[int, int, int]) -> NDArray[np.bool_]:
    """The lesion at a click, in the whole image."""
    mask = np.zeros(case.image.shape, np.bool_)
    found = segment_clicked(run, case.image, case.spacing_zyx_mm, config.data, click)
    mask[found.box] = found.mask
    return mask


def clicked(run: Any, config: Any, case: Case, clicks: int) -> dict[str, Any]:
    """Scores of one lesion."""
    truth = case.mask > 0
    scores: list[float] = []
    errors: list[float] = []
    seconds: list[float] = []
    for click in click_positions(truth, case.spacing_zyx_mm, clicks, case=case.name):
        began = time.perf_counter()
        mask = mask_of(run, config, case, click)
        seconds.append(time.perf_counter() - began)
        scores.append(dice(mask, truth, empty="zero"))
        if len(errors) == 0:
            axes = (recist_axes_mm(m, case.spacing_zyx_mm)[0] for m in (mask, truth))
            errors.append(axis_error(*axes))
    return {
        "dice": scores[0],
        "anywhere": float(np.mean(scores[1:])),
        "long_axis": errors[0],
        "seconds": float(np.median(seconds)),
    }


def rows_of(dataset: PreparedDataset, folder: Path, part: str, clicks: int) -> Iterator[dict[str, Any]]:
    """A row for each held-out lesion of each run in a folder."""
    from segnet.prediction.clicked import runner
    from segnet.prediction.windows import VIEWS

    for path in members(folder):
        model: Model = load(path)
        run = runner(model.networks, VIEWS[:1])
        names = json.loads((path / SPLIT_FILE).read_text())[part]
        for case in Cases(dataset, names):
            entry = dataset.by_name[case.name]
            known = {
                "network": folder.name,
                "fold": path.name,
                "set": entry.set,
                "case": case.name,
                "patient": case.patient,
            }
            yield known | {"ml": entry.lesion_ml} | clicked(run, model.config, case, clicks)


def draw_worst(dataset: PreparedDataset, rows: list[dict[str, Any]], folder: Path, path: Path) -> None:
    """A sheet of the ten lesions of lowest Dice of a network: prediction and truth, and Dice, volume found and true volume under each."""
    from segnet.prediction.clicked import runner
    from segnet.prediction.windows import VIEWS

    worst = sorted((row for row in rows if row["network"] == folder.name), key=lambda row: float(row["dice"]))[:10]
    page = Image.new("RGB", (ACROSS * (SIDE + GAP) - GAP, -(-len(worst) // ACROSS) * (SIDE + FOOT)), BACKGROUND)
    draw, face = ImageDraw.Draw(page), font(20)
    for k, row in enumerate(worst):
        model = load(next(path for path in members(folder) if path.name == row["fold"]))
        case = Cases(dataset, [row["case"]])[0]
        truth = case.mask > 0
        click = click_positions(truth, case.spacing_zyx_mm, 1, case=case.name)[0]
        mask = mask_of(runner(model.networks, VIEWS[:1]), model.config, case, click)
        z = int(truth.sum(axis=(1, 2)).argmax())
        field = field_of_view(truth | mask, np.asarray(case.spacing_zyx_mm[1:]))
        left, top = k % ACROSS * (SIDE + GAP), k // ACROSS * (SIDE + FOOT)
        page.paste(panel(case.image[z], mask[z], truth[z], field, model.config.data.window, SIDE), (left, top))
        found_ml, ml = (volume_ml(m, case.spacing_zyx_mm) for m in (mask, truth))
        draw.text((left, top + SIDE + 26), f"{k + 1}  {row['case'][:20]}", font=face, fill=INK, anchor="ls")
        told = f"Dice {float(row['dice']):.2f}, {rounded(found_ml, 2)} ml of {rounded(ml, 2)}"
        draw.text((left, top + SIDE + 52), told, font=face, fill=QUIET, anchor="ls")
    save_png(page.quantize(64), path)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each network and set, and for all sets together."""
    out = []
    for network in dict.fromkeys(row["network"] for row in rows):
        of_network = [row for row in rows if row["network"] == network]
        for name in [*sorted({row["set"] for row in of_network}), "all"]:
            mine = [row for row in of_network if name in (row["set"], "all")]

            def interval(field: str, mine: list[dict[str, Any]] = mine) -> tuple[float, float, float]:
                by_patient: dict[str, list[float]] = {}
                for row in mine:
                    by_patient.setdefault(row["patient"], []).append(row[field])
                return bootstrap_ci(by_patient)

            line: dict[str, Any] = {"network": network, "set": name, "lesions": len(mine)}
            line["dice"], line["lo"], line["hi"] = interval("dice")
            line["anywhere"], line["anywhere_lo"], line["anywhere_hi"] = interval("anywhere")
            line["median"] = float(np.median([row["dice"] for row in mine]))
            line["below"] = float(np.mean([row["dice"] < 0.5 for row in mine]))
            line["long_axis"] = float(np.mean([row["long_axis"] for row in mine]))
            line["seconds"] = float(np.median([row["seconds"] for row in mine]))
            line["slowest"] = max(row["seconds"] for row in mine)
            out.append(line)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--part", default="test", choices=("test", "val"))
    parser.add_argument("--clicks", type=int, default=3)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--worst", type=Path)
    options = parser.parse_args()
    dataset = load_dataset(options.prepared)
    rows = [row for folder in options.folders for row in rows_of(dataset, folder, options.part, options.clicks)]
    if options.csv is not None:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    if options.worst is not None:
        draw_worst(dataset, rows, options.folders[0], options.worst)
    print(f"{get_cpu_info()['brand_raw']}, {torch.get_num_threads()} threads; {options.clicks} clicks a lesion\n")
    print(format_table(summary(rows), COLUMNS, markdown=True))


if __name__ == "__main__":
    main()

"""evaluation.json as docs/evaluation.md describes it, and comparison.json. The example beside this file is such a document."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from segnet.errors import InputError
from segnet.evaluation.click_score import challenge_score
from segnet.evaluation.evaluate import Evaluation, evaluate, truths_of
from segnet.evaluation.paired import pair
from segnet.evaluation.rows import MARGIN_MM, box_around
from segnet.metrics import auc, bootstrap_ci, hd95_mm, surface_distances_mm
from segnet.metrics.calibration import Calibration

EXAMPLE = Path(__file__).with_name("evaluation.json")
"""Written anew by running this file."""
SHAPE = (40, 38, 18)  # (X, Y, Z)
AFFINE = np.diag([0.9, 0.9, 2.0, 1.0])
CASES = ("LIDC-IDRI-0001_R_1", "LIDC-IDRI-0001_R_2", "STS_002", "bone_00002_lesion_01", "bone_00003_lesion_01")
SPACING = (2.0, 0.9, 0.9)
CONVENTION = {"level", "empty", "reduction", "classes", "units"}


def write(path: Path, array_zyx: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array_zyx.transpose(2, 1, 0), AFFINE).to_filename(path)


def make(root: Path) -> tuple[Path, Path]:
    """Pairs, and predictions with probabilities: the fourth is missing, the fifth no NIfTI, the third without probabilities."""
    rng = np.random.default_rng(0)
    z, y, x = np.indices(SHAPE[::-1])
    for number, case in enumerate(CASES):
        radius_mm = (4.0, 5.5, 9.0, 6.0, 7.0)[number]
        distance = np.sqrt(((z - 7) * 2.0) ** 2 + ((y - 11) * 0.9) ** 2 + ((x - 12) * 0.9) ** 2)
        mask = distance <= radius_mm
        write(root / "pairs" / "labels" / f"{case}.nii.gz", mask.astype(np.uint8))
        image = np.where(mask, 40, -600) + rng.normal(0, 30, mask.shape)
        write(root / "pairs" / "images" / f"{case}.nii.gz", image.astype(np.int16))
        probability = 1 / (1 + np.exp((distance - radius_mm + 0.7 + rng.normal(0, 0.4, mask.shape)) / 0.8))
        if number == 3:
            continue
        write(root / "masks" / f"{case}.nii.gz", (probability > 0.5).astype(np.uint8))
        if number != 2:
            write(root / "masks" / f"{case}_probability.nii.gz", probability.astype(np.float32))
    (root / "masks" / f"{CASES[4]}.nii.gz").write_bytes(b"not a NIfTI file")
    return root / "masks", root / "pairs"


def evaluated(root: Path, workers: int = 1) -> Evaluation:
    masks, pairs = make(root)
    found = evaluate(masks, pairs, model="run", part="test", workers=workers)
    score = challenge_score(truths_of(pairs), lambda voi, spacing, click: voi > -200, clicks=3, voi=(16, 24, 24))
    return replace(found, uls23=score)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return evaluated(tmp_path_factory.mktemp("evaluation"))


def load(root: Path, name: str) -> Any:
    return np.asarray(nib.load(root / name).dataobj).transpose(2, 1, 0)


def shape_of(value: Any) -> Any:
    """Keys and types of a document, numbers and null alike."""
    if isinstance(value, dict):
        return {key: shape_of(v) for key, v in value.items()}
    if isinstance(value, list):
        return [shape_of(value[0])] if value else []
    return "number" if value is None or isinstance(value, (int, float)) else type(value).__name__


def test_the_example_has_the_shape_of_what_is_written(found: Evaluation) -> None:
    assert shape_of(json.loads(EXAMPLE.read_text())) == shape_of(json.loads(found.to_json()))


def test_every_key_is_in_the_documentation(found: Evaluation) -> None:
    page = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text()
    document = json.loads(found.to_json())
    for key in (*document, *document["summary"], *document["summary"]["dice"]):
        assert re.search(rf"`{key}`", page), key
    for key in {*document["calibration"]["regions"]["volume"], *document["uls23"]}:
        assert re.search(rf"`{key}`", page), key


def test_every_number_has_its_convention(found: Evaluation) -> None:
    document = json.loads(found.to_json())
    assert document["format"] == "segnet-evaluate/2"
    groups = [document["summary"], document["pooled"], *document["by_set"].values(), *document["by_size"].values()]
    for group in groups:
        for name, entry in group.items():
            assert set(entry) > CONVENTION, name
            assert all(entry[c] for c in CONVENTION)
    assert {s["reduction"] for s in document["pooled"].values()} == {"pooled"}
    assert {s["reduction"] for s in document["summary"].values()} == {"macro"}
    paper = document["paper_convention"]
    assert all(
        set(paper["conventions"][name]) == CONVENTION for name in ("dice", "iou", "ravd", "asd_px", "mhd_px", "auc")
    )
    for text in (found.to_table(), found.conventions_csv()):
        for word in ("level", "empty", "reduction", "classes", "units"):
            assert word in text
    assert document["provenance"]["model"] == "run"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", document["provenance"]["created"])


def test_one_bad_file_is_listed_and_counts_as_empty(found: Evaluation) -> None:
    assert [row.status for row in found.rows] == ["scored", "scored", "scored", "missing", "unreadable"]
    assert found.missing == (CASES[3], CASES[4])
    assert [case for case, _ in found.unreadable] == [CASES[4]]
    assert found.summary["dice"].n_lesions == 5
    assert found.rows[4].dice == 0.0
    assert "could not be used: bone_00003_lesion_01: " in found.to_table()


def test_probabilities_are_used_where_they_lie_beside(found: Evaluation) -> None:
    root = Path(found.provenance["predictions"]).parent
    assert [row.auc_source for row in found.rows] == ["probability", "probability", "mask", "mask", "mask"]
    assert found.summary["auc"].source == "mixed"
    assert found.unmatched_predictions == ()
    calibration = {"volume": Calibration.none(), "box_10mm": Calibration.none()}
    for row, case in zip(found.rows[:2], CASES, strict=False):
        p, t = load(root, f"masks/{case}_probability.nii.gz"), load(root, f"pairs/labels/{case}.nii.gz") > 0
        assert row.auc == pytest.approx(auc(p, t), rel=1e-12)
        reach = [math.floor(MARGIN_MM / s) for s in SPACING]
        marked = np.argwhere(t)
        box = tuple(
            slice(max(a - r, 0), b + r + 1)
            for a, b, r in zip(marked.min(axis=0), marked.max(axis=0), reach, strict=True)
        )
        assert row.auc_box == pytest.approx(auc(p[box], t[box]), rel=1e-12)
        calibration["volume"] += Calibration.of(p, t)
        calibration["box_10mm"] += Calibration.of(p[box], t[box])
    assert found.calibration is not None
    for region, counts in calibration.items():
        assert found.calibration[region]["voxels"] == counts.voxels
        assert found.calibration[region]["ece"] == pytest.approx(counts.ece(), rel=1e-12)
        assert (found.calibration[region]["n_lesions"], found.calibration[region]["n_left_out"]) == (2, 3)
    assert "of 2 lesions with probabilities, 3 left out" in found.to_table()
    assert found.calibration["box_10mm"]["voxels"] < found.calibration["volume"]["voxels"]


def test_false_positives_far_away_do_not_widen_the_box(tmp_path: Path) -> None:
    """Two models of one truth are scored in one box, and easy background does not pay for what is wrong."""
    found = {}
    for name, specks in (("near", ()), ("far", ((0, 0, 0), (17, 37, 39)))):
        truth, probability = np.zeros(SHAPE[::-1], bool), np.zeros(SHAPE[::-1], np.float32)
        truth[8:10, 18:22, 18:22] = True
        probability[8:10, 18:22, 16:20] = 0.9
        for speck in specks:
            probability[speck] = 0.9
        write(tmp_path / "t" / "c.nii.gz", truth.astype(np.uint8))
        write(tmp_path / name / "c.nii.gz", (probability > 0.5).astype(np.uint8))
        write(tmp_path / name / "c_probability.nii.gz", probability)
        found[name] = evaluate(tmp_path / name, tmp_path / "t")
    near, far = found["near"], found["far"]
    assert near.calibration is not None
    assert far.calibration is not None
    assert far.rows[0].auc_box == near.rows[0].auc_box
    assert far.calibration["box_10mm"] == near.calibration["box_10mm"]
    assert far.calibration["volume"]["ece"] > near.calibration["volume"]["ece"]


def test_the_box_reaches_ten_millimetres() -> None:
    mask = np.zeros((30, 50, 60), bool)
    mask[15, 25, 30] = True
    assert box_around(mask, (2.5, 1.0, 0.9)) == (slice(11, 20), slice(15, 36), slice(19, 42))
    mask[0, 0, 0] = mask[-1, -1, -1] = True
    assert box_around(mask, (2.5, 1.0, 0.9)) == (slice(0, 30), slice(0, 50), slice(0, 60))
    assert box_around(np.zeros((2, 2, 2), bool), (1, 1, 1)) is None


def test_hu_inside_of_both_masks(found: Evaluation) -> None:
    root = Path(found.provenance["truths"])
    image, mask = load(root, f"images/{CASES[0]}.nii.gz"), load(root, f"labels/{CASES[0]}.nii.gz") > 0
    hu = found.rows[0].truth_hu
    assert hu is not None
    assert hu.mean == pytest.approx(image[mask].mean(), rel=1e-9)
    assert hu.p95 == pytest.approx(np.percentile(image[mask], 95), rel=1e-9)
    assert found.rows[0].pred_hu is not None
    assert found.rows[3].pred_hu is None
    assert found.rows[3].truth_hu is not None


def test_pooled_is_of_all_voxels(found: Evaluation) -> None:
    root = Path(found.provenance["predictions"]).parent
    both = sums = volumes = gaps = 0
    there, back = [], []
    for case in CASES:
        t = load(root, f"pairs/labels/{case}.nii.gz") > 0
        volumes += int(t.sum())
        if case in CASES[:3]:
            p = load(root, f"masks/{case}.nii.gz") > 0
            both += int((p & t).sum())
            sums += int(p.sum())
            gaps += abs(int(p.sum()) - int(t.sum()))
            one, other = surface_distances_mm(p, t, SPACING)
            there.append(one)
            back.append(other)
        else:
            gaps += int(t.sum())
    pooled = found.pooled
    assert pooled["dice"].mean == pytest.approx(2 * both / (sums + volumes), rel=1e-12)
    assert pooled["iou"].mean == pytest.approx(both / (sums + volumes - both), rel=1e-12)
    assert pooled["ravd"].mean == pytest.approx(gaps / volumes, rel=1e-12)
    a, b = np.concatenate(there), np.concatenate(back)
    # the header holds spacings in float32
    assert pooled["asd_mm"].mean == pytest.approx(a.mean(), rel=1e-6)
    assert pooled["assd_mm"].mean == pytest.approx(np.concatenate([a, b]).mean(), rel=1e-6)
    assert pooled["hd_mm"].mean == pytest.approx(max(a.max(), b.max()), abs=0.006)
    percentile = max(np.percentile(v, 95) for v in (a, b))
    assert pooled["hd95_mm"].mean == pytest.approx(percentile, abs=0.006)
    assert (pooled["assd_mm"].n_lesions, pooled["assd_mm"].n_left_out) == (3, 2)
    assert pooled["dice"].ci95_lo is not None
    assert pooled["hd_mm"].ci95_lo is None


def test_pooled_percentiles_are_interpolated() -> None:
    """By hand: of 0.00, 0.01, …, 0.10 mm the 95th percentile lies halfway between the last two."""
    from segnet.evaluation.summary import Totals, pooled

    found = pooled(Totals(distances=[np.ones(11, np.int64), np.array([4], np.int64)]), [])
    assert found["hd95_mm"].mean == pytest.approx(0.095, abs=1e-12)
    assert found["hd_mm"].mean == pytest.approx(0.10, abs=1e-12)


def test_groups_and_quartiles(found: Evaluation) -> None:
    assert list(found.by_set) == ["LIDC-IDRI", "STS", "bone"]
    assert found.by_set["LIDC-IDRI"]["dice"].mean == pytest.approx(np.mean([r.dice for r in found.rows[:2]]))
    assert list(found.by_size) == ["<10 mm", "10-20 mm"]
    for row in found.rows:
        assert (row.size_class == "<10 mm") == (row.truth_long_mm < 10)
    dices = [row.dice for row in found.rows]
    dice = found.summary["dice"]
    assert (dice.q1, dice.median, dice.q3) == pytest.approx(tuple(np.percentile(dices, [25, 50, 75])))
    by_patient: dict[str, list[float]] = {}
    for row in found.rows:
        by_patient.setdefault(row.patient, []).append(row.dice)
    assert (dice.mean, dice.ci95_lo, dice.ci95_hi) == bootstrap_ci(by_patient)


def test_every_group_is_checked_for_consistency(found: Evaluation) -> None:
    checks = found.consistency["checks"]
    assert [c["where"] for c in checks] == [
        "all lesions", "pooled", "set LIDC-IDRI", "set STS", "set bone", "size <10 mm", "size 10-20 mm",
    ]  # fmt: skip
    assert all(c["agree"] for c in checks)
    assert found.consistency["flags"] == []
    from segnet.evaluation.summary import consistency

    wrong = {**found.summary, "iou": replace(found.summary["iou"], mean=0.01)}
    flagged = consistency({"all lesions": found.summary, "pooled": wrong})
    assert (flagged["dice_and_iou_agree"], len(flagged["flags"])) == (True, 1)
    assert flagged["flags"][0].startswith("pooled: IoU 0.0100 is outside of")
    assert "WARNING: pooled" in replace(found, consistency=flagged).to_table()


def test_several_processes_find_the_same(found: Evaluation, tmp_path: Path) -> None:
    assert evaluated(tmp_path, workers=2).rows == found.rows


def test_comparison_by_lesion(tmp_path: Path) -> None:
    masks, pairs = make(tmp_path)
    for case in CASES[:3]:
        mask = load(tmp_path, f"masks/{case}.nii.gz")
        write(tmp_path / "other" / f"{case}.nii.gz", np.roll(mask, 1, axis=2))
    first, second = evaluate(masks, pairs), evaluate(tmp_path / "other", pairs)
    found = pair(first, second)
    document = json.loads(found.to_json())
    dice = document["metrics"]["dice"]
    assert (dice["better"], dice["worse"], dice["equal"]) == (3, 0, 2)
    gaps = [a.dice - b.dice for a, b in zip(first.rows, second.rows, strict=True)]
    assert dice["difference"] == pytest.approx(np.mean(gaps))
    assert [row["difference"] for row in document["lesions"]] == pytest.approx(gaps)
    assert set(dice) > CONVENTION
    assert (document["primary"], document["metrics"]["hd95_mm"]["better_is"]) == ("dice", "smaller")
    # both are infinite where nothing was predicted: left out of means, equal in counts
    assert (document["metrics"]["hd95_mm"]["n_left_out"], document["metrics"]["hd95_mm"]["equal"]) == (2, 2)
    # two of the first's are of probabilities, which the second lacks
    assert document["metrics"]["auc"]["n_left_out"] == 2
    assert "level" in found.to_table()
    found.write(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == document
    with pytest.raises(InputError, match=r"second: expected the 5 cases of the first, got others: .*R_1"):
        pair(first, replace(second, rows=second.rows[1:]))


def test_text_and_report_round_alike() -> None:
    from segnet.evaluation.result import interval_text
    from segnet.report.numbers import span

    assert interval_text(0.0625, 0.1875) == span(0.0625, 0.1875, 3) == "0.063 to 0.188"


def test_what_could_not_be_clicked_on_is_printed(found: Evaluation) -> None:
    assert found.uls23 is not None
    assert "counted as nothing found" not in found.to_table()
    lacking = {**found.uls23, "n_left_out": 2, "unreadable": [{"case": "x", "reason": "damaged"}]}
    table = replace(found, uls23=lacking).to_table()
    assert "left out: 2 truths" in table
    assert "counted as nothing found: x: damaged" in table


def test_a_prediction_that_is_empty_has_no_finite_distance(found: Evaluation) -> None:
    assert found.rows[3].hd95_mm == math.inf
    assert json.loads(found.to_json())["lesions"][3]["hd95_mm"] is None
    row = found.rows[0]
    root = Path(found.provenance["predictions"]).parent
    p, t = load(root, f"masks/{CASES[0]}.nii.gz") > 0, load(root, f"pairs/labels/{CASES[0]}.nii.gz") > 0
    assert row.hd95_mm == pytest.approx(hd95_mm(p, t, SPACING), rel=1e-6)


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as name:
        result = evaluated(Path(name))
        provenance = {**result.provenance, "predictions": "masks", "truths": "pairs"}
        text = replace(result, provenance=provenance).to_json().replace(name + "/", "")
        EXAMPLE.write_text(text)

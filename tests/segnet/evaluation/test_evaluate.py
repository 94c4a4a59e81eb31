"""Evaluation of folders of masks, from pairing to strict JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from segnet import metrics
from segnet.config import PrepareConfig
from segnet.dataset.prepare import prepare
from segnet.errors import InputError
from segnet.evaluation.evaluate import Evaluation, evaluate
from segnet.io.pairs import Pair, find_pairs

SHAPE = (20, 18, 10)  # (X, Y, Z)
AFFINE = np.diag([0.8, 0.9, 2.5, 1.0])


def save(path: Path, mask: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), path)
    return path


def lesion(x0: int = 5, size: int = 6) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[x0 : x0 + size, 6:12, 3:6] = True
    return mask


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Truths and predictions of four lesions of three patients; bone_00002_lesion_02 is predicted empty."""
    truths, predictions = tmp_path / "labels", tmp_path / "predictions"
    for k, case in enumerate(
        ["000010_02_02_100_lesion_01", "bone_00002_lesion_01", "bone_00002_lesion_02", "bone_00007_lesion_01"]
    ):
        save(truths / f"{case}.nii.gz", lesion())
        pred = lesion(5 + k) if case != "bone_00002_lesion_02" else np.zeros(SHAPE)
        save(predictions / f"{case}.nii.gz", pred)
    return predictions, truths


def csv_rows(evaluation: Evaluation) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(evaluation.to_csv())))


def strict(evaluation: Evaluation) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(evaluation.to_json(), parse_constant=refuse)


def test_rows_and_summary(folders: tuple[Path, Path]) -> None:
    result = evaluate(*folders)
    assert [r.case for r in result.rows] == sorted(r.case for r in result.rows)
    assert [r.patient for r in result.rows] == ["000010", "bone_00002", "bone_00002", "bone_00007"]
    shifts = [6, 5, 0, 3]  # columns of overlap out of 6
    assert [r.dice for r in result.rows] == pytest.approx([n / 6 for n in shifts], rel=1e-15)
    perfect, shifted, empty, _ = result.rows
    assert (perfect.assd_mm, perfect.hd95_mm, perfect.ravd, perfect.long_axis_error) == (0, 0, 0, 0)
    assert shifted.hd95_mm == pytest.approx(0.8, rel=1e-6)  # one voxel along x; the header holds float32
    assert perfect.truth_volume_ml == pytest.approx(6 * 6 * 3 * 0.8 * 0.9 * 2.5 / 1000, rel=1e-6)
    assert perfect.truth_long_mm == pytest.approx(
        metrics.recist_axes_mm(lesion().transpose(2, 1, 0), (2.5, 0.9, 0.8))[0], rel=1e-6
    )
    assert (empty.hd95_mm, empty.pred_volume_ml, empty.long_axis_error) == (math.inf, 0.0, 1.0)
    dice = result.summary["dice"]
    assert dice.mean == pytest.approx(14 / 6 / 4, rel=1e-15)
    assert dice.ci95_lo is not None
    assert dice.ci95_hi is not None
    assert dice.ci95_lo < dice.mean < dice.ci95_hi
    assert (dice.n_lesions, dice.n_patients, dice.n_left_out) == (4, 3, 0)
    assert (dice.level, dice.empty, dice.reduction, dice.classes, dice.units) == (
        "lesion volume",
        "skip",
        "macro",
        "foreground",
        "1",
    )
    hd95 = result.summary["hd95_mm"]
    assert (hd95.n_lesions, hd95.n_left_out, hd95.units) == (3, 1, "mm")
    assert result.consistency["dice_and_iou_agree"] is True
    assert result.baseline == metrics.Baseline(lesion_dice=0.0, slice_dice=0.7, n_lesions=4, n_slices=40)


def test_all_three_outputs(folders: tuple[Path, Path]) -> None:
    result = evaluate(*folders)
    document = strict(result)
    assert document["lesions"][2]["hd95_mm"] is None
    assert document["all_background_baseline"]["slice"]["dice"] == pytest.approx(0.7)
    assert set(document["conventions"]) >= {"level", "empty", "reduction", "classes", "units"}
    for entry in document["summary"].values():
        assert set(entry) >= {"level", "empty", "reduction", "classes", "units", "mean", "ci95_lo", "ci95_hi"}
    rows = csv_rows(result)
    assert [r["case"] for r in rows] == [r.case for r in result.rows]
    assert float(rows[1]["dice"]) == result.rows[1].dice
    assert rows[2]["hd95_mm"] == "inf"
    table = result.to_table()
    for text in ("bone_00007_lesion_01", "0.583", "lesion volume", "all background instead", "0.700"):
        assert text in table


def test_every_column_of_the_table_has_its_convention(tmp_path: Path) -> None:
    save(tmp_path / "t" / "p2-a#1.nii.gz", lesion())
    save(tmp_path / "p" / "p2-a#1.nii.gz", lesion())
    result = evaluate(tmp_path / "p", tmp_path / "t")
    (row,) = csv_rows(result)
    assert row["case"] == "p2-a#1"
    conventions = {r["column"]: r for r in csv.DictReader(io.StringIO(result.conventions_csv()))}
    assert list(conventions) == list(row)
    assert all(r["level"] == "lesion volume" and r["reduction"] == "none" for r in conventions.values())
    units = {
        name: conventions[name]["units"] for name in ("dice", "hd95_mm", "truth_volume_ml", "pred_hu_mean", "case")
    }
    assert units == {"dice": "1", "hd95_mm": "mm", "truth_volume_ml": "ml", "pred_hu_mean": "HU", "case": ""}
    assert conventions["truth_short_mm"]["empty"] == "0"
    assert conventions["dice"]["empty"] == "skip"


def test_paper_convention_stands_beside(folders: tuple[Path, Path]) -> None:
    paper = evaluate(*folders).paper_convention
    # Seven of ten slices are empty on both sides and score 1; the rest score as the lesion does.
    assert paper["dice"] == pytest.approx((28 + 3 * (1 + 5 / 6 + 0 + 0.5)) / 40, rel=1e-12)
    assert (paper["level"], paper["empty"], paper["n_slices"]) == ("slice", "one", 40)
    # Of masks, the mean of sensitivity and specificity of all voxels: 14 of 24 columns of 18 voxels are found, 4 are false.
    lesion_voxels, others = 4 * 108, 4 * (20 * 18 * 10 - 108)
    expected = (14 * 18 / lesion_voxels + 1 - 4 * 18 / others) / 2
    assert paper["auc"] == pytest.approx(expected, rel=1e-12)
    assert paper["auc_source"] == "mask"
    assert (paper["n_slices_ravd"], paper["n_slices_distances"]) == (12, 9)
    assert "40 slices, RAVD over 12, distances over 9" in evaluate(*folders).to_table()
    assert paper["dice_and_iou_agree"] is True


def test_missing_prediction_counts_as_empty_or_is_an_error(folders: tuple[Path, Path]) -> None:
    predictions, truths = folders
    (predictions / "bone_00007_lesion_01.nii.gz").unlink()
    result = evaluate(predictions, truths)
    assert result.missing == ("bone_00007_lesion_01",)
    assert (result.rows[-1].status, result.rows[-1].dice) == ("missing", 0.0)
    assert result.summary["dice"].n_lesions == 4
    assert strict(result)["missing_predictions"] == ["bone_00007_lesion_01"]
    assert "missing predictions, counted as empty: bone_00007_lesion_01" in result.to_table()
    with pytest.raises(InputError, match="got none for bone_00007_lesion_01"):
        evaluate(predictions, truths, missing="error")
    # Limited to the others, nothing is missing.
    others = [r.case for r in result.rows[:2]]
    limited = evaluate(predictions, truths, missing="error", cases=others)
    assert [r.case for r in limited.rows] == others
    assert (limited.missing, limited.unmatched_predictions) == ((), ())


def test_predictions_without_truth_are_listed(folders: tuple[Path, Path]) -> None:
    predictions, truths = folders
    save(predictions / "elsewhere.nii.gz", lesion())
    result = evaluate(predictions, truths)
    assert result.unmatched_predictions == ("elsewhere.nii.gz",)
    assert len(result.rows) == 4


@pytest.mark.parametrize("suffix", ["_mask", "_pred", "_seg", "_ct_pred", "_0000"])
def test_suffixes_after_the_case(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / "t" / "c1.nii.gz", lesion())
    save(tmp_path / "p" / f"c1{suffix}.nii", lesion())
    assert evaluate(tmp_path / "p", tmp_path / "t").rows[0].dice == 1.0


def test_exact_name_wins_and_two_claims_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "t" / "c1.nii.gz", lesion())
    save(tmp_path / "p" / "c1_seg.nii.gz", lesion(9))
    save(tmp_path / "p" / "c1_pred.nii.gz", lesion())
    with pytest.raises(InputError, match=r"expected one file for case c1, got c1_pred.nii.gz, c1_seg.nii.gz"):
        evaluate(tmp_path / "p", tmp_path / "t")
    save(tmp_path / "p" / "c1.nii.gz", lesion())
    result = evaluate(tmp_path / "p", tmp_path / "t")
    assert result.rows[0].dice == 1.0
    assert result.unmatched_predictions == ("c1_pred.nii.gz", "c1_seg.nii.gz")


def test_two_files(tmp_path: Path) -> None:
    truth = save(tmp_path / "truth.nii.gz", lesion())
    pred = save(tmp_path / "anything.nii.gz", lesion(6))
    assert evaluate(pred, truth).rows[0].dice == pytest.approx(5 / 6)


def test_pairs_and_pair_folder(tmp_path: Path) -> None:
    for case in ("a", "b"):
        save(tmp_path / "d" / f"{case}_ct.nii.gz", lesion())
        save(tmp_path / "d" / f"{case}_mask.nii.gz", lesion())
        save(tmp_path / "p" / f"{case}.nii.gz", lesion())
    folder = evaluate(tmp_path / "p", tmp_path / "d")
    # In the folder itself the masks are taken, not the images of the same cases.
    assert evaluate(tmp_path / "d", tmp_path / "d").unmatched_predictions == ("a_ct.nii.gz", "b_ct.nii.gz")
    assert [r.dice for r in folder.rows] == [1.0, 1.0]
    pairs = [Pair("b", "someone", tmp_path / "d" / "b_ct.nii.gz", tmp_path / "d" / "b_mask.nii.gz")]
    result = evaluate(tmp_path / "p", pairs)
    assert [(r.case, r.patient) for r in result.rows] == [("b", "someone")]
    assert result.summary["dice"].ci95_lo is None  # one patient gives no interval


def test_no_usable_prediction_at_all_is_an_error(tmp_path: Path) -> None:
    """Whatever else is wrong, the reason is that of a prediction."""
    for case in ("a", "b"):
        save(tmp_path / "d" / f"{case}_mask.nii.gz", lesion())
        (tmp_path / "d" / f"{case}_ct.nii.gz").write_bytes(b"no image")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "b.nii.gz").write_bytes(b"no mask")
    with pytest.raises(InputError, match=r"p/b\.nii\.gz"):
        evaluate(tmp_path / "p", tmp_path / "d")
    save(tmp_path / "p" / "b.nii.gz", lesion())
    result = evaluate(tmp_path / "p", tmp_path / "d")
    # The scores stand without images; each of them is listed.
    assert [case for case, _ in result.unreadable] == ["a", "b"]
    assert (result.rows[1].dice, result.rows[1].truth_hu) == (1.0, None)


def test_a_bad_map_of_probabilities_is_listed_and_the_mask_scored(tmp_path: Path) -> None:
    save(tmp_path / "t" / "a.nii.gz", lesion())
    save(tmp_path / "p" / "a.nii.gz", lesion())
    nib.save(nib.Nifti1Image(np.full(SHAPE, 1.5, np.float32), AFFINE), tmp_path / "p" / "a_probability.nii.gz")
    result = evaluate(tmp_path / "p", tmp_path / "t")
    assert (result.rows[0].dice, result.rows[0].auc, result.rows[0].auc_source) == (1.0, 1.0, "mask")
    assert "expected probabilities in [0, 1], got 1.5 to 1.5" in result.unreadable[0][1]
    assert result.calibration is None


def test_prepared_folder(tmp_path: Path) -> None:
    for folder, array in (("images", np.zeros(lesion().shape)), ("labels", lesion())):
        save(tmp_path / "in" / folder / "bone_1_lesion_01.nii.gz", array)
    root = tmp_path / "prepared"
    prepare(find_pairs(tmp_path / "in"), root, workers=1)
    save(tmp_path / "p" / "bone_1_lesion_01.nii.gz", lesion(7))
    row = evaluate(tmp_path / "p", root).rows[0]
    assert (row.patient, row.set, row.dice) == ("bone_1", "bone", pytest.approx(4 / 6))
    assert evaluate(tmp_path / "p", root, patient_regex=r"(bone)").rows[0].patient == "bone"
    text = (root / "dataset.json").read_text()
    (root / "dataset.json").write_text(text.replace('"set":"bone"', '"set":"ours"'))
    assert evaluate(tmp_path / "p", root).rows[0].set == "ours"
    (root / "dataset.json").write_text(text)
    (root / "bone_1.h5").write_bytes(b"no")
    with pytest.raises(InputError, match=r"bone_1.h5"):
        evaluate(tmp_path / "p", root)
    (root / "dataset.json").write_text("{")
    with pytest.raises(InputError, match=r"dataset.json"):
        evaluate(tmp_path / "p", root)
    # 256 x 256 slices are another grid than the predictions'
    prepare(find_pairs(tmp_path / "in"), tmp_path / "grey", PrepareConfig(route="paper"), workers=1)
    with pytest.raises(InputError, match="route hu"):
        evaluate(tmp_path / "p", tmp_path / "grey")


def test_provenance_leads_back_from_anywhere(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    predictions, truths = folders
    monkeypatch.chdir(predictions.parent)
    told = evaluate(Path("predictions"), "labels", patient_regex=r"(.+)_lesion").provenance
    assert (told["predictions"], told["truths"]) == (str(predictions.resolve()), str(truths.resolve()))
    assert told["patient_regex"] == r"(.+)_lesion"
    assert evaluate(*folders).provenance["patient_regex"] is None


def test_orientation_of_a_file_does_not_matter(tmp_path: Path) -> None:
    save(tmp_path / "t" / "c.nii.gz", lesion(3))
    turned = AFFINE.copy()
    turned[0, 0], turned[0, 3] = -0.8, 0.8 * (SHAPE[0] - 1)
    save(tmp_path / "p" / "c.nii.gz", lesion(3)[::-1], turned)
    assert evaluate(tmp_path / "p", tmp_path / "t").rows[0].dice == 1.0


def test_other_grids_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "t" / "c.nii.gz", lesion())
    moved = AFFINE.copy()
    moved[1, 3] = 0.01
    save(tmp_path / "p" / "c.nii.gz", lesion(), moved)
    with pytest.raises(InputError, match=r"corners 0.01 mm away"):
        evaluate(tmp_path / "p", tmp_path / "t")
    save(tmp_path / "p" / "c.nii.gz", lesion()[:-1])
    with pytest.raises(InputError, match=r"expected shape \(20, 18, 10\) like the truth of c, got \(19, 18, 10\)"):
        evaluate(tmp_path / "p", tmp_path / "t")


def test_two_empty_masks_are_skipped_not_scored(tmp_path: Path) -> None:
    save(tmp_path / "t" / "a.nii.gz", np.zeros(SHAPE))
    save(tmp_path / "p" / "a.nii.gz", np.zeros(SHAPE))
    alone = evaluate(tmp_path / "p", tmp_path / "t")
    assert alone.summary["dice"].mean is None
    assert alone.consistency["dice_and_iou_agree"] is None
    assert strict(alone)["lesions"][0]["dice"] is None
    (row,) = csv_rows(alone)
    assert (row["dice"], row["iou"], row["ravd"], row["size_class"]) == ("", "", "", "no lesion")
    assert alone.to_table()
    save(tmp_path / "t" / "b.nii.gz", lesion())
    save(tmp_path / "p" / "b.nii.gz", lesion())
    save(tmp_path / "p" / "b.nii.gz", lesion(7))
    both = evaluate(tmp_path / "p", tmp_path / "t")
    for name, score in both.summary.items():
        assert (score.mean, score.n_lesions, score.n_left_out) == (getattr(both.rows[1], name), 1, 1), name
    for name in ("asd_mm", "assd_mm", "hd_mm", "hd95_mm"):
        assert (both.pooled[name].n_lesions, both.pooled[name].n_left_out) == (1, 1)


def test_nothing_to_pair_is_an_error(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, truths = folders
    save(tmp_path / "other" / "x.nii.gz", lesion())
    with pytest.raises(InputError, match=r"predictions: expected files named after .* got x.nii.gz"):
        evaluate(tmp_path / "other", truths)
    (tmp_path / "void").mkdir()
    with pytest.raises(InputError, match="got none in"):
        evaluate(tmp_path / "void", truths)
    with pytest.raises(InputError):
        evaluate(predictions, tmp_path / "void")
    with pytest.raises(InputError, match="truths: expected at least one truth mask"):
        evaluate(predictions, [])
    for arguments in ((tmp_path / "absent", truths), (predictions, tmp_path / "absent")):
        with pytest.raises(InputError, match="does not exist"):
            evaluate(*arguments)
    with pytest.raises(InputError, match="cases: expected names among the truths, got nobody"):
        evaluate(predictions, truths, cases=["nobody"])
    with pytest.raises(InputError, match="missing: expected zero or error"):
        evaluate(predictions, truths, missing="skip")  # type: ignore[arg-type]


def test_cases_may_not_repeat(tmp_path: Path) -> None:
    save(tmp_path / "t" / "c_seg.nii.gz", lesion())
    save(tmp_path / "t" / "c_mask.nii.gz", lesion())
    save(tmp_path / "p" / "c.nii.gz", lesion())
    with pytest.raises(InputError, match="truths: expected each case once, got c more than once"):
        evaluate(tmp_path / "p", tmp_path / "t")


@pytest.mark.parametrize("where", ["labels", "predictions", "images"])
def test_names_that_cannot_be_written_down_are_refused_before_scoring(folders: tuple[Path, Path], where: str) -> None:
    predictions, truths = folders
    images = truths.parent / "images"
    for case in truths.iterdir():
        save(images / case.name, lesion())
    other = truths.parent / where / "bone_\udce4_lesion_01.nii.gz"
    try:
        other.write_bytes((truths / "bone_00007_lesion_01.nii.gz").read_bytes())
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system takes names in UTF-8 only")
    done: list[int] = []
    with pytest.raises(InputError, match=r"expected names in UTF-8, got .*bone_\\udce4_lesion_01.*rename"):
        evaluate(predictions, truths, images=images, progress=lambda k, _: done.append(k))
    assert done == []


def test_progress_counts_to_the_end(folders: tuple[Path, Path]) -> None:
    seen: list[tuple[int, int]] = []
    evaluate(*folders, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_real_nodules(shared_data: Path) -> None:
    """Truth against itself on real files: perfect scores, and axes that a radiologist would believe."""
    root = shared_data / "lidc" / "nodule_mask"
    if not root.is_dir():
        pytest.skip(f"no lidc/nodule_mask in {shared_data}")
    names = sorted(p.name.removesuffix(".nii.gz") for p in root.iterdir())[:5]
    result = evaluate(root, root, cases=names)
    assert [r.patient for r in result.rows] == ["-".join(n.split("_")[0].split("-")[:3]) for n in names]
    for row in result.rows:
        assert (row.dice, row.assd_mm, row.hd95_mm) == (1.0, 0.0, 0.0)
        assert 3 <= row.truth_short_mm <= row.truth_long_mm <= 80
        # A nodule is not larger than the ball on its long axis, nor smaller than a hundredth of it.
        ball_ml = math.pi / 6 * row.truth_long_mm**3 / 1000
        assert 0.01 * ball_ml < row.truth_volume_ml < 1.2 * ball_ml

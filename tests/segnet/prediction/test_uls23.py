"""The challenge's container: its folders, stacks, spacings, orientation, padding; files that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import Threshold
from torch import nn

from segnet.config import Config
from segnet.errors import InputError
from segnet.io.metaimage import read_metaimage, write_metaimage
from segnet.io.volumes import read_image
from segnet.prediction.model import Model, load
from segnet.prediction.uls23 import IMAGES, MASKS, SPACINGS, Failure, process, read_spacings

CONFIG = Config.model_validate({"data": {"patch_px": 32, "input_px": 32}})
SLICES, SIDE = 8, 40
OBLIQUE = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
LESION, OTHER = 27, 8
ORIGIN = (-12.5, 30.0, 7.25)


def threshold() -> Model:
    return Model.of(Threshold(), CONFIG)


def stack(count: int, seed: int, padding: float = -2000) -> np.ndarray:
    """Volumes with a lesion of 3 x 3 x 3 voxels around the centre, another of 2 x 2 x 2 off it, padding at two borders."""
    rng = np.random.default_rng(seed)
    volumes = rng.normal(-900, 10, (count, SLICES, SIDE, SIDE))
    middle, centre = SLICES // 2, SIDE // 2
    volumes[:, middle - 1 : middle + 2, centre - 1 : centre + 2, centre - 1 : centre + 2] = 300
    volumes[:, 1:3, 12:14, 10:12] = 300
    volumes[:, :, :3], volumes[:, -1] = padding, padding
    return volumes.reshape(count * SLICES, SIDE, SIDE).round().astype(np.int16)


def laid_out(folder: Path, counts: dict[str, int], **geometry: Any) -> Path:
    (folder / IMAGES).mkdir(parents=True)
    for seed, (name, count) in enumerate(counts.items()):
        values: dict[str, Any] = {"spacing_xyz_mm": (0.7, 0.7, 1.5), "origin_mm": ORIGIN, **geometry}
        write_metaimage(folder / IMAGES / name, stack(count, seed), **values)
    (folder / SPACINGS).write_text(json.dumps([[0.7, 0.7, 1.5]] * sum(counts.values())))
    return folder


@pytest.mark.parametrize("direction", [np.eye(3), np.diag([-1.0, -1, 1]), OBLIQUE, np.diag([1.0, -1, -1])])
def test_each_volume_gets_the_mask_of_its_central_lesion_in_the_stacks_geometry(direction: Any, tmp_path: Path) -> None:
    source = laid_out(tmp_path / "input", {"b.mha": 3, "a.mha": 2}, direction=direction)
    steps: list[tuple[str, int, int]] = []
    done, failed = process(
        source,
        tmp_path / "output",
        threshold(),
        voi_slices=SLICES,
        progress=lambda name: lambda k, of: steps.append((name, k, of)),
    )
    assert not failed
    assert [(Path(p.mask).name, p.lesion_voxels) for p in done] == [("a.mha", (LESION,) * 2), ("b.mha", (LESION,) * 3)]
    assert steps == [("a.mha", 1, 2), ("a.mha", 2, 2), ("b.mha", 1, 3), ("b.mha", 2, 3), ("b.mha", 3, 3)]
    assert {p.relative_to(tmp_path / "output").as_posix() for p in (tmp_path / "output").rglob("*.*")} == {
        f"{MASKS}/a.mha",
        f"{MASKS}/b.mha",
    }
    for name in ("a.mha", "b.mha"):
        image, mask = (read_metaimage(folder / name) for folder in (source / IMAGES, tmp_path / "output" / MASKS))
        assert mask.array_zyx.dtype == np.uint8
        assert (mask.spacing_xyz_mm, mask.origin_mm) == (image.spacing_xyz_mm, image.origin_mm)
        assert np.array_equal(mask.direction, image.direction)
        wanted = np.zeros((SLICES, SIDE, SIDE), np.uint8)
        wanted[3:6, 19:22, 19:22] = 1
        assert np.array_equal(mask.array_zyx, np.concatenate([wanted] * (len(image.array_zyx) // SLICES)))


def test_the_lesion_is_the_one_at_the_centre_of_the_files_axes_whatever_they_point_at(tmp_path: Path) -> None:
    """Two lesions of one voxel, the other nearer to where the centre is counted from the wrong end."""
    for name, direction in (("lps", np.eye(3)), ("ras", np.diag([-1.0, -1, 1]))):
        (tmp_path / name / IMAGES).mkdir(parents=True)
        image = np.random.default_rng(0).normal(-900, 10, (SLICES, SIDE, SIDE)).astype(np.int16)
        image[4, 20, 20], image[4, 18, 19] = 300, 300
        write_metaimage(tmp_path / name / IMAGES / "a.mha", image, spacing_xyz_mm=(1, 1, 1), direction=direction)
        (tmp_path / name / SPACINGS).write_text("[[1, 1, 1]]")
        process(tmp_path / name, tmp_path / name / "out", threshold(), voi_slices=SLICES)
        mask = read_metaimage(tmp_path / name / "out" / MASKS / "a.mha").array_zyx
        assert np.argwhere(mask).tolist() == [[4, 20, 20]]


class RightHalf(nn.Module):
    """Lesion where it is bright, in the right half of what is seen: columns run to the patient's right in training."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        right = torch.arange(x.shape[3]) >= x.shape[3] // 2
        logit = torch.where((x > 0.5) & right, 30.0, -30.0)
        return torch.cat([-logit, logit], 1), None


def test_networks_see_the_patient_as_in_training_whatever_the_files_direction(tmp_path: Path) -> None:
    columns = {}
    for name, sign in (("lps", 1.0), ("ras", -1.0)):
        (tmp_path / name / IMAGES).mkdir(parents=True)
        image = np.random.default_rng(0).normal(-900, 10, (SLICES, SIDE, SIDE)).astype(np.int16)
        image[4, 20, 15:26] = 300
        direction = np.diag([sign, sign, 1])
        write_metaimage(tmp_path / name / IMAGES / "a.mha", image, spacing_xyz_mm=(1, 1, 1), direction=direction)
        (tmp_path / name / SPACINGS).write_text("[[1, 1, 1]]")
        process(tmp_path / name, tmp_path / name / "out", Model.of(RightHalf(), CONFIG), voi_slices=SLICES)
        mask = read_metaimage(tmp_path / name / "out" / MASKS / "a.mha").array_zyx
        columns[name] = np.flatnonzero(mask.any((0, 1))).tolist()
    # the field of view begins 16 columns before the click, and in LPS columns run to the left
    assert columns == {"lps": list(range(15, 21)), "ras": list(range(20, 26))}


def test_padding_of_any_value_holds_no_lesion(tmp_path: Path) -> None:
    """A border of 400 HU would be lesion to this network, and joined to the one at the centre."""
    (tmp_path / IMAGES).mkdir(parents=True)
    image = stack(1, 0, padding=400)
    image[:-1, 3:20, 20] = 300  # a bridge from the lesion to the border
    write_metaimage(tmp_path / IMAGES / "a.mha", image, spacing_xyz_mm=(1, 1, 1))
    (tmp_path / SPACINGS).write_text("[[1, 1, 1]]")
    process(tmp_path, tmp_path / "out", threshold(), voi_slices=SLICES)
    mask = read_metaimage(tmp_path / "out" / MASKS / "a.mha").array_zyx
    assert mask[:, 3:].any()
    assert not mask[:, :3].any()
    assert not mask[-1].any()


def test_a_volume_of_one_value_gets_an_empty_mask_and_a_warning(tmp_path: Path) -> None:
    (tmp_path / IMAGES).mkdir(parents=True)
    image = np.concatenate([stack(1, 0), np.full((SLICES, SIDE, SIDE), 400, np.int16)])
    write_metaimage(tmp_path / IMAGES / "a.mha", image, spacing_xyz_mm=(1, 1, 1))
    (tmp_path / SPACINGS).write_text("[[1, 1, 1], [1, 1, 1]]")
    ((done,), _) = process(tmp_path, tmp_path / "out", threshold(), voi_slices=SLICES)
    assert done.lesion_voxels == (LESION, 0)
    assert done.warnings[0] == ()
    assert "single value" in done.warnings[1][0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[0.7, 0.7, 1.5]]", "expected one for each of the 3 volumes"),
        (json.dumps([[0.7, 0.7, 1.5]] * 4), "expected one for each of the 3 volumes"),
        ("[[0.7, 0.7], [1, 1, 1], [1, 1, 1]]", "for volume 1, got"),
        ('[[1, 1, 1], [1, "1", 1], [1, 1, 1]]', "for volume 2, got"),
        ("[[1, 1, 1], [1, 1, 1], [1, 0, 1]]", "for volume 3, got"),
        ("[[1, 1, 1], [1, 1, 1], [1, NaN, 1]]", "for volume 3, got"),
        ("[[1, 1, 1], [1, 1, 1], [1, true, 1]]", "for volume 3, got"),
        ('{"a": 1}', "expected a list"),
        ("[", "expected a JSON file"),
    ],
)
@pytest.mark.parametrize("counts", [{"a.mha": 3}, {"a.mha": 1, "b.mha": 2}])
def test_spacings_that_do_not_fit_are_refused_and_nothing_is_written(
    text: str, says: str, counts: dict[str, int], tmp_path: Path
) -> None:
    source = laid_out(tmp_path / "input", counts)
    (source / SPACINGS).write_text(text)
    with pytest.raises(InputError, match=says):
        process(source, tmp_path / "output", threshold(), voi_slices=SLICES)
    assert not list((tmp_path / "output").rglob("*.mha"))


def test_spacings_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / SPACINGS).write_text("[[0.7, 0.8, 1.5], [1, 2, 3]]")
    assert read_spacings(tmp_path / SPACINGS) == [(0.7, 0.8, 1.5), (1.0, 2.0, 3.0)]
    with pytest.raises(InputError, match="expected a JSON file"):
        read_spacings(tmp_path / "none.json")


def test_a_stack_that_cannot_be_read_stops_those_whose_spacings_it_hides(tmp_path: Path) -> None:
    source = laid_out(tmp_path / "input", {"a.mha": 1, "b.mha": 2, "c.mha": 1})
    file = source / IMAGES / "b.mha"
    file.write_bytes(file.read_bytes()[:-100])
    told: list[Failure] = []
    done, failed = process(source, tmp_path / "output", threshold(), voi_slices=SLICES, on_failed=told.append)
    assert [Path(p.image).name for p in done] == ["a.mha"]
    assert [Path(f.image).name for f in failed] == ["b.mha", "c.mha"]
    assert failed == told
    assert "expected readable stacks before it" in failed[1].reason


def test_slices_of_half_a_volume_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    source = laid_out(tmp_path / "input", {"a.mha": 2})
    with pytest.raises(InputError, match="expected volumes of 7 slices, got 16 slices"):
        process(source, tmp_path / "output", threshold(), voi_slices=7)
    with pytest.raises(InputError, match=r"expected .mha files in"):
        process(tmp_path, tmp_path / "output", threshold())


@pytest.mark.slow
def test_volumes_of_the_challenges_size(shared_data: Path, tmp_path: Path, run_folder: Path) -> None:
    (tmp_path / IMAGES).mkdir(parents=True)
    volumes = [read_image(file).array_zyx for file in sorted((shared_data / "voi").glob("*_ct.nii.gz"))]
    assert len(volumes) == 2
    write_metaimage(
        tmp_path / IMAGES / "a.mha", np.concatenate(volumes).round().astype(np.int16), spacing_xyz_mm=(1, 1, 1)
    )
    (tmp_path / SPACINGS).write_text("[[0.98, 0.98, 3], [0.78, 0.78, 1]]")
    ((done,), _) = process(tmp_path, tmp_path / "out", load(run_folder))
    assert read_metaimage(done.mask).array_zyx.shape == (256, 256, 256)

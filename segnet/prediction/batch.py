"""Many images to results in a folder: planned before anything is computed, and gone on with where a run was stopped."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from segnet import __version__
from segnet.errors import InputError, reason
from segnet.io.names import PROBABILITY, UNCERTAINTY, beside
from segnet.io.volumes import Volume, read_image, sha256_of_volume
from segnet.models import checkpoint
from segnet.prediction.clicks import Click, ClickSpace, ListedClick
from segnet.prediction.ensemble import Ensemble
from segnet.prediction.predict import (
    THRESHOLD,
    Files,
    Prediction,
    Preview,
    Progress,
    described,
    predict_volume,
    require_several,
    write_found,
)
from segnet.prediction.results import Json, Result, begun, claim_path, claimed, read_sidecar
from segnet.prediction.voi import ULS23_VOI, VoiSize
from segnet.runtime.files import remove_leftovers_of, sha256_of, write_text

TABLE = "statistics.csv"
COLUMNS = (
    *("case", "lesion", "click_x", "click_y", "click_z", "click_space", "volume_ml", "long_axis_mm", "short_axis_mm"),
    *("hu_mean", "hu_sd", "hu_min", "hu_p5", "hu_median", "hu_p95", "hu_max", "voxels", "mean_probability"),
    *("seconds", "model", "version", "mask"),
)


@dataclass(frozen=True)
class Options:
    """How images are segmented, and what is written beside each mask.

    Attributes
    ----------
    tta, threshold, voi, skip_padding : as in `segnet.prediction.predict.predict_array`
    preview : draws <mask>.png, which is not written without it
    probabilities, uncertainty : whether <mask>_probability.nii.gz and <mask>_uncertainty.nii.gz are written
    """

    tta: bool = False
    threshold: float = THRESHOLD
    voi: VoiSize = ULS23_VOI
    skip_padding: bool = False
    preview: Preview | None = None
    probabilities: bool = False
    uncertainty: bool = False


@dataclass(frozen=True)
class Task:
    """One mask to make: of an image, or of one clicked lesion in it."""

    case: str
    image: Path
    mask: Path
    click: Click = None
    space: ClickSpace = "voxel"
    lesion: int | None = None

    def files(self, options: Options) -> Files:
        return Files(
            self.mask,
            beside(self.mask, ".png") if options.preview is not None else None,
            beside(self.mask, f"{PROBABILITY}.nii.gz") if options.probabilities else None,
            beside(self.mask, f"{UNCERTAINTY}.nii.gz") if options.uncertainty else None,
        )


@dataclass(frozen=True)
class Batch:
    """What became of the tasks.

    Attributes
    ----------
    predictions : sidecars, each with "state": "written" now, or "kept" from a run before
    failed : image, mask and reason of each task that failed
    table : path of the table of all results in the folder, None for one image
    """

    predictions: list[Json]
    failed: list[Json]
    table: str | None


def plan(
    images: Mapping[str, Path],
    folder: Path,
    *,
    click: Click = None,
    space: ClickSpace = "voxel",
    clicks: Mapping[str, Sequence[ListedClick]] | None = None,
) -> tuple[list[Task], list[str]]:
    """The masks to make of images, in order of case and lesion: `<case>.nii.gz`, or `<case>_lesion_01.nii.gz` for numbered clicks.

    Parameters
    ----------
    images : by case
    click, space : of every image
    clicks : instead, by case (`segnet.prediction.clicks.read_clicks`); images without one are left out

    Returns
    -------
    Tasks, and the cases left out.

    Raises
    ------
    InputError
        A click is of a case that has no image, or two tasks would write the same file.
    """
    if clicks is None:
        return [Task(case, image, folder / f"{case}.nii.gz", click, space) for case, image in images.items()], []
    for case, listed in clicks.items():
        if case not in images:
            raise InputError(
                f"clicks, line {listed[0].line}: expected a case that has an image, got {case!r}; name it without its ending, as"
                f" {next(iter(images))!r}"
            )
    tasks = [
        Task(
            case,
            image,
            folder / f"{case}{'' if c.lesion is None else f'_lesion_{c.lesion:02d}'}.nii.gz",
            c.point,
            c.space,
            c.lesion,
        )
        for case, image in images.items()
        for c in clicks.get(case, ())
    ]
    return tasks, [case for case in images if case not in clicks]


class _Image:
    """An image that several tasks may share, read and hashed when first asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def sha256(self) -> str:
        return sha256_of_volume(self.path)

    @cached_property
    def volume(self) -> Volume:
        return read_image(self.path)


def predict_batch(
    tasks: Sequence[Task],
    ensemble: Ensemble,
    options: Options = Options(),
    *,
    overwrite: bool = False,
    table: bool = True,
    stop_on_failure: bool = False,
    on_done: Callable[[Json], None] | None = None,
    on_failed: Callable[[Json], None] | None = None,
    progress: Progress | None = None,
    slice_progress: Callable[[Task], Progress | None] | None = None,
) -> Batch:
    """Makes the results that are not there yet.

    A result that was made from the same image, weights, settings and version is kept as it is, so a run that was stopped at
    any moment goes on by being started again. One made from others is replaced with `overwrite` alone, and a file that this
    program did not write, never.

    Parameters
    ----------
    overwrite : make results anew that were made from something else
    table : also write `statistics.csv`, of all results in the folder
    stop_on_failure : raise the InputError of the first task that fails, instead of listing it and going on
    on_done, on_failed : called with each entry of `predictions` and `failed`
    progress : called with tasks done and their number
    slice_progress : gives a callback for the slices of a task

    Raises
    ------
    InputError
        Before anything is computed: two tasks would write the same file, a file stands in the way, a result there was made with other
        weights or settings and is not to be replaced, or uncertainty is asked of one network and one view.
    """
    if options.uncertainty:
        require_several(ensemble.models, options.tta)
    maker = _Maker(ensemble, options, overwrite)
    maker.check(tasks)
    for folder in {task.mask.parent for task in tasks}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_writable(folder, error) from error
        if table:
            _check_table(folder / TABLE)
    done: list[Json] = []
    failed: list[Json] = []
    image = None
    for number, task in enumerate(tasks, 1):
        if image is None or image.path != task.image:
            image = _Image(task.image)
        try:
            done.append(maker.make(task, image, None if slice_progress is None else slice_progress(task)))
            if on_done is not None:
                on_done(done[-1])
        except Exception as error:  # whatever one image does to a library, the others go on
            if stop_on_failure:
                raise
            told = {"case": task.case, "image": str(task.image), "mask": str(task.mask), "reason": reason(error)}
            failed.append(told)
            if on_failed is not None:
                on_failed(failed[-1])
        if progress is not None:
            progress(number, len(tasks))
    written = None
    if table and tasks:
        written = tasks[0].mask.parent / TABLE
        try:
            write_table(written)
        except OSError as error:
            raise _not_writable(written, error) from error
    return Batch(done, failed, None if written is None else str(written))


class _Maker:
    """Makes results of one ensemble with the same options."""

    def __init__(self, ensemble: Ensemble, options: Options, overwrite: bool) -> None:
        self.ensemble, self.options, self.overwrite = ensemble, options, overwrite
        files = [path / checkpoint.FILE if path.is_dir() else path for path in ensemble.paths]
        self.weights = [sha256_of(file) for file in files]
        self.models = [
            {"name": name, "path": str(path), "sha256": sha256}
            for name, path, sha256 in zip(ensemble.names, ensemble.paths, self.weights, strict=True)
        ]

    def result(self, task: Task, image_sha256: str | None) -> Result:
        options = self.options
        settings: Json = {
            "click": task.click if task.click is None or task.click == "centre" else list(task.click),
            "click_space": task.space,
            "lesion": task.lesion,
            "tta": options.tta,
            "threshold": options.threshold,
            "skip_padding": options.skip_padding,
            "bfloat16": bool(self.ensemble.halves),
        }
        if task.click is not None:
            mm = options.voi.size_zyx_mm
            settings["voi_zyx"] = list(options.voi.shape_zyx) if mm is None else None
            settings["voi_zyx_mm"] = None if mm is None else list(mm)
        made_from: Json = {"version": __version__, "weights_sha256": self.weights, "settings": settings}
        if image_sha256 is not None:
            made_from["image_sha256"] = image_sha256
        return Result(task.files(options).each(), made_from)

    def check(self, tasks: Sequence[Task]) -> None:
        """Raises InputError for what can be seen without reading an image."""
        owner: dict[Path, Task] = {}
        for task in tasks:
            result = self.result(task, None)
            for path in (*result.outputs.values(), result.sidecar):
                if path in owner:
                    raise InputError(
                        f"output {path}: expected one result to write it, got {owner[path].image} and {task.image}; rename one"
                    )
                owner[path] = task
            result.state(begun(claim_path(result.mask)), overwrite=self.overwrite)

    def make(self, task: Task, image: _Image, progress: Progress | None) -> Json:
        """The sidecar of a task's result, made if it is not there yet.

        Raises
        ------
        InputError
            The image, the click or what stands in the result's place will not do, or a file cannot be written.
        """
        try:
            return self._make(task, image, progress)
        except OSError as error:
            raise _not_writable(task.mask, error) from error

    def _make(self, task: Task, image: _Image, progress: Progress | None) -> Json:
        began = time.monotonic()
        result = self.result(task, image.sha256)
        with claimed(result.mask) as claim:
            if result.state(claim.begun, overwrite=self.overwrite) == "done":
                claim.end()
                return {**(read_sidecar(result.sidecar) or {}), "state": "kept"}
            options, config = self.options, self.ensemble.config
            volume = image.volume
            found, at = predict_volume(
                volume,
                self.ensemble.models,
                config,
                click=task.click,
                click_space=task.space,
                voi=options.voi,
                skip_padding=options.skip_padding,
                half=self.ensemble.halves,
                tta=options.tta,
                threshold=options.threshold,
                uncertainty=options.uncertainty,
                progress=progress,
            )
            files = task.files(options)
            claim.begin(result)
            write_found(volume, found, files, window_hu=config.data.window_hu, draw=options.preview)
            prediction = described(
                volume,
                found,
                files,
                click_zyx=at,
                lesion=task.lesion,
                config=config,
                elapsed_s=time.monotonic() - began,
            )
            whole = result.complete(self._told(task, prediction))
            claim.end()
        return {**whole, "state": "written"}

    def _told(self, task: Task, prediction: Prediction) -> Json:
        point = None if task.click is None else {"point": task.click, "space": task.space}
        return {
            "case": task.case,
            "version": __version__,
            "models": self.models,
            "click": point,
            **prediction.as_dict(),
        }


def _not_writable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"output: expected a writable place, got {path} ({error.strerror or error}); check rights and free space"
    )


def _check_table(path: Path) -> None:
    """Raises InputError where another file stands in the table's place."""
    if path.exists() and path.read_text(encoding="utf-8", errors="replace").partition("\n")[0] != ",".join(COLUMNS):
        raise InputError(f"output {path}: expected no file, or a table of segnet predict, got another; move it away")


def write_table(path: Path) -> None:
    """Writes a row for each lesion of all results beside `path`, and one without a lesion for an empty mask, as CSV."""
    with claimed(path, wait=True):
        remove_leftovers_of(path)
        rows = []
        for sidecar in sorted(path.parent.glob("*.json")):
            if (found := read_sidecar(sidecar)) is not None:
                rows += table_rows(found)
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())


def table_rows(sidecar: Json) -> list[Json]:
    """A result's lines of the table."""
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
    for lesion in sidecar["lesions"] or [{"volume_ml": 0.0, "long_axis_mm": 0.0, "short_axis_mm": 0.0, "voxels": 0}]:
        hu = {f"hu_{name}": value for name, value in (lesion.get("hu") or {}).items()}
        rows.append({**common, **{name: lesion[name] for name in COLUMNS if name in lesion}, **hu})
    return rows

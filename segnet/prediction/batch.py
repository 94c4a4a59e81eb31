"""Many images to results in a folder: planned before anything is computed, and continued where a run was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from segnet import __version__
from segnet.errors import InputError, reason
from segnet.io.names import PROBABILITY, UNCERTAINTY, beside
from segnet.io.volumes import Volume, read_image, sha256_of_volume
from segnet.io.weights import weights_file
from segnet.prediction.clicks import Click, ClickSpace, ListedClick, click_index
from segnet.prediction.options import Options, Progress
from segnet.prediction.results import Json, Result, State, begun, claim_path, claimed, read_sidecar
from segnet.prediction.table import TABLE, check_table, write_table
from segnet.runtime.files import sha256_of

if TYPE_CHECKING:
    from segnet.prediction.model import Model
    from segnet.prediction.predict import Prediction

Preview = Callable[[Path, "Prediction"], None]
"""Draws a prediction into a PNG file."""


@dataclass(frozen=True)
class BatchOptions(Options):
    """How images are segmented, and the files beside each mask.

    Attributes
    ----------
    preview : draws <mask>.png; None: there is none
    probabilities : also write <mask>_probability.nii.gz
    uncertainty : also write <mask>_uncertainty.nii.gz
    """

    preview: Preview | None = None
    probabilities: bool = False


@dataclass(frozen=True)
class Task:
    """One mask to make: of an image, or of one clicked lesion in it."""

    case: str
    image: Path
    mask: Path
    click: Click = None
    space: ClickSpace = "voxel"
    lesion: int | None = None

    def files(self, options: BatchOptions) -> dict[str, Path]:
        """The files to write, by kind."""
        files = {
            "probabilities": beside(self.mask, f"{PROBABILITY}.nii.gz") if options.probabilities else None,
            "uncertainty": beside(self.mask, f"{UNCERTAINTY}.nii.gz") if options.uncertainty else None,
            "preview": beside(self.mask, ".png") if options.preview is not None else None,
            "mask": self.mask,
        }
        return {kind: path for kind, path in files.items() if path is not None}


@dataclass(frozen=True)
class Batch:
    """The outcome of the tasks.

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
    """The masks to make, in order of case and lesion: `<case>.nii.gz`, or `<case>_lesion_01.nii.gz` for numbered clicks.

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
        A click is of a case that has no image.
    """
    if clicks is None:
        return [Task(case, image, folder / f"{case}.nii.gz", click, space) for case, image in images.items()], []
    for case, listed in clicks.items():
        if case not in images:
            raise InputError(
                f"clicks, line {listed[0].line}: expected a case that has an image, got {case!r}; name it without its ending, as"
                f" {next(iter(images))!r}"
            )
    tasks = []
    for case, image in images.items():
        for c in clicks.get(case, ()):
            name = case if c.lesion is None else f"{case}_lesion_{c.lesion:02d}"
            tasks.append(Task(case, image, folder / f"{name}.nii.gz", c.point, c.space, c.lesion))
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

    def prepare(self) -> None:
        """Reads and hashes the image now. What fails here fails again when it is asked for."""
        with suppress(Exception):
            _ = self.sha256, self.volume


def predict_batch(
    tasks: Sequence[Task],
    model: Model,
    options: BatchOptions = BatchOptions(),
    *,
    overwrite: bool = False,
    table: bool = True,
    stop_on_failure: bool = False,
    on_done: Callable[[Json], None] | None = None,
    on_failed: Callable[[Json], None] | None = None,
    progress: Progress | None = None,
    slice_progress: Callable[[Task], Progress | None] | None = None,
) -> Batch:
    """Makes the results that are missing.

    A result of the same image, weights, settings and version is kept, so a run that was stopped at any moment continues when it is
    started again. A result of others is replaced with `overwrite` alone. A file that this program did not write is never replaced.
    The networks are read only if a result is missing.

    Parameters
    ----------
    overwrite : replace results that were made from something else
    table : also write `statistics.csv`, of all results in the folder
    stop_on_failure : raise the InputError of the first task that fails, instead of listing it and going on
    on_done, on_failed : called with each entry of `predictions` and `failed`
    progress : called with tasks done and their number
    slice_progress : gives a callback for the slices of a task

    Raises
    ------
    InputError
        Before anything is computed: two tasks would write the same file, a file stands in the way, a result was made with other
        weights or settings and is not to be replaced, a checkpoint is damaged, or uncertainty is asked of one network and one view.
    """
    if options.uncertainty and not options.tta and len(model) < 2:
        from segnet.prediction.predict import require_several

        require_several(model, options.tta)
    maker = _Maker(model, options, overwrite)
    image = None
    if any(state != "done" for state in maker.states(tasks)):
        image = _Image(tasks[0].image)
        with ThreadPoolExecutor(1) as pool:  # reading inflates the file while the networks' libraries are imported
            pool.submit(image.prepare)
            model.read()
    for folder in {task.mask.parent for task in tasks}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_writable(folder, error) from error
        if table:
            check_table(folder / TABLE)
    done: list[Json] = []
    failed: list[Json] = []
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
            failed.append(
                {"case": task.case, "image": str(task.image), "mask": str(task.mask), "reason": reason(error)}
            )
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
    """Makes results of one model with the same options."""

    def __init__(self, model: Model, options: BatchOptions, overwrite: bool) -> None:
        self.model, self.options, self.overwrite = model, options, overwrite
        self.models = [
            {"name": name, "path": str(path), "sha256": sha256_of(weights_file(path))}
            for name, path in zip(model.names, model.paths, strict=True)
        ]

    def result(self, task: Task, image_sha256: str | None = None) -> Result:
        options = self.options
        settings: Json = {
            "click": task.click if task.click is None or task.click == "centre" else list(task.click),
            "click_space": task.space,
            "lesion": task.lesion,
            "tta": options.tta,
            "threshold": options.threshold,
            "skip_padding": options.skip_padding,
            "bfloat16": self.model.bfloat16,
        }
        if task.click is not None:
            voi = options.voi_of(self.model.config.data)
            mm = None if voi is None else voi.size_zyx_mm
            settings["voi_zyx"] = list(voi.shape_zyx) if voi is not None and mm is None else None
            settings["voi_zyx_mm"] = None if mm is None else list(mm)
        weights = [model["sha256"] for model in self.models]
        made_from: Json = {"version": __version__, "weights_sha256": weights, "settings": settings}
        if image_sha256 is not None:
            made_from["image_sha256"] = image_sha256
        return Result(task.files(options), made_from)

    def states(self, tasks: Sequence[Task]) -> list[State]:
        """The state of each result, as far as it shows without reading images and masks; InputError for what must not be written."""
        owner: dict[Path, Task] = {}
        states = []
        for task in tasks:
            result = self.result(task)
            for path in (*result.outputs.values(), result.sidecar):
                if path in owner:
                    raise InputError(
                        f"output {path}: expected one result to write it, got {owner[path].image} and {task.image}; rename one"
                    )
                owner[path] = task
            states.append(result.state(begun(claim_path(result.mask)), overwrite=self.overwrite))
        return states

    def make(self, task: Task, image: _Image, progress: Progress | None) -> Json:
        """The sidecar of a task's result, made if it is missing.

        Raises
        ------
        InputError
            The image or the click will not do, something else stands in the result's place, or a file cannot be written.
        """
        began = time.monotonic()
        try:
            result = self.result(task, image.sha256)
            with claimed(result.mask) as claim:
                if result.state(claim.begun, overwrite=self.overwrite) == "done":
                    claim.end()
                    return {**(read_sidecar(result.sidecar) or {}), "state": "kept"}
                found = self._predict(task, image.volume, progress)
                claim.begin(result)
                files = result.outputs
                if self.options.preview is not None:
                    self.options.preview(files["preview"], found)
                found.save(files["mask"], probability=files.get("probabilities"), uncertainty=files.get("uncertainty"))
                whole = result.complete(self._told(task, result, found, time.monotonic() - began))
                claim.end()
            return {**whole, "state": "written"}
        except OSError as error:
            raise _not_writable(task.mask, error) from error

    def _predict(self, task: Task, volume: Volume, progress: Progress | None) -> Prediction:
        from segnet.prediction.predict import predict_volume

        return predict_volume(
            volume,
            self.model,
            self.options,
            click_zyx=click_index(task.click, task.space, volume),
            lesion=task.lesion or 1,
            progress=progress,
        )

    def _told(self, task: Task, result: Result, found: Prediction, elapsed_s: float) -> Json:
        written = {kind: str(path) for kind, path in result.outputs.items()}
        return {
            "case": task.case,
            "version": __version__,
            "models": self.models,
            "click": None if task.click is None else {"point": task.click, "space": task.space},
            "image": str(task.image),
            **{kind: written.get(kind) for kind in ("mask", "preview", "probabilities", "uncertainty")},
            **found.as_dict(),
            "elapsed_s": elapsed_s,
        }


def _not_writable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"output: expected a writable place, got {path} ({error.strerror or error}); check rights and free space"
    )

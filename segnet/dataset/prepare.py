"""Pairs of images and masks into a dataset: one HDF5 file for each patient, an index and a manifest written last.

A patient is the unit of work. Each file is written beside its place and renamed, so a run killed at any moment leaves whole files only.
The next run goes on with patients that are missing or whose images have changed.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from segnet import __version__
from segnet.config import PrepareConfig
from segnet.dataset.patient import left_out, made_from, write_patient
from segnet.dataset.store import FORMAT, INDEX, MANIFEST, Index, LeftOut, PreparedCase, Record, read_record
from segnet.errors import InputError
from segnet.io.pairs import Pair
from segnet.runtime.files import remove_leftovers, write_text
from segnet.runtime.locks import locked
from segnet.runtime.processes import each

SETTINGS = "prepare.json"
"""Written first: whose folder this is, and how it is being prepared."""

Progress = Callable[[int, int], None]
Shard = tuple[int, int]


@dataclass(frozen=True)
class PrepareResult:
    """Outcome of `prepare`.

    Attributes
    ----------
    cases : of the dataset, or of the shard
    left_out : bad cases, with the reason
    written, kept, removed : patients whose file was written, was current, or was removed because no pair is theirs any more
    complete : whether the index was written; a shard leaves it to the run after all shards
    """

    cases: list[PreparedCase]
    left_out: list[LeftOut] = field(default_factory=list)
    written: int = 0
    kept: int = 0
    removed: int = 0
    complete: bool = True


def prepare(
    pairs: Iterable[Pair],
    out: str | Path,
    config: PrepareConfig | None = None,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    shard: Shard | None = None,
    strict: bool = False,
    overwrite: bool = False,
    images_without_mask: int = 0,
    progress: Progress | None = None,
) -> PrepareResult:
    """Writes images and masks as a dataset (`segnet.dataset.store`), or brings one up to date.

    A patient's file made from the same images in the same way is kept. A patient with a new, changed or bad image is prepared
    again. A patient without pairs is removed. Each worker has one case in memory at a time.

    Parameters
    ----------
    pairs : the cases
    out : a new or empty folder, or one that an earlier run wrote or began
    config : route, window, values stored
    workers : processes; several need a main module that can be imported, as `multiprocessing` does
    scheduler : address of a Dask scheduler, whose workers see the same paths, instead of processes here
    shard : (i, n): every n-th patient from the i-th on, counted from 1, and no index. A run without `shard` after all shards writes it
    strict : stop at the first bad case instead of leaving it out
    overwrite : replace a dataset prepared otherwise, or write into a folder with other files
    images_without_mask : for the index
    progress : called with (cases done, all cases)

    Raises
    ------
    InputError
        There is no pair, two cases share a name, all cases are bad, or one is and `strict` is set; `out` holds other files, or a
        dataset prepared otherwise; a shard or the number of workers is out of range.
    """
    config = config or PrepareConfig()
    by_patient = _by_patient(pairs)
    if shard is not None:
        by_patient = _of_shard(by_patient, shard)
    if workers < 1:
        raise InputError(f"workers: expected at least 1, got {workers}; 1 does all in this process")
    workers = min(workers, max(1, len(by_patient)))
    out = Path(os.path.abspath(out))
    try:
        _claim(out, config, overwrite)
    except OSError as error:
        raise InputError(f"out: expected a writable folder, got {out} ({error.strerror}); check its rights") from error
    refusal = f"out: expected a folder in which nobody else prepares, got {out} with a run at work; wait for it to end"
    whole = shard is None
    records: dict[str, Record] = {}
    written = done = 0
    total = sum(map(len, by_patient.values()))
    with locked(out / SETTINGS, refusal, shared=not whole):  # shards share it
        if whole:
            remove_leftovers(out)
        for patient, record, is_new in _records(out, by_patient, config, workers, scheduler):
            if strict and record.left_out:
                raise InputError(f"{record.left_out[0].case}: {record.left_out[0].reason}")
            records[patient] = record
            written += is_new
            done += len(by_patient[patient])
            if progress is not None:
                progress(done, total)
        ordered = [records[patient] for patient in by_patient]
        cases = [case for record in ordered for case in record.cases]
        bad = [case for record in ordered for case in record.left_out]
        if whole and not cases:
            if [p.name for p in out.iterdir()] == [SETTINGS]:
                (out / SETTINGS).unlink()
                out.rmdir()
            raise InputError(
                f"pairs: expected at least one sound case, got none of {len(bad)}; the first, {bad[0].case}: {bad[0].reason}"
            )
        removed = _finish(out, config, ordered, images_without_mask) if whole else 0
    return PrepareResult(cases, bad, written, len(records) - written, removed, whole)


def _records(
    out: Path, by_patient: dict[str, list[Pair]], config: PrepareConfig, workers: int, scheduler: str | None
) -> Iterator[tuple[str, Record, bool]]:
    """Patient, record, and whether the file was written now; current files first, then the others as they are done."""
    todo: list[list[Pair]] = []
    for patient, pairs in by_patient.items():
        record = read_record(out / f"{patient}.h5")
        try:
            current = record is not None and made_from(record, pairs, config, out)
        except (OSError, InputError):  # an image is gone: writing says so
            current = False
        if record is not None and current:
            yield patient, record, False
        else:
            todo.append(pairs)
    if todo:
        (out / INDEX).unlink(missing_ok=True)  # without an index the folder is visibly unfinished
    write = partial(write_patient, out, config=config)
    for pairs, outcome in each(write, todo, workers=workers, scheduler=scheduler):
        new = outcome if isinstance(outcome, Record) else _lost(out, pairs, config, outcome)
        yield pairs[0].patient, new, True


def _lost(out: Path, pairs: Sequence[Pair], config: PrepareConfig, error: BaseException) -> Record:
    """The record of a patient whose process died: all cases are left out."""
    (out / f"{pairs[0].patient}.h5").unlink(missing_ok=True)
    bad = tuple(left_out(pair, error) for pair in pairs)
    return Record(config=config, patient=pairs[0].patient, cases=(), sources=(), left_out=bad)


def _by_patient(pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
    absolute = [
        replace(pair, image=Path(os.path.abspath(pair.image)), mask=Path(os.path.abspath(pair.mask))) for pair in pairs
    ]
    ordered = sorted(absolute, key=lambda pair: (pair.patient, pair.case))
    if not ordered:
        raise InputError("pairs: expected at least one pair of image and mask, got none; check the folder")
    seen: set[str] = set()
    out: dict[str, list[Pair]] = {}
    for pair in ordered:
        for what, name in (("patient", pair.patient), ("case", pair.case)):  # names of a file and of an HDF5 group
            if not name or name.startswith(".") or set(name) & set("/\\\0"):
                raise InputError(
                    f"{what}: expected a name without / and \\ that starts with no dot, got "
                    f"{name!r}; rename it, or change patient_regex"
                )
        if not all(_is_text(name) for name in (pair.case, pair.patient, pair.set, str(pair.image), str(pair.mask))):
            raise InputError(f"pairs: expected names that are text, got {pair.image!r}; rename the file")
        if pair.case in seen:
            raise InputError(f"pairs: expected each case once, got {pair.case} twice; rename one")
        seen.add(pair.case)
        out.setdefault(pair.patient, []).append(pair)
    return out


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8 on disk."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _of_shard(by_patient: dict[str, list[Pair]], shard: Shard) -> dict[str, list[Pair]]:
    number, count = shard
    if not 1 <= number <= count:
        raise InputError(
            f"shard: expected i/n with i from 1 to n, got {number}/{count}; the first is 1/{max(count, 1)}"
        )
    return dict(list(by_patient.items())[number - 1 :: count])


def _claim(out: Path, config: PrepareConfig, overwrite: bool) -> None:
    """Marks the folder as a dataset prepared so, or raises."""
    if out.exists() and not out.is_dir():
        raise InputError(f"out: expected a folder, got the file {out}; choose another")
    out.mkdir(parents=True, exist_ok=True)
    written = {"format": FORMAT, "config": config.model_dump(mode="json")}
    try:
        began = json.loads((out / SETTINGS).read_bytes())
    except (OSError, ValueError):
        began = None
    if began == written:
        return
    ours = isinstance(began, dict) and began.get("format") == FORMAT
    others = [p for p in out.iterdir() if not p.name.startswith(f".{SETTINGS}.")]  # shards that begin together
    if not overwrite and (ours or others):
        held = f"one prepared with {began.get('config')}" if ours and began else f"{out} with other files"
        raise InputError(
            f"out: expected a new or empty folder or a dataset prepared with {written['config']}, got {held}; "
            "choose another, or pass --overwrite"
        )
    (out / INDEX).unlink(missing_ok=True)
    write_text(out / SETTINGS, json.dumps(written, indent=1) + "\n")


def _finish(out: Path, config: PrepareConfig, records: Sequence[Record], images_without_mask: int) -> int:
    """Removes files of patients that left the dataset, writes manifest and index, and returns the number of removed files."""
    cases = tuple(case for record in records for case in record.cases)
    unlisted = set(out.glob("*.h5")) - {out / case.file for case in cases}
    stale = [file for file in unlisted if read_record(file) is not None]
    for file in stale:
        file.unlink()
    remove_leftovers(out)
    write_text(out / MANIFEST, _manifest(records))
    index = Index(
        segnet=__version__,
        config=config,
        cases=cases,
        left_out=tuple(bad for record in records for bad in record.left_out),
        images_without_mask=images_without_mask,
    )
    write_text(out / INDEX, index.model_dump_json() + "\n")
    return len(stale)


def _manifest(records: Sequence[Record]) -> str:
    """One line for each case: content, sources, or the reason for its absence."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    own = [name for name in PreparedCase.model_fields if name != "lesion_slices"]
    writer.writerow([*own, "image_bytes", "mask_bytes", "status", "reason"])
    for record in records:
        for case, (image, mask) in zip(record.cases, record.sources, strict=True):
            values = [getattr(case, name) for name in own[:-1]]
            cells = [" ".join(map(str, v)) if isinstance(v, tuple) else v for v in values] + ["; ".join(case.warnings)]
            writer.writerow([*cells, image.n_bytes, mask.n_bytes, "prepared", ""])
        for bad in record.left_out:
            known = bad.model_dump()
            writer.writerow([*(known.get(name, "") for name in own), "", "", "left out", bad.reason])
    return text.getvalue()

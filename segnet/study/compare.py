"""Networks compared: each is trained for the same time on the same folds and scored on the held-out patients."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from segnet.config import FOLD_FOLDER, Config, PrepareConfig, load_config, read_value
from segnet.dataset.split import FILE as SPLIT_FILE
from segnet.dataset.split import make_split
from segnet.dataset.store import Cases, PreparedDataset, load_dataset
from segnet.errors import InputError, reason
from segnet.evaluation.summary import spread
from segnet.io.pairs import set_of
from segnet.models import build, checkpoint
from segnet.report.run import draw_run
from segnet.runtime.files import write_text
from segnet.runtime.processes import each
from segnet.runtime.table import format_table
from segnet.runtime.threads import threads
from segnet.study.info import count
from segnet.training import log, state
from segnet.training.loop import check_split, scores, train
from ssmcore import available_processors

SCORES_FILE, RESULTS_FILE, TABLE_FILE, LESIONS_FILE = "scores.json", "results.json", "results.md", "lesions.csv"
CONVENTIONS = {
    "level": "lesion volume",
    "reduction": "macro",
    "classes": "foreground",
    "units": "1",
    "empty": "one; no lesion of a prepared dataset is empty",
    "interval": "95 %, bootstrap over patients",
}
DEALS = (("data", "split"), ("data", "split_fractions"), ("train", "seed"))
"""Fields that decide which patients are in which fold."""
Report = Callable[[str], None]
Lesion = Mapping[str, Any]
"""Keys: "case", "patient", "set", the "fold" it was held out in, and "dice" of one network."""


def parse(entry: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Read an entry: a network's name and its own settings, such as ``ahnet-r,gate_target=skip,train.reconstruction_weight=0.3``.

    A field without a section belongs to the model. Values are YAML.

    Raises
    ------
    InputError
        A part is not ``field=value``, or a value is not YAML.
    """
    name, *changes = re.split(r",(?![^\[]*\])", entry)  # commas within brackets belong to a value
    flags: dict[str, dict[str, Any]] = {"model": {"name": name}}
    for change in changes:
        where, equals, value = change.partition("=")
        if not (where and equals):
            raise InputError(f"model: expected NAME,FIELD=VALUE, got {entry!r}; write it as ahnet,gate_target=skip")
        section, dot, field = where.partition(".")
        section, field = (section, field) if dot else ("model", section)
        flags.setdefault(section, {})[field] = read_value(value, f"model {entry}")
    return name, flags


def folder_of(entry: str) -> str:
    """The name of an entry's folder."""
    return re.sub(r"[^A-Za-z0-9.=-]+", "_", entry)


def configurations(
    entries: Sequence[str], base: Path | None, flags: Mapping[str, Any], prepared: PrepareConfig | None = None
) -> dict[str, Config]:
    """The configuration of each entry. Later sources win: prepared dataset, file, flags, the entry's own settings.

    Raises
    ------
    InputError
        An entry is given twice or does not parse, or a field is unknown or out of range.
    """
    if len(set(map(folder_of, entries))) < len(entries):
        raise InputError(f"model: expected each network once, got {', '.join(entries)}; leave out repetitions")
    found = {}
    for entry in entries:
        _, own = parse(entry)
        merged = {section: {**flags.get(section, {}), **own.get(section, {})} for section in {*flags, *own}}
        found[entry] = load_config(base, merged, prepared=prepared)
    return found


@dataclass(frozen=True)
class Run:
    """Training of one network on one fold. `threads` applies where the configuration sets none."""

    entry: str
    fold: int
    folder: Path
    config: Config
    threads: int | None

    def __str__(self) -> str:
        return f"{self.entry}, fold {self.fold}"


def check_begun(dataset: PreparedDataset, run: Run) -> None:
    """Check that the files of a run come from the same configuration and patients.

    Raises
    ------
    InputError
        They do not, or its scores do not hold their configuration.
    """
    scored, began = run.folder / SCORES_FILE, run.folder / state.FILE
    if scored.exists():
        config = json.loads(scored.read_text()).get("config")
        if config is None:
            raise InputError(
                f"scores: expected the configuration in {scored}, got none; remove it to score the run again"
            )
        state.check_same(Config.model_validate(config), run.config)
    elif began.exists():
        state.check_same(state.began_with(began), run.config)
    elif (run.folder / checkpoint.FILE).exists():
        state.check_same(checkpoint.load(run.folder)[1], run.config)
    if (run.folder / SPLIT_FILE).exists():
        check_split(run.folder, make_split(dataset, run.config))


def run_one(prepared: Path | PreparedDataset, run: Run) -> None:
    """Train the network, or resume, and score the held-out patients. A scored run is left as it is."""
    out, config = run.folder, run.config
    if (out / SCORES_FILE).exists():
        return
    dataset = load_dataset(prepared)
    with threads(config.train.threads or run.threads):
        train(dataset, out, config, resume=True, on_end=draw_run)
        model, _ = checkpoint.load(out)
        test = json.loads((out / SPLIT_FILE).read_text())["test"]
        cases = Cases(dataset, test)
        found = scores(model, cases, config)
    steps = [row for row in log.read(out / log.FILE) if "val_dice" not in row]
    result = {
        "steps": steps[-1]["step"],
        "slices_per_s": statistics.median(row["slices_per_s"] for row in steps),
        "epochs": steps[-1]["epoch"],
        "config": config.model_dump(mode="json"),
        "cases": [
            {"case": e.case, "patient": e.patient, "set": e.set or set_of(e.case), "dice": found[e.case]}
            for e in cases.entries
        ],
    }
    write_text(out / SCORES_FILE, json.dumps(result, indent=1))


def compare(
    prepared: Path,
    out: Path,
    entries: Sequence[str],
    *,
    folds: int,
    base: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    only_folds: Sequence[int] = (),
    workers: int = 1,
    report: Report | None = None,
) -> dict[str, Any]:
    """Train every network on every fold, and write `results.json`, `results.md` and, by lesion, `lesions.csv`.

    Runs go fold by fold: a stopped comparison covers all networks on fewer folds. Called again, it resumes.

    Parameters
    ----------
    prepared, out : the dataset, and the folder for all runs
    entries : networks, as `parse` reads them
    folds : number of parts of the patients
    base, flags : configuration file, and section -> field -> value
    only_folds : train these folds alone; all where empty
    workers : runs at a time, each in its own process; without `train.threads` they share the processors evenly

    Raises
    ------
    InputError
        As `configurations`. Before any training: networks would get different patients, or runs in `out` were begun with
        other settings or patients. After all other runs: a run failed.
    """
    chosen = tuple(dict.fromkeys(only_folds)) or tuple(range(folds))
    if not set(chosen) <= set(range(folds)):
        raise InputError(f"only-fold: expected 0 to {folds - 1}, got {chosen}; folds are counted from 0")
    given = flags or {}
    flags = {**given, "data": {**given.get("data", {}), "folds": folds}}
    dataset = load_dataset(prepared)
    configs = configurations(entries, base, flags, dataset.config)
    _check_folds(configs, folds)
    share = max(1, available_processors() // workers) if workers > 1 else None
    names = {fold: FOLD_FOLDER.format(fold) for fold in chosen}
    runs = [
        Run(entry, fold, out / folder_of(entry) / name, config.each_fold()[name], share)
        for fold, name in names.items()
        for entry, config in configs.items()
    ]
    for run in runs:
        check_begun(dataset, run)
    out.mkdir(parents=True, exist_ok=True)
    given_to_runs = dataset if workers == 1 else dataset.root  # other processes read the index themselves
    failed: list[tuple[Run, BaseException]] = []
    for number, (run, outcome) in enumerate(each(partial(run_one, given_to_runs), runs, workers=workers), 1):
        told = f"{number} of {len(runs)}: {run}"
        if isinstance(outcome, BaseException):
            failed.append((run, outcome))
            told += f": {reason(outcome)}"
        if report is not None:
            report(told)
        results = collect(out, configs, chosen)
        if results["rows"]:
            write_text(out / RESULTS_FILE, json.dumps(results, indent=1))
            write_text(out / TABLE_FILE, format_table(results["rows"], columns_of(results), markdown=True) + "\n")
            write_text(out / LESIONS_FILE, lesions_csv(_by_lesion(_finished(out, configs, chosen))))
    if failed:
        run, error = failed[0]
        raise InputError(
            f"model {run}: expected to train, got {reason(error)}; {len(runs) - len(failed)} of {len(runs)} runs are done and stay"
        ) from error
    return results


def _check_folds(configs: Mapping[str, Config], folds: int) -> None:
    """Raise `InputError` unless all networks get the same patients in the same folds."""
    first, like = next(iter(configs.items()))
    for entry, config in configs.items():
        if config.data.folds != folds:
            raise InputError(
                f"model {entry}: expected data.folds {folds} like --folds, got {config.data.folds}; leave it out"
            )
        for section, field in DEALS:
            expected, got = (getattr(getattr(c, section), field) for c in (like, config))
            if got != expected:
                raise InputError(
                    f"model {entry}: expected {section}.{field} {expected} like {first}, got {got}; it decides the folds, so set it for all networks"
                )


def columns_of(results: Mapping[str, Any]) -> dict[str, str]:
    """Keys and headings of a table of `collect`'s rows. Several collections have columns of their own."""
    collections = {key: key.removeprefix("dice_") for key in results["rows"][0] if key.startswith("dice_")}
    return {
        "model": "model",
        "folds": "folds",
        "lesions": "lesions",
        "dice": "Dice",
        "ci95_lo": "95 %",
        "ci95_hi": "to",
        **(collections if len(collections) > 1 else {}),
        "difference": "less the first",
        "difference_lo": "95 %",
        "difference_hi": "to",
        "slices_per_s": "slices/s",
        "steps": "steps",
        "parameters_m": "parameters, M",
    }


def collect(out: Path, configs: Mapping[str, Config], folds: Sequence[int]) -> dict[str, Any]:
    """Results of the finished runs.

    Returns
    -------
    dict
        "settings" of the first network, "conventions", "folds", and "rows": `dice_rows` with the medians of slices per second
        and steps, and parameters in millions.
    """
    done = _finished(out, configs, folds)
    rows = dice_rows(_by_lesion(done), first=next(iter(configs)))
    for row in rows:
        runs = done[row["model"]].values()
        with torch.device("meta"):
            parameters = count(build(configs[row["model"]].model))
        row["slices_per_s"] = statistics.median(one["slices_per_s"] for one in runs)
        row["steps"] = statistics.median(one["steps"] for one in runs)
        row["parameters_m"] = parameters / 1e6
    settings = next(iter(configs.values())).model_dump(mode="json")
    return {"settings": settings, "conventions": CONVENTIONS, "folds": list(folds), "rows": rows}


def dice_rows(lesions: Mapping[str, Sequence[Lesion]], *, first: str) -> list[dict[str, Any]]:
    """One row per network: mean 3-D Dice per lesion with its 95 % interval (bootstrap over patients), means by collection,
    and the mean difference to the network `first` on the same lesions.

    Parameters
    ----------
    lesions : scored lesions of each network
    first : a network; without its scores there are no differences
    """
    rows = []
    of_first = {lesion["case"]: lesion["dice"] for lesion in lesions.get(first, ())}
    for entry, mine in lesions.items():
        row: dict[str, Any] = {"model": entry, "folds": len({lesion["fold"] for lesion in mine}), "lesions": len(mine)}
        row["dice"], row["ci95_lo"], row["ci95_hi"] = _interval(mine)
        for group in sorted({lesion["set"] for lesion in mine}):
            row[f"dice_{group}"] = _interval([lesion for lesion in mine if lesion["set"] == group])[0]
        gaps = [
            {**lesion, "dice": lesion["dice"] - of_first[lesion["case"]]}
            for lesion in mine
            if lesion["case"] in of_first
        ]
        row["difference"], row["difference_lo"], row["difference_hi"] = _interval(gaps)
        rows.append(row)
    return rows


def lesions_csv(lesions: Mapping[str, Sequence[Lesion]]) -> str:
    """One line per lesion with a column per network, empty where the network did not score it."""
    by_case: dict[str, dict[str, Any]] = {}
    for entry, mine in lesions.items():
        for lesion in mine:
            line = by_case.setdefault(lesion["case"], {key: lesion[key] for key in ("case", "set", "patient", "fold")})
            line[entry] = f"{lesion['dice']:.6f}"
    text = io.StringIO()
    writer = csv.DictWriter(text, ["case", "set", "patient", "fold", *lesions], lineterminator="\n")
    writer.writeheader()
    writer.writerows(line for _, line in sorted(by_case.items()))
    return text.getvalue()


def _finished(out: Path, entries: Iterable[str], folds: Sequence[int]) -> dict[str, dict[int, dict[str, Any]]]:
    """Scores of finished runs by network and fold. A network without one is left out."""
    done = {}
    for entry in entries:
        files = {fold: out / folder_of(entry) / FOLD_FOLDER.format(fold) / SCORES_FILE for fold in folds}
        if runs := {fold: json.loads(file.read_text()) for fold, file in files.items() if file.exists()}:
            done[entry] = runs
    return done


def _by_lesion(done: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, list[Lesion]]:
    return {
        entry: [{**case, "fold": fold} for fold, one in runs.items() for case in one["cases"]]
        for entry, runs in done.items()
    }


def _interval(lesions: Sequence[Lesion]) -> tuple[float | None, float | None, float | None]:
    """Mean Dice and its interval. No lesion has no mean; one patient has no interval."""
    found = spread([(lesion["patient"], lesion["dice"]) for lesion in lesions])
    return found.mean, found.ci95_lo, found.ci95_hi

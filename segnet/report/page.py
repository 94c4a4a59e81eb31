"""The report: one HTML file that holds all it shows and asks for nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import segnet
from segnet.errors import InputError
from segnet.evaluation.sources import Truth, match
from segnet.io.pairs import Pair, find_pairs
from segnet.report import figures, lesion_list, palette, svg, tables
from segnet.report.cases import telling_cases
from segnet.report.comparison import comparison_tables
from segnet.report.defaults import LESIONS, WINDOW_HU
from segnet.report.documents import (
    Document,
    Lesion,
    Run,
    common_cases,
    read_bench,
    read_comparison,
    read_evaluation,
    read_run,
    restrict,
)
from segnet.report.notices import Notice, notices, unlike
from segnet.report.numbers import METRICS, MISSING, count, fixed, span
from segnet.report.overlay import PRED_RGB, TRUTH_RGB, require_window
from segnet.report.pictures import SIDE_PX, LesionPictures, lesion_pictures
from segnet.runtime.files import write_text

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Sources:
    """What a report is made of.

    Attributes
    ----------
    evaluations : folder of `segnet evaluate` or its evaluation.json, by name of the model; the first leads
    predictions : folder of predicted masks by name; else where the evaluation says they were
    pairs : folder of images and true masks; without it there are no pictures
    runs : folder of the training run by name
    bench, comparison : JSON of `segnet bench train` and of a paired comparison
    """

    evaluations: Mapping[str, Path]
    predictions: Mapping[str, Path] = field(default_factory=dict)
    pairs: Path | None = None
    runs: Mapping[str, Path] = field(default_factory=dict)
    bench: Path | None = None
    comparison: Path | None = None


@dataclass(frozen=True)
class _Model:
    name: str
    series: int
    document: Document


def named(entries: Sequence[str], option: str, names: Sequence[str] = ()) -> dict[str, Path]:
    """Reads ``NAME=FOLDER``; a bare folder is named after itself, or takes the one name there is.

    Raises
    ------
    InputError
        A name is given twice, or is none of `names` where those are given.

    Examples
    --------
    >>> named(["unet=runs/a", "runs/b"], "evaluation")
    {'unet': PosixPath('runs/a'), 'b': PosixPath('runs/b')}
    """
    found: dict[str, Path] = {}
    for entry in entries:
        name, equals, folder = entry.partition("=")
        # a path may hold "=" itself
        if not equals or not name or "/" in name:
            folder = entry
            name = names[0] if len(names) == 1 else (Path(entry).resolve().name or entry)
        if names and name not in names:
            raise InputError(
                f"{option}: expected NAME=FOLDER with a name among {', '.join(names)}, got {entry!r}; name the evaluation it belongs to"
            )
        if name in found:
            raise InputError(
                f"{option}: expected each name once, got {name!r} twice; write NAME=FOLDER with names of your own"
            )
        found[name] = Path(folder)
    return found


def write_report(
    path: Path,
    sources: Sources,
    *,
    title: str | None = None,
    lesions: int = LESIONS,
    window_hu: tuple[float, float] = WINDOW_HU,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the report of one or several evaluations as one HTML file, all of it or nothing.

    Parameters
    ----------
    path : file to write
    sources : what to read
    title : heading; else a plain one
    lesions : how many lesions get a section with pictures, the worst of the first evaluation first
    window_hu : grey levels of the pictures, from black to white
    progress : called as progress(done, total) after each lesion drawn

    Returns
    -------
    What was written: `path`, `bytes`, `models`, `lesions`, `patients`, `pictured`, `warnings`.

    Raises
    ------
    InputError
        A file is missing or not what it should be, the evaluations share no case, or an image cannot be read.
    """
    if not sources.evaluations:
        raise InputError("evaluation: expected at least one, got none; name a folder of `segnet evaluate`")
    if lesions < 0:
        raise InputError(f"lesions: expected 0 or more, got {lesions}; 0 leaves all pictures of single lesions out")
    require_window(window_hu)
    originals = {name: read_evaluation(folder) for name, folder in sources.evaluations.items()}
    shared = common_cases(originals)
    documents = {name: restrict(document, shared) for name, document in originals.items()}
    runs = {name: read_run(folder) for name, folder in sources.runs.items()}
    told = notices(documents, originals, runs)
    html, pictured = _render(path, sources, documents, runs, told, title, lesions, window_hu, progress)
    write_text(path, html)
    first = next(iter(documents.values()))
    return {
        "path": str(path),
        "bytes": len(html.encode()),
        "models": list(documents),
        "lesions": len(first.lesions),
        "patients": len({row.patient for row in first.lesions}),
        "pictured": pictured,
        "warnings": [n.text for n in told if n.kind == "warning"],
    }


def _render(
    path: Path,
    sources: Sources,
    documents: dict[str, Document],
    runs: dict[str, Run],
    told: list[Notice],
    title: str | None,
    lesions: int,
    window_hu: tuple[float, float],
    progress: Callable[[int, int], None] | None,
) -> tuple[str, int]:
    """The page and how many lesions it pictures. What is found while drawing is added to `told`."""
    series = {name: k for k, name in enumerate(documents)}
    leading_name, leading = next(iter(documents.items()))
    ranked = lesion_list.worst_first(leading)
    ordered = [row.case for row in ranked]
    own = ordered[:lesions]
    numbers = {case: k for k, case in enumerate(own, 1)}
    telling = telling_cases({row.case: d for row in leading.lesions if (d := row.number("dice")) is not None})
    pairs = {p.case: p for p in find_pairs(sources.pairs)} if sources.pairs is not None else {}
    drawn, reasons = _draw(sources, documents, pairs, [*telling.values(), *own], window_hu, progress)
    told += unlike(drawn)
    compared, said = comparison_tables(documents, read_comparison(sources.comparison) if sources.comparison else None)
    told += [Notice("warning", text) for text in said]
    environment = Environment(
        loader=PackageLoader("segnet.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fixed": fixed, "count": count}
    sets = list(dict.fromkeys(name for d in documents.values() for name in d.by_set))
    html = environment.get_template("report.html.jinja").render(
        title=title or "Lesion segmentation report",
        policy=POLICY,
        style=Markup(palette.themes() + _asset("report.css")),  # our own files
        script=Markup(_asset("report.js")),
        MISSING=MISSING,
        models=[_Model(name, series[name], document) for name, document in documents.items()],
        series=series,
        dash=svg.dash,
        shape=svg.shape,
        n_lesions=len(ordered),
        n_patients=len({row.patient for row in leading.lesions}),
        sets=[name for name in sets if name],
        notices=told,
        scores=[_headline(_Model(n, series[n], d)) for n, d in documents.items()],
        baseline=_baseline(documents),
        overall=tables.score_table("All lesions", {n: d.summary for n, d in documents.items()}, series),
        by_set=[
            tables.score_table(
                name or "no set named", {n: d.by_set[name] for n, d in documents.items() if name in d.by_set}, series
            )
            for name in sets
        ]
        if len(sets) > 1
        else [],
        pooled=tables.score_table("Pooled", {n: d.pooled for n, d in documents.items() if d.pooled}, series),
        uls23=tables.uls23_table(documents, series),
        paper=tables.paper_table(documents, series),
        size=tables.size_table(documents, series),
        size_chart=figures.by_size(documents),
        histograms=figures.dice_histograms(documents),
        agreement=figures.axis_agreement(documents),
        volumes=figures.volume_agreement(documents),
        reliability=[
            figures.reliability(n, region_name, region, series[n])
            for n, d in documents.items()
            if d.calibration is not None
            for region_name, region in d.calibration.regions.items()
        ],
        curves=figures.training_curves(runs, series) if runs else [],
        curve_models=[n for n in documents if n in runs],
        comparison=compared,
        time=tables.time_table(read_bench(sources.bench)) if sources.bench else None,
        leading=leading_name,
        examples=[(rank, case, drawn.get(case), reasons.get(case, "")) for rank, case in telling.items()],
        example_scores={
            case: {n: _row(d, case).number("dice") for n, d in documents.items()} for case in telling.values()
        },
        has_images=sources.pairs is not None,
        list=lesion_list.lesion_list(documents, ordered, series, numbers),
        sections=[
            _section(numbers[case], case, documents, series, drawn.get(case), reasons.get(case, "")) for case in own
        ],
        window_hu=window_hu,
        side_px=SIDE_PX,
        truth_rgb="#{:02x}{:02x}{:02x}".format(*TRUTH_RGB),
        pred_rgb="#{:02x}{:02x}{:02x}".format(*PRED_RGB),
        glossary=[m for name, m in METRICS.items() if any(name in d.summary for d in documents.values())],
        conventions=_conventions(documents),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=segnet.__version__,
        first=lesion_list.FIRST,
    )
    return html, sum(case in drawn for case in own)


def _draw(
    sources: Sources,
    documents: Mapping[str, Document],
    pairs: Mapping[str, Pair],
    cases: Sequence[str],
    window_hu: tuple[float, float],
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, LesionPictures], dict[str, str]]:
    """Pictures by case, and why there are none by case."""
    drawn: dict[str, LesionPictures] = {}
    reasons: dict[str, str] = {}
    files = {name: _predictions(name, sources, document, pairs) for name, document in documents.items()}
    wanted = list(dict.fromkeys(cases)) if sources.pairs is not None else []
    for done, case in enumerate(wanted, 1):
        if case in pairs:
            of_case = {name: found.get(case) for name, found in files.items()}
            scored = {name: _row(document, case).number("dice") for name, document in documents.items()}
            try:
                drawn[case] = lesion_pictures(pairs[case], of_case, window_hu=window_hu, scored=scored)
            except InputError as error:
                reasons[case] = str(error)
        else:
            reasons[case] = "no image of this name was found"
        if progress is not None:
            progress(done, len(wanted))
    return drawn, reasons


def _predictions(name: str, sources: Sources, document: Document, pairs: Mapping[str, Pair]) -> dict[str, Path]:
    """The file of each case's predicted mask: where told, else where the evaluation says it found them.

    Raises
    ------
    InputError
        What is told is no folder, or two files are one case's.
    """
    told = sources.predictions.get(name)
    if told is not None and not told.exists():
        raise InputError(f"input: expected a folder of predicted masks, got {told}; write {name}=FOLDER")
    said = document.provenance.get("predictions")
    folder = told or (Path(str(said)) if said else None)
    if folder is None or not folder.exists() or not pairs:
        return {}
    truths = [Truth(pair.case, pair.patient, "", pair.mask) for pair in pairs.values()]
    return match(folder, truths, single=len(truths) == 1)[0]


def _row(document: Document, case: str) -> Lesion:
    return next(row for row in document.lesions if row.case == case)


@dataclass(frozen=True)
class _Headline:
    name: str
    series: int
    dice: str
    value: float | None
    interval: str
    lo: float | None
    hi: float | None
    median: str
    quartiles: str
    n: str
    provenance: list[tuple[str, str]]


def _headline(model: _Model) -> _Headline:
    score = model.document.summary.get("dice")
    provenance = [(str(k), str(v)) for k, v in model.document.provenance.items() if v not in (None, "", [])]
    if score is None:
        return _Headline(
            model.name, model.series, MISSING, None, MISSING, None, None, MISSING, MISSING, MISSING, provenance
        )
    n = MISSING if score.n_lesions is None else count(score.n_lesions, "lesion")
    missing = len(model.document.missing_predictions)
    patients = MISSING if score.n_patients is None else count(score.n_patients, "patient")
    return _Headline(
        model.name,
        model.series,
        fixed(score.mean, 3),
        score.mean,
        span(score.ci95_lo, score.ci95_hi, 3),
        score.ci95_lo,
        score.ci95_hi,
        fixed(score.median, 3),
        span(score.q1, score.q3, 3),
        f"{n}, {patients}" + (f"; {count(missing, 'prediction')} missing, counted as empty" if missing else ""),
        provenance,
    )


def _baseline(documents: Mapping[str, Document]) -> dict[str, Any] | None:
    """Dice of an empty prediction on each lesion and each slice; the same for all models of the same truths."""
    return next((d.all_background_baseline for d in documents.values() if d.all_background_baseline), None)


def _conventions(documents: Mapping[str, Document]) -> list[tuple[str, str]]:
    """What evaluations say of how numbers are made; what only some say is told with their name."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, document in documents.items():
        for key, text in document.conventions.items():
            found.setdefault((key, text), []).append(name)
    return [
        (key if len(names) == len(documents) else f"{key} ({', '.join(names)})", text)
        for (key, text), names in found.items()
    ]


@dataclass(frozen=True)
class _Section:
    number: int
    case: str
    facts: list[tuple[str, str]]
    pictures: LesionPictures | None
    reason: str
    measures: tables.Table
    density: tables.Table | None


def _section(
    number: int,
    case: str,
    documents: Mapping[str, Document],
    series: Mapping[str, int],
    pictures: LesionPictures | None,
    reason: str,
) -> _Section:
    rows = {name: _row(document, case) for name, document in documents.items()}
    leading = next(iter(rows.values()))
    facts = [(k, v) for k, v in (("Patient", leading.patient), ("Set", leading.set), ("Size", leading.size_class)) if v]
    facts += [(f"Status, {n}", r.status) for n, r in rows.items() if r.status and r.status != "scored"]
    return _Section(number, case, facts, pictures, reason, *tables.lesion_tables(rows, series))


def _asset(name: str) -> str:
    return resources.files("segnet.report").joinpath("page", name).read_text(encoding="utf-8")

"""The report: one HTML file with everything in it, which requests nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import segnet
from segnet.errors import InputError
from segnet.evaluation.sources import Truth, match
from segnet.io.pairs import Pair, find_pairs
from segnet.report import charts, figures, lesion_list, tables
from segnet.report.cases import telling_cases
from segnet.report.defaults import LESIONS, WINDOW_HU
from segnet.report.documents import (
    Document,
    Lesion,
    Score,
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
from segnet.report.paired import paired_tables
from segnet.report.pictures import SIDE_PX, LesionPictures, lesion_pictures
from segnet.runtime.files import write_text

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sources:
    """Files of a report.

    Attributes
    ----------
    evaluations : by model: folder of `segnet evaluate`, or its evaluation.json; the first model leads
    predictions : by model: folder of predicted masks, by default the one named in the evaluation
    pairs : folder of images and true masks; without it there are no pictures
    runs : by model: folder of the training run
    bench : JSON of `segnet bench train`
    comparison : JSON of `segnet evaluate --against`
    """

    evaluations: Mapping[str, Path]
    predictions: Mapping[str, Path] = field(default_factory=dict)
    pairs: Path | None = None
    runs: Mapping[str, Path] = field(default_factory=dict)
    bench: Path | None = None
    comparison: Path | None = None


def named(entries: Sequence[str], option: str, names: Sequence[str] = ()) -> dict[str, Path]:
    """Read ``NAME=FOLDER`` entries. A bare folder takes its own name, or the only name allowed.

    Raises
    ------
    InputError
        A name is given twice, or is not among `names` where those are given.

    Examples
    --------
    >>> named(["unet=runs/a", "runs/b"], "evaluation")
    {'unet': PosixPath('runs/a'), 'b': PosixPath('runs/b')}
    """
    found: dict[str, Path] = {}
    for entry in entries:
        name, equals, folder = entry.partition("=")
        if not equals or not name or "/" in name:  # a path may hold "=" itself
            folder = entry
            name = names[0] if len(names) == 1 else (Path(entry).resolve().name or entry)
        if names and name not in names:
            raise InputError(
                f"{option}: expected NAME=FOLDER with a name among {', '.join(names)}, got {entry!r}; use the name of its evaluation"
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
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the report of one or several evaluations as one HTML file, atomically.

    Parameters
    ----------
    path : file to write
    sources : files to read
    title : heading of the page
    lesions : number of lesions with a section and pictures of their own, the worst of the first model first
    window_hu : grey levels of the pictures, from black to white
    progress : called as progress(done, total) after each lesion drawn

    Returns
    -------
    dict
        `path`, `bytes`, `models`, `lesions`, `patients`, `pictured` and `warnings` of the page written.

    Raises
    ------
    InputError
        A file is missing or malformed, the evaluations share no case, or an image cannot be read.
    """
    if not sources.evaluations:
        raise InputError("evaluation: expected at least one, got none; name a folder of `segnet evaluate`")
    if lesions < 0:
        raise InputError(f"lesions: expected 0 or more, got {lesions}; 0 leaves out the sections of single lesions")
    require_window(window_hu)
    originals = {name: read_evaluation(folder) for name, folder in sources.evaluations.items()}
    shared = common_cases(originals)
    documents = {name: restrict(document, shared) for name, document in originals.items()}
    runs = {name: read_run(folder) for name, folder in sources.runs.items()}
    series = {name: k for k, name in enumerate(documents)}
    leading_name, leading = next(iter(documents.items()))
    ordered = [row.case for row in lesion_list.worst_first(leading)]
    numbers = {case: k for k, case in enumerate(ordered[:lesions], 1)}
    telling = telling_cases({row.case: d for row in leading.lesions if (d := row.number("dice")) is not None})
    drawn, reasons = _draw(sources, documents, [*telling.values(), *numbers], window_hu, progress)
    compared, left_out = paired_tables(documents, read_comparison(sources.comparison) if sources.comparison else None)
    remarks = [*notices(documents, originals, runs), *unlike(drawn), *(Notice("warning", text) for text in left_out)]
    sets = list(dict.fromkeys(name for d in documents.values() for name in d.by_set))
    n_patients = len({row.patient for row in leading.lesions})
    html = _template().render(
        title=title or "Lesion segmentation report",
        models=[{"name": name, "series": k, "document": documents[name]} for name, k in series.items()],
        n_lesions=len(ordered),
        n_patients=n_patients,
        sets=[name for name in sets if name],
        notices=remarks,
        no_score=Score(),
        # the same for all models of the same truths
        baseline=next((d.all_background_baseline for d in documents.values() if d.all_background_baseline), None),
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
        curve_models=list(runs),
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
            _section(k, case, documents, series) | {"pictures": drawn.get(case), "reason": reasons.get(case, "")}
            for case, k in numbers.items()
        ],
        window_hu=window_hu,
        glossary=[m for name, m in METRICS.items() if any(name in d.summary for d in documents.values())],
        conventions=_conventions(documents),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_text(path, html)
    return {
        "path": str(path),
        "bytes": len(html.encode()),
        "models": list(documents),
        "lesions": len(ordered),
        "patients": n_patients,
        "pictured": sum(case in drawn for case in numbers),
        "warnings": [remark.text for remark in remarks if remark.kind == "warning"],
    }


def _template() -> Any:
    loader = PackageLoader("segnet.report", "page")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"fixed": fixed, "count": count}
    environment.globals |= {
        "policy": POLICY,
        "style": Markup(charts.STYLESHEET),
        "script": Markup(loader.get_source(environment, "report.js")[0]),
        "look": charts.series,
        "span": span,
        "side_px": SIDE_PX,
        "truth_rgb": "#{:02x}{:02x}{:02x}".format(*TRUTH_RGB),
        "pred_rgb": "#{:02x}{:02x}{:02x}".format(*PRED_RGB),
        "version": segnet.__version__,
        "first": lesion_list.FIRST,
        "MISSING": MISSING,
    }
    return environment.get_template("report.html.jinja")


def _draw(
    sources: Sources,
    documents: Mapping[str, Document],
    cases: Sequence[str],
    window_hu: tuple[float, float],
    progress: Progress | None,
) -> tuple[dict[str, LesionPictures], dict[str, str]]:
    """Pictures by case, and the reason by case where there are none."""
    pairs = {p.case: p for p in find_pairs(sources.pairs)} if sources.pairs is not None else {}
    files = {name: _predictions(name, sources, document, pairs) for name, document in documents.items()}
    drawn: dict[str, LesionPictures] = {}
    reasons: dict[str, str] = {}
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
    """Predicted masks by case, from the folder given, else from the one named in the evaluation.

    Raises
    ------
    InputError
        The folder given does not exist, or two files belong to one case.
    """
    given = sources.predictions.get(name)
    if given is not None and not given.exists():
        raise InputError(f"input: expected a folder of predicted masks, got {given}; write {name}=FOLDER")
    recorded = document.provenance.get("predictions")
    folder = given or (Path(str(recorded)) if recorded else None)
    if folder is None or not folder.exists() or not pairs:
        return {}
    truths = [Truth(pair.case, pair.patient, "", pair.mask) for pair in pairs.values()]
    return match(folder, truths, single=len(truths) == 1)[0]


def _row(document: Document, case: str) -> Lesion:
    return next(row for row in document.lesions if row.case == case)


def _conventions(documents: Mapping[str, Document]) -> list[tuple[str, str]]:
    """Conventions of the evaluations. Conventions not shared by all are followed by the models' names."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, document in documents.items():
        for convention in document.conventions.items():
            found.setdefault(convention, []).append(name)
    return [
        (key if len(names) == len(documents) else f"{key} ({', '.join(names)})", text)
        for (key, text), names in found.items()
    ]


def _section(number: int, case: str, documents: Mapping[str, Document], series: Mapping[str, int]) -> dict[str, Any]:
    """Facts and tables of one lesion."""
    rows = {name: _row(document, case) for name, document in documents.items()}
    leading = next(iter(rows.values()))
    facts = [(k, v) for k, v in (("Patient", leading.patient), ("Set", leading.set), ("Size", leading.size_class)) if v]
    facts += [(f"Status, {n}", r.status) for n, r in rows.items() if r.status and r.status != "scored"]
    measures, density = tables.lesion_tables(rows, series)
    return {"number": number, "case": case, "facts": facts, "measures": measures, "density": density}

"""The whole page: what it holds, that it holds it safely, and that it asks for nothing."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from command import segnet

from segnet.errors import InputError
from segnet.report import page
from segnet.report.page import Sources, named, write_report

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "img", "input", "br", "hr", "link"}
NETWORK = ("src", "href", "action", "data", "poster", "srcset", "formaction", "xlink:href", "background")


class Page(HTMLParser):
    """Elements in order with their attributes and own text; checks that tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[int] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}, []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}, []))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for index in self.open:
            self.elements[index][2].append(data)

    def all(self, tag: str, **wanted: str) -> list[tuple[dict[str, str], str]]:
        """Attributes and whole text of the elements of a name that have these attributes."""
        return [
            (attrs, " ".join("".join(text).split()))
            for name, attrs, text in self.elements
            if name == tag and all(attrs.get(k.rstrip("_")) == v for k, v in wanted.items())
        ]


def written(path: Path, sources: Sources, **options: Any) -> tuple[Page, dict[str, Any]]:
    told = write_report(path, sources, **options)
    text = path.read_text(encoding="utf-8")
    assert told["bytes"] == len(text.encode())
    return Page(text), told


def changed(tmp_path: Path, document: Any, **changes: Any) -> Path:
    (tmp_path / "evaluation.json").write_text(json.dumps({**document, **changes}))
    return tmp_path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pairs_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    rows = [{"step": k, "loss": 2.0 / k, "elapsed_s": 1.0 * k} for k in range(1, 501)]
    rows += [{"step": 500, "val_dice": 0.75, "loss": 0.1, "elapsed_s": 501.0}]
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "split.json").write_text(json.dumps({"train": ["bone_00099_lesion_01"], "val": [], "test": []}))
    return folder


@pytest.fixture(scope="module")
def whole(material: Any, run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, dict[str, Any], str]:
    """A report with everything that can be made of the material."""
    folder = tmp_path_factory.mktemp("whole")
    bench = {"mode": "train", "batch_size": 8, "side_px": 256, "rounds": 5}
    row = {
        "model": "unet",
        "threads": 2,
        "ms_a_slice": 12.5,
        "slices_a_second": 80.0,
        "epoch_s_estimate": {"bone": 1234.5},
    }
    (folder / "bench.json").write_text(json.dumps({**bench, "rows": [row]}))
    sources = Sources(material.evaluations, pairs=material.pairs, runs={"first": run}, bench=folder / "bench.json")
    parsed, told = written(folder / "report.html", sources, title="A title", lesions=4)
    return parsed, told, (folder / "report.html").read_text()


def test_what_is_returned(whole: Any) -> None:
    told = whole[1]
    assert (told["models"], told["lesions"], told["patients"], told["pictured"]) == (["first", "second"], 10, 10, 4)
    assert any("second: no training run was given" in w for w in told["warnings"])


def test_nothing_is_asked_from_elsewhere(whole: Any) -> None:
    parsed, _, text = whole
    assert parsed.all("link") == parsed.all("iframe") == parsed.all("object") == parsed.all("base") == []
    for tag, attrs, _ in parsed.elements:
        for name in NETWORK:
            value = attrs.get(name, "#")
            assert value.startswith(("#", "data:image/jpeg;base64,")), (tag, name, value[:60])
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
    assert "http://" not in text
    assert "https://" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text


def test_the_policy_forbids_it_too(whole: Any) -> None:
    ((attrs, _),) = whole[0].all("meta", **{"http-equiv": "Content-Security-Policy"})
    policy = attrs["content"]
    for part in ("default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", "script-src 'unsafe-inline'"):
        assert part in policy


def test_anchors_lead_somewhere_and_ids_are_unique(whole: Any) -> None:
    ids = [attrs["id"] for _, attrs, _ in whole[0].elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {attrs["href"][1:] for attrs, _ in whole[0].all("a")}
    assert targets <= set(ids)
    assert {"summary", "lesions", "single", "lesion-1", "lesion-4", "main"} <= targets
    assert "lesion-5" not in targets


def test_numbers_are_those_of_the_evaluations(whole: Any, material: Any) -> None:
    values = {float(attrs["value"]): text for attrs, text in whole[0].all("data")}
    for folder in material.evaluations.values():
        document = json.loads((folder / "evaluation.json").read_text())
        for block in (document["summary"], document["pooled"]):
            for score in block.values():
                if score["mean"] is not None:
                    assert score["mean"] in values
        for key in ("dice", "iou", "ravd", "asd_px", "mhd_px", "auc"):
            assert document["paper_convention"][key] in values
        assert values[document["summary"]["dice"]["mean"]] == f"{document['summary']['dice']['mean']:.3f}"
    assert values[1234.5] == "1235"


def test_rows_are_those_of_the_evaluations(whole: Any, material: Any) -> None:
    ((_, text),) = whole[0].all("script", id="rows")
    data = json.loads(text)
    headings = [label for _, label in whole[0].all("button", class_="sort")]
    documents = [json.loads((f / "evaluation.json").read_text()) for f in material.evaluations.values()]
    rows = [{r["case"]: r for r in d["lesions"]} for d in documents]
    assert len(data["rows"]) == 10
    assert len(data["digits"]) == len(headings) == len(data["rows"][0])
    dice = [k for k, label in enumerate(headings) if label == "Dice"]
    for line in data["rows"]:
        for column, of in zip(dice, rows, strict=True):
            assert line[column] == of[line[0]]["dice"]
    first = [line[dice[0]] for line in data["rows"]]
    assert first == sorted(first)
    assert data["sections"] == [1, 2, 3, 4, 0, 0, 0, 0, 0, 0]


def test_tables_charts_and_pictures_can_be_read_by_all(whole: Any) -> None:
    parsed = whole[0]
    assert len(parsed.all("caption")) == len(parsed.all("table"))
    assert all(text for _, text in parsed.all("caption"))
    assert all(attrs.get("scope") in ("col", "row", "colgroup") for attrs, _ in parsed.all("th"))
    assert all(attrs["alt"] for attrs, _ in parsed.all("img"))
    for attrs, text in parsed.all("svg"):
        assert attrs.get("aria-hidden") == "true" or (attrs["role"] == "img" and text)
    ((root, _),) = parsed.all("html")
    assert root["lang"] == "en"
    assert parsed.all("a")[0][0]["href"] == "#main"


def test_sections_that_there_must_be(whole: Any) -> None:
    ids = {attrs["id"] for attrs, _ in whole[0].all("section")}
    assert ids >= {"summary", "metrics", "paper", "size", "distribution", "agreement", "comparison", "training", "time"}
    assert ids >= {"examples", "lesions", "single", "conventions"}
    ((_, footer),) = whole[0].all("footer")
    assert "Research software, no medical device." in footer
    assert "A title" in footer
    assert re.search(r"written \d{4}-\d\d-\d\d", footer)
    ((_, time),) = whole[0].all("section", id="time")
    assert "estimate" in time
    assert "not measured there" in time


def test_every_table_of_scores_says_its_conventions(whole: Any) -> None:
    ((_, metrics),) = whole[0].all("section", id="metrics")
    for part in (
        "Level: lesion volume",
        "reduction: macro",
        "reduction: pooled",
        "classes: foreground, but both for AUC, AUC (box)",
        "n = 9",  # distances of the model that predicts one of ten lesions empty
        "Empty masks:",
        "AUC: masks",
    ):
        assert part in metrics


def test_the_papers_measures_say_over_how_many_slices_they_are(whole: Any, material: Any) -> None:
    ((_, text),) = whole[0].all("section", id="paper")
    for folder in material.evaluations.values():
        paper = json.loads((folder / "evaluation.json").read_text())["paper_convention"]
        for key in ("n_slices_ravd", "n_slices_distances"):
            assert paper[key] < paper["n_slices"]
            assert f"n = {paper[key]:,}" in text


def test_the_list_says_how_it_is_sorted_and_whose_dice_it_filters(whole: Any, material: Any, tmp_path: Path) -> None:
    ((attrs, label),) = [(a, t) for a, t in whole[0].all("th") if "aria-sort" in a]
    assert (attrs["aria-sort"], label) == ("ascending", "Dice")
    ((_, controls),) = whole[0].all("form", id="controls")
    assert "Dice of first at most" in controls
    alone, _ = written(tmp_path / "r.html", Sources({"first": material.evaluations["first"]}))
    assert "Dice at most" in alone.all("form", id="controls")[0][1]


def test_the_loss_says_what_its_points_are(whole: Any, material: Any, tmp_path: Path) -> None:
    assert "mean of a 200th of the steps" in whole[0].all("section", id="training")[0][1]
    rows = [{"step": k, "loss": 1e26 * k, "elapsed_s": 1.0 * k} for k in range(1, 11)]  # one that diverged
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    found, _ = written(tmp_path / "r.html", Sources({"a": material.evaluations["first"]}, runs={"a": tmp_path}))
    ((_, training),) = found.all("section", id="training")
    assert "Each point is a step;" in training
    assert "1.000e+27" in training


def test_missing_predictions_are_told_beside_the_mean(document: Any, tmp_path: Path) -> None:
    found, _ = written(tmp_path / "r.html", Sources({"a": changed(tmp_path, document, missing_predictions=["x", "y"])}))
    ((_, summary),) = found.all("section", id="summary")
    assert "Mean of10 lesions, 10 patients; 2 predictions missing, counted as empty" in summary.replace(
        "Mean of ", "Mean of"
    )


def test_what_users_write_is_escaped(document: Any, tmp_path: Path) -> None:
    rows = [{**row, "case": f"{EVIL}{k}", "patient": EVIL, "set": EVIL} for k, row in enumerate(document["lesions"])]
    provenance = {**document["provenance"], "predictions": EVIL, "model": EVIL}
    hostile = {
        "lesions": rows,
        "provenance": provenance,
        "by_set": {EVIL: document["summary"], "b": document["summary"]},
        "conventions": {EVIL: EVIL},
        "missing_predictions": [EVIL],
    }
    folder = changed(tmp_path, document, **hostile)
    clean, _ = written(tmp_path / "clean.html", Sources({"a": changed_copy(tmp_path, document)}))
    found, _ = written(tmp_path / "r.html", Sources({EVIL: folder}), title=EVIL)
    text = (tmp_path / "r.html").read_text()
    assert EVIL not in text
    assert len(found.all("script")) == len(clean.all("script")) == 2
    assert EVIL in found.all("h1")[0][1]
    assert json.loads(found.all("script", id="rows")[0][1])["rows"][0][1] == EVIL


def changed_copy(tmp_path: Path, document: Any) -> Path:
    folder = tmp_path / "plain"
    folder.mkdir()
    return changed(folder, document)


def test_one_lesion_without_images(document: Any, tmp_path: Path) -> None:
    row = document["lesions"][1]
    folder = changed(tmp_path, document, lesions=[row], by_set={}, by_size={}, uls23=None, pooled={})
    found, told = written(tmp_path / "r.html", Sources({"a": folder}))
    assert (told["lesions"], told["pictured"]) == (1, 0)
    assert found.all("img") == []
    ((_, single),) = found.all("section", id="single")
    assert "no images were given" in single


def test_nothing_known_is_a_dash_and_no_number(document: Any, tmp_path: Path) -> None:
    nothing = {
        k: {**v, **dict.fromkeys(("mean", "median", "q1", "q3", "ci95_lo", "ci95_hi", "n_lesions", "n_patients"))}
        for k, v in document["summary"].items()
    }
    lesions = [{"case": "a", "patient": "a", "status": "scored", "dice": None}]
    folder = changed(
        tmp_path, document, summary=nothing, lesions=lesions, by_set={}, by_size={}, pooled={},
        paper_convention=None, all_background_baseline=None, consistency={},
    )  # fmt: skip
    found, told = written(tmp_path / "r.html", Sources({"a": folder}))
    ((_, summary),) = found.all("section", id="summary")
    assert "–" in summary
    assert found.all("data") == []
    assert any("no lesion has a Dice" in w for w in told["warnings"])
    assert "NaN" not in (tmp_path / "r.html").read_text().split("<script")[0]


def test_a_challenge_score_and_calibration_are_shown(document: Any, tmp_path: Path) -> None:
    uls23 = {
        "score": 0.71,
        "ci95_lo": 0.6,
        "ci95_hi": 0.8,
        "dice": 0.7,
        "long_axis_error": 0.1,
        "clicks": 3,
        "n_lesions": 10,
    }
    bins = [{"lo": 0.0, "hi": 0.5, "n": 3, "confidence": 0.25, "frequency": 0.3}, {"lo": 0.5, "hi": 1.0, "n": 0}]
    calibration = {
        "regions": {
            "box_10mm": {
                "ece": 0.05,
                "mce": 0.05,
                "brier": 0.1,
                "voxels": 3,
                "n_lesions": 2,
                "n_left_out": 8,
                "bins": bins,
            }
        }
    }
    found, _ = written(
        tmp_path / "r.html", Sources({"a": changed(tmp_path, document, uls23=uls23, calibration=calibration)})
    )
    ((_, metrics),) = found.all("section", id="metrics")
    assert "0.710" in metrics
    assert "0.600 to 0.800" in metrics
    ((_, reliability),) = found.all("section", id="calibration")
    assert "ECE 0.0500" in reliability
    assert "3 voxels of 2 lesions with probabilities; 8 lesions without left out" in reliability


def test_different_cases_are_compared_on_what_they_share(material: Any, document: Any, tmp_path: Path) -> None:
    folder = changed(tmp_path, document, lesions=document["lesions"][:6])
    found, told = written(tmp_path / "r.html", Sources({"some": folder, "all": material.evaluations["second"]}))
    assert told["lesions"] == 6
    assert any("6 lesions they share" in w for w in told["warnings"])
    rows = json.loads((material.evaluations["second"] / "evaluation.json").read_text())["lesions"]
    shared = {r["case"] for r in document["lesions"][:6]}
    values = [r["dice"] for r in rows if r["case"] in shared]
    shown = {round(float(attrs["value"]), 12) for attrs, _ in found.all("data")}
    assert round(sum(values) / 6, 12) in shown


def test_a_comparison_is_shown_as_its_file_has_it(material: Any, tmp_path: Path) -> None:
    from segnet.evaluation.evaluate import evaluate
    from segnet.evaluation.paired import pair

    first, second = (evaluate(material.predictions[n], material.pairs) for n in ("first", "second"))
    comparison = pair(first, second)
    comparison.write(tmp_path)
    sources = Sources(material.evaluations, comparison=tmp_path / "comparison.json")
    from_file, _ = written(tmp_path / "a.html", sources)
    from_rows, _ = written(tmp_path / "b.html", Sources(material.evaluations))
    ((_, text),) = from_file.all("section", id="comparison")
    ((_, own),) = from_rows.all("section", id="comparison")
    assert "first (first) and second (second)" in text
    for said in ("Cohen's d_z: mean over patients", "lower is better", "P, Wilcoxon: two-sided"):
        assert said in text
        assert said in own
    assert "AUC: only lesions where both" in text
    found = comparison.metrics["dice"]
    counts = f"{found.better} / {found.worse} / {found.equal}"
    assert counts in text
    assert counts in own
    hd95 = comparison.metrics["hd95_mm"]  # one is infinite, and counts as worse
    assert f"{hd95.better} / {hd95.worse} / {hd95.equal}" in own


def test_a_comparison_of_other_lesions_is_left_out_and_every_model_has_its_table(
    material: Any, document: Any, tmp_path: Path
) -> None:
    from segnet.evaluation.evaluate import evaluate
    from segnet.evaluation.paired import pair

    first, second = (evaluate(material.predictions[n], material.pairs) for n in ("first", "second"))
    pair(first, second).write(tmp_path)
    some = changed(tmp_path, document, lesions=document["lesions"][:6])
    sources = Sources({**material.evaluations, "third": some}, comparison=tmp_path / "comparison.json")
    found, told = written(tmp_path / "a.html", sources)
    assert any("file is of 10 lesions, not of the 6 lesions shown" in w for w in told["warnings"])
    assert [c for _, c in found.all("caption") if "(first) and" in c] == [
        "first (first) and second (second)",
        "first (first) and third (second)",
    ]
    # a third model of the same lesions keeps its table beside the file's
    whole = Sources(
        {**material.evaluations, "third": material.evaluations["second"]}, comparison=tmp_path / "comparison.json"
    )
    found, _ = written(tmp_path / "b.html", whole)
    assert len([c for _, c in found.all("caption") if "(first) and" in c]) == 2


def test_masks_of_another_model_are_not_drawn_under_a_name(material: Any, tmp_path: Path) -> None:
    swapped = {"first": material.predictions["second"], "second": material.predictions["second"]}
    sources = Sources(material.evaluations, predictions=swapped, pairs=material.pairs)
    found, told = written(tmp_path / "r.html", sources, lesions=10)
    rows = {n: json.loads((f / "evaluation.json").read_text())["lesions"] for n, f in material.evaluations.items()}
    differ = [a["case"] for a, b in zip(*rows.values(), strict=True) if a["dice"] != b["dice"]]
    assert any(f"first: masks of {len(differ)} lesions have another Dice" in w for w in told["warnings"])
    assert not any("second: masks of" in w for w in told["warnings"])
    assert len([1 for _, text in found.all("p", class_="nothing") if "the ones that were scored" in text]) >= len(
        differ
    )


def test_thousands_of_lesions_stay_usable(document: Any, tmp_path: Path) -> None:
    rows = [{**document["lesions"][k % 10], "case": f"c{k:05d}"} for k in range(3000)]
    found, told = written(tmp_path / "r.html", Sources({"a": changed(tmp_path, document, lesions=rows)}), lesions=5)
    assert told["bytes"] < 2_000_000
    ((_, table),) = found.all("table", id="list")
    assert table.count("c0") <= 100
    assert len(json.loads(found.all("script", id="rows")[0][1])["rows"]) == 3000
    assert len(found.all("article", class_="lesion")) == 5
    assert len(found.all("use")) < 200  # thousands of dots are one path


def test_a_failure_leaves_the_old_file(material: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "r.html"
    out.write_text("old")

    def fail(*_: Any, **__: Any) -> None:
        raise InputError("image: expected one, got none; give one")

    monkeypatch.setattr(page, "find_pairs", fail)
    with pytest.raises(InputError):
        write_report(out, Sources(material.evaluations, pairs=material.pairs))
    assert out.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_names_of_models() -> None:
    assert named(["unet=runs/a=b", "x/y"], "evaluation") == {"unet": Path("runs/a=b"), "y": Path("x/y")}
    assert named(["runs/a"], "model", ["unet"]) == {"unet": Path("runs/a")}
    with pytest.raises(InputError, match="each name once, got 'a' twice"):
        named(["a=x", "a=y"], "evaluation")
    with pytest.raises(InputError, match=r"a name among a, b, got 'c=x'"):
        named(["c=x"], "model", ["a", "b"])


def test_options_out_of_range(material: Any, tmp_path: Path) -> None:
    sources = Sources(material.evaluations)
    with pytest.raises(InputError, match="lesions: expected 0 or more"):
        write_report(tmp_path / "r.html", sources, lesions=-1)
    with pytest.raises(InputError, match="window_hu: expected two finite levels"):
        write_report(tmp_path / "r.html", sources, window_hu=(5.0, 5.0))
    with pytest.raises(InputError, match="evaluation: expected at least one"):
        write_report(tmp_path / "r.html", Sources({}))
    lost = Sources(material.evaluations, predictions={"first": tmp_path / "no"}, pairs=material.pairs)
    with pytest.raises(InputError, match="input: expected a folder of predicted masks"):
        write_report(tmp_path / "r.html", lost)


def test_command(material: Any, tmp_path: Path) -> None:
    evaluations = [a for name, folder in material.evaluations.items() for a in ("-e", f"{name}={folder}")]
    out = tmp_path / "r.html"
    done = segnet("report", *evaluations, "-t", material.pairs, "-o", out, "--lesions", "1", "--json", "-q")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"] == ["first", "second"]
    assert out.read_text().startswith("<!doctype html>")
    lost = segnet("report", "-e", tmp_path / "nowhere", "-o", out)
    assert (lost.returncode, lost.stdout) == (3, "")
    assert lost.stderr.startswith("segnet: evaluation: expected a readable file")


def test_real_lesions_make_a_file_of_some_megabytes(shared_data: Path, tmp_path: Path) -> None:
    from segnet.evaluation.evaluate import evaluate
    from segnet.io.pairs import find_pairs

    pairs = list(find_pairs(shared_data / "lidc"))[:6]
    for sub in ("image", "nodule_mask"):
        (tmp_path / "pairs" / sub).mkdir(parents=True)
    for pair in pairs:
        os.symlink(pair.image, tmp_path / "pairs" / "image" / f"{pair.case}.nii.gz")
        os.symlink(pair.mask, tmp_path / "pairs" / "nodule_mask" / f"{pair.case}.nii.gz")
    evaluate(tmp_path / "pairs" / "nodule_mask", tmp_path / "pairs").write(tmp_path / "evaluation")
    found, told = written(tmp_path / "r.html", Sources({"a": tmp_path / "evaluation"}, pairs=tmp_path / "pairs"))
    assert told["pictured"] == 6
    images = [len(attrs["src"]) for attrs, _ in found.all("img")]
    assert len(images) >= 6
    # four pictures of a lesion and model: 60 lesions of two models stay below 8 MB
    assert sum(images) / len(images) < 8e6 / (60 * 2 * 4)
    ((_, single),) = found.all("section", id="single")
    assert "Density, HU" in single
    assert "LIDC-IDRI-" in single

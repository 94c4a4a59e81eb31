"""Networks against one another: the same folds for all, every lesion scored once, and nothing done twice."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import segnet.study.compare
from segnet.config import Config
from segnet.dataset.prepare import prepare
from segnet.dataset.store import load_dataset
from segnet.errors import InputError
from segnet.io.pairs import find_pairs
from segnet.study.compare import (
    LESIONS_FILE,
    RESULTS_FILE,
    SCORES_FILE,
    collect,
    compare,
    configurations,
    folder_of,
    lesions_csv,
    parse,
)
from segnet.training.loop import train

FLAGS: dict[str, dict[str, Any]] = {
    "model": {"base_width": 4, "depths": (1, 1, 1, 1), "dstate": 4},
    "data": {"patch_px": 32, "input_px": 32},
    "train": {"max_steps": 2, "batch_size": 2, "validations": 1, "tensorboard": False, "threads": 1},
}
ENTRIES = ("unet", "mamba-ahnet-r,discretization=mamba,train.reconstruction_weight=0.5")


@pytest.fixture(scope="module")
def compared(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    out = tmp_path_factory.mktemp("compared")
    said: list[str] = []
    results = compare(prepared, out, ENTRIES, folds=2, flags=FLAGS, report=said.append)
    return out, results, said


def test_every_lesion_is_scored_once_by_each_network(compared: Any, prepared: Path) -> None:
    out, results, said = compared
    everyone = sorted(entry.case for entry in load_dataset(prepared).cases)
    for entry in ENTRIES:
        files = [out / folder_of(entry) / f"fold-{fold}" / SCORES_FILE for fold in range(2)]
        assert sorted(case["case"] for file in files for case in json.loads(file.read_text())["cases"]) == everyone
    assert [row["model"] for row in results["rows"]] == list(ENTRIES)
    assert [row["lesions"] for row in results["rows"]] == [10, 10]
    assert len(said) == 4
    assert json.loads((out / RESULTS_FILE).read_text()) == results
    with (out / LESIONS_FILE).open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert sorted(line["case"] for line in lines) == everyone
    for row in results["rows"]:
        assert np.mean([float(line[row["model"]]) for line in lines]) == pytest.approx(row["dice"], abs=1e-6)


def test_changes_of_an_entry_reach_its_run(compared: Any) -> None:
    from segnet.models import checkpoint

    out, _, _ = compared
    _, config = checkpoint.load(out / folder_of(ENTRIES[1]) / "fold-1")
    assert (config.model.name, config.model.discretization) == ("mamba-ahnet-r", "mamba")
    assert config.train.reconstruction_weight == 0.5
    assert (config.data.folds, config.data.fold) == (2, 1)


def test_what_is_done_is_not_done_again(compared: Any, prepared: Path) -> None:
    out, results, _ = compared
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.parent != out}
    assert compare(prepared, out, ENTRIES, folds=2, flags=FLAGS) == results
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_one_fold_first_and_the_others_later(compared: Any, prepared: Path, tmp_path: Path) -> None:
    results = compare(prepared, tmp_path, ENTRIES[:1], folds=2, flags=FLAGS, only_folds=[1])
    assert results["folds"] == [1]
    assert not (tmp_path / "unet" / "fold-0").exists()
    with pytest.raises(InputError, match="only-fold: expected 0 to 1, got"):
        compare(prepared, tmp_path, ENTRIES, folds=2, flags=FLAGS, only_folds=[2])


def test_a_network_that_fails_does_not_keep_the_others_from_it(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(prepared: Path, out: Path, config: Config, **options: Any) -> Any:
        if config.model.name == "hunet":
            raise FloatingPointError("loss: expected a finite number, got nan")
        return train(prepared, out, config, **options)

    monkeypatch.setattr(segnet.study.compare, "train", failing)
    said: list[str] = []
    with pytest.raises(InputError, match=r"model hunet, fold 0: .*got nan; 2 of 4 runs are done and stay"):
        compare(prepared, tmp_path, ["hunet", "unet"], folds=2, flags=FLAGS, report=said.append)
    assert [row["model"] for row in json.loads((tmp_path / RESULTS_FILE).read_text())["rows"]] == ["unet"]
    assert said[0] == "1 of 4: hunet, fold 0: FloatingPointError: loss: expected a finite number, got nan"


def test_networks_of_other_patients_are_not_compared(prepared: Path, tmp_path: Path) -> None:
    for entry in ("ahnet,train.seed=3", "ahnet,data.split=patient"):
        with pytest.raises(InputError, match=rf"model {entry}: expected .* like unet, got .* decides the folds"):
            compare(prepared, tmp_path / "out", ["unet", entry], folds=2, flags=FLAGS)
    with pytest.raises(InputError, match=r"model unet,data.folds=3: expected data.folds 2 like --folds, got 3"):
        compare(prepared, tmp_path / "out", ["unet,data.folds=3"], folds=2, flags=FLAGS)
    assert not (tmp_path / "out").exists()


def test_a_dataset_that_changed_is_noticed_before_anything_is_trained(
    compared: Any, pairs_folder: Path, tmp_path: Path
) -> None:
    out, _, _ = compared
    prepare(find_pairs(pairs_folder)[:8], tmp_path / "fewer", workers=1)
    with pytest.raises(InputError, match="expected the split that the run began with"):
        compare(tmp_path / "fewer", out, [*ENTRIES, "ahnet"], folds=2, flags=FLAGS)
    assert not (out / "ahnet").exists()


def test_several_at_a_time_share_the_processors(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the configuration does not say how many threads; that stays as it is, so that other workers can go on."""
    seen: list[int] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        seen.append(torch.get_num_threads())
        return train(*arguments, **options)

    monkeypatch.setattr(segnet.study.compare, "available_processors", lambda: 6)
    monkeypatch.setattr(
        segnet.study.compare, "each", lambda function, items, workers: ((i, function(i)) for i in items)
    )
    monkeypatch.setattr(segnet.study.compare, "train", counted)
    free = {**FLAGS, "train": {**FLAGS["train"], "threads": None}}
    entries = ["unet", "hunet,train.threads=1"]
    results = compare(prepared, tmp_path, entries, folds=2, flags=free, only_folds=[0, 0], workers=3)
    assert seen == [2, 1]
    assert results["settings"]["train"]["threads"] is None
    assert [row["lesions"] for row in results["rows"]] == [5, 5]


def test_a_killed_comparison_leaves_no_worker_behind(prepared: Path, tmp_path: Path) -> None:
    settings = tmp_path / "config.yaml"
    settings.write_text(yaml.safe_dump({**FLAGS, "train": {**FLAGS["train"], "max_steps": 10_000}}))
    command = [sys.executable, "-m", "segnet", "compare", "-i", str(prepared), "-o", str(tmp_path / "out")]
    command += ["-m", "unet", "--folds", "2", "-c", str(settings), "--workers", "2", "-q"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
    log_file = tmp_path / "out" / "unet" / "fold-0" / "log.jsonl"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (log_file.exists() and log_file.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)
    written = log_file.read_text()
    assert written
    time.sleep(1)
    assert log_file.read_text() == written


def test_means_are_of_lesions_and_differences_of_the_same_ones(tmp_path: Path) -> None:
    dices = {"unet": [0.5, 0.7, 0.9], "ahnet": [0.6, 0.7, 0.2]}
    for name, values in dices.items():
        (tmp_path / name / "fold-0").mkdir(parents=True)
        cases = [
            {"case": f"c{i}", "patient": p, "set": p[0], "dice": d}
            for i, (p, d) in enumerate(zip(("A1", "A1", "B2"), values, strict=True))
        ]
        scored = {"steps": 7, "slices_per_s": 3.0, "epochs": 1.0, "cases": cases}
        (tmp_path / name / "fold-0" / SCORES_FILE).write_text(json.dumps(scored))
    configs = {name: Config() for name in dices}
    unet, ahnet = collect(tmp_path, configs, [0, 1])["rows"]
    assert unet["dice"] == pytest.approx(0.7)
    assert (unet["dice_A"], unet["dice_B"]) == (pytest.approx(0.6), 0.9)
    assert (unet["difference"], unet["difference_lo"], unet["difference_hi"]) == (0, 0, 0)
    assert ahnet["difference"] == pytest.approx(np.mean([0.1, 0, -0.7]))
    assert ahnet["difference_lo"] <= ahnet["difference"] <= ahnet["difference_hi"]
    assert (ahnet["folds"], ahnet["lesions"], ahnet["steps"]) == (1, 3, 7)


def test_networks_without_a_common_fold_have_no_difference(tmp_path: Path) -> None:
    """And one patient no interval; nor is a network compared with itself because the first is not done yet."""
    for name, fold in (("unet", 1), ("ahnet", 0)):
        (tmp_path / name / f"fold-{fold}").mkdir(parents=True)
        case = {"case": f"c{fold}", "patient": f"p{fold}", "set": "", "dice": 0.5}
        scored = {"steps": 7, "slices_per_s": 3.0, "epochs": 1.0, "cases": [case]}
        (tmp_path / name / f"fold-{fold}" / SCORES_FILE).write_text(json.dumps(scored))
    configs = {name: Config() for name in ("unet", "ahnet")}
    unet, ahnet = collect(tmp_path, configs, [0, 1])["rows"]
    assert (unet["difference"], ahnet["difference"]) == (0, None)
    assert (unet["ci95_lo"], unet["ci95_hi"]) == (None, None)
    (ahnet,) = collect(tmp_path, configs, [0])["rows"]
    assert ahnet["difference"] is None


def test_a_lesion_without_a_common_fold_leaves_a_column_empty() -> None:
    lesions = {
        name: [{"case": f"c{fold}", "patient": "p", "set": "lidc", "fold": fold, "dice": 0.5}]
        for name, fold in (("unet", 1), ("ahnet,seed=1", 0))
    }
    assert lesions_csv(lesions).splitlines() == [
        'case,set,patient,fold,unet,"ahnet,seed=1"',
        "c0,lidc,p,0,,0.500000",
        "c1,lidc,p,1,0.500000,",
    ]


def test_scores_of_other_settings_are_not_reused(compared: Any, prepared: Path) -> None:
    out, _, _ = compared
    other = {**FLAGS, "train": {**FLAGS["train"], "seed": 7}}
    with pytest.raises(InputError, match=r"train\.seed = 0"):
        compare(prepared, out, ENTRIES, folds=2, flags=other)


def test_entries_are_read_and_mistakes_named() -> None:
    assert parse("ahnet,gate_target=skip,train.seed=3") == (
        "ahnet",
        {"model": {"name": "ahnet", "gate_target": "skip"}, "train": {"seed": 3}},
    )
    assert parse("mamba-ahnet,depths=[1,1,2,1],dstate=4")[1]["model"] == {
        "name": "mamba-ahnet",
        "depths": [1, 1, 2, 1],
        "dstate": 4,
    }
    with pytest.raises(InputError, match=r"model ahnet,depths=\[1: expected a value in YAML, got '\[1'"):
        parse("ahnet,depths=[1")
    with pytest.raises(InputError, match="expected NAME,FIELD=VALUE, got 'ahnet,skip'"):
        parse("ahnet,skip")
    with pytest.raises(InputError, match="expected each network once"):
        configurations(["ahnet", "ahnet"], None, {})
    with pytest.raises(InputError, match=r"config: model.gate_target: .*got 'sideways'"):
        configurations(["ahnet,gate_target=sideways"], None, {})

"""The planted faults are up to date, and only a failed test counts as caught. `make faults` plants them."""

from __future__ import annotations

from pathlib import Path

import pytest
from plant_faults import ROOT, Fault, RunError, all_faults, is_caught, planted

FAULTS = all_faults()


@pytest.mark.parametrize("file", sorted({fault.file for fault in FAULTS}))
def test_what_a_fault_changes_stands_once_in_its_file(file: str) -> None:
    text = (ROOT / file).read_text()
    for fault in FAULTS:
        if fault.file == file:
            assert text.count(fault.find) == 1, fault
            assert fault.replace != fault.find, fault
            assert (ROOT / fault.tests.split()[0].partition("::")[0]).exists(), fault


def test_names_of_faults_differ() -> None:
    assert len(set(map(str, FAULTS))) == len(FAULTS)


@pytest.mark.parametrize("code", pytest.ExitCode)
def test_only_a_failed_test_counts_as_caught(code: pytest.ExitCode) -> None:
    if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        assert is_caught(code) == (code == pytest.ExitCode.TESTS_FAILED)
    else:
        with pytest.raises(RunError, match=f"pytest ended with exit code {int(code)}"):
            is_caught(code)


def test_a_fault_is_taken_out_again(tmp_path: Path) -> None:
    fault, file = Fault("scan", "one", "a.py", "x = 1", "x = 2", "tests"), tmp_path / "a.py"
    file.write_text("x = 1\n")
    with planted(fault, tmp_path):
        assert file.read_text() == "x = 2\n"
    assert file.read_text() == "x = 1\n"
    file.write_text("x = 1\nx = 1\n")
    with pytest.raises(RunError, match=r"expected its text once in a\.py, found it 2 times"), planted(fault, tmp_path):
        pass

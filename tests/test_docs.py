"""Documentation that can be wrong is run: doctests, the README's example, its table of operations."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

from ssmcore.ops import SPECS

ROOT = Path(__file__).parents[1]
WITH_EXAMPLES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("ssmcore", "segnet")
    for file in (ROOT / package).rglob("*.py")
    if ">>> " in file.read_text()
)


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_doctests(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


def test_the_readme_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(example.replace("4096", "96"), names)
    assert names["y"].shape == (1, 96, 512)  # type: ignore[attr-defined]
    assert "selective_scan: cython" in capsys.readouterr().out


def test_the_readme_lists_every_operation_and_backend() -> None:
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)`(.*?)\|", readme, re.MULTILINE)
    assert [name for name, _ in rows if name in SPECS] == list(SPECS)
    for option in SPECS["discretize"].options["method"]:
        assert option in dict(rows)["discretize"]


@pytest.mark.parametrize("op", list(SPECS))
def test_every_operation_has_its_derivation(op: str) -> None:
    assert (ROOT / "ssmcore" / "ops" / f"{op}.md").read_text().startswith(f"# {op}\n")


def test_links_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"

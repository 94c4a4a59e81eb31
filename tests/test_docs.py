"""Documentation that can be wrong is run: doctests, examples of README and pages, tables, the site and its reference."""

from __future__ import annotations

import csv
import doctest
import html
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import gettempdir

import pytest

from ssmcore._explain import operations_table
from ssmcore.ops import SPECS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = sorted((DOCS / "reference").glob("*.md"))
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


def test_the_readme_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for example in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        exec(example.replace("4096", "96"), names)
    assert names["y"].shape == (1, 96, 512)  # type: ignore[attr-defined]
    assert "selective_scan: cython" in capsys.readouterr().out


def test_the_readme_has_the_table_of_the_records() -> None:
    assert operations_table() in (ROOT / "README.md").read_text()


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [p for p in DOCS.rglob("*.md") if python_blocks(p)], ids=lambda p: p.stem)
def test_the_examples_of_a_page_run(page: Path) -> None:
    """One after the other, in one namespace."""
    names: dict[str, object] = {"__name__": page.stem}
    for number, block in enumerate(python_blocks(page), 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


def test_the_table_of_results_follows_from_the_dice_of_each_lesion() -> None:
    """Means, intervals and differences are made again from it."""
    from segnet.study.compare import columns_of, dice_rows

    with (DOCS / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    networks = list(lines[0])[4:]
    of_case = [{key: line[key] for key in ("case", "set", "patient", "fold")} for line in lines]
    lesions = {
        name: [{**case, "dice": float(line[name])} for case, line in zip(of_case, lines, strict=True) if line[name]]
        for name in networks
    }
    rows = {row["model"]: row for row in dice_rows(lesions, first=networks[0])}
    columns = columns_of({"rows": list(rows.values())})
    page = (DOCS / "results.md").read_text()
    compared = 0
    for name, row in rows.items():
        for told in re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", page, re.MULTILINE):
            for key, cell in zip(list(columns)[1:], told.split("|"), strict=True):
                if key in row:
                    assert float(cell) == pytest.approx(row[key], abs=0.000502), (name, key)  # three decimals of six
                    compared += 1
    assert compared == 10 * 9


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
    for page in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]:
        text = re.sub(
            r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE
        )  # a lambda of C++ looks like a link
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("package", ["ssmcore", "ssmcore.torch", "ssmcore.compat"])
def test_the_reference_lists_every_public_name_once(package: str) -> None:
    listed = [n for page in REFERENCE for n in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)]
    of_package = sorted(name.rpartition(".")[2] for name in listed if name.rpartition(".")[0] == package)
    assert of_package == sorted(importlib.import_module(package).__all__)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it: what MkDocs warns of, such as a link that leads nowhere, is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(ROOT / ".mkdocs.yml"), "-d", str(folder)]
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=gettempdir(), env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def plain(markup: str) -> str:
    """Its text alone, spaces made one."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", markup)).split())


@pytest.mark.parametrize("package", ["ssmcore", "ssmcore.torch", "ssmcore.compat"])
def test_the_reference_has_every_public_name_with_its_text(package: str, site: Path) -> None:
    pages = "".join((site / "reference" / f"{page.stem}.html").read_text() for page in REFERENCE)
    entries = dict(re.findall(r'<h2 id="([\w.]+)" class="doc(.*?)(?=<h2|</article>)', pages, re.DOTALL))
    module = importlib.import_module(package)
    for name in module.__all__:
        summary = getattr(module, name).__doc__.splitlines()[0].replace("`", "")
        assert summary in plain(entries[f"{package}.{name}"])


@pytest.mark.parametrize("page", REFERENCE, ids=lambda p: p.stem)
def test_docstrings_render_as_they_are_meant(page: Path, site: Path) -> None:
    markup = (site / "reference" / f"{page.stem}.html").read_text()
    assert "<blockquote" not in markup, (
        "a doctest without a section is a quotation of quotations: give it the heading Examples"
    )
    for text in map(plain, re.findall(r"<td.*?</td>", markup, re.DOTALL)):
        assert not text.startswith(("Source:", "Others")), f"an item of a table: {text}"
        assert "][" not in text, f"a link as it was written: {text}"


def test_the_site_has_the_derivations(site: Path) -> None:
    assert {file.stem for file in (site / "derivations").glob("*.html")} == set(SPECS)


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"?((?:https?:)?//[^\"> ]+)", page.read_text()
        )
        assert not fetched, f"{page.name}: {fetched}"

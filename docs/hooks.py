"""What MkDocs is told beyond .mkdocs.yml: pages that live elsewhere in the tree, and the links to them."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"CHANGELOG.md": "changelog.md"} | {
    file.relative_to(ROOT).as_posix(): f"derivations/{file.name}" for file in sorted(ROOT.glob("ssmcore/ops/*.md"))
}
"""Pages outside docs/, from the project's folder, and where they stand in the site."""


def on_config(config: Any) -> Any:
    """Lists the derivations in the navigation."""
    derivations = [page for page in PAGES.values() if page.startswith("derivations/")]
    config.nav = [{"Derivations": derivations} if "Derivations" in entry else entry for entry in config.nav]
    return config


def on_files(files: Files, *, config: Any) -> Files:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Links from docs/ to a page outside it, which hold in the tree, lead to its place in the site."""
    folder = posixpath.dirname(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        source = posixpath.normpath(posixpath.join("docs", folder, link[1]))
        return f"]({posixpath.relpath(PAGES[source], folder or '.')}" if source in PAGES else link[0]

    return re.sub(r"\]\(((?:\.\./)+[^)#]+)", moved, markdown)

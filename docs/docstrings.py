"""The docstrings' own habits in numpydoc's terms, for the reference alone; the sources stay as they are."""

from __future__ import annotations

import re
from typing import Any

import griffe

PACKAGES = ("ssmcore", "ssmcore.torch", "ssmcore.compat")
OTHERS = r"^Others (as in [^\n]*)\n?"
SOURCE = r"\n\nSource: ((?:.|\n)*?)(?=\n\n|\Z)"


class Docstrings(griffe.Extension):
    """Rewrites the docstring of every public name."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for package in PACKAGES:
            module = pkg[package.partition(".")[2]] if "." in package else pkg
            names = {str(name) for name in module.exports or ()}
            for name in sorted(names):
                docstring = module[name].docstring
                if docstring is not None:
                    docstring.value = numpydoc(
                        docstring.value, {other: f"{package}.{other}" for other in names - {name}}
                    )


def numpydoc(text: str, public: dict[str, str]) -> str:
    """What a section would take for an item of its own stands before the first; items that share a line are told apart, each with
    its own default; names in backticks that `public` knows become links, and so do those with their package's name before them."""
    aside = []
    for label, pattern in (("Other parameters", OTHERS), ("Source", SOURCE)):
        found = re.search(pattern, text, re.MULTILINE)
        if found:
            text = text[: found.start()] + text[found.end() :]
            aside.append(f"*{label}*: {found[1]}")
    head, heading, sections = re.split(r"(\n\n\w[\w ]*\n---+\n|\Z)", text, maxsplit=1)
    sections, examples, example = sections.partition("\n\nExamples\n---")
    sections = re.sub(r"^([\w, ]+) : as in (.*)$", r"\1\n    As in \2.", sections, flags=re.MULTILINE)
    sections = re.sub(r"^(\w+(?:, \w+)+)( :.*)?(?:\n|\Z)((?:    .*\n?)*)", _apart, sections, flags=re.MULTILINE)
    text = "\n\n".join([head, *aside]) + heading + sections + examples + example

    def link(name: re.Match[str]) -> str:
        target = public.get(name[1]) or (name[1] if name[1].startswith("ssmcore.") else None)
        return f"[{name[0]}][{target}]" if target else name[0]

    return re.sub(r"(?<!`)`([\w.]+)`(?!`)", link, text)


def _apart(items: re.Match[str]) -> str:
    return "".join(f"{name}{items[2] or ''}\n{items[3].rstrip()}\n" for name in items[1].split(", "))

"""Colours of the report in its two themes, as CSS variables."""

from __future__ import annotations

SERIES = 6
"""Colours of models; a seventh begins again, with another dash."""

LIGHT = {
    "page": "#f6f7f8",
    "surface": "#ffffff",
    "raised": "#eef1f4",
    "ink": "#1b2127",
    "quiet": "#56606b",
    "rule": "#dce1e6",
    "control": "#7d8893",
    "accent": "#0b5c85",
    "warn": "#8a4b00",
    "warn-ground": "#fdf3e3",
    "good": "#1c6b45",
    "good-ground": "#eaf5ef",
    "series-1": "#0b659d",
    "series-2": "#b04a0a",
    "series-3": "#1c7350",
    "series-4": "#7347a0",
    "series-5": "#a0315f",
    "series-6": "#5f6400",
}
DARK = {
    "page": "#111418",
    "surface": "#181c21",
    "raised": "#222830",
    "ink": "#e7eaee",
    "quiet": "#a4adb8",
    "rule": "#2d343c",
    "control": "#788492",
    "accent": "#84c5ec",
    "warn": "#f2bd6b",
    "warn-ground": "#2c2417",
    "good": "#7fd0a4",
    "good-ground": "#16281f",
    "series-1": "#6db6ea",
    "series-2": "#f0985a",
    "series-3": "#68c79b",
    "series-4": "#c3a0ec",
    "series-5": "#f08db4",
    "series-6": "#c3c653",
}
TEXT_ON = {
    "ink": ("page", "surface", "raised"),
    "quiet": ("page", "surface", "raised"),
    "accent": ("page", "surface", "raised"),
    "warn": ("warn-ground", "surface"),
    "good": ("good-ground", "surface"),
    **{f"series-{k}": ("surface",) for k in range(1, SERIES + 1)},
}
"""Each colour of text, and the grounds it is set on."""
MARKS_ON = {"control": ("page", "surface"), **{f"series-{k}": ("surface",) for k in range(1, SERIES + 1)}}
"""Each colour of lines and borders that carry meaning, and their grounds."""


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two colours ``#rrggbb``, from 1 to 21.

    Examples
    --------
    >>> contrast("#000000", "#ffffff")
    21.0
    """
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return round((lighter + 0.05) / (darker + 0.05), 9)


def variables(colours: dict[str, str]) -> str:
    """Declarations of the colours as CSS variables."""
    return "".join(f"--{name}:{value};" for name, value in colours.items())


def themes() -> str:
    """Rules: light, dark where the reader's system or the reader asks for it, light again on paper."""
    light, dark = variables(LIGHT), variables(DARK)
    return (
        f":root{{color-scheme:light;{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}\n"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}\n"
        f"@media print{{:root,:root[data-theme],:root:not([data-theme=light]){{color-scheme:light;{light}}}}}\n"
    )


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue

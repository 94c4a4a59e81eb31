"""A page with the lesions of one image: a picture, the diameters and what the reader said of each."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segnet import __version__
from segnet.io.boxes import Box
from segnet.metrics import recist
from segnet.report.overlay import PRED_RGB, field_of_view, panel
from segnet.report.pictures import data_uri, draw_axes

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
section{display:flex;gap:1.5rem;flex-wrap:wrap;border-top:1px solid #d0d7de;padding:1.5rem 0}
img{width:300px;height:300px;background:#111317}dl{display:grid;grid-template-columns:auto 1fr;gap:.2rem 1rem;margin:0}
dt{color:#57606a}dd{margin:0}.note{color:#9a3412}@media (prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}dt{color:#8b949e}.note{color:#fdba74}}
"""
Lesion = tuple[str, dict[str, Any], Box | None, NDArray[np.bool_] | None]


def export_page(
    name: str,
    image_zyx: NDArray[np.number],
    spacing_zyx_mm: tuple[float, float, float],
    window_hu: tuple[float, float],
    facts: dict[str, Any],
    lesions: Sequence[Lesion],
) -> str:
    """The page as HTML that needs no other file.

    Parameters
    ----------
    image_zyx : (Z, Y, X) in HU
    window_hu : grey levels from black to white
    facts : of the image: `study_date`, `modality`
    lesions : file name, facts, box and mask of each
    """
    sections = [_section(lesion, image_zyx, spacing_zyx_mm, window_hu) for lesion in lesions]
    about = ", ".join(str(facts[key]) for key in ("modality", "study_date") if facts.get(key))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(name)}</title><style>{STYLE}</style><h1>{escape(name)}</h1>"
        f"<p>{escape(about)} segnet {escape(__version__)}. Research software, no medical device.</p>{''.join(sections)}</html>"
    )


def _section(
    lesion: Lesion, image: NDArray[np.number], spacing: tuple[float, float, float], window: tuple[float, float]
) -> str:
    number, facts, box, mask = lesion
    rows = [
        ("site", facts["site"]),
        ("role", facts["role"]),
        ("long axis", f"{facts['long_axis_mm']:.1f} mm"),
        ("short axis", f"{facts['short_axis_mm']:.1f} mm"),
        ("volume", f"{facts['volume_ml']:.2f} ml"),
        ("mean", None if facts["mean_hu"] is None else f"{facts['mean_hu']:.0f} HU"),
        (
            "state",
            ("accepted" if facts["accepted"] else "not accepted") + (", edited by hand" if facts["edited"] else ""),
        ),
    ]
    listed = "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in rows if value)
    notes = "".join(f'<p class="note">{escape(warning)}</p>' for warning in facts["warnings"])
    title = escape(facts["name"] or number.replace("_", " "))
    picture = (
        ""
        if box is None or mask is None
        else f'<img alt="{title}" src="{_picture(box, mask, image, spacing, window)}">'
    )
    return f"<section>{picture}<div><h2>{title}</h2><dl>{listed}</dl>{notes}</div></section>"


def _picture(
    box: Box,
    mask: NDArray[np.bool_],
    image: NDArray[np.number],
    spacing: tuple[float, float, float],
    window: tuple[float, float],
) -> str:
    """The slice of the axes, as a data URI."""
    axes = recist(mask, spacing)
    assert axes is not None
    axes = axes.moved([part.start for part in box])
    outline = np.zeros(image.shape[1:], np.bool_)
    outline[box[1:]] = mask[axes.z - box[0].start]
    view = field_of_view(outline[None], np.asarray(spacing[1:]))
    drawn = panel(np.asarray(image[axes.z]), outline, None, view, window)
    draw_axes(drawn, axes, axes.z, view, PRED_RGB)
    return data_uri(drawn)

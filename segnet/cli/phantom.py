"""The command `phantom`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segnet.cli.options import Quiet, bar


def phantom(
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder to write images/ and labels/ into.")],
    cases: Annotated[int, typer.Option("--cases", "-n", min=1, help="Number of volumes.")] = 12,
    patients: Annotated[
        int | None, typer.Option(min=1, help="Number of patients. Default: one for each volume.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal volumes.")] = 0,
    shape: Annotated[tuple[int, int, int], typer.Option(help="Voxels along x, y, z.")] = (256, 256, 128),
    site: Annotated[
        list[str] | None,
        typer.Option(
            help="Where lesions may lie: lung, liver, kidney, node, spleen, bone; repeatable. Default: anywhere."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make ULS23-like CT volumes with one lesion each, as NIfTI pairs."""
    from segnet.dataset.phantom import SITES, write_phantoms

    sites = tuple(site) if site else SITES
    write_phantoms(out, cases, n_patients=patients, seed=seed, shape=shape, sites=sites, progress=bar("phantom", quiet))
    print(f"{cases} phantoms in {out}")

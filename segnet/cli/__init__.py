"""The command line: parse, call, print. Imports `serve` and the floors below.

Exit codes: 0 done; 2 usage; 3 bad input, or a loss or gradient that is not finite; 4 part of a batch failed.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from segnet import __version__
from segnet.cli.augment import augment
from segnet.cli.bench import bench
from segnet.cli.compare import compare
from segnet.cli.evaluate import evaluate
from segnet.cli.info import info
from segnet.cli.options import BAD_INPUT
from segnet.cli.phantom import phantom
from segnet.cli.predict import predict
from segnet.cli.prepare import prepare
from segnet.cli.release import release
from segnet.cli.report import report
from segnet.cli.serve import serve
from segnet.cli.train import train
from segnet.cli.uls23 import uls23_process
from segnet.errors import InputError
from segnet.runtime.spin import bound_spin

app = typer.Typer(
    name="segnet",
    help="Lesion segmentation from CT with Mamba-AHNet, trained and run on CPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for command in (
    phantom,
    prepare,
    augment,
    train,
    compare,
    predict,
    uls23_process,
    evaluate,
    report,
    info,
    release,
    bench,
    serve,
):
    app.command()(command)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"segnet {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point. Bad input, and a loss or gradient that is not finite, become one line on stderr and exit code 3."""
    bound_spin()  # before a command imports torch
    try:
        app()
    except (InputError, FloatingPointError) as error:
        print(f"segnet: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)

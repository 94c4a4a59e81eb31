"""The web service."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from segnet.errors import InputError


def serve(
    folder: Annotated[
        Path, typer.Option("--folder", help="Database, images and exports; made for its owner alone.")
    ] = Path("~/.local/share/segnet"),
    settings: Annotated[
        Path | None, typer.Option("--settings", "-c", help="YAML file: PACS, limits and all that follows.")
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(
            "--model", "-m", help="Checkpoint or run; repeat for an ensemble. Default: the package's weights."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen at. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one. Default: 8642.")] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name that requests may use for this service; repeat it.")
    ] = None,
    trusted_proxy: Annotated[
        str | None,
        typer.Option(help="Address of a proxy with TLS that has checked the user and sends X-Forwarded-User."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the worker. Default: one a core.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Dask scheduler whose workers segment; they share the folder.")
    ] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Begin with the package's example, a real lung nodule.")
    ] = False,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve the page, the API and the hospital's PACS: click, see, correct, accept, export, follow up.

    It listens at this machine alone and prints an address that holds its token. Research software, no medical device.
    """
    try:
        from segnet.serve.server import serve as run
        from segnet.serve.settings import LOOPBACK_NAMES, load_settings
    except ImportError as error:
        raise InputError(
            f'serve: expected the packages of the service, got none of {error.name}; install "ssmcore[serve]"'
        ) from None

    def ready(address: str) -> None:
        if example:
            from segnet.io.example import IMAGE
            from segnet.serve.client import Client

            with Client(address) as client:
                address += f"&image={client.upload(IMAGE, name='example')['image']}"
        typer.echo(f"segnet serves at {address}")
        if open_browser:
            webbrowser.open(address)

    given: dict[str, object] = {
        "folder": folder.expanduser(),
        "models": tuple(model) if model else None,
        "host": host,
        "port": port,
        "hosts": (*LOOPBACK_NAMES, *allow_host) if allow_host else None,
        "trusted_proxy": trusted_proxy,
        "threads": threads,
        "scheduler": scheduler,
    }
    run(load_settings(settings, given), on_ready=ready)

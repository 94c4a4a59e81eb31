"""`segnet info`: parts and costs of a network."""

from __future__ import annotations

from typing import Annotated

import typer

from segnet.cli.options import AsJson, ConfigFile, print_json
from segnet.errors import InputError


def info(
    model: Annotated[
        str | None, typer.Argument(help="A network's name from `segnet info --list`. Default: the configuration's.")
    ] = None,
    base_width: Annotated[
        int | None, typer.Option(help="Width b of the first level. Presets: 8, 16, 32 and 64; 16 is the default.")
    ] = None,
    list_names: Annotated[bool, typer.Option("--list", help="Print the names of all networks instead.")] = False,
    weights: Annotated[
        bool, typer.Option("--weights", help="Print the weights that come with the package instead.")
    ] = False,
    config: ConfigFile = None,
    side_px: Annotated[int, typer.Option(min=32, help="Side of the slice for which costs are counted.")] = 256,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the resolved configuration as YAML instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print parameters, multiply-adds, memory and receptive field of a network, part by part; or the configuration."""
    from segnet.config import load_config

    if list_names:
        from segnet.models import names

        if as_json:
            print_json({"models": names()})
        else:
            print("\n".join(names()))
        return
    if weights:
        _print_weights(as_json)
        return
    resolved = load_config(config, {"model": {"name": model, "base_width": base_width}})
    if show_config:
        import yaml

        print(yaml.safe_dump(resolved.model_dump(mode="json"), sort_keys=False), end="")
        return
    from segnet.runtime.table import format_table
    from segnet.study.info import describe

    try:
        description = describe(resolved.model, side_px=side_px)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"side-px: {error}") from None
    if as_json:
        print_json(description)
        return
    print(
        f"{description['model']}: {description['parameters'] / 1e6:.2f} M parameters, {description['discretization']} scan"
    )
    height, width = description["receptive_field_px"]
    print(f"{description['input']} -> {description['output']}")
    print(
        f"a training step of a slice of {side_px} px: forward {description['macs'] / 1e9:.2f} G multiply-adds and "
        f"{description['scan_flops'] / 1e9:.2f} GFLOP of scan, {description['activation_bytes'] / 1e6:.0f} MB kept for the backward pass"
    )
    print(f"an output pixel sees {height} by {width} px\n")
    columns = {"part": "part", "parameters": "parameters", "macs": "multiply-adds", "scan_flops": "scan flop"}
    print(format_table(description["parts"], columns))


def _print_weights(as_json: bool) -> None:
    from segnet.io.weights import default_weights
    from segnet.study.info import describe_weights

    described = [describe_weights(path) for path in default_weights()]
    if as_json:
        print_json({"weights": described})
        return
    for facts in described:
        print(f"{facts['file']}: {facts['network']}, {facts['parameters'] / 1e6:.2f} M parameters")
        for name in ("bytes", "sha256", "sites", "licence", "attribution", "segnet", "commit"):
            print(f"  {name:<12} {facts[name]}")

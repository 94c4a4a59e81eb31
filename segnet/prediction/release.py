"""The members of an ensemble, written for others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segnet.errors import InputError
from segnet.io.weights import Release
from segnet.models import checkpoint
from segnet.prediction.model import load


def release_runs(runs: Sequence[Path], folder: Path, facts: Release) -> list[Path]:
    """Writes `<network>-<number>.safetensors` of each member into a folder; a single one without a number.

    Parameters
    ----------
    runs : as for `segnet.load`
    folder : made if it is missing; files of the same name are replaced

    Raises
    ------
    InputError
        One is no checkpoint, they do not fit together, or the folder cannot be written.
    """
    model = load(runs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"output: expected a writable folder, got {folder} ({error.strerror or error}); check its rights"
        ) from error
    files = []
    for number, (path, name) in enumerate(zip(model.paths, model.names, strict=True), 1):
        files.append(folder / (f"{name}-{number}.safetensors" if len(model) > 1 else f"{name}.safetensors"))
        checkpoint.release(path, files[-1], facts)
    return files

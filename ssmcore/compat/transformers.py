"""Mamba models of Hugging Face transformers on ssmcore's kernels.

On a CPU, transformers runs its mixers in torch alone, with a loop over time in Python. A mixer's `forward` looks up its
convolution and its scan by name in its module; `patch_transformers` replaces these functions. Projections, norms, masks and
caches stay as they are.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from .._spec import check_option

MIXERS = {
    "mamba": "MambaMixer",
    "falcon_mamba": "FalconMambaMixer",
    "jamba": "JambaMambaMixer",
    "zamba": "ZambaMambaMixer",
}
"""The mixer's class in `transformers.models.<model>.modeling_<model>`."""

TESTED = "5.24"
_OPTIONAL = {"mamba_inner_fn"}  # Jamba and Zamba do without

_originals: dict[str, dict[str, Any]] = {}


def patch_transformers(models: str | Iterable[str] = tuple(MIXERS)) -> None:
    """Runs the Mamba mixers of transformers on ssmcore's kernels for tensors on the CPU.

    Covers prefill, steps with a cache and training, in existing and new models. Results equal transformers' within rounding:
    bfloat16 and float16 models are scanned in float32, float64 models in float64. Tensors on other devices run as before. A second
    call changes nothing. Models built on Mamba-2 are not covered: Mamba2, Bamba, Zamba2, Nemotron-H, Granite hybrids.

    Parameters
    ----------
    models : one or several of "mamba", "falcon_mamba", "jamba", "zamba"

    Raises
    ------
    ArgumentError
        A model is unknown.
    ImportError
        transformers or torch is not installed, or the mixers of this transformers are built differently. Nothing is patched.

    Source: Gu and Dao, Mamba (2023), section 3.4, for the mixer; transformers 5.24 for its functions.

    Examples
    --------
    >>> import ssmcore.compat
    >>> ssmcore.compat.patch_transformers("mamba")  # doctest: +SKIP
    >>> model = transformers.AutoModelForCausalLM.from_pretrained("state-spaces/mamba-130m-hf")  # doctest: +SKIP
    """
    names = (models,) if isinstance(models, str) else tuple(models)
    for name in names:
        check_option("patch_transformers", "models", name, tuple(MIXERS))
    found = {name: _replacements(name) for name in names if name not in _originals}
    for name, replacements in found.items():
        module = _module(name)
        _originals[name] = {function: getattr(module, function) for function in replacements}
        for function, replacement in replacements.items():
            setattr(module, function, replacement)


def unpatch_transformers() -> None:
    """Puts the original functions of transformers back."""
    for name in list(_originals):
        module = _module(name)
        for function, original in _originals.pop(name).items():
            setattr(module, function, original)


def _installed(package: str, remedy: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ImportError(f"patch_transformers: expected {package} to be installed, got {error}; {remedy}") from error


def _module(name: str) -> ModuleType:
    return _installed(f"transformers.models.{name}.modeling_{name}", f"install transformers {TESTED}")


def _replacements(name: str) -> dict[str, Callable[..., Any]]:
    """The model's functions on ssmcore's kernels, by name. Raises ImportError unless its mixer calls functions with these names."""
    version = getattr(_installed("transformers", "pip install transformers"), "__version__", "of no version")
    _installed("torch", "pip install 'ssmcore[torch]'")
    from ._mixers import REPLACEMENTS

    module = _module(name)

    def refuse(expected: str, got: str) -> ImportError:
        return ImportError(
            f"patch_transformers: {name!r}: expected {expected}, got {got} in transformers {version}; "
            f"install transformers {TESTED}, for which this is written, or leave {name!r} out of models"
        )

    mixer = getattr(module, MIXERS[name], None)
    if mixer is None:
        raise refuse(f"a class {MIXERS[name]}", "none")
    called = inspect.unwrap(mixer.forward).__code__.co_names
    replacements = {}
    for function, make in REPLACEMENTS.items():
        if function not in called:
            if function in _OPTIONAL:
                continue
            raise refuse(f"{MIXERS[name]}.forward to call {function}", "another forward")
        original = getattr(module, function, None)
        if original is None:
            raise refuse(f"a function {function}", "none")
        replacement = make(original)
        wanted = _parameters(replacement)
        got = _parameters(original)
        if got[: len(wanted)] != wanted:
            raise refuse(f"{function}({', '.join(wanted)})", f"({', '.join(got)})")
        replacements[function] = replacement
    return replacements


def _parameters(function: Callable[..., Any]) -> list[str]:
    """Names of the parameters that can be passed by position."""
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind in by_position]

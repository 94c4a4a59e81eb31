"""An operation's results and gradients for a sample, on any backend."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

import ssmcore
from ssmcore.ops import SPECS

DOUTS = ("dout", "dlast_state", "dA_bar", "dB_bar")


def forward(name: str, case: dict[str, Any], backend: str) -> tuple[Any, ...]:
    """All outputs of an operation, its last state included."""
    function = getattr(ssmcore, name)
    state = {"return_last_state": True} if "return_last_state" in inspect.signature(function).parameters else {}
    outputs = function(**case, **state, backend=backend)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def backward(name: str, case: dict[str, Any], backend: str, seed: int = 0) -> tuple[Any, ...]:
    """The vjp of `name` for random output gradients."""
    if not SPECS[name].differentiable:
        return ()
    rng = np.random.default_rng(seed)
    grads = [rng.standard_normal(o.shape).astype(o.dtype) for o in forward(name, case, "numpy")]
    if name == "gate_crop":
        g = case["g"]
        return (ssmcore.gate_crop_vjp(grads[0], g.shape[g.ndim - len(case["size"]) :], backend=backend),)
    function = getattr(ssmcore, f"{name}_vjp")
    names = [name for name in inspect.signature(function).parameters if name in DOUTS]
    return function(**dict(zip(names, grads, strict=False)), **case, backend=backend)


def traits_of(case: dict[str, Any]) -> set[str]:
    """Properties of a case that not every backend supports."""
    complex_too = any(isinstance(v, np.ndarray) and v.dtype.kind == "c" for v in case.values())
    found = (("complex", complex_too), ("dense", case.get("structure") == "dense"))
    return {name for name, has in found if has}

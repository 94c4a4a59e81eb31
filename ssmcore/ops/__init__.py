"""Operations: one file each, with its record and its public functions."""

from __future__ import annotations

from importlib import import_module

from .._spec import OpSpec

_NAMES = (
    "discretize",
    "selective_scan",
    "ss2d",
    "chunk_scan",
    "causal_conv1d",
    "depthwise_conv2d",
    "attention_gate",
    "gate_crop",
    "ssm_recurrence",
)
SPECS: dict[str, OpSpec] = {name: import_module(f"{__name__}.{name}").SPEC for name in _NAMES}

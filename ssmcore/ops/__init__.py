"""Operations: one file each, with its record and its public functions."""

from __future__ import annotations

from .._spec import OpSpec
from . import (
    attention_gate,
    causal_conv1d,
    chunk_scan,
    depthwise_conv2d,
    discretize,
    gate_crop,
    selective_scan,
    ss2d,
    ssm_recurrence,
)

SPECS: dict[str, OpSpec] = {
    module.SPEC.name: module.SPEC
    for module in (
        discretize,
        selective_scan,
        ss2d,
        chunk_scan,
        causal_conv1d,
        depthwise_conv2d,
        attention_gate,
        gate_crop,
        ssm_recurrence,
    )
}

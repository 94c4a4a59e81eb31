"""Operations: one file each, with its spec, its samples and its public functions."""

from __future__ import annotations

from .._spec import OpSpec
from . import discretize, gate_crop, selective_scan

SPECS: dict[str, OpSpec] = {module.SPEC.name: module.SPEC for module in (discretize, selective_scan, gate_crop)}

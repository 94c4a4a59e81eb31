"""Samples of every operation, a module for each. Conformance tests and benchmarks take their cases from here."""

from __future__ import annotations

from importlib import import_module

from ssmcore.ops import SPECS

from .record import Case, ErrorSample, Sample, Samples

SAMPLES: dict[str, Samples] = {op: import_module(f"{__name__}.{op}").SAMPLES for op in SPECS}

__all__ = ["SAMPLES", "Case", "ErrorSample", "Sample", "Samples"]

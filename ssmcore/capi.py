"""`functions`, a capsule with the table of the C library's functions. `ssmcore_import` of ssmcore_python.h gets it for other extension modules."""

from __future__ import annotations

from ._kernels.common.binding import functions

__all__ = ["functions"]

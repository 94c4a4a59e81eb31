"""Stands in for mamba_ssm, causal_conv1d and VMamba's extensions, so that code written against them runs on a CPU untouched.

>>> import ssmcore.compat
>>> report = ssmcore.compat.install()
>>> from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
>>> ssmcore.compat.uninstall()
"""

from __future__ import annotations

from ._install import Installation, install, uninstall

__all__ = ["Installation", "install", "uninstall"]

"""Drop-ins: models of other packages on ssmcore's kernels.

`install` stands in for mamba_ssm, causal_conv1d and VMamba's extensions: code written for these runs on a CPU unchanged.
`patch_transformers` puts the kernels into the Mamba models of transformers.

>>> import ssmcore.compat
>>> report = ssmcore.compat.install()
>>> from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
>>> ssmcore.compat.uninstall()
"""

from __future__ import annotations

from ._install import Installation, install, uninstall
from .transformers import patch_transformers, unpatch_transformers

__all__ = ["Installation", "install", "patch_transformers", "uninstall", "unpatch_transformers"]

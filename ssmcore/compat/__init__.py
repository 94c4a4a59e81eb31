"""Drop-ins: other packages' models on ssmcore's kernels."""

from __future__ import annotations

from .transformers import patch_transformers, unpatch_transformers

__all__ = ["patch_transformers", "unpatch_transformers"]

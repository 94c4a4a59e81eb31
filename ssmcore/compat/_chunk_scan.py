"""The scan of Mamba-2 under its name in mamba_ssm."""

from __future__ import annotations

from typing import Any


def mamba_chunk_scan_combined(*args: Any, **kwargs: Any) -> Any:
    """`ssmcore.torch.chunk_scan`, whose arguments these are.

    Raises
    ------
    ImportError
        This ssmcore has none.
    """
    import ssmcore.torch

    chunk_scan = getattr(ssmcore.torch, "chunk_scan", None)
    if chunk_scan is None:
        raise ImportError(
            "mamba_chunk_scan_combined: this ssmcore has no ssmcore.torch.chunk_scan; install a newer one"
        )
    return chunk_scan(*args, **kwargs)

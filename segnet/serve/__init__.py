"""The web service: page, API, jobs, PACS. Imports `study` and the floors below."""

from __future__ import annotations

from typing import Any

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    if name == "Client":  # not before it is asked for: it needs the packages of the extra
        from segnet.serve.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

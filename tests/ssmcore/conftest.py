"""Two threads for every kernel: what threads share is tested on any machine and beside other workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def two_threads() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSMCORE_NUM_THREADS", "2")
        yield

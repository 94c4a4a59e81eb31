"""The worker for more than one machine: jobs are claimed here, and Dask workers segment. They share the service's folder, and never its database.

python -m segnet.serve.dispatcher < settings.json
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from segnet.errors import InputError
from segnet.prediction.model import load
from segnet.serve.segmenting import Outline, Point, Segmenter, Told
from segnet.serve.settings import Settings
from segnet.serve.store import StoredImage
from segnet.serve.worker import Worker

POLL_S = 0.02
CLICK, SCAN = 10, 0
"""Priorities of Dask: the larger one comes first."""
log = logging.getLogger("segnet.serve")


@lru_cache(maxsize=1)
def _segmenter(models: tuple[str, ...]) -> Segmenter:
    """The networks of a Dask worker, read once."""
    return Segmenter([Path(model) for model in models])


def _outline(models: tuple[str, ...], image: StoredImage, clicks: Sequence[Point], threshold: float) -> Outline:
    return _segmenter(models).outline(image, clicks, threshold)


def _everywhere(models: tuple[str, ...], image: StoredImage, threshold: float) -> list[Outline]:
    return _segmenter(models).everywhere(image, threshold)


def _warm_up(models: tuple[str, ...]) -> None:
    _segmenter(models).warm_up()


class DaskSegmenter:
    """A segmenter whose networks run on the workers of a Dask scheduler.

    Parameters
    ----------
    scheduler : address
    models : checkpoints, at the same place on every machine

    Raises
    ------
    InputError
        Dask is not installed, or no scheduler or no worker answers.
    """

    def __init__(self, scheduler: str, models: Sequence[Path] = ()) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise InputError(
                'scheduler: expected Dask, got no package "distributed"; install "ssmcore[cluster]"'
            ) from None
        self.models = tuple(map(str, models))
        try:
            self._client: Any = Client(scheduler, timeout=10, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"scheduler: expected the address of a Dask scheduler, got {scheduler} ({error}); start it"
            ) from error
        self._client.wait_for_workers(1, timeout=60)

    def __len__(self) -> int:
        """Workers of the cluster."""
        return len(self._client.scheduler_info(n_workers=-1)["workers"])

    def described(self) -> dict[str, Any]:
        model = load([Path(path) for path in self.models] or None)
        return {"names": list(model.names), "sites": model.sites, "threshold": 0.5}

    def warm_up(self) -> None:
        """Reads the networks on every worker."""
        self._client.run(_warm_up, self.models)

    def outline(
        self, image: StoredImage, clicks: Sequence[Point], threshold: float, progress: Told | None = None
    ) -> Outline:
        """As `Segmenter.outline`."""
        found: Outline = self._result(_outline, CLICK, progress, image, clicks, threshold)
        return found

    def everywhere(self, image: StoredImage, threshold: float, progress: Told | None = None) -> list[Outline]:
        """As `Segmenter.everywhere`."""
        found: list[Outline] = self._result(_everywhere, SCAN, progress, image, threshold)
        return found

    def _result(self, function: Callable[..., Any], priority: int, progress: Told | None, *arguments: Any) -> Any:
        future = self._client.submit(function, self.models, *arguments, priority=priority, pure=False)
        try:
            while not future.done():
                if progress is not None:
                    progress(0, 1)
                time.sleep(POLL_S)
            return future.result()
        finally:
            future.cancel()


def main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = Settings.model_validate_json(sys.stdin.read())
    assert settings.scheduler is not None
    segmenter = DaskSegmenter(settings.scheduler, settings.models)
    log.info("%d Dask workers segment", len(segmenter))
    workers = [Worker(settings, segmenter) for _ in range(len(segmenter))]

    def stop(*_: object) -> None:
        for worker in workers:
            worker.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()

"""Clicks on the workers of a Dask scheduler: the same masks, several at a time, also after a worker was killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from service import BALL_MM, Running, running

from segnet.errors import InputError
from segnet.serve.dispatcher import DaskSegmenter
from segnet.serve.segmenting import Segmenter
from segnet.serve.worker import Worker

distributed = pytest.importorskip("distributed", reason="Dask is in the extra cluster")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as started:
        yield started


@pytest.fixture
def service(tmp_path: Path, cluster: Any, network: Path) -> Iterator[Running]:
    """A service whose own worker is replaced by two threads of a dispatcher."""
    for started in running(tmp_path / "data"):
        started.worker.stop()
        segmenter = DaskSegmenter(cluster.scheduler_address, [network])
        workers = [Worker(started.settings, segmenter) for _ in range(len(segmenter))]
        threads = [threading.Thread(target=worker.run, daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        yield started
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join(20)


def test_two_workers_segment_and_one_may_die(service: Running, picture: Path, network: Path, cluster: Any) -> None:
    client = service.client
    image = client.upload(picture)["image"]
    points = [(*BALL_MM[:2], BALL_MM[2] + step) for step in range(-4, 5, 2)]
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda point: client.click(image, point), points))
    stored = service.worker.store.get(image)
    assert stored is not None
    alone = Segmenter([network])
    for point, lesion in zip(points, found, strict=True):
        wanted = alone.outline(stored, [point], 0.5)
        assert lesion["volume_ml"] == wanted.facts["volume_ml"]
        kept = client.mask(lesion["lesion"])
        assert (kept is None) == (wanted.mask is None)
        assert kept is None or (kept[1] == wanted.mask).all()

    victim = next(iter(cluster.workers.values())).pid
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(client.click, image, point) for point in points * 2]
        time.sleep(0.05)
        os.kill(victim, signal.SIGKILL)
        again = [answer.result() for answer in answers]
    assert [lesion["volume_ml"] for lesion in again] == [lesion["volume_ml"] for lesion in found] * 2


def test_a_scheduler_that_does_not_answer_is_told_of() -> None:
    with pytest.raises(InputError, match="scheduler: expected the address"):
        DaskSegmenter("tcp://127.0.0.1:9")

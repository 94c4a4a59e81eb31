"""Work spread over processes of this machine, or over a Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

from segnet.errors import InputError
from segnet.runtime.memory import keep_freed_memory
from segnet.runtime.spin import bound_spin

Item = TypeVar("Item")
Found = TypeVar("Found")
AHEAD = 2
"""Items waiting for each worker: enough to keep it busy, and a bound on memory."""


def end_with_parent() -> None:
    """Ends this worker when its parent ends, also when the parent is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def begin_worker() -> None:
    """Prepares a pool's process, before it imports torch. It ends with its parent, and at Ctrl-C."""
    bound_spin()
    keep_freed_memory()
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    end_with_parent()


def each(
    function: Callable[[Item], Found], items: Iterable[Item], *, workers: int = 1, scheduler: str | None = None
) -> Iterator[tuple[Item, Found | BaseException]]:
    """Each item with the result of `function`, or with the exception it raised, in the order of completion.

    An item whose process dies, by a crash or for want of memory, gets an InputError. The others go on.

    Parameters
    ----------
    function : of a module's top level, or a `functools.partial` of one, so that other processes find it
    items : taken on demand
    workers : number of processes; 1 is this process
    scheduler : address of a Dask scheduler, whose workers are used instead

    Raises
    ------
    InputError
        The scheduler cannot be reached, or Dask is not installed.
    """
    if scheduler is not None:
        yield from _on_dask(function, items, scheduler)
    elif workers == 1:
        for item in items:
            yield item, _outcome(lambda item=item: function(item))  # type: ignore[misc]
    else:
        yield from _in_processes(function, items, workers)


def _outcome(call: Callable[[], Found]) -> Found | Exception:
    try:
        return call()
    except Exception as error:
        return error


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=begin_worker)


def _in_processes(
    function: Callable[[Item], Found], items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Found | BaseException]]:
    left = iter(items)
    while True:
        suspects: list[Item] = []
        with _pool(workers) as pool:
            running: dict[Future[Found], Item] = {}
            try:
                while True:
                    for item in islice(left, AHEAD * workers - len(running)):
                        suspects.append(item)  # in case `submit` finds the pool broken
                        future = pool.submit(function, item)
                        running[future] = suspects.pop()
                    if not running:
                        return
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        outcome = _outcome(future.result)
                        if isinstance(outcome, BrokenProcessPool):
                            raise outcome
                        yield running.pop(future), outcome
            except BrokenProcessPool:
                suspects += running.values()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        # One of them killed its process and broke the pool: each runs alone, to find out which.
        for item in suspects:
            yield item, _alone(function, item)


def _alone(function: Callable[[Item], Found], item: Item) -> Found | BaseException:
    with _pool(1) as pool:
        outcome = _outcome(pool.submit(function, item).result)
    return _died() if isinstance(outcome, BrokenProcessPool) else outcome


def _died() -> InputError:
    return InputError(
        "process: expected to finish, got killed by a crash or for want of memory; check its files one by one"
    )


def _on_dask(
    function: Callable[[Item], Found], items: Iterable[Item], scheduler: str
) -> Iterator[tuple[Item, Found | BaseException]]:
    try:
        from distributed import Client, as_completed
        from distributed.scheduler import KilledWorker
    except ImportError:
        raise InputError('scheduler: expected Dask, got no package "distributed"; install "ssmcore[cluster]"') from None
    try:
        client = Client(scheduler, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"scheduler: expected the address of a Dask scheduler, got {scheduler} ({error}); start it, or check the address"
        ) from None
    with client:
        left = iter(items)
        ahead = AHEAD * max(1, sum(client.nthreads().values()))
        running: dict[Any, Item] = {}

        def submit(count: int) -> list[Any]:
            new = {client.submit(function, item, pure=False): item for item in islice(left, count)}
            running.update(new)
            return list(new)

        queue = as_completed(submit(ahead), loop=client.loop)
        for future in queue:
            item = running.pop(future)
            outcome = _outcome(future.result)
            yield item, _died() if isinstance(outcome, KilledWorker) else outcome
            for new in submit(1):
                queue.add(new)

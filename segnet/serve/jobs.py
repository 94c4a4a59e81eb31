"""Jobs in the database: accepted once, claimed under a lease, and finished together with what they made."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from segnet.serve.database import Database

Kind = Literal["segment", "scan", "ingest", "import", "export"]
State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")
PRIORITY: dict[str, int] = {"segment": 0, "ingest": 1, "import": 1, "export": 1, "scan": 2}
"""The lowest number comes first: somebody waits for a click."""
LEASE_S = 20.0
"""A worker renews its lease while it works. A job whose lease has run out is queued again."""
ATTEMPTS = 8
"""Of a job whose worker ends each time. It goes to the back of the queue, so that the next jobs do not wait for it."""


class QueueFull(Exception):
    """Too many jobs wait."""


class Lost(Exception):
    """The job is no longer this worker's: it was cancelled, or its lease ran out and another worker has it."""


@dataclass(frozen=True)
class Job:
    """A job as the database holds it.

    Attributes
    ----------
    payload, result : plain values
    position : jobs before it in the queue, 0 unless it is queued
    """

    id: str
    kind: Kind
    payload: dict[str, Any]
    state: State
    progress: float
    message: str
    result: dict[str, Any] | None
    error: str | None
    attempts: int
    worker: str | None
    cancelled: bool
    position: int = 0

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def as_dict(self) -> dict[str, Any]:
        """As clients see it."""
        names = ("id", "kind", "state", "progress", "message", "result", "error", "position")
        return {name: getattr(self, name) for name in names}


class Jobs:
    """The queue."""

    def __init__(self, database: Database, *, limit: int = 50) -> None:
        self.database, self.limit = database, limit

    def submit(self, kind: Kind, payload: dict[str, Any]) -> str:
        """The number of a new job.

        Raises
        ------
        QueueFull
            `limit` jobs wait already.
        """
        number = uuid.uuid4().hex
        with self.database.writing() as connection:
            (waiting,) = connection.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()
            if waiting >= self.limit:
                raise QueueFull
            connection.execute(
                "INSERT INTO jobs (id, kind, payload, priority, state, created) VALUES (?, ?, ?, ?, 'queued', ?)",
                (number, kind, json.dumps(payload), PRIORITY[kind], time.time()),
            )
        return number

    def get(self, number: str) -> Job | None:
        row = self.database.row("SELECT * FROM jobs WHERE id = ?", number)
        if row is None:
            return None
        position = 0
        if row["state"] == "queued":
            before = self.database.row(
                "SELECT count(*) FROM jobs WHERE state = 'queued' AND (priority, created) < (?, ?)",
                row["priority"],
                row["created"],
            )
            position = 0 if before is None else before[0]
        return _job(row, position)

    def claim(self, worker: str, *, below: int | None = None) -> Job | None:
        """The next job, now of `worker` until its lease ends; None where none waits.

        Parameters
        ----------
        below : only jobs whose priority number is smaller
        """
        wanted = "state = 'queued' AND priority < ?"
        order = "ORDER BY priority, created LIMIT 1"
        bound = 1 << 30 if below is None else below
        self.requeue_expired()
        # a plain read first: a writer's lock taken at every poll would hold up the web process
        if self.database.row(f"SELECT 1 FROM jobs WHERE {wanted} LIMIT 1", bound) is None:
            return None
        with self.database.writing() as connection:
            row = connection.execute(f"SELECT id FROM jobs WHERE {wanted} {order}", (bound,)).fetchone()
            if row is None:
                return None
            connection.execute(
                "UPDATE jobs SET state = 'running', worker = ?, lease = ?, attempts = attempts + 1 WHERE id = ?",
                (worker, time.time() + LEASE_S, row["id"]),
            )
        return self.get(row["id"])

    def renew(self, job: Job, progress: float | None = None, message: str | None = None) -> None:
        """Keeps the lease and tells how far the job is.

        Raises
        ------
        Lost
            The job was cancelled or is another worker's.
        """
        with self.database.writing() as connection:
            changed = connection.execute(
                "UPDATE jobs SET lease = ?, progress = coalesce(?, progress), message = coalesce(?, message)"
                " WHERE id = ? AND state = 'running' AND worker = ? AND NOT cancelled",
                (time.time() + LEASE_S, progress, message, job.id, job.worker),
            ).rowcount
        if not changed:
            raise Lost

    def finish(
        self, job: Job, result: dict[str, Any], write: Callable[[sqlite3.Connection], None] | None = None
    ) -> None:
        """Ends a job and writes what it made, in one transaction: a job done twice leaves its results once.

        Raises
        ------
        Lost
            As `renew`; nothing was written.
        """
        with self.database.writing() as connection:
            changed = connection.execute(
                "UPDATE jobs SET state = 'done', progress = 1, result = ?, ended = ?, lease = NULL"
                " WHERE id = ? AND state = 'running' AND worker = ? AND NOT cancelled",
                (json.dumps(result), time.time(), job.id, job.worker),
            ).rowcount
            if not changed:
                raise Lost
            if write is not None:
                write(connection)

    def fail(self, job: Job, error: str, write: Callable[[sqlite3.Connection], None] | None = None) -> None:
        """Ends a job with the reason that its client can act on."""
        with self.database.writing() as connection:
            changed = connection.execute(
                "UPDATE jobs SET state = 'failed', error = ?, ended = ?, lease = NULL WHERE id = ? AND state = 'running' AND worker = ?",
                (error, time.time(), job.id, job.worker),
            ).rowcount
            if changed and write is not None:
                write(connection)

    def drop(self, job: Job) -> None:
        """Ends a job that nothing needs any more, if it is still this worker's."""
        with self.database.writing() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'cancelled', ended = ?, lease = NULL WHERE id = ? AND state = 'running' AND worker = ?",
                (time.time(), job.id, job.worker),
            )

    def cancel(self, number: str) -> Job | None:
        """Cancels a job that has not ended. A running one stops at its next step."""
        with self.database.writing() as connection:
            connection.execute(
                "UPDATE jobs SET cancelled = 1, state = 'cancelled', ended = ?, lease = NULL WHERE id = ? AND state IN ('queued', 'running')",
                (time.time(), number),
            )
        return self.get(number)

    def release(self, worker: str) -> None:
        """Queues the jobs of a worker that is known to be gone."""
        self._requeue("worker = ?", worker)

    def requeue_expired(self) -> None:
        """Queues jobs whose worker has not renewed its lease; after `ATTEMPTS` they fail."""
        if (
            self.database.row("SELECT 1 FROM jobs WHERE state = 'running' AND lease < ? LIMIT 1", time.time())
            is not None
        ):
            self._requeue("lease < ?", time.time())

    def _requeue(self, which: str, value: Any) -> None:
        with self.database.writing() as connection:
            connection.execute(
                f"UPDATE jobs SET state = 'failed', ended = ?, lease = NULL, error = ? WHERE state = 'running' AND {which} AND attempts >= ?",
                (
                    time.time(),
                    f"worker: expected to finish, ended {ATTEMPTS} times; try a smaller image, and see the log",
                    value,
                    ATTEMPTS,
                ),
            )
            connection.execute(
                "UPDATE jobs SET state = 'queued', worker = NULL, lease = NULL, progress = 0, created = ?"
                f" WHERE state = 'running' AND {which}",
                (time.time(), value),
            )

    def counts(self) -> dict[str, int]:
        """Jobs by state."""
        return {
            row["state"]: row["n"] for row in self.database.rows("SELECT state, count(*) AS n FROM jobs GROUP BY state")
        }


def _job(row: sqlite3.Row, position: int) -> Job:
    return Job(
        row["id"],
        row["kind"],
        json.loads(row["payload"]),
        row["state"],
        row["progress"],
        row["message"],
        None if row["result"] is None else json.loads(row["result"]),
        row["error"],
        row["attempts"],
        row["worker"],
        bool(row["cancelled"]),
        position,
    )

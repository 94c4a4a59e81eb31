"""The SQLite database: images, lesions, jobs, the audit trail. Its writes are on the disk before they are reported."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FILE = "segnet.db"
SCHEMA = """
CREATE TABLE IF NOT EXISTS images (
    sha TEXT PRIMARY KEY, name TEXT NOT NULL, added REAL NOT NULL, used REAL NOT NULL, bytes INTEGER NOT NULL, facts TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS lesions (
    id TEXT PRIMARY KEY, image TEXT NOT NULL REFERENCES images(sha), created REAL NOT NULL, revision INTEGER NOT NULL,
    accepted INTEGER NOT NULL, facts TEXT NOT NULL, box TEXT, mask BLOB
);
CREATE INDEX IF NOT EXISTS lesions_of_image ON lesions(image);
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, payload TEXT NOT NULL, priority INTEGER NOT NULL, state TEXT NOT NULL,
    progress REAL NOT NULL DEFAULT 0, message TEXT NOT NULL DEFAULT '', result TEXT, error TEXT,
    attempts INTEGER NOT NULL DEFAULT 0, worker TEXT, lease REAL, cancelled INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL, ended REAL
);
CREATE INDEX IF NOT EXISTS jobs_open ON jobs(state, priority, created);
CREATE TABLE IF NOT EXISTS uploads (id TEXT PRIMARY KEY, created REAL NOT NULL, name TEXT NOT NULL, files TEXT NOT NULL, job TEXT);
CREATE TABLE IF NOT EXISTS exports (id TEXT PRIMARY KEY, created REAL NOT NULL, image TEXT NOT NULL, files TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, created REAL NOT NULL, request TEXT NOT NULL, status INTEGER NOT NULL, body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS workers (name TEXT PRIMARY KEY, pid INTEGER NOT NULL, seen REAL NOT NULL, models TEXT);
CREATE TABLE IF NOT EXISTS audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL
);
CREATE TRIGGER IF NOT EXISTS audit_is_not_changed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit trail only grows'); END;
CREATE TRIGGER IF NOT EXISTS audit_is_not_deleted BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit trail only grows'); END;
"""


class Database:
    """Connections to one database file, one for each thread.

    Parameters
    ----------
    folder : of the service; the file and its tables are made where they are missing
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE
        self._local = threading.local()
        connection = self._connect()
        connection.execute("PRAGMA journal_mode=WAL")  # before other processes connect
        connection.executescript(SCHEMA)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.file, timeout=30, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        self._local.connection = connection
        return connection

    @property
    def connection(self) -> sqlite3.Connection:
        """Of this thread."""
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        return self._connect() if found is None else found

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        return self.connection.execute(query, values).fetchall()

    def row(self, query: str, *values: Any) -> sqlite3.Row | None:
        found: sqlite3.Row | None = self.connection.execute(query, values).fetchone()
        return found

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of its writes, or none."""
        connection = self.connection
        if connection.in_transaction:  # part of a larger one
            yield connection
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def audit(self, who: str, action: str, subject: str) -> None:
        """Adds to the trail who did what to which object. Subjects are hashes and numbers, never names of patients."""
        with self.writing() as connection:
            connection.execute(
                "INSERT INTO audit (at, who, action, subject) VALUES (?, ?, ?, ?)", (time.time(), who, action, subject)
            )

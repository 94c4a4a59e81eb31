"""The worker: one process that holds the networks and does the jobs.

python -m segnet.serve.worker < settings.json
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from segnet.errors import InputError, reason
from segnet.runtime.spin import bound_spin
from segnet.serve.access import without_message
from segnet.serve.database import Database
from segnet.serve.jobs import Job, Jobs, Lost
from segnet.serve.lesions import Lesions
from segnet.serve.settings import Settings
from segnet.serve.store import Store, StoredImage

POLL_S = 0.05
HEARTBEAT_S = 2.0
RENEW_S = 0.25
TIDY_S = 600.0
NICENESS = 5
log = logging.getLogger("segnet.serve")


class Worker:
    """Claims jobs and does them, one at a time. A click interrupts longer jobs between two of their steps.

    Parameters
    ----------
    settings : of the service
    segmenter : None: made of the settings' models
    """

    def __init__(self, settings: Settings, segmenter: Any = None) -> None:
        self.settings = settings
        self.database = Database(settings.folder)
        self.store = Store(settings.folder, self.database)
        self.lesions = Lesions(self.database)
        self.jobs = Jobs(self.database)
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._segmenter = segmenter
        self._doing: list[Job] = []
        self._stopping = threading.Event()
        self._tidied = 0.0

    @property
    def segmenter(self) -> Any:
        if self._segmenter is None:
            from segnet.serve.segmenting import Segmenter

            self._segmenter = Segmenter(self.settings.models)
        return self._segmenter

    def run(self) -> None:
        """Works until `stop` is called."""
        self._present(None)
        self.segmenter.warm_up()
        self._present(self.segmenter.described())
        threading.Thread(target=self._beat, daemon=True).start()
        while not self._stopping.is_set():
            if not self.work():
                self.tidy()
                self._stopping.wait(POLL_S)
        with self.database.writing() as connection:
            connection.execute("DELETE FROM workers WHERE name = ?", (self.name,))

    def stop(self) -> None:
        self._stopping.set()

    def work(self, *, below: int | None = None) -> bool:
        """Does the next job; False where none waits."""
        job = self.jobs.claim(self.name, below=below)
        if job is None:
            return False
        self._doing.append(job)
        began = time.perf_counter()
        try:
            {
                "segment": self._segment,
                "scan": self._scan,
                "ingest": self._ingest,
                "import": self._import,
                "export": self._export,
            }[job.kind](job)
            log.info("%s %s done in %.2f s", job.kind, job.id, time.perf_counter() - began)
        except Lost:
            self.jobs.drop(job)  # its lesion was deleted, or clicked again
            log.info("%s %s was cancelled or taken over", job.kind, job.id)
        except InputError as error:
            self.jobs.fail(job, reason(error))
            log.info("%s %s refused", job.kind, job.id)
        except Exception as error:  # whatever a file does to a library, the next job is done
            self.jobs.fail(job, f"{job.kind}: expected to finish, got {type(error).__name__}; see the server's log")
            log.error("%s %s failed: %s", job.kind, job.id, type(error).__name__, exc_info=without_message(error))
        finally:
            self._doing.pop()
        return True

    def tidy(self) -> None:
        """Removes what nobody uses, now and then."""
        if time.monotonic() - self._tidied > TIDY_S or not self._tidied:
            self._tidied = time.monotonic()
            limits = self.settings.limits
            removed = self.store.evict(most_bytes=limits.store_bytes, days=limits.store_days)
            if removed:
                log.info("%d unused images removed", len(removed))

    def _told(self, job: Job, message: str) -> Callable[[int, int], None]:
        """A callback that renews the lease, ends a cancelled job, and lets clicks pass."""
        last = 0.0

        def told(done: int, of: int) -> None:
            nonlocal last
            if time.monotonic() - last > RENEW_S:
                last = time.monotonic()
                self.jobs.renew(job, done / max(of, 1), message)
            if job.kind != "segment":
                while self.work(below=1):
                    pass

        return told

    def _image(self, sha: str) -> StoredImage:
        found = self.store.get(sha)
        if found is None:
            raise InputError("image: expected one of this service, got one that was removed; upload it again")
        return found

    def _segment(self, job: Job) -> None:
        number = job.payload["lesion"]
        lesion = self.lesions.get(number)
        if lesion is None:
            raise Lost
        image = self._image(lesion.image)
        facts = lesion.facts
        found = self.segmenter.outline(
            image, [tuple(c) for c in facts["clicks"]], facts["threshold"], self._told(job, "segmenting")
        )

        def write(_: Any) -> None:
            now = self.lesions.get(number)
            if now is None or now.facts["job"] != job.id:
                raise Lost  # a later click is under way
            self.lesions.change(number, {**found.facts, "edited": False}, mask=(found.box, found.mask))

        self.jobs.finish(job, {"lesion": number}, write)

    def _scan(self, job: Job) -> None:
        image = self._image(job.payload["image"])
        threshold = job.payload["threshold"]
        found = self.segmenter.everywhere(image, threshold, self._told(job, "segmenting"))
        made: list[str] = []
        result = {"image": image.sha, "lesions": made}
        with self.database.writing():
            for number, outline in enumerate(found, 1):
                lesion = self.lesions.create(
                    image.sha, {"name": f"found {number}", "threshold": threshold, **outline.facts}
                )
                self.lesions.change(lesion, {}, mask=(outline.box, outline.mask))
                made.append(lesion)
            self.jobs.finish(job, result)

    def _ingest(self, job: Job) -> None:
        number = job.payload["upload"]
        folder = self.store.upload_folder(number)
        row = self.database.row("SELECT name FROM uploads WHERE id = ?", number)
        self._read(job, folder, None if row is None else row["name"] or None)
        shutil.rmtree(folder, ignore_errors=True)

    def _import(self, job: Job) -> None:
        from segnet.serve.archive import Archive

        if self.settings.pacs is None:
            raise InputError("pacs: expected one in the server's settings, got none; see docs/serving.md")
        folder = self.store.upload_folder(f"import-{job.id}")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(mode=0o700)
            Archive(self.settings.pacs).fetch(
                job.payload["study"], job.payload["series"], folder, self._told(job, "fetching")
            )
            self._read(job, folder, None)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _read(self, job: Job, uploaded: Path, name: str | None) -> None:
        """Images of a folder of files, read by a process with limits. The files stay until the images are kept."""
        limits = self.settings.limits
        ready = self.store.folder / "images" / f".{job.id}"
        copy = ready / "files"
        shutil.rmtree(ready, ignore_errors=True)
        ready.mkdir(mode=0o700)
        copy.mkdir()
        for file in uploaded.iterdir():
            if not file.name.startswith("."):
                os.link(file, copy / file.name)
        try:
            told = self._child(job, copy, ready, limits.ingest_bytes, limits.ingest_seconds)
            adding, shas = [], []
            for image in told["images"]:
                adding.append(
                    self.store.adopt(ready / image["folder"], image["sha"], name or image["name"], image["facts"])
                )
                shas.append(image["sha"])

            def write(connection: Any) -> None:
                for add in adding:
                    add(connection)
                for sha in shas:
                    self.database.audit(job.payload["who"], "keep image", sha)

            self.jobs.finish(job, {"image": shas[0], "images": shas, "left_out": told["left_out"]}, write)
        finally:
            shutil.rmtree(ready, ignore_errors=True)

    def _child(self, job: Job, uploaded: Path, ready: Path, most_bytes: int, seconds: float) -> dict[str, Any]:
        command = [sys.executable, "-m", "segnet.serve.ingest", str(uploaded), str(ready), str(most_bytes)]
        began, told = time.monotonic(), self._told(job, "reading")
        output = ready / "told.json"
        with (
            output.open("wb") as out,
            subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as child,
        ):
            try:
                while child.poll() is None:
                    told(0, 1)
                    if time.monotonic() - began > seconds:
                        raise InputError(
                            f"files: expected an image that is read within {seconds:g} s, got a slower one; crop it"
                        )
                    time.sleep(0.02)
            finally:
                child.kill()
        lines = output.read_text().splitlines()
        if child.returncode not in (0, 3) or not lines:
            raise InputError(
                f"files: expected an image that is read within {most_bytes / 2**30:.3g} GiB, got one that ended its reader; check the file"
            )
        answer: dict[str, Any] = json.loads(lines[-1])
        if "error" in answer:
            raise InputError(answer["error"])
        return answer

    def _export(self, job: Job) -> None:
        from segnet.serve.exporting import export

        image = self._image(job.payload["image"])
        chosen = [lesion for lesion in self.lesions.of(image.sha) if lesion.id in job.payload["lesions"]]
        folder = self.store.export_folder(job.id)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        result = export(
            image,
            chosen,
            job.payload["formats"],
            folder,
            self._told(job, "exporting"),
            self.settings.pacs if job.payload["pacs"] else None,
        )
        files = [
            {"name": path.name, "url": f"v1/exports/{job.id}/{path.name}", "bytes": path.stat().st_size}
            for path in sorted(folder.iterdir())
        ]

        def write(connection: Any) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO exports (id, created, image, files) VALUES (?, ?, ?, ?)",
                (job.id, time.time(), image.sha, json.dumps([file["name"] for file in files])),
            )
            if result is not None:
                self.database.audit(job.payload["who"], "stored in PACS", image.sha)

        self.jobs.finish(job, {"files": files, "pacs": result}, write)

    def _present(self, models: dict[str, Any] | None) -> None:
        with self.database.writing() as connection:
            connection.execute(
                "INSERT INTO workers (name, pid, seen, models) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET seen = excluded.seen, models = coalesce(excluded.models, models)",
                (self.name, os.getpid(), time.time(), None if models is None else json.dumps(models)),
            )

    def _beat(self) -> None:
        """Says that the worker lives, and keeps the leases of its jobs. It ends with the process that started it."""
        parent = os.getppid()
        while not self._stopping.wait(HEARTBEAT_S):
            if os.getppid() != parent:
                os._exit(1)
            self._present(None)
            for job in list(self._doing):
                with suppress(Lost):  # the job itself finds out at its next step
                    self.jobs.renew(job)


def release_dead(database: Database) -> None:
    """Queues the jobs of workers of this machine that are gone, without waiting for their leases.

    A worker whose server was killed is ended first. The caller holds the folder's lock, so no other server has a worker here.
    """
    for row in database.rows("SELECT name, pid FROM workers WHERE name LIKE ?", f"{socket.gethostname()}:%"):
        try:
            command = Path(f"/proc/{row['pid']}/cmdline").read_bytes()
        except OSError:
            command = b""
        if b"segnet.serve.worker" in command or b"segnet.serve.dispatcher" in command:
            with suppress(ProcessLookupError):
                os.kill(row["pid"], signal.SIGKILL)
        Jobs(database).release(row["name"])
        with database.writing() as connection:
            connection.execute("DELETE FROM workers WHERE name = ?", (row["name"],))


def main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    bound_spin()  # before torch is imported
    settings = Settings.model_validate_json(sys.stdin.read())
    os.nice(NICENESS)
    from segnet.runtime.threads import threads

    worker = Worker(settings)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the web process tells it to stop
    if settings.threads is None:
        worker.run()
    else:
        with threads(settings.threads):
            worker.run()


if __name__ == "__main__":
    main()

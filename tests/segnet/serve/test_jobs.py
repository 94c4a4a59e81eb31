"""The queue: each job once, in order, under a lease, with its results in the same transaction."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from segnet.serve import jobs as module
from segnet.serve.database import Database
from segnet.serve.jobs import ATTEMPTS, Jobs, Lost, QueueFull
from segnet.serve.lesions import Lesions, Stale
from segnet.serve.store import Store


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(Database(tmp_path), limit=10)


def test_clicks_come_first_then_the_oldest(jobs: Jobs) -> None:
    order = [jobs.submit(kind, {}) for kind in ("scan", "export", "segment", "ingest", "segment")]
    got = [jobs.claim("w").id for _ in order]
    assert got == [order[k] for k in (2, 4, 1, 3, 0)]
    assert jobs.claim("w") is None


def test_a_position_counts_those_before(jobs: Jobs) -> None:
    first, second, click = (jobs.submit(kind, {}) for kind in ("scan", "scan", "segment"))
    assert [jobs.get(number).position for number in (click, first, second)] == [0, 1, 2]


def test_only_clicks_pass_a_longer_job(jobs: Jobs) -> None:
    jobs.submit("export", {})
    assert jobs.claim("w", below=1) is None
    click = jobs.submit("segment", {})
    assert jobs.claim("w", below=1).id == click


def test_a_job_whose_lease_ran_out_is_another_workers(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    number = jobs.submit("segment", {})
    slow = jobs.claim("slow")
    assert jobs.claim("quick") is None
    now = time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + module.LEASE_S + 1)
    quick = jobs.claim("quick")
    assert quick.id == number
    written: list[str] = []
    for change in (lambda: jobs.renew(slow), lambda: jobs.finish(slow, {}, lambda _: written.append("slow"))):
        with pytest.raises(Lost):
            change()
    jobs.finish(quick, {"by": "quick"}, lambda _: written.append("quick"))
    assert written == ["quick"]
    assert jobs.get(number).result == {"by": "quick"}


def test_a_lease_is_kept_by_renewing_it(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs.submit("scan", {})
    job = jobs.claim("w")
    start = time.time()
    for step in range(1, 5):
        monkeypatch.setattr(module.time, "time", lambda step=step: start + step * 0.9 * module.LEASE_S)
        jobs.requeue_expired()
        jobs.renew(job, step / 5, "going")
    assert (jobs.get(job.id).state, jobs.get(job.id).progress) == ("running", 0.8)


def test_a_job_that_ends_its_worker_fails_after_some_attempts(jobs: Jobs) -> None:
    number = jobs.submit("ingest", {})
    for attempt in range(ATTEMPTS):
        assert jobs.get(number).state == "queued"
        assert jobs.claim(f"w{attempt}").id == number
        jobs.release(f"w{attempt}")
    assert jobs.get(number).state == "failed"
    assert "try a smaller image" in jobs.get(number).error
    assert jobs.claim("w") is None


def test_a_job_that_ended_its_worker_lets_others_pass(jobs: Jobs) -> None:
    first, second = (jobs.submit("ingest", {}) for _ in range(2))
    assert jobs.claim("w").id == first
    jobs.release("w")
    assert [jobs.claim("v").id, jobs.claim("v").id] == [second, first]


def test_a_cancelled_job_writes_nothing(jobs: Jobs) -> None:
    number = jobs.submit("scan", {})
    job = jobs.claim("w")
    jobs.cancel(number)
    written: list[int] = []
    with pytest.raises(Lost):
        jobs.finish(job, {}, lambda _: written.append(1))
    jobs.fail(job, "too late")
    assert not written
    assert jobs.get(number).state == "cancelled"
    done = jobs.submit("segment", {})
    jobs.finish(jobs.claim("w"), {})
    assert jobs.cancel(done).state == "done"


def test_results_and_state_are_written_together(jobs: Jobs) -> None:
    jobs.submit("segment", {})
    job = jobs.claim("w")

    def fails(connection: Any) -> None:
        connection.execute("INSERT INTO audit (at, who, action, subject) VALUES (0, 'x', 'half', 'y')")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        jobs.finish(job, {}, fails)
    assert jobs.get(job.id).state == "running"
    assert jobs.database.row("SELECT count(*) AS n FROM audit")["n"] == 0


def test_a_full_queue_refuses(jobs: Jobs) -> None:
    for _ in range(10):
        jobs.submit("segment", {})
    with pytest.raises(QueueFull):
        jobs.submit("segment", {})
    jobs.claim("w")
    jobs.submit("segment", {})


def claim_all(folder: Path, name: str, out: Any) -> None:
    jobs = Jobs(Database(folder))
    while (job := jobs.claim(name)) is not None:
        out.put(job.id)
        jobs.finish(job, {})


def test_two_processes_share_the_jobs_without_overlap(tmp_path: Path) -> None:
    jobs = Jobs(Database(tmp_path), limit=100)
    numbers = [jobs.submit("segment", {}) for _ in range(60)]
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    processes = [context.Process(target=claim_all, args=(tmp_path, f"w{k}", out)) for k in range(2)]
    for process in processes:
        process.start()
    claimed = [out.get(timeout=60) for _ in numbers]
    for process in processes:
        process.join(30)
    assert sorted(claimed) == sorted(numbers)
    assert out.empty()


def test_a_lesion_of_an_old_revision_is_stale(tmp_path: Path) -> None:
    database = Database(tmp_path)
    store, lesions = Store(tmp_path, database), Lesions(database)
    with database.writing() as connection:
        store.folder_of("a" * 64).mkdir()
        connection.execute("INSERT INTO images VALUES (?, 'x', 0, 0, 1, '{}')", ("a" * 64,))
    number = lesions.create("a" * 64, {})
    lesions.change(number, {"name": "one"}, revision=1)
    with pytest.raises(Stale):
        lesions.change(number, {"name": "two"}, revision=1)
    assert lesions.get(number).facts["name"] == "one"


def test_unused_images_go_first_and_accepted_ones_stay(tmp_path: Path) -> None:
    database = Database(tmp_path)
    store, lesions = Store(tmp_path, database), Lesions(database)
    shas = [letter * 64 for letter in "abcde"]
    for age, sha in enumerate(shas):
        store.folder_of(sha).mkdir()
        with database.writing() as connection:
            connection.execute("INSERT INTO images VALUES (?, 'x', 0, ?, 100, '{}')", (sha, 1000.0 - age))
    for sha, accepted in ((shas[4], True), (shas[0], False)):
        lesions.change(lesions.create(sha, {}), {}, accepted=accepted)
    Jobs(database).submit("export", {"image": shas[3]})
    assert store.evict(most_bytes=1000, days=7, now=1000) == []
    # the oldest is accepted, the next one is needed by a job
    assert store.evict(most_bytes=400, days=7, now=1000) == [shas[2]]
    assert store.evict(most_bytes=1000, days=1, now=1000 + 2 * 86400) == [shas[1], shas[0]]
    assert {image.sha for image in store.all()} == {shas[3], shas[4]}
    assert not store.folder_of(shas[0]).exists()

"""Who is let in, what a body may be, and that nothing of a patient reaches a log."""

from __future__ import annotations

import gzip
import logging
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import pytest
from dicom_series import PATIENT, make_series, save
from service import BALL_MM, TOKEN, Running, running

from segnet.errors import InputError
from segnet.serve.access import name_of
from segnet.serve.client import ServiceError
from segnet.serve.server import serve
from segnet.serve.settings import Settings, load_settings, prepare_folder, token_of

BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with low limits."""
    limits = {
        "upload_bytes": 2**20,
        "body_bytes": 4096,
        "queue": 3,
        "upload_files": 4,
        "mask_bytes": 10_000,
        "mask_voxels": 10_000,
    }
    yield from running(tmp_path_factory.mktemp("small"), limits=limits)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Basic " + TOKEN}, 401),
        ({"cookie": f"segnet_token={TOKEN}x"}, 401),
        ({"cookie": f"segnet_token={TOKEN}"}, 200),
        (BEARER, 200),
        ({**BEARER, "host": "evil.example"}, 403),  # a page of another site whose name points here
        ({**BEARER, "host": "localhost:9"}, 200),
        ({**BEARER, "host": ""}, 403),
        ({**BEARER, "origin": "http://evil.example"}, 403),
        ({**BEARER, "origin": "null"}, 403),
        ({**BEARER, "x-forwarded-user": "root", "authorization": ""}, 401),
    ],
)
def test_who_is_let_in(small: Running, headers: dict[str, str], status: int) -> None:
    answer = httpx.get(f"{small.address}/v1/about", headers=headers)
    assert answer.status_code == status
    if status >= 400:
        detail = answer.json()["detail"]
        assert "expected" in detail
        assert TOKEN not in detail


def test_an_own_page_may_write_and_a_foreign_one_may_not(small: Running) -> None:
    body = {"files": [{"name": "a.nii", "size": 1}]}
    for headers, status in (
        ({"origin": small.address}, 201),
        ({"origin": "http://evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 201),
    ):
        answer = httpx.post(f"{small.address}/v1/uploads", json=body, headers={**BEARER, **headers})
        assert answer.status_code == status, headers


def test_the_address_with_the_token_sets_a_cookie_that_scripts_cannot_read(small: Running) -> None:
    answer = httpx.get(f"{small.address}/?token={TOKEN}&image=abc")
    assert answer.status_code == 303
    assert answer.headers["location"] == "./?image=abc"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert httpx.get(f"{small.address}/?token=wrong").status_code == 401


def test_every_answer_forbids_foreign_scripts_and_frames(small: Running) -> None:
    for path in ("/", "/v1/about", "/healthz", "/v1/nothing"):
        headers = httpx.get(small.address + path, headers=BEARER).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert httpx.get(f"{small.address}/v1/images", headers=BEARER).headers["cache-control"] == "no-store"


def test_files_of_the_page_are_packed_and_asked_for_again(small: Running) -> None:
    answer = httpx.get(f"{small.address}/static/niivue.umd.js")
    assert answer.headers["content-encoding"] == "gzip"
    again = httpx.get(f"{small.address}/static/niivue.umd.js", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304
    assert httpx.get(f"{small.address}/").headers["content-type"].startswith("text/html")


def test_a_proxy_that_is_trusted_names_the_user(tmp_path: Path) -> None:
    started = running(tmp_path / "proxied", trusted_proxy="127.0.0.1")
    service = next(started)
    try:
        assert httpx.get(f"{service.address}/v1/about", headers={"x-forwarded-user": "dr-who"}).status_code == 200
        assert httpx.get(f"{service.address}/v1/about").status_code == 401
        body = {"files": [{"name": "a.nii", "size": 1}]}
        httpx.post(f"{service.address}/v1/uploads", json=body, headers={"x-forwarded-user": "dr-who"})
        assert service.worker.database.row("SELECT who FROM audit WHERE action = 'upload'")["who"] == "dr-who"
    finally:
        started.close()


def test_a_header_does_not_make_a_client_the_proxy(tmp_path: Path) -> None:
    started = running(tmp_path / "proxied", trusted_proxy="10.1.2.3")
    service = next(started)
    try:
        headers = {"x-forwarded-user": "dr-who", "x-forwarded-for": "10.1.2.3", "forwarded": "for=10.1.2.3"}
        assert httpx.get(f"{service.address}/v1/about", headers=headers).status_code == 401
    finally:
        started.close()


def test_bodies_have_limits(small: Running) -> None:
    client = small.client
    for files, status in (
        ([{"name": "a", "size": 2**20 + 1}], 413),
        ([{"name": str(k), "size": 1} for k in range(5)], 413),
        ([{"name": "a", "size": -1}], 422),
        ([{"name": "x" * 5000, "size": 1}], 413),
    ):
        with pytest.raises(ServiceError) as refused:
            client.request("POST", "uploads", json={"files": files})
        assert refused.value.status == status
    upload = client.request("POST", "uploads", json={"files": [{"name": "a", "size": 100}]}).json()["upload"]
    with pytest.raises(ServiceError, match="got more"):
        client.request("PUT", f"uploads/{upload}/files/0", content=iter([b"x" * 60] * 2))
    with pytest.raises(ServiceError, match="got 60"):
        client.request("PUT", f"uploads/{upload}/files/0", content=b"x" * 60)
    with pytest.raises(ServiceError, match="got none of a"):
        client.request("POST", f"uploads/{upload}/complete")
    assert [file.name for file in (small.settings.folder / "uploads" / upload).iterdir()] == []
    # a body without a length, on a path that takes little
    answer = httpx.post(f"{small.address}/v1/uploads", content=iter([b" " * 3000] * 3), headers=BEARER)
    assert answer.status_code in (400, 413)


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "..", "/etc/passwd", "a\\..\\b", "\x00", "-rf", "CON", "é" * 300, " "]
)
def test_names_of_files_lead_nowhere(small: Running, name: str) -> None:
    upload = small.client.request("POST", "uploads", json={"files": [{"name": name, "size": 4}]}).json()["upload"]
    small.client.request("PUT", f"uploads/{upload}/files/0", content=b"abcd")
    (file,) = (small.settings.folder / "uploads" / upload).iterdir()
    assert file.name.startswith("00000-")
    assert file.read_bytes() == b"abcd"
    job = small.client.request("POST", f"uploads/{upload}/complete").json()["job"]
    with pytest.raises(ServiceError, match="expected NIfTI"):
        small.client.wait(job)


@pytest.mark.parametrize("path", ["images/..%2f..%2fsegnet.db", "exports/..%2f/segnet.db", "exports/x/..%2f..%2ftoken"])
def test_paths_lead_nowhere(small: Running, path: str) -> None:
    with pytest.raises(ServiceError) as refused:
        small.client.request("GET", path)
    assert refused.value.status in (404, 405)
    assert httpx.get(f"{small.address}/static/..%2f..%2fsettings.py").status_code == 404


def test_a_bomb_ends_its_reader_alone(small: Running, tmp_path: Path) -> None:
    """A gigabyte of zeros in a megabyte, said to be a volume of that size."""
    header = nib.Nifti1Header()
    header.set_data_shape((1000, 1000, 1000))
    header.set_data_dtype(np.float64)
    path = tmp_path / "bomb.nii.gz"
    with gzip.open(path, "wb", 9) as file:
        file.write(header.binaryblock + b"\0" * 4)
        for _ in range(64):
            file.write(bytes(2**20))
    with pytest.raises(ServiceError, match="expected"):
        small.client.upload(path)
    assert small.client.about()["model"] is not None


def test_a_packed_mask_is_inflated_no_further_than_its_box(small: Running, picture: Path) -> None:
    image = small.client.upload(picture)
    lesion = small.client.click(image["image"], BALL_MM)
    url = f"lesions/{lesion['lesion']}/mask"
    bomb = gzip.compress(bytes(5_000_000))
    for body, box, status, told in (
        (bomb, "0,0,0,4,4,4", 422, "got more"),
        (b"abc", "0,0,0,4,4,4", 422, "damaged"),
        (gzip.compress(bytes(64))[:-9], "0,0,0,4,4,4", 422, "damaged"),
        (gzip.compress(bytes([2] * 64)), "0,0,0,4,4,4", 422, "expected 0 and 1"),
        (gzip.compress(bytes(64)), "0,0,0,4,4,999999", 422, "expected a box within"),
        (gzip.compress(bytes(64)), "0,0,0,40,40,30", 413, "at most 10000 voxels"),
        (gzip.compress(bytes(64)), "-1,0,0,4,4,4", 422, "six whole numbers"),
        (bytes(20_000), "0,0,0,4,4,4", 413, "at most 10000 bytes"),
    ):
        with pytest.raises(ServiceError, match=told) as refused:
            small.client.request("PUT", url, content=body, headers={"x-box": box})
        assert refused.value.status == status
    assert small.client.lesion(lesion["lesion"])["revision"] == lesion["revision"]


def test_a_full_queue_is_refused_and_nothing_is_lost(small: Running, picture: Path) -> None:
    image = small.client.upload(picture)["image"]
    hold = threading.Event()
    handle = small.hold(hold)
    jobs = []
    try:
        until = time.monotonic() + 10
        for _ in range(4):
            jobs.append(small.client.request("POST", f"images/{image}/scan", json={}).json()["job"])
            while small.worker.jobs.counts().get("running", 0) == 0:  # the first one leaves its place in the queue
                assert time.monotonic() < until
        with pytest.raises(ServiceError, match="full queue") as refused:
            small.client.request("POST", f"images/{image}/scan", json={})
        assert refused.value.status == 429
        assert httpx.get(f"{small.address}/healthz").status_code == 200
    finally:
        hold.set()
        handle.remove()
    assert all(small.client.wait(job)["state"] == "done" for job in jobs)


def test_images_are_kept_in_no_cache(small: Running, picture: Path) -> None:
    image = small.client.upload(picture)["image"]
    for path in (f"images/{image}/volume.nii.gz", f"images/{image}/slices/z/0", f"images/{image}"):
        assert small.client.request("GET", path).headers["cache-control"] == "no-store"


def test_nothing_of_a_patient_reaches_a_log_or_the_trail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    started = running(tmp_path / "private")
    service = next(started)
    try:
        series = make_series(np.full((12, 40, 40), -800.0))
        image = service.client.upload(save(tmp_path / PATIENT, series))
        service.client.click(image["image"], np.array(image["affine"]) @ [20, 20, 6, 1] @ np.eye(4, 3))
        damaged = tmp_path / f"{PATIENT}.nii.gz"
        damaged.write_bytes(gzip.compress(b"no image" * 100))
        with pytest.raises(ServiceError):
            service.client.upload(damaged, name=PATIENT)
        httpx.get(f"{service.address}/v1/pacs/studies?name={PATIENT}&patient_id={PATIENT}", headers=BEARER)
        httpx.get(f"{service.address}/{PATIENT}", headers=BEARER)
        metrics = httpx.get(f"{service.address}/metrics", headers=BEARER).text
    finally:
        started.close()
    assert 'segnet_requests_total{method="POST"' in metrics
    printed = capfd.readouterr()
    audit = (
        sqlite3.connect(tmp_path / "private" / "segnet.db").execute("SELECT who, action, subject FROM audit").fetchall()
    )
    assert len(audit) >= 3
    secrets = (PATIENT, "Zebediah", "Secret")
    logged = "\n".join(
        record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))
    )
    assert "ingest" in logged
    for text in (logged, printed.out, printed.err, metrics, str(audit)):
        assert not any(secret in text for secret in secrets)


def test_the_trail_only_grows(small: Running) -> None:
    small.worker.database.audit("me", "test", "1")
    for change in ("UPDATE audit SET who = 'you'", "DELETE FROM audit"):
        with pytest.raises(sqlite3.IntegrityError, match="only grows"):
            small.worker.database.connection.execute(change)


def test_the_folder_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    prepare_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    token = token_of(Settings(folder=folder))
    assert len(token) >= 32
    assert token_of(Settings(folder=folder)) == token
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    folder.chmod(0o755)
    with pytest.raises(InputError, match="chmod 700"):
        prepare_folder(folder)


def test_a_network_needs_a_proxy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--trusted-proxy"):
        serve(Settings(folder=tmp_path / "x", host="0.0.0.0"))


def test_settings_are_told_of_by_name(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("limits: {queue: 0}")
    with pytest.raises(InputError, match=r"limits\.queue.*docs/serving\.md"):
        load_settings(file, {"folder": tmp_path})
    file.write_text("pacs: {url: 'http://x', password: secret}")
    with pytest.raises(InputError, match=r"pacs\.password"):
        load_settings(file, {"folder": tmp_path})
    file.write_text("- a")
    with pytest.raises(InputError, match="expected names and values"):
        load_settings(file, {"folder": tmp_path})
    assert load_settings(None, {"folder": tmp_path, "port": 9}).port == 9


@pytest.mark.parametrize(
    ("host", "name"), [("a.b:80", "a.b"), ("[::1]:80", "::1"), ("LOCALHOST", "localhost"), ("[", ""), ("a@b", "b")]
)
def test_names_of_hosts(host: str, name: str) -> None:
    assert name_of(host) == name


def test_an_error_of_its_own_is_answered_and_told_without_its_text(
    small: Running, picture: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = small.client.upload(picture)["image"]
    voxels = small.settings.folder / "images" / image / "voxels.npy"
    kept = voxels.read_bytes()
    voxels.write_bytes(PATIENT.encode() * 100)  # numpy quotes such bytes in its message
    try:
        with pytest.raises(ServiceError, match="service: expected to answer") as refused:
            small.client.request("GET", f"images/{image}/slices/z/0")
    finally:
        voxels.write_bytes(kept)
    assert refused.value.status == 500
    until = time.monotonic() + 10
    while "of a request failed" not in caplog.text and time.monotonic() < until:  # it is logged after the answer
        time.sleep(0.01)
    assert "get_slice" in caplog.text
    assert "Zebediah" not in caplog.text

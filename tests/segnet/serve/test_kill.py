"""kill -9 of the web process or the worker under load: what was accepted is done, once, and nothing is half written."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from ball_series import SHAPE, ball_series
from service import BALL_MM

from segnet.serve.client import Client, ServiceError
from segnet.serve.pacs import DicomNodeSettings, DicomWeb, DicomWebSettings

TOKEN = "token-of-the-kill-test"


class Server:
    """`segnet serve` as a process of its own, with a small network."""

    def __init__(self, folder: Path, model: Path, port: int, **more: object) -> None:
        self.folder, self.port = folder, port
        self.settings = folder.with_name("settings.yaml")
        self.settings.write_text(json.dumps({"token": TOKEN, "limits": {"queue": 1000}, **more}))  # JSON is YAML
        self.command = [
            *(sys.executable, "-m", "segnet", "serve", "--folder", str(folder), "-c", str(self.settings)),
            *("--port", str(port), "-m", str(model), "--threads", "1"),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = self.folder.with_name("serve.log").open("ab")
        self.process = subprocess.Popen(self.command, stdout=log, stderr=log)

    def wait(self, path: str = "/healthz", seconds: float = 90) -> None:
        until = time.monotonic() + seconds
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            assert time.monotonic() < until, self.folder.with_name("serve.log").read_text()[-3000:]
            time.sleep(0.05)

    def workers(self) -> list[int]:
        with sqlite3.connect(self.folder / "segnet.db", timeout=30) as connection:
            return [row[0] for row in connection.execute("SELECT pid FROM workers")]

    def kill(self, which: str) -> None:
        if which == "web":
            assert self.process is not None
            self.process.kill()
            self.process.wait()
            self.start()
        else:
            for pid in self.workers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(30)


def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_nothing_accepted_is_lost(tmp_path: Path, network: Path, picture: Path, kills: int) -> None:
    rng = random.Random(kills)
    server = Server(tmp_path / "data", network, free_port())
    server.start()
    accepted: dict[str, str] = {}
    sent = 0
    try:
        server.wait("/readyz")
        with Client(f"http://127.0.0.1:{server.port}", TOKEN, timeout_s=20) as client:
            image = client.upload(picture)["image"]
            for kill in range(kills):
                server.wait("/readyz")  # so that most kills meet a job
                for _ in range(rng.randint(1, 4)):
                    sent += 1
                    body = {"click": [BALL_MM[0], BALL_MM[1], BALL_MM[2] + sent % 5], "name": f"click {sent}"}
                    try:
                        answer = client.request(
                            "POST", f"images/{image}/lesions", json=body, headers={"idempotency-key": f"key {sent}"}
                        ).json()
                        accepted[f"click {sent}"] = answer["job"]
                    except (httpx.HTTPError, ServiceError):
                        pass  # not accepted: the client would send it again
                time.sleep(rng.uniform(0, 0.3))
                server.kill("web" if kill % 2 else "worker")
            server.wait("/readyz")
            assert len(accepted) > kills / 2
            for job in accepted.values():
                assert client.wait(job, seconds=120)["state"] == "done"
            lesions = client.image(image)["lesions"]
            names = [lesion["name"] for lesion in lesions]
            assert len(names) == len(set(names))  # no click was done twice
            assert set(accepted) <= set(names)
            volumes: dict[float, set[float]] = {}
            for lesion in lesions:
                if lesion["state"] == "done":
                    volumes.setdefault(lesion["clicks"][0][2], set()).add(lesion["volume_ml"])
            assert all(len(found) == 1 for found in volumes.values())  # every mask is the whole mask
    finally:
        server.stop()
    with sqlite3.connect(server.folder / "segnet.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not list(server.folder.rglob("*.tmp"))


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_an_upload_is_whole_or_not_there(tmp_path: Path, network: Path, picture: Path, kills: int) -> None:
    rng = random.Random(kills)
    server = Server(tmp_path / "data", network, free_port())
    server.start()
    try:
        server.wait("/readyz")
        with Client(f"http://127.0.0.1:{server.port}", TOKEN, timeout_s=20) as client:
            size = picture.stat().st_size
            for kill in range(kills):
                upload = client.request(
                    "POST", "uploads", json={"files": [{"name": f"{kill}.nii.gz", "size": size}]}
                ).json()
                client.request("PUT", f"uploads/{upload['upload']}/files/0", content=picture.read_bytes())
                job = client.request("POST", f"uploads/{upload['upload']}/complete").json()["job"]
                time.sleep(rng.uniform(0, 1.0))
                server.kill("worker")
                image = client.wait(job, seconds=90)["result"]["image"]
                assert client.click(image, BALL_MM)["state"] == "done"
                client.remove(image, accepted=True)
    finally:
        server.stop()
    assert not [path.name for path in (server.folder / "images").iterdir()]


@pytest.mark.parametrize("way", ["stow", "cstore"])
@pytest.mark.parametrize("kills", [2, pytest.param(25, marks=pytest.mark.slow)])
def test_an_archive_holds_every_export_once(
    orthanc: tuple[DicomWebSettings, DicomNodeSettings],
    tmp_path: Path,
    network: Path,
    kills: int,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    web, node = orthanc
    monkeypatch.setenv("SEGNET_PACS_PASSWORD", web.password)
    archive = DicomWeb(web)
    archive.store(ball_series())
    pacs = {"url": web.url, "user": web.user, "store": way, "host": node.host, "port": node.port}
    pacs["called_ae_title"] = node.ae_title
    rng = random.Random(kills)
    server = Server(tmp_path / "data", network, free_port(), pacs=pacs)
    server.start()
    try:
        server.wait("/readyz")
        with Client(f"http://127.0.0.1:{server.port}", TOKEN, timeout_s=20) as client:
            (study,) = client.request("GET", "pacs/studies", params={"patient_id": "P1"}).json()["studies"]
            (series,) = client.request("GET", f"pacs/studies/{study['study']}/series").json()["series"]
            body = {"study": study["study"], "series": series["series"]}
            job = client.wait(client.request("POST", "pacs/import", json=body).json()["job"])
            image = job["result"]["image"]
            for kill in range(kills):
                server.wait("/readyz")
                lesion = client.click(image, BALL_MM, name=f"ball {kill}")["lesion"]
                client.change(lesion, accepted=True)
                wanted = {"image": image, "lesions": [lesion], "formats": [], "pacs": True}
                export = client.request("POST", "exports", json=wanted).json()["job"]
                time.sleep(rng.uniform(0, 0.6))
                server.kill("web" if kill % 2 else "worker")  # a worker that dies again and again is started ever later
                server.wait("/readyz")
                assert client.wait(export, seconds=120)["result"]["pacs"]["verified"]
    finally:
        server.stop()
    held: dict[str, int] = {}
    for one in archive.series(study["study"]):
        held[one.modality] = held.get(one.modality, 0) + one.instances
    assert held == {"CT": SHAPE[0], "SEG": kills, "SR": kills}


def test_a_stopped_server_leaves_no_process_and_frees_its_folder(tmp_path: Path, network: Path) -> None:
    server = Server(tmp_path / "data", network, free_port())
    server.start()
    server.wait("/readyz")
    second = subprocess.run([*server.command[:-6], "--port", "0"], capture_output=True, text=True, check=False)
    assert second.returncode == 3
    assert "expected one that no other server uses" in second.stderr
    (worker,) = server.workers()
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    server.start()
    server.wait()
    server.stop()

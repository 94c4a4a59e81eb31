"""Runs the web process, and the worker beside it."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import uvicorn

from segnet.errors import InputError
from segnet.runtime.locks import locked
from segnet.serve.app import make_app
from segnet.serve.database import Database
from segnet.serve.settings import LOOPBACK_NAMES, Settings, prepare_folder, token_of
from segnet.serve.worker import release_dead

log = logging.getLogger("segnet.serve")


class WorkerProcess:
    """The worker's process, started again whenever it ends."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.folder)
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Lets the worker end its job, for ten seconds."""
        self._stopping.set()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._thread.join(5)

    def _watch(self) -> None:
        module = "segnet.serve.worker" if self.settings.scheduler is None else "segnet.serve.dispatcher"
        pause = 0.5  # doubled where a worker dies before it is ready: it would die again and again
        while not self._stopping.is_set():
            release_dead(self.database)
            self._process = subprocess.Popen([sys.executable, "-m", module], stdin=subprocess.PIPE)
            assert self._process.stdin is not None
            self._process.stdin.write(self.settings.model_copy(update={"token": None}).model_dump_json().encode())
            self._process.stdin.close()
            code = self._process.wait()
            if self._stopping.is_set():
                return
            log.error("the worker ended with code %d and is started again", code)
            ready = "SELECT 1 FROM workers WHERE pid = ? AND models IS NOT NULL"
            pause = min(2 * pause, 30) if self.database.row(ready, self._process.pid) is None else 0.5
            self._stopping.wait(pause)


def serve(settings: Settings, *, on_ready: Any = None) -> None:
    """Serves until the process is told to stop.

    Parameters
    ----------
    on_ready : called in a thread, with the page's address, which holds the token, when requests are answered

    Raises
    ------
    InputError
        The folder is used by another server or readable for others, the port is taken, or the service would be open to a network
        without a proxy in front.
    """
    if settings.host not in LOOPBACK_NAMES and settings.trusted_proxy is None:
        raise InputError(
            f"host: expected a loopback address, or a proxy with TLS in front, got {settings.host}; add --trusted-proxy with the proxy's address"
        )
    prepare_folder(settings.folder)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    token = token_of(settings)
    refusal = f"folder: expected one that no other server uses, got {settings.folder}; stop the other, or choose another folder"
    with locked(settings.folder, refusal), _bound(settings) as bound:
        host, port = bound.getsockname()[:2]
        app = make_app(settings, token)
        worker = WorkerProcess(settings)
        server = uvicorn.Server(configured(app))
        shown = f"[{host}]" if ":" in host else host

        def tell() -> None:
            while not server.started:
                time.sleep(0.02)
            if on_ready is not None:
                on_ready(f"http://{shown}:{port}/?token={token}")

        # uvicorn raises the signal again after its own end, which would end the process before the worker
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        worker.start()
        threading.Thread(target=tell, daemon=True).start()
        try:
            with suppress(KeyboardInterrupt):
                server.run(sockets=[bound])
        finally:
            worker.stop()


def configured(app: Any, **more: Any) -> uvicorn.Config:
    """uvicorn's settings.

    There is no access log: queries of the PACS carry names and numbers of patients. Headers do not change the address of a client:
    that of a trusted proxy is compared with the connection's own.
    """
    fixed: dict[str, Any] = {"log_config": None, "access_log": False, "proxy_headers": False, "server_header": False}
    return uvicorn.Config(app, timeout_keep_alive=30, lifespan="off", **fixed, **more)


def _bound(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
    except OSError as error:
        bound.close()
        raise InputError(
            f"port: expected a free one at {settings.host}, got {settings.port} ({error.strerror}); choose another with --port"
        ) from error
    return bound

"""A DICOMweb archive in memory that can be told to misbehave."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pydicom

from segnet.serve.dicom_objects import encoded

Answer = tuple[int, str, bytes]


@dataclass
class FakeArchive:
    """What it holds, by instance UID, and what it does.

    Attributes
    ----------
    before : called with method and path; an answer of its own is sent instead
    kept : what becomes of an instance that is sent; None loses it
    confirmed, failed : what a confirmation lists: instance UIDs and failure reasons
    sent : what is sent for an instance that is asked for
    counted, listed : number of instances that a search counts, and how many it lists at most
    json_type : content type of its confirmations
    """

    held: dict[str, Any] = field(default_factory=dict)
    before: Callable[[str, str], Answer | None] = lambda method, path: None
    kept: Callable[[Any], Any] = lambda one: one
    confirmed: Callable[[list[str]], list[str]] = lambda uids: uids
    failed: tuple[int, ...] = ()
    sent: Callable[[Any], Any] = lambda one: one
    counted: Callable[[int], int | None] = lambda n: n
    listed: int = 100
    json_type: str = "application/dicom+json"
    url: str = ""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        parts = urlsplit(target)
        self.asked.append((method, target, headers))
        own = self.before(method, parts.path)
        if own is not None:
            return own
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if method == "POST":
            return self._store(headers, body)
        if match := re.fullmatch(r"/studies/([^/]+)/series/([^/]+)/instances/([^/]+)", parts.path):
            one = self.held.get(match[3])
            if one is None:
                return 404, "text/plain", b"no such instance of Secret^Zebediah"
            part = encoded(self.sent(one))
            content = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n--x--\r\n"
            return 200, 'multipart/related; type="application/dicom"; boundary=x', content
        found = list(self.held.values())
        if parts.path.endswith("/instances"):
            offset = int(query.get("offset", 0))
            rows = [{"00080018": {"vr": "UI", "Value": [one.SOPInstanceUID]}} for one in found]
            return self._json(rows[offset : offset + self.listed])
        row: dict[str, Any] = {
            "0020000D": {"vr": "UI", "Value": [str(found[0].StudyInstanceUID)]},
            "0020000E": {"vr": "UI", "Value": [str(found[0].SeriesInstanceUID)]},
            "00080020": {"vr": "DA", "Value": ["20260304"]},
            "00080060": {"vr": "CS", "Value": ["CT"]},
            "00081030": {"vr": "LO"},
            "0008103E": {"vr": "LO", "Value": ["Thorax"]},
            "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
            "00100020": {"vr": "LO", "Value": ["P1"]},
            "00201206": {"vr": "IS", "Value": [3]},
        }
        count = self.counted(len(found))
        if count is not None:
            row["00201209"] = {"vr": "IS", "Value": [count]}
        return self._json([row])

    def _store(self, headers: dict[str, str], body: bytes) -> Answer:
        boundary = re.search(r'boundary="?([^";]+)', headers["content-type"])
        assert boundary is not None
        uids = []
        for part in body.split(b"--" + boundary[1].encode())[1:-1]:
            one = pydicom.dcmread(BytesIO(part.partition(b"\r\n\r\n")[2]))
            uids.append(str(one.SOPInstanceUID))
            kept = self.kept(one)
            if kept is not None:
                self.held[kept.SOPInstanceUID] = kept
        out: dict[str, Any] = {}
        if confirmed := self.confirmed(uids):
            items = [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in confirmed]
            out["00081199"] = {"vr": "SQ", "Value": items}
        if self.failed:
            items = [{"00081197": {"vr": "US", "Value": [reason]}} for reason in self.failed]
            out["00081198"] = {"vr": "SQ", "Value": items}
        return 200, self.json_type, json.dumps(out).encode()

    @staticmethod
    def _json(rows: list[dict[str, Any]]) -> Answer:
        return 200, "application/dicom+json", json.dumps(rows).encode()


@contextmanager
def serving(archive: FakeArchive) -> Iterator[FakeArchive]:
    """The archive on a port of this machine; `archive.url` tells it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {key.lower(): value for key, value in self.headers.items()}
            status, kind, content = archive.answer(self.command, self.path, headers, body)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if status in (301, 302, 307):
                self.send_header("Location", content.decode())
                content = b""
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = respond

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    archive.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield archive
    finally:
        server.shutdown()
        server.server_close()

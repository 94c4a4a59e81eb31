"""Debian's Orthanc as an archive of the tests."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from segnet.serve.pacs import DicomNodeSettings, DicomWebSettings

# Orthanc listens on every address whatever its configuration says, so it runs in a network of its own.

CLONE_NEWNET = 0x40000000


@contextmanager
def own_network() -> Iterator[None]:
    """This thread, and what it starts, sees a loopback interface of its own alone."""
    ip = shutil.which("ip")
    if ip is None:
        pytest.skip("ip is not installed")
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET):
            pytest.skip(f"no network namespace is permitted here: {os.strerror(ctypes.get_errno())}")
        try:
            subprocess.run([ip, "link", "set", "lo", "up"], check=True)
            yield
        finally:
            assert libc.setns(before, CLONE_NEWNET) == 0
    finally:
        os.close(before)


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[tuple[DicomWebSettings, DicomNodeSettings]]:
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    plugins = sorted(Path("/usr").glob("*/orthanc/**/libOrthancDicomWeb.so*"))
    if program is None or not plugins:
        pytest.skip("Orthanc and its DICOMweb plugin are not installed")
    configuration = {
        "Name": "ARCHIVE",
        "StorageDirectory": str(tmp_path / "orthanc"),
        "IndexDirectory": str(tmp_path / "orthanc"),
        "Plugins": [str(plugins[0])],
        "HttpPort": 18042,
        "DicomPort": 14242,
        "DicomAet": "ARCHIVE",
        "DicomCheckCalledAet": True,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"segnet": "test-only"},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "DicomModalities": {"us": ["SEGNET", "127.0.0.1", 11112]},
        "DicomAlwaysAllowGet": True,
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration))
    with own_network(), (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, tmp_path / "orthanc.json"], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 30
            while process.poll() is None and time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", 18042)) == 0:
                        break
                time.sleep(0.05)
            else:
                pytest.fail((tmp_path / "orthanc.log").read_text()[-2000:])
            web = DicomWebSettings("http://127.0.0.1:18042/dicom-web", "segnet", "test-only", timeout_s=20)
            yield web, DicomNodeSettings("127.0.0.1", 14242, "ARCHIVE", timeout_s=20)
        finally:
            process.terminate()
            process.wait(20)

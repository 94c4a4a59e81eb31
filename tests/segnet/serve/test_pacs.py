"""The archive's side: a fake one that misbehaves in each way, a DIMSE node in this process, and Orthanc."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom")
pytest.importorskip("highdicom")
pytest.importorskip("dicomweb_client")
pynetdicom = pytest.importorskip("pynetdicom")

import pydicom  # noqa: E402
from dicom_series import PATIENT, make_series  # noqa: E402
from fake_archive import Answer, FakeArchive, serving  # noqa: E402
from lesions_on_series import MADE, make_case  # noqa: E402
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless  # noqa: E402

from segnet.errors import InputError  # noqa: E402
from segnet.io.dicom import load_series, read_series  # noqa: E402
from segnet.serve.dicom_objects import report, segmentation  # noqa: E402
from segnet.serve.pacs import (  # noqa: E402
    DicomNode,
    DicomNodeSettings,
    DicomWeb,
    DicomWebSettings,
    Study,
    StudySeries,
    changes,
)

STUDY, SERIES = "1.2.3", "1.2.3.4"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A segmentation and a report."""
    case = make_case(tmp_path_factory.mktemp("case") / "a")
    seg = segmentation(case.series, case.volume, case.findings, **MADE)
    return seg, report(case.series, case.volume, seg, case.findings, **MADE)


@pytest.fixture
def archive() -> Iterator[FakeArchive]:
    """An archive with a series of six slices."""
    slices = make_series(np.arange(6 * 5 * 4).reshape(6, 5, 4))
    with serving(FakeArchive({one.SOPInstanceUID: one for one in slices})) as one:
        yield one


def client(archive: FakeArchive, **more: Any) -> DicomWeb:
    return DicomWeb(DicomWebSettings(archive.url, timeout_s=5, **more))


def test_searches(archive: FakeArchive) -> None:
    pacs = client(archive, user="u", password="p")
    (study,) = pacs.studies(patient_id="P*", name="Doe*", date="2026-03-04")
    assert study == Study(STUDY, "P1", "Doe^Jane", "2026-03-04", "", 3)
    assert pacs.series(STUDY) == [StudySeries(SERIES, "CT", "Thorax", 6)]
    _, target, headers = archive.asked[0]
    for part in ("PatientID=P%2A", "PatientName=Doe%2A", "StudyDate=20260304", "ModalitiesInStudy=CT", "limit=200"):
        assert part in target.replace("*", "%2A")
    assert headers["authorization"] == "Basic dTpw"
    client(archive, token="T").studies(modality="")
    assert archive.asked[-1][2]["authorization"] == "Bearer T"
    assert "ModalitiesInStudy" not in archive.asked[-1][1]
    for settings in (DicomWebSettings("http://a", "u", "hidden"), DicomWebSettings("http://a", token="hidden")):
        assert "hidden" not in repr(settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patient_id": "a\\b"}, "patient_id: "),
        ({"name": "a" * 65}, "name: "),
        ({"date": "yesterday"}, "date: "),
        ({"date": "-"}, "date: "),
        ({"date": "20260304x"}, "date: "),
        ({"modality": "CT&x=1"}, "modality: "),
    ],
)
def test_malformed_searches_are_not_sent(archive: FakeArchive, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        client(archive).studies(**arguments)
    assert not archive.asked


@pytest.mark.parametrize("date", ["20260304", "20260304-", "-20260304", "20260304-20260405", "2026-03-04"])
def test_dates_and_ranges(archive: FakeArchive, date: str) -> None:
    client(archive).studies(date=date)
    assert f"StudyDate={date if len(date) != 10 else '20260304'}" in archive.asked[0][1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "ftp://a"}, "pacs.url"),
        ({"url": "http://u:p@a"}, "pacs.url"),
        ({"url": "http://"}, "pacs.url"),
        ({"url": "http://a", "user": "u", "token": "t"}, "pacs.token"),
        ({"url": "http://a", "timeout_s": 0}, "pacs.timeout_s"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DicomWeb(DicomWebSettings(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ae_title": ""}, "pacs.ae_title: .* got 0"),
        ({"ae_title": "A" * 17}, "pacs.ae_title: .* got 17"),
        ({"calling_ae_title": "Ä"}, "pacs.calling_ae_title"),
        ({"port": 0}, "pacs.port"),
        ({"host": ""}, "pacs.port: expected a host"),
        ({"timeout_s": -1}, "pacs.timeout_s"),
    ],
)
def test_settings_of_a_node_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DicomNode(DicomNodeSettings(**{"host": "a", "port": 104, "ae_title": "A", **settings}))


@pytest.mark.parametrize("listed", [100, 4, 1])
def test_a_series_is_fetched_whole(archive: FakeArchive, tmp_path: Path, listed: int) -> None:
    archive.listed = listed  # archives cap their lists
    seen: list[tuple[int, int]] = []
    paths = client(archive).fetch(STUDY, SERIES, tmp_path / "to" / "a", lambda *of: seen.append(of))
    assert seen == [(n, 6) for n in range(1, 7)]
    assert len(paths) == 6
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["a"]
    np.testing.assert_array_equal(
        load_series(tmp_path / "to" / "a").array.transpose(2, 1, 0), np.arange(120).reshape(6, 5, 4)
    )
    with pytest.raises(InputError, match="folder: expected a new or empty folder"):
        client(archive).fetch(STUDY, SERIES, tmp_path / "to" / "a")


def pack(one: Any, syntax: str) -> None:
    """Compresses the pixels of a slice; JPEG 2000 by Pillow."""
    if syntax != JPEG2000Lossless:
        one.compress(syntax, generate_instance_uid=False)
        return
    from PIL import Image
    from pydicom.encaps import encapsulate

    out = BytesIO()
    Image.fromarray(one.pixel_array.astype(np.uint16)).save(out, "JPEG2000", no_jp2=True, irreversible=False)
    one.PixelData = encapsulate([out.getvalue()])
    one["PixelData"].VR, one["PixelData"].is_undefined_length = "OB", True
    one.file_meta.TransferSyntaxUID = syntax


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_packed_pixels_come_as_they_are_stored(archive: FakeArchive, tmp_path: Path, syntax: str) -> None:
    frames = {}
    for uid, one in archive.held.items():
        pack(one, syntax)
        frames[uid] = one.PixelData
    for path in client(archive).fetch(STUDY, SERIES, tmp_path / "a"):
        one = pydicom.dcmread(path)
        assert one.file_meta.TransferSyntaxUID == syntax
        assert one.PixelData == frames[one.SOPInstanceUID]
    asked = [headers["accept"] for _, target, headers in archive.asked if "/instances/" in target]
    assert len(asked) == 6
    assert all("transfer-syntax=*" in accept for accept in asked)


def failing(at: int, answer: Answer) -> Callable[[str, str], Answer | None]:
    """An own answer to the request for an instance number `at`, counted from 0."""
    count = -1

    def before(method: str, path: str) -> Answer | None:
        nonlocal count
        count += "/instances/" in path
        return answer if "/instances/" in path and count == at else None

    return before


def growing(archive: FakeArchive) -> None:
    """A slice arrives while others are copied."""
    late = deepcopy(next(iter(archive.held.values())))
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.99"

    def before(method: str, path: str) -> Answer | None:
        if "/instances/" in path:
            archive.held.setdefault(late.SOPInstanceUID, late)
        return None

    archive.before = before


def another(archive: FakeArchive) -> None:
    first = next(iter(archive.held.values()))
    archive.sent = lambda one: first


def stopping(archive: FakeArchive) -> None:
    archive.listed = 3
    archive.before = lambda method, path: (
        (200, "application/dicom+json", b"[]") if path.endswith("/instances") and len(archive.asked) > 2 else None
    )


HALF: dict[str, tuple[Callable[[FakeArchive], Any], str]] = {
    "an instance fails": (
        lambda a: setattr(a, "before", failing(3, (500, "text/plain", PATIENT.encode()))),
        "pacs: expected an answer to an instance, got HTTP status 500",
    ),
    "an instance is gone": (
        lambda a: setattr(a, "before", failing(5, (404, "text/plain", b""))),
        "got HTTP status 404; check the address, and whether it is there",
    ),
    "an instance is truncated": (
        lambda a: setattr(a, "before", failing(2, (200, "multipart/related; boundary=x", b"--x\r\n\r\nabc\r\n--x--"))),
        "expected a readable answer to an instance, got another",
    ),
    "another instance comes": (another, "instance: expected the instance that was asked for, got another one"),
    "more are counted than listed": (
        lambda a: setattr(a, "counted", lambda n: n + 1),
        "expected the 7 instances that the archive counts, got 6",
    ),
    "the list ends early": (stopping, "expected the 6 instances that the archive counts, got 3"),
    "the series grows": (growing, "expected the 6 instances that the archive listed before, got 7"),
    "none are listed": (
        lambda a: (setattr(a, "listed", 0), setattr(a, "counted", lambda n: None)),
        "expected 1 to 16384 instances, got 0",
    ),
}


@pytest.mark.parametrize("name", HALF)
def test_a_series_fetched_by_half_is_refused_and_removed(archive: FakeArchive, tmp_path: Path, name: str) -> None:
    change, message = HALF[name]
    change(archive)
    (tmp_path / ".a.killed.partial").mkdir()  # of a killed process
    with pytest.raises(InputError, match=message) as caught:
        client(archive).fetch(STUDY, SERIES, tmp_path / "a")
    assert not list(tmp_path.iterdir())
    assert "Secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_series_that_the_archive_does_not_count_is_fetched(archive: FakeArchive, tmp_path: Path) -> None:
    archive.counted = lambda n: None
    assert len(client(archive).fetch(STUDY, SERIES, tmp_path / "a")) == 6


def test_an_error_of_the_progress_ends_the_copy(archive: FakeArchive, tmp_path: Path) -> None:
    def cancel(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client(archive).fetch(STUDY, SERIES, tmp_path / "a", cancel)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("uid", ["", "..", "1.2/../3", "1.2.3?x=1", "1.02"])
def test_uids_are_checked_before_they_enter_an_address(archive: FakeArchive, tmp_path: Path, uid: str) -> None:
    pacs = client(archive)
    for ask in (
        lambda: pacs.series(uid),
        lambda: pacs.fetch(uid, SERIES, tmp_path / "a"),
        lambda: pacs.fetch(STUDY, uid, tmp_path / "a"),
        lambda: pacs.read(STUDY, SERIES, uid),
    ):
        with pytest.raises(InputError, match="expected a DICOM UID"):
            ask()
    assert not archive.asked


@pytest.mark.parametrize(
    "json_type", ["application/dicom+json", "application/dicom+json; charset=utf-8", "application/json"]
)
def test_objects_are_stored_and_read_back(archive: FakeArchive, exported: tuple[Any, Any], json_type: str) -> None:
    archive.json_type = json_type
    uids = client(archive).store(exported)
    assert uids == [one.SOPInstanceUID for one in exported]
    for one in exported:
        assert not changes(one, archive.held[one.SOPInstanceUID])
    reads = [target for method, target, _ in archive.asked if method == "GET"]
    assert [target.rpartition("/")[2] for target in reads] == uids
    assert client(archive).store(exported) == uids


def test_a_large_instance_is_sent_again_to_a_busy_archive(archive: FakeArchive) -> None:
    (one, _) = make_series(np.random.default_rng(0).integers(-1000, 1000, (2, 900, 700)), series="1.2.3.9")
    busy = iter([True])
    archive.before = lambda method, path: (503, "text/plain", b"") if method == "POST" and next(busy, False) else None
    assert client(archive).store([one]) == [one.SOPInstanceUID]
    assert archive.held[one.SOPInstanceUID].PixelData == one.PixelData
    assert len(one.PixelData) > 1e6


def test_an_instance_that_is_there_already_is_compared(archive: FakeArchive, exported: tuple[Any, Any]) -> None:
    client(archive).store(exported)
    archive.failed, archive.confirmed, archive.kept = (0x0111,), lambda uids: [], lambda one: None
    assert len(client(archive).store(exported)) == 2
    archive.held[exported[0].SOPInstanceUID].SeriesDescription = "other"
    with pytest.raises(InputError, match="other values of SeriesDescription"):
        client(archive).store(exported)


def altered(**values: Any) -> Callable[[Any], Any]:
    def change(one: Any) -> Any:
        for keyword, value in values.items():
            if value is None:
                delattr(one, keyword)
            else:
                setattr(one, keyword, value)
        return one

    return change


def deep(one: Any) -> Any:
    one.SegmentSequence[1].SegmentLabel = "x"
    return one


NOT_STORED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing stored, an empty answer": (
        {"kept": lambda one: None, "confirmed": lambda uids: []},
        "expected a confirmation of the instance, got one of 0 others; 0 of 2 are stored",
    ),
    "nothing stored, yet confirmed": ({"kept": lambda one: None}, "an answer to an instance, got HTTP status 404"),
    "another confirmed": ({"confirmed": lambda uids: ["1.2.3"]}, "got one of 1 others"),
    "a failure": ({"failed": (0xA700,), "confirmed": lambda uids: []}, "got failure A700H from the archive"),
    "a failure beside the confirmation": ({"failed": (0xC000,)}, "got failure C000H"),
    "a patient changed": ({"kept": altered(PatientName="Doe")}, "other values of PatientName; 0 of 2"),
    "pixels changed": ({"kept": altered(PixelData=b"\0\0")}, "other values of PixelData"),
    "an attribute lost": ({"kept": altered(SegmentationType=None)}, "other values of SegmentationType"),
    "a segment changed": ({"kept": deep}, r"other values of SegmentSequence\[1\].SegmentLabel"),
    "unreadable": ({"json_type": "text/html"}, "got one of 0 others"),
    "HTTP 409": ({"before": lambda method, path: (409, "text/plain", b"")}, "got HTTP status 409"),
}


@pytest.mark.parametrize("name", NOT_STORED)
def test_what_is_not_stored_is_no_success(archive: FakeArchive, exported: tuple[Any, Any], name: str) -> None:
    values, message = NOT_STORED[name]
    for key, value in values.items():
        setattr(archive, key, value)
    with pytest.raises(InputError, match=message) as caught:
        client(archive).store(exported)
    assert "Secret" not in str(caught.value)
    assert "Doe" not in str(caught.value)


def test_what_a_server_adds_or_encodes_otherwise_is_no_change(exported: tuple[Any, Any]) -> None:
    for one in exported:
        back = deepcopy(one)
        back.RetrieveAETitle = "ARCHIVE"
        back.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
        assert changes(one, back) == []
        del back.StudyInstanceUID
        assert changes(one, back) == ["StudyInstanceUID"]
        assert changes(back, one) == ["RetrieveAETitle"]


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_objects_without_uids_are_not_sent(archive: FakeArchive, exported: tuple[Any, Any], keyword: str) -> None:
    bad = deepcopy(exported[1])
    setattr(bad, keyword, "")
    with pytest.raises(InputError, match="expected a DICOM UID, got an empty"):
        client(archive).store([exported[0], bad])
    bare = deepcopy(exported[1])
    del bare.file_meta
    for store in (client(archive).store, DicomNode(DicomNodeSettings("127.0.0.1", 9, "A")).store):
        with pytest.raises(InputError, match="datasets: expected instances that can be written to a file"):
            store([bare])
    assert not archive.asked


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, "text/plain", b""), "got HTTP status 401; check user, password or token"),
        ((403, "text/plain", b""), "got HTTP status 403; check the rights"),
        ((503, "text/plain", PATIENT.encode()), "got HTTP status 503; try again later"),
        ((302, "text/plain", b"http://127.0.0.1:9/studies"), "got a redirect"),
        ((200, "text/html", b"<html>Secret"), "expected a readable answer to a search for studies"),
        ((200, "application/json", b'[{"0020000D": 3}]'), "expected a readable answer"),
    ],
)
def test_refusals_are_told_in_one_line(archive: FakeArchive, answer: Answer, message: str) -> None:
    archive.before = lambda method, path: answer
    with pytest.raises(InputError, match=message) as caught:
        client(archive).studies(name="Zebediah")
    text = str(caught.value)
    assert "\n" not in text
    assert "Secret" not in text
    assert "Zebediah" not in text
    assert caught.value.__suppress_context__


def test_no_server_and_a_silent_one_are_told(exported: tuple[Any, Any]) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        web = DicomWeb(DicomWebSettings(f"http://127.0.0.1:{port}", timeout_s=0.3))
        node = DicomNode(DicomNodeSettings("127.0.0.1", port, "A", timeout_s=0.3))
        for ask in (lambda: web.studies(name="Zebediah"), lambda: node.store(exported)):
            with pytest.raises(InputError, match="got no connection") as caught:
                ask()
            assert "Zebediah" not in str(caught.value)
        listening.listen()
        start = time.monotonic()
        for ask in (lambda: web.studies(name="Zebediah"), lambda: node.store(exported)):
            with pytest.raises(InputError, match=r"got no (connection|answer)"):
                ask()
        assert time.monotonic() - start < 10


def test_no_query_is_logged(archive: FakeArchive, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        pacs = client(archive)
        pacs.studies(patient_id="Zebediah", name="Zebediah")
        pacs.fetch(STUDY, SERIES, tmp_path / "a")
        archive.before = lambda method, path: (500, "text/plain", b"Zebediah")
        with pytest.raises(InputError, match="status 500"):
            pacs.studies(name="Zebediah")
        with pytest.raises(InputError, match="no connection"):
            DicomWeb(DicomWebSettings("http://127.0.0.1:9", timeout_s=0.2)).studies(name="Zebediah")
    assert "Zebediah" not in caplog.text
    assert STUDY not in caplog.text


def test_the_environment_changes_nothing(archive: FakeArchive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert client(archive).studies()
    assert "authorization" not in archive.asked[0][2]


@contextmanager
def node(
    *, kept: Callable[[Any], Any] = lambda one: one, status: int = 0, gets: bool = True, classes: int = 2
) -> Iterator[tuple[DicomNodeSettings, dict[str, Any]]]:
    """A DIMSE archive in this process: what becomes of an instance, its answer, whether it returns any, and classes it takes."""
    from pynetdicom import AE, evt
    from pynetdicom.sop_class import (
        ComprehensiveSRStorage,
        SegmentationStorage,
        StudyRootQueryRetrieveInformationModelGet,
    )

    held: dict[str, Any] = {}

    def on_store(event: Any) -> int:
        one = event.dataset
        one.file_meta = event.file_meta
        changed = kept(one)
        if changed is not None:
            held[str(changed.SOPInstanceUID)] = changed
        return status

    def on_get(event: Any) -> Iterator[Any]:
        found = [held[uid] for uid in [str(event.identifier.SOPInstanceUID)] if uid in held]
        yield len(found)
        for one in found:
            yield 0xFF00, one

    entity = AE(ae_title="ARCHIVE")
    for kind in (SegmentationStorage, ComprehensiveSRStorage)[:classes]:
        entity.add_supported_context(kind, scu_role=True, scp_role=True)
    if gets:
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
    entity.require_called_aet = True
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store), (evt.EVT_C_GET, on_get)]
    )
    try:
        yield DicomNodeSettings("127.0.0.1", server.server_address[1], "ARCHIVE", timeout_s=5), held
    finally:
        server.shutdown()


def test_objects_are_sent_by_dimse_and_read_back(exported: tuple[Any, Any]) -> None:
    with node() as (settings, held):
        assert DicomNode(settings).store(exported) == [one.SOPInstanceUID for one in exported] == list(held)
        for one in exported:
            assert not changes(one, held[one.SOPInstanceUID])
    with node(status=0x0111) as (settings, _):
        DicomNode(settings).store(exported)


NOT_SENT: dict[str, tuple[dict[str, Any], str]] = {
    "nothing kept": ({"kept": lambda one: None}, "expected the stored instance back, got 0 instances"),
    "changed": ({"kept": altered(PatientName="Doe")}, "other values of PatientName; 0 of 2 are verified"),
    "refused": ({"status": 0xA700}, "got status A700H from the archive; 0 of 2 are sent"),
    "a warning": ({"status": 0xB000}, "got status B000H"),
    "a class not taken": ({"classes": 1}, "an archive that takes 2 classes of objects, got 1 accepted"),
    "not returned": ({"gets": False}, "an archive that returns what it stored by C-GET"),
}


@pytest.mark.parametrize("name", NOT_SENT)
def test_what_a_node_does_not_keep_is_no_success(exported: tuple[Any, Any], name: str) -> None:
    arguments, message = NOT_SENT[name]
    with node(**arguments) as (settings, _), pytest.raises(InputError, match=message):
        DicomNode(settings).store(exported)


def test_a_node_is_read_back_over_dicomweb(archive: FakeArchive, exported: tuple[Any, Any]) -> None:
    with node(gets=False) as (settings, _):
        with pytest.raises(InputError, match="got HTTP status 404"):
            DicomNode(settings).store(exported, read_back=client(archive).read)
        archive.held.update({one.SOPInstanceUID: one for one in exported})
        assert len(DicomNode(settings).store(exported, read_back=client(archive).read)) == 2


def test_an_unknown_title_is_refused(exported: tuple[Any, Any]) -> None:
    with node() as (settings, _):
        other = DicomNodeSettings(settings.host, settings.port, "OTHER", timeout_s=5)
        with pytest.raises(InputError, match="expected the archive to accept an association, got a refusal"):
            DicomNode(other).store(exported)


def test_a_round_trip_through_orthanc(orthanc: tuple[DicomWebSettings, DicomNodeSettings], tmp_path: Path) -> None:
    """Search, fetch, segment, store, read back; the second time by C-STORE. All objects are those of the fetched series."""
    web, dimse = orthanc
    pacs = DicomWeb(web)
    case = make_case(
        tmp_path / "made", "oblique axial", headers={"PatientName": "Doe^Jane", "PatientID": "P1", "StudyID": "1"}
    )
    sources = [pydicom.dcmread(path) for path in case.folder.iterdir()]
    for one in sources[::2]:
        pack(one, JPEG2000Lossless)
    assert len(pacs.store(sources)) == 12
    (study,) = pacs.studies(patient_id="P1")
    assert (study.study, study.patient_name) == (STUDY, "Doe^Jane")
    assert not pacs.studies(patient_id="P2")
    (series,) = pacs.series(study.study)
    assert (series.series, series.modality, series.instances) == (SERIES, "CT", 12)

    paths = pacs.fetch(study.study, series.series, tmp_path / "fetched")
    syntaxes = sorted(pydicom.dcmread(path).file_meta.TransferSyntaxUID for path in paths)
    assert syntaxes == ["1.2.840.10008.1.2.1"] * 6 + [JPEG2000Lossless] * 6
    fetched = load_series(tmp_path / "fetched")
    np.testing.assert_array_equal(fetched.array, load_series(case.folder).array)
    np.testing.assert_array_equal(fetched.affine, load_series(case.folder).affine)

    headers = read_series(tmp_path / "fetched")
    seg = segmentation(headers, case.volume, case.findings, **MADE)
    sr = report(headers, case.volume, seg, case.findings, **MADE)
    for _ in range(2):  # the archive keeps one of each
        assert pacs.store([seg, sr]) == [seg.SOPInstanceUID, sr.SOPInstanceUID]
    assert sorted(one.modality for one in pacs.series(STUDY)) == ["CT", "SEG", "SR"]
    assert {one.instances for one in pacs.series(STUDY) if one.modality != "CT"} == {1}
    assert changes(seg, pacs.read(STUDY, seg.SeriesInstanceUID, seg.SOPInstanceUID)) == []

    again = {**MADE, "made_at": MADE["made_at"].replace(hour=7)}
    seg = segmentation(headers, case.volume, case.findings, **again)
    sr = report(headers, case.volume, seg, case.findings, **again)
    assert DicomNode(dimse).store([seg, sr]) == [seg.SOPInstanceUID, sr.SOPInstanceUID]
    assert sorted(one.modality for one in pacs.series(STUDY)) == ["CT", "SEG", "SEG", "SR", "SR"]
    assert changes(sr, pacs.read(STUDY, sr.SeriesInstanceUID, sr.SOPInstanceUID)) == []

    with pytest.raises(InputError, match="got HTTP status 401"):
        DicomWeb(DicomWebSettings(web.url, "segnet", "wrong", timeout_s=20)).studies()
    with pytest.raises(InputError, match="expected a series of the study, got none"):
        pacs.fetch(STUDY, "1.2.3.5", tmp_path / "none")

"""An archive over DICOMweb (QIDO, WADO, STOW) or DIMSE (C-STORE). Nothing counts as done before it was read back.

Addresses and credentials come from the configuration alone: neither the environment nor a redirect changes them. Messages name no
patient, no study and no answer of the server; libraries that log queries are silenced.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from segnet.errors import InputError
from segnet.serve.dicom_objects import encoded, is_uid

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAX_INSTANCES = 2**14
"""Of one series, as many as `segnet.io.dicom` reads."""
MAX_STUDIES = 200
"""Of one search, by default."""

Progress = Callable[[int, int], None]
ReadBack = Callable[[str, str, str], "Dataset"]

_DUPLICATE = 0x0111
"""Status of an instance that the archive already holds, by PS3.7 C.4.2. It is then compared with ours."""
_DATES = re.compile(r"(\d{8})?-?(\d{8})?")
_SEARCHED = {"patient_id": "PatientID", "name": "PatientName"}


@dataclass(frozen=True)
class DicomWebSettings:
    """Where a DICOMweb archive is.

    Attributes
    ----------
    url : root of its services, such as https://pacs.example/dicom-web
    user, password : for HTTP basic authentication; none if empty
    token : for bearer authentication, instead of a user
    timeout_s : for a connection, and for each wait for more bytes
    ca_bundle : certificates to trust instead of the usual ones
    """

    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    timeout_s: float = 30.0
    ca_bundle: Path | None = None


@dataclass(frozen=True)
class Study:
    """A study as a search describes it. Dates are YYYY-MM-DD, or empty; `series` is None if the archive does not count them."""

    study: str
    patient_id: str
    patient_name: str
    date: str
    description: str
    series: int | None


@dataclass(frozen=True)
class StudySeries:
    """A series as a search describes it; `instances` is None if the archive does not count them."""

    series: str
    modality: str
    description: str
    instances: int | None


class DicomWeb:
    """One archive over DICOMweb.

    Raises
    ------
    InputError
        The URL is no http or https address, or holds credentials; or both a user and a token are given.
    """

    def __init__(self, settings: DicomWebSettings) -> None:
        parts = urlsplit(settings.url)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.username
            or parts.query
            or parts.fragment
        ):
            raise InputError(
                "pacs.url: expected an http or https address without credentials, such as https://pacs.example/dicom-web, got "
                "another; correct the configuration"
            )
        if settings.user and settings.token:
            raise InputError("pacs.token: expected either a user or a token, got both; leave one out")
        if not settings.timeout_s > 0:
            raise InputError(f"pacs.timeout_s: expected a time above 0 s, got {settings.timeout_s}; correct it")
        self._settings = settings
        self._client = _client(settings)

    def studies(
        self, *, patient_id: str = "", name: str = "", date: str = "", modality: str = "CT", limit: int = MAX_STUDIES
    ) -> list[Study]:
        """Search for studies, the newest first.

        Parameters
        ----------
        patient_id, name : DICOM's wildcards * and ? are allowed; any if empty
        date : YYYY-MM-DD or YYYYMMDD, or a range YYYYMMDD-YYYYMMDD with one end or both; any if empty
        modality : in the study; any if empty
        limit : most studies

        Raises
        ------
        InputError
            A filter is malformed, or the archive does not answer.
        """
        filters = {}
        for argument, keyword in _SEARCHED.items():
            text = {"patient_id": patient_id, "name": name}[argument].strip()
            if len(text) > 64 or not text.isprintable() or "\\" in text:
                raise InputError(
                    f"{argument}: expected at most 64 printable characters without backslash, got others; correct the search"
                )
            if text:
                filters[keyword] = text
        if date:
            filters["StudyDate"] = _dates(date)
        if modality:
            if not re.fullmatch(r"[A-Z0-9_ ]{1,16}", modality):
                raise InputError("modality: expected a code such as CT or MR, got another text; correct the search")
            filters["ModalitiesInStudy"] = modality
        with _talking("a search for studies"):
            fields = ["StudyDescription", "NumberOfStudyRelatedSeries"]
            found = self._client.search_for_studies(limit=limit, fields=fields, search_filters=filters)
            out = [
                Study(
                    study=_text(entry, "0020000D"),
                    patient_id=_text(entry, "00100020"),
                    patient_name=_text(entry, "00100010"),
                    date=_iso(_text(entry, "00080020")),
                    description=_text(entry, "00081030"),
                    series=_count(entry, "00201206"),
                )
                for entry in found
            ]
        return sorted((one for one in out if is_uid(one.study)), key=lambda one: one.date, reverse=True)[:limit]

    def series(self, study: str) -> list[StudySeries]:
        """The series of a study.

        Raises
        ------
        InputError
            The UID is invalid, or the archive does not answer.
        """
        _check_uids(study=study)
        return self._series_of(study, None)

    def _series_of(self, study: str, series: str | None) -> list[StudySeries]:
        filters = {} if series is None else {"SeriesInstanceUID": series}
        with _talking("a search for series"):
            fields = ["SeriesDescription", "NumberOfSeriesRelatedInstances"]
            found = self._client.search_for_series(study, fields=fields, search_filters=filters)
            out = [
                StudySeries(
                    series=_text(entry, "0020000E"),
                    modality=_text(entry, "00080060"),
                    description=_text(entry, "0008103E"),
                    instances=_count(entry, "00201209"),
                )
                for entry in found
            ]
        return [one for one in out if is_uid(one.series)]

    def fetch(self, study: str, series: str, folder: str | Path, progress: Progress | None = None) -> list[Path]:
        """Copy a whole series into a new folder, each instance in the transfer syntax in which the archive holds it.

        Parameters
        ----------
        study, series : UIDs
        folder : missing or empty. It appears once everything is there
        progress : called with the instances so far and their number; an error of its own ends the copy

        Returns
        -------
        One file an instance.

        Raises
        ------
        InputError
            The archive does not answer, holds no such series, sends other instances than it lists, or lists others than it counts;
            or the series grows meanwhile. Nothing is left in the folder.
        """
        _check_uids(study=study, series=series)
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"folder: expected a new or empty folder, got {folder}; name another")
        folder.parent.mkdir(parents=True, exist_ok=True)
        for leftover in folder.parent.glob(f".{folder.name}.*.partial"):  # of a killed process
            shutil.rmtree(leftover, ignore_errors=True)
        expected = self._listed(study, series)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
        try:
            for number, instance in enumerate(expected, 1):
                one = self.read(study, series, instance)
                with _talking("an instance"):
                    raw = encoded(one)
                (partial / f"{number:05}.dcm").write_bytes(raw)
                if progress is not None:
                    progress(number, len(expected))
            again = self._listed(study, series)
            if again != expected:
                raise InputError(
                    f"series: expected the {len(expected)} instances that the archive listed before, got {len(again)} or others "
                    "after; wait until the series is complete, and fetch it again"
                )
            os.replace(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return sorted(folder.iterdir())

    def _listed(self, study: str, series: str) -> list[str]:
        """Instance UIDs of a series, as many as the archive counts."""
        counted = [one.instances for one in self._series_of(study, series) if one.series == series]
        if not counted:
            raise InputError(
                "series: expected a series of the study, got none of this UID in the archive; search for it again"
            )
        uids: dict[str, None] = {}
        while len(uids) <= MAX_INSTANCES:
            with _talking("a search for instances"):
                page = self._client.search_for_instances(study, series, offset=len(uids), limit=1000)
                new = [uid for entry in page if (uid := _text(entry, "00080018")) not in uids]
            if not new:
                break
            uids.update(dict.fromkeys(new))
            if len(uids) == counted[0]:
                break
        if not uids or len(uids) > MAX_INSTANCES:
            raise InputError(f"series: expected 1 to {MAX_INSTANCES} instances, got {len(uids)}; choose another series")
        if counted[0] is not None and counted[0] != len(uids):
            raise InputError(
                f"series: expected the {counted[0]} instances that the archive counts, got {len(uids)} in its list; wait until the "
                "series is complete, and fetch it again"
            )
        if not all(map(is_uid, uids)):
            raise InputError(
                "series: expected a UID for each instance, got others from the archive; choose another series"
            )
        return sorted(uids)

    def read(self, study: str, series: str, instance: str) -> Dataset:
        """One instance as the archive holds it.

        Raises
        ------
        InputError
            The archive does not answer, has no such instance, or sends another.
        """
        _check_uids(study=study, series=series, instance=instance)
        with _talking("an instance"):
            # the default asks for a syntax that some archives cannot make of JPEG 2000
            media_types = (("application/dicom", "*"),)
            one = self._client.retrieve_instance(study, series, instance, media_types=media_types)
            sent = (one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID)
        if sent != (study, series, instance):
            raise InputError("instance: expected the instance that was asked for, got another one; check the archive")
        return one

    def store(self, datasets: Sequence[Dataset]) -> list[str]:
        """Send instances, and read each back before it counts as stored. To send an instance again does no harm.

        Returns
        -------
        Their SOP instance UIDs.

        Raises
        ------
        InputError
            A UID is missing; the archive does not answer, refuses an instance, does not confirm it, or returns it changed.
        """
        uids = [_uids_of(one) for one in datasets]
        datasets = [_as_file(one) for one in datasets]
        for number, (one, (study, series, instance)) in enumerate(zip(datasets, uids, strict=True)):
            so_far = f"{number} of {len(datasets)} are stored"
            with _talking(f"an instance to store ({so_far})"):
                answer = self._client.store_instances([one])
                confirmed = [str(item.ReferencedSOPInstanceUID) for item in answer.get("ReferencedSOPSequence") or []]
                failed = [int(item.get("FailureReason") or 0) for item in answer.get("FailedSOPSequence") or []]
            if any(reason != _DUPLICATE for reason in failed):
                raise InputError(
                    f"pacs: expected the instance to be stored, got failure {failed[0]:04X}H from the archive; {so_far}; check its log"
                )
            if instance not in confirmed and not failed:
                raise InputError(
                    f"pacs: expected a confirmation of the instance, got one of {len(confirmed)} others; {so_far}; check the "
                    "archive's log and rights"
                )
            _check_same(one, self.read(study, series, instance), so_far)
        return [instance for _, _, instance in uids]


@dataclass(frozen=True)
class DicomNodeSettings:
    """Where an archive takes C-STORE.

    Attributes
    ----------
    host, port : of the archive
    ae_title : the archive's application entity
    calling_ae_title : ours, which the archive must know
    timeout_s : for a connection, and for each answer
    """

    host: str
    port: int
    ae_title: str
    calling_ae_title: str = "SEGNET"
    timeout_s: float = 30.0


class DicomNode:
    """One archive over DIMSE.

    Raises
    ------
    InputError
        A title has not 1 to 16 characters, or the port is none.
    """

    def __init__(self, settings: DicomNodeSettings) -> None:
        for name in ("ae_title", "calling_ae_title"):
            title = getattr(settings, name)
            if (
                not 1 <= len(title.strip()) <= len(title) <= 16
                or not title.isascii()
                or not title.isprintable()
                or "\\" in title
            ):
                raise InputError(
                    f"pacs.{name}: expected 1 to 16 ASCII characters, got {len(title)}; correct the configuration"
                )
        if not settings.host or not 1 <= settings.port <= 65535:
            raise InputError(f"pacs.port: expected a host and a port of 1 to 65535, got {settings.port}; correct it")
        if not settings.timeout_s > 0:
            raise InputError(f"pacs.timeout_s: expected a time above 0 s, got {settings.timeout_s}; correct it")
        self._settings = settings

    def store(self, datasets: Sequence[Dataset], *, read_back: ReadBack | None = None) -> list[str]:
        """Send instances by C-STORE, and read each back before it counts as stored.

        Parameters
        ----------
        datasets : with file meta information; each is sent in its own transfer syntax
        read_back : returns an instance by study, series and instance UID, such as `DicomWeb.read`; C-GET from the same node if None

        Returns
        -------
        Their SOP instance UIDs.

        Raises
        ------
        InputError
            A UID is missing; the archive does not answer, does not take an object's class or syntax, refuses an instance, warns of
            it, cannot return it, or returns it changed.
        """
        from pynetdicom import build_context

        uids = [_uids_of(one) for one in datasets]
        datasets = [_as_file(one) for one in datasets]
        contexts = sorted({(str(one.SOPClassUID), str(one.file_meta.TransferSyntaxUID)) for one in datasets})
        with self._associated([build_context(kind, syntax) for kind, syntax in contexts]) as association:
            accepted = {(c.abstract_syntax, c.transfer_syntax[0]) for c in association.accepted_contexts}
            if set(contexts) - accepted:
                raise InputError(
                    f"pacs: expected an archive that takes {len(contexts)} classes of objects, got {len(accepted)} accepted; allow "
                    "segmentations and structured reports in its configuration"
                )
            for number, one in enumerate(datasets):
                so_far = f"{number} of {len(datasets)} are sent"
                with _talking(f"an instance to store ({so_far})"):
                    status = association.send_c_store(one).get("Status")
                if status is None:
                    raise InputError(
                        f"pacs: expected an answer to the instance, got none in time; {so_far}; send them again"
                    )
                if status not in (0, _DUPLICATE):  # warnings mean coerced or dropped elements
                    raise InputError(
                        f"pacs: expected the instance to be stored, got status {status:04X}H from the archive; {so_far}; check its log"
                    )
        for number, (one, of_one) in enumerate(zip(datasets, uids, strict=True)):
            back = self._got(one, of_one) if read_back is None else read_back(*of_one)
            _check_same(one, back, f"{number} of {len(datasets)} are verified")
        return [instance for _, _, instance in uids]

    def _got(self, like: Dataset, uids: tuple[str, str, str]) -> Dataset:
        """An instance by C-GET, which sends it back over the same association."""
        from pydicom.dataset import Dataset
        from pynetdicom import build_context, build_role, evt
        from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as Get  # type: ignore[attr-defined]

        received: list[Dataset] = []

        def keep(event: Any) -> int:
            one = event.dataset
            one.file_meta = event.file_meta
            received.append(one)
            return 0

        kind, syntax = str(like.SOPClassUID), str(like.file_meta.TransferSyntaxUID)
        query = Dataset()
        query.QueryRetrieveLevel = "IMAGE"
        query.StudyInstanceUID, query.SeriesInstanceUID, query.SOPInstanceUID = uids
        with self._associated(
            [build_context(Get), build_context(kind, syntax)],
            ext_neg=[build_role(kind, scu_role=True, scp_role=True)],
            handlers=[(evt.EVT_C_STORE, keep)],
        ) as association:
            if len(association.accepted_contexts) < 2:
                raise InputError(
                    "pacs: expected an archive that returns what it stored by C-GET, got one that does not; configure DICOMweb, "
                    "so that instances can be read back"
                )
            last = None
            with _talking("an instance to be returned"):
                for status, _ in association.send_c_get(query, Get):
                    last = status.get("Status")
        if last != 0 or len(received) != 1:
            raise InputError(
                f"pacs: expected the stored instance back, got {len(received)} instances; check the archive's log and rights"
            )
        with _talking("an instance to be returned"):
            received[0].decode()
        return received[0]

    @contextmanager
    def _associated(self, contexts: list[Any], handlers: Sequence[Any] = (), **more: Any) -> Iterator[Any]:
        from pynetdicom import AE, evt

        _silence()
        entity = AE(ae_title=self._settings.calling_ae_title)
        entity.acse_timeout = entity.dimse_timeout = self._settings.timeout_s
        entity.network_timeout = entity.connection_timeout = self._settings.timeout_s
        connected: list[Any] = []
        with _talking("an association"):
            association = entity.associate(
                self._settings.host,
                self._settings.port,
                contexts,
                ae_title=self._settings.ae_title,
                evt_handlers=[(evt.EVT_CONN_OPEN, connected.append), *handlers],
                **more,
            )
        if not association.is_established:
            got = "a refusal" if association.is_rejected else "no answer" if connected else "no connection"
            raise InputError(
                f"pacs: expected the archive to accept an association, got {got}; check host, port and both AE titles, which the "
                "archive must know"
            )
        try:
            yield association
        finally:
            if association.is_established:
                association.release()


def changes(sent: Dataset, back: Dataset) -> list[str]:
    """Keywords of attributes that were sent and came back otherwise, or not at all. What a server adds is no change.

    Sequences are compared item by item, and a change within is told as `Sequence[item].Keyword`. How values are encoded does not
    matter.
    """
    out = []
    for element in sent:
        if element.tag.group == 2 or element.tag.element == 0:
            continue
        name = element.keyword or str(element.tag)
        other = back.get(element.tag)
        if other is None:
            if not element.is_empty:
                out.append(name)
        elif element.VR != "SQ":
            if not _equal(element.value, other.value):
                out.append(name)
        elif other.VR != "SQ" or len(element.value) != len(other.value):
            out.append(name)
        else:
            for number, (item, its) in enumerate(zip(element.value, other.value, strict=True)):
                out.extend(f"{name}[{number}].{inner}" for inner in changes(item, its))
    return out


def _equal(one: Any, other: Any) -> bool:
    if one in (None, "", b"") or (hasattr(one, "__len__") and len(one) == 0):
        return other in (None, "", b"") or (hasattr(other, "__len__") and len(other) == 0)
    return bool(one == other)


def _check_same(sent: Dataset, back: Dataset, so_far: str) -> None:
    with _talking("an instance read back"):
        changed = changes(sent, back)
    if changed:
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise InputError(
            f"pacs: expected the stored instance back as it was sent, got other values of {', '.join(changed[:4])}{more}; {so_far}; "
            "turn off the archive's coercion for this source"
        )


def _as_file(one: Dataset) -> Dataset:
    """The instance as a reader of its file sees it: with a preamble, which not every client adds, and with values padded."""
    from pydicom import dcmread

    try:
        return dcmread(io.BytesIO(encoded(one)))
    except Exception as error:  # as many types as there are ways for a data set to be none
        raise InputError(
            f"datasets: expected instances that can be written to a file, got one that cannot ({type(error).__name__}); give it its "
            "class, UIDs and transfer syntax"
        ) from None


def _uids_of(one: Dataset) -> tuple[str, str, str]:
    uids = tuple(str(one.get(keyword) or "") for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
    study, series, instance = uids
    _check_uids(study=study, series=series, instance=instance)
    return study, series, instance


def _check_uids(**uids: str) -> None:
    for name, uid in uids.items():
        if not is_uid(uid):
            raise InputError(
                f"{name}: expected a DICOM UID, got an empty, missing or invalid one; take it from the archive"
            )


def _client(settings: DicomWebSettings) -> Any:
    import requests
    from dicomweb_client.api import DICOMwebClient

    _silence()
    session = requests.Session()
    session.trust_env = False  # neither proxies nor ~/.netrc
    session.max_redirects = 0
    session.headers["Accept"] = "application/dicom+json"  # of a confirmation; searches and instances ask for their own
    if settings.user:
        session.auth = (settings.user, settings.password)
    if settings.token:
        session.headers["Authorization"] = f"Bearer {settings.token}"
    if settings.ca_bundle is not None:
        session.verify = str(settings.ca_bundle)
    # One piece: the client's own pieces are used up when a refused request is sent again.
    client = DICOMwebClient(
        settings.url.rstrip("/"),
        session=session,
        callback=_plain_type,
        chunk_size=2**31 - 1,
        timeout=settings.timeout_s,
    )
    client.set_http_retry_params(max_attempts=3, wait_exponential_multiplier=250)
    return client


def _plain_type(response: Any, *_: Any, **__: Any) -> Any:
    """The client reads a confirmation only if its type stands alone, without a character set."""
    kind = response.headers.get("Content-Type", "")
    if kind.split(";")[0].strip() in (
        "application/dicom+json",
        "application/json",
        "application/dicom+xml",
        "application/xml",
    ):
        response.headers["Content-Type"] = kind.split(";")[0].strip()
    return response


def _silence() -> None:
    """These libraries log addresses with names and identifiers of patients, warnings of the server, or whole queries."""
    for name in ("dicomweb_client", "urllib3", "retrying", "pynetdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def _talking(what: str) -> Iterator[None]:
    """Turns every failure of a conversation into an `InputError` without the words of the server or the client."""
    import requests
    from retrying import RetryError  # type: ignore[import-untyped]  # the DICOMweb client's

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (InputError, MemoryError):
        raise
    except requests.HTTPError as error:
        raise _refused(what, error.response) from None
    except RetryError as error:
        raise _refused(what, error.last_attempt.value) from None
    except requests.TooManyRedirects:
        raise InputError(
            f"pacs.url: expected an answer to {what}, got a redirect; configure the address it leads to"
        ) from None
    except (requests.ConnectionError, requests.Timeout, ConnectionError, TimeoutError) as error:
        raise InputError(
            f"pacs: expected an answer to {what}, got no connection ({type(error).__name__}); check the address, the network and the "
            "archive"
        ) from None
    except Exception as error:  # whatever a client makes of a broken answer
        raise InputError(
            f"pacs: expected a readable answer to {what}, got another ({type(error).__name__}); check that the address is one of "
            "DICOM services"
        ) from None


def _refused(what: str, response: Any) -> InputError:
    status = getattr(response, "status_code", 0)
    remedy = {
        401: "check user, password or token",
        403: "check the rights of the user",
        404: "check the address, and whether it is there",
        429: "try again later",
        503: "try again later",
    }.get(status, "check the archive's log")
    return InputError(f"pacs: expected an answer to {what}, got HTTP status {status}; {remedy}")


def _dates(date: str) -> str:
    """A date or range in DICOM's form."""
    plain = re.sub(r"(\d{4})-(\d{2})-(\d{2})", r"\1\2\3", date.strip())
    if not _DATES.fullmatch(plain) or len(plain) not in (8, 9, 17) or (len(plain) == 9 and "-" not in plain):
        raise InputError("date: expected YYYY-MM-DD or a range YYYYMMDD-YYYYMMDD, got another text; correct the search")
    return plain


def _iso(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if re.fullmatch(r"\d{8}", date) else ""


def _text(entry: Mapping[str, Any], tag: str) -> str:
    """First value of an attribute in DICOM's JSON; empty without one."""
    values = entry.get(tag, {}).get("Value") or [""]
    value = values[0]
    if isinstance(value, dict):  # a person's name
        value = value.get("Alphabetic") or value.get("Ideographic") or value.get("Phonetic")
    return "".join(c for c in str(value or "") if c.isprintable())[:200]


def _count(entry: Mapping[str, Any], tag: str) -> int | None:
    text = _text(entry, tag)
    return int(text) if text.isdecimal() else None

"""Lesions as DICOM: masks as a segmentation (SEG), measurements as a structured report (SR TID 1500).

The same arguments make the same bytes. Instance and series UIDs are hashes of the object's own content, so one UID never names two
contents, and every change makes a new series. Messages neither quote headers nor name the patient.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import re
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from segnet.errors import InputError
from segnet.io.boxes import Box
from segnet.io.dicom_frames import FrameMap, Series
from segnet.io.volumes import Volume
from segnet.metrics import RecistAxes

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Role = Literal["target", "non-target", "node"]

MAX_FINDINGS = 500
"""Lesions in one object. Each is a segment, and overlapping ones need a mask of every slice each."""
MAX_MASK_BYTES = 2**30
"""Of the masks of overlapping lesions: slices x rows x columns x lesions. highdicom needs about three times that."""
BIDIRECTIONAL = "Cornerstone3DTools@^0.1.0:Bidirectional"
"""Tracking identifier by which OHIF and Cornerstone3D recognise two axes that can be edited."""

_SITES = {
    "lung": ("39607008", "Lung"),
    "lymph node": ("59441001", "Lymph node"),
    "liver": ("10200004", "Liver"),
    "adrenal": ("23451007", "Adrenal gland"),
    "kidney": ("64033007", "Kidney"),
    "pancreas": ("15776009", "Pancreas"),
    "bone": ("272673000", "Bone"),
    "soft tissue": ("87784001", "Soft tissue"),
    "brain": ("12738006", "Brain"),
    "pleura": ("3120008", "Pleura"),
}
"""SNOMED CT codes. Other sites have none here and are left uncoded."""

_OF_EACH = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "Rows",
    "Columns",
    "ImagePositionPatient",
)
"""Attributes of a slice that differ, or that highdicom asks of each."""
_PATIENT_AND_STUDY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "Manufacturer",
)
"""Attributes that may be empty but not missing."""
_MAKER = "segnet"
_MAX_TEXT = 64  # characters of the value representation LO
_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
_UNSET = "2.25.0"
"""Stands for the UIDs of an object while its content is hashed."""
_SEG_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"


@dataclass(frozen=True, eq=False)
class Finding:
    """One lesion.

    Attributes
    ----------
    mask : bool, the crop `box` of the canonical (Z, Y, X) array of its `Volume`
    box : place of the crop: a slice with start and stop along Z, Y and X
    name : 1 to 64 printable characters
    tracking_uid : the same for this lesion in every export and at every time point
    axes : long and short axis in voxels of the canonical array, as `segnet.prediction.lesions.Lesion.axes`; None for an empty mask
    volume_ml : volume of the mask
    mean_hu : mean density; None if unknown. It is reported for CT alone
    site : one of the service's sites, such as "liver"; None if unknown
    role : in RECIST 1.1. A node is a lymph node, whatever its site says
    accepted : whether a reader accepted it
    """

    mask: NDArray[np.bool_]
    box: Box
    name: str
    tracking_uid: str
    axes: RecistAxes | None
    volume_ml: float
    mean_hu: float | None = None
    site: str | None = None
    role: Role | None = None
    accepted: bool = False

    @property
    def long_mm(self) -> float:
        return 0.0 if self.axes is None else self.axes.long_mm

    @property
    def short_mm(self) -> float:
        return 0.0 if self.axes is None else self.axes.short_mm


@dataclass(frozen=True)
class Algorithm:
    """What drew the lesions.

    Attributes
    ----------
    name, version : 1 to 64 printable characters
    """

    name: str
    version: str


@dataclass(frozen=True)
class Verifier:
    """The person who answers for accepted lesions.

    Attributes
    ----------
    name : DICOM's form, such as "Doe^Jane"
    organization : 1 to 64 printable characters
    """

    name: str
    organization: str


def segmentation(
    series: Series,
    volume: Volume,
    findings: Sequence[Finding],
    *,
    algorithm: Algorithm,
    made_at: datetime,
    deidentified: bool = False,
    series_number: int = 900,
) -> Dataset:
    """A binary DICOM segmentation with one segment for each lesion, so that overlapping lesions stay whole.

    Parameters
    ----------
    series : headers of the series that `volume` was read from, by `segnet.io.dicom.read_series`
    volume : its canonical volume; only the grid is used
    findings : one or more lesions. Segment numbers follow their order
    algorithm : named in each segment
    made_at : date of the content, such as that of the last change. Local time if it has no zone
    deidentified : whether the series was de-identified on its way. Such objects must not enter an archive
    series_number : of the new series

    Returns
    -------
    A data set with file meta information. Only slices that hold a lesion have frames.

    Raises
    ------
    InputError
        The source is de-identified; a UID is empty, missing or invalid; the headers do not fit the volume; a mask is empty, lies
        outside, or differs from its box; or the headers cannot be written into a segmentation.

    Source: DICOM PS3.3 A.51 and C.8.20.
    """
    way = _checked(series, volume, findings, deidentified)
    _check_algorithm(algorithm)
    placed = [_on_frames(way, finding) for finding in findings]
    numbers = np.unique(np.concatenate([np.arange(box[0].start, box[0].stop) for box, _ in placed]))
    pixels = _pixels(placed, numbers, series.shape[1:])
    filled = pixels.any(axis=tuple(range(1, pixels.ndim)))
    numbers, pixels = numbers[filled], pixels[filled]
    with _building("segmentation"):
        made = _segmentation(_prepared(series, numbers), pixels, findings, algorithm, made_at, series_number)
        return _named(made, made_at)


def report(
    series: Series,
    volume: Volume,
    segmentation: Dataset,
    findings: Sequence[Finding],
    *,
    algorithm: Algorithm,
    made_at: datetime,
    verifier: Verifier | None = None,
    deidentified: bool = False,
    series_number: int = 901,
) -> Dataset:
    """A measurement report (TID 1500) with volume, mean density and both axes of each lesion.

    Each lesion has a volumetric group, which refers to its segment, and a group with its axes in the form that OHIF reads. The axes
    are pixels of one slice where slices are axial. In other series an axial line crosses slices, so the axes are points in mm of the
    patient. The report is complete once every lesion is accepted, and verified if a verifier then answers for it.

    Parameters
    ----------
    series, volume, findings, algorithm, made_at, deidentified : as in `segmentation`
    segmentation : made from the same findings in the same order
    verifier : used only once every lesion is accepted
    series_number : of the new series

    Returns
    -------
    A Comprehensive SR; a Comprehensive 3D SR for series without axial slices.

    Raises
    ------
    InputError
        As `segmentation`; or the segmentation is of another study, of other lesions, or no segmentation.

    Source: DICOM PS3.16 TID 1500, 1411, 1501 and 320.
    """
    way = _checked(series, volume, findings, deidentified)
    _check_algorithm(algorithm)
    if verifier is not None:
        _check_text(verifier.name, "verifier.name")
        _check_text(verifier.organization, "verifier.organization")
    _check_segmentation(segmentation, findings, series)
    lines = [_lines(series, way, finding) for finding in findings]
    with _building("report"):
        made = _report(
            _prepared(series, np.unique([drawn.number for drawn in lines])),
            segmentation,
            lines,
            findings,
            algorithm,
            made_at,
            verifier,
            series_number,
        )
        return _named(made, made_at)


def check_source(series: Series, *, deidentified: bool = False) -> None:
    """Whether objects may be made for a series, whatever the lesions.

    Raises
    ------
    InputError
        The series is de-identified; or a study, series, frame of reference, class or instance UID is empty, missing, invalid, or not
        the series' own.
    """
    if deidentified:
        raise InputError(
            "deidentified: expected a series as its archive holds it, got a de-identified one, whose UIDs and patient are no "
            "longer the archive's; export from the original series"
        )
    _check_uids(series)


def encoded(dataset: Dataset) -> bytes:
    """A data set as a DICOM file."""
    from pydicom import dcmwrite

    out = io.BytesIO()
    dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def hashed_uid(*content: str | bytes) -> str:
    """A UID that depends on the content alone.

    Source: ITU-T X.667 (UUIDs as UIDs), RFC 9562 (version 8: bits of one's own choice).

    Examples
    --------
    >>> hashed_uid("a", "b") == hashed_uid("a", "b") != hashed_uid("ab")
    True
    """
    digest = hashlib.sha256()
    for part in content:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big") + raw)
    bits = int.from_bytes(digest.digest()[:16], "big")
    bits = bits & ~(0xF << 76) | 8 << 76
    bits = bits & ~(0x3 << 62) | 2 << 62
    return f"2.25.{uuid.UUID(int=bits).int}"


# What must hold before anything is built.


def _checked(series: Series, volume: Volume, findings: Sequence[Finding], deidentified: bool) -> FrameMap:
    """The way to the frames, once everything that can be refused was looked at."""
    check_source(series, deidentified=deidentified)
    way = series.frame_map(volume)
    _check_findings(findings, volume)
    return way


def _check_uids(series: Series) -> None:
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID", "SOPInstanceUID"):
        values = [str(header.get(keyword) or "") for header in series.headers]
        bad = [value for value in values if not is_uid(value)]
        if bad:
            got = "an empty or missing one" if not all(bad) else "an invalid one"
            raise InputError(
                f"{keyword}: expected a UID in every header of the series, got {got} in {len(bad)} of {len(values)}; export "
                "the series anew from its archive"
            )
        distinct = len(set(values))
        if keyword == "SOPInstanceUID":
            if distinct != len(values):
                raise InputError(
                    f"SOPInstanceUID: expected one for each slice, got {distinct} for {len(values)} slices; export the series "
                    "anew from its archive"
                )
        elif distinct != 1:
            raise InputError(
                f"{keyword}: expected the same in every slice, got {distinct} different ones; pass the headers of one series"
            )


def is_uid(text: str) -> bool:
    """Whether a text is a valid DICOM UID: numbers without leading zeros, at most 64 characters."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def _check_findings(findings: Sequence[Finding], volume: Volume) -> None:
    if not 1 <= len(findings) <= MAX_FINDINGS:
        raise InputError(
            f"findings: expected 1 to {MAX_FINDINGS} lesions, got {len(findings)}; choose the lesions to export"
        )
    for number, finding in enumerate(findings):
        _check_finding(finding, f"findings[{number}]", volume.array_zyx.shape)
    distinct = len({finding.tracking_uid for finding in findings})
    if distinct != len(findings):
        raise InputError(
            f"tracking_uid: expected one for each lesion, got {distinct} for {len(findings)} lesions; export each lesion once"
        )


def _check_finding(finding: Finding, where: str, shape: tuple[int, ...]) -> None:
    mask, box = finding.mask, finding.box
    inside = len(box) == 3 and all(
        part.step in (None, 1) and 0 <= part.start <= part.stop <= n for part, n in zip(box, shape, strict=True)
    )
    if not inside:
        raise InputError(
            f"{where}.box: expected a box within (Z, Y, X) {shape}, got {_shown(box)}; pass the mask's own box"
        )
    expected = tuple(part.stop - part.start for part in box)
    if mask.dtype != np.bool_ or mask.shape != expected:
        raise InputError(
            f"{where}.mask: expected bool of shape {expected} like its box, got {mask.dtype} of shape {mask.shape}; pass the "
            "crop of the mask"
        )
    if not mask.any() or finding.axes is None:
        raise InputError(
            f"{where}.mask: expected at least one voxel and two axes, got an empty mask or no axes; leave the lesion out, or "
            "draw it"
        )
    _check_axes(finding.axes, box, where)
    _check_text(finding.name, f"{where}.name")
    if not is_uid(finding.tracking_uid):
        raise InputError(f"{where}.tracking_uid: expected a DICOM UID, got another text; make one with hashed_uid")
    if finding.role is not None and finding.role not in get_args(Role):
        raise InputError(
            f"{where}.role: expected one of {', '.join(get_args(Role))} or None, got {finding.role!r}; choose one"
        )
    if not (math.isfinite(finding.volume_ml) and finding.volume_ml > 0):
        raise InputError(f"{where}.volume_ml: expected a volume above 0 ml, got {finding.volume_ml}; measure the mask")
    if finding.mean_hu is not None and not math.isfinite(finding.mean_hu):
        raise InputError(f"{where}.mean_hu: expected a finite number or None, got {finding.mean_hu}; measure the mask")


def _check_axes(axes: RecistAxes, box: Box, where: str) -> None:
    """The ends lie on a slice of the box, within half a voxel of it: the axes were not left in the crop's own indices."""
    ends = np.array([*axes.long_yx, *axes.short_yx], np.float64)
    low = np.array([box[1].start, box[2].start]) - 0.5
    high = np.array([box[1].stop, box[2].stop]) - 0.5
    slack = 1e-6
    on_slice = box[0].start <= axes.z < box[0].stop
    lengths = np.array([axes.long_mm, axes.short_mm])
    if not (on_slice and np.isfinite(ends).all() and (ends >= low - slack).all() and (ends <= high + slack).all()):
        raise InputError(
            f"{where}.axes: expected ends within half a voxel of the box {_shown(box)}, got slice {axes.z} and ends {ends.tolist()} "
            "(Y, X); move axes of a crop by its corner"
        )
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise InputError(f"{where}.axes: expected lengths above 0 mm, got {lengths.tolist()}; measure the mask")


def _check_algorithm(algorithm: Algorithm) -> None:
    _check_text(algorithm.name, "algorithm.name")
    _check_text(algorithm.version, "algorithm.version")


def _check_text(text: str, what: str) -> None:
    if not 1 <= len(text.strip()) <= len(text) <= _MAX_TEXT or not text.isprintable() or "\\" in text:
        raise InputError(
            f"{what}: expected 1 to {_MAX_TEXT} printable characters without backslash, got {len(text)} characters; shorten "
            "or rename it"
        )


def _check_segmentation(segmentation: Dataset, findings: Sequence[Finding], series: Series) -> None:
    tracked = [str(item.get("TrackingUID", "")) for item in segmentation.get("SegmentSequence", [])]
    if segmentation.get("SOPClassUID") != _SEG_CLASS or tracked != [finding.tracking_uid for finding in findings]:
        raise InputError(
            f"segmentation: expected the {len(findings)} lesions of the report as segments in their order, got "
            f"{len(tracked)} segments; make both from the same findings"
        )
    referenced = [str(item.get("SeriesInstanceUID", "")) for item in segmentation.get("ReferencedSeriesSequence", [])]
    study, source = (str(series.headers[0][keyword].value) for keyword in ("StudyInstanceUID", "SeriesInstanceUID"))
    if segmentation.get("StudyInstanceUID") != study or referenced != [source]:
        raise InputError(
            "segmentation: expected one of this series and its study, got one of another; make it from this series"
        )


def _shown(box: Box) -> str:
    return ", ".join(f"{part.start}:{part.stop}" for part in box)


# From the volume to the frames.


def _prepared(series: Series, numbers: NDArray[Any]) -> list[Any]:
    """Copies of the headers of some slices, complete and alike, for highdicom.

    It copies patient, study and spacing from the first, and compares directions to the last digit. The others need a few attributes.
    """
    from pydicom.dataset import Dataset

    step_mm = float(np.linalg.norm(series.affine[:3, 2]))
    out: list[Any] = []
    for number in numbers:
        header = series.headers[number]
        copy = Dataset()
        if not out:
            # deep, since highdicom hands elements on, and decoded, since a character set of its own follows
            copy = deepcopy(header)
            copy.decode()
            for tag in [tag for tag in copy.keys() if tag.group == 0x7FE0]:  # noqa: SIM118
                del copy[tag]
        for keyword in (*_OF_EACH, *_PATIENT_AND_STUDY):
            if keyword not in copy:
                setattr(copy, keyword, header.get(keyword, ""))
        copy.SliceThickness = header.get("SliceThickness") or _number(step_mm)
        copy.SpacingBetweenSlices = _number(step_mm)
        copy.ImageOrientationPatient = series.headers[0].ImageOrientationPatient
        copy.PixelSpacing = series.headers[0].PixelSpacing
        copy.SpecificCharacterSet = "ISO_IR 192"
        out.append(copy)
    return out


def _number(value: float) -> Any:
    from pydicom.valuerep import DSfloat

    return DSfloat(value, auto_format=True)


def _on_frames(way: FrameMap, finding: Finding) -> tuple[Box, NDArray[np.bool_]]:
    """The lesion's box and crop as slices, rows and columns."""
    return way.box(finding.box), way.frames(finding.mask)


def _pixels(
    placed: Sequence[tuple[Box, NDArray[np.bool_]]], numbers: NDArray[Any], size: tuple[int, ...]
) -> NDArray[np.uint16] | NDArray[np.bool_]:
    """Masks on the slices `numbers`: (slices, rows, columns) of segment numbers, with an axis of segments behind if they overlap."""
    labels = np.zeros((len(numbers), *size), np.uint16)
    overlap = False
    for number, (box, crop) in enumerate(placed, 1):
        part = labels[_among(numbers, box)]
        overlap = overlap or bool(part[crop].any())
        part[crop] = number
    if not overlap:
        return labels
    if labels.size * len(placed) > MAX_MASK_BYTES:
        raise InputError(
            f"findings: expected masks of at most {MAX_MASK_BYTES} bytes where lesions overlap, got {labels.size * len(placed)}; "
            "export fewer lesions at once, or erase the overlap"
        )
    masks = np.zeros((*labels.shape, len(placed)), np.bool_)
    for number, (box, crop) in enumerate(placed):
        masks[..., number][_among(numbers, box)] = crop
    return masks


def _among(numbers: NDArray[Any], box: Box) -> Box:
    """A box whose slices are counted among `numbers`, which holds all of them."""
    slices, rows, columns = box
    start = int(np.searchsorted(numbers, slices.start))
    return slice(start, start + slices.stop - slices.start), rows, columns


@dataclass(frozen=True, eq=False)
class _Lines:
    """Both axes.

    Attributes
    ----------
    long, short : (2, 2) ends in pixels (column, row) from the corner of the slice; or (2, 3) in mm LPS if `in_space`
    number, header : their slice; in space, the one nearest to their middle
    """

    long: NDArray[np.float64]
    short: NDArray[np.float64]
    number: int
    header: Any
    in_space: bool


def _lines(series: Series, way: FrameMap, finding: Finding) -> _Lines:
    axes = finding.axes
    assert axes is not None  # checked
    ends = way.points([(axes.z, y, x) for y, x in (*axes.long_yx, *axes.short_yx)])
    number = round(float(ends[:2, 0].mean()))
    header = series.headers[number]
    if way.axes[0] != 0:
        points = series.to_lps(ends)
        return _Lines(points[:2], points[2:], number, header, True)
    # Whole numbers are pixel centres here; SCOORD counts from the corner of the first pixel.
    pixels = ends[:, [2, 1]] + 0.5
    return _Lines(pixels[:2], pixels[2:], number, header, False)


# The objects themselves.


def _segmentation(
    headers: Sequence[Any],
    pixels: NDArray[Any],
    findings: Sequence[Finding],
    algorithm: Algorithm,
    made_at: datetime,
    series_number: int,
) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    identification = hd.AlgorithmIdentificationSequence(
        name=algorithm.name, version=algorithm.version, family=codes.cid7162.ArtificialIntelligence
    )
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=finding.name,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Lesion,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
            algorithm_identification=identification,
            tracking_uid=finding.tracking_uid,
            tracking_id=finding.name,
            anatomic_regions=None if (site := _site(finding)) is None else [site],
        )
        for number, finding in enumerate(findings, 1)
    ]
    made = hd.seg.Segmentation(
        source_images=headers,
        pixel_array=pixels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        content_label="LESIONS",
        content_description="Lesions, one segment each",
        device_serial_number="0",
        omit_empty_frames=True,
        series_description="segnet lesions",
        **_origin(algorithm, made_at, series_number),
    )
    organization = hashed_uid("dimensions", headers[0].SeriesInstanceUID)
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    return made


def _report(
    headers: Sequence[Any],
    segmentation: Dataset,
    lines: Sequence[_Lines],
    findings: Sequence[Finding],
    algorithm: Algorithm,
    made_at: datetime,
    verifier: Verifier | None,
    series_number: int,
) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    accepted = all(finding.accepted for finding in findings)
    verified = accepted and verifier is not None
    is_ct = headers[0].Modality == "CT"
    groups: list[Any] = []
    for number, finding in enumerate(findings, 1):
        groups.append(_volume_group(headers[0], segmentation, number, finding, algorithm, is_ct))
    for finding, drawn in zip(findings, lines, strict=True):
        groups.append(_axes_group(headers[0], finding, drawn, algorithm))
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=hashed_uid("device", _MAKER, algorithm.name, algorithm.version),
        manufacturer_name=_MAKER,
        model_name=algorithm.name,
    )
    person = None
    if verified and verifier is not None:
        person = hd.sr.ObserverContext(
            observer_type=codes.DCM.Person,
            observer_identifying_attributes=hd.sr.PersonObserverIdentifyingAttributes(
                name=verifier.name, organization_name=verifier.organization
            ),
        )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(
            observer_person_context=person,
            observer_device_context=hd.sr.ObserverContext(
                observer_type=codes.DCM.Device, observer_identifying_attributes=device
            ),
        ),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion if is_ct else codes.LN.MRIUnspecifiedBodyRegion,
        imaging_measurements=groups,
        referenced_images=headers,
    )
    in_space = any(drawn.in_space for drawn in lines)
    made = (hd.sr.Comprehensive3DSR if in_space else hd.sr.ComprehensiveSR)(
        evidence=[*headers, segmentation],
        content=content,
        is_complete=accepted,
        is_final=accepted,
        is_verified=verified,
        verifying_observer_name=verifier.name if verified and verifier is not None else None,
        verifying_organization=verifier.organization if verified and verifier is not None else None,
        series_description="segnet measurements",
        **_origin(algorithm, made_at, series_number),
    )
    for observer in made.get("VerifyingObserverSequence", []):
        observer.VerificationDateTime = f"{_local(made_at):%Y%m%d%H%M%S}"
    return made


def _origin(algorithm: Algorithm, made_at: datetime, series_number: int) -> dict[str, Any]:
    moment = _local(made_at)
    return {
        "series_instance_uid": _UNSET,
        "sop_instance_uid": _UNSET,
        "series_number": series_number,
        "instance_number": 1,
        "manufacturer": _MAKER,
        "manufacturer_model_name": algorithm.name,
        "software_versions": algorithm.version,
        "content_date": moment.date(),
        "content_time": moment.time(),
        "series_date": moment.date(),
        "series_time": moment.time(),
        "specific_character_set": "ISO_IR 192",
    }


def _volume_group(
    header: Any, segmentation: Dataset, number: int, finding: Finding, algorithm: Algorithm, is_ct: bool
) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    measurements = [
        hd.sr.Measurement(
            name=codes.SCT.Volume, value=round(finding.volume_ml * 1000, 3), unit=codes.UCUM.CubicMillimeter
        )
    ]
    if is_ct and finding.mean_hu is not None:
        measurements.append(
            hd.sr.Measurement(
                name=codes.DCM.AttenuationCoefficient,
                value=round(finding.mean_hu, 3),
                unit=codes.UCUM.HounsfieldUnit,
                derivation=codes.SCT.Mean,
            )
        )
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=finding.tracking_uid, identifier=finding.name),
        # from_segmentation fails for a single segment, whose identification moves to the shared groups
        referenced_segment=hd.sr.ReferencedSegment(
            segmentation.SOPClassUID,
            segmentation.SOPInstanceUID,
            number,
            source_series=hd.sr.SourceSeriesForSegmentation(header.SeriesInstanceUID),
        ),
        measurements=measurements,
        **_finding_codes(finding, algorithm),
    )


def _axes_group(header: Any, finding: Finding, drawn: _Lines, algorithm: Algorithm) -> Any:
    """TID 1501 beside the volumetric group: coordinates are not allowed in groups of segments.

    Names are those that OHIF compares: pydicom's "Long axis" is not read. The group tracks under a UID of its own, because OHIF
    merges groups of one tracking UID.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    def axis(code: str, meaning: str, length_mm: float, ends: NDArray[np.float64]) -> Any:
        coordinates: Any
        if drawn.in_space:
            coordinates = hd.sr.CoordinatesForMeasurement3D(
                graphic_type=hd.sr.GraphicTypeValues3D.POLYLINE,
                graphic_data=ends,
                frame_of_reference_uid=header.FrameOfReferenceUID,
            )
        else:
            coordinates = hd.sr.CoordinatesForMeasurement(
                graphic_type=hd.sr.GraphicTypeValues.POLYLINE,
                graphic_data=ends,
                # SourceImageForMeasurement passes highdicom and fails dciodvfy
                source_image=hd.sr.SourceImageForRegion(drawn.header.SOPClassUID, drawn.header.SOPInstanceUID),
            )
        return hd.sr.Measurement(
            name=hd.sr.CodedConcept(code, "SCT", meaning),
            value=round(length_mm, 3),
            unit=codes.UCUM.Millimeter,
            method=codes.cid6147.RECIST1Point1,
            referenced_coordinates=[coordinates],
        )

    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=hashed_uid("axes", finding.tracking_uid), identifier=BIDIRECTIONAL
        ),
        measurements=[
            axis("103339001", "Long Axis", finding.long_mm, drawn.long),
            axis("103340004", "Short Axis", finding.short_mm, drawn.short),
        ],
        **_finding_codes(finding, algorithm),
    )
    # the tracking identifier is taken, so the lesion's name stands in an item of its own
    name = hd.sr.TextContentItem(
        name=codes.DCM.LesionIdentifier,
        value=finding.name,
        relationship_type=hd.sr.RelationshipTypeValues.HAS_OBS_CONTEXT,
    )
    group[0].ContentSequence.append(name)
    return group


def _finding_codes(finding: Finding, algorithm: Algorithm) -> dict[str, Any]:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    site = _site(finding)
    roles = {"target": codes.DCM.TargetLesionAtBaseline, "non-target": codes.DCM.NonTargetLesionAtBaseline}
    role = roles.get(finding.role or "")
    return {
        "finding_type": codes.SCT.Lesion,
        "finding_category": codes.SCT.MorphologicallyAbnormalStructure,
        "finding_sites": None if site is None else [hd.sr.FindingSite(site)],
        "algorithm_id": hd.sr.AlgorithmIdentification(name=algorithm.name, version=algorithm.version),
        "qualitative_evaluations": None
        if role is None
        else [hd.sr.QualitativeEvaluation(name=codes.DCM.BaselineCategory, value=role)],
    }


def _site(finding: Finding) -> Any:
    """The code of the lesion's site, None without one."""
    import highdicom as hd

    name = "lymph node" if finding.role == "node" else finding.site or ""
    if name not in _SITES:
        return None
    value, meaning = _SITES[name]
    return hd.sr.CodedConcept(value, "SCT", meaning)


def _named(made: Any, made_at: datetime) -> Any:
    """The object with dates of `made_at`, and with UIDs that are hashes of all the rest."""
    from pydicom import dcmread

    moment = _local(made_at)
    made.InstanceCreationDate, made.InstanceCreationTime = f"{moment:%Y%m%d}", f"{moment:%H%M%S}"
    for equipment in made.ContributingEquipmentSequence:
        if equipment.get("ManufacturerModelName") == "highdicom":
            equipment.ContributionDateTime = f"{moment:%Y%m%d%H%M%S}"
    content = encoded(made)
    instance = hashed_uid("instance", content)
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = instance
    made.SeriesInstanceUID = hashed_uid("series", content)
    return dcmread(io.BytesIO(encoded(made)))  # the made one shares elements with the headers


def _local(moment: datetime) -> datetime:
    """DICOM's dates are local, without a zone, and need whole seconds only."""
    return (moment if moment.tzinfo is None else moment.astimezone().replace(tzinfo=None)).replace(microsecond=0)


@contextmanager
def _building(what: str) -> Iterator[None]:
    """Turns every exception of highdicom and pydicom into an `InputError` without its words, which may quote the headers."""
    # highdicom logs the UIDs of its sources, and its warnings quote names
    logging.getLogger("highdicom").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # as many types as there are ways for a header to break the standard
        raise InputError(
            f"series: expected headers that a {what} can be made of, got a {type(error).__name__}; export the series anew from its "
            "archive"
        ) from None

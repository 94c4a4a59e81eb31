"""Segmentations and reports: the same voxels and points in the patient by other readers, the same bytes again, and refusals."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("pydicom")
hd = pytest.importorskip("highdicom")

import pydicom  # noqa: E402
from dicom_series import PATIENT  # noqa: E402
from lesions_on_series import MADE, ORIENTATIONS, Case, lesion, make_case, patient_mm  # noqa: E402

from segnet.errors import InputError  # noqa: E402
from segnet.io.dicom import read_series, series_of  # noqa: E402
from segnet.io.dicom_frames import Series  # noqa: E402
from segnet.io.volumes import read_image  # noqa: E402
from segnet.serve.dicom_objects import (  # noqa: E402
    Algorithm,
    Verifier,
    check_source,
    encoded,
    hashed_uid,
    is_uid,
    report,
    segmentation,
)


def exported(case: Case, **more: Any) -> tuple[Any, Any]:
    """Both objects, read from their bytes."""
    arguments = {**MADE, **more}
    verifier = arguments.pop("verifier", None)
    seg = segmentation(case.series, case.volume, case.findings, **arguments)
    sr = report(case.series, case.volume, seg, case.findings, verifier=verifier, **arguments)
    return pydicom.dcmread(BytesIO(encoded(seg))), pydicom.dcmread(BytesIO(encoded(sr)))


def sorted_rows(points: Any) -> Any:
    """Points in an order that digits beyond 1e-3 mm do not change."""
    points = np.asarray(points)
    return points[np.lexsort(np.round(points, 3).T)]


def foreground_mm(seg: Any, number: int) -> Any:
    """(n, 3) mm LPS of a segment's pixels, from its frames' positions and the bits of PS3.5 8.1.1 alone."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    row_mm, column_mm = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    size = seg.Rows * seg.Columns
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")[: size * seg.NumberOfFrames]
    points = []
    for frame, groups in zip(
        bits.reshape(-1, seg.Rows, seg.Columns), seg.PerFrameFunctionalGroupsSequence, strict=True
    ):
        owner = groups if "SegmentIdentificationSequence" in groups else shared
        if owner.SegmentIdentificationSequence[0].ReferencedSegmentNumber != number:
            continue
        corner = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(frame)
        points.append(corner + columns[:, None] * column_mm * cosines[0] + rows[:, None] * row_mm * cosines[1])
    return np.concatenate(points)


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_voxels_lie_at_the_same_place_in_the_patient(tmp_path: Path, orientation: str, overlapping: bool) -> None:
    case = make_case(tmp_path / "a", orientation, overlapping=overlapping)
    seg, _ = exported(case)
    assert [str(item.SegmentLabel) for item in seg.SegmentSequence] == ["Lesion 1", "Läsion 2"]
    for number, mask in enumerate(case.masks, 1):
        expected = patient_mm(case.volume.affine, np.argwhere(mask))
        np.testing.assert_allclose(
            sorted_rows(foreground_mm(seg, number)), sorted_rows(expected), atol=2e-5
        )  # positions have nine digits

    # highdicom, by the SOP instance UIDs of the source in the order of files
    read = hd.seg.Segmentation.from_dataset(seg)
    files = [pydicom.dcmread(path) for path in case.folder.iterdir()]
    frames = read.get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in files], assert_missing_frames_are_empty=True
    )
    for number, mask in enumerate(case.masks):
        found = []
        for one, frame in zip(files, frames[..., number], strict=True):
            cosines = np.array(one.ImageOrientationPatient, float).reshape(2, 3)
            rows, columns = np.nonzero(frame)
            steps = columns[:, None] * 0.5 * cosines[0] + rows[:, None] * 0.75 * cosines[1]
            found.append(np.array(one.ImagePositionPatient, float) + steps)
        expected = patient_mm(case.volume.affine, np.argwhere(mask))
        np.testing.assert_allclose(sorted_rows(np.concatenate(found)), sorted_rows(expected), atol=2e-5)


def test_each_frame_names_its_slice_and_only_slices_with_a_lesion_have_one(tmp_path: Path) -> None:
    case = make_case(tmp_path / "a", "feet first")
    seg, _ = exported(case)
    positions = {str(h.SOPInstanceUID): list(h.ImagePositionPatient) for h in case.series.headers}
    counted = 0
    for groups in seg.PerFrameFunctionalGroupsSequence:
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.SpatialLocationsPreserved == "YES"
        assert list(groups.PlanePositionSequence[0].ImagePositionPatient) == positions[source.ReferencedSOPInstanceUID]
        counted += 1
    assert counted == seg.NumberOfFrames == sum(int(mask.any(axis=(1, 2)).sum()) for mask in case.masks)
    assert float(seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices) == 2.5


def test_segments_tell_what_they_are(tmp_path: Path) -> None:
    case = make_case(tmp_path / "a")
    bare = replace(case.findings[1], role=None, site="other", tracking_uid="1.2.9", name="x")
    seg, _ = exported(replace(case, findings=(*case.findings, bare)))
    assert (seg.Modality, seg.SegmentationType, seg.SegmentsOverlap) == ("SEG", "BINARY", "YES")
    assert seg.SpecificCharacterSet == "ISO_IR 192"
    assert str(seg.PatientName) == PATIENT
    sites = []
    for item, finding in zip(seg.SegmentSequence, (*case.findings, bare), strict=True):
        assert item.TrackingUID == finding.tracking_uid
        assert item.TrackingID == finding.name
        assert item.SegmentAlgorithmType == "SEMIAUTOMATIC"
        (algorithm,) = item.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("mamba-ahnet", "0.1.0")
        sites.append([code.CodeValue for code in item.get("AnatomicRegionSequence", [])])
    assert sites == [["10200004"], ["59441001"], []]  # a node is a lymph node, whatever its site


def test_neither_headers_nor_objects_share_anything(tmp_path: Path) -> None:
    """What is changed in an export would otherwise change the series that is kept."""
    case = make_case(tmp_path / "a", headers={"SpecificCharacterSet": "ISO_IR 100", "StudyDescription": "Übersicht"})
    before = [one.to_json() for one in case.series.headers]
    for made in (
        segmentation(case.series, case.volume, case.findings, **MADE),
        report(
            case.series,
            case.volume,
            segmentation(case.series, case.volume, case.findings, **MADE),
            case.findings,
            **MADE,
        ),
    ):
        made.StudyDescription, made.PatientName, made.StudyInstanceUID = "x", "x", "1.2"
    assert [one.to_json() for one in case.series.headers] == before


def measurement_groups(sr: Any) -> list[dict[str, Any]]:
    """Content of each measurement group by the meaning of its items' names, read without highdicom."""
    (imaging,) = (
        item for item in sr.ContentSequence if item.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    )
    return [
        {item.ConceptNameCodeSequence[0].CodeMeaning: item for item in group.ContentSequence}
        for group in imaging.ContentSequence
    ]


def value(item: Any) -> tuple[float, str]:
    measured = item.MeasuredValueSequence[0]
    return float(measured.NumericValue), measured.MeasurementUnitsCodeSequence[0].CodeValue


def ends_mm(item: Any, case: Case) -> Any:
    """(2, 3) ends of an axis in mm LPS, by PS3.3 C.18.6 and C.7.6.2.1 from the header of the named slice alone."""
    (coordinates,) = (one for one in item.ContentSequence if one.ValueType.startswith("SCOORD"))
    assert coordinates.GraphicType == "POLYLINE"
    if coordinates.ValueType == "SCOORD3D":
        assert coordinates.ReferencedFrameOfReferenceUID == "1.2.3.1"
        return np.array(coordinates.GraphicData).reshape(2, 3)
    named = coordinates.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    (header,) = (one for one in case.series.headers if one.SOPInstanceUID == named)
    cosines = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    row_mm, column_mm = (float(v) for v in header.PixelSpacing)
    corner = np.array(header.ImagePositionPatient, float)  # centre of the first pixel, which SCOORD calls 0.5
    column, row = np.array(coordinates.GraphicData).reshape(2, 2).T - 0.5
    return corner + column[:, None] * column_mm * cosines[0] + row[:, None] * row_mm * cosines[1]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_measurements_and_ends_are_those_of_the_volume(tmp_path: Path, orientation: str) -> None:
    case = make_case(tmp_path / "a", orientation)
    seg, sr = exported(case)
    groups = measurement_groups(sr)
    assert len(groups) == 4
    for number, (finding, mask) in enumerate(zip(case.findings, case.masks, strict=True), 1):
        axes = finding.axes
        assert axes is not None
        sizes, drawn = groups[number - 1], groups[number + 1]
        tracked = [str(group["Tracking Unique Identifier"].UID) for group in (sizes, drawn)]
        assert tracked[0] == finding.tracking_uid
        assert drawn["Lesion Identifier"].TextValue == sizes["Tracking Identifier"].TextValue == finding.name
        assert tracked[1] not in {one.tracking_uid for one in case.findings}
        assert value(sizes["Volume"]) == (round(finding.volume_ml * 1000, 3), "mm3")
        voxel_mm3 = abs(np.linalg.det(case.volume.affine[:3, :3]))
        assert value(sizes["Volume"])[0] == pytest.approx(mask.sum() * voxel_mm3, abs=1e-3)
        hu = case.volume.array_zyx[mask].mean(dtype=np.float64)
        assert value(sizes["Attenuation Coefficient"]) == (pytest.approx(hu, abs=1e-3), "[hnsf'U]")
        segment = sizes["Referenced Segment"].ReferencedSOPSequence[0]
        assert (segment.ReferencedSOPInstanceUID, segment.ReferencedSegmentNumber) == (seg.SOPInstanceUID, number)
        for name, length_mm, ends in (
            ("Long Axis", axes.long_mm, axes.long_yx),
            ("Short Axis", axes.short_mm, axes.short_yx),
        ):
            expected = patient_mm(case.volume.affine, [(axes.z, y, x) for y, x in ends])
            found = ends_mm(drawn[name], case)
            np.testing.assert_allclose(found, expected, atol=5e-5)  # float32 of numbers up to 250
            assert value(drawn[name]) == (pytest.approx(length_mm, abs=5e-4), "mm")
            assert np.linalg.norm(found[0] - found[1]) == pytest.approx(length_mm, abs=2e-4)
    kind = hd.sr.ComprehensiveSR if sr.SOPClassUID.endswith("33") else hd.sr.Comprehensive3DSR
    content = kind.from_dataset(sr).content
    assert len(content.get_volumetric_roi_measurement_groups()) == len(content.get_image_measurement_groups()) == 2
    on_slices = orientation not in ("coronal", "sagittal", "oblique coronal")
    assert sr.SOPClassUID == f"1.2.840.10008.5.1.4.1.1.88.3{3 if on_slices else 4}"


def test_the_report_says_what_was_accepted(tmp_path: Path) -> None:
    case = make_case(tmp_path / "a")
    reader = Verifier("Reader^Rita", "Clinic")
    done = tuple(replace(finding, accepted=True) for finding in case.findings)
    for findings, verifier, expected in (
        (case.findings, None, ("PARTIAL", "UNVERIFIED", "PRELIMINARY")),
        (case.findings, reader, ("PARTIAL", "UNVERIFIED", "PRELIMINARY")),
        ((done[0], case.findings[1]), reader, ("PARTIAL", "UNVERIFIED", "PRELIMINARY")),
        (done, None, ("COMPLETE", "UNVERIFIED", "FINAL")),
        (done, reader, ("COMPLETE", "VERIFIED", "FINAL")),
    ):
        _, sr = exported(replace(case, findings=findings), verifier=verifier)
        assert (sr.CompletionFlag, sr.VerificationFlag, sr.PreliminaryFlag) == expected
        if expected[1] == "VERIFIED":
            (observer,) = sr.VerifyingObserverSequence
            assert (observer.VerifyingObserverName, observer.VerifyingOrganization) == ("Reader^Rita", "Clinic")
            assert observer.VerificationDateTime == "20260304050607"
    groups = measurement_groups(sr)
    assert groups[0]["Baseline Category"].ConceptCodeSequence[0].CodeValue == "112074"
    assert "Baseline Category" not in groups[1]
    assert groups[1]["Finding Site"].ConceptCodeSequence[0].CodeValue == "59441001"


def test_mr_has_no_hounsfield_units(tmp_path: Path) -> None:
    case = make_case(tmp_path / "a", headers={"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"})
    _, sr = exported(case)
    assert "Volume" in measurement_groups(sr)[0]
    assert "Attenuation Coefficient" not in measurement_groups(sr)[0]


def test_repeated_exports_are_the_same_bytes(tmp_path: Path) -> None:
    first = make_case(tmp_path / "a", "oblique axial")
    again = make_case(tmp_path / "b", "oblique axial")

    def both(case: Case, **more: Any) -> tuple[Any, Any]:
        arguments = {**MADE, **more}
        seg = segmentation(case.series, case.volume, case.findings, **arguments)
        return seg, report(case.series, case.volume, seg, case.findings, **arguments)

    one = both(first)
    time.sleep(1.1)  # dates have whole seconds
    for a, b in zip(one, both(again), strict=True):
        assert encoded(a) == encoded(b)
    uids = {a.SOPInstanceUID for a in one} | {a.SeriesInstanceUID for a in one}
    assert len(uids) == 4
    for uid in uids:
        assert is_uid(uid)
    # whatever changes is another object of another series
    mask = first.masks[0].copy()
    mask[tuple(np.argwhere(mask)[0])] = False
    changes: dict[str, tuple[Case, dict[str, Any]]] = {
        "mask": (replace(first, findings=(lesion(first.volume, mask, "Lesion 1"), first.findings[1])), {}),
        "name": (replace(first, findings=(replace(first.findings[0], name="A"), first.findings[1])), {}),
        "moment": (first, {"made_at": datetime(2026, 3, 4, 5, 6, 8)}),
        "algorithm": (first, {"algorithm": Algorithm("mamba-ahnet", "0.1.1")}),
        "order": (replace(first, findings=first.findings[::-1]), {}),
    }
    for name, (case, more) in changes.items():
        for new in both(case, **more):
            assert new.SOPInstanceUID not in uids, name
            assert new.SeriesInstanceUID not in uids, name
            assert new.file_meta.MediaStorageSOPInstanceUID == new.SOPInstanceUID
    accepted = replace(first, findings=tuple(replace(finding, accepted=True) for finding in first.findings))
    seg, sr = both(accepted)
    assert encoded(seg) == encoded(one[0])  # acceptance is told by the report alone
    assert sr.SeriesInstanceUID not in uids


def test_dates_are_local(tmp_path: Path) -> None:
    case = make_case(tmp_path / "a")
    moment = datetime(2026, 3, 4, 23, 30, 0, 999, tzinfo=UTC)
    seg, sr = exported(case, made_at=moment)
    for made in (seg, sr):
        assert made.ContentDate + made.ContentTime == f"{moment.astimezone():%Y%m%d%H%M%S}"
        assert made.InstanceCreationDate == made.SeriesDate == made.ContentDate


def test_headers_in_memory_and_other_character_sets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    case = make_case(tmp_path / "a")
    headers = [pydicom.dcmread(path) for path in case.folder.iterdir()]
    for one in headers:
        part = pydicom.Dataset()
        part.CodeValue, part.CodingSchemeDesignator, part.CodeMeaning = "1", "99X", "Schädel"
        one.ProcedureCodeSequence = [part]
        one.SpecificCharacterSet, one.PatientName = "ISO_IR 100", "Jörg Zebediah"  # not in DICOM's form
        one.StudyDescription = "Übersicht"
    written = []
    for one in headers:
        out = BytesIO()
        pydicom.dcmwrite(out, one, enforce_file_format=True)
        written.append(pydicom.dcmread(BytesIO(out.getvalue()), stop_before_pixels=True))
    series = series_of(written)
    recwarn.clear()
    with caplog.at_level(logging.DEBUG):
        seg, sr = exported(replace(case, series=series))
    # highdicom warns of such a name and quotes it, and logs the UIDs of its sources
    assert not [one for one in caplog.records if one.name.startswith("highdicom")]
    assert not list(recwarn)
    for made in (seg, sr):
        assert made.SpecificCharacterSet == "ISO_IR 192"
        assert str(made.PatientName) == "Jörg Zebediah"
        assert made.StudyDescription == "Übersicht"
        assert made.ProcedureCodeSequence[0].CodeMeaning == "Schädel"


Change = Callable[[Case], dict[str, Any]]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Any]:
    case = make_case(tmp_path_factory.mktemp("sound") / "a")
    return case, segmentation(case.series, case.volume, case.findings, **MADE)


def header(**values: Any) -> Change:
    """An attribute of the fourth slice."""

    def change(case: Case) -> dict[str, Any]:
        headers = deepcopy(case.series.headers)
        for keyword, one in values.items():
            if one is None:
                delattr(headers[3], keyword)
            else:
                setattr(headers[3], keyword, one)
        return {"series": Series(headers, case.series.shape, case.series.affine)}

    return change


def finding(**values: Any) -> Change:
    return lambda case: {"findings": (case.findings[0], replace(case.findings[1], **values))}


def emptied(case: Case) -> dict[str, Any]:
    return finding(mask=np.zeros_like(case.findings[1].mask))(case)


def shifted(case: Case) -> dict[str, Any]:
    """Axes in the indices of the crop."""
    one = case.findings[1]
    assert one.axes is not None
    return finding(axes=one.axes.moved([-part.start for part in one.box]))(case)


def outside(case: Case) -> dict[str, Any]:
    z, y, x = case.findings[1].box
    return finding(box=(slice(z.start + 50, z.stop + 50), y, x))(case)


def other_volume(case: Case) -> dict[str, Any]:
    affine = case.volume.affine.copy()
    affine[2, 3] += 2.5
    return {"volume": replace(case.volume, affine=affine)}


REFUSED: dict[str, tuple[Change, str]] = {
    "de-identified": (lambda case: {"deidentified": True}, "deidentified: .* got a de-identified one"),
    "empty study": (header(StudyInstanceUID=""), "StudyInstanceUID: .* empty or missing one in 1 of 12"),
    "no study": (header(StudyInstanceUID=None), "StudyInstanceUID: .* empty or missing one in 1 of 12"),
    "empty series": (header(SeriesInstanceUID=""), "SeriesInstanceUID: .* empty"),
    "empty instance": (header(SOPInstanceUID=""), "SOPInstanceUID: .* empty"),
    "empty class": (header(SOPClassUID=""), "SOPClassUID: .* empty"),
    "no frame of reference": (header(FrameOfReferenceUID=None), "FrameOfReferenceUID: .* empty or missing"),
    "odd instance": (header(SOPInstanceUID="1.02.3"), "SOPInstanceUID: .* an invalid one in 1"),
    "two studies": (header(StudyInstanceUID="1.2.77"), "StudyInstanceUID: .* got 2 different"),
    "one instance twice": (
        lambda case: header(SOPInstanceUID=case.series.headers[0].SOPInstanceUID)(case),
        "SOPInstanceUID: .* got 11 for 12 slices",
    ),
    "another volume": (other_volume, "series: expected voxels within .* got 2.5 mm"),
    "empty mask": (emptied, r"findings\[1\].mask: .* empty mask"),
    "no axes": (finding(axes=None), r"findings\[1\].mask: .* no axes"),
    "mask of another shape": (finding(mask=np.ones((2, 2, 2), bool)), r"findings\[1\].mask: .* shape \(2, 2, 2\)"),
    "box outside": (outside, r"findings\[1\].box: expected a box within"),
    "axes of the crop": (shifted, r"findings\[1\].axes: expected ends within half a voxel"),
    "no name": (finding(name=" "), r"findings\[1\].name: expected 1 to 64"),
    "a long name": (finding(name="a" * 65), r"findings\[1\].name: .* got 65"),
    "a name of two values": (finding(name="a\\b"), r"findings\[1\].name"),
    "a name of two lines": (finding(name="a\nb"), r"findings\[1\].name"),
    "no tracking": (finding(tracking_uid=""), r"findings\[1\].tracking_uid"),
    "the same tracking": (finding(tracking_uid=hashed_uid("lesion", "Lesion 1")), "tracking_uid: .* got 1 for 2"),
    "role": (finding(role="nontarget"), r"findings\[1\].role: .* got 'nontarget'"),
    "volume": (finding(volume_ml=0.0), r"findings\[1\].volume_ml: .* got 0.0"),
    "density": (finding(mean_hu=float("nan")), r"findings\[1\].mean_hu: .* got nan"),
    "no lesion": (lambda case: {"findings": ()}, "findings: expected 1 to 500 lesions, got 0"),
    "algorithm": (lambda case: {"algorithm": Algorithm("a", "")}, "algorithm.version: .* got 0"),
}


@pytest.mark.filterwarnings("ignore:.*value")  # pydicom's, as the test breaks headers
@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_that_names_no_patient(sound: tuple[Case, Any], name: str) -> None:
    case, seg = sound
    change, message = REFUSED[name]
    arguments: dict[str, Any] = {"series": case.series, "volume": case.volume, "findings": case.findings, **MADE}
    arguments |= change(case)
    for make in (lambda: segmentation(**arguments), lambda: report(segmentation=seg, **arguments)):
        with pytest.raises(InputError, match=message) as caught:
            make()
        text = str(caught.value)
        assert "\n" not in text
        assert ";" in text
        assert not any(word.lower() in text.lower() for word in PATIENT.split("^"))


def test_overlapping_lesions_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segnet.serve.dicom_objects.MAX_MASK_BYTES", 20)
    apart, overlapping = make_case(tmp_path / "a"), make_case(tmp_path / "b", overlapping=True)
    segmentation(apart.series, apart.volume, apart.findings, **MADE)
    with pytest.raises(InputError, match="findings: expected masks of at most 20 bytes where lesions overlap"):
        segmentation(overlapping.series, overlapping.volume, overlapping.findings, **MADE)


def test_a_source_is_checked_without_lesions(tmp_path: Path) -> None:
    series = make_case(tmp_path / "a").series
    check_source(series)
    with pytest.raises(InputError, match="deidentified: "):
        check_source(series, deidentified=True)
    series.headers[0].StudyInstanceUID = ""
    with pytest.raises(InputError, match="StudyInstanceUID: "):
        check_source(series)


def test_kept_headers_and_a_kept_volume_make_the_same_objects(tmp_path: Path) -> None:
    """As a service keeps them: headers without pixels, and the canonical volume as NIfTI in 16 bits."""
    case = make_case(tmp_path / "a", "oblique coronal")
    case.series.write(tmp_path / "headers")
    nib.Nifti1Image(case.volume.array.astype(np.int16), case.volume.affine).to_filename(tmp_path / "volume.nii.gz")
    kept = replace(case, series=read_series(tmp_path / "headers"), volume=read_image(tmp_path / "volume.nii.gz"))
    for one, other in zip(exported(case), exported(kept), strict=True):
        assert encoded(one) == encoded(other)


def test_a_segmentation_of_other_lesions_is_refused(tmp_path: Path) -> None:
    case = make_case(tmp_path / "a")
    seg = segmentation(case.series, case.volume, case.findings, **MADE)
    for findings in (case.findings[:1], case.findings[::-1]):
        with pytest.raises(InputError, match=r"segmentation: expected the . lesions of the report"):
            report(case.series, case.volume, seg, findings, **MADE)
    with pytest.raises(InputError, match="segmentation: expected the 2 lesions"):
        report(case.series, case.volume, case.series.headers[0], case.findings, **MADE)
    other = make_case(tmp_path / "b", series="1.2.3.5")
    with pytest.raises(InputError, match="segmentation: expected one of this series and its study"):
        report(other.series, other.volume, seg, other.findings, **MADE)
    seg.StudyInstanceUID = "1.2.99"
    with pytest.raises(InputError, match="segmentation: expected one of this series and its study"):
        report(case.series, case.volume, seg, case.findings, **MADE)


def test_headers_that_break_the_standard_are_refused_without_quoting_them(tmp_path: Path) -> None:
    case = make_case(tmp_path / "a")
    for one in case.series.headers:
        one.StudyDate = "Secret"
    with pytest.raises(InputError, match="series: expected headers that a segmentation can be made of") as caught:
        segmentation(case.series, case.volume, case.findings, **MADE)
    assert "Secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


COMPLETE = {
    "PatientName": "Test^One", "PatientID": "T1", "PatientBirthDate": "", "PatientSex": "O", "StudyID": "1", "StudyDate": "20260101",
    "StudyTime": "120000", "AccessionNumber": "", "ReferringPhysicianName": "", "Manufacturer": "Maker",
}  # fmt: skip


@pytest.mark.parametrize("orientation", ["axial", "coronal"])
@pytest.mark.parametrize("kind", ["SEG", "SR"])
def test_validators_report_no_error(tmp_path: Path, orientation: str, kind: str) -> None:
    """dciodvfy of dicom3tools, and for reports dsrdump of dcmtk. Both must also see a planted error."""
    validators = [tool("dciodvfy"), *([tool("dsrdump")] if kind == "SR" else [])]
    case = make_case(tmp_path / "a", orientation, headers=COMPLETE)
    done = tuple(replace(one, accepted=True) for one in case.findings)
    made = {
        "one": exported(replace(case, findings=case.findings[:1])),
        "two": exported(case),
        "verified": exported(replace(case, findings=done), verifier=Verifier("Reader^Rita", "Clinic")),
    }
    for name, (seg, sr) in made.items():
        one = seg if kind == "SEG" else sr
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(encoded(one))
        for validator in validators:
            run = subprocess.run([validator, path], capture_output=True, text=True)
            assert run.returncode == 0, run.stderr
            assert not [line for line in run.stderr.splitlines() if line.startswith(("Error", "E:"))], run.stderr
    if kind == "SEG":
        del one.SegmentSequence[0].SegmentLabel
    else:
        del measurement_groups(one)[0]["Volume"].MeasuredValueSequence[0].NumericValue
    path.write_bytes(encoded(one))
    for validator in validators:
        run = subprocess.run([validator, path], capture_output=True, text=True)
        told = [line for line in run.stderr.splitlines() if line.startswith(("Error", "E:"))]
        assert run.returncode != 0 or told, f"{validator} sees nothing"


def read_as_ohif(tmp_path: Path, case: Case, sr: Any) -> dict[str, Any]:
    """What @cornerstonejs/adapters reads in Node."""
    modules = os.environ.get("SEGNET_NODE_MODULES", "")
    if not modules:
        pytest.skip("set SEGNET_NODE_MODULES to a folder node_modules with @cornerstonejs/adapters and @babel/runtime")
    planes = {}
    for one in case.series.headers:
        cosines = [float(v) for v in one.ImageOrientationPatient]
        planes[str(one.SOPInstanceUID)] = {
            "rowCosines": cosines[:3],
            "columnCosines": cosines[3:],
            "imagePositionPatient": [float(v) for v in one.ImagePositionPatient],
            "rowPixelSpacing": float(one.PixelSpacing[0]),
            "columnPixelSpacing": float(one.PixelSpacing[1]),
            "frameOfReferenceUID": str(one.FrameOfReferenceUID),
        }
    (tmp_path / "planes.json").write_text(json.dumps(planes))
    (tmp_path / "report.dcm").write_bytes(encoded(sr))
    script = Path(__file__).with_name("read_report.mjs")
    run = subprocess.run(
        [tool("node"), script, modules, tmp_path / "report.dcm", tmp_path / "planes.json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")] or [run.stderr]
    found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return found


@pytest.mark.parametrize("orientation", ["axial", "feet first", "oblique axial", "coronal"])
def test_ohif_reads_the_axes(tmp_path: Path, orientation: str) -> None:
    case = make_case(tmp_path / "a", orientation, spacing=(0.75, 0.75, 2.5))
    _, sr = exported(case)
    found = read_as_ohif(tmp_path, case, sr)
    assert list(found) == ["Bidirectional"]
    assert len(found["Bidirectional"]) == 2
    for one, finding in zip(found["Bidirectional"], case.findings, strict=True):
        axes = finding.axes
        assert axes is not None
        expected = patient_mm(case.volume.affine, [(axes.z, y, x) for y, x in (*axes.long_yx, *axes.short_yx)])
        np.testing.assert_allclose(one["points"], expected, atol=5e-5)
        assert one["finding"] == "Lesion"
        if orientation != "coronal":
            (stats,) = one["stats"]
            assert stats["length"] == pytest.approx(finding.long_mm, abs=5e-4)
            assert stats["width"] == pytest.approx(finding.short_mm, abs=5e-4)
            assert stats["unit"] == stats["widthUnit"] == "mm"


def test_ohif_reads_nothing_under_another_name(tmp_path: Path) -> None:
    """The names are the whole reason for the form: were they others, nothing would be read."""
    case = make_case(tmp_path / "a", spacing=(0.75, 0.75, 2.5))
    _, sr = exported(case)
    for group in measurement_groups(sr)[2:]:
        group["Long Axis"].ConceptNameCodeSequence[0].CodeMeaning = "Long axis"
    assert read_as_ohif(tmp_path, case, sr) == {}


def test_a_real_series_is_exported(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "no_lesion" / "example_ct_dicom"
    volume = read_image(folder)
    mask = np.zeros(volume.array_zyx.shape, bool)
    mask[5:9, 200:230, 300:320] = True
    one = lesion(volume, mask, "Lesion 1")
    with pytest.raises(InputError, match=r"StudyInstanceUID: .* empty or missing one in 20 of 20"):
        segmentation(read_series(folder), volume, [one], **MADE)
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in folder.iterdir()]
    for number, header in enumerate(headers):
        header.StudyInstanceUID, header.SeriesInstanceUID = "1.2.3", "1.2.4"
        header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID
        header.SOPInstanceUID = f"1.2.4.{number + 1}"
    series = series_of(headers)
    case = Case(folder, volume, series, (one,), (mask,))
    seg, sr = exported(case)
    expected = patient_mm(volume.affine, np.argwhere(mask))
    np.testing.assert_allclose(sorted_rows(foreground_mm(seg, 1)), sorted_rows(expected), atol=1e-6)
    assert one.axes is not None
    np.testing.assert_allclose(
        ends_mm(measurement_groups(sr)[1]["Long Axis"], case),
        patient_mm(volume.affine, [(one.axes.z, y, x) for y, x in one.axes.long_yx]),
        atol=1e-4,
    )


def test_a_uid_is_valid_and_depends_on_every_part() -> None:
    uids = [hashed_uid(*parts) for parts in (["a", "b"], ["ab"], ["a", ""], ["", "a"], ["b", "a"], [b"c"])]
    assert len(set(uids)) == 6
    assert all(is_uid(uid) and uid.startswith("2.25.") for uid in uids)
    import uuid

    for uid in uids:
        number = uuid.UUID(int=int(uid.removeprefix("2.25.")))
        assert (number.version, number.variant) == (8, uuid.RFC_4122)
    for bad in ("", "1", "1.", "1..2", "1.02", "a.b", "1.2 ", "1." + "2" * 63):
        assert not is_uid(bad)
    assert is_uid("1." + "2" * 62)


def test_many_slices_apart_keep_their_spacing(tmp_path: Path) -> None:
    """Slices without a lesion are left out; readers must not take the gap for the spacing."""
    case = make_case(tmp_path / "a")
    masks = []
    for z in (1, 10):
        mask = np.zeros(case.volume.array_zyx.shape, bool)
        mask[z, 4:9, 5:12] = True
        masks.append(mask)
    findings = tuple(lesion(case.volume, mask, f"L{n}") for n, mask in enumerate(masks))
    seg, _ = exported(replace(case, findings=findings, masks=tuple(masks)))
    assert float(seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices) == 2.5
    for number, mask in enumerate(masks, 1):
        expected = patient_mm(case.volume.affine, np.argwhere(mask))
        np.testing.assert_allclose(sorted_rows(foreground_mm(seg, number)), sorted_rows(expected), atol=2e-5)

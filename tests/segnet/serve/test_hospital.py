"""From the archive to the archive: a series is fetched, clicked, accepted, and SEG and SR are stored once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from ball_series import SHAPE, SPACING, ball_series
from dicom_series import make_series, save
from service import BALL_MM, Running, running

from segnet.serve.client import ServiceError
from segnet.serve.pacs import DicomNodeSettings, DicomWeb, DicomWebSettings


def test_a_dicom_folder_becomes_a_segmentation_and_a_report(service: Running, tmp_path: Path) -> None:
    client = service.client
    image = client.upload(save(tmp_path / "series", ball_series()))
    assert (image["source"], image["modality"], image["study_date"]) == ("dicom", "CT", "2026-03-01")
    assert not image["pacs_export"]  # this service has no PACS
    lesion = client.click(image["image"], BALL_MM, name="ball", site="lung", role="target")
    assert lesion["long_axis_mm"] == pytest.approx(20, abs=1.5)
    client.change(lesion["lesion"], accepted=True)
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
        client.export(image["image"], ["seg", "sr"], folder, lesions=[lesion["lesion"]])
    for name in ("seg.dcm", "sr.dcm"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    seg = pydicom.dcmread(folders[0] / "seg.dcm")
    box, mask = client.mask(lesion["lesion"])
    assert seg.pixel_array.sum() == mask.sum()
    positions = [
        frame.PlanePositionSequence[0].ImagePositionPatient[2] for frame in seg.PerFrameFunctionalGroupsSequence
    ]
    bottom = image["affine"][2][3] + box[2] * SPACING[2]
    assert min(positions) == pytest.approx(bottom, abs=1e-3)
    with pytest.raises(ServiceError, match="a PACS that takes results"):
        client.export(image["image"], [], pacs=True)


def test_several_series_in_one_folder_become_images_of_their_own(service: Running, tmp_path: Path) -> None:
    folder = save(tmp_path / "both", ball_series())
    for file in save(tmp_path / "other", make_series(np.full((2, 8, 8), -500.0), series="1.2.3.78")).iterdir():
        file.rename(folder / f"other-{file.name}")
    (folder / "README.txt").write_text("no image")
    client = service.client
    files = sorted(folder.iterdir())
    upload = client.request(
        "POST", "uploads", json={"files": [{"name": f.name, "size": f.stat().st_size} for f in files]}
    ).json()["upload"]
    for number, file in enumerate(files):
        client.request("PUT", f"uploads/{upload}/files/{number}", content=file.read_bytes())
    job = client.wait(client.request("POST", f"uploads/{upload}/complete").json()["job"])
    assert len(job["result"]["images"]) == 2
    assert any("README.txt: not DICOM" in line for line in job["result"]["left_out"])
    shapes = [client.image(sha)["shape"] for sha in job["result"]["images"]]
    assert shapes == [[56, 48, 40], [8, 8, 2]]  # the series of most slices first


@pytest.mark.parametrize("way", ["stow", "cstore"])
def test_an_archive_gets_its_lesions_back_once(
    orthanc: tuple[DicomWebSettings, DicomNodeSettings], tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    web, node = orthanc
    monkeypatch.setenv("SEGNET_PACS_PASSWORD", web.password)
    archive = DicomWeb(web)
    archive.store(ball_series())
    pacs = {
        "url": web.url,
        "user": web.user,
        "store": way,
        "host": node.host,
        "port": node.port,
        "called_ae_title": node.ae_title,
    }
    for service in running(tmp_path / "data", pacs=pacs):
        client = service.client
        (study,) = client.request("GET", "pacs/studies", params={"patient_id": "P1"}).json()["studies"]
        (series,) = client.request("GET", f"pacs/studies/{study['study']}/series").json()["series"]
        assert series["instances"] == SHAPE[0]
        body = {"study": study["study"], "series": series["series"]}
        image = client.image(
            client.wait(client.request("POST", "pacs/import", json=body).json()["job"])["result"]["image"]
        )
        assert image["pacs_export"]
        lesion = client.click(image["image"], BALL_MM, name="ball", site="lung", role="target")
        client.change(lesion["lesion"], accepted=True)
        first, second = (client.export(image["image"], ["nifti"], pacs=True)["pacs"] for _ in range(2))
        assert first == second
        assert first["verified"]
        held = {one.modality: one.instances for one in archive.series(study["study"])}
        assert held == {"CT": SHAPE[0], "SEG": 1, "SR": 1}
        with pytest.raises(ServiceError, match="expected a series of the study"):
            client.wait(client.request("POST", "pacs/import", json={**body, "series": "1.2.3.5"}).json()["job"])

        hidden = ball_series(PatientIdentityRemoved="YES", SeriesInstanceUID="1.2.3.79")
        for number, one in enumerate(hidden):
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.79.{number}"
        image = client.upload(save(tmp_path / "hidden", hidden))
        assert image["deidentified"]
        assert not image["pacs_export"]
        client.click(image["image"], BALL_MM)
        for formats, to_pacs in (([], True), (["seg"], False)):
            with pytest.raises(ServiceError, match="identified"):
                client.export(image["image"], formats, pacs=to_pacs)

"""Upload, click, correct, accept, export, follow up: through the API as clients use it."""

from __future__ import annotations

import csv
import gzip
import json
import threading
import time
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import pytest
from service import AFFINE, BALL_MM, RADIUS_MM, TOKEN, Running, ball_hu

from segnet.io.volumes import read_image, read_mask
from segnet.serve.client import Client, ServiceError


@pytest.fixture(scope="module")
def image(service: Running, picture: Path) -> dict:
    return service.client.upload(picture)


@pytest.fixture
def lesion(service: Running, image: dict) -> dict:
    return service.client.click(image["image"], BALL_MM, name="ball", role="target", site="lung")


def test_an_upload_is_known_by_its_content(service: Running, image: dict, picture: Path) -> None:
    again = service.client.upload(picture)
    assert again["image"] == image["image"]
    assert image["name"] == "Müller^Hans scan"
    assert sorted(image["spacing_mm"]) == pytest.approx([0.9, 0.9, 1.5])
    assert image["source"] == "nifti"
    assert not image["pacs_export"]
    stored = service.client.request("GET", f"images/{image['image']}/volume.nii.gz").content
    canonical = nib.as_closest_canonical(nib.load(picture))
    got = nib.Nifti1Image.from_bytes(gzip.decompress(stored))
    assert np.array_equal(got.get_fdata(), canonical.get_fdata())
    assert np.allclose(got.affine, canonical.affine, atol=1e-4)


def test_a_click_gives_the_mask_and_the_diameters_of_the_command_line(
    service: Running, image: dict, lesion: dict, picture: Path, tmp_path: Path
) -> None:
    assert lesion["state"] == "done"
    assert lesion["long_axis_mm"] == pytest.approx(2 * RADIUS_MM, abs=1.5)
    assert lesion["volume_ml"] == pytest.approx(4 / 3 * np.pi, rel=0.15)
    ends = np.array(lesion["axes"]["long"])
    assert np.linalg.norm(ends[0] - ends[1]) == pytest.approx(lesion["long_axis_mm"], abs=1e-6)
    assert np.linalg.norm(ends.mean(axis=0) - BALL_MM) < 2
    found = service.worker.segmenter.model.predict(str(picture), click=tuple(BALL_MM), click_space="ras")
    found.save(tmp_path / "wanted.nii.gz")
    service.client.save_mask(lesion["lesion"], tmp_path / "mask.nii.gz")
    assert (tmp_path / "mask.nii.gz").read_bytes() == (tmp_path / "wanted.nii.gz").read_bytes()
    assert (lesion["volume_ml"], lesion["long_axis_mm"]) == (found.whole.volume_ml, found.whole.long_axis_mm)
    assert lesion["mean_hu"] == pytest.approx(found.lesions[0].hu.mean)


def test_a_slice_is_that_of_the_image(service: Running, image: dict, picture: Path) -> None:
    volume = read_image(picture).array_zyx
    for axis, number in (("z", 11), ("y", 20), ("x", 5)):
        answer = service.client.request("GET", f"images/{image['image']}/slices/{axis}/{number}")
        rows, columns = map(int, answer.headers["x-shape"].split(","))
        plane = np.frombuffer(answer.content, "<i2").reshape(rows, columns)
        assert np.array_equal(plane, np.take(volume, number, "zyx".index(axis)))


def test_a_second_click_replaces_or_adds(service: Running, image: dict, lesion: dict) -> None:
    beside = BALL_MM + np.array([0.0, 0.0, 5.0])
    replaced = service.client.click_again(lesion["lesion"], beside)
    assert replaced["clicks"] == [list(beside)]
    assert replaced["revision"] > lesion["revision"]
    added = service.client.click_again(lesion["lesion"], BALL_MM, add=True)
    assert added["clicks"] == [list(beside), list(BALL_MM)]
    assert added["volume_ml"] >= replaced["volume_ml"]


def test_a_lower_threshold_gives_a_larger_mask_and_needs_no_new_slices(service: Running, lesion: dict) -> None:
    passes = []
    network = service.worker.segmenter.model.networks[0]
    handle = network.register_forward_hook(lambda *_: passes.append(1))
    try:
        larger = service.client.change(lesion["lesion"], threshold=0.45)
    finally:
        handle.remove()
    assert larger["volume_ml"] > lesion["volume_ml"]
    assert not passes


def test_a_drawn_mask_is_measured_and_kept_bit_for_bit(service: Running, lesion: dict) -> None:
    service.client.change(lesion["lesion"], accepted=True)
    box, mask = service.client.mask(lesion["lesion"])
    mask = mask.copy()
    mask[: len(mask) // 2] = False
    drawn = service.client.draw(lesion["lesion"], box[:3], mask)
    assert drawn["edited"]
    assert not drawn["accepted"]  # what was accepted was another mask
    assert drawn["volume_ml"] == pytest.approx(mask.sum() * 0.9 * 0.9 * 1.5 / 1000)
    corner, kept = service.client.mask(lesion["lesion"])
    whole = np.zeros_like(mask)
    low = [a - b for a, b in zip(corner[:3], box[:3], strict=True)]
    whole[tuple(slice(a, a + n) for a, n in zip(low[::-1], kept.shape, strict=True))] = kept
    assert np.array_equal(whole, mask)
    empty = service.client.draw(lesion["lesion"], box[:3], np.zeros_like(mask))
    assert empty["box"] is None
    assert empty["long_axis_mm"] == 0
    assert service.client.mask(lesion["lesion"]) is None
    with pytest.raises(ServiceError, match="accepted: expected a lesion with a mask"):
        service.client.change(lesion["lesion"], accepted=True)


def test_a_change_of_an_old_revision_is_refused(service: Running, lesion: dict) -> None:
    first = service.client.change(lesion["lesion"], revision=lesion["revision"], name="one")
    with pytest.raises(ServiceError, match="read the lesion again") as refused:
        service.client.change(lesion["lesion"], revision=lesion["revision"], name="two")
    assert refused.value.status == 412
    assert service.client.lesion(lesion["lesion"])["name"] == "one"
    assert first["revision"] == lesion["revision"] + 1


def test_the_same_key_makes_one_lesion(service: Running, image: dict) -> None:
    body = {"click": BALL_MM.tolist(), "name": "once"}
    headers = {"idempotency-key": "key-of-this-test"}
    answers = [
        service.client.request("POST", f"images/{image['image']}/lesions", json=body, headers=headers).json()
        for _ in range(3)
    ]
    assert answers[0] == answers[1] == answers[2]
    named = [one for one in service.client.image(image["image"])["lesions"] if one["name"] == "once"]
    assert len(named) == 1
    with pytest.raises(ServiceError) as other:
        service.client.request("POST", f"images/{image['image']}/lesions", json={**body, "name": "x"}, headers=headers)
    assert other.value.status == 409


def test_exports_hold_what_was_accepted(
    service: Running, image: dict, lesion: dict, tmp_path: Path, picture: Path
) -> None:
    service.client.change(lesion["lesion"], accepted=True)
    result = service.client.export(
        image["image"], ["nifti", "csv", "json", "report"], tmp_path, lesions=[lesion["lesion"]]
    )
    assert {file["name"] for file in result["files"]} == {
        "lesion_01.nii.gz",
        "lesions.csv",
        "lesions.json",
        "report.html",
    }
    mask = read_mask(tmp_path / "lesion_01.nii.gz", read_image(picture))
    assert mask.array.sum() * np.prod(mask.spacing_mm) / 1000 == pytest.approx(lesion["volume_ml"])
    (row,) = csv.DictReader((tmp_path / "lesions.csv").open())
    assert float(row["long_axis_mm"]) == lesion["long_axis_mm"]
    assert row["accepted"] == "True"
    told = json.loads((tmp_path / "lesions.json").read_text())
    assert told["lesions"][0]["axes"] == lesion["axes"]
    page = (tmp_path / "report.html").read_text()
    assert f"{lesion['long_axis_mm']:.1f} mm" in page
    assert "data:image/jpeg" in page
    assert "http" not in page  # needs no other file
    for formats in (["seg"], ["sr"]):
        with pytest.raises(ServiceError, match="expected a DICOM image"):
            service.client.export(image["image"], formats)


def test_a_whole_scan_finds_the_ball_and_lets_clicks_pass(service: Running, image: dict) -> None:
    job = service.client.request("POST", f"images/{image['image']}/scan", json={}).json()["job"]
    found = service.client.wait(job)["result"]["lesions"]
    lesion = service.client.lesion(found[0])
    assert lesion["volume_ml"] == pytest.approx(4 / 3 * np.pi, rel=0.15)


def test_events_tell_of_a_job_until_it_ends(service: Running, image: dict) -> None:
    job = service.client.request("POST", f"images/{image['image']}/scan", json={}).json()["job"]
    states = []
    with httpx.stream(
        "GET",
        f"{service.address}/v1/jobs/{job}/events",
        headers={"authorization": "Bearer token-of-the-tests"},
        timeout=30,
    ) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                states.append(json.loads(line[6:])["state"])
    assert states[-1] == "done"


def test_a_waiting_job_is_cancelled(service: Running, image: dict) -> None:
    hold = threading.Event()
    handle = service.hold(hold)
    try:
        running = service.client.request("POST", f"images/{image['image']}/scan", json={}).json()["job"]
        until = time.monotonic() + 10
        while service.client._json("GET", f"jobs/{running}")["state"] != "running":
            assert time.monotonic() < until
        waiting = service.client.request("POST", f"images/{image['image']}/scan", json={}).json()["job"]
        for job in (waiting, running):
            assert service.client.request("DELETE", f"jobs/{job}").json()["state"] == "cancelled"
    finally:
        hold.set()
        handle.remove()
    # the worker goes on with the next job, and nothing of the cancelled ones appears
    before = len(service.client.image(image["image"])["lesions"])
    service.client.click(image["image"], BALL_MM)
    assert len(service.client.image(image["image"])["lesions"]) == before + 1


def test_a_job_may_take_longer_than_the_timeout_of_a_request(service: Running, image: dict, lesion: dict) -> None:
    with Client(service.address, TOKEN, timeout_s=2) as hasty:
        for ask in (
            lambda: hasty.click(image["image"], BALL_MM + 1),
            lambda: hasty.click_again(lesion["lesion"], BALL_MM - 1),
            lambda: hasty.change(lesion["lesion"], threshold=0.44),
        ):
            hold = threading.Event()
            handle = service.hold(hold)
            release = threading.Timer(3, hold.set)
            release.start()
            try:
                assert ask()["state"] == "done"
            finally:
                release.join()
                handle.remove()


def test_a_lesion_deleted_or_clicked_again_meanwhile_ends_its_first_job(service: Running, image: dict) -> None:
    hold = threading.Event()
    handle = service.hold(hold)
    try:
        jobs = []
        for _ in range(2):
            made = service.client.request("POST", f"images/{image['image']}/lesions", json={"click": [*BALL_MM]}).json()
            jobs.append(made["job"])
        until = time.monotonic() + 10
        while service.client._json("GET", f"jobs/{jobs[0]}")["state"] != "running":
            assert time.monotonic() < until
        first = service.worker.database.row("SELECT payload FROM jobs WHERE id = ?", jobs[0])["payload"]
        service.client.delete(json.loads(first)["lesion"])
        again = service.client.request(
            "POST", f"lesions/{made['lesion']}/clicks", json={"click": [*BALL_MM], "mode": "replace"}
        ).json()["job"]
    finally:
        hold.set()
        handle.remove()
    assert service.client.wait(again)["state"] == "done"
    assert service.client.lesion(made["lesion"])["state"] == "done"
    assert [service.client._json("GET", f"jobs/{job}")["state"] for job in jobs] == ["cancelled", "cancelled"]


def test_follow_up(service: Running, image: dict, lesion: dict) -> None:
    later = service.client.click(image["image"], BALL_MM, name="later")
    box, mask = service.client.mask(later["lesion"])
    half = mask.copy()
    half[:, :, mask.shape[2] // 2 :] = False
    half[:, mask.shape[1] // 2 :] = False
    later = service.client.draw(later["lesion"], box[:3], half)
    answer = service.client.compare(image["image"], image["image"], [(lesion["lesion"], later["lesion"])])
    assert answer["baseline_sum_mm"] == pytest.approx(lesion["long_axis_mm"])
    assert answer["followup_sum_mm"] == pytest.approx(later["long_axis_mm"])
    assert answer["response"] == ("PR" if later["long_axis_mm"] <= 0.7 * lesion["long_axis_mm"] else "SD")
    assert service.client.lesion(later["lesion"])["tracking_uid"] == lesion["tracking_uid"]
    gone = service.client.compare(image["image"], image["image"], [(lesion["lesion"], None)])
    assert gone["response"] == "CR"
    new = service.client.compare(
        image["image"], image["image"], [(lesion["lesion"], later["lesion"]), (None, later["lesion"])]
    )
    assert new["response"] == "PD"


def test_an_image_with_accepted_lesions_is_not_removed_by_accident(service: Running, tmp_path: Path) -> None:
    path = tmp_path / "small.nii.gz"
    nib.Nifti1Image(ball_hu((20, 30, 40), AFFINE).astype(np.float32), AFFINE).to_filename(path)
    image = service.client.upload(path)
    lesion = service.client.click(image["image"], BALL_MM - AFFINE[:3, :3] @ [8, 14, 14])
    box = [0, 0, 0]
    service.client.draw(lesion["lesion"], box, np.ones((2, 2, 2)))
    service.client.change(lesion["lesion"], accepted=True)
    with pytest.raises(ServiceError, match="export them"):
        service.client.remove(image["image"])
    service.client.remove(image["image"], accepted=True)
    with pytest.raises(ServiceError, match="expected one of this service"):
        service.client.image(image["image"])
    assert not (service.settings.folder / "images" / image["image"]).exists()

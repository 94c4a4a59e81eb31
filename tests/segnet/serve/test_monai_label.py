"""The adapter for MONAI Label's 3D Slicer module."""

from __future__ import annotations

import json
import re
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import pytest
from service import BALL_MM, TOKEN, Running


@pytest.fixture
def slicer(service: Running) -> httpx.Client:
    """Signed in as the module does: any name, the token as the password."""
    client = httpx.Client(base_url=f"{service.address}/monai", timeout=60, trust_env=False)
    assert client.get("/auth/").json() == {"enabled": True}
    answer = client.post("/auth/token", data={"username": "reader", "password": TOKEN}).json()
    client.headers["authorization"] = f"{answer['token_type']} {answer['access_token']}"
    return client


@pytest.fixture
def session(slicer: httpx.Client, picture: Path) -> str:
    answer = slicer.put("/session/", files={"files": ("scan.nii.gz", picture.read_bytes())}, data={"client_id": "me"})
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["session_id"]
    return found


def voxel_of_the_ball(picture: Path) -> list[int]:
    """As Slicer finds it: a voxel of the file."""
    inverse = np.linalg.inv(nib.load(picture).affine)
    return np.rint(inverse[:3, :3] @ BALL_MM + inverse[:3, 3]).astype(int).tolist()


def parts(answer: httpx.Response) -> dict[str, bytes]:
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + answer.content)
    return {
        part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
        for part in message.iter_parts()
    }


def infer(slicer: httpx.Client, session: str, params: object, model: str = "segnet") -> httpx.Response:
    text = params if isinstance(params, str) else json.dumps(params)
    return slicer.post(f"/infer/{model}?image=scan&session_id={session}", files={"params": (None, text)})


def test_a_click_gives_the_mask_of_the_command_line(
    service: Running, slicer: httpx.Client, session: str, picture: Path, tmp_path: Path
) -> None:
    models = slicer.get("/info/").json()["models"]
    assert [models["segnet"][name] for name in ("type", "dimension", "labels")] == ["deepgrow", 3, ["lesion"]]
    assert slicer.get(f"/session/{session}").json()["name"] == session
    found = parts(infer(slicer, session, {"label": "left lung", "foreground": [voxel_of_the_ball(picture)]}))
    wanted = service.worker.segmenter.model.predict(
        str(picture), click=tuple(voxel_of_the_ball(picture)), click_space="voxel"
    )
    wanted.save(tmp_path / "wanted.nii.gz")
    assert wanted.mask.any()
    assert found["file"] == (tmp_path / "wanted.nii.gz").read_bytes()
    facts = json.loads(found["params"])
    assert facts["long_axis_mm"] == wanted.whole.long_axis_mm
    assert service.client.lesion(facts["lesion"])["name"] == "left lung"


def test_a_segment_keeps_one_lesion_until_it_is_accepted(
    service: Running, slicer: httpx.Client, session: str, picture: Path
) -> None:
    params = {"label": "kept", "foreground": [voxel_of_the_ball(picture)]}
    first, again = (json.loads(parts(infer(slicer, session, params))["params"])["lesion"] for _ in range(2))
    assert first == again
    service.client.change(first, accepted=True)
    assert json.loads(parts(infer(slicer, session, params))["params"])["lesion"] != first


@pytest.mark.parametrize(
    ("params", "status", "told"),
    [
        ({"foreground": []}, 422, "foreground: expected 1 to 20 voxels, got 0"),
        ({}, 422, "foreground: expected 1 to 20 voxels, got 0"),
        ({"foreground": [[1, 2, 3]], "background": [[4, 5, 6]]}, 422, "background: expected no click, got 1"),
        ({"foreground": [[-9, 0, 0]]}, 422, "click: expected a point within the image"),
        ({"foreground": [[1, 2]]}, 422, "params: expected JSON"),
        ({"foreground": [["a", 2, 3]]}, 422, "params: expected JSON"),
        ('{"foreground": [[NaN, 1, 2]]}', 422, "foreground: expected"),
        ("[1]", 422, "params: expected JSON"),
        ("{", 422, "params: expected JSON"),
    ],
)
def test_wrong_clicks_are_refused(slicer: httpx.Client, session: str, params: object, status: int, told: str) -> None:
    answer = infer(slicer, session, params)
    assert (answer.status_code, answer.json()["detail"][: len(told)]) == (status, told)


def test_an_empty_mask_is_told(slicer: httpx.Client, session: str) -> None:
    answer = infer(slicer, session, {"label": "nothing", "foreground": [[0, 0, 0]]})
    assert answer.status_code == 409
    assert answer.json()["detail"].startswith("lesion: expected one with a mask")


def test_a_file_that_is_no_image_is_refused(slicer: httpx.Client) -> None:
    answer = slicer.put("/session/", files={"files": ("scan.nii.gz", b"nothing")})
    assert answer.status_code == 422
    assert "scan" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/session/none", "/infer/deepedit?session_id=none"])
def test_what_is_not_there(slicer: httpx.Client, session: str, path: str) -> None:
    assert slicer.request("POST" if "infer" in path else "GET", path).status_code == 404


def test_only_the_token_signs_in(service: Running) -> None:
    with httpx.Client(base_url=f"{service.address}/monai", trust_env=False) as stranger:
        assert stranger.get("/info/").status_code == 401
        assert stranger.put("/session/", files={"files": ("a.nii", b"a")}).status_code == 401
        for password in ("", "x", TOKEN[:-1], "é"):
            assert stranger.post("/auth/token", data={"username": "a", "password": password}).status_code == 401


def test_the_client_of_monai_label(service: Running, picture: Path, tmp_path: Path) -> None:
    client = pytest.importorskip("monailabel.client").MONAILabelClient(f"{service.address}/monai", str(tmp_path))
    assert client.auth_enabled()
    client.update_auth(client.auth_token("reader", TOKEN))
    assert client.auth_valid_token()
    assert list(client.info()["models"]) == ["segnet"]
    file = tmp_path / "scan.nii.gz"
    file.write_bytes(picture.read_bytes())
    session = client.create_session(str(file))["session_id"]
    mask, facts = client.infer(
        "segnet", "scan", {"label": "ball", "foreground": [voxel_of_the_ball(picture)]}, session_id=session
    )
    assert re.search(r"\.nii\.gz$", mask)
    assert nib.load(mask).get_fdata().sum() > 100
    assert facts["name"] == "ball"
    client.remove_session(session)

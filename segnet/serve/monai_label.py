"""The part of MONAI Label's interface that its 3D Slicer module needs for clicks, below `/monai`.

It answers `monailabel.client.MONAILabelClient` 0.8. A session is an image of this service, and has its number. A result also stands in the page's list
of lesions, under the name of Slicer's segment.
"""

from __future__ import annotations

import hmac
import json
import shutil
import uuid
from typing import Annotated, Any
from urllib.parse import parse_qs

import numpy as np
from fastapi import APIRouter, Form, HTTPException, Query, Request, Response, UploadFile
from starlette.concurrency import run_in_threadpool

from segnet import __version__
from segnet.serve import schemas
from segnet.serve.api import (
    Given,
    Service,
    Who,
    begin_upload,
    complete_upload,
    get_mask_file,
    require_inside,
    stored_name,
)
from segnet.serve.store import StoredImage

MODEL, LABEL = "segnet", "lesion"
WAIT_S = 600.0
router = APIRouter(prefix="/monai", include_in_schema=False)


@router.get("/auth/")
def needs_token() -> dict[str, bool]:
    return {"enabled": True}


@router.post("/auth/token")
async def sign_in(service: Given, request: Request) -> dict[str, str]:
    """The service's token is the password; the user's name does not matter."""
    token = request.app.state.token
    given = parse_qs((await request.body()).decode("latin-1")).get("password", [""])[0]
    if not hmac.compare_digest(given.encode(), token.encode()):
        raise HTTPException(401, "password: expected the service's token, got another; `segnet serve` prints it")
    return {"access_token": token, "token_type": "bearer"}


@router.get("/auth/token/valid")
def valid(who: Who) -> dict[str, str]:
    return {"username": who}


@router.get("/info/")
def info() -> dict[str, Any]:
    """One model, of the kind that Slicer sends clicks to."""
    about = "Click a lesion in a CT. Research software, no medical device."
    model = {"type": "deepgrow", "dimension": 3, "labels": [LABEL], "description": about, "config": {}}
    kept: dict[str, Any] = {"trainers": {}, "strategies": {}, "scoring": {}, "train_stats": {}, "datastore": {}}
    return {
        "name": "segnet",
        "description": about,
        "version": __version__,
        "labels": [LABEL],
        "models": {MODEL: model},
        **kept,
    }


@router.put("/session/")
async def create_session(service: Given, who: Who, files: Annotated[list[UploadFile], Form()]) -> dict[str, Any]:
    listed = [schemas.FileOfUpload(name=file.filename or "file", size=file.size or 0) for file in files]

    def receive() -> str:
        upload = begin_upload(service, who, schemas.NewUpload(files=listed))
        for known, file in zip(upload.files, files, strict=True):
            with (service.store.upload_folder(upload.upload) / stored_name(known.model_dump())).open("wb") as stored:
                shutil.copyfileobj(file.file, stored)
        return complete_upload(service, who, upload.upload).job

    result = await _ended(service, await run_in_threadpool(receive))
    return {"session_id": result["image"], "session_info": {}}


@router.get("/session/{number}")
def get_session(service: Given, number: str) -> dict[str, str]:
    return {"name": service.image(number).sha}


@router.delete("/session/{number}")
def end_session(service: Given, number: str) -> dict[str, str]:
    """The image stays: another reader may have it open. The service removes images as its limits say."""
    return {"name": service.image(number).sha}


@router.post("/infer/{model}")
async def infer(
    service: Given,
    who: Who,
    model: str,
    session_id: Annotated[str | None, Query()] = None,
    image: Annotated[str | None, Query()] = None,
    params: Annotated[str, Form()] = "{}",
) -> Response:
    """The mask at the clicks, as a file on the grid of the session's image, and its measurements."""

    def begin() -> tuple[str, str]:
        if model != MODEL:
            raise HTTPException(404, f"model: expected {MODEL}, got {model[:64]}; choose it")
        stored = service.image(session_id or image or "")
        label, clicks = _clicks(stored, params)
        with service.database.writing():
            named = [
                lesion
                for lesion in service.lesions.of(stored.sha)
                if lesion.facts["name"] == label and not lesion.accepted
            ]
            lesion = named[0].id if named else service.lesions.create(stored.sha, {"name": label})
            return lesion, service.submit_click(lesion, stored.sha, {"clicks": clicks}, who)

    lesion, job = await run_in_threadpool(begin)
    await _ended(service, job)
    facts = schemas.Lesion.model_validate((await run_in_threadpool(service.lesion, lesion)).as_dict())
    mask = await run_in_threadpool(get_mask_file, service, lesion)
    return _multipart(facts.model_dump_json(), f"{uuid.uuid4().hex}.nii.gz", bytes(mask.body))


def _clicks(image: StoredImage, params: str) -> tuple[str, list[list[float]]]:
    """Name of the segment, and clicks in mm (RAS), from voxels of the uploaded file."""
    try:
        told = json.loads(params)
        label = str(told.get("label") or LABEL)[:200]
        inside, outside = (
            np.array(told.get(name) or [], np.float64).reshape(-1, 3) for name in ("foreground", "background")
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise HTTPException(
            422, 'params: expected JSON like {"foreground": [[x, y, z]]}, got another text; send voxels'
        ) from error
    if len(outside):
        raise HTTPException(
            422,
            f"background: expected no click, got {len(outside)}; remove it, this network takes clicks in the lesion alone",
        )
    if not 1 <= len(inside) <= 20 or not np.isfinite(inside).all():
        raise HTTPException(422, f"foreground: expected 1 to 20 voxels, got {len(inside)}; click in the lesion")
    affine = np.array(image.facts["grid"]["affine"], np.float64)
    clicks: list[list[float]] = (inside @ affine[:3, :3].T + affine[:3, 3]).tolist()
    for click in clicks:
        require_inside(image, click)
    return label, clicks


async def _ended(service: Service, number: str) -> dict[str, Any]:
    job = await service.settled(number, WAIT_S)
    if job.state != "done":
        raise HTTPException(422, job.error or f"job: expected to be done in {WAIT_S:g} s, got {job.state}; try again")
    return job.result or {}


def _multipart(params: str, name: str, mask: bytes) -> Response:
    boundary = uuid.uuid4().hex
    fields = (("params", "application/json", params.encode()), (f'file"; filename="{name}', "application/gzip", mask))
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\nContent-Type: {kind}\r\n\r\n'.encode()
        + body
        for field, kind, body in fields
    ]
    return Response(
        b"\r\n".join([*parts, f"--{boundary}--\r\n".encode()]), media_type=f"multipart/form-data; boundary={boundary}"
    )

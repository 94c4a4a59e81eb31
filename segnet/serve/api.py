"""The API of the web process. It holds no network and imports no torch."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import re
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from segnet import __version__
from segnet.io.names import stem_of
from segnet.serve import schemas
from segnet.serve.archive import Archive
from segnet.serve.database import Database
from segnet.serve.jobs import Job, Jobs
from segnet.serve.lesions import Lesions, StoredLesion, measured, pack, save_mask, tight
from segnet.serve.metrics import Metrics
from segnet.serve.pairing import response_of
from segnet.serve.settings import Settings
from segnet.serve.store import PICTURE, Store, StoredImage

POLL_S = 0.03
WORKER_SEEN_S = 10.0
"""A worker that has not been seen for so long is taken for gone."""
SEPARATORS = re.compile(r"[/\\]")
PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": schemas.Problem} for code in (400, 401, 403, 404, 409, 412, 413, 422, 429, 503)
}
AXES = {"z": 0, "y": 1, "x": 2}


class Service:
    """What the routes share.

    Parameters
    ----------
    settings : of the service; its folder exists
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.folder)
        self.store = Store(settings.folder, self.database)
        self.lesions = Lesions(self.database)
        self.jobs = Jobs(self.database, limit=settings.limits.queue)
        self.metrics = Metrics(self.jobs)

    def image(self, sha: str) -> StoredImage:
        found = self.store.get(sha)
        if found is None:
            raise HTTPException(404, f"image: expected one of this service, got {sha[:64]}; upload it again")
        return found

    def lesion(self, number: str) -> StoredLesion:
        found = self.lesions.get(number)
        if found is None:
            raise HTTPException(
                404, f"lesion: expected one of this service, got {number[:64]}; it may have been deleted"
            )
        return found

    def job(self, number: str) -> Job:
        found = self.jobs.get(number)
        if found is None:
            raise HTTPException(404, f"job: expected one of this service, got {number[:64]}; start it again")
        return found

    def describe(self, image: StoredImage, *, lesions: bool) -> dict[str, Any]:
        facts = image.facts
        names = (
            "source",
            "shape",
            "spacing_mm",
            "affine",
            "modality",
            "range_hu",
            "deidentified",
            "warnings",
            "study_date",
        )
        return {
            "image": image.sha,
            "name": image.name,
            "added": image.added,
            "window_hu": list(image.window_hu),
            "pacs_export": facts["source"] == "dicom" and not facts["deidentified"] and self.sends,
            **{name: facts[name] for name in names},
            "lesions": [lesion.as_dict() for lesion in self.lesions.of(image.sha)] if lesions else [],
        }

    @property
    def sends(self) -> bool:
        """Whether results can be sent to a PACS."""
        return self.settings.pacs is not None and self.settings.pacs.store != "none"

    def worker(self) -> dict[str, Any] | None:
        """What the worker's networks are; None while none is ready."""
        row = self.database.row(
            "SELECT models FROM workers WHERE models IS NOT NULL AND seen > ? ORDER BY seen DESC LIMIT 1",
            time.time() - WORKER_SEEN_S,
        )
        return None if row is None else json.loads(row["models"])

    def submit_click(
        self, lesion: str, image: str, facts: dict[str, Any], who: str, revision: int | None = None
    ) -> str:
        """A job for the clicks and threshold of a lesion, which from now on shows that it is being made."""
        with self.database.writing():
            job = self.jobs.submit("segment", {"image": image, "lesion": lesion})
            self.lesions.change(lesion, {**facts, "job": job}, revision=revision, accepted=False)
            self.database.audit(who, "segment", lesion)
        return job

    def once(
        self, key: str | None, request: object, make: Callable[[], tuple[int, dict[str, Any]]]
    ) -> tuple[int, dict[str, Any]]:
        """The answer to a request; that of the first one where the same key comes again."""
        if key is None:
            return make()
        told = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        with self.database.writing() as connection:
            row = connection.execute("SELECT * FROM answers WHERE key = ?", (key,)).fetchone()
            if row is not None:
                if row["request"] != told:
                    raise HTTPException(
                        409, "Idempotency-Key: expected the request it was first sent with, got another; take a new key"
                    )
                return row["status"], json.loads(row["body"])
            status, body = make()
            connection.execute(
                "INSERT INTO answers (key, created, request, status, body) VALUES (?, ?, ?, ?, ?)",
                (key, time.time(), told, status, json.dumps(body)),
            )
        return status, body

    async def settled(self, number: str, seconds: float) -> Job:
        """A job when it has ended, or after so many seconds."""
        until = time.monotonic() + seconds
        while True:
            job = await run_in_threadpool(self.job, number)
            if job.ended or time.monotonic() >= until:
                return job
            await asyncio.sleep(POLL_S)


def service_of(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


def who_of(request: Request) -> str:
    return str(request.scope.get("state", {}).get("who") or "nobody")


def waits(prefer: str | None) -> float:
    """Seconds of ``Prefer: wait=10``; at most 30."""
    found = re.search(r"\bwait=(\d{1,4})\b", prefer or "")
    return min(float(found.group(1)), 30.0) if found else 0.0


def revision_of(if_match: str | None) -> int | None:
    """The revision of an If-Match; None without one, or for any."""
    if if_match is None or if_match.strip() == "*":
        return None
    found = re.fullmatch(r'\s*(?:W/)?"(\d{1,12})"\s*', if_match)
    if found is None:
        raise HTTPException(412, "If-Match: expected the lesion's ETag, got another; read the lesion again")
    return int(found.group(1))


Given = Annotated[Service, Depends(service_of)]
Who = Annotated[str, Depends(who_of)]
Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]
Prefer = Annotated[str | None, Header(max_length=200)]
IfMatch = Annotated[str | None, Header(alias="If-Match", max_length=100)]
router = APIRouter(prefix="/v1", responses=PROBLEMS)


@router.get("/about")
def about(service: Given) -> schemas.About:
    limits = service.settings.limits
    return schemas.About(
        version=__version__,
        research_only=True,
        limits={"upload_bytes": limits.upload_bytes, "files": limits.upload_files, "queue": limits.queue},
        model=service.worker(),
        pacs=service.settings.pacs is not None,
        pacs_store=service.sends,
    )


@router.post("/uploads", status_code=201)
def begin_upload(service: Given, who: Who, body: schemas.NewUpload, key: Key = None) -> schemas.Upload:
    limits = service.settings.limits
    total = sum(file.size for file in body.files)
    if total > limits.upload_bytes or len(body.files) > limits.upload_files:
        raise HTTPException(
            413,
            f"files: expected at most {limits.upload_bytes} bytes in {limits.upload_files} files, got {total} in {len(body.files)}; upload one series",
        )

    def make() -> tuple[int, dict[str, Any]]:
        number = uuid.uuid4().hex
        files = [
            {"n": n, "name": SEPARATORS.split(file.name)[-1] or "file", "size": file.size}
            for n, file in enumerate(body.files)
        ]
        name = body.name or (stem_of(body.files[0].name) if len(files) == 1 else "")
        service.store.upload_folder(number).mkdir(mode=0o700)
        with service.database.writing() as connection:
            connection.execute(
                "INSERT INTO uploads (id, created, name, files) VALUES (?, ?, ?, ?)",
                (number, time.time(), name, json.dumps(files)),
            )
            service.database.audit(who, "upload", number)
        return 201, {"upload": number}

    _, made = service.once(key, body.model_dump(), make)
    return _upload(service, made["upload"])


def _upload(service: Service, number: str) -> schemas.Upload:
    row = service.database.row("SELECT * FROM uploads WHERE id = ?", number)
    if row is None:
        raise HTTPException(404, f"upload: expected one of this service, got {number[:64]}; begin it again")
    folder = service.store.upload_folder(number)
    files = []
    for file in json.loads(row["files"]):
        path = folder / stored_name(file)
        files.append(schemas.FileState(**file, received=path.stat().st_size if path.exists() else 0))
    return schemas.Upload(upload=number, files=files, job=row["job"])


def stored_name(file: dict[str, Any]) -> str:
    """Name of an uploaded file on this machine: its number, and what is harmless of its own name."""
    return f"{file['n']:05d}-{re.sub(r'[^A-Za-z0-9._-]', '_', file['name'])[-100:]}"


@router.get("/uploads/{number}")
def get_upload(service: Given, number: str) -> schemas.Upload:
    return _upload(service, number)


@router.put(
    "/uploads/{number}/files/{n}",
    status_code=204,
    openapi_extra={
        "requestBody": {
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            "required": True,
        }
    },
)
async def put_file(service: Given, number: str, n: int, request: Request) -> Response:
    upload = await run_in_threadpool(_upload, service, number)
    if not 0 <= n < len(upload.files):
        raise HTTPException(404, f"n: expected 0 to {len(upload.files) - 1}, got {n}; begin an upload of more files")
    if upload.job is not None:
        raise HTTPException(409, "upload: expected one that is not complete, got a complete one; begin another")
    known = upload.files[n]
    folder = service.store.upload_folder(number)
    path, part = folder / stored_name(known.model_dump()), folder / f".{n}-{uuid.uuid4().hex}"
    received = 0
    try:
        with part.open("wb") as file:
            async for chunk in request.stream():
                received += len(chunk)
                if received > known.size:
                    raise HTTPException(
                        413,
                        f"body: expected {known.size} bytes of this file, got more; begin the upload with its true size",
                    )
                await run_in_threadpool(file.write, chunk)
        if received != known.size:
            raise HTTPException(400, f"body: expected {known.size} bytes of this file, got {received}; send it again")
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return Response(status_code=204)


@router.post("/uploads/{number}/complete", status_code=202)
def complete_upload(service: Given, who: Who, number: str) -> schemas.Started:
    with service.database.writing() as connection:
        upload = _upload(service, number)
        if upload.job is not None:
            return schemas.Started(job=upload.job)
        missing = [file for file in upload.files if file.received != file.size]
        if missing:
            raise HTTPException(
                409, f"upload: expected all files, got none of {missing[0].name} (n = {missing[0].n}); send it first"
            )
        job = service.jobs.submit("ingest", {"upload": number, "who": who})
        connection.execute("UPDATE uploads SET job = ? WHERE id = ?", (job, number))
    return schemas.Started(job=job)


@router.get("/images")
def list_images(service: Given) -> schemas.Images:
    return schemas.Images.model_validate(
        {"images": [service.describe(image, lesions=False) for image in service.store.all()]}
    )


@router.get("/images/{sha}")
def get_image(service: Given, sha: str) -> schemas.Image:
    service.store.touch(sha)
    return schemas.Image.model_validate(service.describe(service.image(sha), lesions=True))


@router.delete("/images/{sha}", status_code=204)
def delete_image(
    service: Given,
    who: Who,
    sha: str,
    accepted: Annotated[bool, Query(description="Also where lesions are accepted")] = False,
) -> Response:
    image = service.image(sha)
    if not accepted and any(lesion.accepted for lesion in service.lesions.of(sha)):
        raise HTTPException(
            409,
            "image: expected one without accepted lesions, got one with them; export them, then ask with accepted=true",
        )
    service.store.remove(image.sha)
    service.database.audit(who, "delete image", sha)
    return Response(status_code=204)


@router.get(
    "/images/{sha}/volume.nii.gz", response_class=Response, responses={200: {"content": {"application/gzip": {}}}}
)
def get_volume(service: Given, sha: str) -> Response:
    path = service.image(sha).folder / PICTURE
    return FileResponse(path, media_type="application/gzip")


@router.get(
    "/images/{sha}/slices/{axis}/{k}",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def get_slice(service: Given, sha: str, axis: str, k: int, accept_encoding: Annotated[str, Header()] = "") -> Response:
    image = service.image(sha)
    if axis not in AXES:
        raise HTTPException(422, f"axis: expected z, y or x, got {axis[:20]!r}; choose one")
    length = image.shape_zyx[AXES[axis]]
    if not 0 <= k < length:
        raise HTTPException(422, f"k: expected 0 to {length - 1} along {axis}, got {k}; choose a slice of the image")
    plane = np.take(image.voxels, k, AXES[axis])
    content = np.clip(np.rint(plane), -32768, 32767).astype("<i2").tobytes()
    headers = {"X-Shape": f"{plane.shape[0]},{plane.shape[1]}", "vary": "accept-encoding"}
    if "gzip" in accept_encoding:
        content = gzip.compress(content, 1)
        headers["content-encoding"] = "gzip"
    return Response(content, media_type="application/octet-stream", headers=headers)


@router.post("/images/{sha}/lesions", status_code=202, responses={200: {"model": schemas.Lesion}})
async def click(
    service: Given,
    who: Who,
    sha: str,
    body: schemas.NewLesion,
    response: Response,
    key: Key = None,
    prefer: Prefer = None,
) -> Any:
    def begin() -> tuple[int, dict[str, Any]]:
        image = service.image(sha)
        require_inside(image, body.click)
        service.store.touch(sha)

        def make() -> tuple[int, dict[str, Any]]:
            facts = body.model_dump(exclude={"click"}) | {"clicks": [body.click]}
            with service.database.writing():
                lesion = service.lesions.create(sha, facts)
                return 202, {"job": service.submit_click(lesion, sha, {}, who), "lesion": lesion}

        return service.once(key, [sha, body.model_dump()], make)

    _, made = await run_in_threadpool(begin)
    return await _lesion_or_job(service, made, response, waits(prefer))


async def _lesion_or_job(service: Service, made: dict[str, Any], response: Response, seconds: float) -> Any:
    job = await service.settled(made["job"], seconds) if seconds else None
    if job is None or job.state != "done":
        if job is not None and job.state == "failed":
            raise HTTPException(422, job.error or "click: expected a lesion there, got an error; click again")
        return schemas.Started(**made)
    lesion = await run_in_threadpool(service.lesion, made["lesion"])
    response.status_code = 200
    response.headers["ETag"] = lesion.etag
    return schemas.Lesion.model_validate(lesion.as_dict())


def require_inside(image: StoredImage, click_mm: list[float]) -> None:
    """Raises a 422 for a point outside the image."""
    voxel = np.rint(np.linalg.solve(image.affine, [*click_mm, 1.0])[:3])
    shape = image.facts["shape"]
    if not all(0 <= at < length for at, length in zip(voxel, shape, strict=True)):
        raise HTTPException(
            422,
            f"click: expected a point within the image of {tuple(shape)} voxels, got voxel {tuple(int(at) for at in voxel)}; click inside the image",
        )


@router.post("/images/{sha}/scan", status_code=202)
def scan(service: Given, who: Who, sha: str, body: schemas.NewScan, key: Key = None) -> schemas.Started:
    """All lesions of an image without a click. Clicks of others come first."""
    image = service.image(sha)

    def make() -> tuple[int, dict[str, Any]]:
        with service.database.writing():
            service.database.audit(who, "scan", sha)
            return 202, {"job": service.jobs.submit("scan", {"image": image.sha, "threshold": body.threshold})}

    return schemas.Started(**service.once(key, [sha, body.model_dump()], make)[1])


@router.post("/lesions/{number}/clicks", status_code=202, responses={200: {"model": schemas.Lesion}})
async def click_again(
    service: Given,
    who: Who,
    number: str,
    body: schemas.NewClick,
    response: Response,
    key: Key = None,
    prefer: Prefer = None,
    if_match: IfMatch = None,
) -> Any:
    def begin() -> tuple[int, dict[str, Any]]:
        lesion = service.lesion(number)
        require_inside(service.image(lesion.image), body.click)
        clicks = [*lesion.facts["clicks"], body.click] if body.mode == "add" else [body.click]

        def make() -> tuple[int, dict[str, Any]]:
            job = service.submit_click(number, lesion.image, {"clicks": clicks[-20:]}, who, revision_of(if_match))
            return 202, {"job": job, "lesion": number}

        return service.once(key, [number, body.model_dump()], make)

    _, made = await run_in_threadpool(begin)
    return await _lesion_or_job(service, made, response, waits(prefer))


@router.get("/lesions/{number}")
def get_lesion(service: Given, number: str, response: Response) -> schemas.Lesion:
    lesion = service.lesion(number)
    response.headers["ETag"] = lesion.etag
    return schemas.Lesion.model_validate(lesion.as_dict())


@router.patch("/lesions/{number}")
async def change_lesion(
    service: Given,
    who: Who,
    number: str,
    body: schemas.LesionChange,
    response: Response,
    prefer: Prefer = None,
    if_match: IfMatch = None,
) -> schemas.Lesion:
    """A new threshold is applied to the probabilities that the worker kept: no network runs again for slices it has seen."""

    def begin() -> str | None:
        lesion = service.lesion(number)
        revision = revision_of(if_match)
        facts = {
            name: value
            for name, value in body.model_dump(exclude_unset=True).items()
            if name in ("name", "site", "role")
        }
        if body.accepted and lesion.mask is None:
            raise HTTPException(
                409, "accepted: expected a lesion with a mask, got an empty one; click again or draw it"
            )
        with service.database.writing():
            if body.threshold is not None and body.threshold != lesion.facts["threshold"]:
                return service.submit_click(
                    number, lesion.image, {**facts, "threshold": body.threshold, "edited": False}, who, revision
                )
            service.lesions.change(number, facts, revision=revision, accepted=body.accepted)
            if body.accepted is not None:
                service.database.audit(who, "accept" if body.accepted else "reopen", number)
        return None

    job = await run_in_threadpool(begin)
    if job is not None:
        ended = await service.settled(job, waits(prefer) or 30)
        if body.accepted and ended.state == "done":  # nobody accepts a mask that is not there yet
            await run_in_threadpool(lambda: service.lesions.change(number, {}, accepted=True))
    lesion = await run_in_threadpool(service.lesion, number)
    response.headers["ETag"] = lesion.etag
    return schemas.Lesion.model_validate(lesion.as_dict())


@router.delete("/lesions/{number}", status_code=204)
def delete_lesion(service: Given, who: Who, number: str) -> Response:
    service.lesion(number)
    with service.database.writing():
        service.lesions.remove(number)
        service.database.audit(who, "delete lesion", number)
    return Response(status_code=204)


MASK_HEADERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/gzip": {}}, "description": "0 and 1 in the order z, y, x; X-Box: x, y, z, lengths"},
    204: {},
}


@router.get("/lesions/{number}/mask", response_class=Response, responses=MASK_HEADERS)
def get_mask(service: Given, number: str) -> Response:
    lesion = service.lesion(number)
    if lesion.mask is None:
        return Response(status_code=204, headers={"ETag": lesion.etag})
    box = ",".join(map(str, lesion.as_dict()["box"]))
    return Response(pack(lesion.mask), media_type="application/gzip", headers={"X-Box": box, "ETag": lesion.etag})


@router.put(
    "/lesions/{number}/mask",
    openapi_extra={
        "requestBody": {
            "content": {"application/gzip": {"schema": {"type": "string", "format": "binary"}}},
            "required": True,
        }
    },
)
async def put_mask(
    service: Given,
    who: Who,
    number: str,
    request: Request,
    response: Response,
    x_box: Annotated[
        str, Header(alias="X-Box", max_length=100, description="x, y, z of the first voxel, lengths along x, y, z")
    ],
    if_match: IfMatch = None,
) -> schemas.Lesion:
    packed = await request.body()

    def change() -> StoredLesion:
        lesion = service.lesion(number)
        image = service.image(lesion.image)
        box = box_of(x_box, image, service.settings.limits.mask_voxels)
        mask = unpacked(packed, tuple(part.stop - part.start for part in box))
        tight_box, tight_mask = tight(mask, box)
        facts = measured(image, tight_box, tight_mask) | {"edited": True}
        with service.database.writing():
            service.lesions.change(
                number, facts, revision=revision_of(if_match), accepted=False, mask=(tight_box, tight_mask)
            )
            service.database.audit(who, "draw", number)
        return service.lesion(number)

    lesion = await run_in_threadpool(change)
    response.headers["ETag"] = lesion.etag
    return schemas.Lesion.model_validate(lesion.as_dict())


def box_of(text: str, image: StoredImage, most_voxels: int) -> tuple[slice, slice, slice]:
    """The box of an X-Box header, (z, y, x); a 422 where it does not lie in the image."""
    found = re.fullmatch(r"\s*(\d{1,6})\s*" + r",\s*(\d{1,6})\s*" * 5, text)
    if found is None:
        raise HTTPException(
            422, "X-Box: expected six whole numbers x,y,z,nx,ny,nz, got another text; send the box of the mask"
        )
    x, y, z, nx, ny, nz = map(int, found.groups())
    width, height, depth = image.facts["shape"]
    if not (nx > 0 and ny > 0 and nz > 0 and x + nx <= width and y + ny <= height and z + nz <= depth):
        raise HTTPException(
            422,
            f"X-Box: expected a box within {width} x {height} x {depth} voxels, got {text.strip()}; send the box of the mask",
        )
    if nx * ny * nz > most_voxels:
        raise HTTPException(
            413,
            f"X-Box: expected at most {most_voxels} voxels, got {nx * ny * nz}; send the smallest box around the mask",
        )
    return slice(z, z + nz), slice(y, y + ny), slice(x, x + nx)


def unpacked(packed: bytes, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """A mask of gzipped 0 and 1; a 422 for other bytes. No more is inflated than the shape holds."""
    wanted = int(np.prod(shape))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            voxels = file.read(wanted + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise HTTPException(422, "body: expected a gzipped mask, got damaged bytes; pack the mask with gzip") from error
    if len(voxels) != wanted:
        raise HTTPException(
            422,
            f"body: expected {wanted} bytes of the box in X-Box, got {'more' if len(voxels) > wanted else len(voxels)}; send one for each voxel",
        )
    array = np.frombuffer(voxels, np.uint8)
    if array.max(initial=0) > 1:
        raise HTTPException(422, f"body: expected 0 and 1, got also {int(array.max())}; send one mask")
    return array.reshape(shape).astype(np.bool_)


@router.get(
    "/lesions/{number}/mask.nii.gz", response_class=Response, responses={200: {"content": {"application/gzip": {}}}}
)
def get_mask_file(service: Given, number: str) -> Response:
    """On the grid of the file that was uploaded, as `segnet predict` writes it."""
    lesion = service.lesion(number)
    image = service.image(lesion.image)
    if lesion.mask is None or lesion.box is None:
        raise HTTPException(409, "lesion: expected one with a mask, got an empty one; click again or draw it")
    folder = service.store.export_folder(f"mask-{uuid.uuid4().hex}")
    folder.mkdir(mode=0o700)
    path = folder / "mask.nii.gz"
    try:
        save_mask(path, image, lesion)
        content = path.read_bytes()
    finally:
        path.unlink(missing_ok=True)
        folder.rmdir()
    return Response(
        content, media_type="application/gzip", headers={"content-disposition": 'attachment; filename="mask.nii.gz"'}
    )


@router.get("/jobs/{number}")
def get_job(service: Given, number: str) -> schemas.JobState:
    return schemas.JobState.model_validate(service.job(number).as_dict())


@router.get(
    "/jobs/{number}/events", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}}}
)
async def job_events(service: Given, number: str) -> Response:
    await run_in_threadpool(service.job, number)

    async def events() -> AsyncIterator[str]:
        last, quiet = "", 0.0
        while True:
            job = await run_in_threadpool(service.job, number)
            told = json.dumps(job.as_dict())
            if told != last:
                last, quiet = told, 0.0
                yield f"event: job\ndata: {told}\n\n"
            elif quiet > 15:
                quiet = 0.0
                yield ": still there\n\n"  # proxies close silent connections
            if job.ended:
                return
            await asyncio.sleep(0.1)
            quiet += 0.1

    return StreamingResponse(events(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


@router.delete("/jobs/{number}")
def cancel_job(service: Given, who: Who, number: str) -> schemas.JobState:
    service.job(number)
    with service.database.writing():
        job = service.jobs.cancel(number)
        service.database.audit(who, "cancel", number)
    assert job is not None
    return schemas.JobState.model_validate(job.as_dict())


@router.post("/exports", status_code=202)
def export(service: Given, who: Who, body: schemas.NewExport, key: Key = None) -> schemas.Started:
    image = service.image(body.image)
    known = {lesion.id: lesion for lesion in service.lesions.of(image.sha)}
    chosen = list(known) if body.lesions is None else body.lesions
    for number in chosen:
        if number not in known:
            raise HTTPException(422, f"lesions: expected lesions of this image, got {number}; leave it out")
    chosen = [number for number in chosen if known[number].mask is not None]
    if not chosen:
        raise HTTPException(422, "lesions: expected at least one with a mask, got none; click one first")
    if not body.formats and not body.pacs:
        raise HTTPException(422, "formats: expected at least one, got none; choose one")
    dicom = body.pacs or {"seg", "sr"} & set(body.formats)
    if dicom and image.facts["source"] != "dicom":
        raise HTTPException(
            422, f"formats: expected a DICOM image for DICOM results, got {image.facts['source']}; choose NIfTI"
        )
    if body.pacs and not service.describe(image, lesions=False)["pacs_export"]:
        raise HTTPException(
            409, "pacs: expected an identified image and a PACS that takes results, got none; choose files instead"
        )

    def make() -> tuple[int, dict[str, Any]]:
        payload = {
            "image": image.sha,
            "lesions": chosen,
            "formats": list(dict.fromkeys(body.formats)),
            "pacs": body.pacs,
            "who": who,
        }
        with service.database.writing():
            service.database.audit(who, "export to PACS" if body.pacs else "export", image.sha)
            return 202, {"job": service.jobs.submit("export", payload)}

    return schemas.Started(**service.once(key, body.model_dump(), make)[1])


@router.get(
    "/exports/{number}/{name}",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}, "text/html": {}}}},
)
def get_export(service: Given, number: str, name: str) -> Response:
    row = service.database.row("SELECT files FROM exports WHERE id = ?", number)
    if row is None or name not in json.loads(row["files"]):
        raise HTTPException(404, "export: expected one of this service, got another; export again")
    path = service.store.export_folder(number) / name
    if name.endswith(".html"):  # the page's policy lets no script of it run
        return FileResponse(path, media_type="text/html")
    return FileResponse(path, media_type="application/octet-stream", filename=name)


@router.post("/comparisons")
def compare(service: Given, body: schemas.NewComparison) -> dict[str, Any]:
    """RECIST 1.1 target response of two time points."""
    baseline, followup = service.image(body.baseline), service.image(body.followup)
    known = {lesion.id: lesion for image in (baseline, followup) for lesion in service.lesions.of(image.sha)}
    pairs = []
    for pair in body.pairs:
        sides = []
        for side, number, image in (("baseline", pair.baseline, baseline), ("followup", pair.followup, followup)):
            if number is not None and (number not in known or known[number].image != image.sha):
                raise HTTPException(
                    422, f"pairs: expected a lesion of the {side} image, got {number}; pair lesions of these two images"
                )
            sides.append(None if number is None else known[number])
        if sides == [None, None]:
            raise HTTPException(422, "pairs: expected a lesion on one side at least, got none; leave the pair out")
        pairs.append((sides[0], sides[1]))
    with service.database.writing():
        for first, second in pairs:  # one lesion over time has one tracking number
            if first is not None and second is not None and first.facts["tracking_uid"] != second.facts["tracking_uid"]:
                service.lesions.change(second.id, {"tracking_uid": first.facts["tracking_uid"]})
    return response_of(pairs, nadir_mm=body.nadir_mm)


def _pacs(service: Service) -> Archive:
    if service.settings.pacs is None:
        raise HTTPException(404, "pacs: expected one in the server's settings, got none; see docs/serving.md")
    return Archive(service.settings.pacs)


@router.get("/pacs/studies")
def pacs_studies(
    service: Given,
    who: Who,
    patient_id: Annotated[str | None, Query(max_length=64)] = None,
    name: Annotated[str | None, Query(max_length=64)] = None,
    date: Annotated[str | None, Query(max_length=20)] = None,
    modality: Annotated[str, Query(max_length=16)] = "CT",
) -> dict[str, Any]:
    found = _pacs(service).studies(patient_id=patient_id, name=name, date=date, modality=modality)
    service.database.audit(who, "search PACS", "")
    return {"studies": found}


@router.get("/pacs/studies/{study}/series")
def pacs_series(service: Given, study: str) -> dict[str, Any]:
    if not re.fullmatch(r"[0-9.]{1,64}", study):
        raise HTTPException(422, "study: expected a Study Instance UID, got another text; choose one of the list")
    return {"series": _pacs(service).series(study)}


@router.post("/pacs/import", status_code=202)
def pacs_import(service: Given, who: Who, body: schemas.NewImport, key: Key = None) -> schemas.Started:
    _pacs(service)

    def make() -> tuple[int, dict[str, Any]]:
        with service.database.writing():
            service.database.audit(who, "import from PACS", hashlib.sha256(body.series.encode()).hexdigest()[:16])
            return 202, {"job": service.jobs.submit("import", {**body.model_dump(), "who": who})}

    return schemas.Started(**service.once(key, body.model_dump(), make)[1])

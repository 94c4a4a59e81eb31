"""An API in memory for the tests of the page: the contract's routes, with a ball around each click for a segmentation."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import itertools
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles

import segnet
from segnet.serve.access import POLICY

PAGE = Path(segnet.__file__).parent / "serve" / "page"
RADIUS_MM = 7.0


@dataclass
class Stub:
    """What the server holds, and the switches that a test may set."""

    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    volumes: dict[str, Any] = field(default_factory=dict)
    lesions: dict[str, dict[str, Any]] = field(default_factory=dict)
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    balls: dict[str, np.ndarray] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    job_s: float = 0.0
    pacs: bool = True
    fail: dict[str, tuple[int, str]] = field(default_factory=dict)
    counter: Iterator[int] = field(default_factory=itertools.count)

    def sent(self, method: str, end: str) -> list[tuple[dict[str, str], bytes]]:
        """Headers and bodies of the requests with this method whose path ends so."""
        return [(headers, body) for verb, path, headers, body in self.requests if verb == method and path.endswith(end)]

    def add(self, name: str, data: bytes, **fields: Any) -> str:
        """Reads a NIfTI file, as the ingest job does."""
        image = nib.Nifti1Image.from_bytes(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        canonical = nib.as_closest_canonical(image)
        sha = hashlib.sha256(data + name.encode()).hexdigest()
        voxels = np.asarray(canonical.dataobj).astype("<i2")
        stored = nib.Nifti1Image(voxels, canonical.affine)
        stored.header.set_xyzt_units("mm")
        self.volumes[sha] = stored
        self.images[sha] = {
            "image": sha,
            "name": name,
            "added": "2026-12-01T10:00:00Z",
            "source": "nifti",
            "shape": list(voxels.shape),
            "spacing_mm": [float(value) for value in nib.affines.voxel_sizes(stored.affine)],
            "affine": stored.affine.tolist(),
            "modality": "CT",
            "window_hu": [-160, 240],
            "range_hu": [int(voxels.min()), int(voxels.max())],
            "deidentified": False,
            "pacs_export": False,
            "warnings": [],
            "study_date": None,
        } | fields
        return sha

    def image(self, sha: str) -> dict[str, Any]:
        if sha not in self.images:
            raise HTTPException(404, f"image: expected the hash of a stored image, got {sha}; open it again")
        return self.images[sha] | {"lesions": [lesion for lesion in self.lesions.values() if lesion["image"] == sha]}

    def segment(self, lesion: dict[str, Any], add: bool = False) -> None:
        """A ball around the last click, its radius larger for a lower threshold; `add` keeps what was there."""
        affine, shape = self.volumes[lesion["image"]].affine, self.volumes[lesion["image"]].shape
        grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
        radius = RADIUS_MM * (1.5 - lesion["threshold"])
        ball = np.linalg.norm(grid - lesion["clicks"][-1], axis=-1) <= radius
        name = lesion["lesion"]
        self.masks[name] = ball | self.masks[name] if add and name in self.masks else ball
        self.measure(lesion)

    def measure(self, lesion: dict[str, Any]) -> None:
        mask, affine = self.masks[lesion["lesion"]], self.volumes[lesion["image"]].affine
        lesion["revision"] += 1
        lesion["volume_ml"] = float(mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000)
        lesion |= {"axes": None, "long_axis_mm": None, "short_axis_mm": None, "mean_hu": None, "box": None}
        if not mask.any():
            return
        where = np.argwhere(mask)
        low, high = where.min(0), where.max(0)
        lesion["box"] = [*low.tolist(), *(high - low + 1).tolist()]
        lesion["mean_hu"] = float(np.asarray(self.volumes[lesion["image"]].dataobj)[mask].mean())
        z = int(mask.sum((0, 1)).argmax())
        points = np.argwhere(mask[:, :, z])
        mm = np.c_[points, np.full(len(points), z)] @ affine[:3, :3].T + affine[:3, 3]
        lines = mm[None] - mm[:, None]
        lengths = np.linalg.norm(lines, axis=-1)
        a, b = np.unravel_index(lengths.argmax(), lengths.shape)
        across = np.where(np.abs(lines @ lines[a, b]) <= 0.2 * lengths * lengths[a, b], lengths, -1)
        c, d = np.unravel_index(across.argmax(), across.shape)
        lesion |= {
            "long_axis_mm": float(lengths[a, b]),
            "short_axis_mm": float(lengths[c, d]),
            "axes": {"long": mm[[a, b]].tolist(), "short": mm[[c, d]].tolist(), "slice": z},
        }

    def job(self, kind: str, result: Any) -> str:
        name = f"job{next(self.counter)}"
        self.jobs[name] = {
            "id": name,
            "kind": kind,
            "ends": time.monotonic() + self.job_s,
            "result": result,
            "stopped": False,
        }
        return name

    def state(self, name: str) -> dict[str, Any]:
        if name not in self.jobs:
            raise HTTPException(404, f"job: expected the id of a job, got {name}")
        job = self.jobs[name]
        left = job["ends"] - time.monotonic()
        state = "cancelled" if job["stopped"] else "done" if left <= 0 else "running"
        fraction = 1.0 if left <= 0 else 1 - left / max(self.job_s, 1e-9)
        return {
            "id": name,
            "kind": job["kind"],
            "state": state,
            "progress": fraction,
            "message": f"Slice {round(16 * fraction)} of 16",
            "result": job["result"] if state == "done" else None,
            "error": None,
            "position": 0,
        }

    def lesion(self, name: str) -> dict[str, Any]:
        if name not in self.lesions:
            raise HTTPException(404, f"lesion: expected the id of a lesion, got {name}")
        lesion = self.lesions[name]
        if lesion["state"] == "running":
            state = self.state(lesion["job"])["state"]
            if state == "done":
                self.segment(lesion, lesion.pop("add", False))
            if state != "running":
                lesion["state"] = state
        return lesion


def application(stub: Stub) -> FastAPI:
    """The app that serves the page and the API of this stub."""
    app = FastAPI()

    @app.middleware("http")
    async def record(request: Request, follow: Any) -> Response:
        body = await request.body()
        stub.requests.append((request.method, request.url.path, dict(request.headers), body))
        for end, (status, detail) in stub.fail.items():
            if request.url.path.endswith(end):
                del stub.fail[end]
                return JSONResponse({"detail": detail}, status)
        response: Response = await follow(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.get("/")
    async def index() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/v1/about")
    async def about() -> dict[str, Any]:
        limits = {"upload_bytes": 64 << 20, "files": 500, "queue": 50}
        model = {"names": ["stub"], "sites": ["lung"], "threshold": 0.5}
        return {
            "version": "0.1.0",
            "research_only": True,
            "limits": limits,
            "model": model,
            "pacs": stub.pacs,
            "pacs_store": stub.pacs,
        }

    @app.post("/v1/uploads", status_code=201)
    async def new_upload(request: Request) -> dict[str, Any]:
        asked, name = await request.json(), f"upload{next(stub.counter)}"
        files = [{"n": n, **file, "received": 0} for n, file in enumerate(asked["files"])]
        stub.uploads[name] = {"upload": name, "name": asked.get("name"), "files": files, "bytes": {}}
        return {"upload": name, "files": files}

    @app.get("/v1/uploads/{name}")
    async def upload(name: str) -> dict[str, Any]:
        if name not in stub.uploads:
            raise HTTPException(404, "upload: expected the id of an unfinished upload; start a new one")
        return {"upload": name, "files": stub.uploads[name]["files"]}

    @app.put("/v1/uploads/{name}/files/{n}", status_code=204)
    async def put_file(name: str, n: int, request: Request) -> None:
        stub.uploads[name]["bytes"][n] = await request.body()
        stub.uploads[name]["files"][n]["received"] = len(stub.uploads[name]["bytes"][n])

    @app.post("/v1/uploads/{name}/complete", status_code=202)
    async def complete(name: str) -> dict[str, str]:
        held = stub.uploads[name]
        try:
            sha = stub.add(held["name"], max(held["bytes"].values(), key=len))
        except Exception as error:
            job = stub.job("ingest", None)
            stub.jobs[job]["error"] = str(error)
            raise HTTPException(
                422, f"{held['name']}: expected a NIfTI file, got other bytes; export it again"
            ) from error
        return {"job": stub.job("ingest", {"image": sha})}

    @app.get("/v1/images")
    async def images() -> dict[str, Any]:
        return {"images": list(stub.images.values())[::-1]}

    @app.get("/v1/images/{sha}")
    async def image(sha: str) -> dict[str, Any]:
        return stub.image(sha)

    @app.delete("/v1/images/{sha}", status_code=204)
    async def delete_image(sha: str, accepted: bool = False) -> None:
        held = stub.image(sha)["lesions"]
        if any(lesion["accepted"] for lesion in held) and not accepted:
            raise HTTPException(
                409, "image: expected no accepted lesions, got some; pass accepted=true to delete them too"
            )
        del stub.images[sha]

    @app.get("/v1/images/{sha}/volume.nii.gz")
    async def volume(sha: str) -> Response:
        stub.image(sha)
        return Response(gzip.compress(stub.volumes[sha].to_bytes(), 1), media_type="application/gzip")

    @app.get("/v1/images/{sha}/slices/{axis}/{k}")
    async def slices(sha: str, axis: str, k: int) -> Response:
        plane = np.asarray(stub.volumes[sha].dataobj).T.take(k, axis="zyx".index(axis))
        return Response(
            np.ascontiguousarray(plane, "<i2").tobytes(),
            media_type="application/octet-stream",
            headers={"X-Shape": f"{plane.shape[0]},{plane.shape[1]}"},
        )

    def answer(lesion: dict[str, Any], add: bool = False) -> JSONResponse:
        lesion |= {"job": stub.job("segment", None), "state": "running", "add": add}
        if stub.job_s:
            return JSONResponse({"job": lesion["job"], "lesion": lesion["lesion"]}, 202)
        return JSONResponse(stub.lesion(lesion["lesion"]))

    @app.post("/v1/images/{sha}/lesions")
    async def new_lesion(sha: str, request: Request) -> JSONResponse:
        asked, name = await request.json(), f"lesion{next(stub.counter)}"
        stub.lesions[name] = {
            "lesion": name,
            "image": sha,
            "revision": 0,
            "state": "queued",
            "job": None,
            "name": asked.get("name") or name,
            "site": None,
            "role": None,
            "accepted": False,
            "edited": False,
            "clicks": [asked["click"]],
            "threshold": 0.5,
            "volume_ml": None,
            "long_axis_mm": None,
            "short_axis_mm": None,
            "axes": None,
            "mean_hu": None,
            "box": None,
            "field_of_view_mm": 180.0,
            "warnings": ["The lesion touches the first slice: it may go on beyond the scan."],
            "tracking_uid": f"2.25.{next(stub.counter)}",
            "created": "2026-12-01T10:00:00Z",
            "error": None,
        }
        return answer(stub.lesions[name])

    @app.post("/v1/lesions/{name}/clicks")
    async def click(name: str, request: Request) -> JSONResponse:
        asked, lesion = await request.json(), stub.lesion(name)
        lesion["clicks"] = [*lesion["clicks"], asked["click"]] if asked["mode"] == "add" else [asked["click"]]
        lesion["edited"] = False
        return answer(lesion, asked["mode"] == "add")

    @app.get("/v1/lesions/{name}")
    async def lesion(name: str, response: Response) -> dict[str, Any]:
        found = stub.lesion(name)
        response.headers["ETag"] = f'"{found["revision"]}"'
        return found

    def check_revision(found: dict[str, Any], request: Request) -> None:
        if request.headers.get("if-match") != f'"{found["revision"]}"':
            raise HTTPException(
                412,
                f'If-Match: expected "{found["revision"]}", got {request.headers.get("if-match")}; reload the lesion',
            )

    @app.patch("/v1/lesions/{name}")
    async def patch(name: str, request: Request) -> dict[str, Any]:
        found, change = stub.lesion(name), await request.json()
        check_revision(found, request)
        found |= change
        if "threshold" in change:
            found["edited"] = False
            stub.segment(found)
        else:
            found["revision"] += 1
        return found

    @app.delete("/v1/lesions/{name}", status_code=204)
    async def delete(name: str) -> None:
        stub.lesion(name)
        del stub.lesions[name]

    @app.get("/v1/lesions/{name}/mask")
    async def mask(name: str) -> Response:
        box = stub.lesion(name)["box"]
        if box is None:
            return Response(status_code=204)
        x, y, z, nx, ny, nz = box
        crop = stub.masks[name][x : x + nx, y : y + ny, z : z + nz]
        return Response(
            gzip.compress(crop.astype(np.uint8).tobytes(order="F")),
            media_type="application/gzip",
            headers={"X-Box": ",".join(map(str, box))},
        )

    @app.put("/v1/lesions/{name}/mask")
    async def put_mask(name: str, request: Request) -> dict[str, Any]:
        found = stub.lesion(name)
        check_revision(found, request)
        x, y, z, nx, ny, nz = map(int, request.headers["x-box"].split(","))
        crop = np.frombuffer(gzip.decompress(await request.body()), np.uint8).reshape(nz, ny, nx).T
        drawn = np.zeros_like(stub.masks[name])
        drawn[x : x + nx, y : y + ny, z : z + nz] = crop
        stub.masks[name] = drawn
        found["edited"] = True
        stub.measure(found)
        return found

    @app.get("/v1/jobs/{name}")
    async def job(name: str) -> dict[str, Any]:
        return stub.state(name)

    @app.delete("/v1/jobs/{name}", status_code=204)
    async def cancel(name: str) -> None:
        stub.state(name)
        stub.jobs[name]["stopped"] = True

    @app.get("/v1/jobs/{name}/events")
    async def events(name: str) -> StreamingResponse:
        stub.state(name)

        async def stream() -> AsyncIterator[str]:
            while True:
                state = stub.state(name)
                yield f"event: job\ndata: {json.dumps(state)}\n\n"
                if state["state"] in ("done", "failed", "cancelled"):
                    return
                await asyncio.sleep(0.1)

        return StreamingResponse(stream(), media_type="text/event-stream")

    @app.post("/v1/exports", status_code=202)
    async def export(request: Request) -> dict[str, str]:
        asked = await request.json()
        files = [
            {"name": f"lesions.{kind}", "url": f"/v1/exports/e/lesions.{kind}", "bytes": 7} for kind in asked["formats"]
        ]
        stored = {"stored": ["1.2.3", "1.2.4"], "verified": True} if asked.get("pacs") else None
        return {"job": stub.job("export", {"files": files, "pacs": stored})}

    @app.get("/v1/exports/{name}/{file}")
    async def exported(name: str, file: str) -> Response:
        return Response(b"content", media_type="application/octet-stream")

    @app.post("/v1/comparisons")
    async def compare(request: Request) -> dict[str, Any]:
        asked = await request.json()
        before = [stub.lesion(pair["baseline"]) for pair in asked["pairs"] if pair["baseline"]]
        after = [
            stub.lesion(pair["followup"]) if pair["followup"] else None for pair in asked["pairs"] if pair["baseline"]
        ]
        sizes = [
            (old["long_axis_mm"], new["long_axis_mm"] if new else 0.0) for old, new in zip(before, after, strict=True)
        ]
        old_sum, new_sum = map(sum, zip(*sizes, strict=True))
        change = 100 * (new_sum - old_sum) / old_sum
        return {
            "rules": ["Partial response: the sum falls by 30 % or more from the baseline."],
            "targets": [
                {
                    "name": old["name"],
                    "site": old["site"],
                    "node": False,
                    "baseline_mm": a,
                    "followup_mm": b,
                    "note": "",
                }
                for old, (a, b) in zip(before, sizes, strict=True)
            ],
            "baseline_sum_mm": old_sum,
            "followup_sum_mm": new_sum,
            "nadir_mm": asked.get("nadir_mm") or old_sum,
            "change_from_baseline_percent": change,
            "change_from_nadir_percent": change,
            "change_from_nadir_mm": new_sum - old_sum,
            "response": "CR" if not new_sum else "PR" if change <= -30 else "PD" if change >= 20 else "SD",
            "new_lesions": sum(pair["baseline"] is None for pair in asked["pairs"]),
            "problems": [],
        }

    @app.get("/v1/pacs/studies")
    async def studies() -> dict[str, Any]:
        study = {
            "study": "1.2",
            "patient_id": "P1",
            "patient_name": "Test^One",
            "date": "2026-01-02",
            "description": "Chest CT",
            "series": 2,
        }
        return {"studies": [study]}

    @app.get("/v1/pacs/studies/{study}/series")
    async def series(study: str) -> dict[str, Any]:
        return {
            "series": [
                {"series": "1.2.1", "modality": "CT", "description": "Thin", "instances": 20},
                {"series": "1.2.2", "modality": "SR", "description": "Dose", "instances": 1},
            ]
        }

    @app.post("/v1/pacs/import", status_code=202)
    async def pacs_import() -> dict[str, str]:
        sha = next(iter(stub.images))
        return {"job": stub.job("ingest", {"image": sha})}

    app.mount("/static", StaticFiles(directory=PAGE))
    return app


@contextmanager
def served(stub: Stub) -> Iterator[str]:
    """The address of a server with this stub, in a thread of this process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(application(stub), port=port, log_level="error", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join(5)

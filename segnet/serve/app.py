"""The application of the web process: routes, page, health and metrics behind the checks of access."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segnet import __version__
from segnet.errors import InputError
from segnet.serve import api, monai_label
from segnet.serve.access import Access, TooLarge
from segnet.serve.jobs import QueueFull
from segnet.serve.lesions import Stale
from segnet.serve.settings import Settings

PAGE = Path(__file__).with_name("page")


def make_app(settings: Settings, token: str) -> ASGIApp:
    """The application: routes, page and access."""
    app = FastAPI(
        title="segnet serve",
        version=__version__,
        summary="A click in a CT becomes a mask with its diameters. Research software, no medical device.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
    )
    service = app.state.service = api.Service(settings)
    app.state.token = token
    app.include_router(api.router)
    app.include_router(monai_label.router)

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", include_in_schema=False)
    def readyz() -> Response:
        ready = service.worker() is not None
        return JSONResponse({"status": "ready" if ready else "no worker is ready yet"}, 200 if ready else 503)

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    app.mount("/static", _Packed(StaticFiles(directory=PAGE)))
    _handle_errors(app)

    @app.middleware("http")
    async def measured_request(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        began = time.perf_counter()
        response = await call_next(request)
        route = request.scope.get("route")
        service.metrics.request(
            request.method, getattr(route, "path", "other"), response.status_code, time.perf_counter() - began
        )
        return response

    return Access(app, settings, token)


class _Packed:
    """Files of the page, gzipped: the viewer is 2.3 MB of script. A browser asks whether they have changed."""

    def __init__(self, files: StaticFiles) -> None:
        self.app = GZipMiddleware(files, minimum_size=2000, compresslevel=6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"cache-control", b"no-cache")]
            await send(message)

        await self.app(scope, receive, sending)


def _handle_errors(app: FastAPI) -> None:
    def problem(status: int, detail: str) -> JSONResponse:
        return JSONResponse({"detail": detail}, status, {"retry-after": "5"} if status in (429, 503) else None)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"detail": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(InputError)
    async def bad_input(request: Request, error: InputError) -> JSONResponse:
        return problem(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        return problem(422, f"{place}: {first['msg']}; see /v1/openapi.json")

    @app.exception_handler(Stale)
    async def stale(request: Request, error: Stale) -> JSONResponse:
        return problem(412, "If-Match: expected the lesion's present revision, got an older one; read the lesion again")

    @app.exception_handler(QueueFull)
    async def full(request: Request, error: QueueFull) -> JSONResponse:
        return problem(429, "queue: expected a free place, got a full queue; try again in a few seconds")

    @app.exception_handler(Exception)  # starlette raises it again after the answer, and `Access` logs it
    async def own_error(request: Request, error: Exception) -> JSONResponse:
        return problem(500, "service: expected to answer, got an error of its own; see its log")

    @app.exception_handler(TooLarge)
    async def too_large(request: Request, error: TooLarge) -> JSONResponse:
        return problem(413, str(error))

"""Who may ask for what: names of the host, origin, token, size of bodies, and the headers of every answer."""

from __future__ import annotations

import hmac
import json
import logging
import re
from http.cookies import CookieError, SimpleCookie
from types import TracebackType
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segnet.serve.settings import Settings

log = logging.getLogger("segnet.serve")
COOKIE = "segnet_token"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self';"
    " form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
OPEN = re.compile(r"/(|healthz|readyz|favicon\.ico|static/.*|monai/auth/(token)?)")
"""Paths that need no token: the page holds nothing of a patient, and MONAI Label signs in with the token as its password."""
FILES = re.compile(r"/v1/uploads/[^/]+/files/\d+|/monai/session/")
MASKS = re.compile(r"/v1/lesions/[^/]+/mask")
SAFE = ("GET", "HEAD", "OPTIONS")


class Access:
    """The outermost layer of the application.

    Parameters
    ----------
    token : that a cookie or a bearer must hold
    """

    def __init__(self, app: ASGIApp, settings: Settings, token: str) -> None:
        self.app, self.settings, self.token = app, settings, token.encode()
        self.hosts = {name.lower() for name in settings.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [pair for pair in message["headers"] if pair[0] not in {name for name, _ in HEADERS}]
                if scope["path"].startswith(("/v1/", "/monai/")) and not any(
                    name == b"cache-control" for name, _ in headers
                ):
                    headers.append((b"cache-control", b"no-store"))
                message["headers"] = [*headers, *HEADERS]
            await send(message)

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(sending, *refusal)
            return
        if scope["path"] == "/" and b"token=" in scope["query_string"]:
            await self._sign_in(scope, sending)
            return
        most = self._most_bytes(scope["path"])
        if int(headers.get("content-length", "0") or 0) > most:
            await _answer(
                sending,
                413,
                f"body: expected at most {most} bytes, got {headers['content-length']}; send less, or raise the limit",
            )
            return
        try:
            await self.app(scope, _counted(receive, most), sending)
        except Exception as error:
            # the message is left out: libraries quote text of files in it
            log.error("%s of a request failed", type(error).__name__, exc_info=without_message(error))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        if name_of(headers.get("host", "")) not in self.hosts:
            return (
                403,
                "Host: expected a name of this service, got another; start it with --allow-host, or use its own address",
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in {
            f"{scheme}://{headers['host'].lower()}" for scheme in ("http", "https")
        }:
            return 403, "Origin: expected the page of this service, got another; open its own address"
        if (
            origin is None
            and headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
            and scope["method"] not in SAFE
        ):
            return (
                403,
                "Sec-Fetch-Site: expected a request of this service's page, got another site's; open its own address",
            )
        length = headers.get("content-length", "0")
        if not length.isdigit():
            return 400, "Content-Length: expected a whole number, got another; send it again"
        who = self._user(scope, headers)
        scope.setdefault("state", {})["who"] = who
        if who is None and not OPEN.fullmatch(scope["path"]):
            return (
                401,
                "token: expected the service's token in a cookie or as bearer, got none or another; open the address that `segnet serve` printed",
            )
        return None

    def _user(self, scope: Scope, headers: dict[str, str]) -> str | None:
        settings = self.settings
        if settings.trusted_proxy is not None and scope.get("client") and scope["client"][0] == settings.trusted_proxy:
            user = headers.get(settings.user_header.lower(), "")
            if user:
                return user[:200]
        given = headers.get("authorization", "")
        if given[:7].lower() == "bearer ":
            return "token" if hmac.compare_digest(given[7:].strip().encode(), self.token) else None
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return None
        return "token" if cookie is not None and hmac.compare_digest(cookie.value.encode(), self.token) else None

    async def _sign_in(self, scope: Scope, send: Send) -> None:
        query = parse_qs(scope["query_string"].decode("latin-1"))
        given = query.pop("token", [""])[0]
        if not hmac.compare_digest(given.encode(), self.token):
            await _answer(
                send,
                401,
                "token: expected the service's token, got another; open the address that `segnet serve` printed",
            )
            return
        rest = urlencode(query, doseq=True)
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        cookie = f"{COOKIE}={self.token.decode()}; HttpOnly; SameSite=Strict; Path=/; Max-Age=2592000{secure}"
        location = f"./?{rest}" if rest else "./"
        await send(
            {
                "type": "http.response.start",
                "status": 303,
                "headers": [
                    (b"location", location.encode()),
                    (b"set-cookie", cookie.encode()),
                    (b"cache-control", b"no-store"),
                ],
            }
        )
        await send({"type": "http.response.body", "body": b""})

    def _most_bytes(self, path: str) -> int:
        limits = self.settings.limits
        if FILES.fullmatch(path):
            return limits.upload_bytes
        return limits.mask_bytes if MASKS.fullmatch(path) else limits.body_bytes


def name_of(host: str) -> str:
    """A Host header without its port, in lower case; nothing for one that is malformed."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def without_message(error: BaseException) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """An error for the log: its class and its trace, without its text, which may quote a patient's name from a file."""
    return type(error), Exception("message left out"), error.__traceback__


class TooLarge(Exception):
    """A body without a length, or longer than it said, went beyond its limit."""


def _counted(receive: Receive, most: int) -> Receive:
    seen = 0

    async def counting() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise TooLarge(f"body: expected at most {most} bytes, got more; send less, or raise the limit")
        return message

    return counting


async def _answer(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

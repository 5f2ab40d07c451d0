"""The web side of the page: a few requests, all checked, none of which names a file."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from kc.errors import KcError
from kc.outside import parse_json
from kc.serve.demo import MAX_BYTES, DemoSession

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Of every answer, errors too."""
MARK = "x-kc"
"""Header that the page sends with every request: a page of another origin may not."""
SMALL = 1 << 20
"""Bytes of a request that is no picture."""
LONGEST_TEXT = 10_000
"""Characters of a name, or of a list of names."""
UPLOADS = 4
"""Bodies of requests that are in RAM at a time; others wait."""
SECONDS = 30.0
"""How long the head of a request, and then its body, may take to arrive."""


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        raise ValueError(f"text of at most {LONGEST_TEXT:,} characters")
    return value


def _share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("a number from 0 to 1")
    return float(value)


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _regions(value: object) -> list[int]:
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 2**31 for item in value):
        raise ValueError("a list of numbers of regions")
    return value


ACTIONS: dict[str, dict[str, Callable[[object], Any]]] = {
    "again": {"token": _text, "names": _text},
    "select": {"token": _text, "x": _share, "y": _share, "whole": _switch, "selection": _regions},
    "remember": {"token": _text, "selection": _regions, "name": _text},
    "forget": {"token": _text, "name": _text},
}
"""Method of DemoSession -> its arguments, in order, as the page sends them."""


def app(demo: DemoSession, hosts: Iterable[str]) -> ASGIApp:
    """The page over `demo`, for browsers that call it by an address or by one of the names `hosts`."""
    uploads, worker = asyncio.Semaphore(UPLOADS), ThreadPoolExecutor(1)  # each thread would keep a heap of its own

    async def page(_: Request) -> Response:
        return HTMLResponse((files("kc.serve") / "page.html").read_text(encoding="utf-8"))

    async def answered(job: Callable[..., dict[str, Any]], *arguments: Any) -> Response:
        return JSONResponse(await asyncio.get_running_loop().run_in_executor(worker, job, *arguments))

    async def facts(_: Request) -> Response:
        return await answered(demo.facts)

    async def look(request: Request) -> Response:
        async with uploads:
            data = await _body(request, MAX_BYTES)
            return await answered(demo.look, data, _checked("names", request.query_params.get("names", ""), _text))

    async def act(request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        async with uploads:
            given = parse_json(await _body(request, SMALL), "this request", error=KcError)
            found = given if isinstance(given, dict) else {}
            values = [_checked(field, found.get(field), kind) for field, kind in ACTIONS[name].items()]
            return await answered(getattr(demo, name), *values)

    routes = [Route("/", page), Route("/api/facts", facts), Route("/api/look", look, methods=["POST"])]
    routes += [Route(f"/api/{name}", act, methods=["POST"]) for name in ACTIONS]
    failures = dict.fromkeys((HTTPException, ClientDisconnect, KcError, Exception), _refusal)
    return Shield(Starlette(routes=routes, exception_handlers=failures), hosts)


class Shield:
    """Puts HEADERS on every answer, and lets through only what comes from the page itself.

    A page of another origin cannot send MARK. One whose name was bound to this computer's address (DNS rebinding) can,
    and is recognised by that name: an address, and a name of our own, cannot be bound to by someone else.
    """

    def __init__(self, inner: ASGIApp, hosts: Iterable[str]) -> None:
        self.inner, self.hosts = inner, {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As of ASGI."""

        async def shielded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        said = self._refused(Headers(scope=scope), scope["path"]) if scope["type"] == "http" else None
        await (said or self.inner)(scope, receive, shielded)

    def _refused(self, headers: Headers, path: str) -> Response | None:
        for called in (f"//{headers.get('host', '')}", headers.get("origin", "//localhost")):
            if not self._is_ours(called):
                return _error(400, f"{called[:80]!r} is no name of this server: open it by its address")
        if path.startswith("/api/") and MARK not in headers:
            return _error(403, "this request does not come from the page")
        return None

    def _is_ours(self, url: str) -> bool:
        try:
            host = urlsplit(url).hostname or ""
            return host in self.hosts or bool(ipaddress.ip_address(host))
        except ValueError:
            return False


class Hurried(H11Protocol):
    """Ends a connection whose first request does not begin within SECONDS."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As of asyncio."""
        super().connection_made(transport)
        self.loop.call_later(SECONDS, self._close_silent)

    def _close_silent(self) -> None:
        if not bool(self.cycle):
            self.transport.close()


def _refusal(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return _error(error.status_code, error.detail)
    if isinstance(error, KcError | ClientDisconnect):
        return _error(400, str(error))
    return _error(500, "the server failed: its log says why")


def _error(status: int, text: str) -> Response:
    """One JSON value; what is left of the request is not waited for."""
    said = {"error": text.encode("utf-8", "backslashreplace").decode()}
    return JSONResponse(said, status_code=status, headers={"Connection": "close"})


def _checked(name: str, value: object, kind: Callable[[object], Any]) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        raise KcError(f"{name}: expected {error}") from error


async def _body(request: Request, most: int) -> bytes:
    """The body, never more than `most` bytes of it in RAM. HTTPException where it is larger, or too slow."""
    too_large = HTTPException(413, f"more than {most / 2**20:g} MiB: choose a smaller picture")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise too_large
    except TimeoutError as error:
        raise HTTPException(408, f"the request was not whole after {SECONDS:g} s") from error
    return bytes(body)

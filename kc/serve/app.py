"""The web side of the page: a few requests, all checked, none of which names a file."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from kc.errors import KcError
from kc.serve.demo import MAX_BYTES, DemoSession

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
MARK = "x-kc"
"""Header that the page sends with every request: a page of another origin may not."""
SMALL = 1 << 20
"""Bytes of a request that is no picture."""

ACTIONS: dict[str, dict[str, type]] = {
    "again": {"token": str, "names": str},
    "select": {"token": str, "x": float, "y": float, "whole": bool, "selection": list},
    "teach": {"token": str, "selection": list, "name": str},
    "forget": {"token": str, "name": str},
}
"""Method of DemoSession -> its arguments, in order, as the page sends them."""

Answering = Callable[[Request], Awaitable[Response]]


def app(demo: DemoSession, hosts: list[str]) -> Starlette:
    """The page over `demo`, for browsers that call it by one of `hosts` (names without a port)."""

    async def page(_: Request) -> Response:
        text = (files("kc.serve") / "page.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers=HEADERS)

    async def facts(_: Request) -> Response:
        return await _answer(demo.facts)

    async def look(request: Request) -> Response:
        names = request.query_params.get("names", "")
        data = await _body(request, MAX_BYTES)
        return await _answer(demo.look, data, names)

    async def act(request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        values = await _values(request, **ACTIONS[name])
        return await _answer(getattr(demo, name), *values.values())

    routes = [Route("/", page), Route("/api/facts", _guarded(facts))]
    routes += [Route("/api/look", _guarded(look), methods=["POST"])]
    routes += [Route(f"/api/{name}", _guarded(act), methods=["POST"]) for name in ACTIONS]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)])


class _Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def _guarded(function: Answering) -> Answering:
    async def answer(request: Request) -> Response:
        try:
            if MARK not in request.headers:
                raise _Refused(403, "this request does not come from the page")
            return await function(request)
        except _Refused as refused:
            return JSONResponse({"error": str(refused)}, status_code=refused.status, headers=HEADERS)

    return answer


async def _answer(job: Callable[..., dict[str, Any]], *arguments: Any) -> Response:
    try:
        result = await run_in_threadpool(job, *arguments)
    except KcError as error:
        raise _Refused(400, str(error)) from error
    return JSONResponse(result, headers=HEADERS)


async def _body(request: Request, most: int) -> bytes:
    """The body, never more than `most` bytes of it in RAM."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise _Refused(413, f"more than {most // 2**20} MiB: choose a smaller picture")
        parts.append(part)
    return b"".join(parts)


async def _values(request: Request, **wanted: type) -> dict[str, Any]:
    try:
        values = json.loads(await _body(request, SMALL))
        found = {name: values[name] for name in wanted}
        for name, kind in wanted.items():
            if kind is float and isinstance(found[name], int) and not isinstance(found[name], bool):
                found[name] = float(found[name])
            if not isinstance(found[name], kind):
                raise TypeError(name)
            if kind is float and not 0 <= found[name] <= 1:
                raise ValueError(name)
            if kind is list and not all(type(item) is int for item in found[name]):
                raise TypeError(name)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Refused(400, "this request is not one of the page's") from error
    return found

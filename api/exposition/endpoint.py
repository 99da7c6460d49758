"""`/metrics` over HTTP: which format, compressed or not, and one page for all who ask between two ticks.

A page is made when it is asked for and something new is stored, or the last one is a second old; who asks meanwhile waits
for the same one. It is made on a worker thread from what the memory store holds: nobody waits for the sampler, nor it for us.
"""

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tidegauge.api.exposition.page import Renderer
from tidegauge.pipeline.latest import KeepsLatest
from tidegauge.pipeline.telemetry import Family, render

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_OPENMETRICS_VERSIONS = ("", "0.0.1", "1.0.0")
_FRESH_S = 1.0
_CHUNK_BYTES = 256 << 10
_LEVEL = 1
"""Of compression. Level 6 takes twice as long for two thirds of the size (`python -m bench --only exposition`)."""


class View(Protocol):
    """What of the running server is on the page. Safe from any thread."""

    def latest(self) -> KeepsLatest | None:
        """The store of the newest values; None when none runs, or the sampler is silent and what it holds is old."""
        ...

    def families(self) -> list[Family]:
        """The program's own counters."""
        ...


class _Page:
    def __init__(self, key: tuple[int, int], text: bytes) -> None:
        self.key = key
        self.made_s = time.monotonic()
        self.text = text
        self.compressed: bytes | None = None
        self.compressing: asyncio.Task[bytes] | None = None


class Exposition:
    """Answers requests for the page. One event loop."""

    def __init__(
        self, view: View, more: Callable[[], Sequence[Family]], groups: Collection[str], *, has_timestamps: bool
    ) -> None:
        self._view = view
        self._more = more
        self._renderers = {form: Renderer(groups, has_timestamps=has_timestamps) for form in (False, True)}
        self._pages: dict[bool, _Page] = {}
        self._tasks: dict[bool, asyncio.Task[_Page]] = {}
        self.pages_made = 0

    async def answer(self, request: Request) -> Response:
        is_openmetrics = wants_openmetrics(request.headers.get("accept", ""))
        page = await self._page(is_openmetrics)
        body = page.text
        headers = {"Vary": "Accept, Accept-Encoding"}
        if accepts_gzip(request.headers.get("accept-encoding", "")):
            body = await self._compressed(page)
            headers["Content-Encoding"] = "gzip"
        headers["Content-Length"] = str(len(body))
        return StreamingResponse(_chunks(body), headers=headers, media_type=OPENMETRICS if is_openmetrics else TEXT)

    async def _page(self, is_openmetrics: bool) -> _Page:
        page = self._pages.get(is_openmetrics)
        if page is not None and time.monotonic() - page.made_s < _FRESH_S and page.key == _key(self._view.latest()):
            return page
        task = self._tasks.get(is_openmetrics)
        if task is None or task.done():
            task = self._tasks[is_openmetrics] = asyncio.create_task(run_in_threadpool(self._make, is_openmetrics))
        # one who hangs up must not take the page from the others who wait for it
        return await asyncio.shield(task)

    async def _compressed(self, page: _Page) -> bytes:
        if page.compressed is None:
            if page.compressing is None:
                page.compressing = asyncio.create_task(run_in_threadpool(_gzip, page.text))
            page.compressed = await asyncio.shield(page.compressing)
        return page.compressed

    def _make(self, is_openmetrics: bool) -> _Page:
        store = self._view.latest()
        key = _key(store)
        known = None if store is None else store.latest()
        text = self._renderers[is_openmetrics].render(known, time.time(), is_openmetrics=is_openmetrics)
        text += render([*self._view.families(), *self._more()], is_openmetrics)
        if is_openmetrics:
            text += "# EOF\n"
        self.pages_made += 1
        page = self._pages[is_openmetrics] = _Page(key, text.encode())
        return page


def _key(store: KeepsLatest | None) -> tuple[int, int]:
    return (0, 0) if store is None else (id(store), store.generation)


def _gzip(data: bytes) -> bytes:
    squeeze = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
    return squeeze.compress(data) + squeeze.flush()


async def _chunks(body: bytes) -> AsyncIterator[Any]:
    """The body in pieces, so that for one who reads slowly no second copy of it waits in memory."""
    view = memoryview(body)
    for start in range(0, len(view), _CHUNK_BYTES):
        yield view[start : start + _CHUNK_BYTES]


def wants_openmetrics(accept: str) -> bool:
    """Whether the header prefers OpenMetrics, in a version that we write, to the text format. Pure."""
    best = {"openmetrics": 0.0, "text": 0.0}
    for kind, parameters, quality in _parsed(accept):
        if kind == "application/openmetrics-text" and parameters.get("version", "") in _OPENMETRICS_VERSIONS:
            best["openmetrics"] = max(best["openmetrics"], quality)
        elif kind in ("text/plain", "text/*", "*/*"):
            best["text"] = max(best["text"], quality)
    return best["openmetrics"] > 0 and best["openmetrics"] >= best["text"]


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether the header takes gzip. Pure."""
    found = {coding: quality for coding, _, quality in _parsed(accept_encoding)}
    return found.get("gzip", found.get("*", 0.0)) > 0


def _parsed(header: str) -> list[tuple[str, dict[str, str], float]]:
    """(name, parameters, quality) of each member of a header such as Accept; a quality that is none counts as 0."""
    out = []
    for member in header.split(","):
        name, *rest = (part.strip().lower() for part in member.split(";"))
        parameters = {k.strip(): v.strip().strip('"') for k, sep, v in (part.partition("=") for part in rest) if sep}
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 0.0
        if name:
            out.append((name, parameters, quality if 0 <= quality <= 1 else 0.0))
    return out

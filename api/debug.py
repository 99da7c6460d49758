"""`/debug/`: stacks, profile and memory of both processes, where `http.debug` is on, for who is trusted alone.

The sampler answers for itself when it is asked; if it does not, its part says why and the server's is there all the same.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tidegauge.api.guard import UNTRUSTED, go_on, is_trusted, without_time_limit
from tidegauge.api.processes import STATUS, Ask
from tidegauge.pipeline import introspection
from tidegauge.pipeline.errors import RequestError

TIMEOUT_S = 10.0
_DEFAULT_PROFILE_S = 10.0


def routes(ask: Ask) -> list[Route]:
    """The routes; `ask` is that of the running server."""

    def page(kind: str, own: Callable[[Mapping[str, Any], int], str], *, is_profile: bool) -> Route:
        async def answer(request: Request) -> Response:
            if not is_trusted(request.scope):
                return PlainTextResponse(f"Debug: {UNTRUSTED}\n", 403)
            seconds = _seconds(request.query_params.get("seconds")) if is_profile else 0.0
            if seconds is None or request.query_params.keys() - ({"seconds"} if is_profile else set()):
                return PlainTextResponse(
                    f"Expected seconds=, more than 0 and at most {introspection.MAX_PROFILE_S:g}.\n"
                    if is_profile
                    else "Expected no parameter.\n",
                    400,
                )
            if is_profile:
                without_time_limit(request.scope)
                go_on(request.scope, seconds + 2 * TIMEOUT_S)
            arguments = {"seconds": seconds} if is_profile else {}
            timeout_s = seconds + TIMEOUT_S
            deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)
            here = run_in_threadpool(own, arguments, deadline_ns)
            there = run_in_threadpool(ask, kind, arguments, timeout_s)
            answers = await asyncio.gather(here, there, return_exceptions=True)
            return _both(*answers, is_profile=is_profile)

        return Route(f"/debug/{kind.removeprefix('debug_')}", answer)

    return [page(kind, own, is_profile=kind == "debug_profile") for kind, own in introspection.HANDLERS.items()]


def _seconds(text: str | None) -> float | None:
    """None for what is no number of seconds within the bounds."""
    try:
        seconds = _DEFAULT_PROFILE_S if text is None else float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and 0 < seconds <= introspection.MAX_PROFILE_S else None


def _both(server: Any, sampler: Any, *, is_profile: bool) -> Response:
    """One page of both parts. The server's own failure is the answer's; a sampler that does not answer is told in its place."""
    if isinstance(server, RequestError):
        return PlainTextResponse(f"{server}\n", STATUS[server.reason])
    if isinstance(server, BaseException):
        raise server
    if isinstance(sampler, BaseException) and not isinstance(sampler, RequestError):
        raise sampler
    if is_profile:
        if isinstance(sampler, RequestError):
            sampler = f"{str(sampler).replace(';', ',')} 1\n"
        lines = [f"{name};{line}\n" for name, part in (("server", server), ("sampler", sampler)) for line in part.splitlines()]
        return PlainTextResponse("".join(lines))
    told = f"{sampler}\n" if isinstance(sampler, RequestError) else sampler
    return PlainTextResponse(f"== server\n\n{server}\n== sampler\n\n{told}")

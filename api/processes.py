"""`/api/v1/processes`: the processes of a container, read by the sampler when it is asked for.

Command lines can hold secrets: they are for the Unix socket, whose file has rights, and for who has a credential.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tidegauge.api.guard import UNTRUSTED, is_trusted
from tidegauge.pipeline.errors import Reason, RequestError
from tidegauge.pipeline.records import Container

TIMEOUT_S = 8.0
"""Shorter than a client waits."""
MIN_ID_LENGTH = 4
STATUS: Mapping[Reason, int] = {
    Reason.REFUSED: 400,
    Reason.NOT_FOUND: 404,
    Reason.BUSY: 503,
    Reason.NOT_RUNNING: 503,
    Reason.TIMED_OUT: 504,
    Reason.TOO_LARGE: 507,
    Reason.FAILED: 500,
}
"""How a request to the sampler that was not answered looks over HTTP."""

Ask: TypeAlias = Callable[[str, Mapping[str, Any], float], Any]
Containers: TypeAlias = Callable[[], list[Container] | None]
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def route(ask: Ask, containers: Containers) -> Route:
    """The route; `ask` and `containers` are those of the running server."""

    def answer(word: str, is_recursive: bool) -> dict[str, Any]:
        path = word if word.startswith("/") else resolve(containers(), word)
        listed: dict[str, Any] = ask("processes", {"path": path, "recursive": is_recursive}, TIMEOUT_S)
        return listed

    async def processes(request: Request) -> Response:
        if not is_trusted(request.scope):
            return PlainTextResponse(f"Processes: {UNTRUSTED}\n", 403)
        unknown = request.query_params.keys() - {"path", "recursive"}
        word = request.query_params.get("path", "")
        is_recursive = _BOOLEANS.get(request.query_params.get("recursive", "false"))
        if unknown or not word or is_recursive is None:
            return PlainTextResponse("Expected path=CONTAINER, and recursive=true or false.\n", 400)
        try:
            return Response(
                msgspec.json.encode(await run_in_threadpool(answer, word, is_recursive)), media_type="application/json"
            )
        except RequestError as exc:
            return PlainTextResponse(f"{exc}\n", STATUS[exc.reason])

    return Route("/api/v1/processes", processes)


def resolve(containers: Sequence[Container] | None, word: str) -> str:
    """Path of the container with this name, alias, or beginning of its id. RequestError if there is none, or are several.

    A name counts before an id. Of cgroups within one container, which share its id, the outermost is meant.
    """
    if containers is None:
        raise RequestError("names are known while the sink memory runs; expected a path, such as /docker/0123", Reason.REFUSED)
    named = {c.path for c in containers if word == c.name or word in c.aliases}
    if not named and len(word) >= MIN_ID_LENGTH:
        named = {c.path for c in containers if c.container_id is not None and c.container_id.startswith(word)}
    outermost = sorted(p for p in named if not any(p.startswith(f"{other}/") for other in named))
    if not outermost:
        raise RequestError(f"there is no container {word!r}", Reason.NOT_FOUND)
    if len(outermost) > 1:
        shown = ", ".join(outermost[:5]) + (" ..." if len(outermost) > 5 else "")
        raise RequestError(f"{word!r} can mean {len(outermost)} containers: {shown}", Reason.REFUSED)
    return outermost[0]

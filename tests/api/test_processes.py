"""The endpoint of process lists: who may ask, whom a word means, and what each refusal looks like."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette
from tests.collectors.cgroup_truth import container

from tidegauge.api.guard import IS_LOCAL_SOCKET, UNTRUSTED
from tidegauge.api.processes import STATUS, resolve, route
from tidegauge.pipeline.errors import Reason, RequestError
from tidegauge.pipeline.records import Container

ID = "ab12cd34" * 8


def named(path: str, **fields: Any) -> Container:
    return msgspec.structs.replace(container(path), **fields)


KNOWN = [
    container("/"),
    named("/docker/x", name="web", aliases=("web-1", "frontend"), container_id=ID),
    named("/docker/x/init", name=None, container_id=ID),
    named("/docker/y", name="db", container_id="ab99" * 16),
    named("/podman/z", name="ab12cd34", container_id="ff00" * 16),
    named("/twice/1", name="twin"),
    named("/twice/2", name="twin"),
]


class Running:
    """Stands for the server: notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Mapping[str, Any], float]] = []
        self.error: RequestError | None = None
        self.known: list[Container] | None = KNOWN

    def ask(self, kind: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        self.asked.append((kind, arguments, timeout_s))
        if self.error is not None:
            raise self.error
        return {"path": arguments["path"], "processes": []}

    def get(self, query: str, *, is_local: bool = True, method: str = "GET") -> tuple[int, str]:
        app = Starlette(routes=[route(self.ask, lambda: self.known)])
        scope = {
            "type": "http",
            "method": method,
            "path": "/api/v1/processes",
            "query_string": query.encode(),
            "headers": [],
            "state": {IS_LOCAL_SOCKET: is_local},
        }
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(app(scope, receive, send))
        return sent[0]["status"], b"".join(m.get("body", b"") for m in sent[1:]).decode()


@pytest.fixture
def running() -> Running:
    return Running()


def test_only_over_the_unix_socket_or_with_a_credential(running: Running) -> None:
    assert running.get("path=/docker/x", is_local=False) == (403, f"Processes: {UNTRUSTED}\n")
    assert running.asked == []


def test_what_is_asked_of_the_sampler(running: Running) -> None:
    status, text = running.get("path=/docker/x")
    assert (status, json.loads(text)) == (200, {"path": "/docker/x", "processes": []})
    running.get("path=frontend&recursive=true")
    asked = [(kind, arguments) for kind, arguments, _ in running.asked]
    assert asked == [
        ("processes", {"path": "/docker/x", "recursive": False}),
        ("processes", {"path": "/docker/x", "recursive": True}),
    ]


@pytest.mark.parametrize("query", ["", "path=", "path=/a&recursive=maybe", "path=/a&sort=cpu"])
def test_a_query_that_is_none(running: Running, query: str) -> None:
    assert running.get(query)[0] == 400
    assert running.asked == []


def test_nothing_is_changed_by_it(running: Running) -> None:
    assert running.get("path=/a", method="POST")[0] == 405


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_status_and_its_words(running: Running, reason: Reason) -> None:
    running.error = RequestError("these words", reason)
    assert running.get("path=/a") == (STATUS[reason], "these words\n")


@pytest.mark.parametrize(
    ("word", "path"),
    [
        ("web", "/docker/x"),
        ("web-1", "/docker/x"),
        ("ab12", "/docker/x"),
        (ID, "/docker/x"),
        ("ab99", "/docker/y"),
        ("ab12cd34", "/podman/z"),  # a name counts before an id
    ],
)
def test_whom_a_word_means(word: str, path: str) -> None:
    assert resolve(KNOWN, word) == path


def test_words_that_mean_nobody_or_several() -> None:
    for word, reason, text in (
        ("nobody", Reason.NOT_FOUND, "there is no container 'nobody'"),
        ("ff", Reason.NOT_FOUND, "there is no container 'ff'"),  # too short for an id
        ("twin", Reason.REFUSED, "'twin' can mean 2 containers: /twice/1, /twice/2"),
    ):
        with pytest.raises(RequestError) as caught:
            resolve(KNOWN, word)
        assert (caught.value.reason, str(caught.value)) == (reason, text)


def test_names_need_the_sink_that_knows_them(running: Running) -> None:
    running.known = None
    status, text = running.get("path=web")
    assert (status, text.startswith("names are known while the sink memory runs")) == (400, True)
    assert running.get("path=/docker/x")[0] == 200

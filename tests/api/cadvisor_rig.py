"""cAdvisor's API over a memory sink, asked without a socket, and the comparison of an answer with a recorded one."""

import asyncio
import fnmatch
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from starlette.applications import Starlette

from tidegauge.api.cadvisor.routes import CadvisorApi
from tidegauge.api.events import EventPages
from tidegauge.api.guard import IS_LOCAL_SOCKET
from tidegauge.pipeline.event_store import EventStore
from tidegauge.pipeline.plugin import PointReader
from tidegauge.pipeline.records import Container, Record, Sample, Schema
from tidegauge.pipeline.testing import START_MS, make_batch
from tidegauge.sinks.memory import MemoryConfig, MemorySink


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode().rstrip("\n")


class Api:
    """The application with stores of its own; `write` feeds them."""

    def __init__(self, *, is_strict: bool = False, host: str = "host-a") -> None:
        self.sink: MemorySink | None = MemorySink(MemoryConfig(storage_duration_s=1e9))
        self.sink.events._now_ms = lambda: START_MS + 60_000
        self.older: PointReader | None = None
        self.processes: Any = None
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self._row = 1
        self._app = Starlette(routes=[CadvisorApi(self, EventPages(self.events), host, is_strict).route()])

    def samples(self) -> MemorySink | None:
        return self.sink

    def history(self) -> PointReader | None:
        return self.older

    def events(self) -> EventStore | None:
        return None if self.sink is None else self.sink.events

    def ask(self, kind: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        self.asked.append((kind, arguments))
        if isinstance(self.processes, Exception):
            raise self.processes
        return self.processes

    def write(self, *records: Record) -> None:
        assert self.sink is not None
        self.sink.write(records)

    def add(self, samples: Sequence[Sample], containers: Sequence[Container], schema: Schema) -> None:
        """Container records and a batch of their samples."""
        assert self.sink is not None
        self.sink.write([*containers, make_batch(samples, containers, (schema,), self._row)])
        self._row += len(samples)

    def get(self, target: str, method: str = "GET", body: bytes = b"", *, is_local: bool = True) -> Answer:
        parts = urlsplit(target) if not target.startswith("//") else urlsplit(f"http://host{target}")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(parts.path),
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 4194),
            "state": {IS_LOCAL_SOCKET: is_local},
        }
        sent: list[Any] = []
        inbox = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if inbox:
                return inbox.pop()
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self._app(scope, receive, send))
        headers = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        return Answer(sent[0]["status"], headers, b"".join(m.get("body", b"") for m in sent[1:]))


class Difference(NamedTuple):
    place: str
    """`stats[].cpu.psi`; `{}` stands for any key of an object that is a map."""
    kind: str
    """`missing`, `extra`, `type`, `value` or `length`."""
    theirs: Any
    ours: Any


_MAPS = ("labels", "envs", "disk_map")
"""Objects whose keys are no names of fields."""


def compare(theirs: Any, ours: Any, place: str = "", *, exactly: bool = False) -> Iterator[Difference]:
    """Names and types of a recorded answer against ours; values only where `exactly`. Lists by their elements in order."""
    if place.endswith(_MAPS) and not exactly and isinstance(theirs, dict) and isinstance(ours, dict):
        for own in ours.values() if theirs else ():
            yield from compare(next(iter(theirs.values())), own, f"{place}.{{}}")
    elif isinstance(theirs, dict) and isinstance(ours, dict):
        for key in theirs.keys() - ours.keys():
            yield Difference(_at(place, key), "missing", theirs[key], None)
        for key in ours.keys() - theirs.keys():
            yield Difference(_at(place, key), "extra", None, ours[key])
        for key in theirs.keys() & ours.keys():
            yield from compare(theirs[key], ours[key], _at(place, key), exactly=exactly)
    elif isinstance(theirs, list) and isinstance(ours, list):
        if exactly and len(theirs) != len(ours):
            yield Difference(place, "length", len(theirs), len(ours))
        for one, other in zip(theirs, ours, strict=False):
            yield from compare(one, other, f"{place}[]", exactly=exactly)
    elif _type(theirs) != _type(ours):
        yield Difference(place, "type", theirs, ours)
    elif exactly and theirs != ours:
        yield Difference(place, "value", theirs, ours)


def _at(place: str, key: str) -> str:
    key = "{}" if key.startswith("/") else key
    return f"{place}.{key}" if place else key


def _type(value: Any) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


class Intended(NamedTuple):
    place: str
    kind: str
    reason: str


def intended() -> list[Intended]:
    """What may differ, from the table beside this file: place (a shell pattern), kind, reason."""
    lines = (Path(__file__).parent / "cadvisor_differences.tsv").read_text().splitlines()
    return [Intended(*line.split("\t")) for line in lines if line and not line.startswith("#")]


def unlisted(differences: Iterator[Difference]) -> list[Difference]:
    """Those that no line of the table allows."""
    table, found = intended(), []
    for difference in differences:
        place = difference.place.replace("[]", "")
        if not any(i.kind == difference.kind and fnmatch.fnmatchcase(place, i.place) for i in table):
            found.append(difference)
    return found

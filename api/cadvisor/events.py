"""cAdvisor's four types of events, asked and followed. Source: cAdvisor events/handler.go, info/v1/container.go.

cAdvisor's HEAD names the container that was killed in `oom`, and the one whose limit was hit in `oomKill`. Here `oom` is the
one whose limit was hit, and `oomKill` where the process was killed, as the words say; with `compat = "strict"` as there.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import UNSET

from tidegauge.api.cadvisor import shapes as s
from tidegauge.api.cadvisor.errors import ApiError, Status
from tidegauge.api.cadvisor.reading import go_time
from tidegauge.api.cadvisor.request import flag, number, parse_time
from tidegauge.api.cadvisor.series import encode
from tidegauge.pipeline.event_store import EventQuery, EventStore, StoredEvent, Subscription

_FLAGS = {
    "oom_events": "oom",
    "oom_kill_events": "oomKill",
    "creation_events": "containerCreation",
    "deletion_events": "containerDeletion",
}
_KINDS = {"oom": "oom", "oomKill": "oom_kill", "containerCreation": "creation", "containerDeletion": "deletion"}
_STRICT_KINDS = {**_KINDS, "oom": "oom_kill", "oomKill": "oom"}
DEFAULT_LIMIT = 10


def kinds(is_strict: bool) -> Mapping[str, str]:
    """Our word for each of cAdvisor's types."""
    return _STRICT_KINDS if is_strict else _KINDS


def query_of(params: Mapping[str, str], container: str, is_strict: bool) -> tuple[EventQuery, bool]:
    """The query, and whether it is for a stream. What does not parse is ignored. ApiError: a stream with times."""
    chosen = frozenset(
        kinds(is_strict)[type_] for name, type_ in _FLAGS.items() if flag(params, name) or flag(params, "all_events")
    )
    start_ms, end_ms = parse_time(params.get("start_time", ""), True), parse_time(params.get("end_time", ""), False)
    is_stream = flag(params, "stream")
    if is_stream and (start_ms is not None or end_ms is not None):
        raise ApiError("for a call to watch, request.StartTime and request.EndTime must be uninitialized", Status.BAD_REQUEST)
    limit = number(params, "max_events", DEFAULT_LIMIT)
    query = EventQuery(start_ms, end_ms, chosen, container, flag(params, "subcontainers"), limit if limit > 0 else None)
    return query, is_stream


def found(store: EventStore, query: EventQuery, host: str, is_strict: bool) -> bytes:
    """A JSON list, oldest first. cAdvisor's limit (`is_strict`) is on each type of all containers, before they are chosen."""
    if is_strict:
        stored: list[StoredEvent] = []
        for kind in query.kinds or ():
            of_kind = EventQuery(query.start_ms, query.end_ms, frozenset({kind}), limit=query.limit)
            stored += [e for e in store.find(of_kind) if _is_below(e.path, query)]
        stored.sort(key=lambda e: (e.event.ts_ms, e.event.row))
    else:
        unbounded = EventQuery(query.start_ms, query.end_ms, query.kinds, query.path, query.subcontainers)
        stored = [e for e in store.find(unbounded) if e.host in (None, host)]
        stored = stored if query.limit is None else stored[-query.limit :]
    return encode([shape(e, is_strict) for e in stored if e.host in (None, host)])


def _is_below(path: str, query: EventQuery) -> bool:
    return path == query.path or (query.subcontainers and path.startswith(query.path))


def lines(subscription: Subscription, host: str, is_strict: bool) -> bytes:
    """What waits for a reader, a line each; an empty line if nothing does. Of what was missed nothing is said, as there."""
    _, taken = subscription.take()
    return b"".join(encode(shape(e, is_strict)) + b"\n" for e in taken if e.host in (None, host)) or b"\n"


def shape(stored: StoredEvent, is_strict: bool) -> s.EventInfo:
    event = stored.event
    type_ = next(t for t, kind in kinds(is_strict).items() if kind == event.kind)
    return s.EventInfo(
        container_name=stored.path, timestamp=go_time(event.ts_ms), event_type=type_, event_data=_data(type_, event.details)
    )


def _data(type_: str, details: Mapping[str, Any]) -> s.EventData:
    if type_ == "oomKill":
        return s.EventData(
            oom=s.OomKillData(
                pid=int(details.get("pid") or 0),
                process_name=str(details.get("process") or ""),
                constraint=str(details.get("constraint") or ""),
            )
        )
    if type_ == "containerDeletion":
        code = details.get("exit_code")
        return s.EventData(container_deletion=s.DeletionData(exit_code=-1 if code is None else int(code)))
    return s.EventData(oom=UNSET)

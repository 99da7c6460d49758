"""What happened to containers, as cAdvisor tells it. Source: cAdvisor info/v1/container.go."""

from collections.abc import Collection
from datetime import datetime
from typing import Literal

import msgspec

from tidegauge.client.decoding import ZERO_TIME, Model, decode

EventType = Literal["oom", "oomKill", "containerCreation", "containerDeletion"]
_FLAGS: dict[EventType, str] = {
    "oom": "oom_events",
    "oomKill": "oom_kill_events",
    "containerCreation": "creation_events",
    "containerDeletion": "deletion_events",
}


class OomKillData(Model, frozen=True):
    pid: int = 0
    process_name: str = ""
    constraint: str = ""


class DeletionData(Model, frozen=True):
    """-1: the exit code is not known."""

    exit_code: int = -1


class EventData(Model, frozen=True):
    """`oom` comes with an event of the type oomKill, `container_deletion` with containerDeletion (not from cAdvisor 0.35)."""

    oom: OomKillData | None = None
    container_deletion: DeletionData | None = None


class Event(Model, frozen=True):
    container_name: str = ""
    timestamp: datetime = ZERO_TIME
    event_type: str = ""
    event_data: EventData = EventData()


class EventQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events. `types` None: all four; `max_events` None: all that are kept, and of no meaning for a stream.

    cAdvisor counts `max_events` before it looks at the container: there a small number can leave out what was asked for.
    """

    types: Collection[EventType] | None = None
    subcontainers: bool = True
    max_events: int | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None

    def parameters(self, is_stream: bool = False) -> dict[str, str]:
        """Of the URL. ValueError for a time without a zone, an unknown type, or a stream with times."""
        out = {"stream": "true"} if is_stream else {"max_events": str(-1 if self.max_events is None else self.max_events)}
        if self.types is None:
            out["all_events"] = "true"
        else:
            for type_ in self.types:
                if type_ not in _FLAGS:
                    raise ValueError(f"types: expected some of {', '.join(_FLAGS)}, got {type_!r}")
                out[_FLAGS[type_]] = "true"
        if self.subcontainers:
            out["subcontainers"] = "true"
        for name, time in (("start_time", self.start_time), ("end_time", self.end_time)):
            if time is not None:
                if is_stream:
                    raise ValueError(f"{name}: a stream has what comes from now on")
                out[name] = time_text(time, name)
        return out


def time_text(time: datetime, name: str) -> str:
    """RFC 3339. ValueError for a time without a zone."""
    if time.tzinfo is None:
        raise ValueError(f"{name}: expected a time with its zone, such as datetime.now(UTC)")
    return time.isoformat()


def decode_event(line: bytes, url: str) -> Event:
    return decode(line, Event, url)

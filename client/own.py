"""What only tidegauge answers: its state, processes, and events with all that it knows of them."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

import msgspec

from tidegauge.client.decoding import Model, decode


class LogStatus(Model, frozen=True):
    """Of the journal: row numbers, and how many rows were accepted."""

    appended_row: int = 0
    synced_row: int = 0
    accepted: int = 0


class SinkStatus(Model, frozen=True):
    """accepted = written + filtered + dead_letter + pending + all of dropped, in rows. `lag_s` None: nothing waits."""

    state: str = ""
    accepted: int = 0
    written: int = 0
    filtered: int = 0
    dropped: dict[str, int] = {}
    dead_letter: int = 0
    pending: int = 0
    lag_s: float | None = None
    last_error: str | None = None


class Status(Model, frozen=True):
    """State of every part. `faults` is empty when all is well; `sampler` has that process's own counters."""

    version: str = ""
    host: str = ""
    state_dir: str = ""
    source: str | None = None
    pid: int = 0
    uptime_s: float = 0.0
    faults: tuple[str, ...] = ()
    containers: int = 0
    log: LogStatus | None = None
    sampler: dict[str, Any] = {}
    sinks: dict[str, SinkStatus] = {}


class Process(Model, frozen=True):
    """A process; None is what could not be read. Times in ms UTC or ns, sizes in bytes, `cpu_percent` of one CPU."""

    pid: int = 0
    parent_pid: int = 0
    user: str | None = None
    uid: int | None = None
    status: str = ""
    command: str = ""
    command_line: tuple[str, ...] | None = None
    cgroup: str | None = None
    start_ms: int | None = None
    cpu_ns: int = 0
    cpu_percent: float | None = None
    memory_percent: float | None = None
    rss_bytes: int = 0
    virtual_bytes: int = 0
    threads: int | None = None
    processor: int | None = None
    descriptors: int | None = None


class Processes(Model, frozen=True):
    """Those of a container at `ts_ms`. `skipped` members ended or moved meanwhile, or may not be seen."""

    ts_ms: int = 0
    path: str = ""
    processes: tuple[Process, ...] = ()
    skipped: int = 0


class RecordedEvent(Model, frozen=True):
    """An event with its container as far as it is known. What is in `details` depends on `kind`."""

    ts_ms: int = 0
    kind: str = ""
    path: str = ""
    instance: str | None = None
    host: str | None = None
    name: str | None = None
    namespace: str | None = None
    image: str | None = None
    details: dict[str, Any] = {}


class Missed(Model, frozen=True):
    """So many events were left out of the stream before those that follow, for they were not taken in time."""

    missed: int


class RecordedEventQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events. `kinds` None: all; `limit` None: all that are kept, and of no meaning for a stream."""

    kinds: Collection[str] | None = None
    path: str = "/"
    subcontainers: bool = True
    limit: int | None = None
    start: datetime | None = None
    end: datetime | None = None

    def parameters(self, is_stream: bool = False) -> dict[str, str]:
        """Of the URL. ValueError for a time without a zone."""
        out = {"path": self.path, "subcontainers": "true" if self.subcontainers else "false"}
        out |= {"stream": "true"} if is_stream else {"limit": str(self.limit or 0)}
        if self.kinds is not None:
            out["kind"] = ",".join(self.kinds)
        for name, time in (("start", self.start), ("end", self.end)):
            if time is not None:
                if time.tzinfo is None:
                    raise ValueError(f"{name}: expected a time with its zone, such as datetime.now(UTC)")
                out[name] = str(round(time.timestamp() * 1000))
        return out


def decode_recorded(line: bytes, url: str) -> RecordedEvent | Missed:
    """A line of the stream."""
    if line.startswith(b'{"missed":'):
        return decode(line, Missed, url)
    return decode(line, RecordedEvent, url)

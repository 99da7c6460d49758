"""Copies what a store holds into a sink: the store's records in the form of a log, read by the same runner as any log.

So a copy has a runner's retries, dead letters and account, goes on where it was interrupted, and may be repeated: the rows of
this log are numbered by their times, and sinks are idempotent.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import msgspec

from tidegauge.pipeline.account import Account
from tidegauge.pipeline.errors import ConfigError
from tidegauge.pipeline.history import StoreError
from tidegauge.pipeline.journal import Frame, Position
from tidegauge.pipeline.log_end import LogEnd
from tidegauge.pipeline.options import RunnerOptions
from tidegauge.pipeline.plugin import Sink
from tidegauge.pipeline.records import (
    Container,
    End,
    RecordType,
    Sample,
    Schema,
    WireRecord,
    encode_record,
    encode_samples,
)
from tidegauge.pipeline.sink_runner import SinkRunner

Stored: TypeAlias = WireRecord | Sample

SLICE_MS = 10_000
"""Rows are numbered within slices of time of this length, on a grid that does not depend on what is asked for."""
_SLICE_BITS = 24
_FRAME_SAMPLES = 1000
_LOOK_S = 0.1
_STOP_S = 5.0
_STATE = (RecordType.SCHEMA, RecordType.CONTAINER, RecordType.END)


class Timed(NamedTuple):
    at_ms: int
    """Where it stands among the others; a container stands no later than its first sample, its end behind its last."""
    record: Stored


@runtime_checkable
class RecordSource(Protocol):
    """A store that can give back what it was given. One thread. May raise StoreError."""

    def heads(self, at_ms: int) -> Sequence[Schema | Container]:
        """What is needed to read the records from this time on: every schema, and containers that live, as of then."""
        ...

    def next_ms(self, at_ms: int) -> int | None:
        """Time of the first record at this time or later; None behind the last."""
        ...

    def records(self, from_ms: int, to_ms: int) -> Iterator[Timed]:
        """Records with from_ms <= at_ms < to_ms, by time, always in the same order. The bounds are on the grid of slices."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class KeepsRecords(Protocol):
    """A sink whose store can be copied from."""

    def records(self) -> RecordSource:
        """A source of its own, to be closed; raises StoreError if the store cannot be read."""
        ...


class Taken(NamedTuple):
    rows: int
    """Since the time before."""
    share: float
    """Of all there is, so far; 0 to 1."""


@runtime_checkable
class TakesAlong(Protocol):
    """A sink whose store can take over from another of its kind what is no record, such as roll-ups."""

    agent: str | None
    """Whose numbers the containers bear; to be set before the first record."""

    def take_along(self, source: RecordSource, since_ms: int, until_ms: int) -> Iterator[Taken]:
        """Takes it, for when all records are there, a bit after the other. May be repeated.

        Raises SinkError, StoreError. The sink is closed meanwhile.
        """
        ...


class CopyLog:
    """A span of a store's records as a `log_view.Log`."""

    def __init__(self, source: RecordSource, since_ms: int, until_ms: int, end: LogEnd) -> None:
        """Records with since_ms <= time < until_ms, to whole slices. `end` is kept at how far it was read."""
        self.source = source
        self.since_ms = since_ms // SLICE_MS * SLICE_MS
        self.until_ms = -(-until_ms // SLICE_MS) * SLICE_MS
        self.first = Position(_row_of(self.since_ms) - (1 << _SLICE_BITS), 0)
        """The heads stand in the slice before the first."""
        self.end_row = _row_of(self.until_ms)
        self.end = end
        self.is_exhausted = False
        """Whether the last reader has given everything."""
        self.error: StoreError | None = None
        """Why the store can be read no further."""

    def reader(self, row: int, accepted_before: int | None) -> "CopyReader":
        self.is_exhausted = False
        return CopyReader(self, max(row, self.first.row), accepted_before or 0)

    def first_row(self) -> Position:
        return self.first

    def row_at_time(self, time_ms: int) -> Position:
        return self.first

    def row_within(self, limit_bytes: int, oldest_ms: int) -> Position:
        """Nothing of a copy is too old."""
        return self.first

    def time_of(self, row: int) -> int:
        """The time that a row number stands for, to a slice."""
        return min(max(((row >> _SLICE_BITS) - 1) * SLICE_MS, self.since_ms), self.until_ms)


class CopyReader:
    """Reads a CopyLog from a row on."""

    def __init__(self, log: CopyLog, row: int, accepted_before: int) -> None:
        self._log = log
        self.row = row
        self._accepted = accepted_before
        self._frames = self._all(row)

    @property
    def accepted_before(self) -> int:
        """Rows of the copy before `row`: the numbers have holes, the count has none."""
        return self._accepted

    def read(self, end_row: int, max_bytes: int) -> list[Frame]:
        frames: list[Frame] = []
        size = 0
        while size < max_bytes and not self._log.is_exhausted:
            try:
                frame = next(self._frames, None)
            except StoreError as exc:
                self._log.error = exc
                raise
            if frame is None:
                self._log.is_exhausted = True
                self.row = end_row
                break
            size += len(frame.payload)
            if not frame.is_copy and frame.end_row <= self.row:
                # delivered before; who reads on needs to know it all the same
                if frame.type in _STATE:
                    frames.append(frame._replace(rows=0, is_copy=True))
                continue
            frames.append(frame)
            if not frame.is_copy:
                self._accepted += frame.end_row - max(frame.first_row, self.row)
                self.row = frame.end_row
        # every row that was read is on a disk already: the store's own
        self._log.end.set(self._log.end_row, self._log.end_row, self._accepted)
        return frames

    def close(self) -> None:
        self._frames.close()

    def _all(self, row: int) -> Generator[Frame, None, None]:
        log = self._log
        at_ms = log.time_of(row)
        if row < _row_of(log.since_ms):
            yield from _numbered(log.first.row, (Timed(log.since_ms, r) for r in log.source.heads(log.since_ms)))
        else:
            for head in log.source.heads(at_ms):
                type_, payload = encode_record(head)
                yield Frame(type_, row, 0, at_ms, payload, True)
        while (found_ms := log.source.next_ms(at_ms)) is not None and found_ms < log.until_ms:
            start_ms = found_ms // SLICE_MS * SLICE_MS
            yield from _numbered(_row_of(start_ms), log.source.records(start_ms, start_ms + SLICE_MS))
            at_ms = start_ms + SLICE_MS


def _row_of(ms: int) -> int:
    return (ms // SLICE_MS + 1) << _SLICE_BITS


def _numbered(row: int, records: Iterable[Timed]) -> Iterator[Frame]:
    """Frames of the records of one slice, the first of which has this row."""
    samples: list[Sample] = []
    first_ms = 0
    for at_ms, record in records:
        if isinstance(record, Sample):
            if not samples:
                first_ms = at_ms
            samples.append(record)
            if len(samples) < _FRAME_SAMPLES:
                continue
        if samples:
            yield Frame(RecordType.SAMPLES, row, len(samples), first_ms, encode_samples(samples), False)
            row += len(samples)
            samples = []
        if not isinstance(record, Sample):
            type_, payload = encode_record(record)
            yield Frame(type_, row, 1, at_ms, payload, False)
            row += 1
    if samples:
        yield Frame(RecordType.SAMPLES, row, len(samples), first_ms, encode_samples(samples), False)


def order_of(timed: Timed) -> tuple[int, int]:
    """Sorting key within a slice: by time; at one time containers come first and ends last."""
    record = timed.record
    return timed.at_ms, 0 if isinstance(record, Container) else 2 if isinstance(record, End) else 1


class Job(msgspec.Struct, frozen=True):
    """What a copy under way was asked for; on disk until it is done, so that it goes on with the same span."""

    since_ms: int
    until_ms: int


class Copied(NamedTuple):
    account: Account
    dead_letters: Path | None
    """File of the rows that the sink refused; None if there are none."""
    is_whole: bool
    """False if it was interrupted; the same call goes on."""
    taken_along: int
    """Rows that are no records: roll-ups."""


def copy(
    source: RecordSource,
    name: str,
    sink: Sink,
    options: RunnerOptions,
    folder: Path,
    span: Job,
    progress: Callable[[int], None],
    is_stopping: Callable[[], bool],
    along: Callable[[float], None] = lambda share: None,
) -> Copied:
    """Delivers a span of a store's records to a sink, with its cursor, dead letters and span under `name` in `folder`.

    Goes on where a copy of that name was interrupted, with its span, not with the one given. Returns when all is delivered or
    `is_stopping`; a sink that is down is waited for. `progress` gets the time that the copy has reached, `along` which share of
    what is no record was taken along. StoreError: the store to copy from cannot be read; ConfigError: the sink keeps nothing;
    SinkError: what is no record could not be taken along, and the same call goes on.
    """
    if not getattr(sink, "cursor_lasts", True):
        raise ConfigError(f"copy to {name}: expected a store that lasts, got one that begins anew at each start")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    job_file = folder / f"{name}.job"
    if job_file.exists():
        span = msgspec.json.decode(job_file.read_bytes(), type=Job)
    else:
        for old in (f"{name}.cursor", f"{name}.dead-letters"):
            (folder / old).unlink(missing_ok=True)
        job_file.write_bytes(msgspec.json.encode(span))
    if isinstance(sink, TakesAlong):
        # the source's numbers are not this agent's
        sink.agent = f"copy {name}"
    end = LogEnd()
    log = CopyLog(source, span.since_ms, span.until_ms, end)
    end.set(log.end_row, log.end_row, 0)
    # names stand at the first sample already, and nothing of a copy is beyond a bound
    options = msgspec.structs.replace(options, names_wait_s=0.0, flush_interval_s=0.0, start="beginning")
    runner = SinkRunner(name, sink, options, journal_folder=folder, state_folder=folder, log_end=end, source="", log=log)
    runner.start()
    is_whole = False
    try:
        while not is_whole and not is_stopping():
            time.sleep(_LOOK_S)
            if log.error is not None:
                raise log.error
            progress(log.time_of(runner.needed_row() or 0))
            is_whole = log.is_exhausted and runner.account().pending == 0
    finally:
        runner.stop(_STOP_S)
    account = runner.account()
    if is_whole:
        progress(span.until_ms)
    taken = 0
    if is_whole and isinstance(sink, TakesAlong):
        for rows, share in sink.take_along(source, span.since_ms, span.until_ms):
            taken += rows
            along(share)
            if is_stopping():
                is_whole = False
                break
    letters = folder / f"{name}.dead-letters"
    if is_whole:
        job_file.unlink()
        (folder / f"{name}.cursor").unlink(missing_ok=True)
        if not account.dead_letter:
            letters.unlink(missing_ok=True)
    return Copied(account, letters if account.dead_letter else None, is_whole, taken)

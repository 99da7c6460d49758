"""The step function behind one metric of one container number, and buckets of it: pure functions, no clock, no I/O.

Roll-ups, answers about history and aggregates all use this one definition, so that they agree whatever store they read.

Between two neighbouring readings everything is known, or nothing is: where a gap record overlaps the span, or it is longer than
silence may be, it is unknown as a whole (`rates`). Over a known span

- a gauge holds the value of the reading that begins it. None in an ordinary sample is unknown from then on, until a reading
  with a value; None in a closing sample was not read, and the value before goes on;
- a counter rises evenly from one reading to the next (`rates.rates`): the increase is shared out over the buckets by time, in
  whole units that add up to it. A counter that fell, or either end being None, makes the span unknown.

Nothing is said of the time after the last reading. Another epoch or instance has another number, so nothing is carried over.
A bucket takes in what was read before it and holds in it, and what was read after it and shows how long that held, or how a
counter rose: give readings from two `silence_ms` before the first bucket (a closing sample carries what was read one before
it) to one after the last.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from tidegauge.pipeline.history import Reading, Span
from tidegauge.pipeline.records import Kind, Value
from tidegauge.pipeline.sketch import Sketch

Number = int | float


class State(StrEnum):
    """What is known of a value at a time."""

    UNCHANGED = "unchanged"
    """Proven: a counter that reads the same at both ends of a known span did not move in it."""
    LAST_OBSERVED = "last_observed"
    """A gauge, which can have been another between two readings; a counter somewhere on its way to the next reading."""
    UNKNOWN = "unknown"
    """Not available, a gap, a fallen counter, or too long a silence."""
    GONE = "gone"
    """The container had ended."""


class Step(NamedTuple):
    """From one reading to the next, with the value of the first one, which may have been carried over closing samples."""

    from_ms: int
    to_ms: int
    value: Number
    increase: Number = 0
    """Of a counter; never less than 0."""

    @property
    def per_s(self) -> float:
        """Of a counter: units a second."""
        return self.increase * 1000 / (self.to_ms - self.from_ms)


class StateSpan(NamedTuple):
    from_ms: int
    to_ms: int
    state: State
    value: Value
    """Where the state is UNCHANGED or LAST_OBSERVED, else None."""


class Bucket:
    """What one metric did from `start_ms` until before `end_ms`. None: not known at any time of it."""

    __slots__ = ("count", "covered_ms", "end_ms", "increase", "last", "max", "min", "sketch", "start_ms", "total")

    def __init__(self, start_ms: int, end_ms: int, sketch: Sketch | None = None) -> None:
        self.start_ms = start_ms
        self.end_ms = end_ms
        self.count = 0
        """Readings with a value in it, those of closing samples not counted."""
        self.covered_ms = 0
        """For how much of it the value (of a counter: the rate) is known."""
        self.last: Value = None
        """The newest value known within it, which may have been carried in."""
        self.min: Value = None
        """Of a gauge: of all values that hold in it or are read in it, even where it is not known how long they hold."""
        self.max: Value = None
        self.total: Number = 0
        """Of a gauge: the sum of value times milliseconds."""
        self.increase: Value = None
        """Of a counter."""
        self.sketch = sketch
        """Of a gauge's values, of a counter's rates a second; weights are milliseconds. None unless asked for."""

    @property
    def avg(self) -> float | None:
        """Of a gauge: the mean weighted by time."""
        return self.total / self.covered_ms if self.covered_ms and self.increase is None else None

    @property
    def per_s(self) -> float | None:
        """Of a counter: its rate over the known part."""
        return None if self.increase is None or not self.covered_ms else self.increase * 1000 / self.covered_ms

    def __repr__(self) -> str:
        return f"Bucket({', '.join(f'{name}={getattr(self, name)!r}' for name in sorted(self.__slots__))})"

    def _see(self, value: Number) -> None:
        self.last = value
        if self.min is None or value < self.min:
            self.min = value
        if self.max is None or value > self.max:
            self.max = value


def steps(readings: Iterable[Reading], kind: Kind, gaps: Sequence[Span] = (), silence_ms: int | None = None) -> Iterator[Step]:
    """The known spans of readings in the order of time; of two readings of one time the first counts.

    `gaps` are those of this container and its source, in any order. `silence_ms` (`rates.max_silence_ms`) is the longest span
    that can be known; None: there is no such bound.
    """
    is_counter = kind is Kind.COUNTER
    for from_ms, value, to_ms, after, is_known in _neighbours(readings, gaps, silence_ms):
        if not is_known or value is None:
            continue
        if not is_counter:
            yield Step(from_ms, to_ms, value)
        elif after is not None and after >= value:
            yield Step(from_ms, to_ms, value, after - value)


def _neighbours(
    readings: Iterable[Reading], gaps: Sequence[Span], silence_ms: int | None
) -> Iterator[tuple[int, Value, int, Value, bool]]:
    """(time, value, next time, next value, is known) of each two neighbours; None in closing samples is filled in."""
    own = sorted(gaps)
    at = 0
    before_ms: int | None = None
    before: Value = None
    for ts_ms, is_closing, value in readings:
        if before_ms is None:
            before_ms, before = ts_ms, value
            continue
        if ts_ms <= before_ms:
            continue
        is_known = silence_ms is None or ts_ms - before_ms <= silence_ms
        # as `is_gap_between`, each gap looked at once: there may be as many of them as there are readings
        while at < len(own) and own[at][1] <= before_ms:
            at += 1
        is_known = is_known and (at == len(own) or own[at][0] >= ts_ms)
        if value is None and is_closing and is_known:
            value = before
        yield before_ms, before, ts_ms, value, is_known
        before_ms, before = ts_ms, value


def is_gap_between(from_ms: int, to_ms: int, gaps: Iterable[Span]) -> bool:
    """True if one of the gaps, ordered by beginning, overlaps the span; one that only touches it does not."""
    for gap_from, gap_to in gaps:
        if gap_from >= to_ms:
            return False
        if from_ms < gap_to:
            return True
    return False


def share(step: Step, from_ms: int, to_ms: int) -> Number:
    """How much of a counter's increase falls between two times within the step. Parts that meet add up to the whole.

    A counter of whole numbers rises by whole numbers.
    """
    whole_ms = step.to_ms - step.from_ms
    low, high = from_ms - step.from_ms, to_ms - step.from_ms
    if isinstance(step.increase, int):
        return step.increase * high // whole_ms - step.increase * low // whole_ms
    return step.increase * (high / whole_ms) - step.increase * (low / whole_ms)


def buckets(
    readings: Sequence[Reading],
    kind: Kind,
    start_ms: int,
    end_ms: int,
    width_ms: int,
    gaps: Sequence[Span] = (),
    silence_ms: int | None = None,
    *,
    with_sketch: bool = False,
) -> list[Bucket]:
    """Buckets `width_ms` wide from `start_ms` on, the last one cut at `end_ms`; those of which nothing is known are left out.

    Readings are in the order of time. In sketches what is below 0 counts as 0.
    """
    found: dict[int, Bucket] = {}

    def bucket_of(ts_ms: int) -> Bucket:
        place = (ts_ms - start_ms) // width_ms
        bucket = found.get(place)
        if bucket is None:
            first_ms = start_ms + place * width_ms
            sketch = Sketch() if with_sketch else None
            bucket = found[place] = Bucket(first_ms, min(first_ms + width_ms, end_ms), sketch)
        return bucket

    is_counter = kind is Kind.COUNTER
    for step in steps(readings, kind, gaps, silence_ms):
        low, high = max(step.from_ms, start_ms), min(step.to_ms, end_ms)
        while low < high:
            bucket = bucket_of(low)
            until = min(high, bucket.end_ms)
            inside_ms = until - low
            bucket.covered_ms += inside_ms
            if is_counter:
                bucket.last = step.value
                bucket.increase = (bucket.increase or 0) + share(step, low, until)
            else:
                bucket._see(step.value)
                bucket.total += step.value * inside_ms
            if bucket.sketch is not None:
                bucket.sketch.add(step.per_s if is_counter else step.value, inside_ms)
            low = until
    before_ms: int | None = None
    for ts_ms, is_closing, value in readings:
        if value is None or ts_ms == before_ms:
            before_ms = ts_ms
            continue
        before_ms = ts_ms
        if not start_ms <= ts_ms < end_ms:
            continue
        bucket = bucket_of(ts_ms)
        bucket.count += not is_closing
        if is_counter:
            bucket.last = value
        else:
            bucket._see(value)
    return [found[place] for place in sorted(found)]


def states(
    readings: Sequence[Reading],
    kind: Kind,
    until_ms: int,
    gaps: Sequence[Span] = (),
    silence_ms: int | None = None,
    ended_ms: int | None = None,
) -> list[StateSpan]:
    """What is known from the first reading until `until_ms`, without holes; neighbours of one state and value are one span.

    After the last reading a value is LAST_OBSERVED for as long as silence may last, then UNKNOWN from that reading on, as it
    would be if another reading came then; from `ended_ms` on it is GONE.
    """
    out: list[StateSpan] = []

    def add(from_ms: int, to_ms: int, state: State, value: Value) -> None:
        to_ms = min(to_ms, until_ms)
        if from_ms >= to_ms:
            return
        if out and out[-1][1:] == (from_ms, state, value):
            from_ms = out.pop().from_ms
        out.append(StateSpan(from_ms, to_ms, state, value))

    last_ms: int | None = None
    last: Value = None
    for from_ms, value, to_ms, after, is_known in _neighbours(readings, gaps, silence_ms):
        state = State.LAST_OBSERVED
        if not is_known or value is None:
            state = State.UNKNOWN
        elif kind is Kind.COUNTER:
            if after is None or after < value:
                state = State.UNKNOWN
            elif after == value:
                state = State.UNCHANGED
        add(from_ms, to_ms, state, None if state is State.UNKNOWN else value)
        last_ms, last = to_ms, after
    if last_ms is None:
        if not readings:
            return []
        last_ms, _, last = readings[0]
    end_ms = until_ms if ended_ms is None else min(max(ended_ms, last_ms), until_ms)
    is_known = (silence_ms is None or end_ms - last_ms <= silence_ms) and not is_gap_between(last_ms, end_ms, sorted(gaps))
    if last is None or not is_known:
        add(last_ms, end_ms, State.UNKNOWN, None)
    else:
        add(last_ms, end_ms, State.LAST_OBSERVED, last)
    if ended_ms is not None:
        add(end_ms, until_ms, State.GONE, None)
    return out

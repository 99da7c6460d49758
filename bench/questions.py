"""Eight questions to a store of history, and their answers by numpy from the generator's arrays, for whatever store is asked.

An answer is a mapping from text or time to a number; a set of containers maps each path to 1. How far a store may be off:

- what is read as it was stored, or counted: not at all;
- means and rates: one in a thousand. The generator's samples are up to 5 ms off their 10 s, and a store may weight them
  equally, or divide by the width of a bucket where we divide by the time between the samples;
- percentiles: nearest rank, where a store may round the rank up or down: the value of the rank, of the one below, of the one
  above, or anything between them, and one in a thousand; from the sketches of roll-ups 1 %, which is what they promise.

In a store's own language a rate belongs to the time of the later of its two samples; asked through tidegauge's typed history
it holds from one sample to the next, and a bucket has its share of it (`is_clipped`). Windows hold their beginning and not
their end.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from bench.generator import Bools, History, Ints

Answer: TypeAlias = Mapping[str | int, float]

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
RELATIVE = 1e-3
SKETCH_RELATIVE = 0.011
QUESTIONS: Mapping[str, str] = {
    "last": "1 last value of every container",
    "rate": "2 CPU rate of one container, 1 h by minutes",
    "top": "3 top 10 by mean working set, 24 h",
    "p95": "4 p95 of CPU rate of each container, 7 days",
    "namespace": "5 CPU of a namespace, 24 h by 5 min",
    "failures": "6 memory failures or OOM kills rose, 24 h",
    "alive": "7 alive in a given hour",
    "export": "8 memory of one container, 7 days",
}


class Refused(Exception):
    """The store does not answer such a question; the text is what it said."""


class Span(NamedTuple):
    from_ms: int
    to_ms: int


class Expected(NamedTuple):
    low: Answer
    high: Answer
    is_exact: bool = False
    is_ordered: bool = False


class Asked:
    """The questions over one past: of whom, over which time, and what is right."""

    def __init__(self, history: History) -> None:
        self.history = history
        series = history.series(["cpu_usage_ns", "memory_working_set_bytes", "memory_failures", "memory_oom_kills"])
        self._ts, self._is_alive, self._values = series.ts_ms, series.is_alive, series.values
        self.paths = [c.path for c in history.containers]
        stays = (history.birth == 0) & (history.death == history.ticks)
        usage = self._values["cpu_usage_ns"]
        grown = np.where(stays, usage[:, -1] - usage[:, 0], -1)
        self.one = int(np.argsort(grown)[-3])
        """Number in the arrays of a busy container that lives all the time."""
        self.path = self.paths[self.one]
        self.whole = Span(history.start_ms, history.end_ms)
        self.day = Span(max(history.start_ms + HOUR_MS, history.end_ms - DAY_MS), history.end_ms)
        """The last 24 h, or all but the first hour: before the window there are samples."""
        self.hour = Span(history.end_ms - 2 * HOUR_MS, history.end_ms - HOUR_MS)
        short = np.flatnonzero(~stays)
        middle = (history.birth[short[0]] + history.death[short[0]]) // 2 if len(short) else history.ticks // 2
        begin = int(history.start_ms + middle * history.interval_ms) // HOUR_MS * HOUR_MS
        self.alive_hour = Span(begin, begin + HOUR_MS)
        """An hour in which a short-lived container was there."""
        self.namespace = self._busiest_namespace(grown)
        """The busiest of those whose containers live all the time, or of all."""

    @property
    def lead_ms(self) -> int:
        """How long before a window the sample lies at most with which its first rate is made."""
        return 2 * self.history.interval_ms

    def _busiest_namespace(self, grown: Ints) -> str:
        members: dict[str, list[int]] = {}
        for container, ns in zip(self.history.containers, grown.tolist(), strict=True):
            members.setdefault(str(container.namespace), []).append(ns)
        return max(members, key=lambda name: (min(members[name]) >= 0, sum(members[name])))

    def expected(self, question: str, *, is_clipped: bool = False) -> Expected:
        rates = self._clipped_rates if is_clipped else self._rates
        made: Mapping[str, Callable[[], Expected]] = {
            "last": self._last,
            "rate": lambda: _exactly(rates([self.one], self.hour, MINUTE_MS)),
            "top": self._top,
            "p95": self._p95,
            "namespace": lambda: _exactly(rates(self._members(), self.day, 5 * MINUTE_MS)),
            "failures": self._failures,
            "alive": self._alive,
            "export": self._export,
        }
        return made[question]()

    def differences(self, question: str, answer: Answer, relative: float = RELATIVE, *, is_clipped: bool = False) -> list[str]:
        """What is wrong with an answer, in words; nothing if it is right."""
        right = self.expected(question, is_clipped=is_clipped)
        if set(answer) != set(right.low):
            missing, more = sorted(set(right.low) - set(answer), key=str), sorted(set(answer) - set(right.low), key=str)
            return [f"{question}: {len(missing)} missing, as {missing[:3]}; {len(more)} too many, as {more[:3]}"]
        share = 0.0 if right.is_exact else relative
        wrong = [
            f"{question}: {key}: {value!r}, expected {right.low[key]!r} to {right.high[key]!r}"
            for key, value in answer.items()
            if not right.low[key] * (1 - share) <= value <= right.high[key] * (1 + share)
        ]
        if right.is_ordered and not wrong and list(answer) != list(right.low):
            wrong = [f"{question}: in another order"]
        return wrong[:5]

    def _within(self, span: Span) -> Bools:
        found: Bools = self._is_alive & (self._ts >= span.from_ms) & (self._ts < span.to_ms)
        return found

    def _last(self) -> Expected:
        memory = self._values["memory_working_set_bytes"]
        found: Answer = {p: float(memory[i, int(self.history.death[i]) - 1]) for i, p in enumerate(self.paths)}
        return _exactly(found, is_exact=True)

    def _steps(self, span: Span) -> tuple[Bools, Ints, Ints]:
        """Of each pair of neighbours whose later one is in the span: that it is, ns of CPU, and ms between them."""
        has_pair = self._within(span)[:, 1:] & self._is_alive[:, :-1]
        return has_pair, np.diff(self._values["cpu_usage_ns"]), np.diff(self._ts)

    def _rates(self, members: Sequence[int], span: Span, bucket_ms: int) -> dict[str | int, float]:
        """Cores by begin of the bucket, the sum over the members."""
        has_pair, used, passed = self._steps(span)
        out: dict[str | int, float] = {}
        for i in members:
            bucket = self._ts[i, 1:] // bucket_ms * bucket_ms
            for begin in np.unique(bucket[has_pair[i]]).tolist():
                is_in = has_pair[i] & (bucket == begin)
                out[begin] = out.get(begin, 0.0) + float(used[i, is_in].sum() / passed[i, is_in].sum() / 1e6)
        return out

    def _clipped_rates(self, members: Sequence[int], span: Span, bucket_ms: int) -> dict[str | int, float]:
        """The same for counters that rise evenly from sample to sample: the rate over what is known of each bucket."""
        out: dict[str | int, float] = {}
        for i in members:
            ts, used = self._ts[i, self._is_alive[i]], self._values["cpu_usage_ns"][i, self._is_alive[i]]
            for begin in range(span.from_ms, span.to_ms, bucket_ms):
                low, high = max(begin, int(ts[0])), min(begin + bucket_ms, int(ts[-1]))
                if low < high:
                    rise = np.interp(high, ts, used - used[0]) - np.interp(low, ts, used - used[0])
                    out[begin] = out.get(begin, 0.0) + float(rise) / (high - low) / 1e6
        return out

    def _members(self) -> list[int]:
        return [i for i, c in enumerate(self.history.containers) if c.namespace == self.namespace]

    def _top(self) -> Expected:
        is_in, memory = self._within(self.day), self._values["memory_working_set_bytes"]
        means = {p: float(memory[i, is_in[i]].mean()) for i, p in enumerate(self.paths) if is_in[i].any()}
        return _exactly(dict(sorted(means.items(), key=lambda kv: -kv[1])[:10]), is_ordered=True)

    def _p95(self) -> Expected:
        has_pair, used, passed = self._steps(self.whole)
        low: dict[str | int, float] = {}
        high: dict[str | int, float] = {}
        for i, path in enumerate(self.paths):
            rates = np.sort(used[i, has_pair[i]] / passed[i, has_pair[i]] / 1e6)
            rank = (95 * len(rates) + 99) // 100 - 1
            low[path] = float(rates[max(0, rank - 1)])
            high[path] = float(rates[min(len(rates) - 1, rank + 1)])
        return Expected(low, high)

    def _failures(self) -> Expected:
        is_in = self._within(self.day)
        rose = [
            path
            for i, path in enumerate(self.paths)
            if is_in[i].any()
            and any(np.ptp(self._values[name][i, is_in[i]]) > 0 for name in ("memory_failures", "memory_oom_kills"))
        ]
        return _exactly(dict.fromkeys(rose, 1.0), is_exact=True)

    def _alive(self) -> Expected:
        there = np.flatnonzero(self._within(self.alive_hour).any(axis=1))
        return _exactly({self.paths[i]: 1.0 for i in there.tolist()}, is_exact=True)

    def _export(self) -> Expected:
        memory, ts = self._values["memory_working_set_bytes"][self.one], self._ts[self.one]
        return _exactly(dict(zip(ts.tolist(), memory.astype(float).tolist(), strict=True)), is_exact=True)


def _exactly(answer: Answer, *, is_exact: bool = False, is_ordered: bool = False) -> Expected:
    return Expected(answer, answer, is_exact, is_ordered)

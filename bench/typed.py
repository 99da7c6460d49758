"""The questions to tidegauge's typed history: one computation over what each store's HistoryReader fetches."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from bench.questions import MINUTE_MS, Answer, Asked, Refused, Span
from tidegauge.pipeline.history import Bounds, HistoryReader, TooMuch
from tidegauge.pipeline.history_answer import answer
from tidegauge.pipeline.history_query import BadQuestion, Question, Select
from tidegauge.pipeline.history_series import Series


def _typed(reader: HistoryReader, asked: Asked, metric: str, span: Span, **more: Any) -> Sequence[Series]:
    question = Question(metric=metric, since_ms=span.from_ms, until_ms=span.to_ms, **more)
    try:
        found = answer(reader, question, Bounds(50_000_000, time.monotonic() + 600), asked.history.end_ms)
    except (BadQuestion, TooMuch) as exc:
        raise Refused(str(exc)) from exc
    return found.series


def _by_path(series: Iterable[Series]) -> Answer:
    return {s.labels["path"]: float(s.value) for s in series if s.value is not None}


def _points(series: Sequence[Series]) -> Answer:
    [one] = series
    return {p.ts_ms: float(p.value) for p in one.points if p.value is not None}


def _top(reader: HistoryReader, asked: Asked, **more: Any) -> Answer:
    return _by_path(_typed(reader, asked, "memory_working_set_bytes", asked.day, agg="avg", top=10, **more))


def _p95(reader: HistoryReader, asked: Asked, **more: Any) -> Answer:
    return _by_path(_typed(reader, asked, "cpu_usage_ns", asked.whole, agg="p95", **more))


def _rose(reader: HistoryReader, asked: Asked, **more: Any) -> Answer:
    metrics = ("memory_failures", "memory_oom_kills")
    found = [_by_path(_typed(reader, asked, metric, asked.day, agg="increase", **more)) for metric in metrics]
    return {path: 1.0 for each in found for path, rise in each.items() if rise > 0}


TYPED: Mapping[str, Callable[[HistoryReader, Asked], Answer]] = {
    "last": lambda r, a: _by_path(_typed(r, a, "memory_working_set_bytes", a.whole, agg="last")),
    "rate": lambda r, a: _points(
        _typed(r, a, "cpu_usage_ns", a.hour, select=Select(path=(a.path,)), agg="rate", bucket_ms=MINUTE_MS)
    ),
    "top": _top,
    "p95": _p95,
    "namespace": lambda r, a: _points(
        _typed(r, a, "cpu_usage_ns", a.day, select=Select(namespace=(a.namespace,)), group=("namespace",),
               agg="rate", bucket_ms=5 * MINUTE_MS)
    ),
    "failures": _rose,
    "alive": lambda r, a: dict.fromkeys((c.path for c in r.containers(a.alive_hour.from_ms, a.alive_hour.to_ms - 1)), 1.0),
}  # fmt: skip
"""The questions by the computation above all stores, at the resolution that it chooses. It tells of buckets, so of samples
there is no export."""
HOURLY: Mapping[str, Callable[[HistoryReader, Asked], Answer]] = {
    "top": partial(_top, resolution="1h"),
    "p95": partial(_p95, resolution="1h"),
    "failures": partial(_rose, resolution="1h"),
}
"""Those over whole hours, of hourly roll-ups."""

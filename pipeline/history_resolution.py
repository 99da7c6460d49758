"""Samples or roll-ups: what an answer about history is computed from, and the roll-ups themselves.

Roll-ups of the newest time are not made yet, or are to be made again: from the first such bucket on samples are read, a day at
most. Where these are too many, only those of the last buckets are; the others stand as they are, and are right a moment later.

Hours are the sums of their 5 minutes, sketches included. So where the choice falls on 5 minutes, whole hours within a bucket of
the answer are read as such: the same answer from a twelfth of the rows.
"""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from tidegauge.pipeline.buckets import Bucket
from tidegauge.pipeline.errors import TidegaugeError
from tidegauge.pipeline.history import Bounds, ContainerKey, HistoryReader, RollupReader, StoredContainer
from tidegauge.pipeline.history_query import RESOLUTIONS, BadQuestion, Question, fits_instance
from tidegauge.pipeline.records import Kind, Metric

RAW_SPAN_MS = 6 * 3_600_000
"""Up to this span samples are read where they are held."""
FINE_SPAN_MS = 7 * 86_400_000
"""Beyond it the widest roll-ups that fit."""
_TAIL_MS = 86_400_000
_SHORT_TAIL_BUCKETS = 3


class NeedsSamples(TidegaugeError):
    """Roll-ups cannot tell it; the text says why."""


def name_of(width_ms: int | None) -> str:
    return next((name for name, width in RESOLUTIONS.items() if width == width_ms), "raw")


def needs_sketch(asked: Question, metric: Metric, width_ms: int | None) -> bool:
    """Whether roll-ups of this width answer it by their sketches."""
    of_rates = metric.kind is Kind.COUNTER and asked.agg in ("min", "max")
    return width_ms is not None and (asked.percentile is not None or of_rates)


def _why_not(asked: Question, metric: Metric, width_ms: int, has_sketch: bool) -> str | None:
    """Why roll-ups of this width cannot answer it; None if they can."""
    if asked.bucket_ms is not None and asked.bucket_ms % width_ms:
        return f"the buckets are no multiple of {name_of(width_ms)}"
    if asked.agg == "last" and metric.kind is Kind.COUNTER:
        return "the last rate is in samples alone"
    if needs_sketch(asked, metric, width_ms) and not has_sketch:
        return f"roll-ups of {metric.name} hold no {asked.agg}"
    return None


def choose(reader: HistoryReader, asked: Question, metric: Metric) -> int | None:
    """Width of the roll-ups to read, None for samples. BadQuestion if a width is asked for that cannot be.

    By the span, where there is a choice: samples up to 6 h, 5 min up to 7 days. What is held no more for all of the span gives
    way to what reaches further back.
    """
    if asked.resolution == "raw":
        return None
    kept = reader.kept(metric) if isinstance(reader, RollupReader) else {}
    if asked.resolution != "auto":
        width_ms = RESOLUTIONS[asked.resolution]
        if width_ms not in kept:
            raise BadQuestion(f"resolution: the store keeps no {asked.resolution} roll-ups of {metric.name}")
        if (why := _why_not(asked, metric, width_ms, kept[width_ms].has_sketch)) is not None:
            raise BadQuestion(f"resolution: {why}")
        return width_ms
    reach: dict[int | None, int] = {None: _reach(reader.oldest_ms(), asked)}
    for width_ms, own in sorted(kept.items()):
        if _why_not(asked, metric, width_ms, own.has_sketch) is None:
            reach[width_ms] = _reach(own.oldest_ms, asked)
    span = asked.until_ms - asked.since_ms
    furthest = min(reach.values())
    enough = [width for width, from_ms in reach.items() if from_ms <= furthest + (width or 0) + span // 50]
    wanted = 0 if span <= RAW_SPAN_MS else RESOLUTIONS["5m"] if span <= FINE_SPAN_MS else RESOLUTIONS["1h"]
    return max((w for w in enough if (w or 0) <= wanted), key=lambda w: w or 0, default=enough[0])


def _reach(oldest_ms: int | None, asked: Question) -> int:
    return asked.until_ms if oldest_ms is None else min(max(oldest_ms, asked.since_ms), asked.until_ms)


def aligned(reader: HistoryReader, asked: Question, width_ms: int | None) -> Question:
    """The same from the beginning of its first bucket or roll-up on; and to the end of the last one, where samples that could
    tell the part before it are held no more."""
    asked = asked.aligned()
    if width_ms is None:
        return asked
    since_ms, until_ms = asked.since_ms // width_ms * width_ms, asked.until_ms
    oldest_ms = reader.oldest_ms()
    if oldest_ms is None or until_ms // width_ms * width_ms < oldest_ms:
        until_ms = -(-until_ms // width_ms) * width_ms
    return replace(asked, since_ms=since_ms, until_ms=until_ms)


def sample_starts(
    reader: HistoryReader, asked: Question, width_ms: int | None, containers: Sequence[StoredContainer]
) -> Sequence[int]:
    """From which time on samples are to be read; the second where they are too many from the first on."""
    if width_ms is None or not isinstance(reader, RollupReader):
        return (asked.since_ms,)
    made_ms = asked.until_ms // width_ms * width_ms
    unsettled_ms = reader.unsettled_ms(containers, width_ms, asked.since_ms, made_ms)
    if unsettled_ms is None:
        return (made_ms,)
    first_ms = max(unsettled_ms // width_ms * width_ms, asked.since_ms)
    tails = (max(_TAIL_MS, width_ms), _SHORT_TAIL_BUCKETS * width_ms)
    return tuple(dict.fromkeys(max(first_ms, made_ms - tail // width_ms * width_ms) for tail in tails))


def rolled(
    reader: HistoryReader,
    asked: Question,
    metric: Metric,
    width_ms: int | None,
    containers: Sequence[StoredContainer],
    until_ms: int,
    bounds: Bounds,
) -> tuple[Mapping[ContainerKey, Sequence[Bucket]], int, set[str]]:
    """Roll-ups before a time by container, how many they are, and of which instances there are some.

    NeedsSamples where several instances would have to be summed that only samples can tell.
    """
    if width_ms is None or not isinstance(reader, RollupReader):
        return {}, 0, set()
    with_sketch = needs_sketch(asked, metric, width_ms)

    def read(spans: Sequence[tuple[int, int, int]]) -> Mapping[ContainerKey, Mapping[str, Sequence[Bucket]]]:
        if len(spans) == 1:
            return reader.rolled(containers, metric, *spans[0], bounds, with_sketch=with_sketch)
        joined: dict[ContainerKey, dict[str, list[Bucket]]] = {}
        for span in spans:
            for key, own in read([span]).items():
                for name, each in own.items():
                    joined.setdefault(key, {}).setdefault(name, []).extend(each)
        return joined

    found = read(_spans(reader, asked, metric, width_ms, containers, until_ms))
    chosen = _chosen(found, asked)
    if any(len(each) > 1 for each in chosen.values()):
        if with_sketch or asked.agg in ("min", "max"):
            raise NeedsSamples(f"roll-ups hold no {asked.agg} of several instances together: choose one, or resolution=raw")
        # where one of them comes or goes, the sum's hours are not the sums of its 5 minutes
        found = read([(width_ms, asked.since_ms, until_ms)])
        chosen = _chosen(found, asked)
    out = {key: each[0] if len(each) == 1 else summed(each) for key, each in chosen.items()}
    rows = sum(len(part) for each in chosen.values() for part in each)
    return out, rows, {name for own in found.values() for name in own}


def _chosen(
    found: Mapping[ContainerKey, Mapping[str, Sequence[Bucket]]], asked: Question
) -> Mapping[ContainerKey, Sequence[Sequence[Bucket]]]:
    return {key: [e for name, e in own.items() if fits_instance(name, asked.instance)] for key, own in found.items()}


def _spans(
    reader: RollupReader,
    asked: Question,
    metric: Metric,
    width_ms: int,
    containers: Sequence[StoredContainer],
    until_ms: int,
) -> Sequence[tuple[int, int, int]]:
    """(width, from, to) of the roll-ups to read, by time."""
    spans = [(width_ms, asked.since_ms, until_ms)]
    hour_ms, kept = RESOLUTIONS["1h"], reader.kept(metric)
    if asked.resolution != "auto" or width_ms >= hour_ms or hour_ms not in kept or (asked.bucket_ms or hour_ms) % hour_ms:
        return spans
    first_ms, last_ms = -(-asked.since_ms // hour_ms) * hour_ms, until_ms // hour_ms * hour_ms
    if first_ms >= last_ms or _reach(kept[hour_ms].oldest_ms, asked) > _reach(kept[width_ms].oldest_ms, asked):
        return spans
    unsettled_ms = reader.unsettled_ms(containers, hour_ms, first_ms, last_ms)
    last_ms = last_ms if unsettled_ms is None else unsettled_ms // hour_ms * hour_ms
    spans = [(width_ms, asked.since_ms, first_ms), (hour_ms, first_ms, last_ms), (width_ms, last_ms, until_ms)]
    return [span for span in spans if span[1] < span[2]]


def summed(parts: Sequence[Sequence[Bucket]]) -> list[Bucket]:
    """Buckets of the sum over instances. What one of them is not known for counts as not there."""
    out: dict[int, Bucket] = {}
    for part in parts:
        for bucket in part:
            total = out.setdefault(bucket.start_ms, Bucket(bucket.start_ms, bucket.end_ms))
            total.count = max(total.count, bucket.count)
            total.covered_ms = max(total.covered_ms, bucket.covered_ms)
            total.total += bucket.total
            if bucket.increase is not None:
                total.increase = (total.increase or 0) + bucket.increase
            if bucket.last is not None:
                total.last = (total.last or 0) + bucket.last
    return [out[start_ms] for start_ms in sorted(out)]

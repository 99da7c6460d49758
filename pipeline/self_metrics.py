"""What the program shows of itself: the families `tidegauge_*` of the Prometheus page, made from everything that is counted.

The sampler counts come over the channel once a second; those of sinks and server are taken when the page is asked for.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tidegauge.pipeline.messages import Channel
from tidegauge.pipeline.sink_runner import SinkRunner
from tidegauge.pipeline.telemetry import Family, Point, by, one
from tidegauge.pipeline.version import VERSION


def families(restarts: int, channel: Channel, runners: Sequence[SinkRunner], sampler: Mapping[str, Any]) -> list[Family]:
    """All families. `sampler` is what the sampler counted, as of its last message; {} before the first. Any thread."""
    return [*_own_families(restarts, channel, sampler), *_sink_families(runners), *_sampler_families(sampler)]


def _own_families(restarts: int, channel: Channel, sampler: Mapping[str, Any]) -> Iterator[Family]:
    times = os.times()
    yield Family("tidegauge_build_info", "gauge", "Version that runs; always 1.", [Point({"version": VERSION}, 1)])
    yield by(
        "tidegauge_process_restarts_total",
        "counter",
        "Times that the parent had to start a process again.",
        "process",
        {"server": restarts, "sampler": sampler.get("restarts", 0)},
    )
    cpu = {"server": round(times.user + times.system, 3)}
    if "process_cpu_s" in sampler:
        cpu["sampler"] = sampler["process_cpu_s"]
    yield by("tidegauge_process_cpu_seconds_total", "counter", "CPU time used by each process.", "process", cpu)
    yield one(
        "tidegauge_messages_unsent_total",
        "counter",
        "Messages to the sampler that it had no room for.",
        channel.unsent,
    )


def _sink_families(runners: Sequence[SinkRunner]) -> Iterator[Family]:
    runners = sorted(runners, key=lambda r: r.name)
    accounts = {r.name: r.account() for r in runners}
    terms = (
        ("accepted_rows_total", "counter", "Rows that the journal accepted since the sink's start row."),
        ("written_rows_total", "counter", "Rows that the store took."),
        ("filtered_rows_total", "counter", "Rows that the sink does not take or its filters leave out."),
        ("dead_letter_rows", "gauge", "Rows that the store refused, kept on disk."),
        ("pending_rows", "gauge", "Rows in the journal that are not yet delivered."),
    )
    for term, kind, help in terms:
        field = term.removesuffix("_total").removesuffix("_rows")
        yield by(f"tidegauge_sink_{term}", kind, help, "sink", {n: getattr(a, field) for n, a in accounts.items()})
    yield Family(
        "tidegauge_sink_dropped_rows_total",
        "counter",
        "Rows lost to a bound or to damage; each loss is under a gap record.",
        [Point({"sink": n, "reason": why}, rows) for n, a in accounts.items() for why, rows in sorted(a.dropped.items())],
    )
    counters = {r.name: r.counters() for r in runners}
    for key, kind, help in (
        ("writes", "counter", "Calls of the sink's write that succeeded."),
        ("retries", "counter", "Calls of the sink's write that failed and are tried again."),
        ("unknown_errors", "counter", "Failures of a kind that the sink does not state."),
        ("config_faults", "counter", "Refusals that a wrong configuration explains (401, 403, 404)."),
        ("unknown_records", "counter", "Journal records of a type that this version does not know."),
    ):
        yield by(f"tidegauge_sink_{key}_total", kind, help, "sink", {n: c.get(key, 0) for n, c in counters.items()})
    yield by(
        "tidegauge_sink_lag_seconds",
        "gauge",
        "Age of the oldest row that is not yet delivered.",
        "sink",
        {r.name: lag for r in runners if (lag := r.lag_s()) is not None},
    )


_COUNTERS: Mapping[str, str] = {
    "ticks": "Ticks served.",
    "late_ticks": "Ticks that began more than 50 ms late.",
    "missed_ticks": "Ticks left out because an earlier one took too long.",
    "samples": "Samples made.",
    "closing_samples": "Closing samples made at the end of an idle span.",
    "probes": "Looks at the CPU counter of idle containers.",
    "collection_cpu_seconds": "CPU time of the sampling thread.",
    "probe_cpu_seconds": "CPU time spent looking at idle containers.",
    "overflows": "Ticks whose samples were lost because the journal did not keep up; each is under a gap record.",
    "overflow_rows": "Samples lost in such ticks.",
    "absurd_values": "Values that no reader of 64 bit numbers could take, stored as absent.",
    "clock_steps": "Steps of the wall clock.",
    "journal_overwritten_unread_segments": "Segments used again before every sink had read them.",
    "journal_overwritten_unread_rows": "Rows in such segments.",
    "journal_append_errors": "Appends that the disk refused.",
    "journal_sync_errors": "Syncs that the disk refused.",
}
_GAUGES: Mapping[str, str] = {
    "lateness_p50_seconds": "Median lateness of the last ticks.",
    "lateness_p99_seconds": "Lateness that 99 % of the last ticks stayed within.",
    "lateness_max_seconds": "Greatest lateness of the last ticks.",
    "greatest_blindness_seconds": "Longest time for which an idle container was not looked at.",
    "probe_period_ticks": "Idle containers are looked at each so many ticks.",
    "containers": "Containers that are sampled, the host included.",
    "idle_containers": "Containers that are only looked at.",
    "descriptors": "Files that readers keep open.",
    "journal_bytes": "Size of the journal on disk.",
    "journal_segments": "Segments of the journal.",
    "journal_oldest_age_seconds": "Age of the oldest row in the journal.",
}
_COUNTERS_BY: Mapping[str, tuple[str, str]] = {
    "collect_errors": ("collector", "Readings that failed."),
    "job_runs": ("job", "Runs of coarse jobs."),
    "job_failures": ("job", "Runs of coarse jobs that failed."),
    "job_skipped": ("job", "Coarse jobs that were due while they still ran."),
}


def _sampler_families(values: Mapping[str, Any]) -> Iterator[Family]:
    for key, help in _COUNTERS.items():
        yield one(f"tidegauge_{key}_total", "counter", help, values.get(key))
    for key, help in _GAUGES.items():
        yield one(f"tidegauge_{key}", "gauge", help, values.get(key))
    for key, (label, help) in _COUNTERS_BY.items():
        yield by(f"tidegauge_{key}_total", "counter", help, label, values.get(key) or {})

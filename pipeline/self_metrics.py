"""What the program shows of itself: the families `tidegauge_*` of the Prometheus page, made from everything that is counted.

The sampler counts come over the channel once a second; those of sinks and server are taken when the page is asked for.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tidegauge.pipeline.messages import Channel
from tidegauge.pipeline.sink_runner import SinkRunner
from tidegauge.pipeline.telemetry import Family, Point, by, counters_of, one
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
    for key, help, own in (
        ("messages_unsent", "Messages dropped since the other process had no room for them.", channel.unsent),
        ("messages_undecodable", "Messages from the other process that could not be read.", channel.undecodable),
    ):
        sides = {"server": own} | ({"sampler": sampler[key]} if key in sampler else {})
        yield by(f"tidegauge_{key}_total", "counter", help, "process", sides)


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
    taken = {term.removesuffix("_total") for term, _, _ in terms} | {"dropped_rows"}
    runner_counters = {r.name: r.counters() for r in runners}
    yield from _counters_of_parts("sink", runner_counters, _RUNNER_COUNTERS)
    taken |= {key for counters in runner_counters.values() for key in counters}
    own = {r.name: {k: v for k, v in counters_of(r.sink).items() if k not in taken} for r in runners}
    yield from _counters_of_parts("sink", own, _PLUGIN_COUNTERS)
    yield by(
        "tidegauge_sink_lag_seconds",
        "gauge",
        "Age of the oldest row that is not yet delivered.",
        "sink",
        {r.name: lag for r in runners if (lag := r.lag_s()) is not None},
    )


def _counters_of_parts(part: str, counters: Mapping[str, Mapping[str, int]], helps: Mapping[str, str]) -> Iterator[Family]:
    """A family for each counter that a sink or collector has, by its name. One that has no help here is shown all the same."""
    for key in sorted({key for own in counters.values() for key in own}):
        values = {name: own[key] for name, own in counters.items() if key in own}
        help = helps.get(key) or f"Counted by the {part} itself: {key.replace('_', ' ')}."
        yield by(f"tidegauge_{part}_{key}_total", "counter", help, part, values)


_RUNNER_COUNTERS: Mapping[str, str] = {
    "writes": "Calls of the sink's write that succeeded.",
    "retries": "Calls of the sink's write that failed and are tried again.",
    "unknown_errors": "Failures of a kind that the sink does not state.",
    "config_faults": "Refusals that a wrong configuration explains (401, 403, 404).",
    "maintenance_errors": "Runs of the store's retention that failed.",
    "unknown_records": "Journal records of a type that this version does not know.",
    "damaged_records": "Journal records that could not be decoded, passed over.",
    "refused_gaps": "Gap records of the sink's own losses that the store refused for good.",
    "stores_lost": "Times that the store was found damaged beyond use and a new one was begun.",
    "unreadable_letters": "Dead letters that could not be read when they were to be delivered again; they stay.",
    "cursor_errors": "Times that the cursor could not be made durable; rows since the last one come again after a kill.",
}
_PLUGIN_COUNTERS: Mapping[str, str] = {
    "absurd_values": "Numbers of the kernel that could not be, stored as absent.",
    "unreadable_files": "Times that a file was there and could not be read; its values are absent.",
    "hanging_mounts": "Filesystems that did not answer in time, counted in each round.",
    "unreadable_mounts": "Filesystems that refused to answer, counted in each round.",
    "conflict_rows": "Rows that came again with other values; the store keeps the first.",
    "counting_errors": "1 while the plug-in fails to say what it counted.",
}
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
    "log_failures": "Times that the journal's thread could not append or sync; it tries again until it can.",
    "log_unwritable_rows": "Rows given up since they could not be encoded, or were too large for the journal.",
    "metadata_cut": "Names, labels and variables that were cut or left out, as too many or too long for a container's record.",
    "discovery_overflows": "Times that the kernel lost events of new and removed cgroups; a walk finds what was missed.",
    "kmsg_overruns": "Times that the kernel's log was overwritten before it was read; what it said of OOM kills may be lost.",
    "unwatched_directories": "Times that a cgroup directory got no watch; only walks find what is made in it.",
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
    "log_waiting_ticks": "Ticks that wait for the journal's thread.",
    "containers_unnamed": "Containers of a runtime that has not yet said their names.",
}
_COUNTERS_BY: Mapping[str, tuple[str, str]] = {
    "collect_errors": ("collector", "Readings that failed."),
    "job_runs": ("job", "Runs of coarse jobs."),
    "job_failures": ("job", "Runs of coarse jobs that failed."),
    "job_skipped": ("job", "Coarse jobs that were due while they still ran."),
    "requests": ("outcome", "Requests of the server that the sampler met."),
    "remote_asks": ("remote", "Questions put to another host."),
    "remote_errors": ("remote", "Questions that another host answered with an error, or not in time."),
    "remote_samples": ("remote", "Samples taken from another host."),
    "remote_overflow_rows": ("remote", "Samples of another host lost because the journal did not keep up."),
    "remote_absurd_values": ("remote", "Numbers of another host that could not be, stored as absent."),
    "remote_unreadable_containers": ("remote", "Times that what another host said of a container could not be read."),
    "remote_shortened_answers": ("remote", "Times that another host had more readings than an answer may be large."),
    "runtime_asks": ("runtime", "Questions put to a container runtime."),
    "runtime_errors": ("runtime", "Questions that a container runtime answered with an error, or not in time."),
}
_GAUGES_BY: Mapping[str, tuple[str, str]] = {
    "remote_reachable": ("remote", "1 while another host answers, else 0."),
    "remote_answer_age_seconds": ("remote", "Time since another host last answered."),
    "remote_containers": ("remote", "Containers of another host, itself included."),
    "runtime_connected": ("runtime", "1 while the container runtime tells of changes, else 0."),
}


def _sampler_families(values: Mapping[str, Any]) -> Iterator[Family]:
    for key, help in _COUNTERS.items():
        yield one(f"tidegauge_{key}_total", "counter", help, values.get(key))
    for key, help in _GAUGES.items():
        yield one(f"tidegauge_{key}", "gauge", help, values.get(key))
    for key, (label, help) in _COUNTERS_BY.items():
        yield by(f"tidegauge_{key}_total", "counter", help, label, values.get(key) or {})
    for key, (label, help) in _GAUGES_BY.items():
        yield by(f"tidegauge_{key}", "gauge", help, label, {k: int(v) for k, v in (values.get(key) or {}).items()})
    yield from _counters_of_parts("collector", values.get("collector_counters") or {}, _PLUGIN_COUNTERS)

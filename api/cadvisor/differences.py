"""Where tidegauge deliberately answers otherwise than cAdvisor: the one list, shown in docs/rest-api.md."""

from typing import NamedTuple


class Difference(NamedTuple):
    what: str
    cadvisor: str
    ours: str
    has_strict: bool
    """Whether `compat = "strict"` gives cAdvisor's behaviour."""


DIFFERENCES = (
    Difference(
        "status of errors",
        "500 for all but the lists of what there is",
        "404 for what is not there, 400 for what cannot be",
        True,
    ),
    Difference("below a container", "whatever begins with the same characters: `/a` has `/ab`", "what lies in it", True),
    Difference(
        "`max_events`",
        "the newest of each type of all containers, before the container is chosen",
        "the newest that are chosen",
        True,
    ),
    Difference(
        "events `oom`, `oomKill`",
        "`oom` names the container of the killed process, `oomKill` the one whose limit was hit",
        "as the words say: `oom` whose limit was hit, `oomKill` where the process was killed",
        True,
    ),
    Difference(
        "`day_usage`, `hour_usage`",
        "percentiles over an hour's 90th percentiles of minutes; the day equals the hour",
        "true percentiles, weighted by time, over what is stored",
        False,
    ),
    Difference("UDP and `tcp_advanced` in v2", "zeros", "as in v1", True),
    Difference("`processes` in v2.0 samples", "`has_processes` is never true", "shown if the container has them", True),
    Difference("`reservation` on cgroup v2", "`memory.min`", "`memory.low`, which runtimes set", True),
    Difference("`swap_limit` on cgroup v2", "swap alone", "memory and swap, as on v1", True),
    Difference("`pgfault`, `pgmajfault`", "page faults of the cgroup itself", "with the cgroups below it", False),
    Difference("disk counters without recursive files", "the cgroup itself", "with the cgroups below it", False),
    Difference("`avg10`, `avg60`, `avg300` of pressure", "the kernel's means", "0: only the totals are recorded", False),
    Difference("`perf_stats`", "an entry a CPU", "an entry an event over all CPUs, `cpu` -1", False),
    Difference(
        "`max_age`",
        "has samples taken at once, as often as it is asked",
        "has idle containers read at the next tick, which the answer waits for, 5 s at most",
        False,
    ),
    Difference("methods", "any", "GET, HEAD, POST; others 405", False),
    Difference("`ps`, `envs`", "for all", "over the Unix socket or with a credential", False),
    Difference("`labels`", "all", "those of `[metadata] labels`, which may be all (`*`)", False),
    Difference("order of containers", "random", "by name", False),
    Difference("times", "nanoseconds", "milliseconds", False),
    Difference("a stream of events", "a slow reader holds everybody up", "a slow reader loses the oldest", False),
    Difference("`kernel`, `tcp` and others on cgroup v2", "not read", "read where the kernel has them", False),
)


def table() -> str:
    """Markdown."""
    rows = (f"| {d.what} | {d.cadvisor} | {d.ours} | {'yes' if d.has_strict else 'no'} |" for d in DIFFERENCES)
    return "\n".join(("| | cAdvisor | tidegauge | strict |", "| --- | --- | --- | --- |", *rows))

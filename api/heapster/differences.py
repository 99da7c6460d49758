"""Where tidegauge deliberately answers otherwise than Heapster: the one list, shown in docs/heapster.md."""

from collections.abc import Iterator
from typing import NamedTuple

from tidegauge.pipeline.heapster.metrics import METRICS, NOT_KNOWN, Each, Fact, Rate, Scalar, Share, Sum


class Difference(NamedTuple):
    what: str
    heapster: str
    ours: str


DIFFERENCES = (
    Difference(
        "values that are no whole numbers",
        "cut off: a utilization of 0.39 is 0, a rate of 1999.9 is 1999; `floatValue` is never filled",
        "`value` is rounded to the nearest, and `floatValue` has the number wherever it is not whole",
    ),
    Difference(
        "a pod's own values",
        "those of its sandbox where that is sampled: a pod of 300 millicores was stored with 1",
        "gauges and rates are always the sum over its containers, the sandbox left out",
    ),
    Difference("a counter that fell", "a negative rate", "no rate over that interval"),
    Difference("after a lost window", "a rate over both windows", "a rate over the part that is known; none over a gap"),
    Difference("no data in the historical API", "500", "an empty list"),
    Difference("one unknown pod in a list", "the whole request fails (historical API)", "an empty item in its place"),
    Difference(
        "names with slashes",
        "404, plain and as `%2F`",
        "`/freecontainers/system.slice%2Fsshd.service/metrics/...`, or with the slashes as they are",
    ),
    Difference("names of nodes", "some paths want the node's name, others its host name", "one name, that of the host"),
    Difference("lists of the historical API", "`nodename`, `namespace_name`, or 500", "the names"),
    Difference("pods by uid", "500: the uid was not stored", "answered"),
    Difference("containers of a pod in the historical API", "those of now", "those that were sampled in the last seven days"),
    Difference("names in the historical API", "letters, digits, `_ . -`", "any"),
    Difference(
        "a labeled metric without `labels` in the historical API",
        "values of all devices, interleaved",
        "an empty list, as in the model",
    ),
    Difference(
        "`start`, `end` of the historical API", "excluded, whole seconds", "included, whole milliseconds, as in the model"
    ),
    Difference("an answer without `bucket`", "its time is `start` and 1 ns", "its time is `start`"),
    Difference("median and percentiles", "as the store has them", "the mean of the two in the middle; the nearest rank"),
    Difference(
        "the model's memory",
        "140 s; CPU rate and memory usage for 15 min",
        "15 min of all: from the memory, before that from the store",
    ),
    Difference("order of lists", "random", "by name"),
    Difference("unit of `filesystem/inodes`", "bytes", "none: they are counts"),
    Difference("type of `disk/io_*_bytes`, `restart_count`", "cumulative in the schema, gauge in values", "cumulative"),
    Difference("`*/node_allocatable`", "the capacity less what is kept from pods", "the capacity"),
    Difference(
        "`cpu/request`, `cpu/limit`, `memory/limit`",
        "from the pod's specification",
        "from the cgroup that the kubelet made of it; absent in the historical API",
    ),
    Difference(
        "`memory/request`", "from the pod's specification", "`memory.min` of cgroup v2, which Memory QoS sets; else absent"
    ),
    Difference("`namespace_id`, `schedulable`", "from the Kubernetes API", "absent"),
    Difference("`/healthz`, `/metrics`, `/debug/pprof/`", "Heapster's own", "tidegauge's own, in its own form"),
)


def table() -> str:
    """Markdown."""
    rows = (f"| {d.what} | {d.heapster} | {d.ours} |" for d in DIFFERENCES)
    return "\n".join(("| | Heapster | tidegauge |", "| --- | --- | --- |", *rows))


def metrics_table() -> str:
    """Markdown: every metric with what it is made from."""
    return "\n".join(("| metric | type | unit | from | |", "| --- | --- | --- | --- | --- |", *_rows()))


def _rows() -> Iterator[str]:
    for m in METRICS:
        kind = f"{m.type.value}, {'int64' if m.is_integer else 'double'}{', labeled' if m.is_labeled else ''}"
        yield f"| `{m.name}` | {kind} | {m.unit} | {_origin(m.origin)} | {m.help} |"
    for name, why in NOT_KNOWN.items():
        yield f"| `{name}` | | | absent | {why} |"


def _origin(origin: Scalar | Sum | Each | Rate | Fact | Share) -> str:
    match origin:
        case Scalar(metric):
            return f"`{metric}`"
        case Sum(_, metric):
            return f"`{metric}`, summed"
        case Each(_, metric, _, host_metric):
            return ", ".join((*([f"`{metric}`"] if metric else []), *([f"of a node `{host_metric}`"] if host_metric else [])))
        case Rate(of, _):
            return f"`{of}`"
        case Share(part, whole):
            return f"`{part}` / `{whole}`"
        case Fact():
            return "what is known of the container"

"""The program's own counters as text exposition (Prometheus text format 0.0.4)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tidegauge.pipeline.plugin import Counted

_KEY = re.compile(r"[a-z][a-z0-9_]*")


class Point(NamedTuple):
    """One line of a family. None is left out."""

    labels: Mapping[str, str]
    value: float | int | None


class Family(NamedTuple):
    """One metric of the program itself."""

    name: str
    kind: str
    help: str
    samples: Sequence[Point]


_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})


def one(name: str, kind: str, help: str, value: float | int | None) -> Family:
    """A family with a single sample without labels."""
    return Family(name, kind, help, [Point({}, value)])


def by(name: str, kind: str, help: str, label: str, values: Mapping[str, float | int]) -> Family:
    """A family with one sample for each value of one label, in order of the label values."""
    return Family(name, kind, help, [Point({label: k}, values[k]) for k in sorted(values)])


def counters_of(plugin: object) -> dict[str, int]:
    """What a plug-in counts, {} if it counts nothing. Any thread.

    A plug-in is not trusted here: what cannot be a counter is left out, and one that fails to say shows as `counting_errors`.
    """
    if not isinstance(plugin, Counted):
        return {}
    try:
        said = dict(plugin.counters())
    except Exception:  # noqa: BLE001 - one plug-in's failure never stops another; it shows as a counter itself
        return {"counting_errors": 1}
    return {k: v for k, v in said.items() if type(k) is str and _KEY.fullmatch(k) and type(v) is int}


def header(name: str, kind: str, help: str, is_openmetrics: bool = False) -> str:
    """The two lines above a family's samples, without a line end.

    OpenMetrics names a counter without the `_total` that its samples bear, and knows none whose samples lack it: such a one is
    `unknown` there, so that samples have the same names in both formats.
    """
    text = help.replace("\\", "\\\\").replace("\n", "\\n")
    if is_openmetrics:
        text = text.replace('"', '\\"')
        if kind == "counter" and name.endswith("_total"):
            name = name.removesuffix("_total")
        elif kind == "counter":
            kind = "unknown"
    return f"# HELP {name} {text}\n# TYPE {name} {kind}"


def render(families: Iterable[Family], is_openmetrics: bool = False) -> str:
    """The page, without the end that OpenMetrics wants. Families without a value are left out; label values are escaped."""
    lines: list[str] = []
    for family in families:
        rows = [point for point in family.samples if point.value is not None]
        if not rows:
            continue
        lines.append(header(family.name, family.kind, family.help, is_openmetrics))
        for labels, value in rows:
            pairs = ",".join(f'{k}="{v.translate(_ESCAPES)}"' for k, v in labels.items())
            lines.append(f"{family.name}{{{pairs}}} {value!r}" if pairs else f"{family.name} {value!r}")
    return "\n".join(lines) + "\n"

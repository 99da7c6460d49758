"""What a bench found: rows with spread beside their goals, and the machine they were found on, as a Markdown table."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """One figure: what, in which unit, each repeat's value, and the goal that the median is held against."""

    what: str
    unit: str
    values: tuple[float, ...]
    goal: str = ""
    limit: float | None = None
    is_at_least: bool = False
    """True if the goal is a lower bound."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """`met`, `missed`, or empty where there is no goal."""
        if self.limit is None:
            return ""
        is_met = self.median >= self.limit if self.is_at_least else self.median <= self.limit
        return "met" if is_met else "missed"


class Section(NamedTuple):
    title: str
    rows: Sequence[Row]
    note: str = ""


def ratio(what: str, ours: Sequence[float], theirs: Sequence[float], goal: str = "", limit: float | None = None) -> Row:
    """Ours over theirs, repeat by repeat: the two of a repeat were measured next to each other."""
    return Row(what, "x", tuple(a / b for a, b in zip(ours, theirs, strict=True)), goal, limit)


def cheaper(what: str, ours: Sequence[float], theirs: Sequence[float], goal: str = "", limit: float | None = None) -> Row:
    """How many times cheaper ours is, repeat by repeat."""
    return Row(what, "x cheaper", tuple(b / a for a, b in zip(ours, theirs, strict=True)), goal, limit, is_at_least=True)


def number(value: float) -> str:
    """Three digits that matter."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def markdown(sections: Sequence[Section]) -> str:
    """The sections as Markdown tables."""
    out = []
    for section in sections:
        out.append(f"### {section.title}\n")
        if section.note:
            out.append(f"{section.note}\n")
        out.append("| what | median | min - max | unit | goal | |\n| --- | --- | --- | --- | --- | --- |")
        for row in section.rows:
            spread = f"{number(min(row.values))} - {number(max(row.values))}" if len(row.values) > 1 else "one run"
            out.append(f"| {row.what} | {number(row.median)} | {spread} | {row.unit} | {row.goal} | {row.verdict} |")
        out.append("")
    return "\n".join(out)


def machine() -> str:
    """One line about the machine and its state now."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    cgroup = "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1"
    load = os.getloadavg()[0]
    return (
        f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, {os.cpu_count()} CPUs ({model}), Linux {platform.release()}, "
        f"cgroup {cgroup}, Python {sys.version.split()[0]}, load average {load:.1f}"
    )

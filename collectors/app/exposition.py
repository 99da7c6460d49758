"""Prometheus' text format -> series with their types. Pure.

Reads OpenMetrics too, as far as it is the same: exemplars, units and times are passed over. An own parser, since the one of
`prometheus_client` renames counters (`hits` becomes `hits_total`), so that a metric's own name is lost.

Source: Prometheus text exposition format 0.0.4; OpenMetrics 1.0.
"""

import re
from collections.abc import Collection, Mapping
from enum import IntEnum
from math import isfinite
from typing import NamedTuple

from tidegauge.pipeline.series import series_text, unescape


class Column(IntEnum):
    """Which value of a row of the table `app` a series has: the order of the catalogue."""

    COUNTER = 0
    GAUGE = 1
    HISTOGRAM = 2
    SUMMARY = 3
    QUANTILE = 4
    INTEGER_COUNTER = 5
    INTEGER_GAUGE = 6


class Found(NamedTuple):
    series: dict[str, tuple[int, float]]
    """Column and value by series text."""
    left_out: int
    """Series that are too long, or more than are allowed."""


class Limits(NamedTuple):
    metrics: int
    """Different names."""
    series: int


_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_QUOTED = re.compile(r'[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*')
_LABEL = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*|"(?:[^"\\]|\\.)*")[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*')
_VALUE = re.compile(r"[ \t]*([^ \t#]+)")
_TYPES = {
    "counter": Column.COUNTER,
    "histogram": Column.HISTOGRAM,
    "summary": Column.SUMMARY,
}
_PARTS = (("_bucket", ("histogram",)), ("_sum", ("histogram", "summary")), ("_count", ("histogram", "summary")))


def parse(text: str, wanted: Collection[str], limits: Limits) -> Found:
    """Series of all metrics, or of those wanted, by the name of the metric or of its family.

    ValueError names the first line that cannot be read, and nothing of what stands there; so it does for a last line without
    its end, whose value may be cut. A value that is not finite is left away: it says that there is none. Of a series that
    occurs twice the last one counts.
    """
    if text and text[-1] != "\n":
        raise ValueError("its last line is cut off")
    types: dict[str, str] = {}
    series: dict[str, tuple[int, float]] = {}
    names: set[str] = set()
    left_out = 0
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip(" \t\r")
        if not line:
            continue
        if line[0] == "#":
            words = line.split(None, 3)
            if len(words) == 4 and words[1] == "TYPE":
                types[_unquoted(words[2])] = words[3].strip()
            continue
        try:
            name, labels, value = _sample(line)
        except ValueError:
            raise ValueError(f"line {number} is none of Prometheus' text format") from None
        column, family = _column(name, labels, types)
        if not isfinite(value) or (wanted and name not in wanted and family not in wanted):
            continue
        try:
            key = series_text(name, labels)
        except ValueError:
            left_out += 1
            continue
        if key not in series:
            if len(series) >= limits.series or (name not in names and len(names) >= limits.metrics):
                left_out += 1
                continue
            names.add(name)
        series[key] = (column, value)
    return Found(series, left_out)


def _sample(line: str) -> tuple[str, dict[str, str], float]:
    match = _NAME.match(line)
    name = match[0] if match else ""
    at = match.end() if match else 0
    at = _past_blanks(line, at)
    labels: dict[str, str] = {}
    if at < len(line) and line[at] == "{":
        at += 1
        while True:
            if (label := _LABEL.match(line, at)) is not None:
                key = _unquoted(label[1])
                if key in labels:
                    raise ValueError("a label twice")
                labels[key] = unescape(label[2])
            elif not name and (label := _QUOTED.match(line, at)) is not None:
                name = unescape(label[1])
            at = _past_blanks(line, at if label is None else label.end())
            closing = line[at : at + 1]
            at += 1
            if closing == "}":
                break
            if closing != "," or label is None:
                raise ValueError("no end of the labels")
    if not name or (value := _VALUE.match(line, at)) is None or "_" in value[1]:
        raise ValueError("no name or no value")
    return name, labels, float(value[1])


def _past_blanks(line: str, at: int) -> int:
    while at < len(line) and line[at] in " \t":
        at += 1
    return at


def _unquoted(text: str) -> str:
    return unescape(text[1:-1]) if text[:1] == '"' else text


def _column(name: str, labels: Mapping[str, str], types: Mapping[str, str]) -> tuple[Column, str]:
    """Where its value goes, and the family that it belongs to."""
    type_ = types.get(name)
    if type_ == "counter":
        return Column.COUNTER, name
    if type_ == "summary" and "quantile" in labels:
        return Column.QUANTILE, name
    if type_ is None:
        for suffix, owners in _PARTS:
            family = name.removesuffix(suffix)
            if family != name and (owner := types.get(family, "")) in owners:
                return _TYPES[owner], family
        family = name.removesuffix("_total")
        if family != name and types.get(family) == "counter":
            return Column.COUNTER, family
    return Column.GAUGE, name

"""`tidegauge history CONTAINER METRIC`: asks the running one about the past, and plots the answer."""

import csv
import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click
import msgspec

from tidegauge.cli.options import common, load
from tidegauge.cli.plot import Bucket, chart, sparkline
from tidegauge.cli.running import ask
from tidegauge.pipeline.config import Config
from tidegauge.pipeline.history_query import Given, span
from tidegauge.pipeline.records import UNLIMITED

_CHARTS = 3
"""So many series have a plot each; more have a line each."""
_HEIGHT = 11
_NARROW = 40
_STEPS_MS = tuple(
    1000 * s for s in (1, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 604_800)
)


@click.command("history")
@click.argument("container", required=False)
@click.argument("metric", required=False)
@click.option("--since", default="1h", show_default=True, metavar="TIME", help="24h ago, or a time as 2026-01-31T12:00:00Z.")
@click.option("--until", metavar="TIME", help="The end; now without it.")
@click.option("--bucket", metavar="DURATION", help="Width of the buckets, e.g. 5m; by the width of the terminal without it.")
@click.option("--agg", default="avg", show_default=True, help="avg min max last sum count increase rate median, or p95 ...")
@click.option("--instance", help="Interface, disk ..., exact or with *; all of them, summed, without it.")
@click.option("--host", multiple=True, help="Only of this host; may be repeated, and hold *, like those below.")
@click.option("--namespace", multiple=True, help="Only of this namespace.")
@click.option("--image", multiple=True, help="Only of this image.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="Only with this label.")
@click.option(
    "--group", metavar="WORDS", help="One series for containers that agree in: name, host, namespace, label:KEY, none ..."
)
@click.option("--top", type=click.IntRange(1), help="Only the greatest so many.")
@click.option("--resolution", type=click.Choice(["auto", "raw", "5m", "1h"]), help="Samples or roll-ups; auto without it.")
@click.option("--store", metavar="SINK", help="Name of the sink that is asked.")
@click.option("--format", "form", type=click.Choice(["plot", "table", "csv", "json"]), default="plot", show_default=True)
@common
def command(
    config_file: Path | None,
    state_dir: Path | None,
    assignments: tuple[str, ...],
    container: str | None,
    metric: str | None,
    form: str,
    **asked: Any,
) -> None:
    """Show what METRIC of CONTAINER was. CONTAINER is a path, name, alias or beginning of an id, or holds * for several.

    Counters are shown as rates. Without METRIC the metrics are listed, without CONTAINER the containers of the time.
    """
    config = load(config_file, state_dir, assignments)
    if container is None or metric is None:
        _list(config, container, asked)
        return
    width = _width()
    parameters = _parameters(asked, container)
    if asked["bucket"] is None:
        given = {name: [asked[name]] for name in ("since", "until") if asked[name] is not None}
        parameters.append(("bucket", _fitting_bucket(*span(Given(given), time.time_ns() // 1_000_000), width)))
    text = ask(config, "GET", f"/api/v1/history/query?{urlencode([('metric', metric), *parameters])}", silence_s=60)
    if form == "json":
        click.echo(msgspec.json.format(text, indent=2).decode())
        return
    answer = msgspec.json.decode(text)
    if form == "csv":
        click.echo(as_csv(answer), nl=False)
        return
    if not answer["series"]:
        click.echo(f"no such container was sampled from {_span(answer)}; `tidegauge history` lists those that are", err=True)
        sys.exit(1)
    is_ascii = not _can_draw()
    lines = table(answer) if form == "table" else plot(answer, width, instance=asked["instance"], is_ascii=is_ascii)
    for line in lines:
        click.echo(line)


def _width() -> int:
    return max(_NARROW, shutil.get_terminal_size().columns)


def _can_draw() -> bool:
    try:
        "⣿░┤".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return os.environ.get("TERM") != "linux"  # the kernel's own console has no braille


def _parameters(asked: dict[str, Any], container: str | None) -> list[tuple[str, str]]:
    out = [] if container is None else [("container", container)]
    for name, value in asked.items():
        if isinstance(value, tuple):
            out += [(name, text) for text in value]
        elif value is not None:
            out.append((name, str(value)))
    return out


def _fitting_bucket(since_ms: int, until_ms: int, width: int) -> str:
    """The narrowest usual bucket of which no more than fit beside each other are in the span."""
    least_ms = (until_ms - since_ms) / (2 * width)
    return f"{next((step for step in _STEPS_MS if step >= least_ms), _STEPS_MS[-1])}ms"


def _list(config: Config, container: str | None, asked: dict[str, Any]) -> None:
    if container is not None:
        found = msgspec.json.decode(ask(config, "GET", "/api/v1/history/metrics"))
        width = max(len(m["name"]) for m in found["metrics"])
        for m in found["metrics"]:
            by = f" (by {m['label']})" if m["label"] else ""
            click.echo(f"{m['name'].ljust(width)}  {m['asked_as'].ljust(8)}  {m['help']}{by}")
        return
    names = ("since", "until", "host", "namespace", "image", "label", "store")
    query = urlencode(_parameters({name: asked[name] for name in names}, None))
    found = msgspec.json.decode(ask(config, "GET", f"/api/v1/history/containers?{query}"))
    rows = [("HOST", "NAME", "FIRST", "LAST", "ENDED", "PATH")]
    for c in found["containers"]:
        times = (_time(c["first_ms"]), _time(c["last_ms"]), "-" if c["ended_ms"] is None else _time(c["ended_ms"]))
        rows.append((_text(c["host"]), _text(c["name"] or "-"), *times, _text(c["path"])))
    for line in _columns(rows):
        click.echo(line)
    if found["found"] > len(found["containers"]):
        click.echo(f"{found['found'] - len(found['containers'])} more that ended earlier are not shown", err=True)


def plot(answer: dict[str, Any], width: int, *, instance: str | None = None, is_ascii: bool = False) -> list[str]:
    """Lines: a heading, and a plot of each series or a line of blocks, with least, mean and greatest of the buckets."""
    number = formatter(answer["unit"])
    is_binary = answer["unit"].startswith("bytes")
    lines = [heading(answer), *_instances(answer, instance), ""]
    if len(answer["series"]) > _CHARTS:
        return [*lines, *_sparklines(answer, width, number, is_ascii), *_legend(answer, is_ascii)]
    drawn = [s for s in answer["series"] if any(p["value"] is not None for p in s["points"])]
    for series, name in zip(answer["series"], titles(answer), strict=True):
        lines.append(f"{name}   {_summary(series, number)}")
        if series not in drawn:
            continue
        lines += chart(_buckets(series, answer), width, _HEIGHT, number, is_ascii=is_ascii, is_binary=is_binary)
        lines.append("")
    return [*lines, *(_legend(answer, is_ascii) if drawn else ())]


def _instances(answer: dict[str, Any], instance: str | None) -> list[str]:
    """Of a metric by interface, disk ...: which there are."""
    found = [_text(name) for name in answer["instances"]]
    if not found:
        return []
    listed = ", ".join(found[:8]) + (" ..." if len(found) > 8 else "")
    if instance is None:
        return [f"of {listed}" if len(found) == 1 else f"sum of {listed}"]
    fits = [name for name in answer["instances"] if name == instance or fnmatchcase(name, instance)]
    return [f"of {', '.join(map(_text, fits[:8]))}" if fits else f"none fits {_text(instance)}: there are {listed}"]


def _sparklines(answer: dict[str, Any], width: int, number: Callable[[float], str], is_ascii: bool) -> list[str]:
    names = titles(answer)
    values = ["unknown" if s["value"] is None else number(s["value"]) for s in answer["series"]]
    wide, right = min(max(map(len, names)), width // 2), max(map(len, values))
    greatest = max((p["value"] or 0 for s in answer["series"] for p in s["points"]), default=0)
    columns = max(8, width - wide - right - 2)
    return [
        f"{_cut(name, wide)} {sparkline(_buckets(s, answer), columns, greatest, is_ascii=is_ascii)} {value.rjust(right)}"
        for name, value, s in zip(names, values, answer["series"], strict=True)
    ] + [f"{'':{wide}} highest block: {number(greatest)}; right: {answer['agg']} over the whole span"]


def _legend(answer: dict[str, Any], is_ascii: bool) -> list[str]:
    states = {p["state"] for s in answer["series"] for p in s["points"]}
    parts = []
    if "last_observed" in states and len(answer["series"]) <= _CHARTS:
        parts.append("dotted: last observed")
    if "unknown" in states:
        parts.append(f"{'?' if is_ascii else '░'} unknown")
    if "gone" in states:
        parts.append("empty: no container then")
    return ["  ".join(parts)] if parts else []


def heading(answer: dict[str, Any]) -> str:
    every = "" if answer["bucket_ms"] is None else f" per {_duration(answer['bucket_ms'])}"
    made_of = "samples" if answer["resolution"] == "raw" else f"{answer['resolution']} roll-ups"
    return (
        f"{answer['metric']}, {answer['agg']}{every}, in {answer['unit']}; {_span(answer)}; from {made_of} in {answer['store']}"
    )


def titles(answer: dict[str, Any]) -> list[str]:
    """What people call each series: name and host of the container, or what its group has in common.

    Containers of one name are told apart by their paths.
    """
    found = [_title(s["labels"], s["names"][0] if s["names"] else "") for s in answer["series"]]
    return [
        _title(s["labels"], s["labels"]["path"]) if found.count(name) > 1 and "path" in s["labels"] else name
        for name, s in zip(found, answer["series"], strict=True)
    ]


def _title(labels: dict[str, str], name: str) -> str:
    if "path" in labels:
        return _text(f"{name or labels['path']} ({labels['host']})")
    return _text(" ".join(f"{k}={v or '-'}" for k, v in labels.items())) or "all"


def _summary(series: dict[str, Any], number: Callable[[float], str]) -> str:
    if series["value"] is None:
        return "nothing is known of it"
    known = [p["value"] for p in series["points"] if p["value"] is not None]
    ends = f", buckets {number(min(known))} to {number(max(known))}" if known else ""
    share = series["coverage"]
    covered = f", {share:.0%} known" if share is not None and share < 0.995 else ""
    return f"{number(series['value'])} over all{ends}{covered}"


def _buckets(series: dict[str, Any], answer: dict[str, Any]) -> list[Bucket]:
    width, until = answer["bucket_ms"], answer["until_ms"]
    return [
        Bucket(p["ts_ms"], min(p["ts_ms"] + width, until), p["value"], p["state"] == "gone", p["state"] == "last_observed")
        for p in series["points"]
    ]


def table(answer: dict[str, Any]) -> list[str]:
    """A line a bucket, a column a series, `?` for unknown and `-` for gone."""
    number = formatter(answer["unit"])
    rows: list[tuple[str, ...]] = [("TIME", *titles(answer))]
    for i, point in enumerate(answer["series"][0]["points"]):
        rows.append((_time(point["ts_ms"]), *(_cell(s["points"][i], number) for s in answer["series"])))
    rows.append(("all", *("?" if s["value"] is None else number(s["value"]) for s in answer["series"])))
    return [heading(answer), *_columns(rows, is_left=1)]


def _cell(point: dict[str, Any], number: Callable[[float], str]) -> str:
    if point["value"] is None:
        return "-" if point["state"] == "gone" else "?"
    return number(point["value"])


def as_csv(answer: dict[str, Any]) -> str:
    """A line a series and bucket; an empty value is unknown or gone, which `state` tells."""
    out = io.StringIO()
    keys = list(answer["series"][0]["labels"]) if answer["series"] else []
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["ts_ms", *keys, f"{answer['metric']} ({answer['agg']}, {answer['unit']})", "coverage", "state"])
    for series in answer["series"]:
        for p in series["points"]:
            numbers = ["" if v is None else repr(v) for v in (p["value"], p["coverage"])]
            writer.writerow([p["ts_ms"], *series["labels"].values(), *numbers, p["state"]])
    return out.getvalue()


def formatter(unit: str) -> Callable[[float], str]:
    """How a value of the unit is written for people: `512Mi`, `1.5Mi/s`, `0.25`, `3.2k`, `no limit`."""
    plain = _plain(unit)
    return lambda v: "no limit" if v >= UNLIMITED else plain(v)


def _plain(unit: str) -> Callable[[float], str]:
    if unit.startswith("bytes"):
        end = unit.removeprefix("bytes")
        return lambda v: f"{_scaled(v, 1024, ('', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei'))}{end}"
    if unit == "ns":
        return lambda v: f"{_significant(v / 1e9)}s"
    end = "/s" if unit.endswith("/s") and unit != "s/s" else ""
    return lambda v: f"{_scaled(v, 1000, ('', 'k', 'M', 'G', 'T', 'P', 'E'))}{end}"


def _scaled(value: float, base: int, prefixes: Sequence[str]) -> str:
    place = 0
    while abs(value) >= base and place < len(prefixes) - 1:
        value /= base
        place += 1
    return f"{_significant(value)}{prefixes[place]}"


def _significant(value: float) -> str:
    if value == int(value) and abs(value) < 10_000:
        return str(int(value))
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _duration(ms: int) -> str:
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if ms % size == 0:
            return f"{ms // size}{unit}"
    return f"{ms}ms"


def _span(answer: dict[str, Any]) -> str:
    return f"{_time(answer['since_ms'])} to {_time(answer['until_ms'])}"


def _time(ms: int) -> str:
    """In this machine's time zone."""
    return datetime.fromtimestamp(ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _text(value: str) -> str:
    """What a container is called may hold anything, also what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in value)


def _cut(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else f"{text[: width - 3]}..."


def _columns(rows: Sequence[Sequence[str]], is_left: int = 99) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(v.ljust(w) if i < is_left else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]

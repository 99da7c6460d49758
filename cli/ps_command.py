"""`tidegauge ps CONTAINER`: asks the running one for the processes of a container."""

import time
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click
import msgspec

from tidegauge.cli.options import common, load
from tidegauge.cli.running import ask

_LEFT = ("user", "stat", "start", "command")


@click.command("ps")
@click.argument("container", default="/")
@click.option("-r", "--recursive", is_flag=True, help="With the processes of its subcontainers.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@common
def command(
    config_file: Path | None,
    state_dir: Path | None,
    assignments: tuple[str, ...],
    container: str,
    recursive: bool,
    as_json: bool,
) -> None:
    """List the processes of CONTAINER: a path, a name, or the beginning of an id. Without it, those of the host."""
    query = urlencode({"path": container, "recursive": "true" if recursive else "false"})
    text = ask(load(config_file, state_dir, assignments), "GET", f"/api/v1/processes?{query}")
    if as_json:
        click.echo(msgspec.json.format(text, indent=2).decode())
        return
    listed = msgspec.json.decode(text)
    for line in table(listed["processes"], with_cgroup=recursive or listed["path"] == "/", now_s=time.time()):
        click.echo(line)
    if listed["skipped"]:
        click.echo(f"{listed['skipped']} more ended meanwhile, or may not be seen", err=True)


def table(processes: list[dict[str, Any]], with_cgroup: bool, now_s: float) -> list[str]:
    """Lines as `ps` writes them, a header first; `-` for what is absent. No line holds control characters."""
    header = ["user", "pid", "ppid", "%cpu", "%mem", "rss", "vsz", "stat", "start", "time", "cpu", "fds"]
    rows = [[*header, *(["cgroup"] if with_cgroup else []), "command"]]
    for p in processes:
        cells = [
            _text(p["user"]),
            str(p["pid"]),
            str(p["parent_pid"]),
            _number(p["cpu_percent"], "{:.1f}"),
            _number(p["memory_percent"], "{:.1f}"),
            _size(p["rss_bytes"]),
            _size(p["virtual_bytes"]),
            p["status"],
            _start(p["start_ms"], now_s),
            _duration(p["cpu_ns"]),
            _number(p["processor"], "{}"),
            _number(p["descriptors"], "{}"),
        ]
        line = p["command_line"]
        command = f"[{p['command']}]" if line is None else " ".join(line)
        rows.append([*cells, *([_text(p["cgroup"])] if with_cgroup else []), _text(command)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    is_left = [name in _LEFT or name == "cgroup" for name in rows[0]]
    rows[0] = [name.upper() for name in rows[0]]
    return [
        " ".join(v.ljust(w) if left else v.rjust(w) for v, w, left in zip(row, widths, is_left, strict=True)).rstrip()
        for row in rows
    ]


def _text(value: str | None) -> str:
    """What a process calls itself may hold anything, also what a terminal would obey."""
    return "-" if value is None else "".join(c if c.isprintable() else "?" for c in value)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _size(size: int) -> str:
    for unit in "BKMGT":
        if size < 1024 or unit == "T":
            break
        size //= 1024
    return f"{size}{unit}"


def _start(start_ms: int | None, now_s: float) -> str:
    """Time of day within the last 24 hours, else the date; this machine's time zone."""
    if start_ms is None:
        return "-"
    start = datetime.fromtimestamp(start_ms / 1000).astimezone()
    return start.strftime("%H:%M" if now_s - start_ms / 1000 < 86400 else "%Y-%m-%d")


def _duration(ns: int) -> str:
    minutes, seconds = divmod(ns // 1_000_000_000, 60)
    return f"{minutes}:{seconds:02}"

"""`tidegauge events`: asks the running one what happened to containers, and follows it if wanted."""

import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click
import msgspec

from tidegauge.cli.options import common, load
from tidegauge.cli.running import ask, ask_lines
from tidegauge.pipeline.times import go_duration_s

_SILENCE_S = 60.0
"""The running one sends an empty line each 15 s."""


class _Since(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return go_duration_s(str(value))
        except ValueError as exc:
            self.fail(f"expected {exc}, got {value!r}", param, ctx)


@click.command("events")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until interrupted.")
@click.option(
    "--kind", "kinds", multiple=True, help="Only of this kind (creation, deletion, oom, oom_kill ...); may be repeated."
)
@click.option("--path", default="/", show_default=True, help="Only of this cgroup path and those below it.")
@click.option("--only", is_flag=True, help="Of the path itself, not of those below it.")
@click.option("--since", type=_Since(), metavar="DURATION", help="Not older than this, e.g. 30m or 24h.")
@click.option("--limit", type=click.IntRange(0), default=100, show_default=True, help="The newest so many; 0: all.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line.")
@common
def command(
    config_file: Path | None,
    state_dir: Path | None,
    assignments: tuple[str, ...],
    follow: bool,
    kinds: tuple[str, ...],
    path: str,
    only: bool,
    since: float | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show what happened to containers: those that came and went, and those that ran out of memory."""
    config = load(config_file, state_dir, assignments)
    what = [("kind", kind) for kind in kinds] + [("path", path), ("subcontainers", "false" if only else "true")]
    past = [*what, ("limit", str(limit))]
    if since is not None:
        past.append(("start", str(round((time.time() - since) * 1000))))
    # first the stream, so that nothing falls between the two
    stream = ask_lines(config, f"/api/v1/events?{urlencode([*what, ('stream', 'true')])}", _SILENCE_S) if follow else iter(())
    try:
        next(stream, None)
        shown = set()
        for event in msgspec.json.decode(ask(config, "GET", f"/api/v1/events?{urlencode(past)}")):
            shown.add(msgspec.json.encode(event))
            _print(event, as_json)
        for event in _decoded(stream):
            if msgspec.json.encode(event) not in shown:
                _print(event, as_json)
    except KeyboardInterrupt:
        sys.exit(130)


def _decoded(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    return (msgspec.json.decode(line) for line in lines if line.strip())


def _print(event: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(event))
    elif "missed" in event:
        click.echo(f"({event['missed']} events were not taken in time)")
    else:
        at = datetime.fromtimestamp(event["ts_ms"] / 1000, UTC).isoformat(" ", "milliseconds").removesuffix("+00:00")
        name = f" ({event['name']})" if "name" in event else ""
        details = "".join(f"  {key}={value}" for key, value in event["details"].items())
        click.echo(f"{at}Z  {event['kind']:<10}  {event['path']}{name}{details}")
    sys.stdout.flush()

"""`tidegauge journal info|verify|dead-letters`."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from tidegauge.cli.options import common, load
from tidegauge.cli.running import ask
from tidegauge.pipeline.dead_letters import DeadLetters
from tidegauge.pipeline.errors import TidegaugeError
from tidegauge.pipeline.journal import info as journal_info
from tidegauge.pipeline.journal import verify as journal_verify
from tidegauge.pipeline.state import StateDir


@click.group("journal")
def command() -> None:
    """Look at the journal and at the dead letters."""


@command.command()
@common
def info(config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...]) -> None:
    """Segments, size, rows, age. Reads headers only, also while tidegauge runs."""
    folder = _folder(config_file, state_dir, assignments)
    found = journal_info(folder)
    click.echo(f"{folder}")
    click.echo(f"{found.segments} segments, {found.spare} spare, {found.broken} broken; {found.size_bytes / 2**20:.1f} MiB")
    click.echo(f"oldest row {found.first_row}" + (f", of {_time(found.first_time_ms)}" if found.first_time_ms else ""))
    if found.end_row is not None:
        click.echo(f"next row {found.end_row}; {found.accepted} rows accepted in all starts")


@command.command()
@common
def verify(config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...]) -> None:
    """Read every frame and say what is damaged. Exit code 1 if something is."""
    report = journal_verify(_folder(config_file, state_dir, assignments))
    for s in report.segments:
        damage = f", {s.damaged_places} damaged places, {s.lost_rows} rows lost" if s.damaged_places or s.lost_rows else ""
        click.echo(f"{s.name}: {s.frames} frames, {s.rows} rows, {_time(s.first_time_ms)} to {_time(s.last_time_ms)}{damage}")
    for name in report.broken:
        click.echo(f"{name}: no whole header")
    click.echo(f"{report.rows} rows, {report.lost_rows} lost; {report.accepted} accepted in all starts")
    if not report.is_whole:
        sys.exit(1)


@command.group("dead-letters")
def dead_letters() -> None:
    """Rows that a sink refused for good."""


@dead_letters.command("list")
@click.argument("sink")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, the record included.")
@common
def list_(config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...], sink: str, as_json: bool) -> None:
    """List the dead letters of SINK, oldest first. Works whether tidegauge runs or not."""
    path = _letters(config_file, state_dir, assignments, sink)
    for letter in DeadLetters(path, 0).letters():
        if as_json:
            click.echo(msgspec.json.encode(letter))
        else:
            where = f" {letter.container.path}" if letter.container is not None else ""
            click.echo(f"{letter.row}  {_time(letter.refused_ms)}  {letter.kind}{where}: {letter.reason}")


@dead_letters.command()
@click.argument("sink")
@click.argument("rows", nargs=-1, type=int)
@common
def replay(
    config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...], sink: str, rows: tuple[int, ...]
) -> None:
    """Give the dead letters of SINK (all, or those of the ROWS named) to the store once more."""
    _change("replay", config_file, state_dir, assignments, sink, rows)


@dead_letters.command()
@click.argument("sink")
@click.argument("rows", nargs=-1, type=int)
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
def discard(
    config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...], sink: str, rows: tuple[int, ...], yes: bool
) -> None:
    """Throw the dead letters of SINK away (all, or those of the ROWS named); they count as dropped."""
    if not yes:
        click.confirm(f"Throw {'all' if not rows else len(rows)} dead letters of {sink} away?", abort=True)
    _change("discard", config_file, state_dir, assignments, sink, rows)


def _change(
    action: str,
    config_file: Path | None,
    state_dir: Path | None,
    assignments: tuple[str, ...],
    sink: str,
    rows: tuple[int, ...],
) -> None:
    config = load(config_file, state_dir, assignments)
    body = msgspec.json.encode(list(rows)) if rows else b"null"
    answer = msgspec.json.decode(ask(config, "POST", f"/api/v1/dead-letters/{sink}/{action}", body))
    click.echo(", ".join(f"{key}: {value}" for key, value in answer.items()))


def _folder(config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...]) -> Path:
    folder = StateDir(load(config_file, state_dir, assignments).state_dir).journal
    if not folder.is_dir():
        raise TidegaugeError(f"{folder}: there is no journal")
    return folder


def _letters(config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...], sink: str) -> Path:
    server = StateDir(load(config_file, state_dir, assignments).state_dir).server
    known = sorted(
        {p.name.partition(".")[0] for p in server.glob("*.cursor")}
        | {p.name.partition(".")[0] for p in server.glob("*.dead-letters")}
    )
    if sink not in known:
        raise TidegaugeError(f"sink: expected one of {', '.join(known) or 'none (there is no state yet)'}, got {sink!r}")
    return server / f"{sink}.dead-letters"


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

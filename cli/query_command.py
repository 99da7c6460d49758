"""`tidegauge query "SELECT ..."`: asks the database of an SQL sink, under the same bounds as the endpoint."""

import contextlib
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from tidegauge.cli.options import common, load
from tidegauge.cli.query_forms import as_csv, as_json, as_parquet, as_table
from tidegauge.pipeline import config as configuration
from tidegauge.pipeline.errors import TidegaugeError
from tidegauge.pipeline.sql_query import MOST_ROWS, KeepsSql, Question, ask
from tidegauge.pipeline.state import server_ids
from tidegauge.sinks.sql.parquet import pyarrow

_FORMS = {"csv": as_csv, "json": as_json, "parquet": as_parquet}


@click.command("query")
@click.argument("sql")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
    help="parquet needs tidegauge[parquet].",
)
@click.option("--limit", type=click.IntRange(1, MOST_ROWS), default=10_000, show_default=True, help="Rows at most.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1, 3600), default=60.0, show_default=True, help="Seconds.")
@click.option("--sink", help="Name of the sink; else the one named sql, or the only one.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="A file instead of the terminal.")
@common
def command(
    config_file: Path | None,
    state_dir: Path | None,
    assignments: tuple[str, ...],
    sql: str,
    form: str,
    limit: int,
    timeout_s: float,
    sink: str | None,
    output: Path | None,
) -> None:
    """Ask the database in SQL: one SELECT, or - to read it from the standard input.

    The views cpu, memory, network, disk, filesystem, events and containers are made for this. Times: ms('-1 hour'),
    ms('last tuesday', '+1 day').
    """
    config = load(config_file, state_dir, assignments)
    store = _store(config, sink)
    text = sys.stdin.read() if sql == "-" else sql
    is_terminal = output is None and sys.stdout.isatty()
    if form == "parquet":
        if is_terminal:
            raise click.UsageError("--format parquet: expected --output FILE, or a pipe")
        pyarrow()
    width = shutil.get_terminal_size().columns if is_terminal else None
    question = Question(text, limit, timeout_s)
    # what a reader leaves beside a file of the server's belongs to the server, what is written here to the user
    ids = server_ids(config.server_user, config.state_dir)
    try:
        with contextlib.nullcontext(sys.stdout.buffer) if output is None else _output(output) as file:
            found = ask(store.query_target(), question, ids)
            file.write(as_table(found, width) if form == "table" else _FORMS[form](found))
            file.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    except OSError as exc:
        raise TidegaugeError(f"{output or 'standard output'}: {exc.strerror}") from exc
    if found.is_cut:
        click.echo(f"tidegauge: there are more rows than these {len(found.rows)} (--limit)", err=True)


def _store(config: configuration.Config, name: str | None) -> KeepsSql:
    found: dict[str, KeepsSql] = {}
    for each, settings in configuration.sink_tables(config).items():
        if name in (None, each) and str(settings.get("plugin") or each) not in ("memory", "stdout", "influxdb"):
            cls, _, own = configuration.split_sink(each, settings, config)
            made = cls(own)
            if isinstance(made, KeepsSql):
                found[each] = made
    if name is not None and name not in found:
        raise TidegaugeError(f"--sink {name}: there is no sink of that name that keeps its rows in SQL")
    if not found:
        raise TidegaugeError("no sink that keeps its rows in SQL is configured")
    if name is None and len(found) > 1 and "sql" not in found:
        raise TidegaugeError(f"--sink: expected one of {', '.join(sorted(found))}")
    return found[name or ("sql" if "sql" in found else next(iter(found)))]


@contextlib.contextmanager
def _output(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its new content whole, or keeps the old one; a device or pipe is written to as it is. OSError."""
    path = Path(os.path.realpath(path))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and not stat.S_ISREG(mode):
        with path.open("wb") as file:
            yield file
        return
    fresh = path.with_name(f".tidegauge-{os.getpid()}.new")
    file = fresh.open("xb")  # nobody else's, nor through a link that somebody has laid there
    try:
        with file:
            if mode is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)

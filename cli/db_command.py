"""`tidegauge db upgrade|current`."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidegauge.cli.options import common, load
from tidegauge.pipeline import config as configuration
from tidegauge.pipeline.config import Config
from tidegauge.pipeline.errors import TidegaugeError
from tidegauge.pipeline.state import StateDir, drop_to, server_ids

if TYPE_CHECKING:
    from tidegauge.sinks.sql.database import Database


@click.group("db")
def command() -> None:
    """Migrate the SQL database, or tell its revision."""


@command.command()
@common
def current(config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...]) -> None:
    """Print the revision of each SQL sink's database, and the newest one that this program knows."""
    from tidegauge.sinks.sql import migrate

    for name, database in _databases(load(config_file, state_dir, assignments)).items():
        with _explained(database):
            found = migrate.current(database)
        newest = migrate.head()
        state = "up to date" if found == newest else f"the newest is {newest}"
        click.echo(f"{name}: {found or 'no schema yet'} ({state})")


@command.command()
@common
def upgrade(config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...]) -> None:
    """Bring each SQL sink's database to the newest schema. An embedded one is migrated at start by itself.

    A server's can be migrated at any time: the agents that write to it wait meanwhile. An embedded one is left alone while
    tidegauge runs on the state folder, since its file has one writer; if there is no other, that is an error.
    """
    from tidegauge.sinks.sql import migrate

    config = load(config_file, state_dir, assignments)
    databases = _databases(config)
    state = StateDir(config.state_dir)
    if any(d.is_embedded for d in databases.values()):
        is_running = state.root.exists() and state.is_locked()
        if is_running and all(d.is_embedded for d in databases.values()):
            raise TidegaugeError(f"{config.state_dir}: tidegauge runs on this state folder; stop it first")
        if is_running:
            for name in [n for n, d in databases.items() if d.is_embedded]:
                del databases[name]
                click.echo(f"{name}: left to the tidegauge that runs on it")
        else:
            ids = server_ids(config.server_user, config.state_dir)
            state.prepare(ids)
            os.umask(0o077)
            drop_to(ids)
    for name, database in databases.items():
        with _explained(database):
            before = migrate.current(database)
            migrate.upgrade(database)
            after = migrate.current(database)
        click.echo(f"{name}: {before or 'no schema yet'} -> {after}")


@contextlib.contextmanager
def _explained(database: "Database") -> Iterator[None]:
    """What goes wrong with the database, in the words of its sink."""
    try:
        yield
    except Exception as exc:
        if (error := database.error(exc)) is not None:
            raise error from exc
        raise


def _databases(config: Config) -> "dict[str, Database]":
    """Database of each SQL sink that runs, by its name."""
    out = {}
    for name, table in configuration.sink_tables(config).items():
        if str(table.get("plugin") or name) == "sql":
            cls, _, own = configuration.split_sink(name, table, config)
            out[name] = cls(own).database
    if not out:
        raise TidegaugeError("no SQL sink is configured")
    return out

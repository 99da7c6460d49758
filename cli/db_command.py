"""`tidegauge db upgrade|current`."""

import os
from pathlib import Path

import click

from tidegauge.cli.options import common, load
from tidegauge.pipeline import config as configuration
from tidegauge.pipeline.config import Config
from tidegauge.pipeline.errors import TidegaugeError
from tidegauge.pipeline.state import StateDir, drop_to, server_ids


@click.group("db")
def command() -> None:
    """Migrate the SQL database, or tell its revision."""


@command.command()
@common
def current(config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...]) -> None:
    """Print the revision of each SQL sink's database, and the newest one that this program knows."""
    from tidegauge.sinks.sql import migrate

    for name, url in _urls(load(config_file, state_dir, assignments)).items():
        found = migrate.current(url)
        newest = migrate.head()
        state = "up to date" if found == newest else f"the newest is {newest}"
        click.echo(f"{name}: {found or 'no schema yet'} ({state})")


@command.command()
@common
def upgrade(config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...]) -> None:
    """Bring each SQL sink's database to the newest schema. An embedded one is migrated at start by itself.

    Refused while tidegauge runs on the state folder: its file has one writer.
    """
    from tidegauge.sinks.sql import migrate

    config = load(config_file, state_dir, assignments)
    state = StateDir(config.state_dir)
    if state.root.exists() and state.is_locked():
        raise TidegaugeError(f"{config.state_dir}: tidegauge runs on this state folder; stop it first")
    ids = server_ids(config.server_user, config.state_dir)
    state.prepare(ids)
    os.umask(0o077)
    drop_to(ids)
    for name, url in _urls(config).items():
        before = migrate.current(url)
        migrate.upgrade(url)
        click.echo(f"{name}: {before or 'no schema yet'} -> {migrate.current(url)}")


def _urls(config: Config) -> dict[str, str]:
    """URL of each SQL sink that runs, by its name."""
    out: dict[str, str] = {}
    for name, table in configuration.sink_tables(config).items():
        if str(table.get("plugin") or name) == "sql":
            cls, _, own = configuration.split_sink(name, table, config)
            out[name] = cls(own).url
    if not out:
        raise TidegaugeError("no SQL sink is configured")
    return out

"""`tidegauge influxdb downsampling`."""

import time
from pathlib import Path

import click

from tidegauge.cli.options import common, load
from tidegauge.pipeline import config as configuration
from tidegauge.pipeline.errors import ConfigError, TidegaugeError


@click.group("influxdb")
def command() -> None:
    """Set up what lies in InfluxDB beside the samples."""


@command.command()
@click.option("--sink", "name", help="Name of the sink; needed where there are several.")
@click.option("--every", "every_s", type=click.IntRange(1), default=300, show_default=True, help="Length of a window, seconds.")
@click.option("--retention", "retention_s", type=click.IntRange(3600), help="Seconds for which windows are kept. [for ever]")
@click.option(
    "--late",
    "late_s",
    type=click.IntRange(0),
    default=3600,
    show_default=True,
    help="How late rows may come and still count, seconds.",
)
@click.option("--since", "since_s", type=click.IntRange(1), help="1.x: also make the windows of the last so many seconds now.")
@click.option("--print", "is_print", is_flag=True, help="Print the queries or tasks and make nothing.")
@common
def downsampling(
    config_file: Path | None,
    state_dir: Path | None,
    assignments: tuple[str, ...],
    name: str | None,
    every_s: int,
    retention_s: int | None,
    late_s: int,
    since_s: int | None,
    is_print: bool,
) -> None:
    """Let InfluxDB keep means, least and greatest of longer windows, by continuous queries (1.x) or tasks (2.x).

    May be run again: what is right stays as it is. Needs the credential of one who may make these, which `--set` or the
    environment can give for this command alone.
    """
    from tidegauge.sinks.influxdb import InfluxdbSink
    from tidegauge.sinks.influxdb_admin import Downsampling
    from tidegauge.sinks.influxdb_downsampling import Step

    config = load(config_file, state_dir, assignments)
    tables = {n: t for n, t in configuration.sink_tables(config).items() if str(t.get("plugin") or n) == "influxdb"}
    native = [n for n, t in tables.items() if t.get("layout", "native") == "native"]
    if name is None and len(native) == 1:
        name = native[0]
    if name not in tables:
        raise ConfigError(f"--sink: expected one of {', '.join(tables) or 'none, no sink writes to InfluxDB'}, got {name}")
    cls, _, own = configuration.split_sink(name, tables[name], config)
    sink = cls(own)
    assert isinstance(sink, InfluxdbSink)
    if own.layout != "native":
        raise TidegaugeError(f"sinks.{name}: downsampling is made of the layout native, not {own.layout}")
    transport = sink.connect()
    try:
        work = Downsampling(transport, Step(every_s, retention_s, late_s))
        if is_print:
            for text in work.texts():
                click.echo(text)
            return
        for line in work.apply():
            click.echo(line)
        if since_s is not None:
            now_s = int(time.time())
            click.echo(f"made windows of the past: {sum(1 for _ in work.backfill(now_s - since_s, now_s))} queries")
    finally:
        transport.close()

"""`tidegauge copy`: what one store holds into another."""

from pathlib import Path

import click

from tidegauge.cli.options import common, load


@click.command()
@click.option("--from", "from_", metavar="SINK", default="sql", show_default=True, help="Sink whose store is read.")
@click.option("--to", required=True, metavar="SINK", help="Sink that is written to; it need not be enabled.")
@click.option("--since", metavar="TIME", help="From then on: 24h (ago), or 2026-01-31T12:00:00Z. Default: from the first.")
@click.option("--until", metavar="TIME", default="now", show_default=True, help="Before then.")
@common
def command(
    from_: str,
    to: str,
    since: str | None,
    until: str,
    config_file: Path | None,
    state_dir: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Copy what the store of one sink holds into that of another.

    Interrupted, the same command goes on where it was; repeated, it changes nothing. Rows that the store refuses are kept in a
    file, which is named at the end. A store that is down is waited for.
    """
    from tidegauge.cli import copying
    from tidegauge.pipeline.errors import ConfigError

    if from_ == to:
        raise ConfigError(f"--to: expected another sink than --from, got {to!r} twice")
    config = load(config_file, state_dir, assignments)
    job = copying.span(since, until)
    sink, options = copying.sink_of(config, to, "--to")
    folder = copying.prepare(config, to, sink)
    source = copying.source_of(config, from_)
    try:
        copying.deliver(f"{from_} -> {to}", f"{from_}-to-{to}", source, sink, options, folder, job)
    finally:
        source.close()

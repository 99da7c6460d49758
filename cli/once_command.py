"""`tidegauge once`: two readings of everything, straight to standard output. Opens no state, no journal, no sink's store."""

from pathlib import Path

import click

from tidegauge.cli.options import common, load
from tidegauge.pipeline import collecting, logs, sampling
from tidegauge.pipeline.identity import Origin
from tidegauge.pipeline.state import boot_id


@click.command("once")
@click.option("--format", "format_", type=click.Choice(["table", "json", "line"]), default="table", show_default=True)
@common
def command(config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...], format_: str) -> None:
    """Read everything twice, one base interval apart, and print the second reading (a table also shows rates)."""
    from tidegauge.sinks.stdout import StdoutConfig, StdoutSink

    config = load(config_file, state_dir, assignments)
    logs.configure("once", config.log.level, config.log.format)
    collectors, catalogue = collecting.build(config)
    origin = Origin("", config.host, boot_id(config.roots.proc))
    records = sampling.sample_once(config.sampler, collectors, catalogue, origin)
    sink = StdoutSink(StdoutConfig(format=format_))
    sink.open()
    sink.write([r for r in records if isinstance(r, sink.takes)])
    sink.close()

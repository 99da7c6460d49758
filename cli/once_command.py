"""`tidegauge once`: two readings of everything, straight to standard output. Opens no state, no journal, no sink's store."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from tidegauge.cli.options import common, load
from tidegauge.pipeline import collecting, logs, sampling
from tidegauge.pipeline.identity import Origin
from tidegauge.pipeline.records import Batch, Record
from tidegauge.pipeline.state import boot_id


@click.command("once")
@click.option("--format", "format_", type=click.Choice(["table", "json", "line"]), default="table", show_default=True)
@common
def command(
    config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...], format_: Literal["table", "json", "line"]
) -> None:
    """Read everything twice, one base interval apart, and print the second reading; a table has the rates between them."""
    from tidegauge.sinks.stdout import StdoutConfig, StdoutSink, Table

    config = load(config_file, state_dir, assignments)
    logs.configure("once", config.log.level, config.log.format)
    collectors, catalogue = collecting.build(config)
    origin = Origin("", config.host, boot_id(config.roots.proc))
    binder = collecting.build_binder(config)
    binder.start()
    before, last = two_readings(sampling.sample_once(config.sampler, collectors, catalogue, origin, naming=binder))
    binder.stop()
    if format_ == "table":
        table = Table()
        table.remember(before)
        for line in table.lines(last):
            click.echo(line)
        return
    sink = StdoutSink(StdoutConfig(format=format_))
    sink.open()
    sink.write([last])
    sink.close()


def two_readings(records: Sequence[Record]) -> tuple[Batch, Batch]:
    """All samples but the last of each container, and these last ones, ordered by path."""
    batches = [r for r in records if isinstance(r, Batch)]
    schemas = {k: v for b in batches for k, v in b.schemas.items()}
    containers = {k: v for b in batches for k, v in b.containers.items()}
    samples = [s for b in batches for s in b.samples]
    newest = {s.container: i for i, s in enumerate(samples)}
    early = [s for i, s in enumerate(samples) if newest[s.container] != i]
    late = sorted((samples[i] for i in newest.values()), key=lambda s: containers[s.container].path)
    return Batch(early, range(len(early)), schemas, containers), Batch(late, range(len(late)), schemas, containers)

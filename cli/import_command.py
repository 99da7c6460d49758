"""`tidegauge import`: Parquet files that `export` has written, into a store."""

from pathlib import Path

import click

from tidegauge.cli.options import common, load


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--to", required=True, metavar="SINK", help="Sink that is written to; it need not be enabled.")
@click.option("--since", metavar="TIME", help="From then on: 24h (ago), or 2026-01-31T12:00:00Z. Default: from the first.")
@click.option("--until", metavar="TIME", default="now", show_default=True, help="Before then.")
@common
def command(
    folder: Path,
    to: str,
    since: str | None,
    until: str,
    config_file: Path | None,
    state_dir: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Write what `tidegauge export` wrote to FOLDER into the store of a sink.

    As `tidegauge copy`: it goes on where it was interrupted, and repeated it changes nothing.
    """
    import hashlib

    from tidegauge.cli import copying
    from tidegauge.sinks.sql import parquet
    from tidegauge.sinks.sql.tables_source import TableRecords

    config = load(config_file, state_dir, assignments)
    job = copying.span(since, until)
    sink, options = copying.sink_of(config, to, "--to")
    folder = folder.absolute()
    state = copying.prepare(config, to, sink)
    source = TableRecords(parquet.ParquetTables(folder))
    name = f"import-{hashlib.blake2b(str(folder).encode(), digest_size=6).hexdigest()}-to-{to}"
    try:
        copying.deliver(f"{folder.name} -> {to}", name, source, sink, options, state, job)
    finally:
        source.close()

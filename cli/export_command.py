"""`tidegauge export`: a SQL store as Parquet files."""

from pathlib import Path

import click

from tidegauge.cli.options import common, load


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--from", "from_", metavar="SINK", default="sql", show_default=True, help="SQL sink whose tables are written.")
@click.option("--since", metavar="TIME", help="From then on: 24h (ago), or 2026-01-31T12:00:00Z. Default: from the first.")
@click.option("--until", metavar="TIME", default="now", show_default=True, help="Before then.")
@common
def command(
    folder: Path,
    from_: str,
    since: str | None,
    until: str,
    config_file: Path | None,
    state_dir: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Write the tables of a SQL store to FOLDER as Parquet, a file an hour and table; of roll-ups a file a day or a month.

    Whole hours, days and months are written that touch the span. A file that is there is made anew. Needs pyarrow
    (`tidegauge[parquet]`).
    """
    from tidegauge.cli import copying
    from tidegauge.pipeline.errors import ConfigError, TidegaugeError
    from tidegauge.sinks.sql import parquet
    from tidegauge.sinks.sql.sink import SqlSink

    parquet.pyarrow()
    config = load(config_file, state_dir, assignments)
    job = copying.span(since, until)
    sink, _ = copying.sink_of(config, from_, "--from")
    if not isinstance(sink, SqlSink):
        raise ConfigError(f"--from: expected a SQL sink, got {from_!r}")
    tables = sink.tables()
    try:
        first_ms = max(job.since_ms, tables.next_ms(job.since_ms) or job.since_ms)
        with copying.bars(f"{from_} -> {folder}", first_ms, job.until_ms) as (show, along):
            rows, files = parquet.export(tables, folder, job.since_ms, job.until_ms, show, along)
    except OSError as exc:
        raise TidegaugeError(f"write {exc.filename or folder}: {exc.strerror or exc}") from exc
    finally:
        tables.close()
    click.echo(f"{rows} rows in {files} files", err=True)

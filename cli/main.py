"""The command line: `tidegauge COMMAND`. Commands import what they need when they run."""

import importlib

import click

from tidegauge.pipeline.version import VERSION

_COMMANDS = {
    "run": "Sample this host and deliver to every configured sink, until stopped.",
    "once": "Read everything twice, one base interval apart, and print it.",
    "status": "Ask the running tidegauge how it is.",
    "ps": "List the processes of a container.",
    "machine": "Print what this host's machine is.",
    "history": "Plot a metric of a container over time.",
    "events": "Show what happened to containers, or follow it.",
    "copy": "Copy what one store holds into another.",
    "export": "Write a SQL store to Parquet files.",
    "import": "Write Parquet files that were exported into a store.",
    "query": "Ask the database in SQL.",
    "config": "Check the configuration, show it, or print an example.",
    "journal": "Look at the journal and at the dead letters.",
    "db": "Migrate the SQL database, or tell its revision.",
    "influxdb": "Set up downsampling in InfluxDB.",
    "version": "Print the version.",
}


class _Commands(click.Group):
    """Loads a command's module when it is asked for: `tidegauge version` imports nothing heavy."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"tidegauge.cli.{cmd_name}_command")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="tidegauge")
def main() -> None:
    """Samples containers and the host, keeps what it read in a journal on disk, and delivers it to every store."""


if __name__ == "__main__":
    main()

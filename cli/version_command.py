"""`tidegauge version`."""

import platform

import click

from tidegauge.cli.options import common
from tidegauge.pipeline.version import VERSION


@click.command("version")
@common
def command(**_: object) -> None:
    """Print the version."""
    click.echo(f"tidegauge {VERSION} (Python {platform.python_version()}, {platform.system()} {platform.release()})")

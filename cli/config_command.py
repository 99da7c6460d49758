"""`tidegauge config check|show|example`."""

import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from tidegauge.api import auth
from tidegauge.cli.options import common, load
from tidegauge.cli.toml_text import to_toml
from tidegauge.pipeline import collecting, missing, registry
from tidegauge.pipeline import config as configuration
from tidegauge.pipeline.config import SECRET_KEYS, Config
from tidegauge.pipeline.housekeeping import is_pruned
from tidegauge.pipeline.missing import Findings


@click.group("config")
def command() -> None:
    """Check the configuration, show it, or print an example."""


@command.command()
@common
def check(config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...]) -> None:
    """Check every key, those of all plug-ins that run included. Exit code 78 if something is wrong.

    Then names the metrics that are absent on this host, for this user, with the reason where it is known: that is no fault.
    """
    config = load(config_file, state_dir, assignments)
    collecting.check(config)
    warnings = auth.check(config.http)
    sinks, collectors = configuration.sink_tables(config), configuration.collector_tables(config)
    click.echo(f"The configuration is good. Sinks: {', '.join(sorted(sinks))}. Collectors: {', '.join(sorted(collectors))}.")
    for line in warnings:
        click.echo(f"Better otherwise: {line}.")
    findings = missing.find(*collecting.build(config), partial(is_pruned, config.sampler.exclude))
    for line in say_what_is_missing(findings):
        click.echo(line)


def say_what_is_missing(findings: Findings) -> Iterator[str]:
    """Lines for people."""
    if findings.absences:
        yield "Absent on this host, for this user; everything else is sampled all the same:"
    for absence in findings.absences:
        where = f", {absence.where}" if absence.where else ""
        unknown = f"none of the {findings.containers} asked has it" if absence.where == "of containers" else "not offered here"
        yield f"  {' and '.join(absence.collectors)}{where}: {'; '.join(absence.reasons) or unknown}"
        yield from textwrap.wrap(", ".join(absence.metrics), 110, initial_indent="    ", subsequent_indent="    ")
    if not findings.has_hierarchy:
        yield "No cgroup hierarchy is found, so no container will be seen."
    elif not findings.containers:
        yield "There is no container now, so what is absent of containers is not known."
    elif not findings.absences:
        yield "Everything that these collectors know is there."


@command.command()
@common
def show(config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...]) -> None:
    """Print the values in force, defaults included, secrets masked."""
    click.echo(to_toml(effective(load(config_file, state_dir, assignments))), nl=False)


@command.command()
@common
def example(config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...]) -> None:
    """Print a configuration file with every key at its default, commented out."""
    text = to_toml(effective(configuration.load(Path("/dev/null"), {}, {}), every_sink=True))
    lines = (line if not line or line.startswith("[") else f"# {line}" for line in text.splitlines())
    click.echo("# tidegauge.toml: every key with its default. Remove the # of what you change.")
    click.echo("\n".join(f"# {line}" if line.startswith("[") else line for line in lines))


def effective(config: Config, *, every_sink: bool = False) -> dict[str, Any]:
    """The configuration as a plain mapping with the defaults of every plug-in that runs (or of every sink)."""
    out: dict[str, Any] = msgspec.to_builtins(config, enc_hook=str)
    tables = configuration.sink_tables(config)
    if every_sink:
        tables = {name: tables.get(name, {}) for name in registry.available(registry.SINKS)}
    out["sinks"] = {}
    for name, table in sorted(tables.items()):
        _, options, own = configuration.split_sink(name, table, config)
        values = msgspec.to_builtins(own, enc_hook=str) | msgspec.to_builtins(options)
        out["sinks"][name] = {k: "***" if k in SECRET_KEYS else v for k, v in values.items() if v or k not in SECRET_KEYS}
    out["collectors"] = {}
    for name, table in configuration.collector_tables(config).items():
        own = registry.configure(registry.load(registry.COLLECTORS, name), f"collectors.{name}", table, config.settings)
        out["collectors"][name] = {"enabled": True} | msgspec.to_builtins(own, enc_hook=str)
    out["runtimes"] = {}
    for name, table in configuration.runtime_tables(config).items():
        own = registry.configure(registry.load(registry.RUNTIMES, name), f"runtimes.{name}", table, config.settings)
        out["runtimes"][name] = {"enabled": True} | msgspec.to_builtins(own, enc_hook=str)
    out["remotes"] = {}
    for name, table in configuration.remote_tables(config).items():
        _, remote_options, own = configuration.split_remote(name, table)
        values = msgspec.to_builtins(own, enc_hook=str) | msgspec.to_builtins(remote_options)
        out["remotes"][name] = {k: "***" if k in SECRET_KEYS else v for k, v in values.items() if v or k not in SECRET_KEYS}
    return out

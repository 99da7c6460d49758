"""The collectors and runtimes that the configuration names, built, with the catalogue that their fragments complete."""

from collections.abc import Sequence
from typing import Any

from tidegauge.pipeline import config as configuration
from tidegauge.pipeline import registry
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.config import Config
from tidegauge.pipeline.plugin import MetadataUser
from tidegauge.pipeline.remotes import Remote
from tidegauge.pipeline.runtimes import Binder


def build(config: Config) -> tuple[list[tuple[str, Any]], Catalogue]:
    """(name, collector) of every collector that runs, and the catalogue. ConfigError if a table or a fragment is wrong."""
    catalogue = Catalogue()
    collectors = []
    for name, table in configuration.collector_tables(config).items():
        cls = registry.load(registry.COLLECTORS, name)
        if (groups := getattr(cls, "groups", ())) and not config.metrics.groups.intersection(groups):
            continue
        collectors.append((name, cls(registry.configure(cls, f"collectors.{name}", table, config.settings))))
        catalogue.add(name, getattr(cls, "fragment", ()))
    return collectors, catalogue


def build_binder(config: Config) -> Binder:
    """The binder over every container runtime that is configured. ConfigError if a table is wrong."""
    runtimes = []
    for name, table in configuration.runtime_tables(config).items():
        cls = registry.load(registry.RUNTIMES, name)
        runtimes.append((name, cls(registry.configure(cls, f"runtimes.{name}", table, config.settings))))
    return Binder(runtimes, config.metadata)


def introduce(collectors: Sequence[tuple[str, Any]], binder: Binder) -> None:
    """Lets those collectors that need it ask the binder for metadata."""
    for _, collector in collectors:
        if isinstance(collector, MetadataUser):
            collector.use_metadata(binder.metadata)


def build_remotes(config: Config) -> list[Remote]:
    """The other hosts that are asked. ConfigError if a table is wrong."""
    remotes = []
    for name, table in configuration.remote_tables(config).items():
        cls, options, own = configuration.split_remote(name, table)
        remotes.append(Remote(name, options, cls(own)))
    return remotes


def check(config: Config) -> None:
    """Builds every plug-in that runs, and starts none. ConfigError for the first that is wrong."""
    collectors, _ = build(config)
    for _, collector in collectors:
        if (close := getattr(collector, "close", None)) is not None:
            close()
    build_binder(config)
    for remote in build_remotes(config):
        remote.plugin.close()
    for name, table in configuration.sink_tables(config).items():
        cls, _, own = configuration.split_sink(name, table, config)
        cls(own)

"""The collectors that the configuration names, built, with the catalogue that their fragments complete."""

from typing import Any

from tidegauge.pipeline import config as configuration
from tidegauge.pipeline import registry
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.config import Config


def build(config: Config) -> tuple[list[tuple[str, Any]], Catalogue]:
    """(name, collector) of every collector that runs, and the catalogue. ConfigError if a table or a fragment is wrong."""
    catalogue = Catalogue()
    collectors = []
    for name, table in configuration.collector_tables(config).items():
        cls = registry.load(registry.COLLECTORS, name)
        collectors.append((name, cls(registry.configure(cls, f"collectors.{name}", table, config.settings))))
        catalogue.add(name, getattr(cls, "fragment", ()))
    return collectors, catalogue

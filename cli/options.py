"""Options that every command takes, and the configuration made of them."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tidegauge.cli.cadvisor_flags import put
from tidegauge.pipeline.errors import ConfigError, TidegaugeError

if TYPE_CHECKING:
    from tidegauge.pipeline.config import Config

EXIT_CONFIG = 78
_PATH = click.Path(path_type=Path, readable=False)  # what cannot be read is said where it is needed, not by every command
F = TypeVar("F", bound=Callable[..., Any])


def common(function: F) -> F:
    """--config, --state-dir and --set; also turns our exceptions into a line and an exit code."""

    @click.option("--config", "config_file", type=_PATH, envvar="TIDEGAUGE_CONFIG", help="Configuration file (TOML).")
    @click.option("--state-dir", type=_PATH, envvar="TIDEGAUGE_STATE_DIR", help="State folder.")
    @click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        help="One key of the configuration, e.g. sampler.base_interval_s=5.",
    )
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except ConfigError as exc:
            click.echo(f"tidegauge: configuration: {exc}", err=True)
            sys.exit(EXIT_CONFIG)
        except TidegaugeError as exc:
            click.echo(f"tidegauge: {exc}", err=True)
            sys.exit(1)

    return wrapper  # type: ignore[return-value]


def load(
    config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...], flags: dict[str, Any] | None = None
) -> "Config":
    """The configuration of the common options, over `flags` of the command's own."""
    from tidegauge.pipeline import config as configuration

    merged: dict[str, Any] = dict(flags or {})
    if state_dir is not None:
        merged["state_dir"] = str(state_dir.absolute())
    for assignment in assignments:
        key, sep, value = assignment.partition("=")
        if not sep or not key:
            raise click.UsageError(f"--set: expected KEY=VALUE, got {assignment!r}")
        put(merged, key, value)
    if config_file is not None and not config_file.exists():
        raise ConfigError(f"{config_file}: there is no such file")
    return configuration.load(config_file, merged)

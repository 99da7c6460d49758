"""What `copy`, `export` and `import` have in common: sinks by name, spans, the bar, the end."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from tidegauge.pipeline import config as configuration
from tidegauge.pipeline.config import Config
from tidegauge.pipeline.copying import Job, KeepsRecords, RecordSource, TakesAlong, copy
from tidegauge.pipeline.errors import ConfigError, TidegaugeError
from tidegauge.pipeline.history_query import time_ms
from tidegauge.pipeline.options import RunnerOptions
from tidegauge.pipeline.plugin import Sink
from tidegauge.pipeline.records import Container
from tidegauge.pipeline.state import StateDir, drop_to, server_ids


def span(since: str | None, until: str) -> Job:
    """The span asked for, in ms; TidegaugeError for times that are none, or the wrong way round."""
    now_ms = time.time_ns() // 1_000_000
    job = Job(0 if since is None else time_ms(since, "--since", now_ms), time_ms(until, "--until", now_ms))
    if job.since_ms >= job.until_ms:
        raise TidegaugeError(f"--since: expected a time before --until ({text_of(job.until_ms)}), got {text_of(job.since_ms)}")
    return job


def sink_of(config: Config, name: str, option: str) -> tuple[Sink, RunnerOptions]:
    """The sink whose table bears the name, also of one that is not enabled."""
    tables = {**configuration.DEFAULT_SINKS, **config.sinks}
    if name not in tables:
        raise ConfigError(f"{option}: expected a sink of the configuration ({', '.join(sorted(tables))}), got {name!r}")
    cls, options, own = configuration.split_sink(name, tables[name], config)
    return cls(own), options


def source_of(config: Config, name: str) -> RecordSource:
    sink, _ = sink_of(config, name, "--from")
    if not isinstance(sink, KeepsRecords):
        raise ConfigError(f"--from: expected a sink whose store can be read back, such as sql; {name} cannot")
    return sink.records()


def prepare(config: Config, name: str, sink: Sink) -> Path:
    """Folder for the state of copies; from here on with the rights of the server process."""
    if not getattr(sink, "cursor_lasts", True):
        raise ConfigError(f"--to: expected a store that lasts, got {name}, which begins anew at each start")
    state = StateDir(config.state_dir)
    if state.root.exists() and state.is_locked() and getattr(sink, "path", None) is not None:
        raise TidegaugeError(
            f"--to: tidegauge runs on {config.state_dir}, and the file of {name} has one writer; stop it first"
        )
    ids = server_ids(config.server_user, config.state_dir)
    state.prepare(ids)
    os.umask(0o077)
    drop_to(ids)
    return state.server / "copies"


def text_of(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def bars(label: str, since_ms: int, until_ms: int) -> Iterator[tuple[Callable[[int], None], Callable[[float], None]]]:
    """Two bars on standard error, each from its first use on until the next begins: of records, in time of the data, which
    takes the time reached; of roll-ups, which takes the share that is done."""
    with contextlib.ExitStack() as stack:
        shown, step = None, 0

        def show(name: str, reached: int, length: int) -> None:
            nonlocal shown, step
            if shown is None or shown.label != name:
                stack.close()
                shown, step = stack.enter_context(click.progressbar(length=length, label=name, file=sys.stderr)), 0
            if reached > step:
                shown.update(reached - step)
                step = reached

        length = max(1, until_ms - since_ms)
        show(label, 0, length)
        yield lambda ms: show(label, ms - since_ms, length), lambda share: show("roll-ups", round(1000 * share), 1000)


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Whether the user or the system asks to stop: once, so that a second time ends the program."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def deliver(label: str, name: str, source: RecordSource, sink: Sink, options: RunnerOptions, folder: Path, job: Job) -> None:
    """Copies with a bar, says how it went, and exits: 0 all delivered, 1 some rows refused, 130 interrupted."""
    first_ms = source.next_ms(job.since_ms)
    is_empty = first_ms is None or first_ms >= job.until_ms
    if is_empty and not (isinstance(sink, TakesAlong) and any(isinstance(r, Container) for r in source.heads(job.until_ms))):
        click.echo("nothing to copy: no records in this span", err=True)
        return
    with bars(label, max(job.since_ms, first_ms or 0), job.until_ms) as (show, along), stoppable() as is_stopping:
        copied = copy(source, name, sink, options, folder, job, show, is_stopping, along)
    account = copied.account
    parts = [f"{account.written} rows written"]
    parts += [f"{copied.taken_along} roll-ups taken over"] if copied.taken_along else []
    parts += [f"{account.filtered} filtered"] if account.filtered else []
    parts += [f"{n} dropped ({reason})" for reason, n in account.dropped.items()]
    parts += [f"{account.dead_letter} refused, kept in {copied.dead_letters}"] if copied.dead_letters else []
    click.echo(", ".join(parts), err=True)
    if not isinstance(sink, TakesAlong):
        click.echo("roll-ups stay behind: what is older than the samples is not in the copy", err=True)
    if not copied.is_whole:
        click.echo("interrupted; the same command goes on from here", err=True)
        sys.exit(130)
    if copied.dead_letters:
        sys.exit(1)

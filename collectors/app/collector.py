"""Metrics of applications, from endpoints that containers announce by the label `io.cadvisor.metric.NAME`.

Nothing is asked unless `containers` names the container: the announcement makes a process on this host open a file and a
connection. Privileges: CAP_SYS_PTRACE for the configuration file inside the container; the scraping itself has none.
Source: cAdvisor docs/application_metrics.md.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import msgspec

from tidegauge.collectors.app import announced
from tidegauge.collectors.app.announced import Announcement, Refused
from tidegauge.collectors.app.exposition import Column
from tidegauge.collectors.app.scrape import Request
from tidegauge.collectors.app.workers import Scraper, Workers, read_file
from tidegauge.pipeline.errors import ConfigError, NoData
from tidegauge.pipeline.plugin import Metadata
from tidegauge.pipeline.records import Container, TableRow, TableRows

_MOST_BACKOFF_S = 300.0
_NONE: tuple[None, ...] = (None,) * len(Column)
_MAX_REASON = 300
Found = tuple[tuple[str, int, int | float], ...]


class AppConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    containers: tuple[str, ...] = ()
    """Containers whose announcements are followed: shell patterns of cgroup path, name or alias. None unless set."""
    interval_s: Annotated[float, msgspec.Meta(ge=1)] = 10.0
    """Between two scrapes of an endpoint that states no `polling_frequency`."""
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 5.0
    """For connection and answer together, and for reading the configuration file."""
    cpu_limit_s: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.5
    """CPU time for reading one answer, expressions included."""
    limit_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)] = 1 << 20
    """Longest answer."""
    metrics_limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    """Different metric names of one container; what is beyond is left out and counted."""
    series_limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1000
    """Series of one container, likewise."""
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    """Endpoints asked at the same time; each takes a process of some 20 MiB while it lasts."""
    ca_file: Path | None = None
    """Authorities that certificates of endpoints are checked against, PEM; the system's unless set."""
    proc: Path = Path("/proc")


class AppCollector:
    """Table `app`: a row a series, with the value in the column of its type."""

    Config = AppConfig
    groups = ("app",)
    metrics: tuple[str, ...] = ()
    tables = ("app",)
    is_slow = True
    interval_s = 1.0

    def __init__(self, config: AppConfig) -> None:
        self.config = config
        self.certificates = "" if config.ca_file is None else _certificates(config.ca_file)
        self.workers = Workers(config.concurrency)
        self._lookup: Callable[[str], Metadata | None] | None = None
        self._lock = threading.Lock()
        self._readers: dict[str, AppReader] = {}
        self._counts = {"scrapes": 0, "scrape_errors": 0, "left_out_series": 0}

    def use_metadata(self, lookup: Callable[[str], Metadata | None]) -> None:
        """Takes the way to a container's labels, addresses and process."""
        self._lookup = lookup

    def reader(self, container: Container) -> "AppReader | None":
        """A reader for a container that may announce and does. NoData: not, or not yet."""
        if container.is_host or not self.config.containers:
            return None
        if self._lookup is None:
            raise NoData("what containers announce is known only while tidegauge runs")
        said = self._lookup(container.instance)
        if said is None or not self.announcements(container, said):
            raise NoData("it announces nothing that is to be followed")
        reader = AppReader(self, container)
        with self._lock:
            self._readers[container.instance] = reader
        return reader

    def said(self, container: Container) -> Metadata | None:
        return None if self._lookup is None else self._lookup(container.instance)

    def announcements(self, container: Container, said: Metadata) -> dict[str, str]:
        """Configuration file by name of the announcement; none if the container is not among those allowed."""
        if not (found := announced.announcements(said.labels)):
            return {}
        names = [container.path, *(n for n in (said.name, container.name) if n), *said.aliases]
        return found if any(fnmatchcase(n, p) for p in self.config.containers for n in names) else {}

    def counters(self) -> Mapping[str, int]:
        """Scrapes, those that failed, and series left out as too many or too long."""
        with self._lock:
            return dict(self._counts)

    def complaint(self) -> str | None:
        """The first endpoint that is not read, and why."""
        with self._lock:
            readers = sorted(self._readers.values(), key=lambda r: r.container.path)
        return next((text for r in readers if (text := r.complaint()) is not None), None)

    def count(self, **counts: int) -> None:
        with self._lock:
            for name, n in counts.items():
                self._counts[name] += n

    def forget(self, reader: "AppReader") -> None:
        with self._lock:
            if self._readers.get(reader.container.instance) is reader:
                del self._readers[reader.container.instance]

    def close(self) -> None:
        self.workers.stop()


class AppReader:
    """What the endpoints of one container said last. Rows come whenever one of them was asked.

    A series of another one, not asked since its last rows, has a row without a value: it is there still, and was not read.
    """

    def __init__(self, collector: AppCollector, container: Container) -> None:
        self.container = container
        self._collector = collector
        self._said: Metadata | None = None
        self._endpoints: tuple[_Endpoint, ...] = ()
        self._fresh: tuple[bool, ...] = ()
        self._left_out = 0

    def read(self) -> tuple[()] | None:
        """Has endpoints asked that are due. None: nothing new since the last call."""
        self._collector.workers.trim()
        if (said := self._collector.said(self.container)) is not None and said is not self._said:
            self._follow(said)
        now_s = time.monotonic()
        for endpoint in self._endpoints:
            endpoint.start_if_due(now_s)
        self._fresh = tuple([e.take_fresh() for e in self._endpoints])
        return () if any(self._fresh) else None

    def read_tables(self) -> tuple[TableRows | None]:
        found = [(e.found, is_fresh) for e, is_fresh in zip(self._endpoints, self._fresh, strict=True)]
        rows, self._left_out = joined(found, self._collector.config)
        self._collector.count(left_out_series=self._left_out)
        return (rows,)

    def complaint(self) -> str | None:
        for endpoint in self._endpoints:
            if endpoint.fault:
                return f"{self.container.path}: {announced.PREFIX}{endpoint.name[:100]}: {endpoint.fault}"[:_MAX_REASON]
        if self._left_out:
            return f"{self.container.path}: {self._left_out} series left out: too many of its endpoints together"[:_MAX_REASON]
        return None

    def close(self) -> None:
        self._collector.forget(self)

    def _follow(self, said: Metadata) -> None:
        """Begins anew with those announcements that are not as before."""
        before = {e.key: e for e in self._endpoints}
        facts = (said.pid, said.addresses, said.network)
        keys = [(name, file, *facts) for name, file in self._collector.announcements(self.container, said).items()]
        self._endpoints = tuple(before.get(k) or _Endpoint(self._collector, self.container, k, said) for k in keys)
        self._said = said


class _Endpoint:
    """One announcement. `_scrape` on a worker's thread, the rest on the slow collector's; never two scrapes at a time."""

    def __init__(self, collector: AppCollector, container: Container, key: tuple[object, ...], said: Metadata) -> None:
        self.key = key
        self.name = str(key[0])
        self.found: Found = ()
        self.fault = ""
        self._file = str(key[1])
        self._collector = collector
        self._container = container
        self._said = said
        self._announcement: Announcement | None = None
        self._due_s = 0.0
        self._failures = 0
        self._is_running = False
        self._is_fresh = False

    def start_if_due(self, now_s: float) -> None:
        if not self._is_running and now_s >= self._due_s:
            self._is_running = True
            self._collector.workers.submit(self._run)

    def take_fresh(self) -> bool:
        """True once after each scrape that found something."""
        is_fresh, self._is_fresh = self._is_fresh, False
        return is_fresh

    def _run(self, scraper: Scraper) -> None:
        begun_s = time.monotonic()
        config = self._collector.config
        try:
            faults = self._scrape(scraper, config)
        except Exception as exc:  # noqa: BLE001 - whatever one container's endpoint does, the others go on
            faults = (str(exc) if isinstance(exc, Refused) else f"{type(exc).__name__}: {exc}",)
            self.found = ()
        self.fault = "".join(c if c.isprintable() else "\ufffd" for c in faults[0][:_MAX_REASON]) if faults else ""
        self._failures = 0 if self.found or not faults else self._failures + 1
        if self._failures:
            self._announcement = None  # the file may have been mended
        interval_s = config.interval_s if self._announcement is None else self._announcement.interval_s
        self._due_s = begun_s + max(interval_s, min(_MOST_BACKOFF_S, interval_s * 2 ** min(self._failures, 10)))
        self._collector.count(scrapes=1, scrape_errors=int(bool(faults)))
        self._is_fresh = bool(self.found)
        self._is_running = False

    def _scrape(self, scraper: Scraper, config: AppConfig) -> Sequence[str]:
        if self._announcement is None:
            self._announcement = self._announced(config)
        target, _, wanted, metrics = self._announcement
        answer = scraper.ask(
            Request(
                target,
                wanted,
                metrics,
                config.timeout_s,
                config.cpu_limit_s,
                config.limit_bytes,
                config.metrics_limit,
                config.series_limit,
                self._collector.certificates,
            )
        )
        self.found = answer.series
        if answer.left_out:
            self._collector.count(left_out_series=answer.left_out)
            return answer.faults or (f"{answer.left_out} series left out: too many, or too long",)
        return answer.faults

    def _announced(self, config: AppConfig) -> Announcement:
        addresses = announced.own_addresses(self._said)
        if self._said.pid is None:
            raise Refused("the runtime does not tell its process, through which its files are seen")
        raw = read_file(str(config.proc), self._said.pid, self._container.path, self._file, config.timeout_s)
        return announced.parse(self.name, raw, addresses, config.interval_s)


def _certificates(file: Path) -> str:
    """The file's text. ConfigError if it cannot be read or holds no certificate."""
    import ssl

    try:
        text = file.read_text("ascii")
        if not text.strip():
            raise ValueError("it is empty")
        ssl.create_default_context(cadata=text)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"collectors.app.ca_file: expected a file in PEM, got {file}: {exc}") from exc
    return text


def joined(found: Sequence[tuple[Found, bool]], config: AppConfig) -> tuple[TableRows, int]:
    """Rows of the table `app` within the limits of one container, and how many series are beyond.

    With what each endpoint said goes whether it said so since the last time; what it did not has no value.
    """
    rows: dict[str, TableRow] = {}
    names: set[str] = set()
    left_out = 0
    for series, is_fresh in found:
        for text, column, value in series:
            name = text.partition("{")[0]
            if text not in rows:
                if len(rows) >= config.series_limit or (name not in names and len(names) >= config.metrics_limit):
                    left_out += 1
                    continue
                names.add(name)
                rows[text] = (text, *_NONE)
            if is_fresh:
                rows[text] = (text, *_NONE[:column], value, *_NONE[column + 1 :])
    return tuple(rows.values()), left_out

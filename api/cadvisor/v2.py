"""The request types of v2.0 and v2.1 that are answered from containers. Worker threads."""

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tidegauge.api.cadvisor import machine, spec, stats, summary
from tidegauge.api.cadvisor import shapes as s
from tidegauge.api.cadvisor.catalog import Entry
from tidegauge.api.cadvisor.errors import ApiError, Status
from tidegauge.api.cadvisor.reading import Reading, go_time
from tidegauge.api.cadvisor.request import Asked, Options
from tidegauge.api.cadvisor.series import encode
from tidegauge.api.cadvisor.sources import Sources
from tidegauge.pipeline.plugin import ColumnReader
from tidegauge.pipeline.series import split_series

_UUID = re.compile(r"[0-9A-Za-z-]{1,64}")
BY_UUID = Path("/dev/disk/by-uuid")


def entries_of(name: str, options: Options, sources: Sources) -> list[Entry]:
    """Containers that a v2 request names. ApiError: there is none."""
    catalog = sources.catalog
    if options.id_type != "name":
        if options.is_recursive:
            if name != "/":
                raise ApiError(
                    f'invalid request for {options.id_type} container "{name}" with subcontainers', Status.BAD_REQUEST
                )
            return catalog.of_runtime(options.id_type)
        return [catalog.named(name.removeprefix("/"), options.id_type)]
    if options.is_recursive:
        entries = catalog.below(name, sources.is_strict)
        if not entries:
            raise ApiError(f'unknown container: "{name}"', Status.NOT_FOUND)
        return entries
    entry = catalog.by_path.get(name)
    if entry is None:
        raise ApiError(f'unknown container "{name}"', Status.NOT_FOUND)
    return [entry]


def _object(entries: list[Entry], value: Callable[[Entry], bytes | None]) -> Iterator[bytes]:
    """A JSON object by name, an entry at a time; entries without a value are left out."""
    opening = b"{"
    for entry in entries:
        if (encoded := value(entry)) is not None:
            yield opening + encode(entry.path) + b":" + encoded
            opening = b","
    yield b"{}" if opening == b"{" else b"}"


def _spec(entry: Entry, sources: Sources) -> s.ContainerSpec:
    return spec.of(
        entry.container,
        entry.reading(),
        sources.catalog.machine,
        for_v2=True,
        has_secrets=sources.may_see_secrets,
        is_strict=sources.is_strict,
    )


def _readings(entry: Entry, options: Options, sources: Sources) -> list[Reading]:
    return sources.series.readings(entry, options.wanted, sources.store, sources.history, sources.catalog.host)


def specs(asked: Asked, options: Options, sources: Sources) -> Iterator[bytes]:
    return _object(entries_of(asked.container, options, sources), lambda entry: encode(_spec(entry, sources)))


def stats_v20(asked: Asked, options: Options, sources: Sources) -> Iterator[bytes]:
    def value(entry: Entry) -> bytes:
        its, found, before = _spec(entry, sources), [], None
        for reading in _readings(entry, options, sources):
            found.append(encode(stats.of_v20(reading, before, sources.catalog.host, its, sources.is_strict)))
            before = reading
        return b"[" + b",".join(found) + b"]"

    return _object(entries_of(asked.container, options, sources), value)


def stats_v21(asked: Asked, options: Options, sources: Sources) -> Iterator[bytes]:
    """Without the root, as there."""

    def value(entry: Entry) -> bytes | None:
        if entry.path == "/":
            return None
        its, found, before = _spec(entry, sources), [], None
        for reading in _readings(entry, options, sources):
            found.append(encode(stats.of_v21(reading, before, sources.catalog.host, its, sources.is_strict)))
            before = reading
        return b'{"spec":' + encode(its) + b',"stats":[' + b",".join(found) + b"]}"

    return _object(entries_of(asked.container, options, sources), value)


def machine_stats(options: Options, sources: Sources) -> Iterator[bytes]:
    """Samples of the root, whatever the path says."""
    root = sources.catalog.by_path.get("/")
    if root is None:
        raise ApiError('unknown container "/"', Status.NOT_FOUND)
    its, found, before = _spec(root, sources), [], None
    for reading in _readings(root, options, sources):
        found.append(stats.of_machine(reading, before, sources.catalog.host, its, sources.is_strict))
        before = reading
    yield encode(found)


def app_metrics(asked: Asked, options: Options, sources: Sources) -> Iterator[bytes]:
    def value(entry: Entry) -> bytes:
        found: dict[str, dict[str, list[s.MetricValBasic]]] = {}
        for reading in _readings(entry, options, sources):
            for text, row in sorted(reading.table("app").items()):
                name, _ = split_series(text)
                number = next((v for v in row.values() if v is not None), None)
                if number is not None:
                    basic = s.MetricValBasic(
                        timestamp=go_time(reading.ts_ms),
                        int_value=number if isinstance(number, int) else 0,
                        float_value=0.0 if isinstance(number, int) else number,
                    )
                    found.setdefault(name, {}).setdefault(text[len(name) :].strip("{}"), []).append(basic)
        return encode(found)

    return _object(entries_of(asked.container, options, sources), value)


def summaries(asked: Asked, options: Options, sources: Sources) -> Iterator[bytes]:
    deadline_s = time.monotonic() + summary.BUDGET_S
    history = sources.history if isinstance(sources.history, ColumnReader) else None

    def value(entry: Entry) -> bytes | None:
        made = sources.summaries.of(entry, sources.store, history, deadline_s)
        return None if made is None else encode(made)

    return _object(entries_of(asked.container, options, sources), value)


def storage(options: Options, sources: Sources, by_uuid: Path = BY_UUID) -> Iterator[bytes]:
    root = sources.catalog.by_path.get("/")
    reading = None if root is None else root.reading()
    found = [] if reading is None else machine.storage(sources.catalog.machine, reading)
    if options.uuid:
        device = _device(options.uuid, by_uuid)
        one = next((f for f in found if device is not None and os.path.realpath(f.device) == device), None)
        if one is None:
            raise ApiError("cadvisor: no such device", Status.NOT_FOUND)
        yield encode(one)
        return
    if options.label:
        found = [f for f in found if options.label in f.labels]
        if not found:
            raise ApiError(f'non-existent label "{options.label}"', Status.NOT_FOUND)
    yield encode(found)


def _device(uuid: str, by_uuid: Path) -> str | None:
    """The device that the link of this name leads to."""
    return os.path.realpath(by_uuid / uuid) if _UUID.fullmatch(uuid) and (by_uuid / uuid).is_symlink() else None

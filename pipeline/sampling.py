"""Puts the sampler together with its coarse jobs, and runs it once without them."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.identity import Origin
from tidegauge.pipeline.log_thread import Item
from tidegauge.pipeline.metadata import MetadataConfig
from tidegauge.pipeline.naming import Naming
from tidegauge.pipeline.records import Batch, Container, Record, Sample, Schema
from tidegauge.pipeline.runtimes import Binder
from tidegauge.pipeline.sampler import Sampler
from tidegauge.pipeline.sampler_config import SamplerConfig
from tidegauge.pipeline.schedule import Schedule
from tidegauge.pipeline.slow import SlowReadings
from tidegauge.pipeline.specs import RUN_INTERVAL_S

WALK = "discovery walk"
RESYNC = "metadata resync"
SPECS = "limits"
MACHINE = "machine"


def add_jobs(schedule: Schedule, sampler: Sampler, config: SamplerConfig) -> None:
    """The sampler's coarse jobs: the walk, limits, the machine, and each slow collector at once and then at its interval."""
    schedule.add(WALK, sampler.walk_job, config.walk_interval_s)
    schedule.add(SPECS, sampler.specs.run, RUN_INTERVAL_S)
    schedule.add(MACHINE, sampler.machine_job, config.machine_interval_s, is_first_now=True)
    for slow in sampler.slow:
        schedule.add(_slow_job(slow.source.name), slow.run, _slow_interval_s(slow, config), is_first_now=True)
    sampler.request_walk = lambda: schedule.run_soon(WALK)
    sampler.on_clock_step = schedule.clock_stepped


def add_binder(schedule: Schedule, binder: Binder, config: MetadataConfig) -> None:
    """The job that finds out what of the containers' metadata changed unnoticed."""
    schedule.add(RESYNC, binder.resync, config.resync_interval_s)


def reload_binder(schedule: Schedule, binder: Binder, config: MetadataConfig) -> None:
    """Takes over a changed table `[metadata]` while running. Any thread."""
    schedule.set_interval(RESYNC, config.resync_interval_s)
    binder.reload(config)


def reload(schedule: Schedule, sampler: Sampler, config: SamplerConfig) -> None:
    """Takes over a changed configuration while running. Any thread."""
    schedule.set_interval(WALK, config.walk_interval_s)
    schedule.set_interval(MACHINE, config.machine_interval_s)
    for slow in sampler.slow:
        schedule.set_interval(_slow_job(slow.source.name), _slow_interval_s(slow, config))
    sampler.reload(config)


def _slow_job(name: str) -> str:
    return f"collector {name}"


def _slow_interval_s(slow: SlowReadings, config: SamplerConfig) -> float:
    return config.slow_interval_s if slow.source.interval_s is None else slow.source.interval_s


class Collected:
    """An outlet that keeps everything, as records in order."""

    def __init__(self) -> None:
        self.items: list[Item] = []

    def put(self, items: Sequence[Item], time_ms: int) -> bool:
        self.items.extend(items)
        return True

    def records(self) -> list[Record]:
        """All of it as sinks get it, numbered from row 0."""
        row = 0
        out: list[Record] = []
        schemas: dict[int, Schema] = {}
        containers: dict[int, Container] = {}
        for item in self.items:
            if isinstance(item, list):
                samples: list[Sample] = item
                out.append(Batch(samples, range(row, row + len(samples)), dict(schemas), dict(containers)))
                row += len(samples)
                continue
            record = msgspec.structs.replace(item, row=row)
            row += 1
            out.append(record)
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Container):
                containers[record.number] = record
        return out


def sample_once(
    config: SamplerConfig,
    collectors: Sequence[tuple[str, Any]],
    catalogue: Catalogue,
    origin: Origin,
    slow_deadline_s: float = 5.0,
    naming: Naming | None = None,
) -> list[Record]:
    """Two readings of everything, one base interval apart, as records: schemas, containers, two batches at least.

    Opens no state. Takes one base interval; slow collectors that miss the deadline are None in the second reading too.
    """
    collected = Collected()
    steady = msgspec.structs.replace(config, dynamic=False, policies=(), slow_budget_percent=100.0)
    sampler = Sampler(steady, collectors, catalogue, origin, collected, naming=naming)
    try:
        sampler.begin()
        due_ns = sampler.turn()
        workers = [threading.Thread(target=slow.run, daemon=True) for slow in sampler.slow]
        for worker in workers:
            worker.start()
        deadline = time.monotonic() + slow_deadline_s
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        time.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
        sampler.turn()
    finally:
        sampler.close()
    return collected.records()

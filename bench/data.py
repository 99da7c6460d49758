"""Generated samples with every metric of the catalogue's table `sample`, and on demand a row or two of each table."""

import random
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from bench.collect import container
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.records import Batch, Container, Kind, Metric, Sample, Schema, TableRows

START_MS = 1_700_000_000_000
TABLES = ("disk_io", "percpu", "network")


@cache
def schema() -> Schema:
    """Every metric of one value a container, and the three tables that containers have."""
    catalogue = Catalogue()
    return catalogue.schema([m.name for m in catalogue.of_table("sample")], TABLES)


def containers(count: int) -> dict[int, Container]:
    """Containers by number, with paths as long as Docker's and no names."""
    return {n: container(n, f"/docker/{n:064x}") for n in range(1, count + 1)}


def ticks(count: int, of: dict[int, Container], *, has_tables: bool = False, share_busy: float = 0.35) -> Iterator[Batch]:
    """`count` batches, one second apart; in each tick the values of this share of the containers move, the others repeat.

    Counters begin as large as after weeks of service, so that numbers have their real length.
    """
    rng = random.Random(7)
    metrics = schema().metrics

    def moved(metric: Metric, value: int) -> int:
        return value + rng.randrange(10**6) if metric.kind is Kind.COUNTER else max(0, value + rng.randrange(-4096, 4097))

    values = {n: [rng.randrange(10**6, 10**13 if m.unit == "ns" else 10**9) for m in metrics] for n in of}
    counters = {n: rng.randrange(10**8, 10**10) for n in of}
    row = 1
    for tick in range(count):
        ts_ms = START_MS + 1000 * tick
        samples = []
        for n in of:
            if rng.random() < share_busy:
                values[n] = [moved(m, v) for m, v in zip(metrics, values[n], strict=True)]
                counters[n] += rng.randrange(10**5)
            tables: tuple[TableRows | None, ...] = _tables(counters[n]) if has_tables else ()
            samples.append(Sample(n, ts_ms, schema().id, tuple(values[n]), tables))
        yield Batch(samples, range(row, row + len(samples)), {schema().id: schema()}, of)
        row += len(samples)


def _tables(c: int) -> tuple[TableRows, ...]:
    return (
        (("254:0", c, c // 3, 0, c, 0, c >> 12, c >> 13, 0, c >> 12, 0),),
        (("0", c * 7), ("1", c * 5)),
        (("eth0", c, c >> 8, 0, 0, c // 2, c >> 9, 0, 0),),
    )


def per_sample(times_us: Sequence[float], samples: int) -> tuple[float, ...]:
    return tuple(t / samples for t in times_us)


def folder(parent: Path, name: str) -> Path:
    """A fresh folder for one repeat."""
    made = parent / name
    made.mkdir(parents=True)
    return made

"""A month in the life of a store: many containers read each minute, what is old deleted meanwhile, on a simulated clock.

python -m bench.retention                                  30 days of 1000 containers; many minutes
python -m bench.retention --days 30 --containers 300       less of it

The sink is driven as its runner drives it: a write each simulated minute, and between two writes `maintain` as often as the
sink asks for it. Looked at: whether the file stops growing, how long the writer stands still for the sake of maintenance, and
whether memory grows.
"""

import argparse
import contextlib
import gc
import resource
import sqlite3
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.generator import History
from bench.report import Row, Section, markdown
from tidegauge.pipeline.records import Batch
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

DAY_S = 86_400
LOOKS_A_DAY = 8
_MIB = 2**20


class Kept(NamedTuple):
    """For how many days each resolution is kept; None: for ever."""

    raw: float = 2
    five_minutes: float | None = 14
    hour: float | None = None


DEFAULT = Kept()


class Held(NamedTuple):
    """What there was at one time."""

    day: float
    """Simulated days since the beginning."""

    file_mib: float
    """The database with its write-ahead log."""
    rss_mib: float
    oldest_raw_days: float
    """Age of the oldest sample."""


class Findings(NamedTuple):
    samples: int
    held: Sequence[Held]
    """LOOKS_A_DAY times a simulated day."""
    pauses_ms: Sequence[float]
    """Wall time of each call of `maintain`."""
    pauses_cpu_ms: Sequence[float]
    writes_ms: Sequence[float]
    cpu_us: float
    """Of writing and maintaining, a sample."""

    def growth(self, field: str, since_day: float) -> float:
        """The last third of the time after this day over the first third of it, medians."""
        values = [float(getattr(held, field)) for held in self.held if held.day >= since_day]
        third = max(1, len(values) // 3)
        return statistics.median(values[-third:]) / statistics.median(values[:third])


def simulate(folder: Path, containers: int, days: float, kept: Kept = DEFAULT, *, is_told: bool = False) -> Findings:
    """Runs it. `is_told`: a line a look on standard error."""
    history = History(containers, hosts=max(1, containers // 50), namespaces=max(1, containers // 20), interval_s=60, days=days)
    path = folder / "store.db"
    sink = SqlSink(_config(path, kept))
    sink.open()
    # As the server process does when it has started: what is loaded is not looked through again by each collection.
    gc.collect()
    gc.freeze()
    held: list[Held] = []
    # arrays: as lists they alone would grow by half a MiB a day
    pauses, pauses_cpu, writes = array("d"), array("d"), array("d")
    due_ms = look_ms = history.start_ms
    cpu_s = 0.0
    try:
        for records in history.writes(containers):
            batches = [r for r in records if isinstance(r, Batch)]
            now_ms = batches[-1].samples[-1].ts_ms if batches else history.start_ms
            while due_ms <= now_ms:
                cpu, wall = time.thread_time(), time.perf_counter()
                sink.maintain(due_ms, _never)
                pauses.append(1000 * (time.perf_counter() - wall))
                pauses_cpu.append(1000 * (time.thread_time() - cpu))
                cpu_s += pauses_cpu[-1] / 1000
                due_ms += round(1000 * sink.maintenance_interval_s)
            cpu, wall = time.thread_time(), time.perf_counter()
            sink.write(records)
            writes.append(1000 * (time.perf_counter() - wall))
            cpu_s += time.thread_time() - cpu
            if now_ms - look_ms >= DAY_S * 1000 // LOOKS_A_DAY:
                look_ms = now_ms
                held.append(_held(path, now_ms, (now_ms - history.start_ms) / (1000 * DAY_S)))
                if is_told:
                    print(held[-1], file=sys.stderr, flush=True)
        held.append(_held(path, history.end_ms, days))
    finally:
        gc.unfreeze()
        sink.close()
    return Findings(history.samples, held, pauses, pauses_cpu, writes, cpu_s / history.samples * 1e6)


def run(folder: Path, containers: int = 1000, days: float = 30, kept: Kept = DEFAULT) -> list[Section]:
    found = simulate(folder, containers, days, kept, is_told=True)
    since = min(days * 0.6, max(kept.raw, kept.five_minutes or 0) + 1)
    first = next(held for held in found.held if held.day >= since)
    last = found.held[-1]
    rows = [
        Row("samples written", "million", (found.samples / 1e6,)),
        Row("CPU of writing, rolling up and deleting, a sample", "us", (found.cpu_us,)),
        Row("the writer waits for maintenance, p99", "ms", (_p99(found.pauses_ms),), "at most 50", 50),
        Row("the longest of these waits", "ms", (max(found.pauses_ms),)),
        Row("CPU time of such a wait, p99", "ms", (_p99(found.pauses_cpu_ms),)),
        Row(f"a write of {containers} samples, p99", "ms", (_p99(found.writes_ms),)),
        Row(f"the file after {first.day:.3g} days", "MiB", (first.file_mib,)),
        Row(f"the file after {last.day:.3g} days", "MiB", (last.file_mib,)),
        Row(
            "the file, last third / first third of the time between",
            "x",
            (found.growth("file_mib", since),),
            "at most 1.1",
            1.1,
        ),
        Row("memory (RSS), the generator's included", "MiB", tuple(h.rss_mib for h in found.held if h.day >= min(1, days / 2))),
        Row(
            "memory, last third / first third of the time after the first day",
            "x",
            (found.growth("rss_mib", min(1, days / 2)),),
            "at most 1.1",
            1.1,
        ),
        Row("age of the oldest raw sample at the end", "days", (last.oldest_raw_days,)),
    ]
    return [Section(f"{days:g} simulated days of {containers} containers, a sample a minute", rows)]


def _config(path: Path, kept: Kept) -> SqlConfig:
    return SqlConfig(
        url=f"sqlite:///{path}",
        retention_s=kept.raw * DAY_S,
        rollup_5m_retention_s=(kept.five_minutes or 0) * DAY_S,
        rollup_1h_retention_s=(kept.hour or 0) * DAY_S,
        retention_bytes=0,
    )


def _held(path: Path, now_ms: int, day: float) -> Held:
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        [oldest_ms] = db.execute("SELECT min(ts_ms) FROM sample").fetchone()
    size = sum(p.stat().st_size for p in (path, path.with_name(path.name + "-wal")) if p.exists())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Held(day, size / _MIB, pages * resource.getpagesize() / _MIB, (now_ms - oldest_ms) / (1000 * DAY_S))


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[len(values) * 99 // 100]


def _never() -> bool:
    return False


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.retention", description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=float, default=30)
    parser.add_argument("--containers", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidegauge-bench-") as name:
        print(markdown(run(Path(name), arguments.containers, arguments.days)))


if __name__ == "__main__":
    main()

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.host import CONTAINER, HOST

from tidegauge.collectors.stat import StatCollector, StatConfig, StatReader, parse
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import CollectError, NoData

TICK = 10_000_000
MODES = tuple(m.name.removeprefix("host_cpu_").removesuffix("_ns") for m in Catalogue().of_table("host_cpu"))


def reader(proc: Path) -> StatReader:
    made = StatCollector(StatConfig(proc=proc)).reader(HOST)
    assert made is not None
    return made


def test_reads_a_recorded_host(recorded_tree: Callable[[str], Path]) -> None:
    r = reader(recorded_tree("cgroup1") / "snapshot-1/proc")
    assert r.read() == (25059976, 8676193, 94847, 1, 1)
    (rows,) = r.read_tables()
    assert rows == (
        ("all", *(n * TICK for n in (58320, 179519, 103639, 729166, 7469, 0, 1980, 444, 0, 2))),
        ("0", *(n * TICK for n in (27390, 85738, 50558, 373080, 2909, 0, 340, 215, 0, 1))),
        ("1", *(n * TICK for n in (30930, 93781, 53081, 356085, 4559, 0, 1640, 228, 0, 0))),
    )
    r.close()


@pytest.mark.parametrize("name", ["cgroup1", "cgroup1-vm", "cgroup2"])
def test_counters_of_two_snapshots_do_not_go_back(recorded_tree: Callable[[str], Path], name: str) -> None:
    seen = []
    for snapshot in ("snapshot-1", "snapshot-2"):
        r = reader(recorded_tree(name) / snapshot / "proc")
        seen.append((r.read(), r.read_tables()[0]))
        r.close()
    (first, rows), (second, later_rows) = seen
    assert all(a <= b for a, b in zip(first[:3], second[:3], strict=True))  # type: ignore[operator]
    assert rows is not None
    assert later_rows is not None
    assert all(a <= b for x, y in zip(rows, later_rows, strict=True) for a, b in zip(x[1:], y[1:], strict=True))  # type: ignore[operator]


def test_agrees_with_psutil() -> None:
    r = reader(Path("/proc"))
    counts, times = psutil.cpu_stats(), [psutil.cpu_times(), *psutil.cpu_times(percpu=True)]
    ours, (rows,) = r.read(), r.read_tables()
    counts_after, times_after = psutil.cpu_stats(), [psutil.cpu_times(), *psutil.cpu_times(percpu=True)]
    r.close()
    assert counts.ctx_switches <= ours[0] <= counts_after.ctx_switches  # type: ignore[operator]
    assert counts.interrupts <= ours[1] <= counts_after.interrupts  # type: ignore[operator]
    assert rows is not None
    assert [row[0] for row in rows] == ["all", *(str(i) for i in range(psutil.cpu_count() or 0))]
    for row, low, high in zip(rows, times, times_after, strict=True):
        modes = dict(zip(MODES, row[1:], strict=True))
        modes["user"] += modes["guest"]  # psutil leaves guests in
        modes["nice"] += modes["guest_nice"]
        for mode, value in modes.items():
            # Idle time and the wait for I/O may go back by a tick (proc(5)).
            assert getattr(low, mode) - 0.1 <= value / 1e9 <= getattr(high, mode) + 0.1, mode


counts = st.integers(0, 10**11)
cpu = st.lists(counts, min_size=4, max_size=12)


@given(st.lists(cpu, min_size=1, max_size=9), st.tuples(*[counts] * 5), st.lists(counts, max_size=40))
def test_every_mode_and_scalar_is_found(cpus: list[list[int]], scalars: tuple[int, ...], irqs: list[int]) -> None:
    ctxt, intr, forks, running, blocked = scalars
    lines = [f"cpu{'' if i == 0 else f'{i - 1}'} {' '.join(map(str, c))}" for i, c in enumerate(cpus)]
    lines += [f"intr {' '.join(map(str, [intr, *irqs]))}", f"ctxt {ctxt}", "btime 1", f"processes {forks}"]
    lines += [f"procs_running {running}", f"procs_blocked {blocked}", "softirq 1 2 3"]
    found = parse("\n".join(lines).encode() + b"\n", TICK)
    assert found.scalars == (ctxt, intr, forks, running, blocked)
    assert len(found.cpus) == len(cpus)
    for row, given_modes in zip(found.cpus, cpus, strict=True):
        modes = [n * TICK for n in given_modes[:10]] + [None] * (10 - len(given_modes[:10]))
        for whole, part in ((0, 8), (1, 9)):
            if modes[part] is not None:
                modes[whole] = max(modes[whole] - modes[part], 0)  # type: ignore[operator]
        assert row[1:] == tuple(modes)


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda b: b"cpu 1 2 3 4\n" + b + b"\nctxt 5\n"))
def test_anything_else_is_a_collect_error_or_numbers(text: bytes) -> None:
    try:
        found = parse(text, TICK)
    except CollectError:
        return
    assert len(found.scalars) == 5
    assert all(len(row) == 11 and all(v is None or 0 <= v < 2**63 for v in row[1:]) for row in found.cpus)  # type: ignore[operator]


def test_what_an_old_kernel_lacks_is_absent() -> None:
    found = parse(b"cpu  1 2 3 4\ncpu0 1 2 3 4\n", TICK)
    assert found.scalars == (None,) * 5
    assert found.cpus[0] == ("all", TICK, 2 * TICK, 3 * TICK, 4 * TICK, None, None, None, None, None, None)


@pytest.mark.parametrize(
    "text", [b"ctxt x\n", b"ctxt\n", b"cpu 1 2 -3\n", b"cpux 1\n", b"cpu 99999999999999999999\n", b"processes 1_0\n"]
)
def test_absurd_numbers_are_named(text: bytes) -> None:
    with pytest.raises(CollectError, match="stat: "):
        parse(text, TICK)


def test_rows_of_an_earlier_reading_do_not_outlive_a_failed_one(tmp_path: Path) -> None:
    (tmp_path / "stat").write_bytes(b"cpu  1 2 3 4\n")
    r = reader(tmp_path)
    r.read()
    (tmp_path / "stat").write_bytes(b"cpu  1 2 3 x\n")
    with pytest.raises(CollectError):
        r.read()
    assert r.read_tables() == (None,)
    r.close()


def test_only_the_host_has_it(tmp_path: Path) -> None:
    assert StatCollector(StatConfig(proc=tmp_path)).reader(CONTAINER) is None
    with pytest.raises(NoData, match="stat does not exist"):
        StatCollector(StatConfig(proc=tmp_path)).reader(HOST)

"""Memory touched: recorded, made up, and real processes beside psutil's sums of smaps."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.cgroup_truth import container
from tests.collectors.made_up_host import MadeUpHost
from tests.collectors.real_container import RealContainer, ask
from tests.support import need

from tidegauge.collectors._kernel_text import Faults
from tidegauge.collectors.cgroup_paths import find_mounts
from tidegauge.collectors.referenced import ReferencedCollector, ReferencedConfig, ReferencedReader, parse_referenced
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.records import MAX_INT

MIB = 1 << 20
ROLLUP = "00400000-7fff9cfd5000 ---p 00000000 00:00 0   [rollup]\nRss:   2000 kB\nReferenced:     {} kB\nAnonymous:   72 kB\n"


def reader_of(root: Path, path: str, reset_after_readings: int = 0) -> ReferencedReader:
    config = ReferencedConfig(root / "sys", root / "proc", reset_after_readings=reset_after_readings)
    return ReferencedCollector(config).reader(container(path))


@pytest.fixture
def host(tmp_path: Path) -> MadeUpHost:
    return MadeUpHost(tmp_path)


def test_processes_add_up(host: MadeUpHost) -> None:
    host.file(100, "smaps_rollup", ROLLUP.format(1804))
    host.file(101, "smaps_rollup", ROLLUP.format(0))
    host.members("/a", 100, 101, 102)
    assert reader_of(host.root, "/a").read() == (1804 * 1024,)


def test_a_kernel_without_sums_is_added_up_by_mapping(host: MadeUpHost) -> None:
    mappings = (f"00400000-0040{i}000 r-xp 0 00:00 0\nRss: 9 kB\nReferenced: {n} kB\n" for i, n in enumerate((3, 0, 4)))
    host.file(100, "smaps", "".join(mappings))
    host.members("/a", 100)
    assert reader_of(host.root, "/a").read() == (7 * 1024,)


def test_none_without_a_process_that_can_be_seen(host: MadeUpHost) -> None:
    assert reader_of(host.root, "/gone").read() == (None,)
    host.members("/a")
    assert reader_of(host.root, "/a").read() == (None,)
    host.members("/a", 0, 100)
    assert reader_of(host.root, "/a").read() == (None,)
    host.file(100, "smaps_rollup", "")  # a thread of the kernel
    assert reader_of(host.root, "/a").read() == (None,)


def test_marks_are_cleared_after_so_many_readings_and_never_unasked(host: MadeUpHost) -> None:
    host.file(100, "smaps_rollup", ROLLUP.format(1))
    host.file(100, "clear_refs", "")
    host.members("/a", 100, 101)
    file = host.root / "proc/100/clear_refs"
    never, third = reader_of(host.root, "/a"), reader_of(host.root, "/a", 3)
    for _ in range(4):
        assert never.read() == (1024,)
    assert file.read_text() == ""
    for wanted in ("", "", "1", "", "", "1"):
        assert third.read() == (1024,)
        assert file.read_text() == wanted
        file.write_text("")


def test_no_cgroups_is_no_data(tmp_path: Path) -> None:
    with pytest.raises(NoData):
        reader_of(tmp_path, "/a")


@pytest.mark.parametrize("name", ["cgroup1", "cgroup1-vm", "cgroup2"])
def test_recorded_containers(recorded_tree: Callable[[str], Path], name: str) -> None:
    root = recorded_tree(name) / "snapshot-1"
    first = find_mounts(root / "sys", root / "proc").hierarchies()[0].root
    seen = 0
    for file in sorted(first.rglob("cgroup.procs")):
        path = "/" + str(file.parent.relative_to(first)).removeprefix(".")
        try:
            texts = [t for p in file.read_text().split() if (t := root / f"proc/{p}/smaps_rollup").exists()]
        except OSError:
            continue
        lines = [line for t in texts for line in t.read_text().splitlines() if line.startswith("Referenced:")]
        if path != "/" and lines:
            assert reader_of(root, path).read() == (sum(int(line.split()[1]) for line in lines) * 1024,)
            seen += 1
    assert seen >= 5


@given(st.lists(st.integers(0, MAX_INT >> 20), max_size=8))
def test_every_line_counts(sizes: list[int]) -> None:
    raw = "".join(f"Rss: 1 kB\nReferenced: {n:>12} kB\nReferencedNot: 5 kB\n" for n in sizes).encode()
    assert parse_referenced(raw, Faults()) == (sum(sizes) * 1024 if sizes else None)


@given(st.binary(max_size=100) | st.text("Referenced: 1kB\n", max_size=100).map(str.encode))
def test_any_bytes_are_taken(raw: bytes) -> None:
    assert (parse_referenced(raw, Faults()) or 0) >= 0


def by_psutil(*pids: int) -> int:
    return sum(m.referenced for pid in pids for m in psutil.Process(pid).memory_maps(grouped=True))


@pytest.mark.integration
def test_real_memory_is_that_of_psutil_and_is_cleared_and_touched_again() -> None:
    """Tolerance: 2 MiB, for what the process touches to answer, and for pages that the kernel counts later."""
    need(Path("/proc/self/clear_refs").exists() and Path("/proc/self/smaps").exists(), "a kernel with smaps")
    with RealContainer() as real:
        block = "block = mmap.mmap(-1, 24 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)"
        touch = "for at in range(0, len(block), 4096): block[at] = 1"
        first, second = real.run(f"{block}\n{touch}"), real.run("")
        plain = ReferencedCollector(ReferencedConfig()).reader(container(real.path))
        clearing = ReferencedCollector(ReferencedConfig(reset_after_readings=1)).reader(container(real.path))

        def read(reader: ReferencedReader) -> int:
            (value,) = reader.read()
            assert isinstance(value, int)
            return value

        full = read(plain)
        assert full == pytest.approx(by_psutil(first.pid, second.pid), abs=2 * MIB)
        assert full >= 24 * MIB
        assert read(clearing) == pytest.approx(full, abs=2 * MIB)
        cleared = read(plain)
        assert cleared <= full - 20 * MIB
        ask(first, touch)
        again = read(plain)
        assert again - cleared >= 20 * MIB
        assert again == pytest.approx(by_psutil(first.pid, second.pid), abs=2 * MIB)


def test_memory_that_may_not_be_seen_is_none_and_counted() -> None:
    need(os.geteuid() == 0, "root, to become somebody who may not read")
    with tempfile.TemporaryDirectory(prefix="tidegauge-") as folder:
        os.chmod(folder, 0o755)
        host = MadeUpHost(Path(folder))
        host.file(100, "smaps_rollup", ROLLUP.format(1))
        host.file(101, "smaps_rollup", ROLLUP.format(2))
        host.members("/a", 100, 101)
        collector = ReferencedCollector(ReferencedConfig(host.root / "sys", host.root / "proc"))
        reader = collector.reader(container("/a"))
        (host.root / "proc/100/smaps_rollup").chmod(0)
        os.seteuid(65534)
        try:
            assert reader.read() == (2048,)
        finally:
            os.seteuid(0)
    assert collector.counters()["unreadable_files"] == 1
    assert "100/smaps_rollup" in (collector.complaint() or "")

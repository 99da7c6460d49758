"""What only some schedulers count: v1 files as the kernel documents them, the cost model of v2, hosts with neither."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.cgroup_truth import container, paths_of, table_of

from tidegauge.collectors._kernel_text import Faults
from tidegauge.collectors.disk_io_ext import DiskIoExtCollector, DiskIoExtConfig, blkio_rows, cost_rows, policies
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.records import MAX_INT

COLUMNS = [m.name for m in Catalogue().of_table("disk_io_ext")]
FILES = ("io_service_time", "io_wait_time", "io_merged", "io_queued", "sectors", "time")


def collector_of(root: Path) -> DiskIoExtCollector:
    return DiskIoExtCollector(DiskIoExtConfig(sys=root / "sys", proc=root / "proc"))


def scheduler_files(where: Path, policy: str, start: int) -> dict[str, dict[str, int]]:
    """Writes the files of a policy as blkio-controller.txt describes them; what they say by device."""
    where.mkdir(parents=True, exist_ok=True)
    number = start
    out: dict[str, dict[str, int]] = {"vda": {}, "8:16": {}}
    for file, names in (
        ("io_service_time", ("disk_read_service_ns", "disk_write_service_ns")),
        ("io_wait_time", ("disk_read_wait_ns", "disk_write_wait_ns")),
        ("io_merged", ("disk_reads_merged", "disk_writes_merged")),
        ("io_queued", ()),
    ):
        lines = []
        for device in ("8:16", "254:0"):
            total = 0
            for op in ("Read", "Write", "Sync", "Async"):
                number += 7
                lines.append(f"{device} {op} {number}")
                total += number if op in ("Read", "Write") else 0
                if names and op in ("Read", "Write"):
                    out["vda" if device == "254:0" else device][names[op == "Write"]] = number
            lines.append(f"{device} Total {total}")
            if file == "io_queued":
                out["vda" if device == "254:0" else device]["disk_queued"] = total
        (where / policy.format(file)).write_text("\n".join([*lines, "Total 99999", ""]))
    for file, name in (("sectors", "disk_sectors"), ("time", "disk_busy_ns")):
        (where / policy.format(file)).write_text(f"8:16 {start + 1}\n254:0 {start + 2}\n")
        out["8:16"][name], out["vda"][name] = start + 1, start + 2
    return out


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """A v1 host with one container `/a` and the disk vda."""
    (tmp_path / "sys/fs/cgroup/blkio/a").mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/partitions").write_text("major minor  #blocks  name\n\n 254  0  1 vda\n")
    return tmp_path


@pytest.mark.parametrize("policy", ["blkio.bfq.{}_recursive", "blkio.bfq.{}", "blkio.{}_recursive", "blkio.{}"])
def test_every_file_of_a_scheduler(v1: Path, policy: str) -> None:
    blkio = v1 / "sys/fs/cgroup/blkio"
    expected = {where: scheduler_files(where, policy, start) for where, start in ((blkio, 1000), (blkio / "a", 10))}
    collector = collector_of(v1)
    assert table_of(collector.reader(container("/")), COLUMNS) == expected[blkio]
    assert table_of(collector.reader(container("/a")), COLUMNS) == expected[blkio / "a"]
    assert set(expected[blkio]["vda"]) == set(COLUMNS[:9])


def test_the_policy_that_has_entries_counts_and_files_may_be_missing(v1: Path) -> None:
    blkio = v1 / "sys/fs/cgroup/blkio"
    for name in FILES:
        for where in (blkio, blkio / "a"):
            (where / f"blkio.bfq.{name}_recursive").write_text("Total 0\n")
    expected = scheduler_files(blkio / "a", "blkio.{}_recursive", 5)
    scheduler_files(blkio, "blkio.{}_recursive", 5)
    (blkio / "a/blkio.time_recursive").unlink()
    for row in expected.values():
        del row["disk_busy_ns"]
    assert table_of(collector_of(v1).reader(container("/a")), COLUMNS) == expected


def test_a_scheduler_that_comes_later_is_seen_by_the_hosts_reader(v1: Path) -> None:
    collector = collector_of(v1)
    host = collector.reader(container("/"))
    assert table_of(host, COLUMNS) is None
    with pytest.raises(NoData, match="no I/O scheduler"):
        collector.reader(container("/a"))
    blkio = v1 / "sys/fs/cgroup/blkio"
    expected = scheduler_files(blkio, "blkio.bfq.{}_recursive", 3)
    assert table_of(host, COLUMNS) == expected
    assert table_of(collector.reader(container("/a")), COLUMNS) is None


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    """A v2 host with one container `/a` that did I/O, its cost model off."""
    where = tmp_path / "sys/fs/cgroup/a"
    where.mkdir(parents=True)
    (where.parent / "cgroup.controllers").write_text("cpu io\n")
    (where.parent / "io.cost.qos").write_text("254:0 enable=0 ctrl=auto rpct=0.00 rlat=5000\n")
    (where / "io.stat").write_text("254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n")
    return tmp_path


def test_the_cost_model_counts_once_it_is_on(v2: Path) -> None:
    collector = collector_of(v2)
    host = collector.reader(container("/"))
    assert table_of(host, COLUMNS) is None
    with pytest.raises(NoData, match=r"io\.cost\.qos"):
        collector.reader(container("/a"))
    root = v2 / "sys/fs/cgroup"
    (root / "io.cost.qos").write_text("8:0 enable=0 ctrl=auto\n254:0 enable=1 ctrl=auto rpct=0.00\n")
    (root / "io.stat").write_text("254:0 rbytes=1 wios=4 cost.usage=7\n")
    assert table_of(host, COLUMNS) == {"254:0": {"disk_cost_usage_ns": 7000}}
    reader = collector.reader(container("/a"))
    assert table_of(reader, COLUMNS) is None
    (root / "a/io.stat").write_text(
        "8:0 rbytes=1 wbytes=2 rios=3 wios=4\n"
        "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0 cost.vrate=100.00 cost.usage=11 cost.wait=12"
        " cost.indebt=13 cost.indelay=14\n"
    )
    names = ("usage", "wait", "indebt", "indelay")
    assert table_of(reader, COLUMNS) == {
        "254:0": {f"disk_cost_{n}_ns": 1000 * v for n, v in zip(names, range(11, 15), strict=True)}
    }


@pytest.mark.parametrize(("host", "folder"), [("cgroup1", "blkio"), ("cgroup1-vm", "blkio"), ("cgroup2", "")])
def test_recorded_hosts_have_neither(recorded_tree: Callable[[str], Path], host: str, folder: str) -> None:
    root = recorded_tree(host) / "snapshot-1"
    collector = collector_of(root)
    assert table_of(collector.reader(container("/")), COLUMNS) is None
    for path in paths_of(root / "sys/fs/cgroup" / folder)[1:]:
        with pytest.raises(NoData):
            collector.reader(container(path))


def test_without_the_controller_there_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup/cpuacct").mkdir(parents=True)
    with pytest.raises(NoData, match="blkio"):
        collector_of(tmp_path).reader(container("/"))


def test_policies_are_found_by_their_times_alone() -> None:
    plain = [f"blkio.throttle.{n}" for n in ("io_serviced", "io_service_bytes")] + ["blkio.bfq.io_serviced_recursive"]
    assert policies(plain) == ()
    found = policies([*plain, "blkio.io_service_time", "blkio.bfq.io_service_time", "blkio.bfq.io_service_time_recursive"])
    assert [files[1] for files in found] == ["blkio.bfq.io_wait_time_recursive", "blkio.io_wait_time"]


@given(st.binary(max_size=300), st.lists(st.binary(max_size=80) | st.none(), min_size=6, max_size=6))
def test_no_bytes_break_the_parsers(raw: bytes, raws: list[bytes | None]) -> None:
    for rows in (cost_rows(b"8:0 " + raw, str, Faults()), blkio_rows(raws, str, Faults())):
        for row in rows:
            assert len(row) == len(COLUMNS) + 1
            assert all(v is None or (isinstance(v, int) and 0 <= v <= MAX_INT) for v in row[1:])

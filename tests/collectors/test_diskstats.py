from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.host import CONTAINER, HOST

from tidegauge.collectors.diskstats import DiskstatsCollector, DiskstatsConfig, DiskstatsReader, parse
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import CollectError, NoData

NAMES = tuple(m.name.removeprefix("host_disk_") for m in Catalogue().of_table("host_disk"))
ZEROS = " 0" * 17


def reader(proc: Path) -> DiskstatsReader:
    made = DiskstatsCollector(DiskstatsConfig(proc=proc)).reader(HOST)
    assert made is not None
    return made


def devices(*names: str) -> list[object]:
    return [row[0] for row in parse("".join(f" 8 0 {n}{ZEROS}\n" for n in names).encode())]


def test_reads_a_recorded_host(recorded_tree: Callable[[str], Path]) -> None:
    r = reader(recorded_tree("cgroup1") / "snapshot-1/proc")
    assert r.read() == ()
    (rows,) = r.read_tables()
    assert rows is not None
    assert [row[0] for row in rows] == ["vda", "zram0"]
    assert dict(zip(NAMES, rows[0][1:], strict=True)) == {
        "reads": 439834,
        "reads_merged": 71909,
        "read_bytes": 30430658 * 512,
        "read_ns": 362133 * 10**6,
        "writes": 2428188,
        "writes_merged": 435238,
        "written_bytes": 210442632 * 512,
        "write_ns": 2321009 * 10**6,
        "io_now": 0,
        "io_ns": 137540 * 10**6,
        "weighted_io_ns": 2716976 * 10**6,
        "discards": 239520,
        "discarded_bytes": 36988600 * 512,
    }
    r.close()


@pytest.mark.parametrize("name", ["cgroup1", "cgroup1-vm", "cgroup2"])
@pytest.mark.parametrize("exclude", [(), ("loop*", "ram*")])
def test_whole_disks_are_those_of_sysfs(recorded_tree: Callable[[str], Path], name: str, exclude: tuple[str, ...]) -> None:
    tree = recorded_tree(name) / "snapshot-1"
    disks = {d.name for d in (tree / "sys/block").iterdir() if not (exclude and d.name.startswith(("loop", "ram")))}
    assert {row[0] for row in parse((tree / "proc/diskstats").read_bytes(), exclude)} == disks


def test_whole_disks_are_those_of_this_host() -> None:
    text = Path("/proc/diskstats").read_bytes()
    named = {line.split()[2].decode() for line in text.splitlines()}
    assert {row[0] for row in parse(text)} == {d.name.replace("!", "/") for d in Path("/sys/block").iterdir()} & named


def test_partitions_are_told_by_the_kernels_rule_for_names() -> None:
    assert devices("sda", "sda1", "sda15", "sdaa", "sdaa1", "sdb") == ["sda", "sdaa", "sdb"]
    assert devices("nvme0n1", "nvme0n1p1", "nvme0n1p2", "nvme0n10", "nvme0n10p1") == ["nvme0n1", "nvme0n10"]
    assert devices("mmcblk0", "mmcblk0p1", "mmcblk0boot0", "mmcblk1") == ["mmcblk0", "mmcblk0boot0", "mmcblk1"]
    assert devices("md1", "md1p1", "md10", "dm-1", "dm-10") == ["md1", "md10", "dm-1", "dm-10"]
    assert devices("xvda1", "xvda2") == ["xvda1", "xvda2"]


def test_agrees_with_psutil() -> None:
    r = reader(Path("/proc"))
    before = psutil.disk_io_counters(perdisk=True, nowrap=False)
    r.read()
    (rows,) = r.read_tables()
    after = psutil.disk_io_counters(perdisk=True, nowrap=False)
    r.close()
    assert rows is not None
    for row in rows:
        ours = dict(zip(NAMES, row[1:], strict=True))
        for name, field, scale in (
            ("reads", "read_count", 1),
            ("writes", "write_count", 1),
            ("reads_merged", "read_merged_count", 1),
            ("writes_merged", "write_merged_count", 1),
            ("read_bytes", "read_bytes", 1),
            ("written_bytes", "write_bytes", 1),
            ("read_ns", "read_time", 10**6),
            ("write_ns", "write_time", 10**6),
            ("io_ns", "busy_time", 10**6),
        ):
            low, high = getattr(before[str(row[0])], field) * scale, getattr(after[str(row[0])], field) * scale
            assert low <= ours[name] <= high, (row[0], name)  # type: ignore[operator]


fields = st.lists(st.integers(0, 2**40), min_size=11, max_size=20)


@given(st.dictionaries(st.from_regex(r"\A[a-z]{3,5}\Z"), fields, max_size=6))
def test_every_field_is_found_in_its_unit(disks: dict[str, list[int]]) -> None:
    text = "".join(f" 259  {i} {name} {' '.join(map(str, f))}\n" for i, (name, f) in enumerate(disks.items()))
    rows = parse(text.encode())
    assert [row[0] for row in rows] == list(disks)
    for row in rows:
        f = disks[str(row[0])]
        assert row[1:] == (
            *(f[0], f[1], f[2] * 512, f[3] * 10**6, f[4], f[5], f[6] * 512, f[7] * 10**6),
            *(f[8], f[9] * 10**6, f[10] * 10**6),
            f[11] if len(f) > 11 else None,
            f[13] * 512 if len(f) > 13 else None,
        )


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda b: b"8 0 sda" + b" 1" * 10 + b" " + b))
def test_anything_else_is_a_collect_error_or_numbers(text: bytes) -> None:
    try:
        rows = parse(text)
    except CollectError:
        return
    assert all(len(row) == 14 and all(v is None or 0 <= v < 2**63 for v in row[1:]) for row in rows)  # type: ignore[operator]


def test_a_kernel_before_discards_has_none() -> None:
    (row,) = parse(b"   8       0 sda 1 2 3 4 5 6 7 8 9 10 11\n")
    assert row == ("sda", 1, 2, 1536, 4_000_000, 5, 6, 3584, 8_000_000, 9, 10_000_000, 11_000_000, None, None)


@pytest.mark.parametrize(
    "text", [b"8 0 sda\n", b"8 0 sda" + b" x" * 11 + b"\n", b"8 0 sda" + b" 9223372036854775807" * 11 + b"\n"]
)
def test_absurd_numbers_are_named(text: bytes) -> None:
    with pytest.raises(CollectError, match=r"diskstats: .*sda"):
        parse(text)


def test_a_changed_file_and_a_failed_reading_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "diskstats"
    file.write_text(f"8 0 sda{ZEROS}\n")
    r = reader(tmp_path)
    r.read()
    first = r.read_tables()
    r.read()
    assert r.read_tables() == first
    file.write_text(f"8 0 sda 7{ZEROS[2:]}\n")
    r.read()
    (rows,) = r.read_tables()
    assert rows is not None
    assert rows[0][:3] == ("sda", 7, 0)
    file.write_text("8 0 sda\n")
    for _ in range(2):
        with pytest.raises(CollectError):
            r.read()
        assert r.read_tables() == (None,)
    r.close()


def test_only_the_host_has_it(tmp_path: Path) -> None:
    assert DiskstatsCollector(DiskstatsConfig(proc=tmp_path)).reader(CONTAINER) is None
    with pytest.raises(NoData, match="diskstats does not exist"):
        DiskstatsCollector(DiskstatsConfig(proc=tmp_path)).reader(HOST)

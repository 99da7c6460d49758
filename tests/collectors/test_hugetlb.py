"""Huge pages: every recorded cgroup against a plain reading of its files, odd files, and real pages on this machine."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.cgroup_truth import container, keyed, paths_of, table_of, text
from tests.collectors.hugepages import BUS, PAGE, Taker, pages
from tests.collectors.v1_mounts import mounted

from tidegauge.collectors._kernel_text import Faults
from tidegauge.collectors.hugetlb import HugetlbCollector, HugetlbConfig, page_sizes, parse
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.records import MAX_INT, UNLIMITED

COLUMNS = [m.name.removeprefix("hugetlb_") for m in Catalogue().of_table("hugetlb")]
BYTES = {"2MB": 2 << 20, "1GB": 1 << 30}
V1 = {"usage_bytes": "usage_in_bytes", "max_usage_bytes": "max_usage_in_bytes", "reserved_bytes": "rsvd.usage_in_bytes"}
V1 |= {"limit_bytes": "limit_in_bytes", "failures": "failcnt"}
V2 = {"usage_bytes": "current", "reserved_bytes": "rsvd.current", "limit_bytes": "max"}


def truth(where: Path, is_v1: bool, sizes: tuple[str, ...] = ("2MB", "1GB")) -> dict[str, dict[str, int]]:
    """Page size -> column -> value, from the raw files, those without a file left out."""
    out: dict[str, dict[str, int]] = {}
    for size in sizes:
        row: dict[str, int] = {}
        for column, file in (V1 if is_v1 else V2).items():
            content = text(where / f"hugetlb.{size}.{file}")
            if content is not None:
                row[column] = UNLIMITED if content.strip() == "max" else int(content)
        if row.get("limit_bytes", 0) > 2**63 - 1 - BYTES[size]:
            row["limit_bytes"] = UNLIMITED
        if not is_v1 and (failures := keyed(where / f"hugetlb.{size}.events").get("max")) is not None:
            row["failures"] = failures
        if row:
            out[size] = row
    return out


@pytest.mark.parametrize(("host", "folder"), [("cgroup1-vm", "sys/fs/cgroup/hugetlb"), ("cgroup2", "sys/fs/cgroup")])
def test_every_recorded_cgroup(recorded_tree: Callable[[str], Path], host: str, folder: str) -> None:
    root = recorded_tree(host) / "snapshot-1"
    collector = HugetlbCollector(HugetlbConfig(sys=root / "sys", proc=root / "proc"))
    seen = 0
    for path in paths_of(root / folder):
        where = Path(f"{root / folder}{path}")
        expected = truth(where, host == "cgroup1-vm")
        reader = collector.reader(container(path))
        if reader is None:
            assert (host, path) == ("cgroup2", "/")
            assert not expected
            continue
        assert table_of(reader, COLUMNS) == (expected or None), path
        seen += bool(expected)
        reader.close()
    assert seen > 15
    assert collector.counters() == {"absurd_values": 0, "unreadable_files": 0}


def test_no_controller_is_no_data_and_no_directory_is_asked_for_again(tmp_path: Path) -> None:
    where = tmp_path / "sys/fs/cgroup/a"
    where.mkdir(parents=True)
    (where.parent / "cgroup.controllers").write_text("cpu memory\n")
    collector = HugetlbCollector(HugetlbConfig(sys=tmp_path / "sys", proc=tmp_path / "proc"))
    with pytest.raises(NoData, match="hugetlb"):
        collector.reader(container("/"))
    (where.parent / "cgroup.controllers").write_text("cpu hugetlb\n")
    collector = HugetlbCollector(HugetlbConfig(sys=tmp_path / "sys", proc=tmp_path / "proc"))
    assert collector.reader(container("/")) is None
    for path in ("/a", "/nowhere"):
        with pytest.raises(FileNotFoundError):
            collector.reader(container(path))
    (where / "hugetlb.64KB.current").write_text("65536\n")
    reader = collector.reader(container("/a"))
    assert table_of(reader, COLUMNS) == {"64KB": {"usage_bytes": 65536}}


def test_a_directory_made_anew_is_another_container(tmp_path: Path) -> None:
    where = tmp_path / "sys/fs/cgroup/hugetlb/a"
    where.mkdir(parents=True)
    (where / "hugetlb.2MB.usage_in_bytes").write_text("0\n")
    collector = HugetlbCollector(HugetlbConfig(sys=tmp_path / "sys", proc=tmp_path / "proc"))
    reader = collector.reader(container("/a"))
    assert table_of(reader, COLUMNS) == {"2MB": {"usage_bytes": 0}}
    where.rename(where.with_name("b"))
    with pytest.raises(FileNotFoundError):
        table_of(reader, COLUMNS)
    where.mkdir()
    with pytest.raises(FileNotFoundError):
        table_of(reader, COLUMNS)


def test_sizes_come_smallest_first() -> None:
    names = ["hugetlb.1GB.current", "hugetlb.2MB.max", "hugetlb.2MB.current", "hugetlb.64KB.current", "hugetlb.xMB.current"]
    assert page_sizes(names) == {"64KB": 65536, "2MB": 2 << 20, "1GB": 1 << 30}


@given(st.lists(st.binary(max_size=30) | st.none(), min_size=5, max_size=5))
def test_no_bytes_break_the_parser(raws: list[bytes | None]) -> None:
    for value, raw in zip(parse(raws, PAGE, Faults()), raws, strict=True):
        assert value is None or (isinstance(value, int) and 0 <= value <= MAX_INT and raw is not None)


@given(st.lists(st.integers(0, MAX_INT - PAGE), min_size=5, max_size=5), st.booleans())
def test_numbers_come_back(numbers: list[int], is_v1: bool) -> None:
    raws: list[bytes | None] = [b"%d\n" % n for n in numbers]
    if not is_v1:
        raws[4] = b"max %d\n" % numbers[4]
    assert parse(raws, PAGE, Faults()) == tuple(numbers)


@pytest.mark.integration
def test_real_huge_pages_on_v1(tmp_path: Path) -> None:
    with pages(4), mounted("hugetlb", tmp_path / "sys") as where:
        collector = HugetlbCollector(HugetlbConfig(sys=tmp_path / "sys"))
        reader = collector.reader(container(f"/{where.name}"))
        taker = Taker(where)
        assert (table_of(reader, COLUMNS) or {})["2MB"] == dict.fromkeys(COLUMNS, 0) | {"limit_bytes": UNLIMITED}
        assert taker.take()
        assert taker.take()
        (where / "hugetlb.2MB.limit_in_bytes").write_text(str(2 * PAGE))
        rows = table_of(reader, COLUMNS) or {}
        assert rows == truth(where, True, tuple(rows))
        assert rows["2MB"] == {
            "usage_bytes": 2 * PAGE,
            "max_usage_bytes": 2 * PAGE,
            "reserved_bytes": 2 * PAGE,
            "limit_bytes": 2 * PAGE,
            "failures": 0,
        }
        assert not taker.take()
        assert taker.end() == BUS
        after = (table_of(reader, COLUMNS) or {})["2MB"]
        assert after == truth(where, True)["2MB"]
        assert after["failures"] > 0
        assert (after["max_usage_bytes"], after["usage_bytes"]) == (2 * PAGE, 0)

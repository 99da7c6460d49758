from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.host import CONTAINER, HOST

from tidegauge.collectors.meminfo import MeminfoCollector, MeminfoConfig, parse_meminfo, parse_vmstat
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.records import Value

LINES = ("MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "Dirty", "Shmem", "Slab", "SwapTotal", "SwapFree")


def read(proc: Path) -> dict[str, Value]:
    reader = MeminfoCollector(MeminfoConfig(proc=proc)).reader(HOST)
    assert reader is not None
    values = reader.read()
    reader.close()
    return dict(zip(MeminfoCollector.metrics, values, strict=True))


@pytest.mark.parametrize("name", ["cgroup1", "cgroup1-vm", "cgroup2"])
def test_reads_recorded_hosts(recorded_tree: Callable[[str], Path], name: str) -> None:
    proc = recorded_tree(name) / "snapshot-1/proc"
    kib = {line.split(":")[0]: int(line.split()[1]) for line in (proc / "meminfo").read_text().splitlines()}
    pages = dict(line.split() for line in (proc / "vmstat").read_text().splitlines())
    values = read(proc)
    assert list(values.values())[:10] == [kib[k] * 1024 for k in LINES]
    assert values["host_swap_in_bytes"] == int(pages["pswpin"]) * 4096
    assert values["host_swap_out_bytes"] == int(pages["pswpout"]) * 4096


def test_agrees_with_psutil() -> None:
    before, swap = psutil.virtual_memory(), psutil.swap_memory()
    ours = read(Path("/proc"))
    after, swap_after = psutil.virtual_memory(), psutil.swap_memory()
    slack = 256 << 20  # others work on this machine meanwhile
    assert ours["host_memory_total_bytes"] == before.total
    assert ours["host_swap_total_bytes"] == swap.total
    for name, field in (
        ("free", "free"),
        ("available", "available"),
        ("buffers", "buffers"),
        ("shmem", "shared"),
        ("slab", "slab"),
    ):
        low, high = sorted((getattr(before, field), getattr(after, field)))
        assert low - slack <= ours[f"host_memory_{name}_bytes"] <= high + slack, name  # type: ignore[operator]
    assert swap.sin <= ours["host_swap_in_bytes"] <= swap_after.sin  # type: ignore[operator]
    assert swap.sout <= ours["host_swap_out_bytes"] <= swap_after.sout  # type: ignore[operator]


@given(st.dictionaries(st.sampled_from((*LINES, "HugePages_Total", "SwapCached", "MemTotalX")), st.integers(0, 2**52)))
def test_every_line_is_found_whatever_the_order(kib: dict[str, int]) -> None:
    text = "".join(f"{k + ':':<16}{v:>8} kB\n" for k, v in kib.items()).encode()
    assert parse_meminfo(text) == tuple(kib[k] * 1024 if k in kib else None for k in LINES)


@given(st.dictionaries(st.sampled_from(("pswpin", "pswpout", "pgpgin", "pswpin_x")), st.integers(0, 2**50)))
def test_swap_traffic_is_in_bytes(pages: dict[str, int]) -> None:
    text = "".join(f"{k} {v}\n" for k, v in pages.items()).encode()
    assert parse_vmstat(text, 4096) == tuple(pages[k] * 4096 if k in pages else None for k in ("pswpin", "pswpout"))


@given(st.binary(max_size=100) | st.binary(max_size=40).map(lambda b: b"MemTotal:" + b))
def test_anything_else_is_a_collect_error_or_numbers(text: bytes) -> None:
    for parsed in (lambda: parse_meminfo(text), lambda: parse_vmstat(text, 4096)):
        try:
            values = parsed()
        except CollectError:
            continue
        assert all(v is None or 0 <= v < 2**63 for v in values)


@pytest.mark.parametrize("text", [b"MemFree: kB\n", b"MemFree: -1 kB\n", b"MemFree: 9223372036854775807 kB\n"])
def test_absurd_numbers_are_named(text: bytes) -> None:
    with pytest.raises(CollectError, match="meminfo: MemFree"):
        parse_meminfo(text)


def test_a_kernel_without_vmstat_has_the_rest(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n")
    values = read(tmp_path)
    assert values["host_memory_total_bytes"] == 1024
    assert values["host_swap_in_bytes"] is None


def test_only_the_host_has_it(tmp_path: Path) -> None:
    assert MeminfoCollector(MeminfoConfig(proc=tmp_path)).reader(CONTAINER) is None
    with pytest.raises(NoData, match="meminfo does not exist"):
        MeminfoCollector(MeminfoConfig(proc=tmp_path)).reader(HOST)

import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.host import CONTAINER, HOST

from tidegauge.collectors.uptime import UptimeCollector, UptimeConfig, parse
from tidegauge.pipeline.errors import CollectError, NoData


@pytest.mark.parametrize(("name", "expected"), [("cgroup1", 5438.35), ("cgroup1-vm", 46.15), ("cgroup2", 20.02)])
def test_reads_recorded_hosts(recorded_tree: Callable[[str], Path], name: str, expected: float) -> None:
    reader = UptimeCollector(UptimeConfig(proc=recorded_tree(name) / "snapshot-1/proc")).reader(HOST)
    assert reader is not None
    assert reader.read() == (expected,)
    reader.close()


def test_agrees_with_the_boot_clock_and_psutil() -> None:
    reader = UptimeCollector(UptimeConfig()).reader(HOST)
    assert reader is not None
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    (uptime,) = reader.read()
    after = time.clock_gettime(time.CLOCK_BOOTTIME)
    reader.close()
    assert before - 0.02 <= uptime <= after + 0.02
    assert uptime == pytest.approx(time.time() - psutil.boot_time(), abs=2)


@given(st.integers(0, 10**11), st.integers(0, 10**11))
def test_any_uptime_is_read_to_two_decimals(up: int, idle: int) -> None:
    assert parse(f"{up // 100}.{up % 100:02d} {idle // 100}.{idle % 100:02d}\n".encode()) == (up / 100,)


@given(st.binary(max_size=80))
def test_anything_else_is_a_collect_error_or_a_number(text: bytes) -> None:
    try:
        (value,) = parse(text)
    except CollectError:
        return
    assert value >= 0


@pytest.mark.parametrize("text", [b"", b"\n", b"nan 1", b"-1.0 0", b"x 0"])
def test_a_file_of_another_form_is_named(text: bytes) -> None:
    with pytest.raises(CollectError, match="uptime"):
        parse(text)


def test_only_the_host_has_an_uptime(tmp_path: Path) -> None:
    assert UptimeCollector(UptimeConfig(proc=tmp_path)).reader(CONTAINER) is None
    with pytest.raises(NoData, match="uptime does not exist"):
        UptimeCollector(UptimeConfig(proc=tmp_path)).reader(HOST)

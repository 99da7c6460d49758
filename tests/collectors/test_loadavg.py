import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.host import CONTAINER, HOST

from tidegauge.collectors.loadavg import LoadavgCollector, LoadavgConfig, parse
from tidegauge.pipeline.errors import CollectError, NoData


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cgroup1", (2.06, 1.87, 2.20)), ("cgroup1-vm", (1.78, 0.43, 0.14)), ("cgroup2", (1.62, 0.36, 0.12))],
)
def test_reads_recorded_hosts(recorded_tree: Callable[[str], Path], name: str, expected: tuple[float, ...]) -> None:
    reader = LoadavgCollector(LoadavgConfig(proc=recorded_tree(name) / "snapshot-1/proc")).reader(HOST)
    assert reader is not None
    assert reader.read() == expected
    reader.close()
    reader.close()


def test_agrees_with_the_c_library() -> None:
    reader = LoadavgCollector(LoadavgConfig()).reader(HOST)
    assert reader is not None
    before, ours, after = os.getloadavg(), reader.read(), os.getloadavg()
    reader.close()
    for low, value, high in zip(before, ours, after, strict=True):
        assert min(low, high) - 0.02 <= value <= max(low, high) + 0.02


@given(st.tuples(*[st.integers(0, 10**7)] * 3), st.integers(0, 10**6))
def test_any_load_is_read_to_two_decimals(loads: tuple[int, int, int], pid: int) -> None:
    text = " ".join(f"{n // 100}.{n % 100:02d}" for n in loads) + f" 1/{pid} {pid}\n"
    assert parse(text.encode()) == tuple(n / 100 for n in loads)


@given(st.binary(max_size=80))
def test_anything_else_is_a_collect_error_or_three_numbers(text: bytes) -> None:
    try:
        values = parse(text)
    except CollectError:
        return
    assert len(values) == 3
    assert all(v >= 0 for v in values)


@pytest.mark.parametrize("text", [b"", b"0.1 0.2", b"nan nan nan", b"-1.0 0 0", b"1e5 0 0", b"inf 0 0"])
def test_a_file_of_another_form_is_named(text: bytes) -> None:
    with pytest.raises(CollectError, match="loadavg"):
        parse(text)


def test_only_the_host_has_a_load(tmp_path: Path) -> None:
    assert LoadavgCollector(LoadavgConfig(proc=tmp_path)).reader(CONTAINER) is None
    with pytest.raises(NoData, match="loadavg does not exist"):
        LoadavgCollector(LoadavgConfig(proc=tmp_path)).reader(HOST)

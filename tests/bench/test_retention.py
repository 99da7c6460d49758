"""A month of `python -m bench --only retention`: the file stops growing, and the writer is not kept waiting."""

from pathlib import Path

import pytest
from bench.retention import DEFAULT, simulate

# some five minutes of CPU time
pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]


def test_a_month_of_a_hundred_containers(tmp_path: Path) -> None:
    found = simulate(tmp_path, 100, 30, DEFAULT)
    after = [held for held in found.held if held.day > 15]
    assert len(after) >= 100
    # hours are kept for ever, so what is added are they; all that is freed is used again
    assert found.growth("file_mib", 15) <= 1.1
    assert [held.oldest_raw_days for held in after] == pytest.approx([2] * len(after), abs=0.02)
    # CPU time: how long this process waits for another's turn says nothing of the sink
    assert sorted(found.pauses_cpu_ms)[len(found.pauses_cpu_ms) * 99 // 100] <= 50
    assert found.growth("rss_mib", 1) <= 1.1

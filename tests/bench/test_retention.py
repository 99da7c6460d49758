"""A day of `python -m bench --only retention`: the file stops growing, and the writer is not kept waiting."""

from pathlib import Path

import pytest
from bench.retention import Kept, simulate

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

KEPT = Kept(raw=0.125, five_minutes=0.25, hour=0.375)


def test_a_day_of_a_hundred_containers(tmp_path: Path) -> None:
    found = simulate(tmp_path, 100, 1, KEPT)
    after = [held for held in found.held if held.day >= 0.75]
    assert len(after) >= 3
    assert after[-1].file_mib <= 1.1 * after[0].file_mib, "what is freed is used again"
    assert [held.oldest_raw_days for held in after] == pytest.approx([0.125] * len(after), abs=0.02)
    # CPU time: how long this process waits for another's turn says nothing of the sink
    assert sorted(found.pauses_cpu_ms)[len(found.pauses_cpu_ms) * 99 // 100] <= 50
    assert after[-1].rss_mib <= after[0].rss_mib + 24

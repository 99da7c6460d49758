"""What the running program counts, and what it says of a file that it cannot read."""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tests.e2e.program import Program, eventually

pytestmark = [pytest.mark.integration, pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

ELSEWHERE = {
    "pid": None,
    "collector_faults": None,
    "collector_counters": "tidegauge_collector_unreadable_files_total",
    "restarts": "tidegauge_process_restarts_total",
    "process_cpu_s": "tidegauge_process_cpu_seconds_total",
}
"""Keys that are no family of that name, with the family that has their number; None: no number."""


def families(page: str) -> set[str]:
    return set(re.findall(r"^# HELP (\S+) ", page, re.MULTILINE))


def test_every_key_that_the_sampler_tells_is_a_family_of_the_page(tmp_path: Path) -> None:
    with Program(tmp_path) as program:
        sampler = eventually(lambda: program.status()["sampler"], 20)
        assert sampler["log_waiting_ticks"] >= 0
        told = {key for key, value in sampler.items() if value is not None and not (isinstance(value, Mapping) and not value)}
        shown = families(program.get("/metrics").decode())
        secret = {key for key in told - ELSEWHERE.keys() if not {f"tidegauge_{key}", f"tidegauge_{key}_total"} & shown}
        assert secret == set()
        assert {name for name in ELSEWHERE.values() if name is not None} <= shown
        assert {"tidegauge_messages_undecodable_total", "tidegauge_log_unwritable_rows_total"} <= shown
        for key in program.status()["sinks"]:
            assert f'tidegauge_sink_cursor_errors_total{{sink="{key}"}} 0' in program.get("/metrics").decode()


def test_a_file_that_cannot_be_read_is_said_once_counted_and_the_rest_goes_on(
    tmp_path: Path, recorded_tree: Callable[[str], Path]
) -> None:
    root = tmp_path / "root"
    shutil.copytree(recorded_tree("cgroup2") / "snapshot-1", root, symlinks=True)
    broken = root / "sys/fs/cgroup/system.slice/memory.stat"
    broken.unlink()
    broken.mkdir()  # root may read every file, but nobody a directory
    text = f'[roots]\nsys = "{root}/sys"\nproc = "{root}/proc"\n[sampler]\nbase_interval_s = 0.2\n'
    with Program(tmp_path / "program", text) as program:
        eventually(lambda: program.status()["sampler"].get("collector_faults"), 20)
        said = f"collector cgroup_v2 cannot read everything: {broken}: Is a directory"
        assert said in program.call("status").stdout
        page = program.get("/metrics").decode()
        assert re.search(r'^tidegauge_collector_unreadable_files_total\{collector="cgroup_v2"\} [1-9]', page, re.MULTILINE)
        query = (
            "SELECT memory_usage_bytes, memory_rss_bytes FROM sample s JOIN container c ON c.id = s.container "
            "WHERE c.path = '/system.slice'"
        )
        ((usage, rss), *_) = eventually(lambda: program.sql(query), 20)
        assert usage == int((broken.parent / "memory.current").read_text())
        assert rss is None
        before = program.status()["sampler"]["ticks"]
        eventually(lambda: program.status()["sampler"]["ticks"] > before + 3, 20)
        assert program.text().count(f"first {broken}: Is a directory") == 1

"""Groups that are off by default, switched on in the whole program: their values stand in the database beside the kernel's."""

from pathlib import Path

import pytest
from tests.collectors.v1_mounts import locked
from tests.e2e.program import Program, eventually
from tests.e2e.test_delivery import config
from tests.support import need

from tidegauge.collectors.cgroup_paths import find_mounts

pytestmark = [pytest.mark.integration, pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

GROUPS = """
[metrics]
enable = ["memory_numa", "cpuset", "hugetlb", "perf_event", "resctrl"]
[collectors.perf_event]
events = ["task-clock", "page-faults", "cycles"]
"""


def test_their_rows_are_stored(tmp_path: Path, cgroups: dict[str, Path]) -> None:
    root = find_mounts(Path("/sys"), Path("/proc")).place("memory")
    need(root, "a memory controller")
    path = next(f"/{p.parent.name}/{p.name}" for p in cgroups.values())
    text = config(extra=GROUPS).replace("max_interval_s = 4\n", "max_interval_s = 4\nslow_interval_s = 1\n")
    with locked("perf_event"), Program(tmp_path, text) as program:

        def rows(query: str, where: str) -> list[tuple[object, ...]]:
            return program.sql(f"{query} JOIN container c ON c.id = t.container WHERE c.path = ?", where)

        if Path(f"{root}{path}").exists():
            eventually(lambda: rows("SELECT t.node FROM numa t", path), 30)
            assert {node for (node,) in rows("SELECT t.node FROM numa t", path)} >= {"0"}
        eventually(lambda: len(rows("SELECT t.perf_count FROM perf t", "/")) > 4, 30)
        counts = [n for (n,) in rows("SELECT t.perf_count FROM perf t", "/") if isinstance(n, int)]
        assert max(counts) > 0
        host = {event for (event,) in rows("SELECT DISTINCT t.event FROM perf t", "/")}
        assert {"task-clock", "page-faults"} <= host
        cpus = eventually(lambda: rows("SELECT t.cpuset_cpus FROM sample_ext t", "/"), 30)
        assert any(n for (n,) in cpus)
        eventually(lambda: program.sql("SELECT 1 FROM metric WHERE name = 'numa_anon_bytes'"), 20)
        for (total,) in program.sql("SELECT COUNT(*) FROM resctrl"):
            assert total == 0 or Path("/sys/fs/resctrl").exists()
    assert "Traceback" not in program.text()

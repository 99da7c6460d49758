"""Groups that are off by default, switched on in the whole program: their values stand in the database beside the kernel's."""

import shutil
from pathlib import Path

import psutil
import pytest
from tests.collectors.real_container import RealContainer
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


OF_PROCESSES = """
[metrics]
enable = ["tcp", "udp", "advtcp", "process", "sched", "referenced_memory"]
[collectors.referenced]
interval_s = 1
"""
AT_WORK = """
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
server = socket.create_server(("127.0.0.1", 0))
kept = []
for _ in range(3):
    kept.append(socket.create_connection(server.getsockname()))
    kept.append(server.accept()[0])
for _ in range(2):
    kept.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    kept[-1].bind(("127.0.0.1", 0))
for _ in range(5):
    kept[-1].sendto(b"x" * 100, kept[-2].getsockname())
touched = bytearray(b"x") * (32 << 20)
until = time.process_time() + 0.3
while time.process_time() < until:
    pass
"""
"""One that listens, three connections with both their ends, two of UDP with five datagrams that nobody reads, memory, CPU time;
and then it does nothing any more."""


def _schedstat(pid: int) -> tuple[int, int]:
    """Time on a CPU and times put there, of all its threads."""
    found = [p.read_text().split() for p in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(w[0]) for w in found), sum(int(w[2]) for w in found)


def _referenced(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Referenced:"))


def test_what_processes_and_their_sockets_do_is_stored(tmp_path: Path) -> None:
    need(shutil.which("unshare") and shutil.which("ip"), "unshare and ip")
    text = config(extra=OF_PROCESSES).replace("max_interval_s = 4\n", "max_interval_s = 4\nslow_interval_s = 1\n")
    with RealContainer() as real:
        process = real.run(AT_WORK, "unshare", "-n")
        with Program(tmp_path, text.replace("/tg-e2e-*", real.path)) as program:

            def newest(table: str, columns: str, where: str = "1") -> tuple[int, ...]:
                """The last row in which these columns have values."""
                first = columns.split(",")[0]
                rows = program.sql(
                    f"SELECT {columns} FROM {table} t JOIN container c ON c.id = t.container"
                    f" WHERE c.path = ? AND {first} IS NOT NULL AND {where} ORDER BY t.ts_ms DESC LIMIT 1",
                    real.path,
                )
                return rows[0] if rows else ()

            def becomes(table: str, columns: str, wanted: tuple[int, ...], where: str = "1") -> None:
                eventually(lambda: newest(table, columns, where) == wanted, 60, f"{columns} {wanted}")

            becomes("tcp", "tcp_listen,tcp_established,tcp_time_wait", (1, 6, 0), "protocol = 'tcp'")
            becomes("udp", "udp_listen,udp_dropped", (2, 0), "protocol = 'udp'")
            assert newest("udp", "udp_receive_queue_bytes", "protocol = 'udp'")[0] >= 500
            becomes("sample_tcp", "tcp_activeopens,tcp_passiveopens,tcp_currestab", (3, 3, 6))
            own = psutil.Process(process.pid)
            becomes(
                "sample_ext",
                "process_count,open_files,open_sockets,open_files_soft_limit,open_files_hard_limit",
                (1, own.num_fds(), 9, *own.rlimit(psutil.RLIMIT_NOFILE)),
            )
            run_ns, slices = _schedstat(process.pid)
            assert run_ns > 300_000_000
            found = eventually(lambda: newest("sample_ext", "cpu_schedstat_run_ns,cpu_schedstat_slices"), 60)
            assert found == (pytest.approx(run_ns, rel=0.05), pytest.approx(slices, rel=0.05, abs=5))

            def is_referenced() -> bool:
                bytes_ = newest("sample_ext", "memory_referenced_bytes")
                # others may clear the marks meanwhile: the kernel's reclaim does
                return bool(bytes_) and bytes_[0] == pytest.approx(_referenced(process.pid), rel=0.1)

            assert _referenced(process.pid) > 0
            eventually(is_referenced, 60)
    assert "Traceback" not in program.text()

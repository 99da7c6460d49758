"""What the collectors that read through processes have in common: the switch, processes that come and go, and such as hide."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from tests.collectors.cgroup_truth import container
from tests.collectors.made_up_host import MadeUpHost
from tests.collectors.real_container import RealContainer
from tests.support import need

from tidegauge.collectors._kernel_text import Faults
from tidegauge.collectors._members import processes, start_ticks, threads
from tidegauge.collectors.cgroup_paths import find_mounts
from tidegauge.collectors.processes import ProcessesCollector, ProcessesConfig
from tidegauge.collectors.referenced import ReferencedCollector, ReferencedConfig
from tidegauge.collectors.sched import SchedCollector, SchedConfig, SchedReader
from tidegauge.collectors.sockets import SocketsCollector, SocketsConfig, SocketsReader
from tidegauge.collectors.tcp_counters import TcpCountersCollector, TcpCountersConfig
from tidegauge.pipeline import collecting, sampling
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.config import load
from tidegauge.pipeline.identity import Origin
from tidegauge.pipeline.records import Batch
from tidegauge.pipeline.sampler_config import SamplerConfig

GROUPS = {
    "tcp": "sockets",
    "udp": "sockets",
    "advtcp": "tcp_counters",
    "process": "processes",
    "sched": "sched",
    "referenced_memory": "referenced",
}
ALL = (
    (SocketsCollector, SocketsConfig),
    (TcpCountersCollector, TcpCountersConfig),
    (ProcessesCollector, ProcessesConfig),
    (SchedCollector, SchedConfig),
    (ReferencedCollector, ReferencedConfig),
)


def built(tmp_path: Path, *enable: str) -> dict[str, object]:
    config = load(None, {"state_dir": str(tmp_path), "metrics": {"enable": list(enable), "disable": ["host"]}}, {})
    collectors, _ = collecting.build(config)
    found = dict(collectors)
    for collector in found.values():
        if (close := getattr(collector, "close", None)) is not None:
            close()
    return found


def test_none_of_them_runs_unless_its_group_is_on(tmp_path: Path) -> None:
    assert not built(tmp_path).keys() & set(GROUPS.values())
    for group, name in GROUPS.items():
        assert built(tmp_path, group).keys() & set(GROUPS.values()) == {name}


@pytest.mark.parametrize(("enable", "tables"), [(["tcp"], ("tcp",)), (["udp"], ("udp",)), (["tcp", "udp"], ("tcp", "udp"))])
def test_only_the_tables_of_groups_that_are_on_are_read(tmp_path: Path, enable: list[str], tables: tuple[str, ...]) -> None:
    collector = built(tmp_path, *enable)["sockets"]
    assert isinstance(collector, SocketsCollector)
    assert collector.tables == tables


def test_every_metric_of_the_groups_has_a_collector() -> None:
    given = {name for cls, _ in ALL for name in cls.metrics}
    tables = {"tcp", "udp"}
    assert {m.name for m in Catalogue() if m.group in GROUPS and m.table not in tables} == given


def test_all_are_read_apart_from_the_sampling_thread() -> None:
    assert all(cls.is_slow for cls, _ in ALL)
    assert (SocketsCollector(SocketsConfig()).interval_s, ReferencedCollector(ReferencedConfig()).interval_s) == (30, 60)
    assert SchedCollector(SchedConfig(interval_s=3)).interval_s == 3


def test_values_of_all_of_them_come_with_a_sample(tmp_path: Path) -> None:
    """Of a made-up host, through the sampler."""
    host = MadeUpHost(tmp_path)
    host.namespace("a", 1)
    host.process(100, "a")
    host.members("/a", 100)
    (host.cgroup / "a/cgroup.threads").write_text("100\n")
    (host.cgroup / "a/cpu.stat").write_text("usage_usec 1\n")
    host.file(100, "net/udp", "head\n")
    host.file(100, "net/snmp", "Tcp: InSegs\nTcp: 5\n")
    host.file(100, "schedstat", "7 8 9\n")
    host.file(100, "smaps_rollup", "Referenced: 3 kB\n")
    collectors = [(c.__name__, c(t(sys=tmp_path / "sys", proc=tmp_path / "proc"))) for c, t in ALL]
    origin = Origin("8a8c1a0e-3a6c-4f5e-9c1e-0b7f8f0a1b2c", "host", "5f1c7c9e-9f0b-4a58-8c31-1f6d3f1d2b3a")
    only_these = [*collectors, ("folders", _Folders(host.cgroup))]
    records = sampling.sample_once(SamplerConfig(base_interval_s=0.05), only_these, Catalogue(), origin)
    found = [row for r in records if isinstance(r, Batch) for row in r.as_dicts() if row["container"] == "/a"]
    metrics = {k: v for row in found for k, v in row["metrics"].items()}
    assert metrics.items() >= {
        ("tcp_insegs", 5),
        ("process_count", 1),
        ("cpu_schedstat_wait_ns", 8),
        ("memory_referenced_bytes", 3072),
    }
    assert any(row.get("tables", {}).get("udp", {}).get("udp", {}).get("udp_listen") == 0 for row in found)


class _Folders:
    """Knows where the containers are."""

    metrics: tuple[str, ...] = ()

    def __init__(self, root: Path) -> None:
        self._root = root

    def hierarchies(self) -> tuple[object, ...]:
        return find_mounts(self._root.parent.parent, Path("/nowhere")).hierarchies()

    def reader(self, _: object) -> None:
        return None


CHURN = """
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
def threads():
    while True:
        for t in [threading.Thread(target=sum, args=(range(1000),)) for _ in range(5)]:
            t.start()
        time.sleep(0.001)
threading.Thread(target=threads, daemon=True).start()
def children():
    while True:
        pids = [os.posix_spawn("/bin/sleep", ["sleep", "0.01"], {}) for _ in range(5)]
        for pid in pids:
            os.waitpid(pid, 0)
threading.Thread(target=children, daemon=True).start()
server = socket.create_server(("127.0.0.1", 0))
def connections():
    while True:
        client = socket.create_connection(server.getsockname())
        server.accept()[0].close()
        client.close()
        time.sleep(0.005)
threading.Thread(target=connections, daemon=True).start()
"""


@pytest.mark.integration
def test_processes_threads_and_sockets_that_come_and_go_break_nothing() -> None:
    need(all(shutil.which(t) for t in ("unshare", "ip")) and os.path.exists("/bin/sleep"), "unshare, ip and sleep")
    with RealContainer() as real:
        real.run(CHURN, "unshare", "-n")
        collectors = [cls(config()) for cls, config in ALL]
        readers = [c.reader(container(real.path)) for c in collectors]
        last = (0, 0, 0)
        seen: Counter[int] = Counter()
        for _ in range(15):
            for number, reader in enumerate(readers):
                values = reader.read()
                if isinstance(reader, SocketsReader):
                    rows = reader.read_tables()[0]
                    seen[number] += rows is not None
                    assert rows is None or rows[0][10] == 1  # the one that listens
                else:
                    seen[number] += values[0] is not None
                if isinstance(reader, SchedReader):
                    run, wait, slices = (int(v or 0) for v in values)
                    assert run >= last[0]
                    assert wait >= last[1]
                    assert slices >= last[2]
                    last = (run, wait, slices)
        assert last > (0, 0, 0)
        # of a namespace there may be nothing once in a while: two processes in a row that have just ended
        assert all(seen[n] >= 10 for n in range(len(readers)))
        assert all(c.counters()["unreadable_files"] == 0 for c in collectors)


HIDDEN = """
import os, sys
from pathlib import Path
sys.path.insert(0, ".")
from tests.collectors.test_process_groups import ALL, container
proc, path, unreadable = Path(sys.argv[1]), sys.argv[2], 0
os.setgroups([])
os.setegid(65534)  # group 0 would see everything
os.seteuid(65534)
for cls, config in ALL:
    collector = cls(config(proc=proc))
    reader = collector.reader(container(path))
    values = reader.read()
    unreadable += collector.counters()["unreadable_files"]
    print((set(values[1:] if len(values) == 5 else values), getattr(reader, "read_tables", tuple)()))
print(unreadable)
"""


@pytest.mark.integration
@pytest.mark.parametrize("hide", ["1", "2"])
def test_processes_that_hide_have_no_values_rather_than_zeros(hide: str) -> None:
    """With `hidepid` an agent that is not root sees nothing of others' processes (1), or not even that they are there (2)."""
    need(shutil.which("unshare"), "unshare")
    with RealContainer() as real, tempfile.TemporaryDirectory(prefix="tidegauge-") as proc:
        os.chmod(proc, 0o755)
        process = real.run("", "unshare", "-n")
        script = f'mount -t proc -o hidepid={hide} proc "$0" && exec "$@"'
        command = ["unshare", "-m", "sh", "-c", script, proc, sys.executable, "-c", HIDDEN, proc, real.path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        need("mount" not in done.stderr, f"the right to mount procfs: {done.stderr}")
        assert done.returncode == 0, done.stderr
        nothing = "({None}, ())"
        wanted = ["(set(), (None, None))", nothing, nothing, nothing, nothing]
        assert done.stdout.splitlines()[:5] == wanted
        assert (int(done.stdout.splitlines()[5]) > 0) == (hide == "1")
        assert process.poll() is None


def test_members_are_of_the_first_hierarchy_that_has_any(tmp_path: Path) -> None:
    for controller, lines in (("cpuacct", ""), ("memory", "7\n9\n"), ("pids", "8\n")):
        folder = tmp_path / f"sys/fs/cgroup/{controller}/a"
        folder.mkdir(parents=True)
        (folder / "cgroup.procs").write_text(lines)
        (folder / "tasks").write_text(lines)
    mounts = find_mounts(tmp_path / "sys", tmp_path / "proc")
    assert processes(mounts, "/a", str(tmp_path / "proc"), Faults()) == [7, 9]
    assert threads(mounts, "/a", Faults()) == [7, 9]
    assert processes(mounts, "/b", str(tmp_path / "proc"), Faults()) is None
    (tmp_path / "sys/fs/cgroup/cpuacct/b").mkdir()
    (tmp_path / "sys/fs/cgroup/cpuacct/b/tasks").write_text("")
    assert threads(mounts, "/b", Faults()) == []


@pytest.mark.integration
def test_a_threaded_cgroup_has_the_processes_of_its_threads() -> None:
    with RealContainer() as real:
        root = real.mounts.hierarchies()[0].root
        if root != real.mounts.unified:
            return  # v1 has no such cgroups; the VM with v2 alone has
        process = real.run("threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()")
        inner = Path(f"{root}{real.path}/inner")
        inner.mkdir()
        try:
            (inner / "cgroup.type").write_text("threaded")
            tids = sorted(int(t) for t in os.listdir(f"/proc/{process.pid}/task"))
            for tid in tids:
                (inner / "cgroup.threads").write_text(str(tid))
            assert processes(real.mounts, f"{real.path}/inner", "/proc", Faults()) == [process.pid]
            assert sorted(threads(real.mounts, f"{real.path}/inner", Faults()) or ()) == tids
        finally:
            process.kill()
            process.wait()
            inner.rmdir()


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [(b"1 (a) b) S " + b"0 " * 18 + b"77 0 0", 77), (b"", None), (b"1 (a) S 1 2", None), (b"1 (a) S " + b"x " * 20, None)],
)
def test_start_of_a_process(raw: bytes, wanted: int | None) -> None:
    assert start_ticks(raw) == wanted

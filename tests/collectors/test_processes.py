"""Processes, open files and limits: recorded, made up, and real ones beside psutil."""

import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.cgroup_truth import Truth, as_dict, container
from tests.collectors.made_up_host import MadeUpHost
from tests.collectors.real_container import RealContainer, ask
from tests.support import need

from tidegauge.collectors._kernel_text import Faults
from tidegauge.collectors.cgroup_paths import find_mounts
from tidegauge.collectors.processes import ProcessesCollector, ProcessesConfig, parse_open_files_limit
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.records import UNLIMITED

LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max processes             7823                 7823                 processes
Max open files            {:<20} {:<20} files
Max locked memory         65536                65536                bytes
"""


def collector_of(root: Path) -> ProcessesCollector:
    return ProcessesCollector(ProcessesConfig(root / "sys", root / "proc"))


def values_of(collector: ProcessesCollector, path: str) -> Truth:
    return as_dict(collector, collector.reader(container(path)))


def stat_of(pid: int, start: int) -> str:
    return f"{pid} (a ) (b) S 1 {' '.join(['0'] * 17)} {start} 4096 100\n"


class Processes(MadeUpHost):
    """A host whose processes have files, a start and limits."""

    def live(self, pid: int, start: int, soft: object, *links: str) -> None:
        self.file(pid, "stat", stat_of(pid, start))
        self.file(pid, "limits", LIMITS.format(soft, 4096))
        where = self.root / f"proc/{pid}/fd"
        where.mkdir(exist_ok=True)
        for number, link in enumerate(links):
            (where / str(number)).symlink_to(link)


@pytest.fixture
def host(tmp_path: Path) -> Processes:
    return Processes(tmp_path)


def test_files_and_sockets_add_up_over_processes(host: Processes) -> None:
    host.live(100, 50, 1024, "/dev/null", "socket:[1]", "pipe:[2]")
    host.live(101, 51, 2048, "socket:[3]", "socket:[4]", "/srv/socket:[5]", "anon_inode:[eventfd]")
    host.members("/a", 100, 101)
    assert values_of(collector_of(host.root), "/a") == {
        "process_count": 2,
        "open_files": 7,
        "open_sockets": 3,
        "open_files_soft_limit": 1024,
        "open_files_hard_limit": 4096,
    }


def test_limits_are_those_of_the_process_that_began_first(host: Processes) -> None:
    host.live(100, 90, 1)
    host.live(200, 50, 2)
    host.live(300, 50, 3)
    host.members("/a", 300, 100, 200)
    collector = collector_of(host.root)
    reader = collector.reader(container("/a"))
    assert reader.read()[3] == 2
    host.file(200, "limits", LIMITS.format("unlimited", 1))
    assert reader.read()[3] == UNLIMITED
    host.file(200, "stat", stat_of(200, 99))  # its number was used again
    assert reader.read()[3] == 3
    host.end(300)
    host.members("/a", 100, 200)
    assert reader.read()[3] == 1


def test_a_container_without_processes_has_none_of_their_files(host: Processes) -> None:
    host.members("/a")
    assert tuple(values_of(collector_of(host.root), "/a").values()) == (0, 0, 0, None, None)


def test_processes_that_end_meanwhile_are_passed_over(host: Processes) -> None:
    host.live(100, 50, 1024, "socket:[1]")
    host.members("/a", 100, 101)
    collector = collector_of(host.root)
    assert tuple(values_of(collector, "/a").values()) == (2, 1, 1, 1024, 4096)
    host.end(100)
    assert tuple(values_of(collector, "/a").values()) == (2, None, None, None, None)
    assert collector.counters()["unreadable_files"] == 0


def test_processes_outside_of_our_own_namespace_count_but_cannot_be_seen(host: Processes) -> None:
    host.members("/a", 0, 0)
    assert tuple(values_of(collector_of(host.root), "/a").values()) == (2, None, None, None, None)


def test_a_container_that_is_gone_has_no_values(host: Processes) -> None:
    assert set(values_of(collector_of(host.root), "/gone").values()) == {None}


def test_no_cgroups_is_no_data(tmp_path: Path) -> None:
    with pytest.raises(NoData):
        collector_of(tmp_path).reader(container("/a"))


@pytest.mark.parametrize("name", ["cgroup1", "cgroup1-vm", "cgroup2"])
def test_recorded_containers(recorded_tree: Callable[[str], Path], name: str) -> None:
    root = recorded_tree(name) / "snapshot-1"
    collector = collector_of(root)
    hierarchies = find_mounts(root / "sys", root / "proc").hierarchies()
    first = hierarchies[0].root
    seen = 0
    for file in sorted(first.rglob("cgroup.procs")):
        path = "/" + str(file.parent.relative_to(first)).removeprefix(".")
        try:
            pids = file.read_text().split()
        except OSError:
            continue
        if not pids or path == "/":
            continue
        values = values_of(collector, path)
        assert values["process_count"] == len(pids)
        assert values["open_files"] is None  # not recorded
        starts = {}
        for pid in pids:
            if (stat := root / f"proc/{pid}/stat").exists():
                starts[pid] = int(stat.read_text().rpartition(")")[2].split()[19])
        if starts:
            oldest = min(starts, key=lambda pid: (starts[pid], int(pid)))
            lines = (root / f"proc/{oldest}/limits").read_text().splitlines()
            limits = next(line for line in lines if line.startswith("Max open files")).split()[3:5]
            assert (values["open_files_soft_limit"], values["open_files_hard_limit"]) == tuple(map(int, limits))
            seen += 1
    assert seen >= 5


LIMIT = st.integers(0, 2**63 - 1) | st.just("unlimited")


@given(LIMIT, LIMIT)
def test_limits_come_back(soft: int | str, hard: int | str) -> None:
    raw = LIMITS.format(soft, hard).encode()
    wanted = tuple(UNLIMITED if x == "unlimited" else x for x in (soft, hard))
    assert parse_open_files_limit(raw, Faults()) == wanted


@given(st.binary(max_size=100).map(lambda raw: b"Max open files " + raw) | st.binary(max_size=100))
def test_any_bytes_are_taken(raw: bytes) -> None:
    assert all(v is None or (isinstance(v, int) and v >= 0) for v in parse_open_files_limit(raw, Faults()))


@pytest.mark.integration
def test_real_processes_are_those_of_psutil() -> None:
    with RealContainer() as real:
        first = real.run("")
        second = real.run("")
        psutil.Process(first.pid).rlimit(psutil.RLIMIT_NOFILE, (512, 600))
        ask(second, "kept = [open('/dev/null') for _ in range(20)] + list(socket.socketpair()) + [socket.socket()]")
        ask(second, "threading.Thread(target=threading.Event().wait, daemon=True).start()")
        collector = ProcessesCollector(ProcessesConfig())
        reader = collector.reader(container(real.path))
        values = as_dict(collector, reader)
        own = [psutil.Process(p.pid) for p in (first, second)]
        sockets = sum(
            os.readlink(f"/proc/{p.pid}/fd/{n}").startswith("socket:") for p in own for n in os.listdir(f"/proc/{p.pid}/fd")
        )
        assert values == {
            "process_count": 2,
            "open_files": sum(p.num_fds() for p in own),
            "open_sockets": sockets,
            "open_files_soft_limit": 512,
            "open_files_hard_limit": 600,
        }
        assert sockets >= 3
        ask(second, "kept.clear()")
        after = as_dict(collector, reader)
        assert (values["open_files"] or 0) - (after["open_files"] or 0) == 23
        first.kill()
        first.wait()
        assert reader.read()[0] == 1
        assert reader.read()[3:] == psutil.Process(second.pid).rlimit(psutil.RLIMIT_NOFILE)


@pytest.mark.integration
def test_many_processes_and_files() -> None:
    with RealContainer() as real:
        code = """
for _ in range(30):
    if os.fork() == 0:
        time.sleep(1000)
        os._exit(0)
kept = [open("/dev/null") for _ in range(500)]
"""
        process = real.run(code)
        try:
            reader = ProcessesCollector(ProcessesConfig()).reader(container(real.path))
            own = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
            assert reader.read()[:2] == (31, sum(p.num_fds() for p in own))
        finally:
            for child in psutil.Process(process.pid).children():
                child.kill()


@pytest.mark.integration
def test_limits_without_end_are_unlimited() -> None:
    """The kernel writes the word where a process has no limit; of open files there always is one, so another line is taken."""
    with open("/proc/self/limits", "rb") as file:
        raw = file.read()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert parse_open_files_limit(raw, Faults()) == (soft, hard)
    line = next(line for line in raw.split(b"\n") if b"unlimited" in line)
    name = line[:25].strip()
    assert UNLIMITED in parse_open_files_limit(line.replace(name, b"Max open files"), Faults())


def test_files_that_may_not_be_seen_are_none_and_counted() -> None:
    need(os.geteuid() == 0, "root, to become somebody who may not read")
    with tempfile.TemporaryDirectory(prefix="tidegauge-") as folder:
        os.chmod(folder, 0o755)
        host = Processes(Path(folder))
        host.live(100, 50, 1024, "socket:[1]")
        host.live(101, 60, 1024, "socket:[2]", "/dev/null")
        host.members("/a", 100, 101)
        collector = collector_of(host.root)
        reader = collector.reader(container("/a"))
        (host.root / "proc/100/fd").chmod(0)
        os.seteuid(65534)
        try:
            assert reader.read() == (2, 2, 1, 1024, 4096)
            os.seteuid(0)
            (host.root / "proc/101/fd").chmod(0)
            os.seteuid(65534)
            assert reader.read() == (2, None, None, 1024, 4096)
        finally:
            os.seteuid(0)
    assert collector.counters()["unreadable_files"] == 3
    assert "100/fd" in (collector.complaint() or "")

"""Processes of containers: parsers, a made tree, and real cgroups of whichever hierarchy there is, beside psutil and `ps`."""

import contextlib
import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support import eventually, need

from tidegauge.collectors import process_list
from tidegauge.collectors.process_list import (
    Process,
    ProcessLists,
    parse_cgroups,
    parse_command_line,
    parse_stat,
    parse_status,
    parse_users,
)
from tidegauge.pipeline.errors import Reason, RequestError

HOST = (Path("/sys"), Path("/proc"), Path("/"))
TAIL = b" S 7 8 9 10 11 0 1 2 3 4 50 60 7 8 20 -5 3 0 900 4096 12 18446744073709551615 " + b"0 " * 13 + b"2 0 0\n"


# Parsers.


@given(st.binary(max_size=20))
@example(b"a) S 1 (b")
@example(b"tmux: server")
def test_a_name_may_hold_anything(name: bytes) -> None:
    stat = parse_stat(b"5 (" + name + b")" + TAIL)
    assert stat is not None
    assert stat.command == name.decode(errors="replace")
    assert (stat.state, stat.parent_pid, stat.cpu_ticks, stat.nice, stat.threads) == ("S", 7, 110, -5, 3)
    assert (stat.start_ticks, stat.virtual_bytes, stat.rss_pages, stat.processor) == (900, 4096, 12, 2)


@given(st.binary(max_size=300))
@example(b"")
@example(b"5 (a) S")
@example(b"Uid:\nUid:\t0\nVmLck:")
@example(b"5 (a)" + TAIL.replace(b"7", b"x"))
def test_parsers_take_whatever_there_is(raw: bytes) -> None:
    parse_stat(raw)
    parse_status(raw)
    parse_command_line(raw)
    parse_cgroups(raw)
    parse_users(raw)


def test_parsers_on_usual_files() -> None:
    assert parse_status(b"Name:\tx\nUid:\t0\t33\t0\t0\nVmLck:\t       0 kB\n") == (33, False)
    assert parse_status(b"Uid:\t0\t0\t0\t0\nVmLck:\t      64 kB\n") == (0, True)
    assert parse_command_line(b"") is None
    assert parse_command_line(b"sh\0-c\0\0") == ("sh", "-c", "")
    assert parse_command_line(b"nginx: master process") == ("nginx: master process",)
    assert parse_cgroups(b"4:cpu,cpuacct:/a\n1:name=systemd:/a/b:c\n0::/u (deleted)\n") == {
        "cpu": "/a",
        "cpuacct": "/a",
        "name=systemd": "/a/b:c",
        "": "/u",
    }
    assert parse_users(b"root:x:0:0::/root:/bin/sh\nbad\ntoor:x:0:0::/:\nwww:x:33:33\n") == {0: "root", 33: "www"}


# A made tree.


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two processes in /a (one of them a kernel's zombie), one in /a/b by a single hierarchy, one at home elsewhere."""
    proc = tmp_path / "proc"
    for pid, cgroup in ((10, "/a"), (11, "/a"), (12, "/a/b"), (13, "/c")):
        where = proc / str(pid)
        where.mkdir(parents=True)
        (where / "stat").write_bytes(b"%d (work)" % pid + (TAIL if pid != 11 else TAIL.replace(b" S ", b" Z ")))
        (where / "status").write_text("Uid:\t5\t5\t5\t5\n")
        (where / "cgroup").write_text(f"2:memory:{cgroup if pid != 12 else '/a'}\n3:pids:{cgroup}\n0::/\n")
        (where / "cmdline").write_bytes(b"work\0--token=x\0" if pid != 11 else b"")
    (proc / "uptime").write_text("100.00 0\n")
    (proc / "meminfo").write_text("MemTotal: 4000 kB\n")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("alice:x:5:5::/:/bin/sh\n")
    for controller, members in (
        ("memory", {"a": (10, 11, 12), "c": (13,)}),
        ("pids", {"a": (10, 11), "a/b": (12,), "c": (13,)}),
    ):
        for name, pids in members.items():
            where = tmp_path / "sys/fs/cgroup" / controller / name
            where.mkdir(parents=True, exist_ok=True)
            (where / "cgroup.procs").write_text("".join(f"{p}\n" for p in (0, *pids, 99)))
    return tmp_path


def lists(tree: Path) -> ProcessLists:
    return ProcessLists(tree / "sys", tree / "proc", tree)


def pids(lists: ProcessLists, path: str, is_recursive: bool = False) -> list[int]:
    return [p.pid for p in lists.of(path, is_recursive).processes]


def test_members_are_those_of_every_hierarchy(tree: Path) -> None:
    assert pids(lists(tree), "/a") == [10, 11, 12]
    assert pids(lists(tree), "/a/b") == [12]
    (tree / "sys/fs/cgroup/memory/a/cgroup.procs").write_text("10\n11\n")
    assert pids(lists(tree), "/a") == [10, 11]
    assert pids(lists(tree), "/a", True) == [10, 11, 12]
    assert pids(lists(tree), "/") == [10, 11, 12, 13]


def test_fields_of_a_made_process(tree: Path) -> None:
    listed = lists(tree).of("/a")
    work, zombie, deep = listed.processes
    page, ticks = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    expected_start = time.time() * 1000 - 100_000 + 900_000 / ticks
    assert work.start_ms == pytest.approx(expected_start, abs=30_000)
    assert (work.user, work.uid, work.parent_pid, work.status) == ("alice", 5, 7, "S<l")
    assert (work.command, work.command_line, work.cgroup) == ("work", ("work", "--token=x"), "/a")
    assert (work.rss_bytes, work.virtual_bytes, work.threads, work.processor) == (12 * page, 4096, 3, 2)
    assert work.memory_percent == pytest.approx(100 * 12 * page / 4_096_000, abs=0.001)
    assert work.cpu_ns == 110 * 10**9 // ticks
    assert work.descriptors is None
    assert (zombie.status, zombie.command_line, deep.cgroup) == ("Z<l", None, "/a/b")
    assert listed.skipped == 1, "99 has no directory"


def test_absent_files_are_absent_values(tree: Path) -> None:
    for name in ("status", "cgroup", "cmdline"):
        (tree / "proc/10" / name).unlink()
    (tree / "proc/uptime").unlink()
    (tree / "proc/meminfo").unlink()
    (tree / "etc/passwd").unlink()
    one, other, _ = lists(tree).of("/a").processes
    absent = (one.user, one.uid, one.command_line, one.cgroup, one.start_ms, one.cpu_percent, one.memory_percent)
    assert absent == (None,) * 7
    assert other.user == "5"


def test_who_ends_or_leaves_meanwhile_is_skipped(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = lists(tree)
    read = made._read

    def leave(pid: int, *rest: object) -> Process | None:
        if pid == 10:
            shutil.rmtree(tree / "proc/11")
            for controller in ("memory", "pids"):
                (tree / "sys/fs/cgroup" / controller / "a/cgroup.procs").write_text("11\n12\n")
        return read(pid, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(made, "_read", leave)
    listed = made.of("/a")
    assert [p.pid for p in listed.processes] == [12]
    assert listed.skipped == 3


@pytest.mark.parametrize("path", ["", "a", "/a/", "//a", "/a/../c", "/..", "/./a", "/a\0", "/" + "a/" * 3000 + "a"])
def test_what_is_no_path_of_a_container_is_refused(tree: Path, path: str) -> None:
    with pytest.raises(RequestError) as caught:
        lists(tree).of(path)
    assert caught.value.reason is Reason.REFUSED


def test_a_container_that_is_not_there(tree: Path) -> None:
    with pytest.raises(RequestError) as caught:
        lists(tree).of("/nowhere")
    assert (caught.value.reason, str(caught.value)) == (Reason.NOT_FOUND, "there is no container /nowhere")


def test_the_request(tree: Path) -> None:
    later = time.monotonic_ns() + 10**12
    answer = lists(tree).answer({"path": "/a", "recursive": True}, later)
    assert [p["pid"] for p in msgspec.msgpack.decode(msgspec.msgpack.encode(answer))["processes"]] == [10, 11, 12]
    for wrong in ({}, {"path": 3}, {"path": "/a", "recursive": 1}, {"path": "/a", "more": 1}):
        with pytest.raises(RequestError) as caught:
            lists(tree).answer(wrong, later)
        assert caught.value.reason is Reason.REFUSED
    with pytest.raises(RequestError) as caught:
        lists(tree).answer({"path": "/a"}, time.monotonic_ns() - 1)
    assert caught.value.reason is Reason.TIMED_OUT


def test_names_that_are_not_utf_8_can_be_sent(tree: Path) -> None:
    (tree / "proc/10/cgroup").write_bytes(b"2:memory:/a\xff\n")
    (tree / "proc/10/cmdline").write_bytes(b"\xff\xfe\0")
    (tree / "proc/10/stat").write_bytes(b"10 (\xff)" + TAIL)
    first = json.loads(msgspec.json.encode(lists(tree).of("/a")))["processes"][0]
    assert (first["command"], first["cgroup"], first["command_line"]) == ("�", "/a�", ["��"])


def test_another_process_namespace_is_read_by_what_processes_say(tree: Path) -> None:
    (tree / "proc/self").symlink_to("4711")  # not our number
    assert pids(lists(tree), "/a") == [10, 11, 12]
    assert pids(lists(tree), "/a/b") == [12]
    (tree / "sys/fs/cgroup/pids/a/empty").mkdir()
    assert pids(lists(tree), "/a/empty") == []
    with pytest.raises(RequestError):
        lists(tree).of("/nowhere")
    (tree / "proc/self").unlink()
    (tree / "proc/self").symlink_to(str(os.getpid()))
    (tree / "sys/fs/cgroup/memory/a/cgroup.procs").write_text("10\n")
    (tree / "sys/fs/cgroup/pids/a/cgroup.procs").write_text("10\n")
    assert pids(lists(tree), "/a") == [10], "our own namespace: the cgroup says it"


# Real cgroups.

ROOT = Path("/sys/fs/cgroup")
QUIET = "import threading,time,sys\n{}\nprint('ready', flush=True)\ntime.sleep(1000)"
THREADS = "[threading.Thread(target=time.sleep, args=(1000,), daemon=True).start() for _ in range(3)]"
BUSY = "end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
FILES = "held = [open('/dev/null') for _ in range(40)]\nblock = bytearray(b'x' * 30_000_000)"


def hierarchy_roots() -> list[Path]:
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    found = {p.resolve() for c in ("cpu", "cpuacct", "memory", "blkio", "pids") if (p := ROOT / c).is_dir()}
    return sorted(found)


@pytest.fixture
def cgroup() -> Iterator[str]:
    """A real container with a subcontainer `inner`."""
    need(os.geteuid() == 0 and os.access(ROOT, os.W_OK), "root and a writable cgroup hierarchy")
    path = f"/tidegauge-ps-{os.getpid()}-{time.monotonic_ns()}"
    made = [Path(f"{root}{path}{inner}") for root in hierarchy_roots() for inner in ("", "/inner")]
    for where in made:
        where.mkdir()
    yield path
    for where in reversed(made):
        eventually(lambda where=where: not _remove(where), why=f"{where} stays")  # type: ignore[misc]


def _remove(where: Path) -> bool:
    with contextlib.suppress(OSError):
        where.rmdir()
    return where.exists()


@pytest.fixture
def start() -> Iterator[Callable[..., psutil.Process]]:
    """Starts a quiet Python process in a container; returns when it has done what it was told and sleeps."""
    started: list[subprocess.Popen[bytes]] = []

    def start(path: str, work: str = "", *, nice: int = 0, argument: str = "") -> psutil.Process:
        command = [sys.executable, "-S", "-c", QUIET.format(work), *([argument] if argument else [])]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=lambda: os.nice(nice))
        started.append(process)
        for root in hierarchy_roots():
            Path(f"{root}{path}/cgroup.procs").write_text(str(process.pid))
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        seen = psutil.Process(process.pid)
        eventually(lambda: seen.status() == psutil.STATUS_SLEEPING, why="it does not sleep")
        return seen

    yield start
    for process in started:
        process.kill()
        process.communicate()


def by_ps(pid: int, *columns: str) -> list[str]:
    done = subprocess.run(
        ["ps", "-o", ",".join(f"{c}=" for c in columns), "-p", str(pid)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"LC_ALL": "C"},
    )
    return done.stdout.split()


@pytest.mark.integration
def test_every_field_of_real_processes_beside_psutil_and_ps(cgroup: str, start: Callable[..., psutil.Process]) -> None:
    need(shutil.which("ps"), "ps")
    begun_s = time.time()
    made = [start(cgroup, THREADS, argument="--secret word"), start(cgroup, BUSY, nice=7), start(cgroup, FILES)]
    started_s = time.time()
    expected = []
    for process in made:
        columns = ("ppid", "euser", "stat", "rss", "vsz", "psr", "nlwp", "pmem", "euid")
        expected.append((process, by_ps(process.pid, *columns)))
    began_s = time.time()
    listed = {p.pid: p for p in ProcessLists(*HOST).of(cgroup).processes}
    listed_s = time.time()
    assert listed.keys() == {p.pid for p in made}
    for process, (ppid, user, stat, rss, size, cpu, threads, memory_percent, uid) in expected:
        p = listed[process.pid]
        assert (p.parent_pid, p.user, p.status, p.processor, p.threads) == (int(ppid), user, stat, int(cpu), int(threads))
        assert (p.uid, p.parent_pid) == (int(uid), os.getpid())
        assert p.user == pwd.getpwuid(os.geteuid()).pw_name
        assert p.rss_bytes == pytest.approx(int(rss) * 1024, abs=1 << 20)
        assert p.rss_bytes == pytest.approx(process.memory_info().rss, abs=1 << 20)
        assert p.virtual_bytes == int(size) * 1024 == process.memory_info().vms
        assert p.memory_percent == pytest.approx(float(memory_percent), abs=0.3)
        assert p.memory_percent == pytest.approx(process.memory_percent(), abs=0.3)
        times = process.cpu_times()
        assert p.cpu_ns / 1e9 == pytest.approx(times.user + times.system, abs=0.05)
        assert p.start_ms is not None
        assert begun_s - 0.1 <= p.start_ms / 1000 <= started_s + 0.1
        assert p.cpu_percent is not None
        youngest_s, oldest_s = (at - p.start_ms / 1000 for at in (began_s, listed_s))
        used_s = times.user + times.system
        assert 90 * used_s / oldest_s - 2 <= p.cpu_percent <= 110 * used_s / max(youngest_s, 0.01) + 2
        assert p.command == process.name()[:15]
        assert list(p.command_line or ()) == process.cmdline()
        assert p.descriptors == process.num_fds()
        assert p.cgroup == cgroup
    threaded, busy, large = (listed[p.pid] for p in made)
    assert (threaded.threads, "l" in threaded.status) == (4, True)
    assert (threaded.command_line or ())[-1] == "--secret word"
    assert busy.cpu_ns >= 500_000_000
    assert "N" in busy.status
    assert (large.descriptors or 0) >= 43
    assert large.rss_bytes > 30_000_000


@pytest.mark.integration
def test_subcontainers_and_the_host(cgroup: str, start: Callable[..., psutil.Process]) -> None:
    made = ProcessLists(*HOST)
    if hierarchy_roots() != [ROOT]:  # version 2 has processes in leaves alone, where controllers are handed on
        outer = start(cgroup)
        assert pids(made, cgroup) == [outer.pid]
        outer.kill()
        outer.wait()
    assert pids(made, cgroup) == []
    inner = start(f"{cgroup}/inner")
    assert pids(made, cgroup) == []
    assert pids(made, cgroup, True) == pids(made, f"{cgroup}/inner") == [inner.pid]
    before = set(psutil.pids())
    listed = made.of("/")
    stayed = before & set(psutil.pids())
    assert stayed <= {p.pid for p in listed.processes}
    own = {p.pid: p for p in listed.processes}
    assert own[inner.pid].cgroup == f"{cgroup}/inner"
    assert own[os.getpid()].command_line == tuple(psutil.Process().cmdline())
    kernel = own.get(2)
    if kernel is not None and kernel.command == "kthreadd":
        assert (kernel.command_line, kernel.rss_bytes, kernel.parent_pid) == (None, 0, 0)


@pytest.mark.integration
def test_a_zombie_and_the_end(cgroup: str, start: Callable[..., psutil.Process]) -> None:
    made = ProcessLists(*HOST)
    process = start(cgroup)
    process.kill()
    eventually(lambda: process.status() == psutil.STATUS_ZOMBIE, why="it lives")
    zombies = made.of("/").processes
    (zombie,) = [p for p in zombies if p.pid == process.pid]
    assert (zombie.status[0], zombie.command_line, zombie.descriptors, zombie.rss_bytes) == ("Z", None, None, 0)
    os.waitpid(process.pid, 0)
    assert process.pid not in pids(made, "/")


@pytest.mark.integration
def test_from_another_process_namespace_the_numbers_are_those_of_proc(
    cgroup: str, start: Callable[..., psutil.Process]
) -> None:
    need(shutil.which("unshare"), "unshare")
    process = start(f"{cgroup}/inner")
    text = (
        "import json,os,pathlib,sys\nfrom tidegauge.collectors.process_list import ProcessLists\n"
        "made = ProcessLists(*map(pathlib.Path, ('/sys', '/proc', '/')))\n"
        "print(json.dumps([os.getpid(), *[[p.pid for p in made.of(sys.argv[1], r).processes] for r in (False, True)]]))"
    )
    done = subprocess.run(
        ["unshare", "--pid", "--fork", sys.executable, "-c", text, cgroup], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [1, [], [process.pid]]


@pytest.mark.integration
def test_without_root_the_descriptors_are_known_from_linux_6_2_on(cgroup: str, start: Callable[..., psutil.Process]) -> None:
    process = start(cgroup, FILES)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.write(write_end, msgspec.json.encode(ProcessLists(*HOST).of(cgroup)))
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        (seen,) = json.loads(pipe.read())["processes"]
    os.waitpid(child, 0)
    release = tuple(int(n) for n in os.uname().release.split("-")[0].split(".")[:2])
    assert seen["descriptors"] == (process.num_fds() if release >= (6, 2) else None)
    assert seen["command_line"] == process.cmdline()
    assert seen["rss_bytes"] > 30_000_000


def test_a_folder_that_may_not_be_opened_has_no_descriptors(tree: Path) -> None:
    place = os.open(tree / "proc/10", os.O_PATH)
    assert process_list._count_descriptors(place) is None
    os.close(place)

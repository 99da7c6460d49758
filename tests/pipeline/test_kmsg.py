"""Lines of the kernel's log about OOM kills: recorded ones of several kernels, and made-up names and paths."""

import os
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import need

from tidegauge.pipeline.kmsg import MEMCG, KmsgThread, OomLines, OomReport, cgroup_of, message_of

# Linux 6.18, cgroup v1, recorded: the limit of /tg-oomtry, a child's process.
RECORD_6_18 = """\
4,1169,11569462846,-;python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
4,1193,11569462971,-;RIP: 0033:0x7fcb54c9db03
6,1202,11569463050,-;memory: usage 30720kB, limit 30720kB, failcnt 82
6,1205,11569463056,-;Memory cgroup stats for /tg-oomtry:
6,1206,11569463166,-;cache 0
6,1248,11569463315,-;Tasks state (memory values in pages):
6,1249,11569463316,-;[  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes swapents name
6,1250,11569463319,-;[   3600]     0  3600    12342    10339     9380      959         0   135168        0             0 python3
6,1251,11569463323,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/tg-oomtry,\
task_memcg=/tg-oomtry/child,task=python3,pid=3600,uid=0
3,1252,11569463351,-;Memory cgroup out of memory: Killed process 3600 (python3) total-vm:49368kB, anon-rss:37520kB, \
file-rss:3836kB, shmem-rss:0kB, UID:0 pgtables:132kB oom_score_adj:0
"""
# Form of Linux 5.4 to 6.x when the machine itself runs out.
RECORD_GLOBAL = """\
4,900,1,-;mysqld invoked oom-killer: gfp_mask=0x100cca(GFP_HIGHUSER_MOVABLE), order=0, oom_score_adj=0
6,901,1,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=db.service,mems_allowed=0-1,global_oom,\
task_memcg=/system.slice/db.service,task=mysqld,pid=812,uid=27
3,902,1,-;Out of memory: Killed process 812 (mysqld) total-vm:49368kB, anon-rss:37520kB, file-rss:3836kB, shmem-rss:0kB
"""
# Form of Linux 3.10 to 4.20.
RECORD_4_9 = """\
4,100,1,-;stress invoked oom-killer: gfp_mask=0x24000c0(GFP_KERNEL), nodemask=0, order=0, oom_score_adj=0
6,101,1,-;Task in /docker/4f2a killed as a result of limit of /docker
6,102,1,-;memory: usage 102400kB, limit 102400kB, failcnt 1014
6,103,1,-;Memory cgroup stats for /docker: cache:0KB rss:0KB rss_huge:0KB mapped_file:0KB
6,104,1,-;Memory cgroup stats for /docker/4f2a: cache:12KB rss:102388KB rss_huge:0KB mapped_file:0KB
6,105,1,-;[ pid ]   uid  tgid total_vm      rss nr_ptes nr_pmds swapents oom_score_adj name
3,106,1,-;Memory cgroup out of memory: Kill process 4711 (stress) score 982 or sacrifice child
3,107,1,-;Killed process 4711 (stress) total-vm:138468kB, anon-rss:101944kB, file-rss:264kB
"""
RECORD_4_9_GLOBAL = """\
4,100,1,-;java invoked oom-killer: gfp_mask=0x24201ca, order=0, oom_score_adj=0
3,106,1,-;Out of memory: Kill process 99 (java) score 700 or sacrifice child
3,107,1,-;Killed process 101 (sh) total-vm:138468kB, anon-rss:101944kB, file-rss:264kB
"""
# Linux 5.17 and later with memory.oom.group: everybody goes.
RECORD_GROUP = """\
4,1,1,-;a invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
6,2,1,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=p,mems_allowed=0,oom_memcg=/p,task_memcg=/p/c,task=a,pid=5,uid=0
3,3,1,-;Memory cgroup out of memory: Killed process 5 (a) total-vm:1kB, anon-rss:1kB, file-rss:1kB, shmem-rss:0kB, UID:0
6,4,1,-;Tasks in /p/c are going to be killed due to memory.oom.group set
3,5,1,-;Memory cgroup out of memory: Killed process 5 (a) total-vm:1kB, anon-rss:1kB, file-rss:1kB, shmem-rss:0kB, UID:0
3,5,1,-;Memory cgroup out of memory: Killed process 6 (b) total-vm:1kB, anon-rss:1kB, file-rss:1kB, shmem-rss:0kB, UID:0
3,6,1,-;Memory cgroup out of memory: Killed process 7 (c) total-vm:1kB, anon-rss:1kB, file-rss:1kB, shmem-rss:0kB, UID:0
"""
RECORD_NOBODY = """\
4,1,1,-;a invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=-1000
6,2,1,-;Memory cgroup stats for /stuck:
4,3,1,-;Out of memory and no killable processes...
"""
# The kernel leaves the rest out when it kills more than ten times in five seconds.
RECORD_TERSE = """\
3,3,1,-;Memory cgroup out of memory: Killed process 5 (a) total-vm:1kB, anon-rss:1kB, file-rss:1kB, shmem-rss:0kB, UID:0
"""


def reports(record: str) -> list[OomReport]:
    lines = OomLines()
    out = []
    for line in record.splitlines():
        text = message_of(line.encode() + b"\n SUBSYSTEM=memory\n")
        assert text is not None
        if (report := lines.feed(text, 7)) is not None:
            out.append(report)
    return out


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (RECORD_6_18, [OomReport(7, "/tg-oomtry", "/tg-oomtry/child", 3600, "python3", "CONSTRAINT_MEMCG")]),
        (RECORD_GLOBAL, [OomReport(7, "/", "/system.slice/db.service", 812, "mysqld", "CONSTRAINT_NONE")]),
        (RECORD_4_9, [OomReport(7, "/docker", "/docker/4f2a", 4711, "stress", "CONSTRAINT_MEMCG")]),
        (RECORD_4_9_GLOBAL, [OomReport(7, "/", None, 101, "sh", None)]),
        (RECORD_NOBODY, [OomReport(7, "/stuck", None, None, None, "CONSTRAINT_MEMCG")]),
        (RECORD_TERSE, [OomReport(7, None, None, 5, "a", "CONSTRAINT_MEMCG")]),
        (
            RECORD_GROUP,
            [
                OomReport(7, "/p", "/p/c", 5, "a", "CONSTRAINT_MEMCG"),
                OomReport(7, None, "/p/c", 5, "a", "CONSTRAINT_MEMCG", is_repeat=True),
                OomReport(7, None, "/p/c", 6, "b", "CONSTRAINT_MEMCG"),
                OomReport(7, None, "/p/c", 7, "c", "CONSTRAINT_MEMCG"),
            ],
        ),
    ],
)
def test_a_kill_is_one_report_with_what_was_said_of_it(record: str, expected: list[OomReport]) -> None:
    assert reports(record) == expected


def test_one_kill_takes_nothing_over_from_another() -> None:
    alone = [reports(r) for r in (RECORD_6_18, RECORD_GLOBAL, RECORD_4_9, RECORD_NOBODY, RECORD_TERSE, RECORD_4_9_GLOBAL)]
    together = reports(RECORD_6_18 + RECORD_GLOBAL + RECORD_4_9 + RECORD_NOBODY + RECORD_TERSE + RECORD_4_9_GLOBAL)
    assert together == [report for one in alone for report in one]


def test_a_record_whose_beginning_was_lost_is_not_attributed() -> None:
    lines = OomLines()
    for line in RECORD_6_18.splitlines()[:-1]:
        lines.feed(message_of(line.encode()) or "", 7)
    lines.reset()
    assert lines.feed(message_of(RECORD_6_18.splitlines()[-1].encode()) or "", 7) == OomReport(
        7, None, None, 3600, "python3", MEMCG
    )


NAMES = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=15)
PATHS = st.lists(st.text("abcdefghijklmnopqrstuvwxyz0123456789.-_:@\\ ", min_size=1, max_size=20), min_size=1, max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)


@given(NAMES, PATHS, PATHS, st.integers(1, 1 << 22))
def test_whatever_processes_and_cgroups_are_called(name: str, limit: str, victim: str, pid: int) -> None:
    def as_kernel_writes(text: str) -> str:
        return "".join(f"\\x{ord(c):02x}" if c == "\\" else c for c in text)

    summary = (
        f"6,2,1,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset={victim[1:]},mems_allowed=0-1,3,"
        f"oom_memcg={limit},task_memcg={victim},task={name},pid={pid},uid=1000"
    )
    killed = f"3,3,1,-;Memory cgroup out of memory: Killed process {pid} ({name}) total-vm:1kB, anon-rss:1kB, file-rss:1kB"
    record = "4,1,1,-;x invoked oom-killer: gfp_mask=0\n" + as_kernel_writes(f"{summary}\n{killed}\n")
    (report,) = reports(record)
    assert report == OomReport(7, limit, victim, pid, name, "CONSTRAINT_MEMCG")


@given(
    st.lists(
        st.one_of(
            st.text(max_size=60),
            st.sampled_from([line for r in (RECORD_6_18, RECORD_4_9, RECORD_GROUP, RECORD_GLOBAL) for line in r.splitlines()]),
        ),
        max_size=30,
    )
)
def test_no_line_of_any_log_is_too_much(lines: list[str]) -> None:
    parser = OomLines()
    for line in lines:
        text = message_of(line.encode("utf-8", "surrogatepass")) or line
        report = parser.feed(text, 1)
        assert report is None or report.pid is not None or report.limit_path is not None


def test_what_user_space_writes_into_the_log_is_not_believed() -> None:
    assert message_of(b"30,1,1,-;Killed process 1 (init) total-vm:1kB\n") is None
    assert message_of(b"3,1,1,-;Killed process 1 (init) total-vm:1kB\n") == "Killed process 1 (init) total-vm:1kB"
    assert message_of(b"") is None
    assert message_of(b"x,1;y") is None


def test_names_are_unescaped() -> None:
    assert message_of(b"6,1,1,-;/machine-qemu\\x5cx2d1.scope \\xc3\\xa4\\xff\n") == "/machine-qemu\\x2d1.scope ä\\xff"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("5:memory:/docker/1\n3:cpu,cpuacct:/x\n0::/y\n", "/docker/1"),
        ("0::/kubepods/pod1/c (deleted)\n", "/kubepods/pod1/c"),
        ("4:memory:/\n0::/y\n", None),
        ("0::/../outside\n", None),
        ("", None),
        ("nonsense", None),
    ],
)
def test_cgroup_of_a_process_that_ends(text: str, path: str | None) -> None:
    assert cgroup_of(text) == path


class Told:
    """Reports as a thread tells them."""

    def __init__(self) -> None:
        self.reports: list[OomReport] = []
        self._came = threading.Condition()

    def __call__(self, report: OomReport) -> None:
        with self._came:
            self.reports.append(report)
            self._came.notify_all()

    def wait(self, n: int) -> list[OomReport]:
        with self._came:
            assert self._came.wait_for(lambda: len(self.reports) >= n, 30)
            return self.reports


def test_a_log_that_cannot_be_read_is_a_fault_and_no_error(tmp_path: Path) -> None:
    thread = KmsgThread(tmp_path / "none", tmp_path, Told())
    assert thread.start() == f"{tmp_path / 'none'}: No such file or directory"
    thread.stop()
    thread.stop()


def test_the_thread_reads_record_by_record(tmp_path: Path) -> None:
    """A socket of whole packets stands in for the device: a read gives a record. It cannot be sought, so it is put in."""
    told = Told()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "cgroup").write_text("0::/found\n")
    (tmp_path / "log").write_text("old\n")
    thread = KmsgThread(tmp_path / "log", tmp_path, told)
    fd = os.open(tmp_path / "log", os.O_RDONLY)
    os.dup2(ours.fileno(), fd)
    os.set_blocking(fd, False)
    thread._fd = fd
    thread._thread = threading.Thread(target=thread._run, daemon=True)
    thread._thread.start()
    for line in (RECORD_6_18 + RECORD_TERSE).splitlines():
        theirs.send(line.encode() + b"\n")
    first, second = told.wait(2)
    assert (first.victim_path, first.pid) == ("/tg-oomtry/child", 3600)
    assert (second.victim_path, second.pid) == ("/found", 5)
    thread.stop()
    ours.close()
    theirs.close()


@pytest.mark.integration
def test_nothing_that_the_log_held_before_is_told() -> None:
    """The kernel's own log, into which this test writes as user space: neither the old nor this is told."""
    need(os.access("/dev/kmsg", os.R_OK | os.W_OK), "the right to read and write /dev/kmsg")
    told = Told()
    thread = KmsgThread(Path("/dev/kmsg"), Path("/proc"), told)
    fault = thread.start()
    need(fault is None, f"the kernel's log ({fault})")
    with open("/dev/kmsg", "wb", buffering=0) as log:
        log.write(b"<3>Memory cgroup out of memory: Killed process 1 (init) total-vm:1kB\n")
    thread.stop()
    assert told.reports == []

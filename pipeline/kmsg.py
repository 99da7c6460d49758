"""What the kernel's log says of OOM kills: read from /dev/kmsg on a thread of its own, from now on and never from before.

Source: Documentation/ABI/testing/dev-kmsg; the lines of mm/oom_kill.c and mm/memcontrol.c, Linux 3.10 to 6.18. The kernel kills
under one lock, so that the lines of two kills never mix, and it leaves most of them out when it kills very often.

Needs CAP_SYSLOG where `kernel.dmesg_restrict` is 1 (the default of most distributions), else the right to read the file.
"""

import errno
import logging
import os
import re
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_LOG = logging.getLogger(__name__)
_RECORD_BYTES = 8192
"""The kernel refuses a smaller read with EINVAL; its own records are at most so long."""
_KERNEL_FACILITY_END = 8
"""Priorities from here on are of user space: who may write to /dev/kmsg can say anything there."""
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")

_INVOKED = re.compile(r" invoked oom-killer: ")
_SUMMARY = re.compile(
    r"oom-kill:constraint=(?P<constraint>\w+),nodemask=.*?,cpuset=.*?,mems_allowed=[0-9,-]*"
    r",(?:global_oom|oom_memcg=(?P<limit>/.*?)),task_memcg=(?P<victim>/.*?),task=.*,pid=\d+,uid=\d+$"
)
_TASK_IN = re.compile(r"Task in (?P<victim>/.*?) killed as a result of limit of (?P<limit>/.*)$")
_STATS = re.compile(r"Memory cgroup stats for (?P<limit>/.*?):(?: |$)")
_GROUP = re.compile(r"Tasks in (?P<victim>/.*) are going to be killed due to memory\.oom\.group set$")
_WHY = re.compile(r"^(?P<of>Memory cgroup out|Out) of memory\b.*: Kill(?:ed)? process \d+ ")
_KILLED = re.compile(r"Killed process (?P<pid>\d+) \((?P<process>.*)\)(?:,| total-vm:)")
_NOBODY = re.compile(r"Out of memory and no killable processes|OOM victim \d+ \(.*\) is already exiting")
_WORDS = ("invoked oom-killer: ", "oom-kill:", "Task", "cgroup stats for ", "ut of memory", "Killed process ", "OOM victim ")
"""One of them is in every line that matters."""

MEMCG = "CONSTRAINT_MEMCG"


class OomReport(NamedTuple):
    """One run of the OOM killer, or one more victim of it, as far as the kernel's log tells."""

    ts_ms: int
    limit_path: str | None = None
    """cgroup whose limit was hit, `/` when the machine itself ran out; None: not said, or said with an earlier victim."""
    victim_path: str | None = None
    """Memory cgroup in which the killed process lived."""
    pid: int | None = None
    """None: nobody was killed."""
    process: str | None = None
    constraint: str | None = None
    """In the kernel's spelling: CONSTRAINT_MEMCG, CONSTRAINT_NONE, CONSTRAINT_CPUSET, CONSTRAINT_MEMORY_POLICY."""
    is_repeat: bool = False
    """The process was reported just before: where all of a group are killed, the kernel kills, and counts, the first twice."""


def message_of(record: bytes) -> str | None:
    """Text of one record of /dev/kmsg, unescaped; None for what is no record or was not written by the kernel."""
    head, found, body = record.partition(b";")
    priority = head.partition(b",")[0]
    if not found or not priority.isdigit() or int(priority) >= _KERNEL_FACILITY_END:
        return None
    line = body.partition(b"\n")[0]
    if b"\\x" in line:
        line = _ESCAPED.sub(lambda m: bytes([int(m[1], 16)]), line)
    return line.decode("utf-8", "backslashreplace")


class OomLines:
    """Puts the lines of one OOM kill together. Pure: no I/O, no clock."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets what was begun: lines were lost."""
        self._facts = OomReport(0)
        self._is_begun = False
        """True from the first line of a kill to its victim."""
        self._is_memcg: bool | None = None
        self._constraint: str | None = None
        self._pid: int | None = None
        """Of the victim before the others of its group."""

    def feed(self, line: str, ts_ms: int) -> OomReport | None:
        """The report that this line completes, or None. Lines of any other kind are passed over."""
        if not any(word in line for word in _WORDS):
            return None
        if _INVOKED.search(line):
            self.reset()
            self._is_begun = True
        elif (m := _SUMMARY.search(line)) is not None:
            self._facts = OomReport(0, m["limit"] or "/", m["victim"], None, None, m["constraint"])
        elif (m := _TASK_IN.search(line)) is not None:
            self._facts = OomReport(0, m["limit"], m["victim"], None, None, MEMCG)
        elif (m := _GROUP.search(line)) is not None:
            # whose limit it was came with the first victim
            self._facts = OomReport(0, None, m["victim"], None, None, self._constraint)
            self._is_begun = False
        elif (m := _STATS.search(line)) is not None:
            if self._is_begun and self._facts.limit_path is None:
                self._facts = self._facts._replace(limit_path=m["limit"], constraint=MEMCG)
        else:
            return self._victim(line, ts_ms)
        return None

    def _victim(self, line: str, ts_ms: int) -> OomReport | None:
        """The report if this line names the victim, or says that there is none."""
        if (m := _WHY.search(line)) is not None:
            self._is_memcg = m["of"] != "Out"
        if (m := _KILLED.search(line)) is not None:
            # of a group that is killed the cgroup stays known for those that follow
            is_group = not self._is_begun and self._facts.victim_path is not None
            pid = int(m["pid"])
            report = self._complete(ts_ms)._replace(pid=pid, process=m["process"], is_repeat=is_group and pid == self._pid)
            if not is_group:
                self._facts = OomReport(0)
                self._constraint, self._pid = report.constraint, pid
        elif self._is_begun and _NOBODY.search(line):
            report = self._complete(ts_ms)._replace(victim_path=None)
            self._facts = OomReport(0)
        else:
            return None
        self._is_begun, self._is_memcg = False, None
        return report

    def _complete(self, ts_ms: int) -> OomReport:
        """What is known by now. Of most of many kills in a row nothing was said but why the victim was killed."""
        facts = self._facts._replace(ts_ms=ts_ms)
        if facts.constraint is None and self._is_memcg is not None:
            return facts._replace(constraint=MEMCG) if self._is_memcg else facts._replace(limit_path="/")
        return facts


def cgroup_of(text: str) -> str | None:
    """The memory cgroup that /proc/PID/cgroup tells; None if it tells none.

    Of a process that ends, cgroup v1 says `/` wherever it was (kernel/cgroup/cgroup.c, proc_cgroup_show), so `/` is no answer.
    """
    unified = memory = None
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            memory = path
        elif number == "0" and not controllers:
            unified = path
    path = (unified if memory is None else memory) or "/"
    path = path.removesuffix(" (deleted)")
    return None if path == "/" or not path.startswith("/") or path.startswith("/..") else path


class KmsgThread:
    """Follows the kernel's log and tells of each OOM kill. `start` and `stop` by the owner; `told` is called in the thread."""

    def __init__(self, path: Path, proc: Path, told: Callable[[OomReport], None]) -> None:
        self._path = path
        self._proc = proc
        self._told = told
        self._fd = -1
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread: threading.Thread | None = None
        self._is_busy = self._has_ended = False
        self.overruns = 0
        """Times that the kernel overwrote records before they were read."""

    def start(self) -> str | None:
        """Begins behind what the log holds now. What is wrong if it cannot be read, in one line: nothing runs then."""
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as exc:
            self._close()
            return f"{self._path}: {exc.strerror}"
        self._thread = threading.Thread(target=self._run, name="kmsg", daemon=True)
        self._thread.start()
        return None

    def stop(self) -> None:
        """Safe twice, and without a start."""
        if self._thread is not None:
            os.eventfd_write(self._end, 1)
            self._thread.join()
            self._thread = None
        self._close()
        if self._end >= 0:
            os.close(self._end)
            self._end = -1

    def is_behind(self) -> bool:
        """Whether the log holds more than was told by now. Any thread, at once."""
        poll = select.poll()
        if self._fd >= 0:
            poll.register(self._fd, select.POLLIN)
        # in the order in which a record passes, so that none is overlooked
        return not self._has_ended and (bool(poll.poll(0)) or self._is_busy)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._end, select.POLLIN)
        lines = OomLines()
        while all(fd != self._end for fd, _ in poll.poll()):
            self._is_busy = True
            is_open = self._read(lines)
            self._is_busy = False
            if not is_open:
                self._has_ended = True
                return

    def _read(self, lines: OomLines) -> bool:
        """Takes one record. False if the log is no longer to be read."""
        try:
            record = os.read(self._fd, _RECORD_BYTES)
        except BlockingIOError:
            return True
        except OSError as exc:
            if exc.errno == errno.EPIPE:
                self.overruns += 1
                lines.reset()
                return True
            _LOG.warning("%s is read no more: %s", self._path, exc.strerror)
            return False
        if not record:
            return False  # a plain file, which has an end
        line = message_of(record)
        if line is not None and (report := lines.feed(line, time.time_ns() // 1_000_000)) is not None:
            self._told(self._located(report))
        return True

    def _located(self, report: OomReport) -> OomReport:
        """The report with the victim's cgroup from /proc, if it is still there and the log did not name this very victim's."""
        if report.pid is None or (report.limit_path is not None and report.victim_path is not None):
            return report
        try:
            text = (self._proc / str(report.pid) / "cgroup").read_text(errors="backslashreplace")
        except OSError:
            return report
        return report._replace(victim_path=cgroup_of(text) or report.victim_path)

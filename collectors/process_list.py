"""The processes of a container, on demand: what `ps` would say of them, read from PROC directly.

Source: proc_pid_stat(5), proc_pid_status(5), cgroups(7); the fields are those of cAdvisor's `ps` answer. No privileges, but
without root (or CAP_SYS_PTRACE) the number of descriptors of other users' processes is absent before Linux 6.2, and with
`hidepid` their processes are not seen at all.

Membership: a process belongs to a container if any hierarchy that is read has it there. It is looked at before and after the
processes are read, and each is read through one open directory, so that a number that is used again in between names nobody.
"""

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tidegauge.collectors.cgroup_paths import find_mounts
from tidegauge.pipeline.errors import Reason, RequestError

MAX_COMMAND_LINE_BYTES = 32 * 1024
_MAX_PATH = 4096


class Process(msgspec.Struct, frozen=True):
    """One process. None is what could not be read, or what it does not have."""

    pid: int
    """In the process namespace that PROC belongs to."""
    parent_pid: int
    """0: none, or none that is seen from there."""
    user: str | None
    """Name of the effective user in the host's /etc/passwd, else its number."""
    uid: int | None
    status: str
    """State letter of proc(5), then as `ps` has them: `<` raised priority, `N` lowered, `L` locked pages, `s` leads a session,
    `l` has threads, `+` in the foreground of its terminal."""
    command: str
    """The kernel's name for it, at most 15 bytes."""
    command_line: tuple[str, ...] | None
    """Arguments, its own name first, at most 32 KiB; None for kernel threads and zombies. May hold secrets."""
    cgroup: str | None
    """Deepest of its paths in the hierarchies that are read."""
    start_ms: int | None
    """Start, ms UTC."""
    cpu_ns: int
    """CPU time used, user and system, in steps of 10 ms."""
    cpu_percent: float | None
    """Of one CPU, mean over its whole life; None within its first 10 ms."""
    memory_percent: float | None
    """Resident part of the host's memory."""
    rss_bytes: int
    virtual_bytes: int
    threads: int
    processor: int | None
    """CPU that it ran on last."""
    descriptors: int | None
    """Open files; None without the right to see them."""


class ProcessList(msgspec.Struct, frozen=True):
    """Processes of one container by number."""

    ts_ms: int
    """When the reading began."""
    path: str
    is_recursive: bool
    processes: tuple[Process, ...]
    skipped: int
    """Members that ended or moved meanwhile, or may not be seen."""


class Stat(msgspec.Struct, frozen=True):
    """What is used of PROC/PID/stat."""

    command: str
    state: str
    parent_pid: int
    group: int
    session: int
    foreground_group: int
    cpu_ticks: int
    nice: int
    threads: int
    start_ticks: int
    virtual_bytes: int
    rss_pages: int
    processor: int | None


def parse_stat(raw: bytes) -> Stat | None:
    """None for what is no stat line. The name may hold anything, brackets and line ends too."""
    head, bracket, tail = raw.rpartition(b")")
    fields = tail.split()
    if not bracket or len(fields) < 22:
        return None
    try:
        n = [int(f) for f in fields[1:]]
    except ValueError:
        return None
    return Stat(
        command=head.partition(b"(")[2].decode(errors="replace"),
        state=fields[0].decode(errors="replace"),
        parent_pid=n[0],
        group=n[1],
        session=n[2],
        foreground_group=n[4],
        cpu_ticks=n[10] + n[11],
        nice=n[15],
        threads=n[16],
        start_ticks=n[18],
        virtual_bytes=n[19],
        rss_pages=n[20],
        processor=n[35] if len(n) > 35 else None,
    )


def parse_status(raw: bytes) -> tuple[int | None, bool]:
    """(effective user number, whether pages are locked) of PROC/PID/status."""
    uid: int | None = None
    has_locked = False
    for line in raw.split(b"\n"):
        if line.startswith(b"Uid:"):
            words = line.split()
            uid = int(words[2]) if len(words) > 2 and words[2].isdigit() else None
        elif line.startswith(b"VmLck:"):
            has_locked = line.split()[1:2] != [b"0"]
    return uid, has_locked


def parse_command_line(raw: bytes) -> tuple[str, ...] | None:
    """Arguments of PROC/PID/cmdline; None if there are none. What the process wrote over them is taken as one."""
    if not raw:
        return None
    return tuple(a.decode(errors="replace") for a in raw.removesuffix(b"\0").split(b"\0"))


def parse_cgroups(raw: bytes) -> dict[str, str]:
    """Controller -> path of PROC/PID/cgroup; the unified hierarchy's is under the empty name."""
    found: dict[str, str] = {}
    for line in raw.decode(errors="surrogateescape").split("\n"):
        number, _, rest = line.partition(":")
        names, colon, path = rest.partition(":")
        if number.isdigit() and colon and path.startswith("/"):
            for name in names.split(","):
                found[name] = path.removesuffix(" (deleted)")
    return found


def parse_users(raw: bytes) -> dict[int, str]:
    """User number -> name of a passwd(5) file; the first entry of a number holds."""
    found: dict[int, str] = {}
    for line in raw.split(b"\n"):
        words = line.split(b":")
        if len(words) > 2 and words[2].isdigit():
            found.setdefault(int(words[2]), words[0].decode(errors="replace"))
    return found


def status_of(stat: Stat, pid: int, has_locked: bool) -> str:
    """As `ps` writes its column STAT."""
    flags = (
        ("<", stat.nice < 0),
        ("N", stat.nice > 0),
        ("L", has_locked),
        ("s", stat.session == pid),
        ("l", stat.threads > 1),
        ("+", stat.group == stat.foreground_group),
    )
    return stat.state + "".join(letter for letter, is_so in flags if is_so)


class ProcessLists:
    """Lists processes of containers below the configured roots. Any thread."""

    def __init__(self, sys: Path, proc: Path, rootfs: Path) -> None:
        self._proc = str(proc)
        self._users_file = rootfs / "etc/passwd"
        self._mounts = find_mounts(sys, proc)
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._names = tuple("" if h.name == "unified" else h.name for h in self._mounts.hierarchies())
        self._shares_pids = _shares_pids(self._proc)

    def answer(self, arguments: Mapping[str, Any], deadline_ns: int) -> ProcessList:
        """Handler of the request `processes`: `path`, and `recursive` (default false)."""
        path, is_recursive = arguments.get("path"), arguments.get("recursive", False)
        if not isinstance(path, str) or not isinstance(is_recursive, bool) or arguments.keys() - {"path", "recursive"}:
            raise RequestError(f"processes: expected path and recursive, got {dict(arguments)}", Reason.REFUSED)
        return self.of(path, is_recursive, deadline_ns)

    def of(self, path: str, is_recursive: bool = False, deadline_ns: int | None = None) -> ProcessList:
        """Processes of the container, with those of its subcontainers if wanted; of the host (`/`) all there are.

        RequestError: a path that is none, no such container, or the deadline (monotonic) passed.
        """
        if path != "/" and not _is_path(path):
            raise RequestError(f"path: expected the path of a container, such as /docker/0123, got {path!r}", Reason.REFUSED)
        ts_ms = time.time_ns() // 1_000_000
        before = self._members(path, is_recursive)
        uptime_s, memory_bytes = self._uptime_s(), self._memory_bytes()
        users = parse_users(_read_file(self._users_file))
        boot_ms = None if uptime_s is None else time.time() * 1000 - uptime_s * 1000
        found: list[Process] = []
        for pid in sorted(before):
            if deadline_ns is not None and time.monotonic_ns() > deadline_ns:
                raise RequestError(f"{path}: its {len(before)} processes take too long to read", Reason.TIMED_OUT)
            if (process := self._read(pid, boot_ms, memory_bytes, users)) is not None:
                found.append(process)
        after = self._members(path, is_recursive)
        processes = tuple(p for p in found if p.pid in after)
        return ProcessList(ts_ms, path, is_recursive, processes, len(before) - len(processes))

    # Who belongs to a container.

    def _members(self, path: str, is_recursive: bool) -> set[int]:
        if path == "/":
            return {int(name) for name in os.listdir(self._proc) if name.isdigit()}
        if not self._shares_pids:
            return self._members_by_process(path, is_recursive)
        roots = [where for where in self._mounts.directories(path) if os.path.isdir(where)]
        if not roots:
            raise RequestError(f"there is no container {path}", Reason.NOT_FOUND)
        members: set[int] = set()
        for root in roots:
            for where in _tree(root) if is_recursive else (root,):
                members.update(self._listed(where))
        members.discard(0)  # stands for processes outside of our own namespace
        return members

    def _listed(self, where: str) -> Iterator[int]:
        """Processes of one cgroup directory, those of which it has but a thread too; none if it is gone."""
        try:
            yield from _numbers(f"{where}/cgroup.procs")
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP:
                return
            # a threaded cgroup: it names threads alone
            with contextlib.suppress(OSError):
                for tid in _numbers(f"{where}/cgroup.threads"):
                    if (pid := self._process_of(tid)) is not None:
                        yield pid

    def _process_of(self, tid: int) -> int | None:
        for line in _read_file(f"{self._proc}/{tid}/status").split(b"\n"):
            if line.startswith(b"Tgid:"):
                return int(line.split()[1])
        return None

    def _members_by_process(self, path: str, is_recursive: bool) -> set[int]:
        """By what each process says of itself: PROC is that of another process namespace than ours."""
        members = set()
        for name in os.listdir(self._proc):
            if name.isdigit():
                paths = self._own_paths(parse_cgroups(_read_file(f"{self._proc}/{name}/cgroup")))
                if any(p == path or (is_recursive and p.startswith(f"{path}/")) for p in paths):
                    members.add(int(name))
        if not members and not any(os.path.isdir(where) for where in self._mounts.directories(path)):
            raise RequestError(f"there is no container {path}", Reason.NOT_FOUND)
        return members

    def _own_paths(self, cgroups: Mapping[str, str]) -> list[str]:
        """Of the paths of a process those in hierarchies that are read, in the order of preference."""
        return [cgroups[name] for name in self._names if name in cgroups]

    # What is read of one process.

    def _read(self, pid: int, boot_ms: float | None, memory_bytes: int | None, users: Mapping[int, str]) -> Process | None:
        """None if it has ended, or may not be seen."""
        try:
            place = os.open(f"{self._proc}/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            stat = parse_stat(_read_at(place, "stat", 4096))
            if stat is None:
                return None
            uid, has_locked = parse_status(_read_at(place, "status", 8192))
            paths = self._own_paths(parse_cgroups(_read_at(place, "cgroup", 65536)))
            command_line = parse_command_line(_read_at(place, "cmdline", MAX_COMMAND_LINE_BYTES))
            descriptors = None if stat.state in ("Z", "X") else _count_descriptors(place)
        finally:
            os.close(place)
        cpu_ns = stat.cpu_ticks * 1_000_000_000 // self._ticks_per_s
        started_ms = None if boot_ms is None else boot_ms + stat.start_ticks * 1000 / self._ticks_per_s
        age_ms = 0.0 if started_ms is None else time.time() * 1000 - started_ms
        rss = stat.rss_pages * self._page_bytes
        cgroup = max(paths, key=lambda p: 0 if p == "/" else p.count("/"), default=None)
        return Process(
            pid=pid,
            parent_pid=stat.parent_pid,
            user=None if uid is None else users.get(uid, str(uid)),
            uid=uid,
            status=status_of(stat, pid, has_locked),
            command=stat.command,
            command_line=command_line,
            cgroup=None if cgroup is None or cgroup.startswith("/..") else _text(cgroup),
            start_ms=None if started_ms is None else int(started_ms),
            cpu_ns=cpu_ns,
            cpu_percent=round(cpu_ns / age_ms / 10_000, 3) if age_ms >= 10 else None,
            memory_percent=None if not memory_bytes else round(100 * rss / memory_bytes, 3),
            rss_bytes=rss,
            virtual_bytes=stat.virtual_bytes,
            threads=stat.threads,
            processor=stat.processor,
            descriptors=descriptors,
        )

    def _uptime_s(self) -> float | None:
        words = _read_file(f"{self._proc}/uptime").split()
        try:
            return float(words[0])
        except (IndexError, ValueError):
            return None

    def _memory_bytes(self) -> int | None:
        for line in _read_file(f"{self._proc}/meminfo").split(b"\n"):
            if line.startswith(b"MemTotal:"):
                words = line.split()
                return int(words[1]) * 1024 if len(words) > 1 and words[1].isdigit() else None
        return None


def _is_path(path: str) -> bool:
    """True for a cgroup path below the root, in its plain form: nothing in it leads elsewhere."""
    parts = path.split("/")
    is_plain = parts[0] == "" and len(parts) > 1 and not {"", ".", ".."}.intersection(parts[1:])
    return is_plain and "\0" not in path and len(path) < _MAX_PATH


def _shares_pids(proc: str) -> bool:
    """False if PROC shows the processes of another process namespace than ours, so that cgroup.procs has other numbers."""
    link = f"{proc}/self"
    try:
        return os.readlink(link) == str(os.getpid())
    except OSError:
        return not os.path.islink(link)  # a link to nowhere: we are not among them; no link: a recorded tree


def _tree(root: str) -> Iterator[str]:
    """The directory and all below it; what vanishes meanwhile is left out."""
    waiting = [root]
    while waiting:
        where = waiting.pop()
        yield where
        with contextlib.suppress(OSError), os.scandir(where) as entries:
            waiting.extend(e.path for e in entries if e.is_dir(follow_symlinks=False))


def _numbers(file: str) -> Iterator[int]:
    with open(file, "rb") as lines:
        yield from (int(word) for word in lines.read().split() if word.isdigit())


def _count_descriptors(place: int) -> int | None:
    try:
        folder = os.open("fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
    except PermissionError:
        # since Linux 6.2 the size of the folder is their number, for anybody; before, it is 0
        with contextlib.suppress(OSError):
            return os.stat("fd", dir_fd=place).st_size or None
        return None
    except OSError:
        return None
    try:
        with os.scandir(folder) as entries:
            return sum(1 for _ in entries)
    except OSError:
        return None
    finally:
        os.close(folder)


def _read_at(place: int, name: str, size: int) -> bytes:
    """Up to so many bytes of a file of one process; nothing if it has ended or may not be read."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=place)
    except OSError:
        return b""
    try:
        return os.read(fd, size)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _read_file(file: str | Path) -> bytes:
    """Content of a file, nothing if it is gone."""
    try:
        with open(file, "rb", buffering=0) as opened:
            return opened.read()
    except OSError:
        return b""


def _text(path: str) -> str:
    """Names that are not UTF-8 as they can be sent."""
    return path.encode(errors="surrogateescape").decode(errors="replace")

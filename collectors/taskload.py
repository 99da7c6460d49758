"""Smoothed numbers of running and of uninterruptible tasks of each container, and its tasks by state.

Source: v1 netlink (accounting/cgroupstats.rst); v2 PROC/TID/task/TID/stat of the threads in cgroup.threads; the host
PROC/loadavg. No privileges; seccomp rules may refuse netlink to a container.
"""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from tidegauge.collectors._cgroupstats import CgroupStats, TaskStates
from tidegauge.collectors._kernel_text import Faults, Faulty
from tidegauge.collectors.cgroup_paths import Mode, directory, find_mounts
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.records import Container, Value, Values

_STATES = tuple(f"tasks_{name}" for name in TaskStates._fields)
_UNKNOWN = TaskStates(None, None, None, None, None)
_SPAN_S = 10.0

Counter = Callable[[], TaskStates]
"""Counts the tasks of one container by state."""


def _nothing() -> None:
    return None


class TaskloadConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    task_states: bool = False
    """Also give tasks by state: `tasks_running` and so on."""
    max_tasks: int = 512
    """v2: a container with more threads than this has no load; a look at each costs about 8 us."""


class SmoothedLoad:
    """Exponential mean over 10 s of a number seen at irregular times, starting at the first."""

    __slots__ = ("_at_s", "_mean")

    def __init__(self) -> None:
        self._mean = -1.0
        self._at_s = 0.0

    def update(self, number: int, now_s: float) -> int:
        """The mean with this number in it, times 1000. `now_s` is monotonic."""
        if self._mean < 0:
            self._mean = float(number)
        else:
            decay = math.exp(-max(0.0, now_s - self._at_s) / _SPAN_S)
            self._mean = self._mean * decay + number * (1.0 - decay)
        self._at_s = now_s
        return int(self._mean * 1000)


class TaskloadReader:
    """The two loads, then the states if they are wanted; all None when they could not be counted."""

    __slots__ = ("_clock", "_count", "_load", "_load_d", "_with_states", "park")

    def __init__(
        self, count: Counter, clock: Callable[[], float], with_states: bool, park: Callable[[], None] = _nothing
    ) -> None:
        """`park` gives back the descriptor that `count` keeps."""
        self._count = count
        self.park = park
        self._clock = clock
        self._with_states = with_states
        self._load = SmoothedLoad()
        self._load_d = SmoothedLoad()

    def read(self) -> Values:
        states = self._count()
        now_s = self._clock()
        waiting = states.uninterruptible
        load: Value = None if states.running is None else self._load.update(states.running, now_s)
        load_d: Value = None if waiting is None else self._load_d.update(waiting, now_s)
        return (load, load_d, *states) if self._with_states else (load, load_d)

    def close(self) -> None:
        self.park()


class TaskloadCollector(Faulty):
    """Running tasks, smoothed over 10 s by the real time between samples, times 1000 (cAdvisor's `load_average`).

    Tasks in uninterruptible sleep are not part of it: they wait, and have a load of their own.
    """

    Config = TaskloadConfig
    groups = ("cpuLoad",)

    def __init__(self, config: TaskloadConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.metrics: tuple[str, ...] = ("cpu_load_milli", "cpu_load_d_milli", *(_STATES if config.task_states else ()))
        self._config = config
        self._clock = clock
        self._mounts = find_mounts(config.sys, config.proc)
        self._faults = Faults()
        self._netlink: CgroupStats | None = None
        self._is_refused = False

    def reader(self, container: Container) -> TaskloadReader | None:
        """A reader; NoData, once, if the kernel does not tell this agent, None from then on."""
        count = self._counter(container)
        if count is None:
            return None
        park = count.close if isinstance(count, _CgroupTasks) else _nothing
        return TaskloadReader(count, self._clock, self._config.task_states, park)

    def close(self) -> None:
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def _counter(self, container: Container) -> Counter | None:
        if container.is_host:
            return lambda: _count_host(self._config.proc)
        if self._mounts.mode is Mode.V2 or self._mounts.lives_in_unified("cpu"):
            assert self._mounts.unified is not None
            where = directory(self._mounts.unified, container.path)
            return lambda: _count_threads(where, self._config.proc, self._config.max_tasks, self._faults)
        root = self._mounts.v1.get("cpu")
        if root is None or (netlink := self._connect()) is None:
            return None
        return _CgroupTasks(netlink, directory(root, container.path), self._faults)

    def _connect(self) -> CgroupStats | None:
        if self._netlink is None and not self._is_refused:
            try:
                self._netlink = CgroupStats()
            except OSError as exc:
                self._is_refused = True
                raise NoData(f"netlink taskstats: {exc.strerror or exc}") from exc
        return self._netlink


class _CgroupTasks:
    """Counts the tasks of one v1 cgroup. Its directory stays open while it has tasks, which saves a third of the cost.

    One that was removed counts as empty, so an empty one is looked for by its name at each count.
    """

    __slots__ = ("_faults", "_fd", "_netlink", "_where")

    def __init__(self, netlink: CgroupStats, where: str, faults: Faults) -> None:
        self._netlink = netlink
        self._where = where
        self._faults = faults
        self._fd = -1

    def __call__(self) -> TaskStates:
        if self._fd >= 0 and any(states := self._ask()):
            return states
        self.close()
        try:
            self._fd = os.open(self._where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            if isinstance(exc, PermissionError):
                self._faults.unreadable(self._where, exc)
            return _UNKNOWN
        states = self._ask()
        if not any(states):
            self.close()
        return states

    def _ask(self) -> TaskStates:
        try:
            return self._netlink.states(self._fd)
        except FileNotFoundError:
            return _UNKNOWN
        except OSError as exc:
            self.close()
            raise CollectError(f"netlink taskstats: {exc.strerror or exc}") from exc

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _count_threads(where: str, proc: Path, max_tasks: int, faults: Faults) -> TaskStates:
    """States of the threads of a v2 cgroup. Waiting for I/O is not told apart from other uninterruptible sleep.

    Unknown if not one of them can be seen: with `hidepid` they look as if they had ended.
    """
    try:
        with open(f"{where}/cgroup.threads", "rb", buffering=0) as file:
            words = (file.readall() or b"").split()
    except OSError as exc:
        if isinstance(exc, PermissionError):
            faults.unreadable(f"{where}/cgroup.threads", exc)
        return _UNKNOWN
    if len(words) > max_tasks:
        return _UNKNOWN
    seen = sleeping = running = stopped = uninterruptible = 0
    for word in words:
        if not word.isdigit():
            continue
        tid = word.decode()
        state = task_state(_read(f"{proc}/{tid}/task/{tid}/stat"))
        seen += state is not None
        if state == "R":
            running += 1
        elif state in ("S", "I"):
            sleeping += 1
        elif state == "D":
            uninterruptible += 1
        elif state in ("T", "t"):
            stopped += 1
    if words and not seen:
        return _UNKNOWN
    return TaskStates(sleeping, running, stopped, uninterruptible, None)


def task_state(stat: bytes) -> str | None:
    """State letter in a `stat` of proc(5); the name before it may hold anything, brackets too."""
    _, bracket, rest = stat.rpartition(b")")
    letter = rest[1:2]
    return letter.decode() if bracket and rest[:1] == b" " and letter.isalpha() else None


def running_tasks(loadavg: bytes) -> int | None:
    """Runnable tasks of the whole host, the one that reads included: the fourth field of PROC/loadavg."""
    fields = loadavg.split()
    running = fields[3].partition(b"/")[0] if len(fields) >= 4 else b""
    return int(running) if running.isdigit() and len(running) < 10 else None


def _count_host(proc: Path) -> TaskStates:
    return _UNKNOWN._replace(running=running_tasks(_read(f"{proc}/loadavg")))


def _read(file: str) -> bytes:
    """Content of a small file; nothing if it is gone."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 1024)
    except OSError:
        return b""
    finally:
        os.close(fd)

"""Memory that a container's processes touched since the kernel's marks were last cleared.

Source: PROC/PID/smaps_rollup (since 4.14), else smaps; PROC/PID/clear_refs (proc(5)). Privileges: CAP_SYS_PTRACE, or root, for
others' processes. Expensive: the kernel walks the page tables of each process, 20 ms a GiB, and holds its memory map meanwhile.
So it is read each minute only.
"""

from pathlib import Path
from typing import Annotated

import msgspec

from tidegauge.collectors._kernel_text import Faults, Faulty
from tidegauge.collectors._members import processes
from tidegauge.collectors.cgroup_paths import CgroupMounts, find_mounts
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.records import Container, Values
from tidegauge.pipeline.sampler_config import Seconds


class ReferencedConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    interval_s: Seconds = 60.0
    """Seconds between two readings."""
    reset_after_readings: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Clears the marks after so many readings; 0: never. The kernel's reclaim uses them too, and other tools."""


def parse_referenced(raw: bytes, faults: Faults) -> int | None:
    """Bytes: the sum of the lines `Referenced:` of smaps_rollup, which has one, or of smaps. None without any."""
    total: int | None = None
    for line in raw.split(b"\n"):
        if line.startswith(b"Referenced:"):
            words = line.split()
            value = faults.number(words[1], 1024) if len(words) == 3 and words[2] == b"kB" else None
            total = (total or 0) + (value or 0)
    return total


class ReferencedReader:
    """One container's own processes, without its children's."""

    def __init__(self, mounts: CgroupMounts, path: str, proc: str, faults: Faults, reset_after_readings: int) -> None:
        self._mounts = mounts
        self._path = path
        self._proc = proc
        self._faults = faults
        self._reset_after = reset_after_readings
        self._readings = 0

    def read(self) -> Values:
        """Sum over the processes that can be seen. None if there is not one."""
        pids = processes(self._mounts, self._path, self._proc, self._faults)
        known = [pid for pid in pids or () if pid]
        found = [value for pid in known if (value := self._referenced(pid)) is not None]
        self._readings += 1
        if self._reset_after and self._readings % self._reset_after == 0:
            for pid in known:
                self._clear(pid)
        return (sum(found) if found else None,)

    def close(self) -> None: ...

    def _referenced(self, pid: int) -> int | None:
        for name in ("smaps_rollup", "smaps"):
            file = f"{self._proc}/{pid}/{name}"
            try:
                with open(file, "rb", buffering=0) as opened:
                    return parse_referenced(opened.readall() or b"", self._faults)
            except FileNotFoundError:
                continue  # an old kernel, or the process has ended
            except ProcessLookupError:
                return None  # ended, or a thread of the kernel
            except OSError as exc:
                self._faults.unreadable(file, exc)
                return None
        return None

    def _clear(self, pid: int) -> None:
        file = f"{self._proc}/{pid}/clear_refs"
        try:
            with open(file, "wb", buffering=0) as opened:
                opened.write(b"1")
        except (FileNotFoundError, ProcessLookupError):
            return
        except OSError as exc:
            self._faults.unreadable(file, exc)


class ReferencedCollector(Faulty):
    """One gauge. What several processes share counts in each. Without clearing it comes to all that was ever touched."""

    Config = ReferencedConfig
    groups = ("referenced_memory",)
    metrics = ("memory_referenced_bytes",)
    is_slow = True

    def __init__(self, config: ReferencedConfig) -> None:
        self.interval_s = config.interval_s
        self._proc = str(config.proc)
        self._reset_after = config.reset_after_readings
        self._mounts = find_mounts(config.sys, config.proc)
        self._faults = Faults()

    def reader(self, container: Container) -> ReferencedReader:
        """A reader for any container; of `/` the processes in no other container. NoData: no cgroups."""
        if not self._mounts.hierarchies():
            raise NoData("no cgroup hierarchy is mounted")
        return ReferencedReader(self._mounts, container.path, self._proc, self._faults, self._reset_after)

"""Memory and swap of the host, from /proc/meminfo and /proc/vmstat (proc(5)). No privileges."""

import os
from pathlib import Path

import msgspec

from tidegauge.collectors.host_file import HostFile, number
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.records import Container, Values

_MEMINFO = {
    b"MemTotal": "host_memory_total_bytes",
    b"MemFree": "host_memory_free_bytes",
    b"MemAvailable": "host_memory_available_bytes",
    b"Buffers": "host_memory_buffers_bytes",
    b"Cached": "host_memory_cached_bytes",
    b"Dirty": "host_memory_dirty_bytes",
    b"Shmem": "host_memory_shmem_bytes",
    b"Slab": "host_memory_slab_bytes",
    b"SwapTotal": "host_swap_total_bytes",
    b"SwapFree": "host_swap_free_bytes",
}
_VMSTAT = {b"pswpin": "host_swap_in_bytes", b"pswpout": "host_swap_out_bytes"}


class MeminfoConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    proc: Path = Path("/proc")


def parse_meminfo(text: bytes) -> tuple[int | None, ...]:
    """Bytes in the order of the first ten metrics; None for a line that this kernel does not have."""
    found: dict[bytes, int] = {}
    for line in text.splitlines():
        key, _, rest = line.partition(b":")
        if key in _MEMINFO:
            found[key] = number(rest.strip().removesuffix(b" kB"), f"meminfo: {key.decode()}", 1024)
    return tuple(found.get(k) for k in _MEMINFO)


def parse_vmstat(text: bytes, page_bytes: int) -> tuple[int | None, ...]:
    """Bytes swapped in and out since boot; None on a kernel built without swap."""
    found: dict[bytes, int] = {}
    for line in text.splitlines():
        key, _, word = line.partition(b" ")
        if key in _VMSTAT:
            found[key] = number(word, f"vmstat: {key.decode()}", page_bytes)
    return tuple(found.get(k) for k in _VMSTAT)


class MeminfoReader:
    def __init__(self, proc: Path, page_bytes: int) -> None:
        self._meminfo = HostFile(proc / "meminfo")
        self._vmstat: HostFile | None = None
        self._page_bytes = page_bytes
        try:
            self._vmstat = HostFile(proc / "vmstat")
        except NoData:
            pass  # a kernel without CONFIG_VM_EVENT_COUNTERS: the two metrics stay absent
        except CollectError:
            self._meminfo.close()
            raise

    def read(self) -> Values:
        swap = (None, None) if self._vmstat is None else parse_vmstat(self._vmstat.read(), self._page_bytes)
        return parse_meminfo(self._meminfo.read()) + swap

    def close(self) -> None:
        self._meminfo.close()
        if self._vmstat is not None:
            self._vmstat.close()


class MeminfoCollector:
    """Gauges of memory and swap, and two counters of swap traffic, all in bytes."""

    Config = MeminfoConfig
    groups = ("host",)
    metrics = (*_MEMINFO.values(), *_VMSTAT.values())

    def __init__(self, config: MeminfoConfig) -> None:
        self._proc = config.proc
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")

    def reader(self, container: Container) -> MeminfoReader | None:
        return MeminfoReader(self._proc, self._page_bytes) if container.is_host else None

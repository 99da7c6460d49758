"""File handles of the host, from /proc/sys/fs/file-nr (proc(5)). Needs no privilege."""

import os
from pathlib import Path

import msgspec

from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.records import Container, Kind, Metric


class FileHandlesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    proc: Path = Path("/proc")


class FileHandlesReader:
    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY)

    def read(self) -> tuple[int, int]:
        allocated, _, limit = os.pread(self._fd, 128, 0).split()
        return int(allocated), int(limit)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FileHandlesCollector:
    """Two gauges of the host: handles allocated, and the most there may be."""

    Config = FileHandlesConfig
    fragment = (
        Metric("file_handles_allocated", Kind.GAUGE, "count", "custom", "File handles that the kernel has allocated."),
        Metric("file_handles_limit", Kind.GAUGE, "count", "custom", "File handles that the kernel would allocate at most."),
    )
    metrics = tuple(m.name for m in fragment)

    def __init__(self, config: FileHandlesConfig) -> None:
        self._path = config.proc / "sys" / "fs" / "file-nr"

    def reader(self, container: Container) -> FileHandlesReader | None:
        if not container.is_host:
            return None
        try:
            return FileHandlesReader(self._path)
        except FileNotFoundError as exc:
            raise NoData(f"{self._path} does not exist") from exc

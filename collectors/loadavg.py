"""Load average of the host, from /proc/loadavg (proc(5)). No privileges."""

from pathlib import Path

import msgspec

from tidegauge.collectors.host_file import HostFile, decimal
from tidegauge.pipeline.errors import CollectError
from tidegauge.pipeline.records import Container


class LoadavgConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    proc: Path = Path("/proc")


def parse(text: bytes) -> tuple[float, float, float]:
    """Load over 1, 5 and 15 minutes. CollectError for anything else than three decimals at the start."""
    words = text.split(None, 3)
    if len(words) < 3:
        raise CollectError(f"loadavg: expected three numbers, got {text[:40]!r}")
    return decimal(words[0], "loadavg: load1"), decimal(words[1], "loadavg: load5"), decimal(words[2], "loadavg: load15")


class LoadavgReader:
    def __init__(self, path: Path) -> None:
        self._file = HostFile(path)

    def read(self) -> tuple[float, float, float]:
        return parse(self._file.read())

    def close(self) -> None:
        self._file.close()


class LoadavgCollector:
    """Three gauges without unit: runnable and uninterruptible tasks, mean over 1, 5 and 15 minutes."""

    Config = LoadavgConfig
    groups = ("host",)
    metrics = ("load1", "load5", "load15")

    def __init__(self, config: LoadavgConfig) -> None:
        self._path = config.proc / "loadavg"

    def reader(self, container: Container) -> LoadavgReader | None:
        return LoadavgReader(self._path) if container.is_host else None

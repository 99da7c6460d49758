"""Time since boot, from /proc/uptime (proc(5)). No privileges."""

from pathlib import Path

import msgspec

from tidegauge.collectors.host_file import HostFile, decimal
from tidegauge.pipeline.records import Container


class UptimeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    proc: Path = Path("/proc")


def parse(text: bytes) -> tuple[float]:
    """Seconds since boot, suspended time included, to 10 ms."""
    return (decimal(text.partition(b" ")[0].strip(), "uptime"),)


class UptimeReader:
    def __init__(self, path: Path) -> None:
        self._file = HostFile(path)

    def read(self) -> tuple[float]:
        return parse(self._file.read())

    def close(self) -> None:
        self._file.close()


class UptimeCollector:
    """One gauge in seconds."""

    Config = UptimeConfig
    groups = ("host",)
    metrics = ("uptime_seconds",)

    def __init__(self, config: UptimeConfig) -> None:
        self._path = config.proc / "uptime"

    def reader(self, container: Container) -> UptimeReader | None:
        return UptimeReader(self._path) if container.is_host else None

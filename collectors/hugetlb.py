"""Huge pages of each container by page size, from the files of the hugetlb controller.

Source: kernel documentation admin-guide/cgroup-v1/hugetlb.rst, cgroup-v2.rst. Privileges: none for the files themselves.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from tidegauge.collectors._cgroup_folder import CgroupFolder
from tidegauge.collectors._kernel_text import Faults, Faulty
from tidegauge.collectors.cgroup_paths import CgroupMounts, find_mounts
from tidegauge.pipeline.records import MAX_INT, UNLIMITED, Container, TableRows, Value

_V1 = ("usage_in_bytes", "max_usage_in_bytes", "rsvd.usage_in_bytes", "limit_in_bytes", "failcnt")
_V2 = ("current", "", "rsvd.current", "max", "events")
"""Files of one page size in the order of the table `hugetlb`; v2 has no peak."""
_SIZE_FILE = re.compile(r"hugetlb\.([0-9]+)([KMG])B\.(?:usage_in_bytes|current)")
_FACTORS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class HugetlbConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")


def page_sizes(names: Iterable[str]) -> dict[str, int]:
    """Page sizes as the kernel names them (`2MB`, `1GB`) and in bytes, smallest first, from the names of a cgroup's files."""
    found = (m for name in names if (m := _SIZE_FILE.fullmatch(name)))
    sizes = {f"{m[1]}{m[2]}B": int(m[1]) * _FACTORS[m[2]] for m in found}
    return dict(sorted(sizes.items(), key=lambda item: item[1]))


def parse(raws: Sequence[bytes | None], page_bytes: int, faults: Faults) -> tuple[Value, ...]:
    """Values of one page size from its five files. A limit that is none is UNLIMITED."""
    usage, peak, reserved, limit, failures = raws
    if failures is not None and failures.startswith(b"max "):
        failures = failures.split()[1]
    is_max = limit is not None and limit.strip() == b"max"
    bound = None if limit is None or is_max else faults.number(limit.strip())
    # v1 states no limit as the largest multiple of the page size within 64 bit signed
    if is_max or (bound is not None and bound > MAX_INT - page_bytes):
        bound = UNLIMITED
    first, last = (None if raw is None else faults.number(raw.strip()) for raw in (usage, failures))
    highest, held = (None if raw is None else faults.number(raw.strip()) for raw in (peak, reserved))
    return first, highest, held, bound, last


class HugetlbReader:
    """Rows of one container, one a page size; None while its cgroup has no such files."""

    __slots__ = ("_faults", "_files", "_folder", "_sizes")

    def __init__(self, folder: CgroupFolder, sizes: dict[str, int], is_v1: bool, faults: Faults) -> None:
        self._folder = folder
        self._sizes = sizes
        self._faults = faults
        self._files = [f"hugetlb.{size}.{name}" if name else "" for size in sizes for name in (_V1 if is_v1 else _V2)]

    def read(self) -> tuple[()]:
        return ()

    def read_tables(self) -> tuple[TableRows | None]:
        raws = [None if not name else raw for name, raw in zip(self._files, self._raws(), strict=True)]
        rows = []
        for place, (size, page_bytes) in enumerate(self._sizes.items()):
            values = parse(raws[5 * place : 5 * place + 5], page_bytes, self._faults)
            if any(v is not None for v in values):
                rows.append((size, *values))
        return (tuple(rows) or None,)

    def close(self) -> None: ...

    def _raws(self) -> list[bytes | None]:
        found = iter(self._folder.read([name for name in self._files if name]))
        return [next(found) if name else None for name in self._files]


class HugetlbCollector(Faulty):
    """Table `hugetlb`: use, peak (v1), reservation, limit and failures of huge pages; the root of v2 has none."""

    Config = HugetlbConfig
    groups = ("hugetlb",)
    metrics: tuple[str, ...] = ()
    tables = ("hugetlb",)
    is_slow = True

    def __init__(self, config: HugetlbConfig) -> None:
        self._mounts: CgroupMounts = find_mounts(config.sys, config.proc)
        self._faults = Faults()
        self._sizes: dict[str, int] = {}

    def reader(self, container: Container) -> HugetlbReader | None:
        """None for the root of v2. NoData: no hugetlb controller. FileNotFoundError: no directory or no files there yet."""
        is_v1 = "hugetlb" in self._mounts.optional
        if container.is_host and not is_v1 and self._mounts.place("hugetlb") is not None:
            return None
        folder = CgroupFolder(self._mounts, "hugetlb", container, self._faults)
        if not self._sizes:  # the same for every cgroup
            self._sizes = page_sizes(folder.names())
        if not self._sizes:
            raise FileNotFoundError(f"{folder.path}: no hugetlb files")
        return HugetlbReader(folder, self._sizes, is_v1, self._faults)

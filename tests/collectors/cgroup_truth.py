"""What the raw cgroup files of a tree say, parsed plainly and apart from the collectors, to compare readers with."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tidegauge.pipeline.records import UNLIMITED, Container

Truth = dict[str, int | None]


def container(path: str) -> Container:
    return Container(1, "source", "0123456789abcdef", 0, "boot", path, "host", 0, 0)


def table_of(reader: Any, columns: Sequence[str]) -> dict[str, dict[str, int]] | None:
    """The one table of a reader without values of its own: values by instance and column, those that are None left out."""
    assert reader.read() == ()
    (rows,) = reader.read_tables()
    if rows is None:
        return None
    return {row[0]: {c: v for c, v in zip(columns, row[1:], strict=True) if v is not None} for row in rows}


def text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def number(path: Path) -> int | None:
    content = text(path)
    if content is None:
        return None
    return UNLIMITED if content.strip() in ("max", "9223372036854771712") else int(content)


def keyed(path: Path) -> dict[str, int]:
    return {k: int(v) for k, v in (line.split() for line in (text(path) or "").splitlines())}


def times(value: int | None, factor: int) -> int | None:
    return None if value is None else value * factor


def pressure(path: Path) -> dict[str, int]:
    return {
        line.split()[0]: 1000 * int(dict(pair.split("=") for pair in line.split()[1:])["total"])
        for line in (text(path) or "").splitlines()
    }


def pressures(files: dict[str, Path]) -> Truth:
    return {
        f"{what}_pressure_{share}_ns": pressure(path).get(share) for what, path in files.items() for share in ("some", "full")
    }


def working_set(usage: int | None, inactive: int | None) -> int | None:
    if usage is None or inactive is None:
        return None
    return usage - inactive if usage > inactive else 0


def truth_v1(mounts: dict[str, Path], path: str, proc: Path, unified: Path | None = None) -> Truth:
    """All metrics of one v1 container. `mounts`: controller -> mount point."""

    def at(controller: str, name: str) -> Path:
        return Path(f"{mounts[controller]}{path}") / name

    ticks, cpu = keyed(at("cpuacct", "cpuacct.stat")), keyed(at("cpu", "cpu.stat"))
    memory = keyed(at("memory", "memory.stat"))
    usage = number(at("memory", "memory.usage_in_bytes"))
    out: Truth = {
        "cpu_usage_ns": number(at("cpuacct", "cpuacct.usage")),
        "cpu_user_ns": times(ticks.get("user"), 10**7),
        "cpu_system_ns": times(ticks.get("system"), 10**7),
        "cpu_periods": cpu.get("nr_periods"),
        "cpu_throttled_periods": cpu.get("nr_throttled"),
        "cpu_throttled_ns": cpu.get("throttled_time"),
        "cpu_burst_periods": cpu.get("nr_bursts"),
        "cpu_burst_ns": cpu.get("burst_time"),
        "memory_usage_bytes": usage,
        "memory_max_usage_bytes": number(at("memory", "memory.max_usage_in_bytes")),
        "memory_working_set_bytes": working_set(usage, memory.get("total_inactive_file")),
        "memory_rss_bytes": memory.get("total_rss"),
        "memory_kernel_bytes": number(at("memory", "memory.kmem.usage_in_bytes")),
        "memory_dirty_bytes": memory.get("total_dirty"),
        "memory_writeback_bytes": memory.get("total_writeback"),
        "memory_refaulted_file_pages": memory.get("total_workingset_refault_file"),
        "memory_refaulted_anon_pages": memory.get("total_workingset_refault_anon"),
        "memory_reclaim_scanned_pages": None,
        "memory_reclaimed_pages": None,
        "memory_high_events": None,
        "memory_cache_bytes": memory.get("total_cache"),
        "memory_mapped_file_bytes": memory.get("total_mapped_file"),
        "memory_swap_bytes": memory.get("total_swap"),
        "memory_active_file_bytes": memory.get("total_active_file"),
        "memory_inactive_file_bytes": memory.get("total_inactive_file"),
        "memory_page_faults": memory.get("total_pgfault"),
        "memory_major_page_faults": memory.get("total_pgmajfault"),
        "memory_limit_bytes": number(at("memory", "memory.limit_in_bytes")),
        "memory_failures": number(at("memory", "memory.failcnt")),
        "memory_oom_kills": keyed(at("memory", "memory.oom_control")).get("oom_kill"),
        "pids_current": number(at("pids", "pids.current")),
        "pids_limit": number(at("pids", "pids.max")),
    }
    where = proc / "pressure" if path == "/" else Path(f"{unified or '/nowhere'}{path}")
    name = "{}" if path == "/" else "{}.pressure"
    return out | pressures({what: where / name.format(what) for what in ("cpu", "memory", "io")})


def truth_v2(root: Path, path: str, proc: Path) -> Truth:
    """All metrics of one v2 container."""
    where = Path(f"{root}{path}")
    cpu, memory, events = keyed(where / "cpu.stat"), keyed(where / "memory.stat"), keyed(where / "memory.events")
    usage = memory["anon"] + memory["file"] if path == "/" else number(where / "memory.current")
    out: Truth = {
        "cpu_usage_ns": times(cpu.get("usage_usec"), 1000),
        "cpu_user_ns": times(cpu.get("user_usec"), 1000),
        "cpu_system_ns": times(cpu.get("system_usec"), 1000),
        "cpu_periods": cpu.get("nr_periods"),
        "cpu_throttled_periods": cpu.get("nr_throttled"),
        "cpu_throttled_ns": times(cpu.get("throttled_usec"), 1000),
        "cpu_burst_periods": cpu.get("nr_bursts"),
        "cpu_burst_ns": times(cpu.get("burst_usec"), 1000),
        "memory_usage_bytes": usage,
        "memory_max_usage_bytes": number(where / "memory.peak"),
        "memory_working_set_bytes": working_set(usage, memory.get("inactive_file")),
        "memory_rss_bytes": memory.get("anon"),
        "memory_kernel_bytes": memory.get("kernel"),
        "memory_dirty_bytes": memory.get("file_dirty"),
        "memory_writeback_bytes": memory.get("file_writeback"),
        "memory_refaulted_file_pages": memory.get("workingset_refault_file"),
        "memory_refaulted_anon_pages": memory.get("workingset_refault_anon"),
        "memory_reclaim_scanned_pages": memory.get("pgscan"),
        "memory_reclaimed_pages": memory.get("pgsteal"),
        "memory_high_events": events.get("high"),
        "memory_cache_bytes": memory.get("file"),
        "memory_mapped_file_bytes": memory.get("file_mapped"),
        "memory_swap_bytes": number(where / "memory.swap.current"),
        "memory_active_file_bytes": memory.get("active_file"),
        "memory_inactive_file_bytes": memory.get("inactive_file"),
        "memory_page_faults": memory.get("pgfault"),
        "memory_major_page_faults": memory.get("pgmajfault"),
        "memory_limit_bytes": number(where / "memory.max"),
        "memory_failures": events.get("max"),
        "memory_oom_kills": events.get("oom_kill"),
        "pids_current": number(where / "pids.current"),
        "pids_limit": number(where / "pids.max"),
    }
    pressure_root = proc / "pressure" if path == "/" else where
    name = "{}" if path == "/" else "{}.pressure"
    return out | pressures({what: pressure_root / name.format(what) for what in ("cpu", "memory", "io")})


def blkio_truth(where: Path, policy: str) -> dict[str, dict[str, int]]:
    """Device number -> metric -> value, of one v1 policy's files (`blkio.throttle.{}_recursive`)."""
    out: dict[str, dict[str, int]] = {}
    for what, file in (("bytes", "io_service_bytes"), ("ops", "io_serviced")):
        for line in (text(where / policy.format(file)) or "").splitlines():
            parts = line.split()
            if len(parts) == 3 and parts[1] != "Total":
                out.setdefault(parts[0], {})[f"disk_{parts[1].lower()}_{what}"] = int(parts[2])
    return out


def io_stat_truth(path: Path) -> dict[str, dict[str, int]]:
    names = {"rbytes": "read_bytes", "wbytes": "write_bytes", "dbytes": "discard_bytes"}
    names |= {"rios": "read_ops", "wios": "write_ops", "dios": "discard_ops"}
    out: dict[str, dict[str, int]] = {}
    for line in (text(path) or "").splitlines():
        device, *pairs = line.split()
        out[device] = {f"disk_{names[k]}": int(v) for k, v in (p.split("=") for p in pairs) if k in names}
    return out


def paths_of(root: Path) -> list[str]:
    """Every cgroup of a hierarchy, `/` first."""
    return sorted("/" + os.path.relpath(d, root).removeprefix(".") for d, _, _ in os.walk(root))


def as_dict(collector: Any, reader: Any) -> Truth:
    return dict(zip(collector.metrics, reader.read(), strict=True))

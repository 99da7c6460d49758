"""A process as cAdvisor's ProcessInfo, which has ps(1)'s texts. Pure. Source: cAdvisor manager/container.go; ps(1)."""

import time
from collections.abc import Mapping
from typing import Any

from tidegauge.api.cadvisor import shapes as s


def of(process: Mapping[str, Any], is_root: bool, now_s: float) -> s.ProcessInfo:
    """`process` as the sampler lists it. The cgroup is said only in the list of the root."""
    return s.ProcessInfo(
        user=str(process.get("user") or process.get("uid") or ""),
        pid=process["pid"],
        parent_pid=process["parent_pid"],
        start_time=started(process.get("start_ms"), now_s),
        percent_cpu=round(process.get("cpu_percent") or 0.0, 1),
        percent_mem=round(process.get("memory_percent") or 0.0, 1),
        rss=process["rss_bytes"],
        virtual_size=process["virtual_bytes"],
        status=process["status"],
        running_time=running(process["cpu_ns"]),
        cgroup_path=(process.get("cgroup") or "") if is_root else "",
        cmd=process["command"],
        fd_count=process.get("descriptors") or 0,
        psr=process.get("processor") or 0,
    )


def started(start_ms: int | None, now_s: float) -> str:
    """Local time of day; another day of this year as `Nov23`, else the year. Empty if it is not known."""
    if start_ms is None:
        return ""
    start, now = time.localtime(start_ms / 1000), time.localtime(now_s)
    if start.tm_year != now.tm_year:
        return time.strftime("%Y", start)
    return time.strftime("%H:%M" if start.tm_yday == now.tm_yday else "%b%d", start)


def running(cpu_ns: int) -> str:
    """CPU time as [DD-]hh:mm:ss."""
    minutes, seconds = divmod(cpu_ns // 10**9, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{f'{days:02d}-' if days else ''}{hours:02d}:{minutes:02d}:{seconds:02d}"

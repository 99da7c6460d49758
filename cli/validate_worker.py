"""What the sampler answers for `/validate/`: what this host offers to it, found by a short-lived process with its rights.

Asking every collector for readers costs a second of CPU. In a process of its own that never delays the sampling thread.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tidegauge.collectors.cgroup_paths import find_mounts
from tidegauge.pipeline import collecting, missing
from tidegauge.pipeline import config as configuration
from tidegauge.pipeline.config import Config
from tidegauge.pipeline.errors import Reason, RequestError
from tidegauge.pipeline.housekeeping import is_pruned

_INITIAL_PID_NAMESPACE = "pid:[4026531836]"
"""Linux, include/linux/proc_ns.h: PROC_PID_INIT_INO."""


def answer(config: Config, arguments: Mapping[str, Any], deadline_ns: int) -> dict[str, Any]:
    """Facts of the host by name, as `facts` makes them. RequestError if the process fails or is late."""
    command = ["nice", "-n", "10", sys.executable, "-m", "tidegauge.cli.validate_worker"]
    try:
        done = subprocess.run(
            command,
            input=configuration.dumps(config),
            capture_output=True,
            timeout=max(0.0, (deadline_ns - time.monotonic_ns()) / 1e9),
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise RequestError("the collectors were not all asked in time", Reason.TIMED_OUT) from exc
    except OSError as exc:
        raise RequestError(f"no process to ask the collectors: {exc.strerror}", Reason.FAILED) from exc
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:500]
        raise RequestError(f"asking the collectors failed: {last}", Reason.FAILED)
    found: dict[str, Any] = msgspec.json.decode(done.stdout)
    return found


def facts(config: Config) -> dict[str, Any]:
    """What `config check` finds, and about kernel, cgroups and rights what explains it. None: it could not be told."""
    found = missing.find(*collecting.build(config), partial(is_pruned, config.sampler.exclude))
    mounts = find_mounts(config.roots.sys, config.roots.proc)
    return {
        "absences": [absence._asdict() for absence in found.absences],
        "has_hierarchy": found.has_hierarchy,
        "asked_containers": found.containers,
        "os": _os_name(config.roots.rootfs),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "user_id": os.geteuid(),
        "capabilities": _capabilities(),
        "cgroup_mode": mounts.mode.value,
        "controllers": sorted({*mounts.v1, *mounts.optional, *mounts.unified_controllers}),
        "has_pressure": (config.roots.proc / "pressure/cpu").exists(),
        "kernel_log_fault": _kernel_log_fault(config.sampler.kmsg),
        "sees_host_processes": _sees_host_processes(config.roots.proc),
    }


def _os_name(rootfs: Path) -> str | None:
    for name in ("etc/os-release", "usr/lib/os-release"):
        try:
            lines = (rootfs / name).read_text(errors="replace").splitlines()
        except OSError:
            continue
        return next((line.partition("=")[2].strip("\"'") for line in lines if line.startswith("PRETTY_NAME=")), None)
    return None


def _capabilities() -> int | None:
    """Effective ones, a bit each (capabilities(7))."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), None)


def _kernel_log_fault(kmsg: str) -> str | None:
    """Why the kernel's log cannot be read; None if it can."""
    if not kmsg:
        return "switched off (sampler.kmsg)"
    try:
        os.close(os.open(kmsg, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as exc:
        return f"{kmsg}: {exc.strerror}"
    return None


def _sees_host_processes(proc: Path) -> bool | None:
    try:
        return os.readlink(proc / "self/ns/pid") == _INITIAL_PID_NAMESPACE
    except OSError:
        return None


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(facts(configuration.loads(sys.stdin.buffer.read()))))

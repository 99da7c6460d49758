"""Limits, health, restarts and lack of memory of a real Podman's containers, beside what Podman's own inspect says."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.containers.own_podman import OwnPodman
from tests.containers.watching import Watching, eventually
from tests.e2e import program as e2e
from tests.e2e.program import Program
from tests.support import need

from tidegauge.pipeline.records import UNLIMITED, Spec

pytestmark = [pytest.mark.integration, pytest.mark.docker, pytest.mark.timeout(300)]
SLEEP = ("sleep", "1000")


@pytest.fixture(scope="module")
def podman() -> Iterator[OwnPodman]:
    made = OwnPodman()
    try:
        yield made.serve()
    finally:
        made.remove()


@pytest.fixture
def watching(podman: OwnPodman) -> Iterator[Watching]:
    with Watching({"podman": {"sockets": [str(podman.socket)]}}, ["/libpod_parent/*"]) as made:
        yield made


def _inspect(podman: OwnPodman, id_: str) -> dict[str, Any]:
    inspected: dict[str, Any] = json.loads(podman.podman("inspect", id_))[0]
    return inspected


def _is_connected(watching: Watching) -> bool:
    return bool(watching.binder.counters()["runtime_connected"]["podman"])


def test_limits_as_inspect_tells_them(podman: OwnPodman, watching: Watching) -> None:
    options = ("--memory", "64m", "--memory-swap", "96m", "--memory-reservation", "32m")
    options += ("--cpus", "0.5", "--cpuset-cpus", "0", "--cpu-shares", "300", "--pids-limit", "77")
    bound = podman.run("bound", *SLEEP, options=options)
    free = podman.run("free", *SLEEP, options=("--pids-limit", "-1"))
    is_v2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()

    def told(id_: str) -> dict[str, Any]:
        """The newest record's limits, in the words of inspect, where 0 is none."""
        watching.sampler.specs.run()
        record = watching.newest(id_)
        spec = (record and record.spec) or Spec()
        found = {
            "Memory": spec.memory_limit_bytes,
            "MemorySwap": spec.memory_swap_limit_bytes,
            "MemoryReservation": spec.memory_reservation_bytes,
            "CpuQuota": spec.cpu_quota_us,
            "CpuPeriod": spec.cpu_period_us,
            "CpusetCpus": spec.cpus,
            "CpuShares": spec.cpu_shares,
            "PidsLimit": spec.pids_limit,
        }
        if is_v2:  # a weight has fewer steps than shares
            del found["CpuShares"]
        return {k: 0 if v == UNLIMITED else v for k, v in found.items()}

    inspected = _inspect(podman, bound)["HostConfig"]
    wanted = {k: inspected[k] for k in told(bound)}
    assert (wanted["Memory"], wanted["CpuQuota"], wanted["PidsLimit"]) == (64 << 20, 50_000, 77)
    eventually(lambda: told(bound) == wanted, 60, f"limits {wanted}")
    kernel = {"CpuPeriod": 100_000, "CpusetCpus": Path("/sys/devices/system/cpu/online").read_text().strip()}
    none = dict.fromkeys(wanted, 0) | kernel | ({} if is_v2 else {"CpuShares": 1024})
    eventually(lambda: told(free) == none, 60, f"no limits: {none}")


def test_health_as_it_changes(podman: OwnPodman, watching: Watching) -> None:
    # without systemd nobody runs the check of itself
    options = ("--health-cmd", "test ! -e /ill", "--health-interval", "disable", "--health-retries", "1")
    id_ = podman.run("patient", *SLEEP, options=options)
    watching.named(id_, health="starting")
    eventually(lambda: _is_connected(watching))
    for change, health in ((": > /ill", "unhealthy"), ("exec /bin/busybox rm /ill", "healthy")):
        podman.podman("exec", "patient", "sh", "-c", change)
        podman.podman("healthcheck", "run", "patient", may_fail=True)  # as the check does
        assert _inspect(podman, id_)["State"]["Health"]["Status"] == health
        watching.named(id_, health=health)


def test_restarts_are_counted_and_each_run_is_an_instance(podman: OwnPodman, watching: Watching) -> None:
    id_ = podman.run("again", "sh", "-c", "sleep 2; exit 4", options=("--restart", "on-failure:2"))
    first = watching.named(id_)
    last = watching.named(id_, restart_count=2)
    assert watching.deletion(last).details["exit_code"] == 4
    assert first.restart_count == 0
    assert len({c.instance for c in watching.records(id_)}) == 3
    eventually(lambda: _inspect(podman, id_)["State"]["Status"] == "exited")
    assert (_inspect(podman, id_)["RestartCount"], _inspect(podman, id_)["State"]["ExitCode"]) == (2, 4)


@pytest.mark.e2e
def test_one_that_runs_out_of_memory(podman: OwnPodman, tmp_path: Path) -> None:
    need(os.access("/dev/kmsg", os.R_OK), "the right to read /dev/kmsg")
    config = f'[sampler]\ninclude = ["/libpod_parent/*"]\n[runtimes.podman]\nsockets = ["{podman.socket}"]\n'
    with Program(tmp_path, config) as program:
        podman.run("there", *SLEEP)  # an engine is asked once it has a container
        e2e.eventually(lambda: program.status()["sampler"]["runtime_connected"]["podman"], 60, "Podman is not connected")
        greedy = "a=0123456789abcdef; while :; do a=$a$a; done"
        id_ = podman.run("greedy", "sh", "-c", greedy, options=("--memory", "32m", "--memory-swap", "32m"))

        def story() -> list[tuple[str, dict[str, Any]]]:
            rows = program.sql(
                "SELECT path, kind, details FROM event JOIN container ON container.id = event.container ORDER BY event.row"
            )
            return [(kind, json.loads(details)) for path, kind, details in rows if path.endswith(id_)]

        e2e.eventually(lambda: any(kind == "deletion" for kind, _ in story()), 60, "it was not deleted")
        assert [kind for kind, _ in story()] == ["creation", "oom", "oom_kill", "deletion"]
        (_, oom), (_, kill), (_, end) = story()[1:]
        assert (kill["count"], kill["process"], kill["pid"]) == (1, "sh", oom["pid"])
        assert kill["path"] == oom["path"]
        eventually(lambda: _inspect(podman, id_)["State"]["Status"] == "exited")
        # its OOMKilled says nothing: Podman 4.3 was seen to have false there on cgroup v1
        assert end["exit_code"] == _inspect(podman, id_)["State"]["ExitCode"] == 137

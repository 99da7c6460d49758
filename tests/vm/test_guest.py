"""The collectors under other kernels than this machine's: boots each VM once and runs the guest's tests inside."""

import sys

import pytest
from tests.support import need
from tests.vm import harness

pytestmark = [pytest.mark.integration, pytest.mark.vm, pytest.mark.timeout(1500)]


THROUGH_PROCESSES = tuple(
    f"tests/collectors/test_{name}.py"
    for name in ("sockets", "tcp_counters", "processes", "sched", "referenced", "process_groups")
)
"""Tests of what is read through processes: the same on either hierarchy."""

MACHINE = tuple(
    f"tests/collectors/test_machine.py::TestThisMachine::test_{name}"
    for name in ("cpus", "topology_as_lscpu_tells_it", "caches_as_lscpu_tells_them", "memory", "disks", "network_devices")
)
"""Another machine than the one that the other tests run on."""


def passes_in_vm(hierarchy: str, *arguments: str) -> None:
    missing = harness.missing_tools()
    need(not missing, f"programs for the VM: {', '.join(missing)}")
    need(harness.has_kernel(), f"Debian's kernel ({harness.KERNEL}), which this system's package source does not have")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--color=no",
        "--tb=short",
        "-m",
        "integration",
        *arguments,
    ]
    done = harness.run(command, hierarchy, timeout_s=1400)
    assert done.status == 0, done.output
    assert " passed" in done.output
    assert " skipped" not in done.output


def test_readers_on_a_pure_v2_host() -> None:
    names = ("guest_cgroup_v2", "guest_quota", "guest_spec", "guest_optional_groups", "guest_pressure")
    own = (f"tests/vm/{name}.py" for name in names)
    passes_in_vm("v2", *own, "tests/collectors/test_process_list.py", *THROUGH_PROCESSES, *MACHINE)


def test_oom_kills_on_a_pure_v2_host() -> None:
    passes_in_vm("v2", "tests/vm/guest_events.py")


def test_readers_on_a_v1_host_with_joint_mounts() -> None:
    names = ("test_cgroup_v1", "test_taskload", "test_netdev", "test_process_list", "test_hugetlb", "test_memory_numa")
    own = ("tests/vm/guest_cgroup_v1.py", *(f"tests/collectors/{name}.py" for name in (*names, "test_cpuset")))
    # the other tests of perf events are about the unified hierarchy
    perf_event = "tests/collectors/test_perf_event.py::test_the_same_on_a_v1_hierarchy"
    passes_in_vm("v1", *own, perf_event, *THROUGH_PROCESSES)

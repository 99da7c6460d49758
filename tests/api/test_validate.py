"""`/validate/`: what it makes of what is found, and that it says so when nothing is."""

import copy
from pathlib import Path
from typing import Any

import pytest
from tests.api.access import View, get, listening

from tidegauge.api import validate
from tidegauge.api.validate import BAD, BEST, GOOD, UNKNOWN, report
from tidegauge.pipeline.config import HttpConfig

FACTS: dict[str, Any] = {
    "absences": [],
    "has_hierarchy": True,
    "asked_containers": 3,
    "os": "Debian GNU/Linux 12 (bookworm)",
    "kernel": "6.1.0-18-amd64",
    "python": "3.11.2",
    "user_id": 0,
    "capabilities": 0x1FFFFFFFFFF,
    "cgroup_mode": "v2",
    "controllers": ["cpu", "io", "memory", "pids"],
    "has_pressure": True,
    "kernel_log_fault": None,
    "sees_host_processes": True,
}
SINK = {"state": "waiting", "written": 5, "pending": 0, "dropped": {}, "last_error": None, "dead_letter": 0}


def verdicts(text: str) -> dict[str, str]:
    """Section -> verdict."""
    lines = [line for line in text.splitlines() if line.endswith("]") and not line.startswith(" ")]
    return dict(line.split(": ", 1) for line in lines)


def facts(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(FACTS) | changes


def status(**changes: Any) -> dict[str, Any]:
    return View().status() | {"sinks": {"sql": SINK}} | changes


def test_a_host_with_everything() -> None:
    text = report(status(sampler={"runtime_connected": {"docker": True}}), FACTS)
    assert set(verdicts(text).values()) == {BEST}
    assert set(verdicts(text)) == {
        "Operating system", "Kernel", "Cgroups", "Pressure", "Rights of the sampler", "Metrics", "Container runtimes",
        "Sampling", "Journal", "Sink sql",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "section", "verdict", "what_to_do"),
    [
        ({"kernel": "2.6.32-5"}, "Kernel", BAD, "3.10 is the oldest"),
        ({"kernel": "4.4.0"}, "Kernel", GOOD, "from 4.20 on"),
        ({"kernel": "strange"}, "Kernel", UNKNOWN, "strange"),
        ({"cgroup_mode": "none", "has_hierarchy": False, "controllers": []}, "Cgroups", BAD, "mount /sys/fs/cgroup"),
        ({"controllers": ["cpu", "pids"]}, "Cgroups", GOOD, "Not enabled: memory, io"),
        (
            {"cgroup_mode": "hybrid", "controllers": ["blkio", "cpu", "memory", "pids"]},
            "Cgroups",
            GOOD,
            "unified_cgroup_hierarchy",
        ),
        ({"has_pressure": False}, "Pressure", GOOD, "CONFIG_PSI=y"),
        ({"kernel_log_fault": "/dev/kmsg: Operation not permitted"}, "Rights of the sampler", GOOD, "Give CAP_SYSLOG"),
        ({"sees_host_processes": False}, "Rights of the sampler", GOOD, "--pid host"),
        ({"os": None}, "Operating system", UNKNOWN, "not told"),
        (
            {"absences": [{"collectors": ["loadavg"], "where": "", "metrics": ["load1"], "reasons": ["it does not exist"]}]},
            "Metrics",
            GOOD,
            "loadavg (it does not exist): load1",
        ),
    ],
)
def test_what_is_missing_is_named_with_what_to_do(change: dict[str, Any], section: str, verdict: str, what_to_do: str) -> None:
    text = report(status(), facts(**change))
    assert verdicts(text)[section] == verdict
    assert what_to_do in " ".join(text.split())


def test_troubles_of_the_program_are_named() -> None:
    sampler = {
        "runtime_connected": {"docker": False},
        "runtime_errors": {"docker": 4},
        "containers_unnamed": 2,
        "collector_faults": {"netdev": "/proc/7/net/dev: Permission denied"},
        "journal_append_errors": 1,
        "journal_overwritten_unread_rows": 9,
    }
    sink = SINK | {"state": "retrying", "last_error": "connection refused", "dead_letter": 3, "dropped": {"age": 2}}
    text = report(status(sampler=sampler, sinks={"influxdb": sink}, faults=["the sampler has made no tick for 20 s"]), FACTS)
    assert verdicts(text)["Sampling"] == BAD
    assert verdicts(text)["Container runtimes"] == verdicts(text)["Journal"] == verdicts(text)["Sink influxdb"] == GOOD
    flat = " ".join(text.split())
    for part in (
        "docker: DOES NOT ANSWER",
        "2 containers are without name",
        "netdev: /proc/7/net/dev",
        "no tick for 20 s",
        "9 rows were overwritten",
        "last error: connection refused",
        "dead-letters influxdb",
        "2 dropped",
    ):
        assert part in flat, part


def test_control_characters_do_not_reach_the_terminal() -> None:
    text = report(status(sinks={"a": SINK | {"last_error": "\x1b[31mred\x07"}}), facts(os="\x1b]0;x"))
    assert all(c.isprintable() or c == "\n" for c in text)


def test_the_page_asks_the_sampler_and_keeps_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "_KEPT_S", 3600.0)
    with listening(HttpConfig(), tmp_path) as found:
        code, answer = get(found, "/validate/")
        assert code == 200
        assert b"Host: [Unknown]" in answer
        assert b"the sampler does not run" in answer
        assert b"Sampling: [Supported and recommended]" in answer
        found.view.answers["validate"] = FACTS
        for _ in range(3):
            assert b"Debian GNU/Linux 12" in get(found, "/validate/")[1]
        assert found.view.asked == [("validate", {})] * 2
        code, answer = get(found, "/validate")
        assert code == 301
        assert b"location: /validate/\r\n" in answer.lower()

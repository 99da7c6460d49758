"""The table of `tidegauge ps`, and the command against the running program."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.program import Program, eventually, real_cgroups
from tests.support import need

from tidegauge.cli.ps_command import table

PROCESS: dict[str, Any] = {
    "pid": 71,
    "parent_pid": 1,
    "user": "root",
    "uid": 0,
    "status": "Ss",
    "command": "nginx",
    "command_line": ["nginx:", "master"],
    "cgroup": "/docker/x",
    "start_ms": 1_700_000_000_000,
    "cpu_ns": 83_400_000_000,
    "cpu_percent": 1.26,
    "memory_percent": 0.04,
    "rss_bytes": 14_860_288,
    "virtual_bytes": 3 << 40,
    "threads": 1,
    "processor": 0,
    "descriptors": 9,
}


def test_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = PROCESS | dict.fromkeys(
        ("user", "command_line", "cgroup", "start_ms", "cpu_percent", "memory_percent", "processor", "descriptors")
    )
    lines = table([PROCESS, nothing | {"pid": 2, "command": "kthreadd", "rss_bytes": 0}], True, 1_800_000_000.0)
    assert [" ".join(line.split()) for line in lines] == [
        "USER PID PPID %CPU %MEM RSS VSZ STAT START TIME CPU FDS CGROUP COMMAND",
        "root 71 1 1.3 0.0 14M 3T Ss 2023-11-14 1:23 0 9 /docker/x nginx: master",
        "- 2 1 - - 0B 3T Ss - 1:23 - - - [kthreadd]",
    ]
    (_, recent) = table([PROCESS], False, 1_700_000_100.0)
    assert "/docker/x" not in recent
    assert recent.split()[8].count(":") == 1


def test_a_command_line_does_not_reach_the_terminals_controls() -> None:
    evil = PROCESS | {"command_line": ["\x1b[2Jrm", "a\nb", "\x9b1m", "‮x"], "command": "\x07", "user": "a\rb"}
    text = "\n".join(table([evil, evil | {"command_line": None}], True, 0.0))
    assert text.count("\n") == 2
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "?[2Jrm a?b" in text


@pytest.mark.integration
@pytest.mark.e2e
@pytest.mark.xdist_group("e2e")
def test_ps_of_a_real_container_also_after_both_processes_were_killed(tmp_path: Path) -> None:
    need(os.geteuid() == 0 and os.access("/sys/fs/cgroup", os.W_OK), "root and a writable cgroup hierarchy")
    parent = f"tg-ps-{os.getpid()}"
    with real_cgroups(parent, ("one",)) as made, Program(tmp_path) as program:
        (pid,) = {int(word) for word in (made["one"] / "cgroup.procs").read_text().split()[:1]}

        def listed() -> bool:
            done = program.call("ps", f"/{parent}/one", "--json")
            return done.returncode == 0 and pid in [p["pid"] for p in json.loads(done.stdout)["processes"]]

        eventually(listed, 60, "the process is not listed")
        shown = program.call("ps", f"/{parent}", "-r")
        assert shown.returncode == 0, shown.stderr
        assert f"/{parent}/one" in shown.stdout
        for name in ("sampler", "server"):
            program.kill(name)
            eventually(listed, 60, f"no answer after the {name} was killed")
        refused = program.call("ps", f"/{parent}/nobody")
        assert (refused.returncode, "404" in refused.stderr) == (1, True)


@pytest.mark.integration
@pytest.mark.e2e
@pytest.mark.xdist_group("e2e")
def test_command_lines_are_not_told_over_tcp(tmp_path: Path) -> None:
    need(shutil.which("curl"), "curl")
    with Program(tmp_path, '[http]\nlisten = "127.0.0.1:0"\n') as program:
        address = eventually(lambda: _address(program.text()), 30, "no address in the log")
        code = ["curl", "-s", "-o", str(tmp_path / "body"), "-w", "%{http_code}", f"{address}api/v1/processes?path=/"]
        assert subprocess.run(code, capture_output=True, text=True, check=True).stdout == "403"
        assert "only over the Unix socket" in (tmp_path / "body").read_text()


def _address(text: str) -> str | None:
    return next((word.rstrip(",;") for word in text.split() if word.startswith("http://127.0.0.1:")), None)

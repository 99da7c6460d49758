"""`config check` names what is absent here: on recorded hosts, without any, and for a user who may not read everything."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from sysconfig import get_path

import pytest
from tests.support import need


def check(*assignments: str) -> str:
    """What it prints; it ends well and says nothing on the side."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGAUGE_")}
    words = [word for assignment in assignments for word in ("--set", assignment)]
    done = subprocess.run(
        [sys.executable, "-m", "tidegauge.cli.main", "config", "check", *words],
        capture_output=True, text=True, env=clean, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.startswith("The configuration is good. Sinks: ")
    return done.stdout


AS_NOBODY = """
import os, sys
from click.testing import CliRunner
from tidegauge.cli.config_command import command
CliRunner().invoke(command, sys.argv[1:])  # loads every module while they can be read, wherever the interpreter lies
os.environ["HOME"] = "/nonexistent"
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
result = CliRunner().invoke(command, sys.argv[1:])
print(result.output, result.exception or "")
sys.exit(result.exit_code)
"""


def check_as_nobody(*assignments: str) -> str:
    words = [word for assignment in assignments for word in ("--set", assignment)]
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, "check", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def roots(folder: Path) -> tuple[str, str]:
    return f"roots.sys={folder}/sys", f"roots.proc={folder}/proc"


def block(text: str, head: str) -> set[str]:
    """The metrics under the line that begins with `head`."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"  {head}: "))
    found: set[str] = set()
    for line in lines[start + 1 :]:
        if not line.startswith("    "):
            break
        found |= {word.strip(",") for word in line.split()}
    return found


@pytest.fixture
def open_tree(recorded_tree: Callable[[str], Path]) -> Iterator[Path]:
    """A recorded host that everybody may reach and read."""
    with tempfile.TemporaryDirectory(prefix="tidegauge-") as folder:
        os.chmod(folder, 0o755)
        shutil.copytree(recorded_tree("cgroup2") / "snapshot-1", Path(folder) / "root", symlinks=True)
        yield Path(folder) / "root"


def test_a_root_without_a_kernel_does_not_look_fine(tmp_path: Path) -> None:
    text = check("roots.sys=/nonexistent")
    assert {"cpu_usage_ns", "memory_usage_bytes", "pids_current", "disk_read_bytes"} <= block(text, "cgroup_v1 and cgroup_v2")
    assert "no cgroup hierarchy is mounted below /nonexistent" in text
    assert "No cgroup hierarchy is found, so no container will be seen." in text
    nothing = check(*roots(tmp_path))
    assert f"  loadavg: {tmp_path}/proc/loadavg does not exist\n    load1, load5, load15\n" in nothing


def test_what_a_recorded_kernel_lacks_is_listed(open_tree: Path) -> None:
    text = check(*roots(open_tree))
    assert block(text, "cgroup_v1") == {"percpu_usage_ns"}
    assert {"memory_limit_bytes", "pids_current"} <= block(text, "cgroup_v2, of the host")
    assert "cgroup_v2, of containers" not in text
    assert "No cgroup hierarchy" not in text


def test_files_that_this_user_may_not_read_take_their_metrics_with_them(open_tree: Path) -> None:
    need(os.geteuid() == 0, "root, to become another user")
    need(all(p.stat().st_mode & 0o005 == 0o005 for p in Path(get_path("purelib")).parents), "packages that everybody may read")
    slices = open_tree / "sys/fs/cgroup"
    for file in slices.rglob("memory.stat"):
        file.chmod(0)
    (open_tree / "proc/loadavg").chmod(0)
    assert "memory_rss_bytes" not in block(check(*roots(open_tree)), "cgroup_v2, of the host"), "root may read them"
    text = check_as_nobody(*roots(open_tree))
    missed = {"memory_rss_bytes", "memory_cache_bytes", "memory_page_faults", "memory_working_set_bytes"}
    assert missed <= block(text, "cgroup_v2")
    assert "memory.stat: Permission denied" in text
    assert block(text, "loadavg") == {"load1", "load5", "load15"}
    assert f"{open_tree}/proc/loadavg: Permission denied" in text


@pytest.mark.integration
def test_on_this_host_it_leaves_out_what_is_there(tmp_path: Path) -> None:
    text = check()
    need(Path("/sys/fs/cgroup/memory").is_dir() or Path("/sys/fs/cgroup/cgroup.controllers").exists(), "cgroups")
    assert "load1" not in text
    assert "cpu_usage_ns" not in text
    assert "uptime_seconds" not in text

"""The parent: real forks, real signals, in a process of their own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_PROGRAM = """
import logging, os, signal, sys, time
from pathlib import Path
from tidegauge.pipeline import supervisor
from tidegauge.pipeline.errors import ConfigError
logging.basicConfig(level="INFO", stream=sys.stderr)
folder, mode = Path(sys.argv[1]), sys.argv[2]

def first(start):
    (folder / f"first-{start.restarts}").write_text(str(os.getpid()))
    if mode == "config":
        raise ConfigError("colour: expected red, got blue")
    if mode == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    supervisor.listen_to_parent(start.parent_fd, (folder / f"told-{start.restarts}").write_bytes, lambda: os._exit(7))
    while True:
        time.sleep(0.05)

def reload():
    (folder / "reloaded").write_text("")
    return b"fresh" if mode == "good" else None

(folder / "parent").write_text(str(os.getpid()))
supervisor.STOP_WITHIN_S = 0.5
sys.exit(supervisor.supervise([supervisor.Child("first", first)], reload))
"""


def _start(folder: Path, mode: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", _PROGRAM, str(folder), mode], stderr=subprocess.PIPE, text=True)


def _pid(path: Path) -> int:
    for _ in range(400):
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.025)
    raise AssertionError(f"{path.name} did not appear")


def _is_gone(pid: int) -> bool:
    for _ in range(400):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.025)
    return False


def test_a_killed_child_starts_again_and_stops_with_the_parent(tmp_path: Path) -> None:
    with _start(tmp_path, "plain") as parent:
        first = _pid(tmp_path / "first-0")
        os.kill(first, signal.SIGKILL)
        second = _pid(tmp_path / "first-1")
        parent.send_signal(signal.SIGTERM)
        text = parent.communicate(timeout=20)[1]
    assert parent.returncode == 0
    assert _is_gone(second)
    assert "process first was killed by SIGKILL" in text


def test_a_child_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    with _start(tmp_path, "plain") as parent:
        child = _pid(tmp_path / "first-0")
        parent.kill()
        assert _is_gone(child)


def test_a_child_deaf_to_sigterm_is_killed_at_the_deadline(tmp_path: Path) -> None:
    with _start(tmp_path, "deaf") as parent:
        child = _pid(tmp_path / "first-0")
        time.sleep(0.1)
        parent.send_signal(signal.SIGTERM)
        text = parent.communicate(timeout=20)[1]
    assert parent.returncode == 0
    assert _is_gone(child)
    assert "did not stop in time" in text


def test_a_wrong_configuration_seen_by_a_child_ends_all_with_status_78(tmp_path: Path) -> None:
    with _start(tmp_path, "config") as parent:
        text = parent.communicate(timeout=20)[1]
    assert parent.returncode == 78
    assert "colour: expected red, got blue" in text
    assert not (tmp_path / "first-1").exists()


def test_sighup_asks_for_the_configuration_and_a_bad_one_is_not_passed_on(tmp_path: Path) -> None:
    with _start(tmp_path, "plain") as parent:
        child = _pid(tmp_path / "first-0")
        parent.send_signal(signal.SIGHUP)
        for _ in range(400):
            if (tmp_path / "reloaded").exists():
                break
            time.sleep(0.025)
        parent.send_signal(signal.SIGTERM)
        parent.communicate(timeout=20)
    assert (tmp_path / "reloaded").exists()
    assert _is_gone(child)
    assert not (tmp_path / "first-1").exists()
    assert not (tmp_path / "told-0").exists()


def test_a_good_configuration_is_told_to_the_child_that_runs(tmp_path: Path) -> None:
    with _start(tmp_path, "good") as parent:
        _pid(tmp_path / "first-0")
        parent.send_signal(signal.SIGHUP)
        for _ in range(400):
            if (tmp_path / "told-0").exists() and (tmp_path / "told-0").read_bytes():
                break
            time.sleep(0.025)
        parent.send_signal(signal.SIGTERM)
        parent.communicate(timeout=20)
    assert (tmp_path / "told-0").read_bytes() == b"fresh"

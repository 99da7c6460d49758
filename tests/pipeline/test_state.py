"""The state folder: rights, lock, identity."""

import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import need

from tidegauge.pipeline.errors import ConfigError
from tidegauge.pipeline.state import StateDir, StateLocked, server_ids, unreachable


def test_a_second_agent_on_the_same_folder_is_refused_by_name(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "s")
    state.prepare(None)
    state.lock()
    assert StateDir(tmp_path / "s").is_locked()
    code = (
        "import sys; from pathlib import Path; from tidegauge.pipeline.state import StateDir\n"
        "StateDir(Path(sys.argv[1])).lock()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"another tidegauge runs on this state folder (process {os.getpid()})" in done.stderr
    with pytest.raises(StateLocked):
        StateDir(tmp_path / "s").lock()


def test_the_source_is_made_once_and_kept(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    first = state.source()
    assert StateDir(tmp_path).source() == first
    (tmp_path / "source").write_text("torn")
    assert state.source() != first


def test_root_gives_the_server_only_what_is_its_own(tmp_path: Path) -> None:
    need(os.geteuid() == 0, "root, to give files away")
    nobody = pwd.getpwnam("nobody")
    ids = (nobody.pw_uid, nobody.pw_gid)
    state = StateDir(tmp_path / "s")
    state.prepare(ids)
    modes = {p: stat.S_IMODE(p.stat().st_mode) for p in (state.root, state.journal, state.server)}
    assert modes == {state.root: 0o710, state.journal: 0o2750, state.server: 0o700}
    assert (state.root.stat().st_uid, state.journal.stat().st_uid, state.server.stat().st_uid) == (0, 0, ids[0])
    (state.journal / "x").write_text("")
    assert (state.journal / "x").stat().st_gid == ids[1]


def test_a_folder_that_cannot_be_made_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"state_dir: .*file/s cannot be prepared"):
        StateDir(tmp_path / "file" / "s").prepare(None)


def test_a_server_user_that_cannot_reach_the_state_keeps_roots_rights_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    need(os.geteuid() == 0, "root, whose rights could be dropped")
    nobody = pwd.getpwnam("nobody")
    ids = (nobody.pw_uid, nobody.pw_gid)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert unreachable(ids, closed / "state") is not None
    assert server_ids("nobody", closed / "state") is None
    assert "cannot reach" in caplog.text
    assert os.geteuid() == 0

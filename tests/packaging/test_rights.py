"""Started as root from an installation that everybody can read, the server process runs without root's rights."""

import json
import os
import pwd
import shutil
import signal
import sqlite3
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.e2e.program import eventually
from tests.support import need

pytestmark = pytest.mark.integration


@pytest.fixture
def opt(wheel: Path) -> Iterator[Path]:
    """A folder that everybody can reach, with the wheel installed in it on the system's Python."""
    need(os.geteuid() == 0, "root, whose rights are dropped")
    python = shutil.which("python3", path="/usr/bin")
    need(python, "a Python below /usr, which every user can read")
    folder = Path(tempfile.mkdtemp(prefix="tidegauge-test-", dir="/opt"))
    try:
        folder.chmod(0o755)
        subprocess.run([str(python), "-m", "venv", str(folder / "venv")], check=True)
        command = [str(folder / "venv/bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", str(wheel)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        yield folder
    finally:
        shutil.rmtree(folder)


def test_the_server_runs_as_nobody_and_owns_nothing_but_its_folder(opt: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    state = opt / "state"
    command = [str(opt / "venv/bin/tidegauge"), "run", "--state-dir", str(state), "--set", "http.listen="]
    command += ["--set", "server_user=nobody"]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGAUGE_")}
    with (opt / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environ, cwd="/")
    try:
        database = state / "server" / "tidegauge.db"

        def has_rows() -> bool:
            with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
                return bool(db.execute("SELECT 1 FROM sample LIMIT 1").fetchall())

        eventually(has_rows, 30, "the server process stores nothing")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        users = {Path(f"/proc/{p}/comm").read_text().strip(): Path(f"/proc/{p}").stat().st_uid for p in children}
        assert users == {"tg-sampler": 0, "tg-server": nobody.pw_uid}
        server = next(p for p in children if Path(f"/proc/{p}/comm").read_text().strip() == "tg-server")
        status = dict(line.split(":", 1) for line in Path(f"/proc/{server}/status").read_text().splitlines())
        assert int(status["CapEff"], 16) == 0
        assert status["Groups"].split() in ([], [str(nobody.pw_gid)])
        owners = {p.relative_to(state).parts[0]: (p.stat().st_uid, stat.S_IMODE(p.stat().st_mode)) for p in state.iterdir()}
        assert owners["journal"] == (0, 0o2750)
        assert owners["server"] == (nobody.pw_uid, 0o700)
        assert owners["tidegauge.sock"] == (0, 0o660)
        assert {stat.S_IMODE(p.stat().st_mode) for p in (state / "journal").iterdir()} == {0o640}
        assert {stat.S_IMODE(p.stat().st_mode) for p in (state / "server").iterdir() if p.is_file()} == {0o600}
        asked = subprocess.run(
            [command[0], "status", "--json", "--state-dir", str(state)],
            capture_output=True,
            text=True,
            env=environ,
            check=False,
        )
        assert json.loads(asked.stdout)["faults"] == []
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert "cannot reach" not in (opt / "log").read_text()

"""`tidegauge copy`, `export` and `import`, as processes: they give up their rights."""

import contextlib
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.servers import Influxd, free_port, need_influxd
from tests.sinks.test_copying import everything, filled, rows_of
from tests.support import eventually


@pytest.fixture
def config(tmp_path: Path) -> Path:
    server = tmp_path / "state" / "server"
    server.mkdir(parents=True)
    filled(server / "tidegauge.db", everything())
    (tmp_path / "other").mkdir(mode=0o777)
    file = tmp_path / "tidegauge.toml"
    file.write_text(
        f'state_dir = "{tmp_path}/state"\nserver_user = "root"\n[sinks.sql]\nretention_s = 0\n'
        f'[sinks.other]\nenabled = false\nplugin = "sql"\nretention_s = 0\nurl = "sqlite:///{tmp_path}/other/other.db"\n'
        f'[sinks.down]\nenabled = false\nplugin = "influxdb"\nurl = "http://127.0.0.1:{free_port()}"\nretry_max_s = 0.5\n'
    )
    return file


def command(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tidegauge.cli.main", *arguments, "--config", str(config)]


def run(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(config, *arguments), capture_output=True, text=True, timeout=120, check=False)


def test_copy_export_and_import(config: Path, tmp_path: Path) -> None:
    original = tmp_path / "state" / "server" / "tidegauge.db"
    done = run(config, "copy", "--to", "other")
    assert (done.returncode, done.stdout) == (0, "")
    assert "rows written" in done.stderr
    copied = rows_of(tmp_path / "other" / "other.db")
    assert copied == rows_of(original)
    for file in (tmp_path / "other").iterdir():
        file.unlink()
    done = run(config, "export", str(tmp_path / "archive"))
    assert done.returncode == 0, done.stderr
    assert "files" in done.stderr
    done = run(config, "import", str(tmp_path / "archive"), "--to", "other")
    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path / "other" / "other.db") == copied
    assert not list((tmp_path / "state" / "server" / "copies").iterdir())


def test_a_copy_to_a_store_that_is_down_waits_until_it_is_stopped(config: Path, tmp_path: Path) -> None:
    copies = tmp_path / "state" / "server" / "copies"
    process = subprocess.Popen(command(config, "copy", "--to", "down"), stderr=subprocess.PIPE, text=True)
    end_s = time.monotonic() + 60
    while not (copies / "sql-to-down.job").exists():
        assert time.monotonic() < end_s
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command goes on from here" in said
    assert (copies / "sql-to-down.job").exists()


@pytest.mark.integration
def test_a_copy_that_is_killed_goes_on_and_doubles_nothing(config: Path, tmp_path: Path) -> None:
    need_influxd()
    original = tmp_path / "state" / "server" / "tidegauge.db"
    original.unlink()
    filled(original, everything(ticks=200))
    job = tmp_path / "state" / "server" / "copies" / "sql-to-influx.job"
    with Influxd(tmp_path / "influxd") as server:
        config.write_text(
            f'{config.read_text()}[sinks.influx]\nenabled = false\nplugin = "influxdb"\nurl = "{server.url}"\nbatch_rows = 5\n'
        )

        def held() -> list[tuple[int, int]]:
            rows = server.query('SELECT memory_usage_bytes, host FROM "container"', "tidegauge")
            return sorted((row["time"], row["memory_usage_bytes"]) for row in rows)

        server.query("CREATE DATABASE tidegauge")
        for _ in range(3):
            before = len(held())
            process = subprocess.Popen(command(config, "copy", "--to", "influx"), stderr=subprocess.DEVNULL)
            eventually(lambda before=before: len(held()) > before + 10)  # type: ignore[misc]
            process.kill()
            process.wait()
            if not job.exists():  # it was quicker than the look at the store
                break
        assert run(config, "copy", "--to", "influx").returncode == 0
        with contextlib.closing(sqlite3.connect(original)) as conn:
            sql = "SELECT ts_ms, memory_usage_bytes FROM sample JOIN container ON id = container WHERE path <> '/'"
            stored = sorted(conn.execute(f"{sql} AND memory_usage_bytes IS NOT NULL"))
        assert held() == stored
    assert not job.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("copy", "--to", "nowhere"), "--to: expected a sink of the configuration (down, memory, other, sql), got 'nowhere'"),
        (("copy", "--to", "sql"), "--to: expected another sink than --from, got 'sql' twice"),
        (("copy", "--from", "memory", "--to", "other"), "--from: expected a sink whose store can be read back"),
        (("copy", "--to", "memory"), "--to: expected a store that lasts, got memory, which begins anew at each start"),
        (("copy", "--to", "other", "--since", "yesterday"), "--since: expected 24h (before now), "),
        (("copy", "--to", "other", "--since", "1h", "--until", "2h"), "--since: expected a time before --until"),
        (("import", "/nonexistent", "--to", "other"), "/nonexistent: expected a folder written by `tidegauge export`"),
        (("export", "archive", "--from", "down"), "--from: expected a SQL sink, got 'down'"),
    ],
)
def test_what_cannot_be_is_said(config: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run(config, *arguments)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_that_cannot_be_read_is_said(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "state" / "server" / "tidegauge.db"
    file.unlink()
    assert "tidegauge: read the database: unable to open" in run(config, "copy", "--to", "other").stderr
    sqlite3.connect(file).execute("CREATE TABLE a (b)")
    assert "it holds no tables of tidegauge" in run(config, "export", str(tmp_path / "archive")).stderr

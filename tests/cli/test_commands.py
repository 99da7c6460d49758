"""Commands as a person runs them: exit codes and messages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def _run(*words: str, environ: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGAUGE_")}
    return subprocess.run(
        [sys.executable, "-m", "tidegauge.cli.main", *words],
        capture_output=True,
        text=True,
        env=clean | (environ or {}),
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["run", "--housekeping_interval=1s"], 2, "no such option: --housekeping_interval"),
        (["run", "--housekeeping_interval=1"], 2, "expected a duration such as 1s"),
        (["run", "--set", "sampler.base_interval_s"], 2, "--set: expected KEY=VALUE"),
        (
            ["run", "--set", "sampler.base_interval_s=5 sec"],
            78,
            "sampler.base_interval_s: expected a number of seconds, got '5 sec'",
        ),
        (["run", "--set", "sinks.sql.retention=3"], 78, "sinks.sql.retention: unknown key"),
        (["run", "--set", "sinks.influx.url=x"], 78, "sinks.influx: expected one of"),
        (["run", "--set", "collectors.nonsense.proc=/x"], 78, "collectors.nonsense: expected one of"),
        (["run", "--listen", "0.0.0.0:0"], 78, "reaches beyond this machine"),
        (["run", "--config", "/nowhere.toml"], 78, "/nowhere.toml: there is no such file"),
        (["config", "check", "--set", "log.level=loud"], 78, "log.level"),
    ],
)
def test_a_wrong_call_says_what_is_wrong_and_starts_nothing(tmp_path: Path, words: list[str], code: int, text: str) -> None:
    state = tmp_path / "state"
    done = _run(*words, environ={"TIDEGAUGE_STATE_DIR": str(state)})
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert not state.exists()


def test_version_loads_neither_database_nor_influxdb() -> None:
    code = (
        "import sys\nfrom tidegauge.cli.main import main\n"
        "try:\n    main(['version'])\nexcept SystemExit as e:\n    assert e.code in (0, None)\n"
        "heavy = {'sqlalchemy', 'influxdb_client', 'alembic', 'apscheduler', 'uvicorn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tidegauge ")


def test_the_agent_itself_loads_neither_database_nor_influxdb() -> None:
    code = (
        "import sys, tidegauge.cli.run_command, tidegauge.cli.sampler_process\n"
        "heavy = {'sqlalchemy', 'influxdb_client', 'alembic', 'uvicorn', 'starlette'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_example_is_a_configuration_and_says_the_defaults(tmp_path: Path) -> None:
    example = _run("config", "example")
    assert example.returncode == 0, example.stderr
    file = tmp_path / "tidegauge.toml"
    file.write_text("\n".join(line.removeprefix("# ") for line in example.stdout.splitlines()[1:]))
    check = _run("config", "check", "--config", str(file))
    assert check.returncode == 0, check.stderr
    assert "# base_interval_s = 1.0" in example.stdout


def test_show_masks_secrets_and_prints_what_is_in_force(tmp_path: Path) -> None:
    shown = _run(
        "config", "show", "--set", "sampler.base_interval_s=7", "--set", "sinks.influxdb.url=http://127.0.0.1:1",
        environ={"TIDEGAUGE_SINKS__INFLUXDB__TOKEN": "very-secret"},
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert "base_interval_s = 7.0" in shown.stdout
    assert "very-secret" not in shown.stdout + shown.stderr
    assert 'token = "***"' in shown.stdout


def test_status_without_a_running_one_says_so(tmp_path: Path) -> None:
    done = _run("status", "--state-dir", str(tmp_path))
    assert done.returncode == 1
    assert "no tidegauge runs on" in done.stderr


def test_the_journal_commands_without_a_journal_say_so(tmp_path: Path) -> None:
    for words in (["journal", "info"], ["journal", "verify"], ["journal", "dead-letters", "list", "sql"]):
        done = _run(*words, "--state-dir", str(tmp_path))
        assert done.returncode == 1, done.stdout
        assert "there is no" in done.stderr


def test_once_reads_the_host_twice_and_opens_no_state(tmp_path: Path) -> None:
    state = tmp_path / "state"
    done = _run("once", "--format", "json", "--set", "sampler.base_interval_s=0.2", "--state-dir", str(state))
    assert done.returncode == 0, done.stderr
    host = [row for line in done.stdout.splitlines() if (row := json.loads(line))["container"] == "/"]
    assert len(host) == 1
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total = int(meminfo["MemTotal"].split()[0]) * 1024
    assert host[-1]["metrics"]["host_memory_total_bytes"] == total
    assert 0 < host[-1]["metrics"]["uptime_seconds"] <= float(Path("/proc/uptime").read_text().split()[0])
    assert not state.exists()


def test_once_as_a_table_names_every_container(tmp_path: Path) -> None:
    done = _run("once", "--set", "sampler.base_interval_s=0.2", "--state-dir", str(tmp_path / "state"))
    assert done.returncode == 0, done.stderr
    [host] = [words for line in done.stdout.splitlines() if "/" in (words := line.split())]
    assert host[2] != "-", "the rate between the two readings"


def test_db_knows_its_revision_and_upgrades(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    before = _run("db", "current", "--state-dir", state)
    assert before.returncode == 0, before.stderr
    assert "no schema yet" in before.stdout
    up = _run("db", "upgrade", "--state-dir", state)
    assert up.returncode == 0, up.stderr
    after = _run("db", "current", "--state-dir", state)
    assert "up to date" in after.stdout

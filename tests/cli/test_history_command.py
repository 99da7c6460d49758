"""`tidegauge history`: what it asks, and what it shows in each form, over a store of plain records behind a Unix socket."""

import csv
import io
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from starlette.applications import Starlette
from tests.e2e.program import Program, eventually, real_cgroups
from tests.history_rig import BEGIN_MS, END_MS, PureReader, records
from tests.support import need

from tidegauge.api.guard import Guard
from tidegauge.api.history import HistoryPages
from tidegauge.api.http_server import HttpServer
from tidegauge.cli.history_command import as_csv, formatter, titles
from tidegauge.cli.main import main
from tidegauge.pipeline.config import HttpConfig

SPAN = ("--since", str(BEGIN_MS), "--until", str(END_MS))


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder in which somebody listens who answers from the records."""
    folder = tmp_path_factory.mktemp("state")
    reader, config = PureReader(records()), HttpConfig()
    pages = HistoryPages(lambda: {"sql": reader}, config.request_timeout_s)
    server = HttpServer(Guard(Starlette(routes=pages.routes()), config, ["here"]), config)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "tidegauge.sock"))
        listener.listen()
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield folder
        server.stop()
        thread.join(30)
    assert not thread.is_alive()


def _run(state_dir: Path, *arguments: str, columns: int = 100) -> Result:
    environment = {"COLUMNS": str(columns), "TIDEGAUGE_CONFIG": None}
    return CliRunner().invoke(main, ["history", "--state-dir", str(state_dir), *arguments], env=environment)


def _lines(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_a_plot_of_one_container(state_dir: Path) -> None:
    lines = _lines(_run(state_dir, "/docker/f", "memory_working_set_bytes", *SPAN, "--bucket", "2m"))
    assert lines[0].startswith("memory_working_set_bytes, avg per 2m, in bytes; 2023-11-1")
    assert lines[0].endswith("from samples in sql")
    assert lines[2].startswith("f (host-b)   38.2Mi over all, buckets 38.1Mi to 38.2Mi, 91% known")
    assert any("░" in line for line in lines[3:14])
    assert lines[-1] == "░ unknown"
    assert max(map(len, lines[2:])) <= 100


def test_what_was_never_read_has_no_plot(state_dir: Path) -> None:
    lines = _lines(_run(state_dir, "/docker/f", "tcp_established", *SPAN, "--bucket", "2m"))
    assert lines[2:] == ["f (host-b)   nothing is known of it"]


def test_without_a_bucket_one_is_chosen_that_fits_the_terminal(state_dir: Path) -> None:
    wide, narrow = (
        json.loads(_run(state_dir, "a", "cpu_usage_ns", *SPAN, "--format", "json", columns=c).stdout) for c in (200, 50)
    )
    assert wide["bucket_ms"] == 30_000
    assert narrow["bucket_ms"] == 120_000


def test_many_containers_have_a_line_each(state_dir: Path) -> None:
    lines = _lines(_run(state_dir, "*", "cpu_usage_ns", *SPAN, "--bucket", "5m", "--agg", "max", columns=80))
    assert lines[0].startswith("cpu_usage_ns, max per 5m, in cores")
    shown = lines[2:11]
    assert [line.split()[0] for line in shown] == ["/", "a", "b", "/docker/c", "d", "e", "/kubepods/p", "/kubepods/p/c", "f"]
    assert all(len(line) <= 80 for line in shown)
    assert {"█"} <= set(shown[0])


def test_a_table_tells_unknown_and_gone(state_dir: Path) -> None:
    result = _run(state_dir, "/docker/[cf]", "cpu_usage_ns", *SPAN, "--bucket", "5m", "--agg", "p95", "--format", "table")
    lines = _lines(result)
    assert lines[1].split() == ["TIME", "c", "(host-a)", "f", "(host-b)"]
    cells = [line.split()[2:] for line in lines[2:-1]]
    assert len(cells) == 36
    assert cells[18][1] == "?"
    assert cells[-1][0] == "-"
    assert lines[-1].startswith("all ")


def test_csv_and_json_hold_the_numbers_as_they_are(state_dir: Path) -> None:
    asked = ("/docker/c", "cpu_usage_ns", *SPAN, "--bucket", "1h")
    answer = json.loads(_run(state_dir, *asked, "--format", "json").stdout)
    rows = list(csv.reader(io.StringIO(_run(state_dir, *asked, "--format", "csv").stdout)))
    assert rows[0] == ["ts_ms", "host", "path", "cpu_usage_ns (avg, cores)", "coverage", "state"]
    points = answer["series"][0]["points"]
    assert [(float(r[3]) if r[3] else None, r[5]) for r in rows[1:]] == [(p["value"], p["state"]) for p in points]
    assert rows[-1][3:] == ["", "", "gone"]


def test_a_plot_names_the_interfaces(state_dir: Path) -> None:
    for arguments, text in (
        ((), "sum of eth0, eth1"),
        (("--instance", "eth1"), "of eth1"),
        (("--instance", "wlan*"), "none fits wlan*: there are eth0, eth1"),
    ):
        assert _lines(_run(state_dir, "/docker/a", "network_receive_bytes", *SPAN, *arguments))[1] == text


def test_choices_reach_the_question(state_dir: Path) -> None:
    asked = (
        "*",
        "memory_working_set_bytes",
        *SPAN,
        "--label",
        "app=w*",
        "--host",
        "host-a",
        "--group",
        "label:tier",
        "--top",
        "1",
    )
    answer = json.loads(_run(state_dir, *asked, "--agg", "sum", "--resolution", "raw", "--format", "json").stdout)
    assert answer["found"] == 2
    assert len(answer["series"]) == 1
    assert (answer["agg"], answer["resolution"], answer["group"]) == ("sum", "raw", ["label:tier"])


def test_without_a_container_or_a_metric_it_lists_them(state_dir: Path) -> None:
    containers = _lines(_run(state_dir, *SPAN))
    assert containers[0].split() == ["HOST", "NAME", "FIRST", "LAST", "ENDED", "PATH"]
    assert len(containers) == 12
    metrics = _lines(_run(state_dir, "web"))
    assert any(line.split()[:2] == ["cpu_usage_ns", "cores"] for line in metrics)
    assert any(line.endswith("(by interface)") for line in metrics)


def test_what_cannot_be_is_said_on_one_line(state_dir: Path, tmp_path: Path) -> None:
    for arguments, text in (
        (("web", "cpu"), "tidegauge: metric: there is no 'cpu'"),
        (("web", "cpu_usage_ns", "--since", "soon"), "tidegauge: since: expected 24h"),
        (("web", "cpu_usage_ns", "--agg", "most"), "tidegauge: agg: expected one of avg"),
        (("web", "cpu_usage_ns", "--store", "void"), "tidegauge: store: expected one of sql"),
    ):
        result = _run(state_dir, *arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith(text)
        assert len(result.stderr.splitlines()) == 1
    nobody = _run(state_dir, "nobody", "cpu_usage_ns", *SPAN)
    assert (nobody.exit_code, nobody.stdout) == (1, "")
    assert nobody.stderr.startswith("no such container was sampled from 2023-11-1")
    assert "no tidegauge runs on" in _run(tmp_path, "web", "cpu_usage_ns").stderr


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("bytes", 0, "0"),
        ("bytes", 1536, "1.5Ki"),
        ("bytes/s", 3 * 2**20, "3Mi/s"),
        ("cores", 0.25, "0.25"),
        ("cores", 0.000123456, "0.000123"),
        ("ns", 1.5e9, "1.5s"),
        ("count/s", 1234.5, "1.23k/s"),
        ("count", 999, "999"),
        ("s/s", 0.5, "0.5"),
        ("bytes", 2.0**62, "4Ei"),
        ("bytes", 2.0**63, "no limit"),
    ],
)
def test_numbers_for_people(unit: str, value: float, text: str) -> None:
    assert formatter(unit)(value) == text


def test_names_cannot_move_the_cursor() -> None:
    answer: dict[str, Any] = {"series": [{"labels": {"host": "h", "path": "/a"}, "names": ["\x1b[2Jweb\n"], "points": []}]}
    assert titles(answer) == ["?[2Jweb? (h)"]
    empty = {"metric": "m", "agg": "avg", "unit": "bytes", "series": []}
    assert as_csv(empty) == 'ts_ms,"m (avg, bytes)",coverage,state\n'


@pytest.mark.integration
@pytest.mark.e2e
@pytest.mark.xdist_group("e2e")
def test_the_running_program_is_asked(tmp_path: Path) -> None:
    need(os.geteuid() == 0, "root, to make cgroups")
    need(os.access("/sys/fs/cgroup", os.W_OK), "a writable cgroup hierarchy")
    parent = f"tg-history-{os.getpid()}"
    with real_cgroups(parent, ("a",)), Program(tmp_path, "[sampler]\nbase_interval_s = 0.5\n[sinks.sql]\n") as program:

        def found() -> list[Any]:
            result = program.call("history", f"/{parent}/a", "memory_usage_bytes", "--format", "json", "--agg", "count")
            return json.loads(result.stdout)["series"] if result.returncode == 0 else []

        series = eventually(lambda: [s for s in found() if (s["value"] or 0) >= 2], 90, "no samples in the store")
        assert series[0]["labels"]["path"] == f"/{parent}/a"
        plot = program.call("history", "/", "memory_usage_bytes", "--since", "5m")
        assert plot.returncode == 0, plot.stderr
        assert "memory_usage_bytes, avg per" in plot.stdout

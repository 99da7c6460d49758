"""Start, reload, stop, and what a person sees meanwhile."""

import http.client
import os
import signal
import socket
import stat
import time
from pathlib import Path

import pytest
from tests.e2e.program import Program, eventually, install_sequence_plugin, real_cgroups
from tests.e2e.stores import in_journal, in_sqlite
from tests.e2e.test_delivery import config
from tests.servers import free_port
from tests.support import need

pytestmark = [pytest.mark.integration, pytest.mark.e2e, pytest.mark.xdist_group("e2e")]


def test_without_configuration_every_container_and_the_host_stand_in_the_database(
    tmp_path: Path, cgroups: dict[str, Path]
) -> None:
    with Program(tmp_path) as program:
        eventually(lambda: program.sql("SELECT 1 FROM sample WHERE cpu_usage_ns > 0 LIMIT 1"), 30)
        paths = {f"/{p.parent.name}/{p.name}" for p in cgroups.values()}
        eventually(lambda: paths <= {p for (p,) in program.sql("SELECT path FROM container")}, 20)
        eventually(lambda: program.sql("SELECT 1 FROM sample_host WHERE load1 IS NOT NULL LIMIT 1"), 20)
        eventually(lambda: program.sql("SELECT 1 FROM sample_filesystem LIMIT 1"), 30)
        eventually(lambda: len(program.sql("SELECT 1 FROM sample")) > 3 * len(paths), 20)
        # The database against the kernel: the newest stored counter lies between two readings of the file around it.
        path, folder = next((f"/{p.parent.name}/{p.name}", p) for p in cgroups.values())

        def newest() -> int:
            query = (
                "SELECT s.cpu_usage_ns FROM sample s JOIN container c ON c.id = s.container "
                "WHERE c.path = ? AND s.cpu_usage_ns IS NOT NULL ORDER BY s.ts_ms DESC LIMIT 1"
            )
            [(value,)] = program.sql(query, path)
            return int(value)

        def usage() -> int:
            if (folder / "cpuacct.usage").exists():
                return int((folder / "cpuacct.usage").read_text())
            return 1000 * int((folder / "cpu.stat").read_text().split()[1])

        low = usage()
        eventually(lambda: newest() >= low, 20, "what is stored falls behind the kernel")
        assert newest() <= usage()
        status = program.call("status")
        assert status.returncode == 0, status.stderr
        assert "Well." in status.stdout
        assert "sql" in status.stdout
    assert program.text().count("WARNING") <= 1, program.text()


def test_a_container_that_lives_less_than_a_second_is_known(tmp_path: Path) -> None:
    need(os.geteuid() == 0, "root, to make cgroups")
    with Program(tmp_path, config()) as program:
        eventually(lambda: program.sql("SELECT 1 FROM sample LIMIT 1"), 20)
        with real_cgroups(f"tg-e2e-{os.getpid()}", ("brief",)):
            time.sleep(0.3)
        path = f"/tg-e2e-{os.getpid()}/brief"
        kinds = eventually(
            lambda: (
                {k for (k,) in program.sql("SELECT kind FROM event WHERE json_extract(details, '$.path') = ?", path)}
                >= {"creation", "deletion"}
            ),
            20,
        )
        assert kinds
        assert program.sql("SELECT 1 FROM sample s JOIN container c ON c.id = s.container WHERE path = ?", path)


def test_the_same_container_keeps_its_identity_over_a_restart(tmp_path: Path, cgroups: dict[str, Path]) -> None:
    program = Program(tmp_path, config())
    with program:
        eventually(lambda: len(in_sqlite(program)) > 8, 20)
    with program:
        before = len(in_sqlite(program))
        eventually(lambda: len(in_sqlite(program)) > before + 8, 20)
    for path in {f"/{p.parent.name}/{p.name}" for p in cgroups.values()}:
        assert program.sql("SELECT count(*) FROM container WHERE path = ?", path) == [(1,)]
    assert "agent_down" in {reason for (reason,) in program.sql("SELECT reason FROM gap")}


def test_sighup_takes_a_sink_away_and_brings_it_back_with_all_it_missed(tmp_path: Path, cgroups: dict[str, Path]) -> None:
    program = Program(tmp_path, config())
    with program:
        eventually(lambda: len(in_sqlite(program)) > 8, 20)
        for _ in range(3):
            assert program.process is not None
            program.configure(config().replace("[sinks.sql]\n", "[sinks.sql]\nenabled = false\n"))
            program.process.send_signal(signal.SIGHUP)
            eventually(lambda: "sql" not in program.status()["sinks"], 20)
            program.configure(config())
            program.process.send_signal(signal.SIGHUP)
            eventually(lambda: "sql" in program.status()["sinks"], 20)
        program.configure(config() + "colour = 3\n")
        program.process.send_signal(signal.SIGHUP)
        eventually(lambda: "the configuration is not taken: " in program.text(), 20)
        program.drained("sql")
    assert in_sqlite(program) == in_journal(program.state / "journal").readings


def test_it_stops_within_five_seconds_with_every_store_down(tmp_path: Path, cgroups: dict[str, Path]) -> None:
    text = config() + f'[sinks.influxdb]\nurl = "http://127.0.0.1:{free_port()}"\n'
    with socket.create_server(("127.0.0.1", 0)) as silent:
        text += f'[sinks.silent]\nplugin = "influxdb"\nurl = "http://127.0.0.1:{silent.getsockname()[1]}"\ntimeout_s = 60\n'
        with Program(tmp_path, text) as program:
            eventually(lambda: program.account("influxdb")["pending"] > 10, 30)
            begin = time.monotonic()
            assert program.stop() == 0
            assert time.monotonic() - begin < 6.0, "5 s, and one for a busy machine"


def test_a_second_one_on_the_same_state_folder_is_refused(tmp_path: Path) -> None:
    with Program(tmp_path, config()) as program:
        assert program.process is not None
        second = program.call("run")
        assert second.returncode == 1
        assert f"another tidegauge runs on this state folder (process {program.process.pid})" in second.stderr
        assert program.call("db", "upgrade").returncode == 1
        eventually(lambda: program.status()["sinks"]["sql"]["written"] > 0, 20, "the first one goes on")


def test_a_port_that_is_taken_is_said_and_nothing_runs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        program = Program(tmp_path, f'[http]\nlisten = "127.0.0.1:{taken.getsockname()[1]}"\n')
        done = program.call("run")
    assert done.returncode == 1
    assert "http.listen: cannot listen on" in done.stderr


def test_the_listener_answers_and_refuses_foreign_names(tmp_path: Path) -> None:
    port = free_port()
    with Program(tmp_path, f'[http]\nlisten = "127.0.0.1:{port}"\n') as program:

        def get(path: str, **headers: str) -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.request("GET", path, headers=headers)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            finally:
                connection.close()

        assert get("/healthz") == (200, "ok\n")
        assert get("/healthz", Host="evil.example")[0] == 403
        assert get("/metrics", Origin="http://evil.example")[0] == 403
        assert get("/api/v1/dead-letters/sql/list")[0] == 403
        assert get("/nowhere")[0] == 404
        eventually(lambda: "<td>/</td>" in get("/")[1], 20, "the page lists the host")
        page = get("/metrics")[1]
        assert 'tidegauge_sink_accepted_rows_total{sink="sql"}' in page
        assert "tidegauge_greatest_blindness_seconds" in page
        mode = (program.state / "tidegauge.sock").stat().st_mode
        assert stat.S_IMODE(mode) == 0o660


def test_a_process_that_starts_again_never_sees_a_configuration_that_was_not_accepted(
    tmp_path: Path, cgroups: dict[str, Path]
) -> None:
    program = Program(tmp_path, config())
    elsewhere = tmp_path / "elsewhere"
    with program:
        assert program.process is not None
        eventually(lambda: len(in_sqlite(program)) > 8, 20)
        # What changes only with a restart is named, and holds for a process that starts again too.
        program.file.write_text(
            program.file.read_text() + f'[roots]\nproc = "{elsewhere}"\n[metrics]\ndisable = ["all"]\nenable = ["host"]\n'
        )
        program.process.send_signal(signal.SIGHUP)
        eventually(lambda: "these change only with a restart: roots, metrics" in program.text(), 20)
        program.kill("sampler")
        before = len(in_sqlite(program))
        eventually(lambda: len(in_sqlite(program)) > before + 20, 20, "the new sampler reads the old roots")
        # A file that was broken meanwhile is nobody's business.
        program.file.write_text("colour =")
        program.process.send_signal(signal.SIGHUP)
        eventually(lambda: "the configuration is not taken: " in program.text(), 20)
        for name in ("sampler", "server"):
            program.kill(name)
        before = len(in_sqlite(program))
        eventually(lambda: len(in_sqlite(program)) > before + 20, 20, "the processes do not come back")


def test_a_metric_that_two_plugins_bring_stops_the_start_with_both_named(tmp_path: Path) -> None:
    environ = install_sequence_plugin(tmp_path)
    plugin = tmp_path / "plugin"
    info = plugin / "twin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: twin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tidegauge.collectors]\ntwin = e2e_sequence:SequenceCollector\n")
    program = Program(tmp_path, config(), environ)
    for words in (("run",), ("config", "check")):
        done = program.call(*words)
        assert done.returncode == 78, done.stderr
        assert "metric e2e_sequence: brought by both sequence and twin" in done.stderr
    assert not program.state.exists()


def test_a_file_in_the_place_of_the_socket_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    done = Program(tmp_path, f'[http]\nlisten = ""\nsocket = "{precious}"\n').call("run")
    assert done.returncode == 1
    assert "http.socket: expected a free path or an old socket" in done.stderr
    assert precious.read_text() == "kept"

"""Short forms of the promises that need a long past: outage, bounded memory, poison, upgrade with a backlog."""

import contextlib
import os
import sqlite3
import time
from pathlib import Path

import pytest
from tests.e2e import generator
from tests.e2e.program import Program, eventually
from tests.servers import Influxd, PostgresServer, free_port, need_influxd

pytestmark = [pytest.mark.integration, pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

_ONLY_HOST = '[sampler]\ninclude = ["/none"]\n'


def _rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _read_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/io").read_text().split()[1])


def _numbers(program: Program) -> list[int]:
    query = "SELECT memory_usage_bytes FROM sample s JOIN container c ON c.id = s.container WHERE c.path LIKE '/generated/%'"
    return sorted(n for (n,) in program.sql(query))


def test_r3_six_hours_of_an_outage_are_filled_in_with_their_own_times(tmp_path: Path) -> None:
    program = Program(tmp_path, _ONLY_HOST)
    end_ms = time.time_ns() // 1_000_000 - 60_000
    total = generator.fill(program.state / "journal", containers=100, rounds=2160, step_ms=10_000, end_ms=end_ms)
    with program:
        program.drained("sql", 120)
        account = program.account("sql")
        assert account["dropped"] == {}
        assert account["dead_letter"] == 0
    assert _numbers(program) == list(range(1, total + 1))
    [(first, last)] = program.sql(
        "SELECT min(ts_ms), max(ts_ms) FROM sample s JOIN container c ON c.id = s.container WHERE c.path LIKE '/generated/%'"
    )
    assert (last, last - first) == (end_ms, 2159 * 10_000)
    late = program.sql(
        "SELECT count(*) FROM (SELECT memory_usage_bytes - lag(memory_usage_bytes) "
        "OVER (PARTITION BY container ORDER BY ts_ms) AS d "
        "FROM sample s JOIN container c ON c.id = s.container WHERE c.path LIKE '/generated/%') WHERE d <> 100"
    )
    assert late == [(0,)]


def test_r5_memory_and_start_do_not_grow_with_the_backlog(tmp_path: Path) -> None:
    """A sink that is down and a backlog: nobody reads it into memory, nobody walks through it at start."""
    read: list[int] = []
    for name, rounds in (("small", 10), ("large", 2500)):
        config = f'{_ONLY_HOST}[sinks.sql]\nenabled = false\n[sinks.influxdb]\nurl = "http://127.0.0.1:{free_port()}"\n'
        program = Program(tmp_path / name, config)
        end_ms = time.time_ns() // 1_000_000 - 60_000
        generator.fill(program.state / "journal", containers=500, rounds=rounds, step_ms=10_000, end_ms=end_ms)
        size = sum(p.stat().st_size for p in (program.state / "journal").iterdir())
        with program:
            eventually(lambda p=program, n=500 * rounds: p.account("influxdb")["pending"] >= n, 30)
            children = program.children()
            read.append(sum(_read_bytes(pid) for pid in children.values()))
            for child, pid in children.items():
                assert _rss_bytes(pid) < 150 << 20, f"{child} with a backlog of {size >> 20} MiB"
    assert size > 200 << 20
    assert read[1] - read[0] < 48 << 20, "a start reads headers, the last segment and one batch, not the backlog"


@pytest.mark.parametrize("segment_bytes", [8 << 20, 1 << 18])
def test_r10_one_bad_row_in_ten_thousand_is_the_one_dead_letter(tmp_path: Path, segment_bytes: int) -> None:
    program = Program(tmp_path, _ONLY_HOST)
    end_ms = time.time_ns() // 1_000_000 - 60_000
    total = generator.fill(
        program.state / "journal", containers=100, rounds=100, step_ms=10_000, end_ms=end_ms,
        segment_bytes=segment_bytes, poison_row=5678,
    )  # fmt: skip
    assert total == 10_000
    with program:
        program.drained("sql", 60)
        account = program.account("sql")
        assert account["dead_letter"] == 1
        assert account["dropped"] == {}
        listed = program.call("journal", "dead-letters", "list", "sql")
        assert "/generated/c78" in listed.stdout, listed.stdout
        assert len(listed.stdout.splitlines()) == 1
        assert _numbers(program) == [n for n in range(1, total + 1) if n != 5678]
        before = program.account("sql")["accepted"]
        discarded = program.call("journal", "dead-letters", "discard", "sql", "--yes")
        assert discarded.stdout.strip() == "discarded: 1", discarded.stderr
        account = program.account("sql")
        assert account["dead_letter"] == 0
        assert account["dropped"] == {"discarded": 1}
        assert account["accepted"] >= before


def test_r10_a_conflict_of_types_in_one_store_blocks_neither_it_nor_the_other(tmp_path: Path) -> None:
    need_influxd()
    with Influxd(tmp_path / "influxd") as influxd:
        end_ms = time.time_ns() // 1_000_000 - 60_000
        influxd.query("CREATE DATABASE tidegauge")
        # Somebody stored text under the name of our field, in the shard of our rows.
        influxd._http.request(
            "POST", f"{influxd.url}/write?db=tidegauge&precision=ms", body=f'container pids_current="many" {end_ms}'
        )
        program = Program(tmp_path / "p", f'{_ONLY_HOST}[sinks.influxdb]\nurl = "{influxd.url}"\nnames_wait_s = 0\n')
        total = generator.fill(program.state / "journal", containers=10, rounds=5, step_ms=1000, end_ms=end_ms)
        with program:
            program.drained("influxdb", 60)
            program.drained("sql", 60)
            account = program.account("influxdb")
            assert account["dead_letter"] == total, "each row has the conflicting field"
            listed = program.call("journal", "dead-letters", "list", "influxdb")
            assert "field type conflict" in listed.stdout
            assert program.account("sql")["dead_letter"] == 0
        assert _numbers(program) == list(range(1, total + 1))


def test_r11_a_database_of_an_older_schema_is_migrated_with_a_backlog_waiting(tmp_path: Path) -> None:
    program = Program(tmp_path, _ONLY_HOST)
    end_ms = time.time_ns() // 1_000_000 - 60_000
    total = generator.fill(program.state / "journal", containers=10, rounds=200, step_ms=1000, end_ms=end_ms)
    # A store from before the first revision: nothing in it but somebody's note.
    server = program.state / "server"
    server.mkdir()
    with contextlib.closing(sqlite3.connect(server / "tidegauge.db")) as db:
        db.execute("CREATE TABLE note (text TEXT)")
        db.execute("INSERT INTO note VALUES ('kept')")
        db.commit()
    os.chmod(server / "tidegauge.db", 0o600)
    with program:
        program.drained("sql", 60)
    assert _numbers(program) == list(range(1, total + 1))
    assert program.sql("SELECT text FROM note") == [("kept",)]


def test_r11_a_server_without_tables_is_migrated_by_command_with_a_backlog_waiting(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    postgres.sql("DROP DATABASE IF EXISTS backlog WITH (FORCE)")
    url = postgres.database("backlog")
    sink = f'[sinks.central]\nplugin = "sql"\nurl = "{url}"\nretry_max_s = 1\n'
    program = Program(tmp_path, _ONLY_HOST + sink, {"TIDEGAUGE_SINKS__CENTRAL__PASSWORD": postgres.password})
    end_ms = time.time_ns() // 1_000_000 - 60_000
    total = generator.fill(program.state / "journal", containers=10, rounds=200, step_ms=1000, end_ms=end_ms)
    with program:
        eventually(lambda: "run `tidegauge db upgrade`" in program.text(), 30, "it does not say what to do")
        assert program.account("central")["pending"] >= total
        migrated = program.call("db", "upgrade")
        assert "sql: left to the tidegauge that runs on it" in migrated.stdout, migrated.stderr
        assert "central: no schema yet -> " in migrated.stdout
        program.drained("central", 60)
        assert program.account("central")["dropped"] == {}
    rows = postgres.sql(
        "SELECT memory_usage_bytes FROM sample s JOIN container c ON c.id = s.container WHERE c.path LIKE '/generated/%'",
        database="backlog",
    )
    assert sorted(n for (n,) in rows) == list(range(1, total + 1))
    assert postgres.password not in program.text()
    postgres.sql("DROP DATABASE backlog WITH (FORCE)")

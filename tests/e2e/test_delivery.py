"""Nothing is lost or doubled: processes killed, stores stopped, the disk full, the journal damaged. Promises R1, R3 to R8."""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.program import Program, eventually, handed_out, install_sequence_plugin
from tests.e2e.stores import Journal, in_influxdb, in_journal, in_postgresql, in_sqlite
from tests.servers import Influxd, PostgresServer, need_postgres
from tests.support import need

from tidegauge.pipeline.journal import JournalReader, info, verify

pytestmark = [pytest.mark.integration, pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

BASE_S = 0.25


def config(influxd: Influxd | None = None, extra: str = "") -> str:
    sampler = f"[sampler]\nbase_interval_s = {BASE_S}\nmax_interval_s = 4\n"
    sampler += 'include = ["/tg-e2e-*"]\n'
    sinks = "[sinks.sql]\nflush_interval_s = 0.2\n"
    if influxd is not None:
        sinks += f'[sinks.influxdb]\nurl = "{influxd.url}"\nflush_interval_s = 0.2\nretry_max_s = 1\nnames_wait_s = 0\n'
    return sampler + sinks + extra


@pytest.fixture
def postgresql() -> Iterator[PostgresServer]:
    """One of the test's own, which takes it away, with an empty database `samples`."""
    need_postgres()
    with PostgresServer() as server:
        server.database("samples", server.role("agent"))
        yield server


def beside(postgresql: PostgresServer) -> tuple[dict[str, str], str]:
    """Environment and configuration of a third sink."""
    url = postgresql.url("samples", "agent")
    third = f'[sinks.postgresql]\nplugin = "sql"\nurl = "{url}"\nflush_interval_s = 0.2\nretry_max_s = 1\n'
    return {"TIDEGAUGE_SINKS__POSTGRESQL__PASSWORD": postgresql.password}, third


def holes_are_covered(journal: Journal, path: str, limit_s: float) -> None:
    """Between two readings of a busy container further apart than the limit stand gap records over the whole."""
    slack_ms = 2000 * BASE_S
    times = sorted(r.ts_ms for r in journal.readings if r.path == path)
    for before, after in itertools.pairwise(times):
        if after - before <= limit_s * 1000:
            continue
        known_to = before
        for gap in sorted(journal.gaps, key=lambda g: g.from_ms):
            # An agent that lived for less than two intervals between two kills may not have read it.
            if gap.from_ms <= known_to + slack_ms:
                known_to = max(known_to, gap.to_ms)
        assert known_to >= after - slack_ms, f"{after - before} ms without a reading at {before}, no gap record: {journal.gaps}"


def test_kills_and_outages_lose_and_double_nothing(
    tmp_path: Path, cgroups: dict[str, Path], influxd: Influxd, postgresql: PostgresServer
) -> None:
    environ, third = beside(postgresql)
    program = Program(tmp_path, config(influxd, third), install_sequence_plugin(tmp_path) | environ)
    migrated = program.call("db", "upgrade")
    assert "postgresql: no schema yet -> " in migrated.stdout, migrated.stderr
    chance = random.Random(7)
    kills = ["sampler", "server", "parent"] * 2
    chance.shuffle(kills)
    with program:
        eventually(lambda: in_sqlite(program), 20)
        for i, name in enumerate(kills):
            if i == 1:
                influxd.stop()
            if i == 3:
                postgresql.kill()
            if i == 4:
                influxd.start()
            if i == 5:
                postgresql.start()
            time.sleep(chance.uniform(0.2, 1.5))
            program.kill(name)
            eventually(lambda: program.account("sql"), 20)
        time.sleep(1)
        program.drained("sql")
        program.drained("influxdb")
        program.drained("postgresql")
        for name in ("influxdb", "postgresql"):
            account = program.account(name)
            assert account["dropped"] == {}
            assert account["dead_letter"] == 0
    journal = in_journal(program.state / "journal")
    assert max(journal.readings.values()) == 1
    stored = in_sqlite(program)
    # What the last stop appended is delivered too, as far as the stores took it at once: they were up.
    assert stored == journal.readings
    assert in_influxdb(influxd) == journal.readings
    assert in_postgresql(postgresql, "samples") == journal.readings
    for path in {r.path for r in journal.readings if r.path != "/" and r.path.count("/") == 2}:
        holes_are_covered(journal, path, 3 * BASE_S + 0.5)
    numbers = dict(
        program.sql(
            "SELECT c.path, count(*) FROM custom s JOIN container c ON c.id = s.container "
            "WHERE metric = 'e2e_sequence' GROUP BY 1"
        )
    )
    restarts_of_sampler = 1 + sum(k != "server" for k in kills)
    for name, given in handed_out(tmp_path).items():
        path = "/" if name == "host" else "/" + name.replace("_", "/", 1)
        if path in numbers:
            assert len(given) - numbers[path] <= restarts_of_sampler, f"{path}: more than a tick a kill was not accepted"


def test_each_number_that_was_accepted_is_stored_once(tmp_path: Path, cgroups: dict[str, Path]) -> None:
    program = Program(tmp_path, config(), install_sequence_plugin(tmp_path))
    with program:
        eventually(lambda: len(in_sqlite(program)) > 8, 20)
        for _ in range(3):
            time.sleep(0.4)
            program.kill("server")
        time.sleep(1)
        program.drained("sql")
    for path in {f"/{p.parent.name}/{p.name}" for p in cgroups.values()}:
        numbers = [
            n
            for (n,) in program.sql(
                "SELECT s.value FROM custom s JOIN container c ON c.id = s.container WHERE c.path = ? ORDER BY s.ts_ms", path
            )
        ]
        assert numbers == list(range(1, len(numbers) + 1)), f"{path}: the server's death touched what was sampled"


def test_a_store_that_hangs_delays_neither_the_others_nor_the_stop(
    tmp_path: Path, cgroups: dict[str, Path], influxd: Influxd, postgresql: PostgresServer
) -> None:
    """Two do, as a stopped process does: the kernel goes on to take what is sent to it."""
    environ, third = beside(postgresql)
    program = Program(tmp_path, config(influxd, third), environ)
    migrated = program.call("db", "upgrade")
    assert "postgresql: no schema yet -> " in migrated.stdout, migrated.stderr
    with program:
        eventually(lambda: in_influxdb(influxd) and in_postgresql(postgresql, "samples"), 30)
        process = influxd._process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            with postgresql.stopped():
                before = eventually(lambda: len(in_sqlite(program)), 20)
                eventually(lambda: len(in_sqlite(program)) > before + 12, 20, "SQLite stands still while others hang")
                program.account("influxdb")
                program.account("postgresql")
                begin = time.monotonic()
                assert program.stop() == 0
                assert time.monotonic() - begin < 6.0
        finally:
            process.send_signal(signal.SIGCONT)
        program.start()
        program.drained("influxdb")
        program.drained("postgresql")
    journal = in_journal(program.state / "journal")
    assert in_influxdb(influxd) == journal.readings
    assert in_postgresql(postgresql, "samples") == journal.readings
    assert in_sqlite(program) == journal.readings


def test_a_damaged_segment_loses_only_itself_and_says_how_much(
    tmp_path: Path, cgroups: dict[str, Path], influxd: Influxd
) -> None:
    program = Program(tmp_path, config(influxd, "[journal]\nsegment_bytes = 65536\n"))
    with program:
        eventually(lambda: in_influxdb(influxd), 30)
        influxd.stop()
        eventually(lambda: program.account("influxdb")["pending"] > 150, 60)
        # A segment begins with some 20 KB of schemas and containers; the damage below is to hit readings.
        eventually(lambda: 32_000 < verify(program.state / "journal").segments[-1].used_bytes < 52_000, 120)
    whole = in_journal(program.state / "journal")
    report = verify(program.state / "journal").segments[-1]
    victim = program.state / "journal" / report.name
    data = bytearray(victim.read_bytes())
    for at in range(int(report.used_bytes * 0.7), int(report.used_bytes * 0.8), 100):
        data[at] ^= 0xFF
    victim.write_bytes(data)
    check = program.call("journal", "verify")
    assert check.returncode == 1, check.stdout
    assert "damaged places" in check.stdout
    influxd.start()
    with program:
        program.drained("influxdb")
        account = program.account("influxdb")
        lost = account["dropped"].get("damage", 0)
        assert lost > 0
        assert "dropped:damage" in {g["reason"] for g in influxd.query("SELECT * FROM gap", "tidegauge")}
    stored = in_influxdb(influxd)
    missing = whole.readings - stored
    assert 0 < sum(missing.values()) <= lost
    assert max(stored.values()) == 1


def test_a_full_disk_ends_nothing_and_every_lost_row_is_counted(tmp_path: Path, cgroups: dict[str, Path]) -> None:
    need(os.geteuid() == 0, "root, to mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], check=True)
    try:
        # SQLite lies elsewhere, so that the journal alone meets the full disk.
        database = tmp_path / "db" / "tidegauge.db"
        database.parent.mkdir()
        os.chmod(database.parent, 0o777)
        os.chmod(tmp_path, 0o755)
        text = config(None, "[journal]\nsegment_bytes = 131072\n").replace(
            "[sinks.sql]", f'[sinks.sql]\nurl = "sqlite:///{database}"'
        )
        program = Program(folder, text)
        with program:
            eventually(lambda: program.account("sql")["written"] > 20, 30)
            filler = folder / "filler"
            with filler.open("wb") as f, contextlib.suppress(OSError):
                while True:
                    f.write(b"x" * 65536)
                    f.flush()
            before = program.account("sql")["written"]
            eventually(lambda: program.account("sql")["written"] > before + 40, 40, "the live sink stands still on a full disk")
            assert program.process is not None
            assert program.process.poll() is None
            filler.unlink()
            before = program.account("sql")["written"]
            eventually(lambda: program.account("sql")["written"] > before + 20, 20)
            program.account("sql")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_backlog_waits_on_the_disk_and_is_delivered_in_order(
    tmp_path: Path, cgroups: dict[str, Path], influxd: Influxd
) -> None:
    influxd.stop()
    with Program(tmp_path, config(influxd)) as program:
        eventually(lambda: program.account("influxdb")["pending"] > 100, 60)
        assert program.status()["sinks"]["influxdb"]["last_error"]
        influxd.start()
        program.drained("influxdb")
    assert in_influxdb(influxd) == in_journal(program.state / "journal").readings


def test_the_log_is_read_by_the_public_reader_as_the_program_left_it(tmp_path: Path, cgroups: dict[str, Path]) -> None:
    with Program(tmp_path, config()) as program:
        eventually(lambda: len(in_sqlite(program)) > 8, 20)
    found = info(program.state / "journal")
    assert found.end_row is not None
    reader = JournalReader(program.state / "journal", found.first_row)
    assert sum(f.rows for f in reader.read(found.end_row, 1 << 30)) == found.accepted
    reader.close()


def test_an_emptied_journal_uses_no_row_again(tmp_path: Path, cgroups: dict[str, Path]) -> None:
    program = Program(tmp_path, config())
    with program:
        eventually(lambda: program.account("sql")["written"] > 20, 30)
    for path in (program.state / "journal").iterdir():
        path.unlink()
    with program:
        before = program.account("sql")["written"]
        eventually(lambda: program.account("sql")["written"] > before + 20, 30)
    assert program.sql("SELECT source, row FROM event GROUP BY 1, 2 HAVING count(*) > 1") == []

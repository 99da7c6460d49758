"""Stores that hang and fail, a disk that is full again and again, a journal damaged in many places. Promises R4, R6, R7."""

import contextlib
import itertools
import os
import random
import re
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.e2e import generator
from tests.e2e.program import Program, eventually
from tests.e2e.row_sink import OwnGap, Rows, covered, install_row_sink, read_rows, rows_table
from tests.e2e.stores import Reading, in_influxdb, in_journal, in_sqlite
from tests.servers import Influxd
from tests.support import need

from tidegauge.pipeline.journal import verify

pytestmark = [pytest.mark.integration, pytest.mark.e2e, pytest.mark.xdist_group("e2e")]


def sampler(base_s: float) -> str:
    return f'[sampler]\nbase_interval_s = {base_s}\nmax_interval_s = 4\ninclude = ["/tg-e2e-*"]\n'


@contextlib.contextmanager
def failing_server() -> Iterator[int]:
    """The port of a store that answers 500 to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send_error(500)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_r4_one_hangs_one_fails_and_the_third_misses_no_tick(
    tmp_path: Path, cgroups: dict[str, Path], influxd: Influxd
) -> None:
    base_s = 0.5
    with failing_server() as port:
        text = sampler(base_s) + "[sinks.sql]\nflush_interval_s = 0.2\n"
        for name, url in (("influxdb", influxd.url), ("failing", f"http://127.0.0.1:{port}")):
            text += f'[sinks.{name}]\nplugin = "influxdb"\nurl = "{url}"\nversion = "1"\nnames_wait_s = 0\n'
            text += "flush_interval_s = 0.2\nretry_max_s = 1\n"
        with Program(tmp_path, text) as program:
            eventually(lambda: in_influxdb(influxd), 30)
            process = influxd._process
            assert process is not None
            process.send_signal(signal.SIGSTOP)
            try:
                begin_ms = time.time_ns() // 1_000_000
                time.sleep(12 * base_s)
                end_ms = time.time_ns() // 1_000_000
                eventually(lambda: max(r.ts_ms for r in in_sqlite(program)) >= end_ms, 20, "SQLite stands still")
                lateness = re.search(r"^tidegauge_lateness_p99_seconds (\S+)$", program.get("/metrics").decode(), re.MULTILINE)
                failing = program.account("failing")
                assert failing["pending"] == failing["accepted"] > 0
                assert program.account("influxdb")["pending"] > 0
            finally:
                process.send_signal(signal.SIGCONT)
            program.drained("influxdb")
    assert lateness is not None
    assert float(lateness[1]) < base_s
    stored = in_sqlite(program)
    assert stored == in_journal(program.state / "journal").readings
    assert in_influxdb(influxd) <= stored
    for folder in cgroups.values():
        times = sorted(r.ts_ms for r in stored if r.path == f"/{folder.parent.name}/{folder.name}")
        steps = [b - a for a, b in itertools.pairwise(times) if b >= begin_ms and a <= end_ms]
        assert len(steps) >= 10
        assert max(steps) < 2.5 * base_s * 1000


Key = tuple[str, str, int, int]
"""(path, instance, epoch, ts_ms) of a sample."""


def keys(stored: "Counter[Reading]") -> set[Key]:
    """Of what a store holds; nothing twice."""
    assert max(stored.values()) == 1
    return {(r.path, r.instance, r.epoch, r.ts_ms) for r in stored}


def keys_by_row(rows: Rows) -> dict[int, Key]:
    return {row: (line[1], line[2], line[3], line[4]) for row, line in rows.samples.items()}


def own_gaps(program: Program) -> list[OwnGap]:
    found = program.sql("SELECT row, reason, rows_lost, from_ms, to_ms FROM gap WHERE reason LIKE 'dropped:%'")
    return [OwnGap(row, reason.removeprefix("dropped:"), *rest) for row, reason, *rest in found]


def own_gaps_in(influxd: Influxd) -> list[OwnGap]:
    return [
        OwnGap(g["row"], g["reason"].removeprefix("dropped:"), g["rows"], g["time"], g["to_ms"])
        for g in influxd.query("SELECT * FROM gap", "tidegauge")
        if g["reason"].startswith("dropped:")
    ]


def test_r6_a_disk_filled_again_and_again_with_a_store_down(tmp_path: Path, cgroups: dict[str, Path], influxd: Influxd) -> None:
    need(os.geteuid() == 0, "root, to mount a small file system")
    influxd.stop()
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], check=True)
    try:
        witness = tmp_path / "witness"
        text = sampler(0.1) + "[journal]\nsegment_bytes = 65536\n[sinks.sql]\nflush_interval_s = 0.2\n"
        text += f'[sinks.influxdb]\nurl = "{influxd.url}"\nnames_wait_s = 0\nflush_interval_s = 0.2\nretry_max_s = 1\n'
        text += rows_table("witness", witness)
        program = Program(folder, text, install_row_sink(tmp_path))
        chance = random.Random(11)
        with program:
            eventually(lambda: program.account("sql")["written"] > 50, 30)
            children = program.children()
            for _ in range(4):
                filler = folder / "filler"
                with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(4096))
                before = program.account("witness")["written"]
                wanted = before + chance.randrange(50, 250)
                eventually(lambda n=wanted: program.account("witness")["written"] > n, 60, "nothing goes on on a full disk")
                filler.unlink()
                before = program.account("sql")["written"]
                eventually(lambda n=before: program.account("sql")["written"] > n + 50, 30, "SQLite does not go on")
            assert program.children() == children, "a process ended"
            assert program.account("influxdb")["written"] == 0
            influxd.start()
            for sink in ("influxdb", "sql", "witness"):
                program.drained(sink)
        with program:
            for sink in ("influxdb", "sql", "witness"):
                program.drained(sink)
            accounts = {sink: program.account(sink) for sink in ("influxdb", "sql", "witness")}
        # The stop delivers what came meanwhile: every store is up.
        everything = read_rows(witness)
        in_sql, in_influx = in_sqlite(program), in_influxdb(influxd)
        told = {"sql": own_gaps(program), "influxdb": own_gaps_in(influxd)}
        with contextlib.closing(sqlite3.connect(program.database)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
    assert not accounts["witness"]["dropped"]
    assert accounts["influxdb"]["dropped"]["disk_full"] > 0
    for sink, stored in (("sql", in_sql), ("influxdb", in_influx)):
        dropped = accounts[sink]["dropped"]
        assert {reason: sum(g.rows for g in told[sink] if g.reason == reason) for reason in dropped} == dropped
        lost = covered(told[sink], sorted(everything.by_row))
        assert len(lost) == sum(dropped.values())
        assert keys(stored) == {key for row, key in keys_by_row(everything).items() if row not in lost}
        for line in (line for row, line in everything.samples.items() if row in lost):
            assert any(g.from_ms <= line[4] <= g.to_ms for g in told[sink]), f"no gap record over {line}"


def test_r7_damage_in_many_places_is_counted_to_the_row(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    text = '[sampler]\ninclude = ["/none"]\n[sinks.sql]\nenabled = false\n' + rows_table("before", before)
    program = Program(tmp_path, text, install_row_sink(tmp_path))
    end_ms = time.time_ns() // 1_000_000 - 60_000
    generator.fill(
        program.state / "journal", containers=20, rounds=200, step_ms=1000, end_ms=end_ms, segment_bytes=65536
    )  # fmt: skip
    with program:
        program.drained("before")
    accepted = read_rows(before)
    chance = random.Random(3)
    segments = verify(program.state / "journal").segments
    # Not the newest: what is cut off its end was a torn write, which nobody counts.
    for report in segments[:-1]:
        path = program.state / "journal" / report.name
        for _ in range(chance.randrange(3)):
            at, bit = chance.randrange(report.used_bytes), 1 << chance.randrange(8)
            with path.open("r+b") as file:
                byte = file.seek(at) and file.read(1)[0]
                file.seek(at)
                file.write(bytes([(byte or 0) ^ bit]))
    victim = segments[chance.randrange(1, len(segments) - 1)]
    os.truncate(program.state / "journal" / victim.name, chance.randrange(victim.used_bytes // 2, victim.used_bytes))
    assert not verify(program.state / "journal").is_whole
    program.configure(text.replace("[sinks.sql]\nenabled = false\n", "[sinks.sql]\n") + rows_table("after", after))
    with program:
        for sink in ("before", "after", "sql"):
            program.drained(sink)
        accounts = {sink: program.account(sink) for sink in ("before", "after", "sql")}
        in_sql = in_sqlite(program)
    found = read_rows(after)
    assert accounts["before"]["dropped"] == {}
    accepted = Rows(accepted.by_row | read_rows(before).by_row, [])
    lost = accepted.by_row.keys() - found.by_row.keys()
    assert found.by_row.items() <= accepted.by_row.items()
    assert accounts["after"]["dropped"] == {"damage": len(lost)}
    assert accounts["sql"]["dropped"] == {"damage": len(lost)}
    assert 100 < len(lost) < len(accepted.by_row) // 2
    assert sum(gap.rows for gap in found.gaps) == len(lost)
    assert {gap.row for gap in found.gaps} <= lost
    assert keys(in_sql) <= set(keys_by_row(accepted).values())
    for row, key in keys_by_row(accepted).items():
        assert row not in lost or any(g.from_ms <= key[3] <= g.to_ms for g in found.gaps)

"""A configuration read again and again, a sink that begins in the past, sinks that are too slow. Promises R11, R12."""

import random
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.e2e import generator
from tests.e2e.program import Program, eventually
from tests.e2e.row_sink import covered, install_row_sink, read_rows, rows_table
from tests.e2e.stores import in_journal, in_sqlite

from tidegauge.pipeline.journal import verify

pytestmark = [pytest.mark.integration, pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

_ONLY_HOST = '[sampler]\ninclude = ["/none"]\n[sinks.sql]\nenabled = false\n'


def reconfigure(program: Program, text: str) -> None:
    """Puts the file in place at once, so that none is read half written, and says so."""
    assert program.process is not None
    fresh = program.file.with_name("fresh.toml")
    fresh.write_text(text + '\n[http]\nlisten = ""\n')
    fresh.replace(program.file)
    program.process.send_signal(signal.SIGHUP)


def test_r11_a_hundred_reloads_lose_and_double_nothing(tmp_path: Path, cgroups: dict[str, Path]) -> None:
    written = tmp_path / "written"
    variants = [
        '[sampler]\nbase_interval_s = 0.1\ninclude = ["/tg-e2e-*"]\n'
        f"[sinks.sql]\nflush_interval_s = {flush_s}\n" + rows_table("rows", written, batch_rows=batch_rows)
        for flush_s, batch_rows in ((0.1, 5000), (0.3, 7), (0.1, 40))
    ]
    chance = random.Random(2)
    program = Program(tmp_path, variants[0], install_row_sink(tmp_path))
    with program:
        eventually(lambda: program.account("sql")["written"] > 50, 30)
        children = program.children()
        for i in range(1, 101):
            reconfigure(program, variants[i % len(variants)])
            time.sleep(chance.uniform(0, 0.1))
        reconfigure(program, variants[0] + rows_table("last", tmp_path / "last", start="end"))
        eventually(lambda: "last" in program.status()["sinks"], 60)
        before = program.account("rows")["written"]
        eventually(lambda: program.account("rows")["written"] > before + 50, 30)
        assert program.children() == children
    with program:
        for sink in ("rows", "sql"):
            program.drained(sink)
        account = program.account("rows")
        assert (account["dropped"], account["dead_letter"]) == ({}, 0)
    journal = in_journal(program.state / "journal")
    found = read_rows(written)
    assert found.gaps == []
    assert len(found.by_row) == journal.rows
    assert in_sqlite(program) == journal.readings
    keys = [tuple(line[1:5]) for line in found.samples.values()]
    assert len(keys) == len(set(keys)) == len(journal.readings)
    assert set(keys) == {(r.path, r.instance, r.epoch, r.ts_ms) for r in journal.readings}


def generated(rows: dict[int, list[object]]) -> list[int]:
    """Sequence numbers of the generated samples, in the order of their rows."""
    return [line[5] for _, line in sorted(rows.items()) if str(line[1]).startswith("/generated/")]  # type: ignore[misc]


def test_r11_a_sink_added_with_a_start_has_the_history_from_then_on(tmp_path: Path) -> None:
    program = Program(tmp_path, _ONLY_HOST + rows_table("whole", tmp_path / "whole"), install_row_sink(tmp_path))
    end_ms = (time.time_ns() // 1_000_000_000 - 60) * 1000
    total = generator.fill(
        program.state / "journal", containers=10, rounds=300, step_ms=1000, end_ms=end_ms, segment_bytes=65536
    )
    with program:
        program.drained("whole")
        late = ""
        for name, back in (("early", 250), ("middle", 100), ("recent", 0)):
            start = datetime.fromtimestamp(end_ms / 1000 - back, UTC).isoformat()
            late += rows_table(name, tmp_path / name, start=start)
        reconfigure(program, _ONLY_HOST + rows_table("whole", tmp_path / "whole") + late)
        eventually(lambda: {"early", "middle", "recent"} <= program.status()["sinks"].keys(), 30)
        for name in ("early", "middle", "recent"):
            # Only a look after all rows were there: the account begins with the sink's own start.
            eventually(lambda n=name: program.account(n)["accepted"] and not program.account(n)["pending"], 30)
        program.drained("whole")
    whole = read_rows(tmp_path / "whole")
    assert generated(whole.by_row) == list(range(1, total + 1))
    for name, back in (("early", 250), ("middle", 100), ("recent", 0)):
        found = read_rows(tmp_path / name)
        assert generated(found.by_row) == list(range(total - 10 * (back + 1) + 1, total + 1))
        assert found.by_row == {row: line for row, line in whole.by_row.items() if row >= min(found.by_row)}
        assert found.gaps == []


def test_r12_a_sink_that_takes_a_tenth_gets_what_its_policy_says(tmp_path: Path) -> None:
    """A backlog of 40 000 rows and two sinks that are too slow for it, each bounded in its own way."""
    keep, share = 10, 10
    program = Program(tmp_path, "", install_row_sink(tmp_path))
    end_ms = time.time_ns() // 1_000_000 - 60_000
    generator.fill(
        program.state / "journal", containers=50, rounds=800, step_ms=1000, end_ms=end_ms, segment_bytes=65536
    )  # fmt: skip
    size = 65536 * len(verify(program.state / "journal").segments)
    assert size > 100 * 65536, "a segment is less than a hundredth"
    text = _ONLY_HOST + "[journal]\nsegment_bytes = 65536\n" + rows_table("whole", tmp_path / "whole")
    text += rows_table("newest", tmp_path / "newest", lag_bytes=size // share + 65536, row_s=0.0002)
    text += rows_table(
        "thinned", tmp_path / "thinned", lag_bytes=size * 21 // 20, lag_policy="downsample", downsample_keep=keep,
        batch_rows=100, row_s=0.0015,
    )  # fmt: skip
    program.configure(text)
    with program:
        for sink in ("whole", "newest", "thinned"):
            program.drained(sink, 90)
        # The last gap stands ahead of the rows that follow, and some must.
        before = program.account("thinned")["written"]
        eventually(lambda: program.account("thinned")["written"] > before + 2, 60, "it is thinned for ever")
        accounts = {sink: program.account(sink) for sink in ("whole", "newest", "thinned")}
    whole, newest, thinned = (read_rows(tmp_path / sink) for sink in ("whole", "newest", "thinned"))
    accepted = sorted(whole.by_row)
    assert accounts["whole"]["dropped"] == {}

    lost = whole.by_row.keys() - newest.by_row.keys()
    assert accounts["newest"]["dropped"] == {"bound": len(lost)}
    assert covered(newest.gaps, accepted) == lost
    assert lost == set(accepted[: len(lost)]), "the oldest, and nothing but these"
    assert len(lost) / len(accepted) == pytest.approx(1 - 1 / share, abs=0.01)

    lost = whole.by_row.keys() - thinned.by_row.keys()
    assert accounts["thinned"]["dropped"] == {"downsample": len(lost)}
    assert sum(gap.rows for gap in thinned.gaps) == len(lost)
    until = max(lost)
    assert lost == {row for row in whole.samples if row <= until and row % keep}
    thinned_span = [row for row in whole.samples if row <= until]
    assert len(lost) / len(thinned_span) == pytest.approx(1 - 1 / keep, abs=0.01)
    assert len(thinned_span) > len(whole.samples) / 2

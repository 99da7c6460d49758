"""Dead letters on disk: bounded, whole after a torn write, forgotten beyond the cursor."""

from pathlib import Path

import pytest

from tidegauge.pipeline.dead_letters import DeadLetters, Letter, letter_of
from tidegauge.pipeline.records import End, Event, Gap, Record
from tidegauge.pipeline.testing import SOURCE, START_MS, make_batch, make_container, make_sample, make_schema


def letter(row: int, reason: str = "bad") -> Letter:
    return letter_of(make_batch([make_sample(make_schema(), cpu_usage_ns=row)], first_row=row), "s", reason, START_MS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.dead-letters"


def opened(path: Path, before_row: int = 1000, limit_bytes: int = 1 << 20) -> DeadLetters:
    box = DeadLetters(path, limit_bytes)
    box.open(before_row)
    return box


def test_no_file_is_made_without_need(path: Path) -> None:
    opened(path).close()
    assert not path.exists()


@pytest.mark.parametrize(
    "record",
    [
        make_batch([make_sample(make_schema(), tables=((("eth0", *range(8)),),), cpu_usage_ns=2**63 - 1)], first_row=7),
        make_container(3, name="naïve ☃", row=8),
        make_schema(),
        Event(START_MS, "oom", 3, {"pid": 7}, 9),
        Gap(SOURCE, 1, 2, "stall", row=10),
        End(3, START_MS, 11),
    ],
    ids=lambda r: type(r).__name__,
)
def test_a_record_comes_back_as_it_was(path: Path, record: Record) -> None:
    box = opened(path)
    box.append([letter_of(record, "s", "why", START_MS)])
    box.close()
    [found] = opened(path).letters()
    assert found.as_record() == record
    assert (found.sink, found.reason, found.refused_ms) == ("s", "why", START_MS)


def test_letters_from_the_cursor_on_are_forgotten(path: Path) -> None:
    box = opened(path)
    box.append([letter(n) for n in (5, 6, 7, 8)])
    box.close()
    again = opened(path, before_row=7)
    assert again.live == 2
    assert [x.row for x in again.letters()] == [5, 6]


def test_a_torn_line_hides_neither_its_neighbours_nor_what_comes(path: Path) -> None:
    box = opened(path)
    box.append([letter(5), letter(6)])
    box.close()
    path.write_bytes(path.read_bytes()[:-20])
    again = opened(path)
    assert again.live == 1
    again.append([letter(7)])
    assert [x.row for x in again.letters()] == [5, 7]


def test_the_bound_holds_and_is_told(path: Path) -> None:
    box = opened(path, limit_bytes=3000)
    assert 0 < box.append([letter(n) for n in range(10)]) < 10
    assert box.append([letter(99)]) == 0
    assert path.stat().st_size <= 3000


def test_removed_letters_are_counted_across_restarts(path: Path) -> None:
    box = opened(path)
    box.append([letter(n) for n in range(5, 10)])
    box.remove({5, 6}, replayed=True)
    box.remove({9}, replayed=False)
    box.append([letter(11)])
    box.close()
    again = opened(path)
    assert (again.live, again.replayed, again.discarded) == (3, 2, 1)
    assert [x.row for x in again.letters()] == [7, 8, 11]


def test_files_are_for_their_user_alone(path: Path) -> None:
    box = opened(path)
    box.append([letter(5), letter(6)])
    assert path.stat().st_mode & 0o777 == 0o600
    box.remove({5}, replayed=False)
    assert path.stat().st_mode & 0o777 == 0o600

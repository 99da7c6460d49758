"""Dead letters on disk: bounded, whole after a torn write, forgotten beyond the cursor."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import need

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


def fail_once(call: Callable[..., Any], number: int) -> Callable[..., Any]:
    """The call, which fails the first time."""
    failures = [number]

    def failing(*args: Any) -> Any:
        if failures:
            raise OSError(failures.pop(), "as if")
        return call(*args)

    return failing


@pytest.mark.parametrize(("name", "number"), [("fdatasync", errno.ENOSPC), ("fdatasync", errno.EIO), ("open", errno.ENOSPC)])
def test_letters_that_cannot_be_removed_stay_and_are_not_counted(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    box = opened(path)
    box.append([letter(n) for n in range(5, 10)])
    for replayed in (True, False):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, fail_once(getattr(os, name), number))
            with pytest.raises(OSError, match="as if"):
                box.remove({5, 6}, replayed=replayed)
        assert (box.live, box.replayed, box.discarded) == (5, 0, 0)
        assert list(path.parent.iterdir()) == [path]
    box.append([letter(10)])
    box.remove({5, 6}, replayed=True)
    assert (box.live, box.replayed, box.discarded) == (4, 2, 0)
    box.close()
    again = opened(path)
    assert (again.live, again.replayed, again.discarded) == (4, 2, 0)
    assert [x.row for x in again.letters()] == [7, 8, 9, 10]


def test_letters_are_synced_although_a_removal_failed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = opened(path)
    box.append([letter(5)])
    synced: list[int] = []
    monkeypatch.setattr(os, "open", fail_once(os.open, errno.ENOSPC))
    with pytest.raises(OSError, match="as if"):
        box.remove({5}, replayed=True)
    monkeypatch.setattr(os, "fdatasync", synced.append)
    box.sync()
    assert len(synced) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    need(os.geteuid() == 0, "root, to mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.integration
def test_a_disk_that_is_full_changes_no_count(small_disk: Path) -> None:
    path = small_disk / "s.dead-letters"
    box = opened(path)
    box.append([letter(n) for n in range(5, 10)])
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            box.remove({5, 6}, replayed=True)
        assert (box.live, box.replayed) == (5, 0)
    assert {p.name for p in small_disk.iterdir()} == {"filler", path.name}
    filler.unlink()
    box.remove({5, 6}, replayed=True)
    box.close()
    again = opened(path)
    assert (again.live, again.replayed, [x.row for x in again.letters()]) == (3, 2, [7, 8, 9])

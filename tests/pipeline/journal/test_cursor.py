"""The two-slot record: whatever happens to one writing, the record before it stands."""

import os
import random
from pathlib import Path

import pytest

from tidegauge.pipeline.errors import JournalError
from tidegauge.pipeline.journal import MAX_PAYLOAD, CursorFile
from tidegauge.pipeline.journal.cursor import SLOT_BYTES


def test_no_file_is_no_record(tmp_path: Path) -> None:
    assert CursorFile(tmp_path / "c").load() is None


def test_the_newest_record_is_read_by_another_and_after_a_restart(tmp_path: Path) -> None:
    cursor = CursorFile(tmp_path / "c")
    other = CursorFile(tmp_path / "c")
    for i in range(5):
        cursor.store(b"record %d" % i, sync=i % 2 == 0)
        assert other.load() == b"record %d" % i
    cursor.close()
    cursor.close()
    again = CursorFile(tmp_path / "c")
    again.store(b"later")
    again.close()
    assert other.load() == b"later"
    assert (tmp_path / "c").stat().st_size == 2 * SLOT_BYTES
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o600


def test_a_full_slot_fits_and_more_does_not(tmp_path: Path) -> None:
    cursor = CursorFile(tmp_path / "c")
    cursor.store(b"x" * MAX_PAYLOAD)
    cursor.store(b"y" * MAX_PAYLOAD)
    assert cursor.load() == b"y" * MAX_PAYLOAD
    with pytest.raises(JournalError):
        cursor.store(b"z" * (MAX_PAYLOAD + 1))
    assert cursor.load() == b"y" * MAX_PAYLOAD
    cursor.close()


def test_a_torn_write_leaves_the_record_before_it(tmp_path: Path) -> None:
    """The bytes of a writing reach the disk in any number, from the front or by sectors; all that is not whole is ignored."""
    path = tmp_path / "c"
    cursor = CursorFile(path)
    cursor.store(os.urandom(3000))
    cursor.store(old := os.urandom(3000))
    before = path.read_bytes()
    cursor.store(new := os.urandom(3000))
    after = path.read_bytes()
    cursor.close()
    rng = random.Random(1)
    for _ in range(300):
        torn = bytearray(before)
        if rng.random() < 0.5:
            cut = rng.randrange(len(after))
            torn[:cut] = after[:cut]
        else:
            for at in range(0, len(after), 512):
                if rng.random() < 0.5:
                    torn[at : at + 512] = after[at : at + 512]
        path.write_bytes(torn)
        assert CursorFile(path).load() == (new if torn == after else old)
        again = CursorFile(path)
        again.store(b"next")
        again.close()
        assert CursorFile(path).load() == b"next"


def test_a_flipped_bit_or_a_cut_costs_one_record_at_most(tmp_path: Path) -> None:
    path = tmp_path / "c"
    cursor = CursorFile(path)
    cursor.store(b"one")
    cursor.store(b"two")
    cursor.close()
    whole = path.read_bytes()
    rng = random.Random(2)
    for _ in range(300):
        hurt = bytearray(whole)
        if rng.random() < 0.8:
            hurt[rng.choice([rng.randrange(40), SLOT_BYTES + rng.randrange(40)])] ^= 1 << rng.randrange(8)
        else:
            del hurt[rng.randrange(1, len(hurt)) :]
        path.write_bytes(hurt)
        assert CursorFile(path).load() in (b"one", b"two", None if len(hurt) < SLOT_BYTES + 30 else b"one")
        again = CursorFile(path)
        again.store(b"next")
        again.close()
        assert CursorFile(path).load() == b"next"


def test_a_refused_write_keeps_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cursor = CursorFile(tmp_path / "c")
    cursor.store(b"one")
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:9], at))
    for _ in range(3):
        with pytest.raises(OSError):
            cursor.store(b"two")
        assert cursor.load() == b"one"
    monkeypatch.undo()
    cursor.store(b"three")
    assert cursor.load() == b"three"
    cursor.close()

"""Writer and reader in two processes: killed at any moment, and overwriting what is just being read."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.pipeline.journal import writer_process
from tests.pipeline.journal.log import SMALL
from tests.pipeline.journal.writer_process import ROW, TOLD

from tidegauge.pipeline.journal import CursorFile, Frame, JournalReader, JournalWriter, RowGone, verify


@contextmanager
def writing(folder: Path, count: int, has_syncs: bool) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, writer_process.__file__, str(folder), str(count), "1" if has_syncs else "0"], stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class Oracle:
    """Reads what it is told of and checks each row against its place in the account."""

    def __init__(self, folder: Path) -> None:
        self.reader = JournalReader(folder, 0, 0)
        self.read = 0
        self.lost: dict[str, int] = {}
        self.last_row = -1

    def take(self, end_row: int) -> None:
        while True:
            before = self.reader.accepted_before
            try:
                frames = self.reader.read(end_row, 4000)
            except RowGone as gone:
                self.lost[gone.reason] = self.lost.get(gone.reason, 0) + gone.lost_rows
                continue
            if not frames:
                return
            for frame in frames:
                if not frame.is_copy:
                    self.check(frame, before)
                    before += frame.rows

    def check(self, frame: Frame, accepted: int) -> None:
        assert frame.payload[: frame.rows * ROW.size] == writer_process.payload(accepted, frame.rows, 0)
        assert set(frame.payload[frame.rows * ROW.size :]) <= {accepted % 256}
        assert frame.first_row > self.last_row
        self.last_row = frame.end_row - 1
        self.read += frame.rows


def test_killed_at_any_moment_nothing_is_lost_or_read_twice(tmp_path: Path) -> None:
    rng = random.Random(3)
    folder = tmp_path / "journal"
    oracle = Oracle(folder)
    cursor = CursorFile(tmp_path / "cursor")
    cursor.store(ROW.pack(0))
    told = (0, 0)
    for _ in range(12):
        with writing(folder, 1 << 30, True) as process:
            assert process.stdout is not None
            for _ in range(rng.randrange(1, 150)):
                told = TOLD.unpack(process.stdout.read(TOLD.size))
                if rng.random() < 0.5:
                    oracle.take(told[0])
                    cursor.store(ROW.pack(oracle.reader.row), sync=False)
            process.kill()
            rest = process.stdout.read()
            if len(rest) >= TOLD.size:
                told = TOLD.unpack_from(rest, len(rest) // TOLD.size * TOLD.size - TOLD.size)
        oracle.take(told[0])
        assert oracle.read == oracle.reader.accepted_before == told[1]
    writer = JournalWriter(folder, SMALL, list)
    start = writer.open()
    assert 0 <= start.accepted - told[1] <= 5  # one frame may have been written and not told
    oracle.take(start.first_row)
    assert oracle.read == start.accepted
    assert oracle.lost == {}
    assert verify(folder).is_whole
    writer.close()
    cursor.close()


def test_a_reader_that_is_overtaken_loses_rows_but_never_gets_wrong_ones(tmp_path: Path) -> None:
    """Nobody is needed, so the writer goes round and round on three files while the reader is in them."""
    folder = tmp_path / "journal"
    oracle = Oracle(folder)
    with writing(folder, 20_000, False) as process:
        assert process.stdout is not None
        left, told = b"", (0, 0)
        while some := os.read(process.stdout.fileno(), 4096):
            left += some
            whole = len(left) // TOLD.size * TOLD.size
            if whole:
                told = TOLD.unpack_from(left, whole - TOLD.size)
                left = left[whole:]
                oracle.take(told[0])
        assert process.wait() == 0
    oracle.take(told[0])
    assert told[1] == sum(1 + i % 5 for i in range(20_000))
    assert set(oracle.lost) == {"bound"}
    assert oracle.read + oracle.lost["bound"] == told[1]
    assert oracle.read > 1000

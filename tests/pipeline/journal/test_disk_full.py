"""A file system that is really full."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.pipeline.journal.log import Model, drain, put, samples
from tests.support import need

from tidegauge.pipeline.errors import JournalError
from tidegauge.pipeline.journal import JournalConfig, JournalReader, JournalWriter, first_row, verify

pytestmark = pytest.mark.integration
CONFIG = JournalConfig(segment_bytes=65536, keep_age_s=0, keep_bytes=0)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    need(os.geteuid() == 0, "root, to mount a small file system")
    where = tmp_path / "small"
    where.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(where)], check=False, capture_output=True)
    need(done.returncode == 0, f"mount: {done.stderr.decode().strip()}")
    try:
        yield where
    finally:
        # Lazily: a failed test may have left a file open, and a mount that stays is in the way of every later run.
        subprocess.run(["umount", "--lazy", str(where)], check=True)


def fill(path: Path) -> None:
    """Takes every byte that is left."""
    with path.open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            with pytest.raises(OSError, match="No space left"):
                while True:
                    file.write(bytes(size))


def test_the_log_goes_on_and_counts_what_it_overwrote(small: Path) -> None:
    model = Model()
    writer = JournalWriter(small / "journal", CONFIG, model.heads)
    writer.open()

    def batches(count: int) -> None:
        for i in range(count):
            put(writer, model, 3, samples(model.live, bytes([i % 256]) * 8000), 10, i)
        writer.sync()

    batches(40)
    before = writer.stats()
    assert before.overwritten_unread_segments == 0
    fill(small / "filler")
    batches(100)
    full = writer.stats()
    assert full.segments == before.segments
    assert full.overwritten_unread_segments > 5
    assert full.append_errors == full.sync_errors == 0
    assert writer.synced_row == writer.appended_row
    oldest = first_row(small / "journal")
    reader = JournalReader(small / "journal", 0, 0)
    frames, losses = drain(reader, writer.appended_row)
    reader.close()
    assert losses == [(oldest.row, full.overwritten_unread_rows, "disk_full")]
    assert [f for f in frames if not f.is_copy] == [f for f in model.frames if f.first_row >= oldest.row]
    writer.close()

    # A start on the full disk, which needs no space either.
    writer = JournalWriter(small / "journal", CONFIG, model.heads)
    assert writer.open().accepted == len(model.rows)
    batches(20)
    (small / "filler").unlink()
    batches(20)
    assert writer.stats().segments > before.segments
    assert verify(small / "journal").is_whole
    writer.close()


def test_without_room_for_two_segments_there_is_no_start_until_there_is(small: Path) -> None:
    fill(small / "filler")
    with pytest.raises(JournalError, match="No space left"):
        JournalWriter(small / "journal", CONFIG, list).open()
    (small / "filler").unlink()
    writer = JournalWriter(small / "journal", CONFIG, list)
    writer.open()
    fill(small / "filler")
    for i in range(50):
        writer.append(3, bytes(8000), 1, i)
    assert writer.stats().segments == 2
    writer.close()

"""Flipped bits, cuts and holes at hundreds of places: a start is never refused, and what is lost is known to the row."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.pipeline.journal.log import SMALL, Model, drain, filled, put, samples

from tidegauge.pipeline.journal import JournalReader, JournalWriter, Position, verify
from tidegauge.pipeline.journal.layout import DATA_START, IS_COPY
from tidegauge.pipeline.journal.segments import END_FILE, SegmentReader, list_segments

Place = tuple[str, int, int, int]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model, list[Place]]:
    """A journal of ten segments and two starts; where each frame lies: (file, from, to, rows)."""
    folder = tmp_path_factory.mktemp("whole")
    writer, model = filled(folder, 60)
    writer.close()
    writer = JournalWriter(folder, SMALL, model.heads)
    writer.open()
    for i in range(50):
        put(writer, model, 3, samples(model.live, b"\xf7\x1dTG" * 50), 2, 100 + i)
    writer.close()
    places = []
    for segment in list_segments(folder).segments:
        reader = SegmentReader(segment.path)
        for f in reader.frames():
            places.append((segment.path.name, f.at, f.end, 0 if f.header.flags & IS_COPY else f.header.rows))
        reader.close()
    assert len({p[0] for p in places}) >= 8
    return folder, model, places


def hurt_and_check(
    whole: tuple[Path, Model, list[Place]], folder: Path, name: str, hurt: Callable[[bytearray], tuple[int, int]]
) -> int:
    """Damages a copy of the journal, starts on it, goes on, reads all; returns the rows lost."""
    origin, model, places = whole
    shutil.copytree(origin, folder)
    content = bytearray((folder / name).read_bytes())
    start, end = hurt(content)
    (folder / name).write_bytes(content)
    lost_at_most = sum(rows for n, at, to, rows in places if n == name and at < end and to > start)

    writer = JournalWriter(folder, SMALL, list)
    state = writer.open()
    assert state.first_row > max(model.rows)
    assert state.accepted == len(model.rows)
    for _ in range(3):
        writer.append(3, b"later", 4, 999)
    reader = JournalReader(folder, 0, 0)
    frames, losses = drain(reader, writer.appended_row, 2000)
    kept = [f for f in frames if not f.is_copy]
    assert [f.payload for f in kept[-3:]] == [b"later"] * 3
    left = {f.first_row: f for f in model.frames}
    assert all(left[f.first_row] == f for f in kept[:-3])
    assert [f.first_row for f in kept] == sorted({f.first_row for f in kept})
    lost = sum(loss.rows for loss in losses)
    assert lost == len(model.rows) - sum(f.rows for f in kept[:-3])
    assert lost <= lost_at_most
    assert {loss.reason for loss in losses} <= {"damage"}
    assert reader.accepted_before == writer.accepted == len(model.rows) + 12
    report = verify(folder)
    assert report.accepted == writer.accepted
    assert report.lost_rows == lost or report.segments[0].first_row > model.rows[0]
    writer.close()
    reader.close()
    shutil.rmtree(folder)
    return lost


def names(whole: tuple[Path, Model, list[Place]]) -> list[str]:
    return sorted({p[0] for p in whole[2]})


def test_flipped_bits(whole: tuple[Path, Model, list[Place]], tmp_path: Path) -> None:
    rng = random.Random(11)
    lossy = 0
    for i in range(250):
        name = rng.choice([*names(whole), END_FILE])
        at = rng.choice([rng.randrange(4096), rng.randrange(DATA_START + 200)])

        def flip(content: bytearray, at: int = at) -> tuple[int, int]:
            content[at] ^= 1 << rng.randrange(8)
            return at, at + 1

        lossy += hurt_and_check(whole, tmp_path / str(i), name, flip) > 0
    assert lossy > 50


def test_holes(whole: tuple[Path, Model, list[Place]], tmp_path: Path) -> None:
    """Sectors that hold zeros, or something else: lost on the way to the disk, or overwritten."""
    rng = random.Random(12)
    for i in range(100):
        size = rng.choice([512, 1024, 2048])
        at = rng.randrange(DATA_START, 4096 - size, 256)
        filler = rng.choice([bytes(size), rng.randbytes(size)])

        def overwrite(content: bytearray, at: int = at, filler: bytes = filler) -> tuple[int, int]:
            content[at : at + len(filler)] = filler
            return at, at + len(filler)

        hurt_and_check(whole, tmp_path / str(i), rng.choice(names(whole)), overwrite)


def test_cuts(whole: tuple[Path, Model, list[Place]], tmp_path: Path) -> None:
    rng = random.Random(13)
    for i in range(100):
        at = rng.choice([rng.randrange(4096), rng.randrange(600, 1200)])

        def cut(content: bytearray, at: int = at) -> tuple[int, int]:
            del content[at:]
            # Less than one header copy: the whole segment is lost.
            return (0 if at < 512 else at), 1 << 30

        hurt_and_check(whole, tmp_path / str(i), rng.choice(names(whole)), cut)


def test_a_segment_without_any_header_is_lost_alone(whole: tuple[Path, Model, list[Place]], tmp_path: Path) -> None:
    def wipe(content: bytearray) -> tuple[int, int]:
        content[:DATA_START] = b"\xa5" * DATA_START
        return 0, 1 << 30

    for i, name in enumerate(names(whole)):
        lost = hurt_and_check(whole, tmp_path / str(i), name, wipe)
        assert lost == sum(rows for n, _, _, rows in whole[2] if n == name)


def test_everything_destroyed_still_starts_and_counts_on(whole: tuple[Path, Model, list[Place]], tmp_path: Path) -> None:
    origin, model, _ = whole
    folder = tmp_path / "all"
    shutil.copytree(origin, folder)
    for path in folder.glob("segment-*"):
        path.write_bytes(b"\xff" * 5000)
    report = verify(folder)
    assert len(report.broken) == len(names(whole))
    writer = JournalWriter(folder, SMALL, list)
    start = writer.open()
    assert start.first_row > max(model.rows)
    assert start.accepted == start.lost_rows == len(model.rows)
    assert start.damaged == len(report.broken)
    writer.append(3, b"later", 1, 0)
    frames, losses = drain(JournalReader(folder, model.rows[10], 10), writer.appended_row)
    assert [f.payload for f in frames] == [b"later"]
    assert [(loss.rows, loss.reason) for loss in losses] == [(len(model.rows) - 10, "damage")]
    writer.close()


def test_an_emptied_folder_goes_on_behind_its_cursors(whole: tuple[Path, Model, list[Place]], tmp_path: Path) -> None:
    _, model, _ = whole
    cursor = JournalReader(whole[0], model.rows[-1])
    writer = JournalWriter(tmp_path / "new", SMALL, list)
    start = writer.open(Position(cursor.row, cursor.accepted_before))
    assert start.first_row > model.rows[-1]
    assert start.accepted == len(model.rows) - 1
    writer.close()
    cursor.close()


def test_a_frame_in_a_payload_is_not_taken_for_one(tmp_path: Path) -> None:
    """A copy of a whole segment inside payloads: marks and checksums all right, but for the use number."""
    writer, _ = filled(tmp_path / "a", 60)
    writer.close()
    inner = (tmp_path / "a" / "segment-000003").read_bytes()[DATA_START:][:2400]
    model = Model()
    writer = JournalWriter(tmp_path / "b", SMALL, model.heads)
    writer.open()
    for _ in range(4):
        put(writer, model, 3, inner, 2)
    writer.sync()
    path = tmp_path / "b" / "segment-000002"
    content = bytearray(path.read_bytes())
    at = content.index(b"\xf7\x1dTG", DATA_START + 60)
    content[at + 20] ^= 1
    path.write_bytes(content)
    frames, losses = drain(JournalReader(tmp_path / "b", 0, 0), writer.appended_row)
    assert [f for f in frames if not f.is_copy] == [model.frames[0], *model.frames[2:]]
    assert sum(loss.rows for loss in losses) == 2
    writer.close()

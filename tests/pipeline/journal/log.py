"""A plain model of the journal that the tests compare with: a list of what was accepted, and who knows what where."""

import os
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tidegauge.pipeline.journal import Frame, JournalConfig, JournalReader, JournalWriter, RowGone
from tidegauge.pipeline.records import RecordType

SMALL = JournalConfig(segment_bytes=4096, keep_age_s=0, keep_bytes=0, sync_interval_s=1e9)


class Loss(NamedTuple):
    first_row: int
    rows: int
    reason: str


class Model:
    """What was accepted, in order; the containers that live, with the version of their record; one entry a row."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.rows: list[int] = []
        self.live: dict[int, int] = {}

    def heads(self) -> Iterable[tuple[int, bytes]]:
        yield RecordType.SCHEMA, b"schema"
        for number, version in self.live.items():
            yield RecordType.CONTAINER, container(number, version)

    def add(self, frame: Frame) -> None:
        self.frames.append(frame)
        self.rows += range(frame.first_row, frame.end_row)
        learn(self.live, frame)

    def accepted_before(self, row: int) -> int:
        return bisect_left(self.rows, row)


def container(number: int, version: int) -> bytes:
    return f"{number} {version} ".encode()


def samples(live: dict[int, int], filler: bytes = b"") -> bytes:
    """A payload that says what its reader must know by then."""
    return " ".join(f"{n}={v}" for n, v in sorted(live.items())).encode() + b"|" + filler


def learn(live: dict[int, int], frame: Frame) -> None:
    if frame.type == RecordType.CONTAINER:
        number, version = frame.payload.split()[:2]
        live[int(number)] = int(version)
    elif frame.type == RecordType.END:
        live.pop(int(frame.payload), None)


def put(writer: JournalWriter, model: Model, type_: int, payload: bytes, rows: int = 1, time_ms: int = 0) -> Frame:
    """Appends to both."""
    first_row = writer.append(type_, payload, rows, time_ms)
    frame = Frame(type_, first_row, rows, time_ms, payload, False)
    model.add(frame)
    return frame


def abandon(writer: JournalWriter) -> None:
    """Leaves the files as a killed process does."""
    for fd in (writer._fd, writer._lock_fd, writer._end._fd):
        if fd >= 0:
            os.close(fd)
    writer._fd = writer._lock_fd = writer._end._fd = -1


def drain(reader: JournalReader, end_row: int, max_bytes: int = 1 << 20) -> tuple[list[Frame], list[Loss]]:
    """Everything up to the row, copies included, and what was said to be lost."""
    frames: list[Frame] = []
    losses: list[Loss] = []
    while True:
        try:
            some = reader.read(end_row, max_bytes)
        except RowGone as exc:
            losses.append(Loss(exc.first_row, exc.lost_rows, exc.reason))
            continue
        if not some:
            return frames, losses
        frames += some


def filled(folder: Path, count: int, config: JournalConfig = SMALL, filler: int = 200) -> tuple[JournalWriter, Model]:
    """A journal of `count` sample frames of three rows with a container record now and then."""
    model = Model()
    writer = JournalWriter(folder, config, model.heads)
    writer.open()
    for i in range(count):
        if i % 7 == 0:
            put(writer, model, RecordType.CONTAINER, container(i % 5, i), 1, i)
        put(writer, model, RecordType.SAMPLES, samples(model.live, bytes([i % 251]) * filler), 3, i)
    return writer, model

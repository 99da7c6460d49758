"""Rows that a sink refused for good, kept in a bounded file until somebody replays or discards them.

One file a sink, of lines `CRC ROW JSON`; the first line, `CRC # JSON`, counts what was replayed and discarded. A letter
stands alone: it bears its schema and its container. A line that is torn or damaged is passed over.
"""

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from tidegauge.pipeline.records import Batch, Container, End, Event, Gap, Record, Sample, Schema, WireRecord

_KINDS: dict[str, type] = {c.__name__: c for c in (Schema, Container, Event, Gap, End)}


class _Head(msgspec.Struct, frozen=True):
    replayed: int = 0
    discarded: int = 0


class Letter(msgspec.Struct, frozen=True):
    """One refused row."""

    row: int
    sink: str
    reason: str
    refused_ms: int
    kind: str
    """`Sample` or the name of another record type."""
    record: msgspec.Raw
    schema: Schema | None = None
    container: Container | None = None

    def as_record(self) -> Record:
        """What the sink was given. msgspec.DecodeError if a later version wrote it in another way."""
        if self.kind == "Sample":
            sample = msgspec.json.decode(self.record, type=Sample)
            schemas = {} if self.schema is None else {self.schema.id: self.schema}
            containers = {} if self.container is None else {self.container.number: self.container}
            return Batch((sample,), (self.row,), schemas, containers)
        if self.kind not in _KINDS:
            raise msgspec.ValidationError(f"dead letter {self.row}: unknown kind {self.kind}")
        record: WireRecord = msgspec.json.decode(self.record, type=_KINDS[self.kind])
        return record

    def for_people(self) -> dict[str, Any]:
        """What is shown of it: id (the row number), reason, time, and the record where it can be read."""
        out: dict[str, Any] = {"id": self.row, "sink": self.sink, "kind": self.kind, "reason": self.reason}
        out["refused_ms"] = self.refused_ms
        try:
            record = self.as_record()
        except msgspec.DecodeError:
            return out
        if not isinstance(record, Batch):
            out["record"] = msgspec.structs.asdict(record)
        elif record.schemas:
            out["record"] = next(record.as_dicts())
        return out


def letter_of(record: Record, sink: str, reason: str, refused_ms: int) -> Letter:
    """A letter of a record that holds one row."""
    if not isinstance(record, Batch):
        return Letter(record.row, sink, reason, refused_ms, type(record).__name__, msgspec.Raw(msgspec.json.encode(record)))
    [sample], [row] = record.samples, record.rows
    body = msgspec.Raw(msgspec.json.encode(sample))
    schema, container = record.schemas.get(sample.schema), record.containers.get(sample.container)
    return Letter(row, sink, reason, refused_ms, "Sample", body, schema, container)


class DeadLetters:
    """The dead letters of one sink. One thread, its runner's; the counts may be read by any."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._fd = -1
        self._is_dirty = False
        self._size = 0
        self.live = 0
        """Letters in the file."""
        self.replayed = 0
        self.discarded = 0

    def open(self, before_row: int) -> None:
        """Reads what there is. Letters from `before_row` on are forgotten: their rows will be delivered, and refused, again."""
        head = _Head()
        size = kept = total = 0
        for tag, body in self._lines():
            total += 1
            if tag == b"#":
                head = msgspec.json.decode(body, type=_Head)
            elif int(tag) < before_row:
                kept += 1
        self.replayed, self.discarded, self.live = head.replayed, head.discarded, kept
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            return
        if size and (total != kept + 1 or not self._ends_whole()):
            self._rewrite(head, lambda row: row < before_row)
        else:
            self._size = size

    def set_aside(self) -> None:
        """Renames the file, if there is one: its rows stand in an account that is no more."""
        self.close()
        if self._path.exists():
            self._path.replace(self._path.with_name(self._path.name + ".old"))
        self._size = self.live = self.replayed = self.discarded = 0

    def append(self, letters: list[Letter]) -> int:
        """Writes the letters, in order, and returns how many found room. On the disk after `sync`. OSError: none was kept."""
        lines = []
        size = self._size
        if not size:
            lines.append(_line(b"#", msgspec.json.encode(_Head(self.replayed, self.discarded))))
            size = len(lines[0])
        taken = 0
        for letter in letters:
            line = _line(str(letter.row).encode(), msgspec.json.encode(letter))
            if size + len(line) > self._limit_bytes:
                break
            lines.append(line)
            size += len(line)
            taken += 1
        if not taken:
            return 0
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_all(self._fd, b"".join(lines))
        except OSError:
            # A torn tail would hide the next letter: the file ends where it ended before.
            os.ftruncate(self._fd, self._size)
            raise
        self._size = size
        self.live += taken
        self._is_dirty = True
        return taken

    def sync(self) -> None:
        """Puts on the disk what was written: before the cursor moves beyond it, since until then the rows come again."""
        if self._is_dirty and self._fd >= 0:
            os.fdatasync(self._fd)
        self._is_dirty = False

    def rows(self) -> set[int]:
        """Rows of all letters, those that cannot be read included."""
        return {int(tag) for tag, _ in self._lines() if tag != b"#"}

    def letters(self) -> Iterator[Letter]:
        """Every letter that can be read, oldest first."""
        for tag, body in self._lines():
            if tag != b"#":
                try:
                    yield msgspec.json.decode(body, type=Letter)
                except msgspec.DecodeError:
                    continue

    def remove(self, rows: set[int], *, replayed: bool) -> None:
        """Takes letters out, and counts them as replayed or discarded, in one step on the disk. OSError: nothing changed."""
        taken = len(rows)
        head = _Head(self.replayed + taken, self.discarded) if replayed else _Head(self.replayed, self.discarded + taken)
        self._rewrite(head, lambda row: row not in rows)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _lines(self) -> Iterator[tuple[bytes, bytes]]:
        """(row or `#`, JSON) of every whole line."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            for line in file:
                crc, _, rest = line.rstrip(b"\n").partition(b" ")
                tag, _, body = rest.partition(b" ")
                if line.endswith(b"\n") and crc == b"%08x" % zlib.crc32(rest) and (tag == b"#" or tag.isdigit()):
                    yield tag, body

    def _ends_whole(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def _rewrite(self, head: _Head, keeps: Callable[[int], bool]) -> None:
        """Puts another file in place, and takes over its counts when it is there. OSError: the old one stands."""
        fresh = self._path.with_name(self._path.name + ".new")
        live = 0
        try:
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(_line(b"#", msgspec.json.encode(head)))
                for tag, body in self._lines():
                    if tag != b"#" and keeps(int(tag)):
                        file.write(_line(tag, body))
                        live += 1
                file.flush()
                os.fdatasync(file.fileno())
                size = file.tell()
            fresh.replace(self._path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        self.close()
        self._is_dirty = False
        self._size, self.live, self.replayed, self.discarded = size, live, head.replayed, head.discarded
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _line(tag: bytes, body: bytes) -> bytes:
    rest = tag + b" " + body
    return b"%08x %s\n" % (zlib.crc32(rest), rest)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

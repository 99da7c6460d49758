"""A small record that survives a crash at any moment: two slots in a preallocated file, written in turn."""

import os
import struct
import zlib
from pathlib import Path

from tidegauge.pipeline.errors import JournalError
from tidegauge.pipeline.journal.files import allocate, sync_folder

SLOT_BYTES = 16 << 10
_MAGIC = b"TGcu"
_SLOT = struct.Struct("<4sIQI")
_CRC_FROM = 8
MAX_PAYLOAD = SLOT_BYTES - _SLOT.size
_RETRIES = 8


class CursorFile:
    """Holds one opaque record. One process stores, any may load meanwhile; an instance belongs to one thread."""

    def __init__(self, path: Path, mode: int = 0o600) -> None:
        self._path = path
        self._mode = mode
        self._fd = -1
        self._sequence = 0

    def load(self) -> bytes | None:
        """The newest whole record; None if there is none (no file, or both slots are damaged)."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return _newest(fd)[1]
        finally:
            os.close(fd)

    def store(self, payload: bytes, sync: bool = True) -> None:
        """Replaces the record. With `sync` it is on the disk when this returns; otherwise it survives a killed process.

        OSError leaves the record before it in place. JournalError: more than MAX_PAYLOAD bytes.
        """
        if len(payload) > MAX_PAYLOAD:
            raise JournalError(f"{self._path}: a record of {len(payload)} bytes exceeds {MAX_PAYLOAD}")
        if self._fd < 0:
            self._open()
        sequence = self._sequence + 1
        body = _SLOT.pack(_MAGIC, 0, sequence, len(payload))[_CRC_FROM:] + payload
        slot = _MAGIC + zlib.crc32(body).to_bytes(4, "little") + body
        if os.pwrite(self._fd, slot, sequence % 2 * SLOT_BYTES) != len(slot):
            raise OSError(f"{self._path}: short write")
        # Only a whole write moves on: after a failed one the next goes to the same slot and the good one stays.
        self._sequence = sequence
        if sync:
            os.fdatasync(self._fd)

    def fileno(self) -> int:
        """Descriptor of the file; -1 before the first `store` and after `close`."""
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        is_new = not self._path.exists()
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, self._mode)
        try:
            self._sequence = _newest(fd)[0]
            if os.fstat(fd).st_size < 2 * SLOT_BYTES:
                allocate(fd, 2 * SLOT_BYTES)
            if is_new:
                os.fchmod(fd, self._mode)
                os.fsync(fd)
                sync_folder(self._path.parent)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd


def _newest(fd: int) -> tuple[int, bytes | None]:
    """Sequence number and payload of the newest whole slot; (0, None) if there is none.

    A slot that is just being written reads as damaged, and by the time that the other is read it may be its turn: hence
    the repetition.
    """
    for _ in range(_RETRIES):
        slots = [_parse(os.pread(fd, SLOT_BYTES, at)) for at in (0, SLOT_BYTES)]
        whole = [s for s in slots if s is not None]
        if whole:
            return max(whole)
    return 0, None


def _parse(slot: bytes) -> tuple[int, bytes] | None:
    if len(slot) < _SLOT.size:
        return None
    magic, crc, sequence, length = _SLOT.unpack_from(slot)
    if magic != _MAGIC or length > len(slot) - _SLOT.size or zlib.crc32(slot[_CRC_FROM : _SLOT.size + length]) != crc:
        return None
    return sequence, slot[_SLOT.size : _SLOT.size + length]

"""Files below `/proc` that the readers of the host keep open and read at each sample.

No privileges: all of them are world-readable.
"""

import os
from pathlib import Path

from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.records import MAX_INT

_CHUNK = 65536
_SHOWN = 40
"""Longest word taken for a number, and as much of a wrong one as a message shows."""


class HostFile:
    """One kernel file, opened once. NoData if this kernel has no such file. One thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as exc:
            raise NoData(f"{path} does not exist") from exc
        except OSError as exc:
            raise CollectError(f"open {path}: {exc.strerror}") from exc

    def read(self) -> bytes:
        """The whole file as it is now. Files of several records come in pieces of about a page, so it reads to the end."""
        pieces: list[bytes] = []
        offset = 0
        try:
            while piece := os.pread(self._fd, _CHUNK, offset):
                pieces.append(piece)
                offset += len(piece)
        except OSError as exc:
            raise CollectError(f"read {self.path}: {exc.strerror}") from exc
        return b"".join(pieces)

    def close(self) -> None:
        """Safe twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def number(word: bytes, where: str, scale: int = 1) -> int:
    """A decimal number of a kernel file times `scale`. CollectError, naming `where`, if it is none or exceeds 63 bit."""
    if not word.isdigit():
        raise CollectError(f"{where}: expected a number, got {word[:_SHOWN]!r}")
    if len(word) > _SHOWN or (value := int(word) * scale) > MAX_INT:
        raise CollectError(f"{where}: {word[:_SHOWN]!r} does not fit 64 bit")
    return value


def decimal(word: bytes, where: str) -> float:
    """A non-negative decimal fraction such as `0.42`. CollectError, naming `where`, if it is none."""
    whole, _, fraction = word.partition(b".")
    if not (whole.isdigit() and (fraction.isdigit() or not fraction)) or len(word) > _SHOWN:
        raise CollectError(f"{where}: expected a decimal fraction, got {word[:_SHOWN]!r}")
    return float(word)

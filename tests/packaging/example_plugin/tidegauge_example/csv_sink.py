"""Appends samples to a CSV file, one line a value. Needs the right to write there."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tidegauge.pipeline.errors import RetryableError
from tidegauge.pipeline.records import Batch, Record


class CsvConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: Path = Path("tidegauge.csv")


class CsvSink:
    """Columns: instance, epoch, time in ms, 1 for a closing sample, path, metric, value. Instance tables are left out.

    Not idempotent: a repeat appends again.
    """

    Config = CsvConfig
    takes = (Batch,)

    def __init__(self, config: CsvConfig) -> None:
        self._path = config.path
        self._file: io.FileIO | None = None

    def open(self) -> None:
        self.close()
        try:
            self._file = self._path.open("ab", buffering=0)
        except OSError as exc:
            raise RetryableError(f"{self._path}: {exc.strerror}") from exc

    def write(self, records: Sequence[Record]) -> None:
        if self._file is None:
            self.open()
        text = io.StringIO()
        lines = csv.writer(text)
        for batch in records:
            assert isinstance(batch, Batch)
            for s in batch.as_dicts():
                key = (s["instance"], s.get("epoch", 0), s["ts_ms"], int(s.get("is_closing", False)), s["container"])
                lines.writerows((*key, name, value) for name, value in s["metrics"].items())
        assert self._file is not None
        end = self._file.seek(0, io.SEEK_END)
        try:
            # an unbuffered write may take a part alone: on a full disk, say
            if self._file.write(data := text.getvalue().encode()) != len(data):
                raise OSError(0, "written in part")
        except OSError as exc:
            self._file.truncate(end)
            raise RetryableError(f"{self._path}: {exc.strerror}") from exc

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

"""A stranger's sink that writes down every row by its number, as slowly as it is told to; and what it wrote."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_PLUGIN = '''
"""Appends each row to a file as a line of JSON. Not idempotent: a repeat is written again, with the same number."""
import json
import time
import msgspec
from tidegauge.pipeline.records import Batch, Container, End, Event, Gap, Schema

class RowsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str = ""
    row_s: float = 0.0

class RowsSink:
    Config = RowsConfig
    takes = (Batch, Schema, Container, Event, Gap, End)
    def __init__(self, config):
        self._config = config
        self._file = None
    def open(self):
        self._file = open(self._config.path, "a")
    def write(self, records):
        lines = []
        for r in records:
            if isinstance(r, Batch):
                number = {id: s.names.index("memory_usage_bytes") for id, s in r.schemas.items()}
                for row, s in zip(r.rows, r.samples):
                    c = r.containers[s.container]
                    lines.append([row, c.path, c.instance, c.epoch, s.ts_ms, s.values[number[s.schema]]])
            elif isinstance(r, Gap):
                lines.append([r.row, "Gap", r.reason, r.rows, r.from_ms, r.to_ms])
            else:
                lines.append([r.row, type(r).__name__])
        time.sleep(self._config.row_s * len(lines))
        self._file.write("".join(json.dumps(line) + "\\\\n" for line in lines))
        self._file.flush()
    def close(self):
        if self._file is not None:
            self._file.close()
'''


def install_row_sink(folder: Path) -> dict[str, str]:
    """Puts the plug-in `rows` where a Python path finds it with its entry point; gives the environment that does so."""
    package = folder / "row_sink"
    info = package / "e2e_rows-1.0.dist-info"
    info.mkdir(parents=True)
    (package / "e2e_rows.py").write_text(_PLUGIN.replace("\\\\n", "\\n"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: e2e-rows\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tidegauge.sinks]\nrows = e2e_rows:RowsSink\n")
    return {"PYTHONPATH": str(package)}


def rows_table(name: str, path: Path, **options: object) -> str:
    """A table of the configuration that runs the plug-in under this name."""
    lines = [f"[sinks.{name}]", 'plugin = "rows"', f'path = "{path}"', "flush_interval_s = 0.1"]
    return "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in options.items())]) + "\n"


class OwnGap(NamedTuple):
    """A gap record about what was lost on the way to this sink."""

    row: int
    reason: str
    rows: int
    from_ms: int
    to_ms: int


class Rows(NamedTuple):
    """What the sink was given."""

    by_row: dict[int, list[Any]]
    """Rows of the log, each once: [row, path, instance, epoch, ts_ms, memory usage] of a sample, else [row, type, ...]."""
    gaps: list[OwnGap]

    @property
    def samples(self) -> dict[int, list[Any]]:
        return {row: line for row, line in self.by_row.items() if str(line[1]).startswith("/")}


def read_rows(path: Path) -> Rows:
    """The file, in which a row that was delivered twice must be the same both times."""
    rows: dict[int, list[Any]] = {}
    gaps: dict[tuple[int, str], OwnGap] = {}
    for text in path.read_text().splitlines():
        line = json.loads(text)
        if line[1] == "Gap" and line[2].startswith("dropped:"):
            gaps[line[0], line[2]] = OwnGap(line[0], line[2].removeprefix("dropped:"), *line[3:])
        else:
            assert rows.setdefault(line[0], line) == line
    return Rows(rows, list(gaps.values()))


def covered(gaps: Iterable[OwnGap], accepted: Sequence[int]) -> set[int]:
    """The rows that these gap records stand for, each a run in the log. No two of them may claim one row."""
    found: set[int] = set()
    for gap in gaps:
        begin = next(i for i, row in enumerate(accepted) if row >= gap.row)
        run = accepted[begin : begin + gap.rows]
        assert len(run) == gap.rows
        assert found.isdisjoint(run)
        found.update(run)
    return found

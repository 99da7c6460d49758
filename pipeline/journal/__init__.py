"""The internal queue on disk: one writer (the sampler process), any number of readers (the server's sink runners).

Segments are preallocated files that are used again; frames in them hold opaque payloads under row numbers that are never
used twice. Readers hold no lock: a frame carries the use of its segment inside its checksum, so one that was overwritten
while it was read is known from a damaged one. The format, and the rules of recycling, durability and recovery, are in
docs/journal.md.
"""

from tidegauge.pipeline.journal.check import JournalInfo, SegmentReport, VerifyReport, info, verify
from tidegauge.pipeline.journal.cursor import MAX_PAYLOAD, CursorFile
from tidegauge.pipeline.journal.layout import BEGINNING, FORMAT_VERSION, Frame, Position
from tidegauge.pipeline.journal.positions import first_row, row_at_time, row_within
from tidegauge.pipeline.journal.reader import JournalReader, RowGone
from tidegauge.pipeline.journal.writer import JournalConfig, JournalStart, JournalStats, JournalWriter

__all__ = [
    "BEGINNING",
    "FORMAT_VERSION",
    "MAX_PAYLOAD",
    "CursorFile",
    "Frame",
    "JournalConfig",
    "JournalInfo",
    "JournalReader",
    "JournalStart",
    "JournalStats",
    "JournalWriter",
    "Position",
    "RowGone",
    "SegmentReport",
    "VerifyReport",
    "first_row",
    "info",
    "row_at_time",
    "row_within",
    "verify",
]

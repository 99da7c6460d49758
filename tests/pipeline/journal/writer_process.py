"""A writer in a process of its own, to be killed: `writer_process.py FOLDER COUNT SYNCS`.

Each row holds the number of rows accepted before it. After each append it writes (appended row, accepted) to stdout; what is
needed it reads from the cursor file beside the folder. SYNCS is 0 to leave out every fdatasync, for speed.
"""

import os
import struct
import sys
from pathlib import Path

from tidegauge.pipeline.journal import CursorFile, JournalConfig, JournalWriter

TOLD = struct.Struct("<QQ")
ROW = struct.Struct("<Q")


def payload(accepted: int, rows: int, filler: int) -> bytes:
    return b"".join(ROW.pack(accepted + i) for i in range(rows)) + bytes([accepted % 256]) * filler


def main(folder: Path, count: int, has_syncs: bool) -> None:
    if not has_syncs:
        os.fdatasync = lambda fd: None  # type: ignore[assignment]
    config = JournalConfig(segment_bytes=8192, keep_age_s=0, keep_bytes=0, sync_interval_s=0.05)
    writer = JournalWriter(folder, config, lambda: [(1, b"schema")])
    writer.open()
    cursor = CursorFile(folder.parent / "cursor")
    for i in range(count):
        if i % 16 == 0:
            needed = cursor.load()
            writer.set_needed(ROW.unpack(needed)[0] if needed else None)
        rows = 1 + i % 5
        writer.append(3, payload(writer.accepted, rows, i * 37 % 600), rows, i)
        os.write(1, TOLD.pack(writer.appended_row, writer.accepted))
    writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1")

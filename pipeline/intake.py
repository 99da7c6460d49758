"""What was read of the log and is not yet delivered: pieces in order, cut into batches."""

from collections import deque
from collections.abc import Sequence

from tidegauge.pipeline.account import Lost, Piece
from tidegauge.pipeline.feed import Feed
from tidegauge.pipeline.journal import RowGone
from tidegauge.pipeline.log_view import Log, LogReader
from tidegauge.pipeline.options import RunnerOptions

_READ_BYTES = 1 << 20


class Intake:
    """The reader of one sink with the pieces it has made ready. The runner's thread alone."""

    def __init__(self, log: Log, feed: Feed, options: RunnerOptions) -> None:
        self._log = log
        self._feed = feed
        self._batch_rows = options.batch_rows
        self._batch_bytes = options.batch_bytes
        self._reader: LogReader | None = None
        self._pieces: deque[Piece] = deque()
        self._rows = self._bytes = 0

    @property
    def row(self) -> int:
        """The next row to be read."""
        return 0 if self._reader is None else self._reader.row

    @property
    def head(self) -> Piece | None:
        """The first piece that is ready."""
        return self._pieces[0] if self._pieces else None

    @property
    def is_full(self) -> bool:
        """Whether a whole batch is ready."""
        return self._rows >= self._batch_rows or self._bytes >= self._batch_bytes

    def go_to(self, row: int, accepted_before: int) -> None:
        """Forgets what was read and stands at this place."""
        self.close()
        self._feed.reset()
        self._pieces.clear()
        self._rows = self._bytes = 0
        self._reader = self._log.reader(row, accepted_before)

    def fill(self, end_row: int) -> None:
        """Reads until a batch is full or the log ends. JournalError, OSError if it cannot be read."""
        reader = self._reader
        assert reader is not None
        while not self.is_full:
            from_row = reader.row
            try:
                frames = reader.read(end_row, min(_READ_BYTES, self._batch_bytes))
            except RowGone as gone:
                lost = Lost(gone.reason, from_row, gone.lost_rows)
                piece = Piece(from_row, gone.first_row, gone.lost_rows, reader.accepted_before, None, 0, None, (lost,))
                self._put(self._feed.pass_on(piece))
                continue
            accepted = reader.accepted_before - sum(f.end_row - max(f.first_row, from_row) for f in frames if not f.is_copy)
            for frame in frames:
                if not frame.is_copy:
                    accepted += frame.end_row - max(frame.first_row, from_row)
                self._put(self._feed.add(frame, from_row, accepted))
            if reader.row == from_row:
                return

    def take(self) -> Piece:
        """Takes the first piece."""
        piece = self._pieces.popleft()
        self._rows -= piece.kept
        self._bytes -= piece.size
        return piece

    def take_batch(self) -> list[Piece]:
        """Takes up to a batch; it ends behind a loss, whose gap must stand ahead of the rows that follow.

        Thinning is no such loss: it lies between all rows, and where a tick has few of them, each batch would hold one.
        """
        batch: list[Piece] = []
        rows = size = 0
        while self._pieces and rows < self._batch_rows and size < self._batch_bytes:
            piece = self.take()
            if piece.kept > self._batch_rows - rows:
                piece, rest = piece.split(self._batch_rows - rows)
                self._pieces.appendleft(rest)
                self._rows += rest.kept
                self._bytes += rest.size
            batch.append(piece)
            rows += piece.kept
            size += piece.size
            if piece.record is None and any(one.reason != "downsample" for one in piece.lost):
                break
        return batch

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _put(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self._pieces.append(piece)
            self._rows += piece.kept
            self._bytes += piece.size

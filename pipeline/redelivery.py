"""Dead letters of one sink, listed, given to it again and thrown away as people ask.

Done between two of the runner's writes, on its thread; listing on any.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tidegauge.pipeline.errors import PartialWriteError, PermanentError, TooLargeError
from tidegauge.pipeline.ledger import Ledger
from tidegauge.pipeline.plugin import Sink
from tidegauge.pipeline.records import Record

_LOG = logging.getLogger(__name__)

_LIST_LIMIT = 1000


class Redelivery:
    """What may be done with the letters that a ledger keeps. `failed` hears of what ended a delivery before its last letter."""

    def __init__(self, name: str, sink: Sink, ledger: Ledger, batch_rows: int, failed: Callable[[Exception], None]) -> None:
        self._name = name
        self._sink = sink
        self._ledger = ledger
        self._batch_rows = batch_rows
        self._failed = failed
        self.unreadable_letters = 0

    def list_letters(self) -> list[dict[str, Any]]:
        """The oldest dead letters, for people; `id` is the row number."""
        letters = self._ledger.letters.letters()
        return [letter.for_people() for letter, _ in zip(letters, range(_LIST_LIMIT), strict=False)]

    def discard(self, ids: Sequence[int] | None) -> int:
        """Throws letters away (None: all) and returns how many; they become dropped{discarded}."""
        rows = self._chosen(ids)
        if rows:
            self._ledger.remove(rows, replayed=False)
        return len(rows)

    def replay(self, ids: Sequence[int] | None) -> int:
        """Gives letters to the open sink again (None: all) and returns how many it took; they become written."""
        chosen = self._chosen(ids)
        done: set[int] = set()
        unreadable = set(chosen)
        waiting: list[tuple[int, Record]] = []
        try:
            for letter in self._ledger.letters.letters():
                if letter.row not in chosen:
                    continue
                try:
                    waiting.append((letter.row, letter.as_record()))
                except msgspec.DecodeError:
                    continue
                unreadable.discard(letter.row)
                if len(waiting) >= self._batch_rows:
                    done |= self._write(waiting)
                    waiting = []
            done |= self._write(waiting)
            if unreadable:
                self.unreadable_letters += len(unreadable)
                _LOG.warning("sink %s: %d dead letters cannot be read and stay", self._name, len(unreadable))
        except Exception as exc:  # noqa: BLE001 - told; the letters stay, and the count says how many went
            self._failed(exc)
        if done:
            self._ledger.remove(done, replayed=True)
        return len(done)

    def _chosen(self, ids: Sequence[int] | None) -> set[int]:
        """Rows of these letters that may go: one at or beyond the durable cursor would come back with its row after a kill."""
        self._ledger.store()
        before = self._ledger.durable_row or 0
        wanted = None if ids is None else set(ids)
        rows = self._ledger.letters.rows()
        return {row for row in rows if row < before and (wanted is None or row in wanted)}

    def _write(self, letters: list[tuple[int, Record]]) -> set[int]:
        """Rows that the sink took now. Raises what is not about single rows."""
        if not letters:
            return set()
        rows = {row for row, _ in letters}
        try:
            self._sink.write([record for _, record in letters])
        except PartialWriteError as exc:
            return rows - exc.rejected.keys()
        except (PermanentError, TooLargeError):
            if len(letters) == 1:
                return set()
            half = len(letters) // 2
            return self._write(letters[:half]) | self._write(letters[half:])
        return rows

"""Connections of psycopg that wait for the server no longer than they may, and cursors that are closed when these are lost."""

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

T = TypeVar("T")
_LOOK_S = 0.1
"""How often a connection that waits looks at the clock."""


class BoundConnection(psycopg.Connection[Any]):
    """A server that is asked for something and says nothing for `answer_timeout_s` is given up: the connection is lost.

    The kernel of a host whose server is stopped, or hangs, or waits for its disk, goes on to acknowledge what it is sent, so
    that no timeout of TCP's is ever over; and a timeout of statements is the server's own.
    """

    answer_timeout_s: float | None = None
    """None: it waits for ever."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.server_cursor_factory = StreamCursor
        self._why_lost: str | None = None

    def wait(self, gen: PQGen[T], interval: float = _LOOK_S, *args: Any, **named: Any) -> T:
        if self._why_lost is not None:
            raise psycopg.OperationalError(self._why_lost)
        if self.answer_timeout_s is not None:
            gen = self._until_silent(gen, self.answer_timeout_s)
        return super().wait(gen, interval, *args, **named)

    def _until_silent(self, gen: PQGen[T], timeout_s: float) -> Generator[Any, Any, T]:
        """What `gen` does; it is told of nothing that came about every `_LOOK_S`."""
        end_s = time.monotonic() + timeout_s
        try:
            asked = next(gen)
            while True:
                ready = yield asked
                now_s = time.monotonic()
                if ready:
                    end_s = now_s + timeout_s
                elif now_s >= end_s:
                    self._why_lost = f"the server has not answered for {timeout_s:g} s"
                    self.pgconn.finish()
                    raise psycopg.OperationalError(self._why_lost)
                asked = gen.send(ready)
        except StopIteration as done:
            result: T = done.value
            return result


class StreamCursor(psycopg.ServerCursor[Any]):
    """A cursor of the server's. psycopg has it open until the server was told, and a ResourceWarning for each that is not."""

    @property
    def closed(self) -> bool:
        return super().closed or self.connection.closed

    def close(self) -> None:
        """What the server says against it, such as that the time of the question is over, changes nothing."""
        try:
            super().close()
        except psycopg.Error:
            # Nothing is asked within a transaction that failed, nor over a connection that is lost.
            super().close()

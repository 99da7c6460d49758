"""Lines of an answer that does not end by itself, each decoded."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

import urllib3

from tidegauge.client.errors import AnswerTooLarge, ClientError, ConnectionFailed, HttpError
from tidegauge.client.transport import Transport, shut

T = TypeVar("T")
LINE_BYTES = 1 << 20
_CHUNK = 64 * 1024
_LONGEST_PAUSE_S = 30.0
_STEADY_S = 10.0
"""A connection that lasted so long is a good one: the next pause is short again."""


class EventStream(Generic[T]):
    """Iterate over it, in one thread; `close` ends that at once and may be called from any. A context manager.

    The iteration ends when the server ends the stream or `close` is called. It raises ConnectionFailed when the connection
    breaks off, TimedOut when not even an empty line came for `idle_s`. With `reconnects` all of these make a new connection
    after a pause instead, and HttpError is raised if the server refuses that for good; what happened in between is missed.
    A line that is no event raises WrongAnswer; the iteration may go on after it.
    """

    def __init__(
        self,
        transport: Transport,
        target: str,
        decode: Callable[[bytes, str], T],
        *,
        idle_s: float | None,
        reconnects: bool,
    ) -> None:
        self._transport = transport
        self._target = target
        self._decode = decode
        self._idle_s = idle_s
        self._reconnects = reconnects
        self._closed = threading.Event()
        self._state = threading.Lock()
        """Held while the connection is exchanged or shut, never while something is waited for."""
        self._reading = threading.Lock()
        """Held by the thread that reads."""
        self._rest = b""
        self._lines: list[bytes] = []
        self._failures = 0
        self._since_s = time.monotonic()
        self.connections = 1
        """How many were made so far."""
        self._response: urllib3.BaseHTTPResponse | None = transport.open(target, idle_s=idle_s)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            with self._reading:
                line = self._next_line()
        except BaseException:
            # the end of the stream among them
            self.close()
            raise
        finally:
            if self._closed.is_set():
                self._dispose()
        return self._decode(line, self._transport.url(self._target))

    def close(self) -> None:
        """Ends the stream; whoever waits for the next event sees its end. May be called twice."""
        with self._state:
            self._closed.set()
            if self._response is not None:
                shut(self._response)
        self._dispose()

    def __enter__(self) -> "EventStream[T]":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _dispose(self) -> None:
        # whoever reads does it afterwards
        if self._reading.acquire(blocking=False):
            try:
                if self._response is not None:
                    self._response.close()
                    self._response = None
            finally:
                self._reading.release()

    def _next_line(self) -> bytes:
        while True:
            while self._lines:
                if self._closed.is_set():
                    raise StopIteration
                if (line := self._lines.pop(0)).strip():
                    return line
            if self._closed.is_set():
                raise StopIteration
            try:
                self._receive()
            except (ConnectionFailed, EOFError):
                if self._closed.is_set():
                    raise StopIteration from None
                if not self._reconnects:
                    raise
                self._connect_again()

    def _receive(self) -> None:
        """Puts the next lines aside. EOFError: the server ended the stream between two lines."""
        response = self._response
        if response is None:
            raise ConnectionFailed(self._transport.url(self._target), "the stream is closed")
        try:
            data = response.read1(_CHUNK, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as exc:
            # the last two: the connection was shut by another thread
            raise self._transport.broken(exc, self._target, self._idle_s) from exc
        if not data:
            if self._rest.strip():
                raise ConnectionFailed(self._transport.url(self._target), "the stream ended within a line")
            if self._reconnects:
                raise EOFError
            raise StopIteration
        *self._lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES:
            raise AnswerTooLarge(self._transport.url(self._target), f"a line of more than {LINE_BYTES} bytes")

    def _connect_again(self) -> None:
        """Until it succeeds or the stream is closed. HttpError if the server refuses in a way that lasts."""
        self._rest = b""
        if time.monotonic() - self._since_s > _STEADY_S:
            self._failures = 0
        with self._state:
            if self._response is not None:
                self._response.close()
                self._response = None
        while True:
            pause_s = random.uniform(0.5, 1) * min(_LONGEST_PAUSE_S, 0.1 * 2 ** min(self._failures, 10))
            self._failures += 1
            if self._closed.wait(pause_s):
                raise StopIteration
            try:
                fresh = self._transport.open(self._target, idle_s=self._idle_s)
            except HttpError as exc:
                if exc.status < 500 and exc.status not in (408, 429):
                    raise
            except ClientError:
                pass
            else:
                break
        with self._state:
            self._response = fresh
            if self._closed.is_set():
                shut(fresh)
            self._since_s = time.monotonic()
            self.connections += 1

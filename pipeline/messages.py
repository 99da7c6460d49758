"""Messages between sampler and server: small msgpack records over one socketpair of whole packets.

Sampler to server: `LogMoved` after bytes are written, `SamplerCounters` once a second. Server to sampler: `Needed` once a
second. Sending never blocks: what does not fit is dropped, for each message is repeated with newer content.
Beside these the server may ask: one `Request`, then the parts of its `Answer` (`pipeline/requests.py`). These are not repeated;
who asks waits no longer than its deadline.
The parent holds both ends, so that a child that is started again takes over the end of the one that died.
"""

import select
import socket
import time
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

MAX_BYTES = 64 * 1024


class LogMoved(msgspec.Struct, frozen=True, tag="log", array_like=True):
    """The log as far as it may be read: exclusive ends, and the rows accepted in all starts together."""

    appended_row: int
    synced_row: int
    accepted: int


class SamplerCounters(msgspec.Struct, frozen=True, tag="counters", array_like=True):
    """Counters of the sampler process by name: numbers, or numbers by label value, and faults as text."""

    values: Mapping[str, Any]


class Needed(msgspec.Struct, frozen=True, tag="needed", array_like=True):
    """The lowest row that a cursor which lasts still needs; None when there is no such cursor."""

    row: int | None


class Request(msgspec.Struct, frozen=True, tag="request", array_like=True):
    """A question of the server. `deadline_ns` is of the monotonic clock, which both processes share."""

    id: int
    kind: str
    arguments: Mapping[str, Any]
    deadline_ns: int


class Answer(msgspec.Struct, frozen=True, tag="answer", array_like=True):
    """One part of what was answered to the request of this id, parts in order from 0.

    The payloads of all parts together are one msgpack value. Where `fault` (a `Reason`) is given, this is the only part and
    its payload the reason in words, UTF-8.
    """

    id: int
    part: int
    is_last: bool
    payload: bytes
    fault: str | None = None


Message: TypeAlias = LogMoved | SamplerCounters | Needed | Request | Answer

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def pair() -> tuple[socket.socket, socket.socket]:
    """(sampler's end, server's end), whole packets in order."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


class Channel:
    """One end of the pair. `send` from any thread, `receive` from one."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.unsent = 0
        """Messages dropped because the other side does not read."""
        self.undecodable = 0

    def close(self) -> None:
        self._end.close()

    def send(self, message: Message) -> bool:
        """True if the packet was taken. Never blocks."""
        try:
            self._end.send(_ENCODER.encode(message))
        except OSError:
            self.unsent += 1
            return False
        return True

    def send_when_room(self, message: Message, deadline_ns: int) -> bool:
        """Waits for room until the deadline, of the monotonic clock; True if the packet was taken.

        There is room when three quarters of the buffer are free (poll(2) says so of such a socket), so that what is sent in
        this way leaves the others their place. Not from a thread that may not wait.
        """
        packet = _ENCODER.encode(message)
        while (left_ns := deadline_ns - time.monotonic_ns()) > 0:
            try:
                poll = select.poll()
                poll.register(self._end.fileno(), select.POLLOUT)
                if poll.poll(left_ns / 1e6):
                    self._end.send(packet)
                    return True
            except BlockingIOError:
                continue
            except (OSError, ValueError):  # the end was closed
                return False
        return False

    def receive(self, timeout_s: float) -> Message | None:
        """The next message, or None after the timeout or for a packet that cannot be read."""
        poll = select.poll()
        poll.register(self._end.fileno(), select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            return None
        try:
            return _DECODER.decode(self._end.recv(MAX_BYTES))
        except BlockingIOError:
            return None
        except (msgspec.DecodeError, OSError):
            self.undecodable += 1
            return None

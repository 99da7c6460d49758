"""Messages between sampler and server: small msgpack records over one socketpair of whole packets.

Sampler to server: `LogMoved` after bytes are written, `SamplerCounters` once a second. Server to sampler: `Needed` once a
second. Sending never blocks: what does not fit is dropped, for each message is repeated with newer content.
The parent holds both ends, so that a child that is started again takes over the end of the one that died.
"""

import select
import socket
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


Message: TypeAlias = LogMoved | SamplerCounters | Needed

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

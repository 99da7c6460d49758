"""HTTP Digest (RFC 7616) with MD5, which is what htdigest files hold, and qop=auth.

A nonce bears its number, its time and a signature, so that one which nobody uses is not held. One that was used is held with
the counts it was used with, for each count serves once. Everything here runs in the listener's thread.
"""

import base64
import binascii
import enum
import hashlib
import hmac
import re
import secrets
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

NONCE_LASTS_S = 300.0
MAX_NONCES = 4096
"""Nonces in use. Beyond that the oldest is stale before its time."""
_WINDOW = 64
"""Counts may come so far out of order, for a client with several connections sends them so."""
_HEAD = struct.Struct(">QQ")
_PARAMETER = re.compile(r'\s*([A-Za-z0-9*_-]{1,32})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",;]+))\s*(?:,|\Z)')


class Outcome(enum.Enum):
    RIGHT = "right"
    STALE = "stale"
    """The password is right; the nonce has expired, is none of ours, or was used with this count."""
    WRONG = "wrong"


def parameters(text: str) -> dict[str, str] | None:
    """Parameters of an Authorization header, names in lower case; None if it is malformed or names one twice."""
    out: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = _PARAMETER.match(text, at)
        if match is None or match[1].lower() in out:
            return None
        out[match[1].lower()] = re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
        at = match.end()
    return out


class _Nonce(NamedTuple):
    number: int
    time_ms: int


class Digest:
    """Challenges and their answers for one realm. `clock` is monotonic, in seconds."""

    def __init__(self, realm: str, clock: Callable[[], float]) -> None:
        self._realm = realm
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._opaque = secrets.token_hex(16)
        self._unknown = secrets.token_hex(16)
        self._number = 0
        self._used: OrderedDict[int, list[int]] = OrderedDict()
        """Number of a nonce -> [time in ms, highest count, bits of the counts below it]."""
        self._floor = 0
        """A nonce up to this number that is not held may have been used and given up."""

    def challenge(self, is_stale: bool = False) -> str:
        """Value of a WWW-Authenticate header, with a fresh nonce."""
        self._number += 1
        head = _HEAD.pack(self._number, int(self._clock() * 1000))
        nonce = base64.urlsafe_b64encode(head + self._sign(head)).decode()
        stale = ", stale=true" if is_stale else ""
        return (
            f'Digest realm="{self._realm}", qop="auth", algorithm=MD5, nonce="{nonce}", opaque="{self._opaque}"{stale}, '
            "charset=UTF-8"
        )

    def knows(self, given: Mapping[str, str]) -> bool:
        """True if the nonce was used rightly before: then who sends it has the password, or reads the wire."""
        nonce = self._nonce(given.get("nonce", ""))
        return nonce is not None and nonce.number in self._used

    def verify(self, given: Mapping[str, str], method: str, target: bytes, users: Mapping[bytes, str]) -> Outcome:
        """What the parameters are worth for this request; `target` is path and query as they were sent.

        Takes the same time for a user who is not known. A count is used up by this if the outcome is RIGHT.
        """
        count = given.get("nc", "")
        if (
            given.get("algorithm", "MD5").upper() != "MD5"
            or given.get("qop", "") != "auth"
            or not re.fullmatch(r"[0-9A-Fa-f]{8}", count)
            or not given.get("cnonce")
            or not hmac.compare_digest(given.get("opaque", "").encode(), self._opaque.encode())
            or given.get("realm") != self._realm
            or _whole(given.get("uri", "").encode("latin-1")) != _whole(target)
        ):
            return Outcome.WRONG
        ha1 = users.get(given.get("username", "").encode("latin-1"))
        ha2 = _md5(f"{method}:{given['uri']}")
        secret = self._unknown if ha1 is None else ha1
        expected = _md5(f"{secret}:{given.get('nonce', '')}:{count}:{given['cnonce']}:auth:{ha2}")
        is_right = hmac.compare_digest(expected.encode(), given.get("response", "").encode("latin-1"))
        if ha1 is None or not is_right:
            return Outcome.WRONG
        nonce = self._nonce(given.get("nonce", ""))
        if nonce is None or not self._use(nonce, int(count, 16)):
            return Outcome.STALE
        return Outcome.RIGHT

    def _sign(self, head: bytes) -> bytes:
        return hmac.digest(self._key, head, "sha256")[:20]

    def _nonce(self, text: str) -> _Nonce | None:
        """None for one that is not ours, or has expired."""
        try:
            packed = base64.b64decode(text.encode("latin-1"), b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        head = packed[: _HEAD.size]
        if len(head) != _HEAD.size or not hmac.compare_digest(packed[_HEAD.size :], self._sign(head)):
            return None
        nonce = _Nonce(*_HEAD.unpack(head))
        return None if self._is_old(nonce.time_ms) else nonce

    def _is_old(self, time_ms: int) -> bool:
        return self._clock() * 1000 - time_ms > NONCE_LASTS_S * 1000

    def _use(self, nonce: _Nonce, count: int) -> bool:
        """True if the nonce was not used with this count before, as far as is remembered."""
        if count == 0:
            return False
        state = self._used.get(nonce.number)
        if state is None:
            if nonce.number <= self._floor:
                return False
            self._make_room()
            self._used[nonce.number] = [nonce.time_ms, count, 1]
            return True
        _, highest, bits = state
        if count > highest:
            # a jump beyond the window empties it; shifting by the whole jump would take memory for its sake
            shifted = bits << (count - highest) if count - highest < _WINDOW else 0
            state[1:] = [count, (shifted | 1) & ((1 << _WINDOW) - 1)]
            return True
        if highest - count >= _WINDOW or bits & (bit := 1 << (highest - count)):
            return False
        state[2] = bits | bit
        return True

    def _make_room(self) -> None:
        while self._used:
            number, state = next(iter(self._used.items()))
            if not self._is_old(state[0]):
                if len(self._used) < MAX_NONCES:
                    return
                self._floor = max(self._floor, number)
            del self._used[number]


def _whole(target: bytes) -> tuple[bytes, bytes]:
    """Path and query; a `?` with nothing after it is left out, as the server hands it on so."""
    path, _, query = target.partition(b"?")
    return path, query


def _md5(text: str) -> str:
    return hashlib.md5(text.encode("latin-1"), usedforsecurity=False).hexdigest()

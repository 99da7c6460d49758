"""HTTP Digest (RFC 7616) as a client: MD5 and SHA-256, qop=auth."""

import hashlib
import re
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence

_SCHEME = re.compile(r"(?:\A|,)\s*Digest\s+", re.IGNORECASE)
_PARAMETER = re.compile(r'\s*([A-Za-z0-9*_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))\s*(?:,|\Z)')
_HASHES: Mapping[str, Callable[[bytes], str]] = {
    "SHA-256": lambda data: hashlib.sha256(data).hexdigest(),
    "MD5": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
}
"""The stronger first."""


class Digest:
    """Answers the challenges of one server. Any thread. Texts are UTF-8, carried as latin-1 as headers are."""

    def __init__(self, user: str, password: str) -> None:
        self._user = user.encode().decode("latin-1")
        self._password = password.encode().decode("latin-1")
        self._lock = threading.Lock()
        self._challenge: Mapping[str, str] | None = None
        self._count = 0

    def take(self, headers: Sequence[str]) -> bool:
        """Takes the challenge in these WWW-Authenticate headers. False: there is none that can be answered."""
        found = [c for header in headers for c in _challenges(header) if _can_answer(c)]
        if not found:
            return False
        with self._lock:
            self._challenge = min(found, key=lambda c: list(_HASHES).index(_algorithm(c)))
            self._count = 0
        return True

    def header(self, method: str, target: str) -> str | None:
        """The Authorization header of a request; None before the first challenge."""
        with self._lock:
            if self._challenge is None:
                return None
            challenge = self._challenge
            self._count += 1
            count = f"{self._count:08x}"
        hashed, cnonce = _HASHES[_algorithm(challenge)], secrets.token_hex(16)

        def h(text: str) -> str:
            return hashed(text.encode("latin-1"))

        secret = h(f"{self._user}:{challenge['realm']}:{self._password}")
        response = h(f"{secret}:{challenge['nonce']}:{count}:{cnonce}:auth:{h(f'{method}:{target}')}")
        quoted = {
            "username": self._user,
            "realm": challenge["realm"],
            "nonce": challenge["nonce"],
            "uri": target,
            "cnonce": cnonce,
            "response": response,
        }
        if "opaque" in challenge:
            quoted["opaque"] = challenge["opaque"]
        parts = [f'{name}="{_escaped(value)}"' for name, value in quoted.items()]
        return "Digest " + ", ".join([*parts, f"nc={count}", "qop=auth", f"algorithm={_algorithm(challenge)}"])


def _challenges(header: str) -> list[dict[str, str]]:
    """Those of the scheme Digest, each with its parameters, names in lower case."""
    out = []
    for scheme in _SCHEME.finditer(header):
        found: dict[str, str] = {}
        at = scheme.end()
        while match := _PARAMETER.match(header, at):
            found[match[1].lower()] = re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
            at = match.end()
        out.append(found)
    return out


def _algorithm(challenge: Mapping[str, str]) -> str:
    return challenge.get("algorithm", "MD5").upper()


def _can_answer(challenge: Mapping[str, str]) -> bool:
    qops = {q.strip().lower() for q in challenge.get("qop", "").split(",")}
    return "auth" in qops and _algorithm(challenge) in _HASHES and {"realm", "nonce"} <= challenge.keys()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')

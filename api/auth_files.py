"""Files of credentials: htpasswd, htdigest and tokens, each read by a pure function whose errors name the line.

What stands in a file never stands in an error or a log line. Sources: Apache's htpasswd(1) and htdigest(1), RFC 6750 for
tokens. Hashes other than {SHA} need libraries, by the extra `auth`, imported when a password is first compared.
"""

import base64
import hashlib
import hmac
import importlib.util
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tidegauge.pipeline.errors import ConfigError

MAX_FILE_BYTES = 1 << 20
MIN_TOKEN_LENGTH = 16
"""Shorter ones can be guessed: tokens are not slowed down as passwords are."""
MAX_PASSWORD_BYTES = 1024
_MAX_BCRYPT_COST = 14
"""About 1 s of a core at each comparison; one more doubles it."""
_MAX_ROUNDS = 1_000_000

_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_APR1 = re.compile(r"\$apr1\$[./A-Za-z0-9]{0,8}\$[./A-Za-z0-9]{22}")
_SHA_CRYPT = re.compile(r"\$([56])\$(?:rounds=(\d{1,9})\$)?[./A-Za-z0-9]{0,16}\$(?:[./A-Za-z0-9]{43}|[./A-Za-z0-9]{86})")
_SHA = re.compile(r"\{SHA\}[+/A-Za-z0-9]{27}=")
_HA1 = re.compile(r"[0-9a-f]{32}")
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")


def read(path: Path, key: str) -> bytes:
    """The whole file. ConfigError names the configuration key and why it cannot be read."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"http.{key}: {path}: cannot be read: {exc.strerror}") from exc
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"http.{key}: {path}: expected at most {MAX_FILE_BYTES} bytes")
    return text


def too_open(path: Path, is_secret: bool) -> str | None:
    """Why the rights of the file are wider than they ought to be; None if they are not, or cannot be asked for."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
    if mode & 0o022:
        return f"{path}: others than its owner may write to it (mode {mode:04o}); expected 0640 or less"
    if is_secret and mode & 0o007:
        return f"{path}: everybody may read it (mode {mode:04o}); expected 0640 or less"
    return None


def htpasswd(text: bytes, path: Path) -> dict[bytes, str]:
    """User -> hash. ConfigError for a line that is no user and hash, or whose hash cannot be compared here."""
    out: dict[bytes, str] = {}
    for where, user, rest in _users(text, path):
        hashed = rest.decode("latin-1")
        if (fault := _fault(hashed)) is not None:
            raise ConfigError(f"{where}: {fault}")
        if user in out:
            raise ConfigError(f"{where}: the user stands there twice")
        out[user] = hashed
    if not out:
        raise ConfigError(f"{path}: expected at least one line USER:HASH")
    return out


def htdigest(text: bytes, path: Path, realm: str) -> dict[bytes, str]:
    """User -> MD5 of user, realm and password, of this realm. ConfigError for a malformed line, or none of the realm."""
    out: dict[bytes, str] = {}
    for where, user, rest in _users(text, path):
        given, sep, ha1 = rest.rpartition(b":")
        if not sep or not _HA1.fullmatch(ha1.decode("latin-1")):
            raise ConfigError(f"{where}: expected USER:REALM:HASH, the hash 32 digits as htdigest makes it")
        if given != realm.encode():
            continue
        if user in out:
            raise ConfigError(f"{where}: the user stands there twice")
        out[user] = ha1.decode("ascii")
    if not out:
        raise ConfigError(f"{path}: expected at least one line USER:{realm}:HASH, for http.digest_realm is {realm!r}")
    return out


def tokens(text: bytes, path: Path) -> frozenset[bytes]:
    """SHA-256 of each token: what is held is no use to whoever reads it. ConfigError for a line that is no token."""
    out = set()
    for number, line in _lines(text):
        if len(line) < MIN_TOKEN_LENGTH or not _TOKEN.fullmatch(line):
            raise ConfigError(
                f"{path}:{number}: expected a token of at least {MIN_TOKEN_LENGTH} of the characters A-Z a-z 0-9 . _ ~ + / - "
                "and = at its end"
            )
        out.add(hashlib.sha256(line).digest())
    if not out:
        raise ConfigError(f"{path}: expected at least one token, one a line")
    return frozenset(out)


def is_token(token: bytes, known: frozenset[bytes]) -> bool:
    """Takes the same time for every token of a length, whichever of the known ones it is."""
    digest = hashlib.sha256(token).digest()
    found = False
    for one in known:
        found |= hmac.compare_digest(digest, one)
    return found


def is_password(password: bytes, user: bytes, known: Mapping[bytes, str]) -> bool:
    """True if this is the password of the user. Slow by intention; an unknown user costs as much as the first one."""
    hashed = known.get(user)
    if b"\0" in password or len(password) > MAX_PASSWORD_BYTES:
        return False
    is_right = _compare(password, next(iter(known.values())) if hashed is None else hashed)
    return is_right and hashed is not None


def _compare(password: bytes, hashed: str) -> bool:
    if hashed.startswith("{SHA}"):
        made = base64.b64encode(hashlib.sha1(password, usedforsecurity=False).digest()).decode()
        return hmac.compare_digest(made, hashed[5:])
    if hashed.startswith("$2"):
        import bcrypt

        return bcrypt.checkpw(password[:72], hashed.encode())  # as Apache: what follows does not count
    from passlib import hash as crypts

    by_prefix: Mapping[str, Callable[[bytes, str], bool]] = {
        "$a": crypts.apr_md5_crypt.verify,
        "$5": crypts.sha256_crypt.verify,
        "$6": crypts.sha512_crypt.verify,
    }
    return bool(by_prefix[hashed[:2]](password, hashed))


def _fault(hashed: str) -> str | None:
    """Why a password cannot be compared with this; None if it can."""
    library = "passlib"
    if match := _BCRYPT.fullmatch(hashed):
        library = "bcrypt"
        if not 4 <= int(match[1]) <= _MAX_BCRYPT_COST:
            return f"expected a bcrypt cost from 4 to {_MAX_BCRYPT_COST}, got {int(match[1])}"
    elif match := _SHA_CRYPT.fullmatch(hashed):
        if len(hashed.rpartition("$")[2]) != (43 if match[1] == "5" else 86):
            return "the hash has not the length of its kind"
        if match[2] is not None and not 1000 <= int(match[2]) <= _MAX_ROUNDS:
            return f"expected from 1000 to {_MAX_ROUNDS} rounds, got {int(match[2])}"
    elif _SHA.fullmatch(hashed):
        return None
    elif not _APR1.fullmatch(hashed):
        return (
            "expected a hash as htpasswd -B (bcrypt), -5, -2, -m or -s makes it; "
            "passwords in plain text, crypt (-d) and other kinds are refused"
        )
    if importlib.util.find_spec(library) is None:
        return "this kind of hash needs libraries: pip install 'tidegauge[auth]'"
    return None


def _users(text: bytes, path: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """(file and line, user, what follows the colon)."""
    for number, line in _lines(text):
        user, sep, rest = line.partition(b":")
        if not sep or not user:
            raise ConfigError(f"{path}:{number}: expected USER:HASH")
        yield f"{path}:{number}", user, rest


def _lines(text: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(text.split(b"\n"), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith(b"#"):
            yield number, stripped


def signature(path: Path) -> tuple[int, int, int] | None:
    """Changes when the file does; None while it is not there or may not be looked at."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns

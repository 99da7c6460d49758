"""Who may ask: HTTP Basic, Digest and bearer tokens from files that are read again when they change.

A request passes with any of the kinds that are configured. Wrong credentials of an address are slowed down; those that were
right once pass meanwhile. No credential stands in a log line or an answer. RFC 7617, RFC 7616, RFC 6750.
"""

import asyncio
import base64
import binascii
import hmac
import logging
import math
import secrets
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from starlette.types import Scope

from tidegauge.api import auth_files, auth_tls
from tidegauge.api.auth_digest import Digest, Outcome, parameters
from tidegauge.api.auth_failures import Failures, neighbourhood
from tidegauge.pipeline.config import HttpConfig
from tidegauge.pipeline.errors import ConfigError

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_MAX_KNOWN = 256
"""Passwords that were compared once and are right, as keyed hashes; comparing again would cost some 100 ms."""
_MAX_COMPARING = 4
"""Different passwords compared at a time; the threads for it are half as many."""
_SECRET_KEYS = ("auth_file", "digest_file", "token_file", "tls_key")
_FILE_KEYS = (*_SECRET_KEYS, "tls_cert", "tls_client_ca")


class _Loaded(NamedTuple):
    """What the files hold; None for what is not configured."""

    passwords: Mapping[bytes, str] | None
    digests: Mapping[bytes, str] | None
    tokens: frozenset[bytes] | None
    tls: ssl.SSLContext | None


def _load(config: HttpConfig) -> _Loaded:
    read = auth_files.read
    return _Loaded(
        None if (p := config.auth_file) is None else auth_files.htpasswd(read(p, "auth_file"), p),
        None if (p := config.digest_file) is None else auth_files.htdigest(read(p, "digest_file"), p, config.digest_realm),
        None if (p := config.token_file) is None else auth_files.tokens(read(p, "token_file"), p),
        auth_tls.context(config),
    )


def check(config: HttpConfig) -> list[str]:
    """Reads every file of credentials as a start does; what ought to be better, a line each. ConfigError for what is wrong."""
    loaded = _load(config)
    out = []
    for key in _FILE_KEYS:
        path: Path | None = getattr(config, key)
        is_secret = key in _SECRET_KEYS or (key == "tls_cert" and config.tls_key is None)
        if path is not None and (fault := auth_files.too_open(path, is_secret)) is not None:
            out.append(f"http.{key}: {fault}")
    if any(hashed.startswith("{SHA}") for hashed in (loaded.passwords or {}).values()):
        out.append(f"http.auth_file: {config.auth_file}: {{SHA}} hashes are guessed fast; htpasswd -B makes better ones")
    if config.is_remote and config.tls_cert is None and (config.auth_file or config.token_file):
        out.append(
            "http.listen: passwords and tokens cross the network readable; http.tls_cert, or a proxy with TLS, hides them"
        )
    return out


class Credentials:
    """The files, as last read without a fault. `ask_again` from any thread, all else in the listener's."""

    def __init__(self, config: HttpConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads them. ConfigError names file and line of what is wrong."""
        self.config = config
        self._clock = clock
        self._paths: list[Path] = [path for key in _FILE_KEYS if (path := getattr(config, key)) is not None]
        self._signatures = self._sign()
        self.loaded = _load(config)
        self.generation = 0
        """Grows whenever they are read again."""
        self._next_s = clock() + _LOOK_EVERY_S
        self._is_wanted = False

    def ask_again(self) -> None:
        """Has the files read again before they are next used, changed or not."""
        self._is_wanted = bool(self._paths)

    def tls(self) -> ssl.SSLContext | None:
        """What the next TLS connection is made with; None where there is no TLS."""
        self.look()
        return self.loaded.tls

    def look(self) -> None:
        """Reads the files again if one has changed; looks once a second at most."""
        if self._is_wanted:
            self._is_wanted = False
            self._reload()
        elif self._paths and (now := self._clock()) >= self._next_s:
            self._next_s = now + _LOOK_EVERY_S
            # one that may not be looked at from here (its folder is root's alone) counts as unchanged
            if any(new is not None and new != old for new, old in zip(self._sign(), self._signatures, strict=True)):
                self._reload()

    def _reload(self) -> None:
        """What is wrong is logged, and what was read before stays in force."""
        signatures = self._sign()
        try:
            self.loaded = _load(self.config)
        except ConfigError as exc:
            log.error("credentials stay as they were: %s", exc)
        else:
            self.generation += 1
            log.info("credentials are read again")
        self._signatures = signatures

    def _sign(self) -> list[tuple[int, int, int] | None]:
        return [auth_files.signature(path) for path in self._paths]


class Refusal(NamedTuple):
    """What to answer instead. `key` is what it counts as."""

    key: str
    status: int
    text: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Authenticator:
    """Asks for credentials. Everything but the comparing of passwords runs in the listener's thread."""

    def __init__(self, credentials: Credentials, clock: Callable[[], float] = time.monotonic) -> None:
        config = credentials.config
        self.is_on = config.asks_credential
        self._config = config
        self._credentials = credentials
        self._digest = Digest(config.digest_realm, clock)
        self.failures = Failures(clock)
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._comparing: dict[bytes, asyncio.Future[bool]] = {}
        self._pool = ThreadPoolExecutor(_MAX_COMPARING // 2, thread_name_prefix="passwords")

    async def refusal(self, scope: Scope, *, has_certificate: bool) -> Refusal | None:
        """None if the request may pass. `has_certificate`: the client's was verified when it connected."""
        if self._config.tls_client_ca is not None and not has_certificate:
            return Refusal("unauthorized", 401, "A client certificate is asked for.")
        if not self._config.asks_password:
            return None
        self._credentials.look()
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if not given:
            return self._challenge()
        kind, _, rest = given[0].decode("latin-1").partition(" ")
        address = neighbourhood(scope["client"][0] if scope.get("client") else "")
        loaded = self._credentials.loaded
        match kind.lower() if len(given) == 1 else "":
            case "bearer" if loaded.tokens is not None:
                # not slowed down when right: they are too long to be guessed
                if auth_files.is_token(rest.strip().encode("latin-1"), loaded.tokens):
                    return None
                return self._wait(address) or self._wrong(address)
            case "digest" if loaded.digests is not None:
                return self._digest_refusal(scope, rest, address, loaded.digests)
            case "basic" if loaded.passwords is not None:
                return await self._basic_refusal(rest, address, loaded.passwords)
        return self._wait(address) or self._wrong(address)

    def _digest_refusal(self, scope: Scope, rest: str, address: str, users: Mapping[bytes, str]) -> Refusal | None:
        given = parameters(rest)
        if given is None or not self._digest.knows(given):
            if (wait := self._wait(address)) is not None:
                return wait
            if given is None:
                return self._wrong(address)
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        outcome = self._digest.verify(given, scope["method"], target, users)
        if outcome is Outcome.WRONG:
            return self._wrong(address)
        return self._challenge(is_stale=True) if outcome is Outcome.STALE else None

    async def _basic_refusal(self, rest: str, address: str, users: Mapping[bytes, str]) -> Refusal | None:
        try:
            pair = base64.b64decode(rest.strip(), validate=True)
        except (binascii.Error, ValueError):
            pair = b""
        user, sep, password = pair.partition(b":")
        key = hmac.digest(self._key, self._credentials.generation.to_bytes(8, "big") + pair, "sha256")
        if key in self._known:
            self._known.move_to_end(key)
            return None
        if (wait := self._wait(address)) is not None:
            return wait
        if not sep:
            return self._wrong(address)
        future = self._comparing.get(key)
        if future is None:
            if len(self._comparing) >= _MAX_COMPARING:
                return Refusal("busy", 503, "Other passwords are being compared.", ((b"retry-after", b"1"),))
            future = asyncio.get_running_loop().run_in_executor(self._pool, auth_files.is_password, password, user, users)
            self._comparing[key] = future
            future.add_done_callback(lambda done: self._compared(key, done))
        return None if await asyncio.shield(future) else self._wrong(address)

    def _compared(self, key: bytes, done: "asyncio.Future[bool]") -> None:
        self._comparing.pop(key, None)
        if not done.cancelled() and done.exception() is None and done.result():
            self._known[key] = None
            while len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)

    def _wait(self, address: str) -> Refusal | None:
        if (wait_s := self.failures.wait_s(address)) <= 0:
            return None
        after = str(math.ceil(wait_s)).encode()
        return Refusal("rate", 429, "Too many wrong credentials from this address.", ((b"retry-after", after),))

    def _wrong(self, address: str) -> Refusal:
        if self.failures.add(address):
            log.warning("%s sends wrong credentials; each further one waits up to 16 s", address or "somebody")
        return self._challenge()

    def _challenge(self, *, is_stale: bool = False) -> Refusal:
        headers = tuple((b"www-authenticate", text.encode()) for text in self._challenges(is_stale))
        return Refusal("unauthorized", 401, "A credential is asked for.", headers)

    def _challenges(self, is_stale: bool) -> Iterator[str]:
        if self._config.digest_file is not None:
            yield self._digest.challenge(is_stale)
        if self._config.auth_file is not None:
            yield f'Basic realm="{self._config.auth_realm}", charset="UTF-8"'
        if self._config.token_file is not None:
            yield f'Bearer realm="{self._config.auth_realm}"'

"""Asks a remote over HTTP: TLS verified, no redirect followed, one deadline and one bound of size for each answer."""

import base64
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated, NamedTuple, NoReturn
from urllib.parse import urlsplit

import msgspec
import urllib3

from tidegauge.pipeline.errors import CollectError

_CHUNK = 1 << 16


class HttpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a remote is, and how it is asked."""

    url: str = ""
    """`http://HOST:PORT` or `https://HOST:PORT`, with the path before `/api` or `/stats` if there is one."""
    host: str = ""
    """What the remote is called in records; empty: what it says, else the host in `url`."""
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 10.0
    """For a connection, and for each whole answer."""
    max_answer_bytes: Annotated[int, msgspec.Meta(ge=1024, le=1 << 30)] = 8 << 20
    """A longer answer is given up; of cAdvisor fewer readings are asked for then."""
    verify_tls: bool = True
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""
    cert_file: Path | None = None
    """Our own certificate, where the remote asks for one."""
    key_file: Path | None = None
    user: str = ""
    """With a password: basic authentication."""
    password: str = ""
    password_file: Path | None = None
    token: str = ""
    """Bearer token, as the kubelet takes it."""
    token_file: Path | None = None
    """Read anew for each question: a token that was exchanged is taken."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.username is not None or parts.password is not None:
            raise ValueError("url: expected an address without user and password (`user` and `password_file` are for these)")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"url: expected http://HOST:PORT or https://HOST:PORT, got {self.url!r}")
        try:
            _ = parts.port
        except ValueError:
            raise ValueError(f"url: expected a port from 0 to 65535, got {self.url!r}") from None
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file: expected together with key_file, or neither")
        if self.user and (self.token or self.token_file):
            raise ValueError("user: expected either user and password or a token, got both")
        if any(c.isspace() or ord(c) < 32 for c in self.host):
            raise ValueError(f"host: expected a name without white space, got {self.host!r}")

    def __repr__(self) -> str:
        return f"HttpConfig({self.url!r})"


class AnswerTooLarge(CollectError):
    """It exceeds `max_answer_bytes`: something smaller may be asked for."""


class Answer(NamedTuple):
    body: bytes
    date_ms: int | None
    """The remote's clock in whole seconds, as its `Date` header says it."""


class Client:
    """One connection, kept. One thread."""

    def __init__(self, config: HttpConfig) -> None:
        self._config = config
        self._url = config.url.rstrip("/")
        if not config.verify_tls:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._pool = urllib3.PoolManager(
            num_pools=1,
            retries=False,
            timeout=urllib3.Timeout(total=config.timeout_s),
            cert_reqs="CERT_REQUIRED" if config.verify_tls else "CERT_NONE",
            ca_certs=str(config.ca_file) if config.ca_file else None,
            cert_file=str(config.cert_file) if config.cert_file else None,
            key_file=str(config.key_file) if config.key_file else None,
        )

    @property
    def host(self) -> str:
        """What the remote is called where it does not say it."""
        return self._config.host or urlsplit(self._url).hostname or ""

    def where(self, path: str) -> str:
        """The URL of a path, for messages."""
        return self._url + path

    def ask(self, path: str, body: bytes | None = None) -> Answer:
        """The body of a 200: GET, or POST where there is a body. CollectError, which names the URL, for everything else.

        AnswerTooLarge is one of these.
        """
        url = self._url + path
        end_s = time.monotonic() + self._config.timeout_s
        try:
            response = self._pool.request(
                "GET" if body is None else "POST",
                url,
                body=body,
                headers=self._headers(body is not None),
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as exc:
            raise CollectError(f"{url}: {self._clean(str(exc))}") from None
        is_whole = False
        try:
            data = self._body(response, url, end_s)
            is_whole = True
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise CollectError(f"{url}: the answer broke off: {self._clean(str(exc))}") from None
        finally:
            if is_whole:
                response.release_conn()
            else:
                response.close()
        if response.status != 200:
            self._refuse(url, response, data)
        return Answer(data, _date_ms(response.headers.get("Date")))

    def close(self) -> None:
        self._pool.clear()

    def _body(self, response: urllib3.BaseHTTPResponse, url: str, end_s: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        while data := response.read1(_CHUNK, decode_content=False):
            parts.append(data)
            size += len(data)
            if size > self._config.max_answer_bytes:
                raise AnswerTooLarge(f"{url}: an answer of more than {self._config.max_answer_bytes} bytes (max_answer_bytes)")
            if time.monotonic() > end_s:
                raise CollectError(f"{url}: no whole answer within {self._config.timeout_s:g} s (timeout_s)")
        return b"".join(parts)

    def _refuse(self, url: str, response: urllib3.BaseHTTPResponse, data: bytes) -> NoReturn:
        status = response.status
        if 300 <= status < 400:
            to = response.headers.get("Location", "nowhere")
            raise CollectError(
                f"{url}: HTTP {status} to {to[:200]!r}: redirects are not followed; expected the final address as url"
            )
        said = " ".join(data[:300].decode("utf-8", "replace").split())
        hint = " (user and password_file, or token_file)" if status in (401, 403) else ""
        raise CollectError(f"{url}: HTTP {status}{hint}" + (f": {self._clean(said)}" if said else ""))

    def _headers(self, has_body: bool) -> dict[str, str]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if has_body:
            headers["Content-Type"] = "application/json"
        if self._config.user:
            credential = f"{self._config.user}:{self._secret('password')}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(credential).decode()}"
        elif token := self._secret("token"):
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _secret(self, name: str) -> str:
        path: Path | None = getattr(self._config, f"{name}_file")
        if path is None:
            secret: str = getattr(self._config, name)
            return secret
        try:
            return path.read_text().strip()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
            raise CollectError(f"{self._url}: {name}_file {path}: {reason}") from None

    def _clean(self, text: str) -> str:
        for secret in (self._config.password, self._config.token):
            text = text.replace(secret, "***") if secret else text
        return text


def _date_ms(text: str | None) -> int | None:
    try:
        return None if not text else round(parsedate_to_datetime(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None

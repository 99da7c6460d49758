"""What both ways of speaking to InfluxDB share: where it is, what they promise, and how answers become errors.

Answers become the errors of `pipeline.errors`; no message holds a secret. `influxdb_v1` and `influxdb_v2` make the requests.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import urllib3

from tidegauge.pipeline.errors import PermanentError, RetryableError, TooLargeError

GZIP_LEVEL = 1
"""Level 6 costs nearly three times the CPU and saves a third more bytes (3.6 and 9.7 us a line)."""


class Endpoint(NamedTuple):
    """Where a store is and how it is reached. Its repr shows no secret."""

    url: str
    """Without a slash at the end."""
    timeout_s: float = 10.0
    is_gzip: bool = False
    verify_tls: bool = True
    ca_file: Path | None = None
    user: str = ""
    secret: str = ""
    """Password of 1.x or token of 2.x."""

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r})"


class StoredRow(NamedTuple):
    """A line as it was read back, or some of its fields."""

    measurement: str
    tags: Mapping[str, str]
    ts_ms: int
    fields: Mapping[str, Any]


class Span(NamedTuple):
    """Rows of one container within [from_ms, to_ms) that are wanted back."""

    instance: str
    epoch: int
    source: str
    from_ms: int
    to_ms: int


class Retention(NamedTuple):
    """How long a retention policy or a bucket keeps data."""

    name: str
    place: str
    """For people: `retention policy autogen of database tidegauge`."""
    seconds: int | None
    """None: for ever."""
    command: str
    """What changes it, with `{}` for the time."""

    def remedy(self, wanted_s: int | None) -> str:
        return self.command.format("0s" if wanted_s is None else f"{wanted_s}s")


class Transport(Protocol):
    """One store's way of writing. One thread at a time. Every method raises SinkError."""

    def create(self, retention_s: int | None) -> None:
        """Makes the database or bucket if it is not there and the store lets us; else does nothing."""
        ...

    def retention(self, name: str = "") -> Retention | None:
        """Of the policy or bucket of that name, else of the one written to; None: not there, or we may not ask."""
        ...

    def write(self, lines: bytes) -> None: ...

    def read_back(self, spans: Sequence[Span], measurements: Sequence[str]) -> Iterator[StoredRow]:
        """The newest lines of each container in its span, and the gaps of its source there; in no order."""
        ...

    def close(self) -> None: ...


def pool(endpoint: Endpoint) -> urllib3.PoolManager:
    """A pool without retries, TLS verified unless told otherwise."""
    if not endpoint.verify_tls:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    return urllib3.PoolManager(
        num_pools=1,
        retries=False,
        timeout=urllib3.Timeout(total=endpoint.timeout_s),
        cert_reqs="CERT_REQUIRED" if endpoint.verify_tls else "CERT_NONE",
        ca_certs=str(endpoint.ca_file) if endpoint.ca_file else None,
    )


def ping(endpoint: Endpoint) -> str:
    """Version that the store names at `/ping`, without a leading `v`; "" if it names none (VictoriaMetrics)."""
    http = pool(endpoint)
    try:
        answer = http.request("GET", f"{endpoint.url}/ping")
    except urllib3.exceptions.HTTPError as exc:
        raise connection_fault("ping of", endpoint, exc) from None
    finally:
        http.clear()
    if answer.status >= 300:
        raise fault("ping of", endpoint, answer.status, answer.headers, answer.data)
    return str(answer.headers.get("X-Influxdb-Version", "")).lstrip("v")


def connection_fault(action: str, endpoint: Endpoint, exc: Exception) -> RetryableError:
    """No answer: refused, reset, timed out, or a certificate that is not trusted (a fault of configuration)."""
    is_tls = isinstance(exc, urllib3.exceptions.SSLError)
    return RetryableError(f"{action} {endpoint.url}: {clean(str(exc), endpoint)}", is_config_fault=is_tls)


def fault(
    action: str, endpoint: Endpoint, status: int, headers: Mapping[str, str], body: bytes | str
) -> RetryableError | TooLargeError | PermanentError:
    """The error that an answer other than 2xx stands for. Only 400 and 422 speak of the lines; all else may pass."""
    reason = clean(_reason(body), endpoint)
    message = f"{action} {endpoint.url}: HTTP {status}" + (f": {reason}" if reason else "")
    if status == 413:
        return TooLargeError(message)
    if status in (400, 422):
        return PermanentError(message)
    is_config_fault = status < 500 and status not in (408, 429)
    return RetryableError(message, retry_after_s(headers), is_config_fault=is_config_fault)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3), a number or a date; None without one that can be read.

    A date counts from the answer's own Date, so that a wrong clock here does no harm.
    """
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        until = parsedate_to_datetime(text).timestamp()
        now = parsedate_to_datetime(headers["Date"]).timestamp() if headers.get("Date") else time.time()
    except ValueError:
        return None
    return max(0.0, until - now)


def _reason(body: bytes | str) -> str:
    """What the store says, in one line of at most 500 characters."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body or ""
    try:
        document = json.loads(text)
        if isinstance(document, dict):
            text = str(document.get("error") or document.get("message") or text)
    except ValueError:
        pass
    text = " ".join(text.split())
    # The number of dropped lines stands at the end, so the middle goes.
    return text if len(text) <= 500 else f"{text[:300]} ... {text[-195:]}"


def clean(text: str, endpoint: Endpoint) -> str:
    return text.replace(endpoint.secret, "***") if endpoint.secret else text


def quoted(text: str, quote: str = '"') -> str:
    """An identifier of InfluxQL or a string of Flux."""
    return quote + text.replace("\\", "\\\\").replace(quote, "\\" + quote).replace("\n", "\\n") + quote


def literal(text: str) -> str:
    """A string of InfluxQL."""
    return quoted(text, "'")


def slices(items: Sequence[Span], size: int) -> Iterator[Sequence[Span]]:
    return (items[i : i + size] for i in range(0, len(items), size))

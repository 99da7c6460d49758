"""Speaks to InfluxDB over HTTP: 1.x by `/write` and `/query`, 2.x and compatibles through influxdb-client.

Both take lines already encoded, make one request a call and try nothing again. Answers become the errors of
`pipeline.errors`; no message holds a secret.
"""

import base64
import gzip
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlencode

import msgspec
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


class PointsBeyondRetention(PermanentError):
    """The store took the newer lines and dropped the `dropped` oldest ones, which its retention would delete at once."""

    def __init__(self, message: str, dropped: int) -> None:
        super().__init__(message)
        self.dropped = dropped


class Transport(Protocol):
    """One store's way of writing. One thread at a time. Every method raises SinkError."""

    def create(self, retention_s: int | None) -> None:
        """Makes the database or bucket if it is not there and the store lets us; else does nothing."""
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
    return RetryableError(f"{action} {endpoint.url}: {_clean(str(exc), endpoint)}", is_config_fault=is_tls)


def fault(
    action: str, endpoint: Endpoint, status: int, headers: Mapping[str, str], body: bytes | str
) -> RetryableError | TooLargeError | PermanentError:
    """The error that an answer other than 2xx stands for. Only 400 and 422 speak of the lines; all else may pass."""
    reason = _clean(_reason(body), endpoint)
    message = f"{action} {endpoint.url}: HTTP {status}" + (f": {reason}" if reason else "")
    if status == 413:
        return TooLargeError(message)
    if status in (400, 422):
        if found := re.search(r"points beyond retention policy dropped=(\d+)", reason):
            return PointsBeyondRetention(message, int(found[1]))
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


def _clean(text: str, endpoint: Endpoint) -> str:
    return text.replace(endpoint.secret, "***") if endpoint.secret else text


class V1Transport:
    """InfluxDB 1.x. `secret` is the password of `user`; without a user none is sent."""

    def __init__(self, endpoint: Endpoint, database: str, retention_policy: str = "") -> None:
        self._endpoint = endpoint
        self._database = database
        self._policy = retention_policy
        self._http = pool(endpoint)
        # urllib3.make_headers would encode the credential as Latin-1, which InfluxDB does not expect.
        credential = base64.b64encode(f"{endpoint.user}:{endpoint.secret}".encode()).decode()
        self._headers = {"Authorization": f"Basic {credential}"} if endpoint.user else {}

    def create(self, retention_s: int | None) -> None:
        # The store reports a policy that is there with another duration, or a lack of rights, as an error of the statement
        # in a 200: the operator's affair.
        duration = f" WITH DURATION {retention_s}s" if retention_s and not self._policy else ""
        statements = [f"CREATE DATABASE {_quoted(self._database)}{duration}"]
        if self._policy:
            statements.append(
                f"CREATE RETENTION POLICY {_quoted(self._policy)} ON {_quoted(self._database)} "
                f"DURATION {f'{retention_s}s' if retention_s else 'INF'} REPLICATION 1"
            )
        for statement in statements:
            try:
                self._query(statement, "creation of the database at")
            except PermanentError:
                pass
            except RetryableError as exc:
                if not exc.is_config_fault:
                    raise

    def write(self, lines: bytes) -> None:
        fields = {"db": self._database, "precision": "ms"} | ({"rp": self._policy} if self._policy else {})
        headers = {**self._headers, "Content-Type": "text/plain; charset=utf-8"}
        if self._endpoint.is_gzip:
            headers["Content-Encoding"] = "gzip"
            lines = gzip.compress(lines, GZIP_LEVEL)
        self._request("write to", f"/write?{urlencode(fields)}", lines, headers)

    def read_back(self, spans: Sequence[Span], measurements: Sequence[str]) -> Iterator[StoredRow]:
        names = ", ".join(map(_quoted, measurements))
        for some in _slices(spans, 200):
            statements = [
                f"SELECT * FROM {names} WHERE instance = {_text(s.instance)} AND epoch = {_text(str(s.epoch or ''))} "
                f"AND time >= {s.from_ms}ms AND time < {s.to_ms}ms GROUP BY * ORDER BY time DESC LIMIT 3"
                for s in some
            ]
            for source in sorted({s.source for s in some}):
                statements.append(
                    f"SELECT * FROM gap WHERE source = {_text(source)} AND time >= {min(s.from_ms for s in some)}ms "
                    f"AND time < {max(s.to_ms for s in some)}ms GROUP BY *"
                )
            for result in self._query(";".join(statements), "reading back from").get("results", ()):
                for series in result.get("series", ()):
                    for values in series["values"]:
                        row = dict(zip(series["columns"], values, strict=True))
                        ts_ms = row.pop("time")
                        tags = {k: v for k, v in series.get("tags", {}).items() if v}
                        yield StoredRow(series["name"], tags, ts_ms, {k: v for k, v in row.items() if v is not None})

    def close(self) -> None:
        self._http.clear()

    def _query(self, q: str, action: str) -> dict[str, Any]:
        fields = {"q": q, "db": self._database, "epoch": "ms"}
        if self._policy:
            fields["rp"] = self._policy
        headers = {
            **self._headers,
            "Content-Type": "application/x-www-form-urlencoded",
            # JSON would not tell a float 1.0 from an integer 1.
            "Accept": "application/x-msgpack",
        }
        data = self._request(action, "/query", urlencode(fields).encode(), headers)
        try:
            document: dict[str, Any] = msgspec.msgpack.decode(data, type=dict)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise PermanentError(f"{action} {self._endpoint.url}: the answer is not msgpack") from None
        return document

    def _request(self, action: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        try:
            answer = self._http.request("POST", self._endpoint.url + path, body=body, headers=headers)
        except urllib3.exceptions.HTTPError as exc:
            raise connection_fault(action, self._endpoint, exc) from None
        if not 200 <= answer.status < 300:
            raise fault(action, self._endpoint, answer.status, answer.headers, answer.data)
        return answer.data


class V2Transport:
    """InfluxDB 2.x and what speaks its `/api/v2/write`; `secret` is the token, or empty where none is asked for.

    influxdb-client is imported when the first one is made (122 ms and 30 MiB).
    """

    def __init__(self, endpoint: Endpoint, org: str, bucket: str) -> None:
        from influxdb_client.client.influxdb_client import InfluxDBClient
        from influxdb_client.service.write_service import WriteService

        self._endpoint = endpoint
        self._org = org
        self._bucket = bucket
        if not endpoint.verify_tls:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._client: Any = InfluxDBClient(
            endpoint.url,
            endpoint.secret,
            org=org,
            timeout=max(1, round(endpoint.timeout_s * 1000)),
            retries=False,
            verify_ssl=endpoint.verify_tls,
            ssl_ca_cert=str(endpoint.ca_file) if endpoint.ca_file else None,
        )
        # The client's WriteApi would join the lines again and compress them at the dearest level.
        writer: Any = WriteService
        self._writer = writer(self._client.api_client)

    def create(self, retention_s: int | None) -> None:
        from influxdb_client.domain.bucket_retention_rules import BucketRetentionRules
        from influxdb_client.rest import ApiException

        def make() -> None:
            buckets = self._client.buckets_api()
            try:
                if getattr(buckets.find_buckets(name=self._bucket, org=self._org), "buckets", None):
                    return
            except ApiException as exc:
                if exc.status != 404:
                    raise
            rule: Any = BucketRetentionRules
            rules = [rule(type="expire", every_seconds=retention_s)] if retention_s else []
            buckets.create_bucket(bucket_name=self._bucket, org=self._org, retention_rules=rules)

        try:
            self._call("creation of the bucket at", make)
        except PermanentError:
            pass
        except RetryableError as exc:
            # A token that may only write, or a store without buckets: what is missing shows when we write.
            if not exc.is_config_fault:
                raise

    def write(self, lines: bytes) -> None:
        encoding = {}
        if self._endpoint.is_gzip:
            encoding = {"content_encoding": "gzip"}
            lines = gzip.compress(lines, GZIP_LEVEL)
        # Without _preload_content the client would decode the answer itself, and fail on a proxy's page in another encoding.
        send = partial(self._writer.post_write, self._org, self._bucket, lines, precision="ms", _preload_content=False)
        answer = self._call("write to", partial(send, content_type="text/plain; charset=utf-8", **encoding))
        answer.drain_conn()
        answer.release_conn()

    def read_back(self, spans: Sequence[Span], measurements: Sequence[str]) -> Iterator[StoredRow]:
        wanted = " or ".join(f"r._measurement == {_quoted(m)}" for m in measurements)
        for some in _slices(spans, 50):
            parts = []
            for i, s in enumerate(some):
                epoch = f"r.epoch == {_quoted(str(s.epoch))}" if s.epoch else "not exists r.epoch"
                who = f"r.instance == {_quoted(s.instance)} and {epoch} and ({wanted})"
                bounds = self._flux_range(s.from_ms, s.to_ms)
                parts.append(f'{bounds} |> filter(fn: (r) => {who}) |> tail(n: 3) |> yield(name: "{i}")')
            for source in sorted({s.source for s in some}):
                who = f'r._measurement == "gap" and r.source == {_quoted(source)}'
                bounds = self._flux_range(min(s.from_ms for s in some), max(s.to_ms for s in some))
                parts.append(f'{bounds} |> filter(fn: (r) => {who}) |> yield(name: "gap")')
            query = partial(self._client.query_api().query, "\n".join(parts))
            for table in self._call("reading back from", query):
                for record in table.records:
                    values = record.values
                    hidden = ("result", "table")
                    tags = {k: v for k, v in values.items() if not k.startswith("_") and k not in hidden and v}
                    ts_ms = round(record.get_time().timestamp() * 1000)
                    yield StoredRow(record.get_measurement(), tags, ts_ms, {record.get_field(): record.get_value()})

    def close(self) -> None:
        self._client.close()

    def _flux_range(self, from_ms: int, to_ms: int) -> str:
        times = f"start: time(v: {from_ms * 1_000_000}), stop: time(v: {to_ms * 1_000_000})"
        return f"from(bucket: {_quoted(self._bucket)}) |> range({times})"

    def _call(self, action: str, call: Callable[[], Any]) -> Any:
        from influxdb_client.client.exceptions import InfluxDBError
        from influxdb_client.rest import ApiException

        try:
            return call()
        except ApiException as exc:
            if not exc.status:
                # The client turns a refused certificate into an answer with status 0.
                raise connection_fault(action, self._endpoint, urllib3.exceptions.SSLError(exc.reason)) from None
            raise fault(action, self._endpoint, exc.status, exc.headers or {}, exc.body or "") from None
        except urllib3.exceptions.HTTPError as exc:
            raise connection_fault(action, self._endpoint, exc) from None
        except UnicodeDecodeError:
            raise RetryableError(f"{action} {self._endpoint.url}: the answer is not UTF-8") from None
        except InfluxDBError as exc:
            raise PermanentError(f"{action} {self._endpoint.url}: {_clean(str(exc), self._endpoint)}") from None


def _quoted(text: str, quote: str = '"') -> str:
    """An identifier of InfluxQL or a string of Flux."""
    return quote + text.replace("\\", "\\\\").replace(quote, "\\" + quote).replace("\n", "\\n") + quote


def _text(text: str) -> str:
    """A string of InfluxQL."""
    return _quoted(text, "'")


def _slices(items: Sequence[Span], size: int) -> Iterable[Sequence[Span]]:
    return (items[i : i + size] for i in range(0, len(items), size))

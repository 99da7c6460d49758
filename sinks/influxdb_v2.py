"""Speaks to InfluxDB 2.x, and writes to what speaks its `/api/v2/write`, through influxdb-client. Nothing is tried again."""

import gzip
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import urllib3

from tidegauge.pipeline.errors import PermanentError, RetryableError
from tidegauge.sinks.influxdb_http import (
    GZIP_LEVEL,
    Endpoint,
    Retention,
    Span,
    StoredRow,
    clean,
    connection_fault,
    fault,
    quoted,
    slices,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


class V2Transport:
    """InfluxDB 2.x and what speaks its `/api/v2/write`; `secret` is the token, or empty where none is asked for.

    influxdb-client is imported when the first one is made (122 ms and 30 MiB).
    """

    def __init__(self, endpoint: Endpoint, org: str, bucket: str) -> None:
        from influxdb_client.client.influxdb_client import InfluxDBClient
        from influxdb_client.service.write_service import WriteService

        self._endpoint = endpoint
        self.org = org
        self.bucket = bucket
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
        def make() -> None:
            if self._bucket(self.bucket) is None:
                self._make_bucket(self.bucket, retention_s)

        try:
            self._call("creation of the bucket at", make)
        except PermanentError:
            pass
        except RetryableError as exc:
            # A token that may only write, or a store without buckets: what is missing shows when we write.
            if not exc.is_config_fault:
                raise

    def retention(self, name: str = "") -> Retention | None:
        name = name or self.bucket
        try:
            found = self._call("question to", lambda: self._bucket(name))
        except PermanentError:
            return None
        except RetryableError as exc:
            if not exc.is_config_fault:
                raise
            return None
        if found is None:
            return None
        rules = [r.every_seconds for r in found.retention_rules or () if r.every_seconds]
        command = f"influx bucket update --id {found.id} --retention {{}}"
        return Retention(name, f"bucket {name}", rules[0] if rules else None, command)

    def make_bucket(self, name: str, retention_s: int | None) -> None:
        """Raises SinkError where it is there already or the token may not."""
        self._call("creation of the bucket at", lambda: self._make_bucket(name, retention_s))

    def stored_fields(self) -> dict[str, list[str]]:
        """Names of fields by measurement: of 2.x unknown, so that only the catalogue's are taken."""
        return {}

    def set_task(self, name: str, flux: str) -> bool:
        """Makes or changes a task; False if it was right already."""
        from influxdb_client.domain.task_create_request import TaskCreateRequest
        from influxdb_client.domain.task_update_request import TaskUpdateRequest

        def set_it() -> bool:
            tasks = self._client.tasks_api()
            found = next((t for t in tasks.find_tasks(name=name, org=self.org) if t.name == name), None)
            create: Any = TaskCreateRequest
            update: Any = TaskUpdateRequest
            if found is None:
                tasks.create_task(task_create_request=create(org=self.org, flux=flux, status="active"))
            elif found.flux.strip() != flux.strip():
                tasks.update_task_request(found.id, update(flux=flux))
            else:
                return False
            return True

        return bool(self._call("creation of a task at", set_it))

    def _bucket(self, name: str) -> Any | None:
        from influxdb_client.rest import ApiException

        try:
            found = getattr(self._client.buckets_api().find_buckets(name=name, org=self.org), "buckets", None)
        except ApiException as exc:
            if exc.status != 404:
                raise
            return None
        return next(iter(found or ()), None)

    def _make_bucket(self, name: str, retention_s: int | None) -> None:
        from influxdb_client.domain.bucket_retention_rules import BucketRetentionRules

        rule: Any = BucketRetentionRules
        rules = [rule(type="expire", every_seconds=retention_s)] if retention_s else []
        self._client.buckets_api().create_bucket(bucket_name=name, org=self.org, retention_rules=rules)

    def write(self, lines: bytes) -> None:
        encoding = {}
        if self._endpoint.is_gzip:
            encoding = {"content_encoding": "gzip"}
            lines = gzip.compress(lines, GZIP_LEVEL)
        # Without _preload_content the client would decode the answer itself, and fail on a proxy's page in another encoding.
        send = partial(self._writer.post_write, self.org, self.bucket, lines, precision="ms", _preload_content=False)
        answer = self._call("write to", partial(send, content_type="text/plain; charset=utf-8", **encoding))
        answer.drain_conn()
        answer.release_conn()

    def read_back(self, spans: Sequence[Span], measurements: Sequence[str]) -> Iterator[StoredRow]:
        wanted = " or ".join(f"r._measurement == {quoted(m)}" for m in measurements)
        for some in slices(spans, 50):
            parts = []
            for i, s in enumerate(some):
                epoch = f"r.epoch == {quoted(str(s.epoch))}" if s.epoch else "not exists r.epoch"
                who = f"r.instance == {quoted(s.instance)} and {epoch} and ({wanted})"
                bounds = self.from_bucket(s.from_ms, s.to_ms)
                parts.append(f'{bounds} |> filter(fn: (r) => {who}) |> tail(n: 3) |> yield(name: "{i}")')
            for source in sorted({s.source for s in some}):
                who = f'r._measurement == "gap" and r.source == {quoted(source)}'
                bounds = self.from_bucket(min(s.from_ms for s in some), max(s.to_ms for s in some))
                parts.append(f'{bounds} |> filter(fn: (r) => {who}) |> yield(name: "gap")')
            yield from self._ask("reading back from", "\n".join(parts))

    def ask(self, flux: str) -> Iterator[StoredRow]:
        """One field a row, as the answer comes; `_` before a name hides it, but for those of a line. Any thread."""
        yield from self._ask("question to", flux)

    def from_bucket(self, from_ms: int, to_ms: int) -> str:
        """Flux of everything from one time to before the other."""
        times = f"start: time(v: {from_ms * 1_000_000}), stop: time(v: {to_ms * 1_000_000})"
        return f"from(bucket: {quoted(self.bucket)}) |> range({times})"

    def _ask(self, action: str, flux: str) -> Iterator[StoredRow]:
        records = self._call(action, partial(self._client.query_api().query_stream, flux))
        hidden = ("result", "table")
        while (record := self._call(action, partial(next, records, None))) is not None:
            values = record.values
            tags = {k: v for k, v in values.items() if not k.startswith("_") and k not in hidden and v}
            at = values.get("_time")
            # Whole milliseconds: a float of today's seconds would do, but not one of the year 2262.
            ts_ms = 0 if at is None else (at - _EPOCH) // _MS
            yield StoredRow(values.get("_measurement", ""), tags, ts_ms, {values.get("_field", ""): values.get("_value")})

    def close(self) -> None:
        self._client.close()

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
            raise PermanentError(f"{action} {self._endpoint.url}: {clean(str(exc), self._endpoint)}") from None

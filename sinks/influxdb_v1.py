"""Speaks to InfluxDB 1.x: `/write` and `/query`. One request a call; nothing is tried again."""

import base64
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec
import urllib3

from tidegauge.pipeline.errors import PermanentError, RetryableError
from tidegauge.sinks.influxdb_downsampling import seconds
from tidegauge.sinks.influxdb_http import (
    GZIP_LEVEL,
    Endpoint,
    Retention,
    Span,
    StoredRow,
    clean,
    connection_fault,
    fault,
    literal,
    pool,
    quoted,
    slices,
)


class V1Transport:
    """InfluxDB 1.x. `secret` is the password of `user`; without a user none is sent."""

    def __init__(self, endpoint: Endpoint, database: str, retention_policy: str = "") -> None:
        self._endpoint = endpoint
        self.database = database
        self.policy = retention_policy
        self._http = pool(endpoint)
        # urllib3.make_headers would encode the credential as Latin-1, which InfluxDB does not expect.
        credential = base64.b64encode(f"{endpoint.user}:{endpoint.secret}".encode()).decode()
        self._headers = {"Authorization": f"Basic {credential}"} if endpoint.user else {}

    def create(self, retention_s: int | None) -> None:
        # The store reports a policy that is there with another duration, or a lack of rights, as an error of the statement
        # in a 200: the operator's affair.
        duration = f" WITH DURATION {retention_s}s" if retention_s and not self.policy else ""
        statements = [f"CREATE DATABASE {quoted(self.database)}{duration}"]
        if self.policy:
            statements.append(
                f"CREATE RETENTION POLICY {quoted(self.policy)} ON {quoted(self.database)} "
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

    def retention(self, name: str = "") -> Retention | None:
        name = name or self.policy
        database = quoted(self.database)
        try:
            rows = self.execute(f"SHOW RETENTION POLICIES ON {database}")
        except PermanentError:
            return None
        except RetryableError as exc:
            if not exc.is_config_fault:
                raise
            return None
        row = next((r for r in rows if (r["name"] == name if name else r["default"])), None)
        if row is None:
            return None
        command = f"ALTER RETENTION POLICY {quoted(row['name'])} ON {database} DURATION {{}}"
        place = f"retention policy {row['name']} of database {self.database}"
        return Retention(row["name"], place, seconds(row["duration"]) or None, command)

    def stored_fields(self) -> dict[str, list[str]]:
        """Names of fields by measurement."""
        found: dict[str, list[str]] = {}
        for document in self.ask("SHOW FIELD KEYS", self._endpoint.timeout_s, 10_000):
            for series in (s for r in document.get("results", ()) for s in r.get("series", ())):
                found.setdefault(series["name"], []).extend(values[0] for values in series["values"])
        return found

    def continuous_queries(self) -> dict[str, str]:
        """Those of the database by name, as the store spells them. Raises SinkError."""
        found: dict[str, str] = {}
        for document in self.ask("SHOW CONTINUOUS QUERIES", self._endpoint.timeout_s, 10_000):
            for series in (s for r in document.get("results", ()) for s in r.get("series", ())):
                if series["name"] == self.database:
                    found |= dict(series.get("values", ()))
        return found

    def execute(self, statement: str) -> list[dict[str, Any]]:
        """Rows of the answer by column. PermanentError for what the store refuses or does not understand."""
        rows = []
        for document in self.ask(statement, self._endpoint.timeout_s, 10_000):
            for series in (s for r in document.get("results", ()) for s in r.get("series", ())):
                rows += [dict(zip(series["columns"], values, strict=True)) for values in series.get("values", ())]
        return rows

    def write(self, lines: bytes) -> None:
        fields = {"db": self.database, "precision": "ms"} | ({"rp": self.policy} if self.policy else {})
        headers = {**self._headers, "Content-Type": "text/plain; charset=utf-8"}
        if self._endpoint.is_gzip:
            headers["Content-Encoding"] = "gzip"
            lines = gzip.compress(lines, GZIP_LEVEL)
        self._request("write to", f"/write?{urlencode(fields)}", lines, headers)

    def read_back(self, spans: Sequence[Span], measurements: Sequence[str]) -> Iterator[StoredRow]:
        names = ", ".join(map(quoted, measurements))
        for some in slices(spans, 200):
            statements = [
                f"SELECT * FROM {names} WHERE instance = {literal(s.instance)} AND epoch = {literal(str(s.epoch or ''))} "
                f"AND time >= {s.from_ms}ms AND time < {s.to_ms}ms GROUP BY * ORDER BY time DESC LIMIT 3"
                for s in some
            ]
            for source in sorted({s.source for s in some}):
                statements.append(
                    f"SELECT * FROM gap WHERE source = {literal(source)} AND time >= {min(s.from_ms for s in some)}ms "
                    f"AND time < {max(s.to_ms for s in some)}ms GROUP BY *"
                )
            for result in self._query(";".join(statements), "reading back from").get("results", ()):
                for series in result.get("series", ()):
                    for values in series["values"]:
                        row = dict(zip(series["columns"], values, strict=True))
                        ts_ms = row.pop("time")
                        tags = {k: v for k, v in series.get("tags", {}).items() if v}
                        yield StoredRow(series["name"], tags, ts_ms, {k: v for k, v in row.items() if v is not None})

    def ask(self, q: str, limit_s: float, chunk_rows: int) -> Iterator[dict[str, Any]]:
        """The answer in documents of at most so many rows each, as they come; `limit_s` is for each wait. Any thread.

        Raises PermanentError for what the store does not understand.
        """
        action = "question to"
        fields = {"q": q, "db": self.database, "epoch": "ms", "chunked": "true", "chunk_size": str(chunk_rows)}
        if self.policy:
            fields["rp"] = self.policy
        headers = {**self._headers, "Content-Type": "application/x-www-form-urlencoded"}
        answer = self._send(action, "/query", urlencode(fields).encode(), headers, preload_content=False, timeout=limit_s)
        try:
            for line in answer:
                document = json.loads(line)
                for result in (document, *document.get("results", ())):
                    if "error" in result:
                        raise PermanentError(f"{action} {self._endpoint.url}: {clean(str(result['error']), self._endpoint)}")
                yield document
        except (ValueError, AttributeError):
            raise PermanentError(f"{action} {self._endpoint.url}: the answer is not JSON") from None
        except urllib3.exceptions.HTTPError as exc:
            raise connection_fault(action, self._endpoint, exc) from None
        finally:
            # Half read, a connection is of no more use.
            answer.close()

    def close(self) -> None:
        self._http.clear()

    def _query(self, q: str, action: str) -> dict[str, Any]:
        fields = {"q": q, "db": self.database, "epoch": "ms"}
        if self.policy:
            fields["rp"] = self.policy
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
        return self._send(action, path, body, headers).data

    def _send(
        self, action: str, path: str, body: bytes, headers: Mapping[str, str], **options: Any
    ) -> urllib3.BaseHTTPResponse:
        try:
            answer = self._http.request("POST", self._endpoint.url + path, body=body, headers=headers, **options)
            if not 200 <= answer.status < 300:
                raise fault(action, self._endpoint, answer.status, answer.headers, answer.data)
        except urllib3.exceptions.HTTPError as exc:
            raise connection_fault(action, self._endpoint, exc) from None
        return answer

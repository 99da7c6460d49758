"""Sets up what lies in InfluxDB beside the samples: retention, checked against what is there, and downsampling.

Every call may be made again and leaves what is right as it is. What a person may have chosen otherwise (a retention) is told,
never changed.
"""

from collections.abc import Iterator, Mapping, Sequence

from tidegauge.pipeline.errors import PermanentError
from tidegauge.sinks import influxdb_downsampling as downsampling
from tidegauge.sinks.influxdb_downsampling import Fields, Step, duration
from tidegauge.sinks.influxdb_http import Retention, quoted
from tidegauge.sinks.influxdb_v1 import V1Transport
from tidegauge.sinks.influxdb_v2 import V2Transport


def difference(found: Retention | None, wanted_s: int | None) -> str | None:
    """What to tell where the store keeps data for another time than is configured; None where it does as it should."""
    if found is None or found.seconds == wanted_s:
        return None
    there, wanted = ("for ever" if s is None else f"for {duration(s)}" for s in (found.seconds, wanted_s))
    return (
        f"{found.place} keeps data {there}, configured is {wanted}: it is left as it is; to change it: {found.remedy(wanted_s)}"
    )


class Downsampling:
    """Of one store and one resolution. Raises SinkError."""

    def __init__(self, transport: V1Transport | V2Transport, step: Step) -> None:
        self._transport = transport
        self._step = step

    def apply(self) -> Iterator[str]:
        """Makes place and queries; yields a line for each thing done or found otherwise than asked for."""
        if isinstance(self._transport, V1Transport):
            yield from self._apply_v1(self._transport)
        else:
            yield from self._apply_v2(self._transport)

    def texts(self) -> Iterator[str]:
        """The queries or tasks, without making them."""
        for measurement, of in self._fields().items():
            yield self._text(measurement, of)

    def backfill(self, since_s: int, until_s: int) -> Iterator[str]:
        """1.x: makes the windows of that time now; yields each statement once it has run. PermanentError on 2.x."""
        if not isinstance(self._transport, V1Transport):
            raise PermanentError("windows of the past: on InfluxDB 2 run the tasks again from its own page or command")
        database, source = self._transport.database, self._source(self._transport)
        for measurement, of in self._fields().items():
            for statement in downsampling.backfill(self._step, database, source, measurement, of, (since_s, until_s)):
                self._transport.execute(statement)
                yield statement

    def _text(self, measurement: str, of: Fields) -> str:
        transport = self._transport
        if isinstance(transport, V1Transport):
            source = self._source(transport)
            return downsampling.continuous_query(self._step, transport.database, source, measurement, of)
        return downsampling.task(self._step, transport.bucket, transport.org, measurement, of)

    def _fields(self) -> Mapping[str, Fields]:
        return downsampling.fields(self._transport.stored_fields())

    def _source(self, transport: V1Transport) -> str:
        if transport.policy:
            return transport.policy
        found = transport.retention()
        if found is None:
            raise PermanentError(f"database {transport.database} is not there, or may not be asked")
        return found.name

    def _apply_v1(self, transport: V1Transport) -> Iterator[str]:
        step, database = self._step, quoted(transport.database)
        name = downsampling.policy_name(step)
        if transport.retention(name) is None:
            keep = "INF" if step.retention_s is None else f"{step.retention_s}s"
            transport.execute(f"CREATE RETENTION POLICY {quoted(name)} ON {database} DURATION {keep} REPLICATION 1")
            yield f"made the retention policy {name}"
        elif text := difference(transport.retention(name), step.retention_s):
            yield text
        there = transport.continuous_queries()
        for measurement, of in self._fields().items():
            query = downsampling.query_name(step, measurement)
            text = self._text(measurement, of)
            if _same(there.get(query, ""), text):
                continue
            if query in there:
                transport.execute(f"DROP CONTINUOUS QUERY {quoted(query)} ON {database}")
            transport.execute(text)
            yield f"made the continuous query {query}"

    def _apply_v2(self, transport: V2Transport) -> Iterator[str]:
        step = self._step
        bucket = downsampling.bucket_name(step, transport.bucket)
        if transport.retention(bucket) is None:
            transport.make_bucket(bucket, step.retention_s)
            yield f"made the bucket {bucket}"
        elif text := difference(transport.retention(bucket), step.retention_s):
            yield text
        for measurement, of in self._fields().items():
            name = downsampling.task_name(step, transport.bucket, measurement)
            if transport.set_task(name, self._text(measurement, of)):
                yield f"made the task {name}"


def _same(there: str, text: str) -> bool:
    """Whether the store's own spelling of a query says the same: it leaves out quotes and spaces where it can."""

    def bare(query: str) -> Sequence[str]:
        return query.replace('"', "").replace("(", " ( ").replace(")", " ) ").replace(",", " , ").split()

    return bare(there) == bare(text)

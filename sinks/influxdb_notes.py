"""Lines of records that are no samples: the measurements `event`, `gap`, `container_info` and `container_end`. No I/O.

`row` is the row number of the journal. Numbers of containers are within one agent, whose name is the tag `host` of all but
`container_info`, where that is the container's host and the agent a field.
"""

import msgspec

from tidegauge.pipeline.rates import max_silence_ms
from tidegauge.pipeline.records import Container, End, Event, Gap
from tidegauge.sinks.line_protocol import MAX_TS_MS, NoLine, container_tags, escape_string, series_key

_INFO = ("runtime", "container_id", "pod", "pod_namespace", "pod_uid")
"""Text of a container's record that is told beside its tags."""


def note_line(record: Container | Event | Gap | End, agent: str) -> bytes:
    """The record's line. NoLine where a store could not hold its time or its series."""
    if isinstance(record, Container):
        return _container_info(record, agent)
    fields = b"row=%di" % record.row
    tags = {"host": agent}
    if record.container is not None:
        tags["container_number"] = str(record.container)
    if isinstance(record, End):
        return _line("container_end", tags, fields, record.ts_ms)
    if isinstance(record, Gap):
        tags |= {"source": record.source, "reason": record.reason}
        fields += b",to_ms=%di" % record.to_ms
        if record.rows is not None:
            fields += b",rows=%di" % record.rows
        return _line("gap", tags, fields, record.from_ms)
    tags["kind"] = record.kind
    details = msgspec.json.encode(record.details, order="deterministic").decode()
    return _line("event", tags, fields + b",details=" + escape_string(details), record.ts_ms)


def _container_info(record: Container, agent: str) -> bytes:
    """What is known of a container from now on. Labels are the runner's to choose, and it chooses those of samples."""
    tags = container_tags(msgspec.structs.replace(record, labels={})) | {"container_number": str(record.number)}
    texts = {"source": record.source, "agent": agent, "aliases": msgspec.json.encode(record.aliases).decode()}
    texts |= {name: found for name in _INFO if (found := getattr(record, name)) is not None}
    fields = b"row=%di,created_ms=%di,silence_ms=%di," % (record.row, record.created_ms, max_silence_ms(record))
    fields += b",".join(b"%s=%s" % (name.encode(), escape_string(value)) for name, value in texts.items())
    return _line("container_info", tags, fields, record.valid_from_ms)


def _line(measurement: str, tags: dict[str, str], fields: bytes, ts_ms: int) -> bytes:
    if not -MAX_TS_MS <= ts_ms <= MAX_TS_MS:
        raise NoLine(f"time {ts_ms} ms: expected one within +-{MAX_TS_MS}")
    return b"%s %s %d" % (series_key(measurement, tags), fields, ts_ms)

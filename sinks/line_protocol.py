"""InfluxDB line protocol: one line a sample with all its fields, and one a row of an instance table. No I/O.

Layout: measurement `host` for the container `/`, `container` for every other, and the table's name for a table row. Tags:
`host`, `container` (path), `instance`, `epoch` where it is not 0, `name`, `image`, `namespace`, every label as
`label_<key>`, and in table rows the table's label (`interface`, `device`, `cpu` ...; `custom_instance` for the table
`custom`, since `instance` is taken). Fields are the metrics' names; a value that is None has no field, a sample without
values no line. Closing samples carry `is_closing=true`. Times are ms: the writer says precision=ms.

An int is an integer field, but a float field for metrics in seconds, ratios and numbers; a float is a float field. A store
fixes a field's type at its first value.

What has no line is rejected with a reason and never sent, since VictoriaMetrics answers 204 to a malformed line and drops
it: unknown container or schema, a value out of 64 bit or not finite, a time out of range, a series key over 65535 bytes.

Text without an exact form in tags is written as what is nearest: newline, carriage return and tab as `\\n`, `\\r`, `\\t`; a
backslash before a comma, an equals sign or a space is doubled, and text that ends in a backslash gets a space after it.
InfluxDB alone could be told some of these exactly, but VictoriaMetrics would take the line apart.

Source: InfluxDB line protocol reference, v1.6 and v2; parsers of influxd 1.6.7 and VictoriaMetrics 1.79 (tests).
"""

import re
import struct
from collections.abc import Callable, Sequence
from math import isfinite
from operator import itemgetter
from typing import Any, Protocol

from tidegauge.pipeline.records import MAX_INT, Batch, Container, Metric, Sample, Schema, TableSchema

MAX_KEY_BYTES = 65535
"""Longest series key (measurement and tags) that InfluxDB takes."""
MAX_TS_MS = (2**63 - 2) // 1_000_000
"""Stores hold ns in 64 bit; beyond +-this many ms InfluxDB answers `time outside range`."""

_CACHE_LIMIT = 20_000
_MIN_INT = -(2**63)
_FLOAT_UNITS = ("seconds", "ratio", "number")
_RESERVED = frozenset(("host", "container", "instance", "epoch", "name", "image", "namespace"))
_SPECIAL = re.compile(r"[,= \\\n\r\t]")
_BACKSLASHES = re.compile(r"(?<!\\)(\\++)(?=[,= ])")  # from its beginning and whole: any other way is quadratic
_ESCAPES = str.maketrans({",": r"\,", "=": r"\=", " ": r"\ ", "\n": r"\n", "\r": r"\r", "\t": r"\t"})


class NoLine(ValueError):
    """A row has no line; the message is the reason."""


def escape(text: str) -> bytes:
    """A measurement, tag key, tag value or field key as it stands in a line. Never empty for text that is not."""
    if _SPECIAL.search(text):
        if text.endswith("\\"):
            text += " "
        text = _BACKSLASHES.sub(lambda m: m[1] + "\\" * (len(m[1]) % 2), text).translate(_ESCAPES)
    return text.encode("utf-8", "backslashreplace")


def escape_string(text: str) -> bytes:
    """A string field with its quotes."""
    return b'"' + text.replace("\\", "\\\\").replace('"', '\\"').encode("utf-8", "backslashreplace") + b'"'


def series_key(measurement: str, tags: dict[str, str]) -> bytes:
    """Measurement and tags, sorted by key; tags without a value are left out. NoLine if it is too long."""
    # By escaped key: two labels that differ in what has no exact form would be one tag twice, which stores refuse.
    escaped = {escape(k): escape(v) for k, v in sorted(tags.items()) if k and v}
    key = b",".join([escape(measurement), *(k + b"=" + v for k, v in escaped.items())])
    if len(key) > MAX_KEY_BYTES:
        raise NoLine(f"series key of {len(key)} bytes: expected at most {MAX_KEY_BYTES}")
    return key


def container_tags(container: Container) -> dict[str, str]:
    """Tags of a container's lines, as its record has them."""
    tags = {f"label_{k}": v for k, v in container.labels.items()}
    tags |= {"host": container.host, "container": container.path, "instance": container.instance}
    if container.epoch:
        tags["epoch"] = str(container.epoch)
    for key in ("name", "image", "namespace"):
        if value := getattr(container, key):
            tags[key] = value
    return tags


def instance_tag(table: TableSchema) -> str:
    """Tag key of a table's instance label, which may not hide a tag of the container."""
    return table.instance_label if table.instance_label not in _RESERVED else f"{table.name}_{table.instance_label}"


class _Template:
    """Format of the fields of one pattern of value types, which has at least one value."""

    __slots__ = ("absent", "floats", "format", "nones", "pack", "pick")

    def __init__(self, form: bytes, types: Sequence[type]) -> None:
        present = [i for i, kind in enumerate(types) if kind is not type(None)]
        absent = [i for i, kind in enumerate(types) if kind is type(None)]
        self.format = form
        self.pack: Callable[..., bytes] = struct.Struct("".join("d" if types[i] is float else "q" for i in present)).pack
        """Raises struct.error unless it is given as many values as there are fields, each within 64 bit."""
        self.floats = [at for at, i in enumerate(present) if types[i] is float]
        self.pick = _picker(present, len(types))
        self.absent = _picker(absent, len(types)) if absent else None
        self.nones = (None,) * len(absent)


def _picker(indexes: Sequence[int], width: int) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """Takes these of `width` values, as a tuple."""
    if len(indexes) == width:
        return tuple
    if len(indexes) > 1:
        return itemgetter(*indexes)
    return lambda values: tuple(values[i] for i in indexes)


class _Shape:
    """Fields of one list of metrics (a schema's or a table's), with a template for each pattern of types met twice."""

    __slots__ = ("_formats", "_last", "_templates", "_width")

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._width = len(metrics)
        names = [escape(m.name).replace(b"%", b"%%") for m in metrics]
        integers = [b"=%d" if m.unit in _FLOAT_UNITS else b"=%di" for m in metrics]
        self._formats = [(name + integer, name + b"=%a") for name, integer in zip(names, integers, strict=True)]
        self._templates: tuple[dict[tuple[type, ...], _Template | None], ...] = ({}, {})
        self._last: list[_Template | None] = [None, None]

    def render(self, values: Sequence[Any], ts_ms: int, is_closing: bool) -> bytes:
        """Fields and time, with a leading space; b"" if there is no value. NoLine for a value without a form."""
        # The template of the sample before fits nearly always, and trying it is cheaper than asking each value's type:
        # `pack` proves the present ones integers, `nones` the others None.
        last = self._last[is_closing]
        if last is not None and len(values) == self._width and (last.absent is None or last.absent(values) == last.nones):
            picked = last.pick(values)
            try:
                last.pack(*picked)
            except struct.error:
                pass
            else:
                return last.format % (*picked, ts_ms)
        return self._by_types(values, ts_ms, is_closing)

    def _by_types(self, values: Sequence[Any], ts_ms: int, is_closing: bool) -> bytes:
        templates = self._templates[is_closing]
        types = tuple(map(type, values))
        template = templates.get(types)
        if template is not None:
            picked = template.pick(values)
            try:
                template.pack(*picked)
            except struct.error:
                pass  # One by one, the value to blame is named.
            else:
                if all(isfinite(picked[i]) for i in template.floats):
                    if not template.floats:
                        self._last[is_closing] = template
                    return template.format % (*picked, ts_ms)
        form, present = self._one_by_one(values, is_closing)
        if not present:
            return b""
        if types in templates:
            templates[types] = _Template(form, types)
        else:
            if len(templates) >= 1000:
                templates.clear()
            templates[types] = None
        return form % (*present, ts_ms)

    def _one_by_one(self, values: Sequence[Any], is_closing: bool) -> tuple[bytes, list[int | float]]:
        """Format of fields and time, and the values that are there."""
        if len(values) != self._width:
            raise NoLine(f"{len(values)} values: expected {self._width} by the schema")
        forms, present = [], []
        for value, (integer, real) in zip(values, self._formats, strict=True):
            if value is None:
                continue
            kind = type(value)
            if kind is int and _MIN_INT <= value <= MAX_INT:
                forms.append(integer)
            elif kind is float and isfinite(value):
                forms.append(real)
            else:
                name = real.partition(b"=")[0].decode()
                raise NoLine(f"{name}: expected an integer of 64 bit, a finite number or None, got {value!r:.40}")
            present.append(value)
        if is_closing:
            forms.append(b"is_closing=true")
        return b" " + b",".join(forms) + b" %d", present


class _Prefixes:
    """Series keys of one container record."""

    __slots__ = ("_tags", "container", "own", "tables")

    def __init__(self, container: Container) -> None:
        self.container = container
        self._tags = container_tags(container)
        self.own = series_key("host" if container.is_host else "container", self._tags)
        self.tables: dict[tuple[str, Any], bytes] = {}

    def of_row(self, table: TableSchema, name: Any) -> bytes:
        key = self.tables.get((table.name, name))
        if key is None:
            if not isinstance(name, str) or not name:
                raise NoLine(f"{table.name}: a row without {table.instance_label}")
            if len(self.tables) >= _CACHE_LIMIT:
                self.tables.clear()
            key = self.tables[table.name, name] = series_key(table.name, self._tags | {instance_tag(table): name})
        return key


class SampleEncoder(Protocol):
    """Turns one sample into its lines, the same for the same three records. One thread at a time."""

    def encode_sample(self, container: Container, schema: Schema, sample: Sample) -> bytes:
        """The lines, joined by newlines, without one at the end; b"" if there are none. NoLine if one of them cannot be."""
        ...


def encode_batch(encoder: SampleEncoder, batch: Batch) -> tuple[list[bytes], dict[int, str]]:
    """Per row of the batch its lines, joined by newlines (b"" if it has none), and row number -> reason for those that
    are rejected, whose lines are b"".
    """
    lines: list[bytes] = []
    rejected: dict[int, str] = {}
    containers, schemas = batch.containers, batch.schemas
    for row, sample in zip(batch.rows, batch.samples, strict=True):
        try:
            container = containers.get(sample.container)
            schema = schemas.get(sample.schema)
            if container is None:
                raise NoLine(f"no record of container {sample.container}")
            if schema is None:
                raise NoLine(f"no record of schema {sample.schema}")
            lines.append(encoder.encode_sample(container, schema, sample))
        except NoLine as exc:
            rejected[row] = str(exc)
            lines.append(b"")
    return lines, rejected


class LineEncoder:
    """Turns samples into lines; keeps the escaped prefix of each container and a template per pattern of values.

    The lines depend on sample, schema and container record alone; what is kept only saves time. One thread at a time.
    """

    def __init__(self) -> None:
        self._schemas: dict[int, tuple[_Shape, list[_Shape]]] = {}
        self._prefixes: dict[int, _Prefixes] = {}

    def encode_batch(self, batch: Batch) -> tuple[list[bytes], dict[int, str]]:
        return encode_batch(self, batch)

    def encode_sample(self, container: Container, schema: Schema, sample: Sample) -> bytes:
        """The lines of one sample, joined by newlines, without one at the end. NoLine if one of them cannot be."""
        prefixes = self._prefixes.get(container.number)
        if prefixes is None or (prefixes.container is not container and prefixes.container != container):
            if len(self._prefixes) >= _CACHE_LIMIT:
                self._prefixes.clear()
            prefixes = self._prefixes[container.number] = _Prefixes(container)
        shapes = self._schemas.get(schema.id)
        if shapes is None:
            if len(self._schemas) >= 100:
                self._schemas.clear()
            shapes = self._schemas[schema.id] = (_Shape(schema.metrics), [_Shape(t.metrics) for t in schema.tables])
        ts_ms = sample.ts_ms
        if not -MAX_TS_MS <= ts_ms <= MAX_TS_MS:
            raise NoLine(f"time {ts_ms} ms: expected one within +-{MAX_TS_MS}")
        fields = shapes[0].render(sample.values, ts_ms, sample.is_closing)
        if not sample.tables:
            return prefixes.own + fields if fields else b""
        lines = [prefixes.own + fields] if fields else []
        if len(sample.tables) > len(schema.tables):
            raise NoLine(f"{len(sample.tables)} tables: expected {len(schema.tables)} by the schema")
        for table, shape, rows in zip(schema.tables, shapes[1], sample.tables, strict=False):
            for values in rows or ():
                if fields := shape.render(values[1:], ts_ms, sample.is_closing):
                    lines.append(prefixes.of_row(table, values[0]) + fields)
        return b"\n".join(lines)

"""What travels through the journal and through `Sink.write`: six record types, versioned by name and by appended fields.

Every record takes one row number of the journal; a `Batch` takes one a sample. On disk a record is a msgpack array of its
fields in order. A field may be added at the end with a default, never removed or moved: older and newer versions then read
each other's records. Unknown record types are skipped and counted by the reader.

Times are integer milliseconds UTC. A value is an int within 64 bit signed, a float, or None (not available, or not read);
never 0 for unknown.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any, TypeAlias

import msgspec

from tidegauge.pipeline.machine import Machine

Value: TypeAlias = int | float | None
Values: TypeAlias = tuple[Value, ...]
TableRow: TypeAlias = tuple[str | int | float | None, ...]
"""(instance name, value, value, ...): one interface, disk, CPU ... with its values in the order of the schema's table."""
TableRows: TypeAlias = tuple[TableRow, ...]

MAX_INT = 2**63 - 1
UNLIMITED = MAX_INT
"""Value of a limit that the kernel states as none (`max`, or v1's 0x7FFFFFFFFFFFF000)."""


class RecordType(IntEnum):
    """Type byte of a journal frame. Numbers are never reused."""

    SCHEMA = 1
    CONTAINER = 2
    SAMPLES = 3
    EVENT = 4
    GAP = 5
    END = 6


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"


class Metric(msgspec.Struct, frozen=True, array_like=True):
    """One metric, as the catalogue holds it. What follows `held_by_cpu` stays empty in a Schema."""

    name: str
    kind: Kind
    unit: str
    """ns, bytes, seconds, count, ratio, or number: a float in whatever unit its source has."""
    table: str
    """`sample`, `sample_host`, `sample_ext` for one value a container; else the name of an instance table; `custom`."""
    help: str
    held_by_cpu: bool = False
    """True if an unmoving CPU usage counter proves the value unchanged."""
    v1: str = ""
    """Source in the kernel on cgroup v1; empty: not there."""
    v2: str = ""
    group: str = ""
    """What it is switched on and off with; empty for a plug-in's: with the plug-in."""
    kernel: str = ""
    """The kernel that it needs, where one older than 4.19 or a certain hierarchy does not do."""


class TableSchema(msgspec.Struct, frozen=True, array_like=True):
    """Order of the values of one instance table within a sample's rows."""

    name: str
    instance_label: str
    metrics: tuple[Metric, ...]


class Schema(msgspec.Struct, frozen=True, array_like=True):
    """Meaning and order of the values of the samples that name this id."""

    id: int
    metrics: tuple[Metric, ...]
    tables: tuple[TableSchema, ...] = ()
    row: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.metrics)

    @classmethod
    def of(cls, metrics: Sequence[Metric], tables: Sequence[TableSchema] = ()) -> "Schema":
        """Schema over these metrics without what only the catalogue needs; the id is a 63 bit hash of the whole."""

        def bare(m: Metric) -> Metric:
            return msgspec.structs.replace(m, v1="", v2="", group="", kernel="")

        head = tuple(bare(m) for m in metrics)
        tail = tuple(TableSchema(t.name, t.instance_label, tuple(bare(m) for m in t.metrics)) for t in tables)
        digest = hashlib.blake2b(msgspec.msgpack.encode((head, tail)), digest_size=8).digest()
        return cls(int.from_bytes(digest, "big") >> 1, head, tail)


class Spec(msgspec.Struct, frozen=True, array_like=True):
    """What a cgroup's own files allow it. None: the kernel does not tell; UNLIMITED: no limit.

    Source: kernel documentation cgroup-v1/*.rst, cgroup-v2.rst.
    """

    cpu_shares: int | None = None
    """v1 cpu.shares; on v2 from the weight: 2 + (weight - 1) * 262142 / 9999, rounded down."""
    cpu_weight: int | None = None
    """v2 cpu.weight, 1 to 10000; on v1 None."""
    cpu_quota_us: int | None = None
    cpu_period_us: int | None = None
    cpus: str | None = None
    """CPUs that it may run on, as the kernel lists them: `0-3,8`."""
    memory_nodes: str | None = None
    memory_limit_bytes: int | None = None
    memory_effective_limit_bytes: int | None = None
    """The least of its own limit and those of the cgroups above it."""
    memory_swap_limit_bytes: int | None = None
    """Memory and swap together: v1 memory.memsw.limit_in_bytes, v2 memory.max + memory.swap.max."""
    memory_reservation_bytes: int | None = None
    """v1 memory.soft_limit_in_bytes, v2 memory.low."""
    memory_min_bytes: int | None = None
    """v2 memory.min."""
    memory_high_bytes: int | None = None
    """v2 memory.high."""
    pids_limit: int | None = None


class Container(msgspec.Struct, frozen=True, array_like=True):
    """A container (or the host, path `/`) with the metadata in force from `valid_from_ms` on.

    `number` stands for one (instance, epoch) of one source within this journal; stores use (source, instance, epoch).
    """

    number: int
    source: str
    """UUID of the agent's state folder; of another host's container a UUID made from that machine's own."""
    instance: str
    """16 hex digits, chosen at first sight: hash of boot id, path and one (hierarchy, inode) pair."""
    epoch: int
    boot_id: str
    path: str
    """cgroup path from the root of the hierarchy, `/` for the host."""
    host: str
    created_ms: int
    valid_from_ms: int
    pairs: tuple[tuple[str, int], ...] = ()
    """(hierarchy, inode of the cgroup directory), every pair seen so far."""
    base_interval_s: float = 1.0
    max_interval_s: float = 60.0
    name: str | None = None
    aliases: tuple[str, ...] = ()
    namespace: str | None = None
    image: str | None = None
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    started_ms: int | None = None
    row: int = 0
    runtime: str | None = None
    """Who made the cgroup: `docker`, `podman`, `containerd`, `crio`, `lxc`, `systemd`, `machine`, `kubernetes` (a pod)."""
    container_id: str | None = None
    """The runtime's own id, also for a cgroup inside the container."""
    runtime_created_ms: int | None = None
    """When the runtime made the container; its cgroup is a new one after each restart."""
    restart_count: int | None = None
    health: str | None = None
    """`starting`, `healthy` or `unhealthy`; None without a health check."""
    network: str | None = None
    """Whose network namespace it lives in: `own`, `host`, or `container:ID`."""
    pod: str | None = None
    pod_namespace: str | None = None
    pod_uid: str | None = None
    environment: Mapping[str, str] = msgspec.field(default_factory=dict)
    ooms_told: int = 0
    oom_kills_told: int = 0
    """How far the kernel's OOM counters of this cgroup alone are in events already."""
    spec: Spec | None = None
    """None: not read yet."""
    remote: str = ""
    """Table `[remotes.NAME]` by which a container of another host came; empty: it is of this host."""
    machine: Machine | None = None
    """Of the host's own record only; None: not read yet."""

    @property
    def is_host(self) -> bool:
        return self.path == "/"


class Sample(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One reading of one container at one instant: key (container, ts_ms)."""

    container: int
    ts_ms: int
    schema: int
    values: Values
    tables: tuple[TableRows | None, ...] = ()
    """Rows of each of the schema's tables, None where the table was not read; () when none was."""
    is_closing: bool = False
    """True for the sample at the last still probe before a change: None in it means not read."""


class Event(msgspec.Struct, frozen=True, array_like=True):
    """Something that happened. `kind` is `creation`, `deletion`, `oom`, `oom_kill`, `clock_step` or a later word."""

    ts_ms: int
    kind: str
    container: int | None = None
    details: Mapping[str, Any] = msgspec.field(default_factory=dict)
    row: int = 0
    source: str = ""
    """UUID of the agent's state folder: with the row the key of the event."""


class Gap(msgspec.Struct, frozen=True, array_like=True):
    """Nothing is known of `container` (None: of all of the source) between the two times.

    `reason` is `agent_down`, `suspend`, `stall`, `overflow`, `remote_down` (another host did not answer), or for one sink's
    own loss `dropped:<reason>`.
    `rows` is the number of rows lost where it is known. A sink's own gap has the row number of the first row lost.
    """

    source: str
    from_ms: int
    to_ms: int
    reason: str
    container: int | None = None
    rows: int | None = None
    row: int = 0


class End(msgspec.Struct, frozen=True, array_like=True):
    """The container is gone. `ts_ms` is when that was seen; its number stands for nothing afterwards."""

    container: int
    ts_ms: int
    row: int = 0


_NO_SCHEMAS: Mapping[int, Schema] = MappingProxyType({})
_NO_CONTAINERS: Mapping[int, Container] = MappingProxyType({})


class Batch(msgspec.Struct, frozen=True):
    """Samples of one tick, in log order, with what is needed to read them.

    `schemas` and `containers` are as in force at this place of the log: a sink may use them for tags and columns, and a
    repeat of the batch carries equal ones. `rows[i]` is the row number of `samples[i]`. Read only.
    """

    samples: Sequence[Sample]
    rows: Sequence[int]
    schemas: Mapping[int, Schema] = _NO_SCHEMAS
    containers: Mapping[int, Container] = _NO_CONTAINERS

    def as_dicts(self) -> Iterator[dict[str, Any]]:
        """One mapping a sample: row, time, container's identity and names, then each metric that has a value by name."""
        for row, s in zip(self.rows, self.samples, strict=True):
            schema = self.schemas[s.schema]
            c = self.containers.get(s.container)
            out: dict[str, Any] = {"row": row, "ts_ms": s.ts_ms}
            if c is not None:
                out["host"] = c.host
                out["container"] = c.path
                out["instance"] = c.instance
                if c.epoch:
                    out["epoch"] = c.epoch
                for key in ("name", "namespace", "image"):
                    if (v := getattr(c, key)) is not None:
                        out[key] = v
                if c.labels:
                    out["labels"] = dict(c.labels)
            if s.is_closing:
                out["is_closing"] = True
            out["metrics"] = {m.name: v for m, v in zip(schema.metrics, s.values, strict=True) if v is not None}
            tables = {
                t.name: {r[0]: {m.name: v for m, v in zip(t.metrics, r[1:], strict=True) if v is not None} for r in rows}
                for t, rows in zip(schema.tables, s.tables, strict=False)
                if rows
            }
            if tables:
                out["tables"] = tables
            yield out


Record: TypeAlias = Batch | Schema | Container | Event | Gap | End

_CLASSES: Mapping[RecordType, Any] = {
    RecordType.SCHEMA: Schema,
    RecordType.CONTAINER: Container,
    RecordType.SAMPLES: list[Sample],
    RecordType.EVENT: Event,
    RecordType.GAP: Gap,
    RecordType.END: End,
}
_TYPES = {
    Schema: RecordType.SCHEMA,
    Container: RecordType.CONTAINER,
    Event: RecordType.EVENT,
    Gap: RecordType.GAP,
    End: RecordType.END,
}
_ENCODER = msgspec.msgpack.Encoder()
_DECODERS = {t: msgspec.msgpack.Decoder(c) for t, c in _CLASSES.items()}

WireRecord: TypeAlias = Schema | Container | Event | Gap | End


def encode_record(record: WireRecord) -> tuple[RecordType, bytes]:
    """Type and payload of one record that is not a batch. Any thread."""
    return _TYPES[type(record)], _ENCODER.encode(record)


def encode_samples(samples: Sequence[Sample]) -> bytes:
    """Payload of a `samples` frame. Raises OverflowError if a value does not fit 64 bit."""
    return _ENCODER.encode(samples)


def decode_samples(payload: bytes | memoryview) -> list[Sample]:
    """Samples of a frame. Raises msgspec.DecodeError (ValidationError is one) on anything else."""
    samples: list[Sample] = _DECODERS[RecordType.SAMPLES].decode(payload)
    return samples


def decode_record(type_: int, payload: bytes | memoryview, row: int) -> WireRecord:
    """A record that is not a batch, with its row number: `row`, unless it bears that of the log that it was copied from.

    KeyError for an unknown type, msgspec.DecodeError for damage.
    """
    record: WireRecord = _DECODERS[RecordType(type_)].decode(payload)
    return msgspec.structs.replace(record, row=record.row or row)

"""Three and a half days of a small shop, for the questions of the documentation: two hosts, nine containers.

A sample each five minutes. Everything is whole numbers from simple rules, so that answers can be worked out by hand.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tidegauge.pipeline.records import Container, End, Event, Gap, Record, Sample, Spec
from tidegauge.pipeline.testing import make_batch, make_container, make_sample, make_schema


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


NOW = "2026-11-19 12:00:00"
"""A Thursday."""
START = "2026-11-16 00:00:00"
STEP_MS = 300_000
MIB = 1 << 20
DOWN = ms("2026-11-18 03:00:01"), ms("2026-11-18 03:09:59")
"""When the agent of the second host did not run."""
SCHEMA = make_schema(
    (
        *("cpu_usage_ns", "cpu_user_ns", "cpu_system_ns", "cpu_periods", "cpu_throttled_periods", "cpu_throttled_ns"),
        *("memory_usage_bytes", "memory_working_set_bytes", "memory_rss_bytes", "memory_limit_bytes"),
        *("memory_failures", "memory_oom_kills"),
    ),
    ("network", "disk_io", "filesystem"),
)


class Load(NamedTuple):
    """What a container does, by the hour of the day."""

    milli_cores: int
    """At night; by day, from 8 to 20 h, four times as much, and ten times from 11 to 12."""
    mib: int
    """At midnight of the first day; more by `grows_mib` an hour."""
    grows_mib: int = 0
    limit_mib: int | None = None
    cores: int | None = None
    """CPU limit; beyond it, periods are throttled."""
    kib_per_s: int = 0
    """Received; half as much is sent, and a quarter is written to disk."""


class Place(NamedTuple):
    number: int
    source: str
    host: str
    path: str
    load: Load
    name: str | None = None
    namespace: str | None = None
    image: str | None = None
    labels: dict[str, str] = {}
    from_: str = START
    until: str | None = None


A, B = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
WEB = Load(100, 200, limit_mib=512, cores=1, kib_per_s=40)
PLACES = (
    Place(1, A, "node-1", "/", Load(400, 3000, grows_mib=4, kib_per_s=90)),
    Place(2, A, "node-1", "/shop", Load(350, 1000, grows_mib=4, kib_per_s=0)),
    Place(3, A, "node-1", "/shop/web", WEB, "shop-web", "shop", "shop/web:1.4", {"team": "front"}),
    Place(
        4,
        A,
        "node-1",
        "/shop/db",
        Load(150, 500, grows_mib=4, limit_mib=1024),
        "shop-db",
        "shop",
        "postgres:16",
        {"team": "data"},
    ),
    Place(
        *(5, A, "node-1", "/jobs/report", Load(900, 300, limit_mib=400), "report", "jobs", "jobs/report:7", {"team": "data"}),
        *("2026-11-17 10:00:00", "2026-11-17 14:00:00"),
    ),
    Place(6, B, "node-2", "/", Load(300, 2000, kib_per_s=60)),
    Place(7, B, "node-2", "/shop", Load(200, 700)),
    Place(8, B, "node-2", "/shop/web", WEB._replace(milli_cores=120), "shop-web-2", "shop", "shop/web:1.5", {"team": "front"}),
    Place(9, B, "node-2", "/shop/cache", Load(20, 450, cores=2, kib_per_s=15), "cache", "shop", "redis:7", {"team": "data"}),
)


def container(place: Place) -> Container:
    load = place.load
    return make_container(
        place.number,
        place.path,
        source=place.source,
        instance=f"{place.number:016x}",
        host=place.host,
        created_ms=ms(place.from_) - 1000,
        valid_from_ms=ms(place.from_) - 1000,
        name=place.name,
        namespace=place.namespace,
        image=place.image,
        labels=place.labels,
        base_interval_s=1.0,
        max_interval_s=300.0,
        spec=Spec(
            cpu_quota_us=None if load.cores is None else load.cores * 100_000,
            cpu_period_us=100_000,
            memory_limit_bytes=None if load.limit_mib is None else load.limit_mib * MIB,
        ),
    )


def samples(place: Place) -> Iterator[Sample]:
    """Counters are those of what happened in the step before; the one of the container that was made is 0."""
    load = place.load
    cpu_ns = throttled_ns = periods = throttled = received = 0
    start = ms(place.from_) + place.number
    end = ms(place.until or NOW)
    for ts_ms in range(start, end + 1, STEP_MS):
        hour = (ts_ms - place.number) // 3_600_000 % 24
        if ts_ms > start:
            wanted = load.milli_cores * (10 if hour == 11 else 4 if 8 <= hour < 20 else 1)
            used = min(wanted, 1000 * load.cores) if load.cores else wanted
            cpu_ns += used * STEP_MS * 1000
            if load.cores:
                periods += STEP_MS // 100
                if wanted > used:
                    throttled += STEP_MS // 400
                    throttled_ns += (wanted - used) * STEP_MS * 1000
            received += load.kib_per_s * 1024 * (STEP_MS // 1000) * (3 if 8 <= hour < 20 else 1)
        memory = (load.mib + load.grows_mib * ((ts_ms - ms(START)) // 3_600_000) + hour) * MIB
        files: Any = None
        if place.path == "/":
            used_gib = 40 + 2 * ((ts_ms - ms(START)) // 86_400_000) if place.host == "node-1" else 20
            files = (("/dev/vda1", 100 << 30, used_gib << 30, (100 - used_gib) << 30, 6_000_000, 5_000_000),)
        traffic = (
            (("eth0", received, received // 1000, 0, 0, received // 2, received // 2000, 0, 0),) if load.kib_per_s else None
        )
        written = received // 4
        moved = (("vda", 0, written, None, None, None, 0, written // 65536, None, None, None),) if load.kib_per_s else None
        if place.source == B and DOWN[0] < ts_ms < DOWN[1]:
            continue
        yield make_sample(
            SCHEMA,
            place.number,
            ts_ms,
            tables=(traffic, moved, files),
            cpu_usage_ns=cpu_ns,
            cpu_user_ns=cpu_ns // 4 * 3,
            cpu_system_ns=cpu_ns // 4,
            cpu_periods=periods if load.cores else None,
            cpu_throttled_periods=throttled if load.cores else None,
            cpu_throttled_ns=throttled_ns if load.cores else None,
            memory_usage_bytes=memory + 50 * MIB,
            memory_working_set_bytes=memory,
            memory_rss_bytes=memory // 2,
            memory_limit_bytes=None if load.limit_mib is None else load.limit_mib * MIB,
            memory_failures=0,
            memory_oom_kills=0,
        )


def records() -> Sequence[Record]:
    out: list[Record] = []
    for source in (A, B):
        own = [place for place in PLACES if place.source == source]
        batch = sorted((s for place in own for s in samples(place)), key=lambda s: s.ts_ms)
        out.append(make_batch(batch, [container(place) for place in own], (SCHEMA,)))
    details: dict[str, Any] = {"process": "report", "pid": 4711, "count": 1}
    out.append(Event(ms("2026-11-17 11:20:00"), "oom_kill", 5, details, 1001, A))
    out.append(Event(ms("2026-11-17 13:05:00"), "oom_kill", 5, details | {"pid": 5813}, 1002, A))
    out.append(Event(ms("2026-11-17 14:00:01"), "deletion", 5, {"exit_code": 137}, 1003, A))
    out.append(End(5, ms("2026-11-17 14:00:01"), 1004))
    out.append(Gap(B, *DOWN, "restart", None, None, 2001))
    return out

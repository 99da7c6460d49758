"""Sets and sums on Heapster's grid against plain arithmetic over the same readings."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from tests.history_rig import BEGIN_MS, CATALOGUE, PureReader, RolledReader

from tidegauge.pipeline.heapster.sets import CLUSTER, SetKey, SetType
from tidegauge.pipeline.heapster.windows import WINDOW_MS, Span, Values, Windows, members
from tidegauge.pipeline.history import Bounds, ContainerKey, Reading, StoredContainer
from tidegauge.pipeline.machine import Machine
from tidegauge.pipeline.records import Batch, Container, Gap, Metric, Record, Sample, Spec
from tidegauge.pipeline.testing import SOURCE, make_container

STEP_MS = 10_000
SAMPLES = 6 * 20 + 1
END_MS = BEGIN_MS + STEP_MS * (SAMPLES - 1)
UIDS = {"web-0": "0b9f3a1e-55c2-4f6e-a1f7-3c2d9e8b7a60", "db-0": "1b9f3a1e-55c2-4f6e-a1f7-3c2d9e8b7a61"}
NAMES = ("cpu_usage_ns", "memory_usage_bytes", "memory_page_faults")
SCHEMA = CATALOGUE.schema(NAMES, ("network", "disk_io"))
WHOLE = Span(BEGIN_MS, END_MS)


def _of_pod(number: int, pod: str, namespace: str, host: str, called: str) -> Container:
    """A container of a pod; the pod's own cgroup if it has no name."""
    uid, id_ = UIDS[pod], f"{number:064x}"
    common = {"pod": pod, "pod_namespace": namespace, "pod_uid": uid, "host": host, "created_ms": BEGIN_MS}
    if not called:
        return make_container(number, f"/kubepods/pod{uid}", runtime="kubernetes", name=pod, labels={}, **common)
    return make_container(
        number,
        f"/kubepods/pod{uid}/{id_}",
        runtime="containerd",
        container_id=id_,
        name=called,
        labels={"io.kubernetes.container.name": called},
        spec=Spec(
            cpu_shares=102 * number, cpu_quota_us=10_000 * number, cpu_period_us=100_000, memory_limit_bytes=number << 20
        ),
        **common,
    )


CONTAINERS = (
    make_container(1, "/", machine=Machine(cpus=4, memory_bytes=1 << 40), created_ms=BEGIN_MS),
    make_container(2, "/", host="host-b", created_ms=BEGIN_MS, instance="00000000000000b2"),
    _of_pod(3, "web-0", "shop", "host-a", ""),
    _of_pod(4, "web-0", "shop", "host-a", "POD"),
    _of_pod(5, "web-0", "shop", "host-a", "nginx"),
    _of_pod(6, "web-0", "shop", "host-a", "app"),
    _of_pod(7, "db-0", "data", "host-b", "db"),
    make_container(8, "/system.slice/sshd.service", created_ms=BEGIN_MS),
)


def _samples() -> list[Sample]:
    rnd = random.Random(1)
    out = []
    for c in CONTAINERS:
        cpu = faults = rx = 0
        for i in range(SAMPLES):
            cpu += rnd.randrange(10**10)
            faults += rnd.randrange(1000)
            rx += rnd.randrange(10**6)
            own = c.number in (1, 2, 4, 7)  # a pod's network is counted at its sandbox, or its only container
            network = (("eth0", rx, 1, 0, 0, 2 * rx, 1, 0, 0), ("eth1", 10 * rx, 1, 0, 0, 0, 1, 0, 0)) if own else None
            disk = (("vda", rx, 3 * rx, *(None,) * 8),)
            values = (cpu, rnd.randrange(1 << 30), faults)
            out.append(Sample(c.number, BEGIN_MS + i * STEP_MS, SCHEMA.id, values, (network, disk)))
    return out


READINGS = _samples()


class _Described:
    """Containers with all that sets are known by, and their records for `ref` as the memory store has it."""

    def containers(self, since_ms: int, until_ms: int) -> Sequence[StoredContainer]:
        by_key = {(c.instance, c.epoch): c for c in CONTAINERS}
        fields = ("runtime", "container_id", "pod_uid", "pod_namespace", "created_ms")
        out = []
        for stored in super().containers(since_ms, until_ms):  # type: ignore[misc]
            c = by_key[stored.key.instance, stored.key.epoch]
            out.append(msgspec.structs.replace(stored, ref=c, **{f: getattr(c, f) for f in fields}))
        return out

    def series(
        self, containers: Sequence[StoredContainer], metric: Metric, since_ms: int, until_ms: int, bounds: Bounds
    ) -> Mapping[ContainerKey, Mapping[str, Sequence[Reading]]]:
        own = [c if isinstance(c.ref, int) else msgspec.structs.replace(c, ref=c.ref.number) for c in containers]
        return super().series(own, metric, since_ms, until_ms, bounds)  # type: ignore[misc, no-any-return]

    def gaps(
        self, containers: Sequence[StoredContainer], since_ms: int, until_ms: int
    ) -> Mapping[ContainerKey, Sequence[tuple[int, int]]]:
        own = [c if isinstance(c.ref, int) else msgspec.structs.replace(c, ref=c.ref.number) for c in containers]
        return super().gaps(own, since_ms, until_ms)  # type: ignore[misc, no-any-return]


class _Reader(_Described, PureReader):
    pass


class _Rolled(_Described, RolledReader):
    def rolled(self, containers: Sequence[StoredContainer], *rest: Any, **more: Any) -> Any:
        return super().rolled([msgspec.structs.replace(c, ref=c.ref.number) for c in containers], *rest, **more)


def _log(samples: Sequence[Sample], *more: Record) -> list[Record]:
    return [SCHEMA, *CONTAINERS, Batch(samples, range(len(samples))), *more]


def _windows(reader: PureReader | None = None) -> Windows:
    reader = reader or _Reader(_log(READINGS))
    return Windows(reader, members(reader.containers(BEGIN_MS, END_MS)), Bounds(10**7, math.inf))


def _value(number: int, at_ms: int, metric: int) -> int:
    return next(s.values[metric] for s in READINGS if s.container == number and s.ts_ms == at_ms)


def _expected(numbers: Sequence[int], metric: int, factor: float | None, width_ms: int = WINDOW_MS) -> Values:
    """Rates with a factor, else newest values, summed over containers: straight from the readings."""
    out = {}
    for end in range(BEGIN_MS + width_ms, END_MS + 1, width_ms):
        if factor is None:
            out[end] = float(sum(_value(n, end - STEP_MS, metric) for n in numbers))
        else:
            risen = sum(_value(n, end, metric) - _value(n, end - width_ms, metric) for n in numbers)
            out[end] = risen / width_ms * 1000 * factor
    return out


def _pod(name: str, namespace: str, node: str) -> SetKey:
    return SetKey(SetType.POD, node, namespace, name)


WEB, DB = _pod("web-0", "shop", "host-a"), _pod("db-0", "data", "host-b")


@pytest.mark.parametrize(
    ("key", "numbers"),
    [
        (SetKey(SetType.NODE, "host-a"), [1]),
        (SetKey(SetType.FREE, "host-a", container="system.slice/sshd.service"), [8]),
        (SetKey(SetType.POD_CONTAINER, "host-a", "shop", "web-0", "nginx"), [5]),
        (WEB, [5, 6]),
        (DB, [7]),
        (SetKey(SetType.NAMESPACE, namespace="shop"), [5, 6]),
        (CLUSTER, [5, 6, 7]),
    ],
    ids=str,
)
def test_every_set_has_the_sum_of_its_own_parts_alone(key: SetKey, numbers: list[int]) -> None:
    windows = _windows()
    assert windows.values(key, "cpu/usage_rate", WHOLE) == pytest.approx(_expected(numbers, 0, 1e-6))
    assert windows.values(key, "memory/usage", WHOLE) == pytest.approx(_expected(numbers, 1, None))


def test_a_pods_counters_are_those_of_its_own_cgroup_and_rates_of_them_the_sum_over_its_containers() -> None:
    windows = _windows()
    assert windows.values(WEB, "memory/page_faults", WHOLE) == pytest.approx(_expected([3], 2, None))
    assert windows.values(WEB, "memory/page_faults_rate", WHOLE) == pytest.approx(_expected([5, 6], 2, 1))
    assert windows.values(DB, "memory/page_faults", WHOLE) == {}


def test_traffic_of_a_pod_is_that_of_whichever_cgroup_it_is_counted_at_on_all_interfaces() -> None:
    windows, at = _windows(), END_MS - STEP_MS
    for key, number in ((WEB, 4), (DB, 7)):
        (row,) = (s.tables[0] for s in READINGS if s.container == number and s.ts_ms == at)
        assert row is not None
        assert windows.values(key, "network/rx", WHOLE)[END_MS] == sum(int(r[1] or 0) for r in row)
    assert windows.values(WEB, "network/rx_rate", WHOLE)


def test_requests_and_limits_of_a_node_are_those_of_the_containers_on_it() -> None:
    windows = _windows()
    shares = {5: 499, 6: 598}  # 510 and 612 of 1024 a core, rounded up
    node = SetKey(SetType.NODE, "host-a")
    assert windows.values(node, "cpu/request", WHOLE)[END_MS] == sum(shares.values())
    assert windows.values(node, "cpu/limit", WHOLE)[END_MS] == 500 + 600
    assert windows.values(CLUSTER, "memory/limit", WHOLE)[END_MS] == (5 + 6 + 7) << 20
    assert windows.values(node, "cpu/node_reservation", WHOLE)[END_MS] == pytest.approx(1097 / 4000)
    used = windows.values(node, "cpu/usage_rate", WHOLE)
    assert windows.values(node, "cpu/node_utilization", WHOLE) == pytest.approx({t: v / 4000 for t, v in used.items()})
    assert windows.values(SetKey(SetType.NODE, "host-b"), "cpu/node_utilization", WHOLE) == {}, "the machine is not known"


def test_devices_are_labeled_and_are_no_plain_metric() -> None:
    windows, key = _windows(), SetKey(SetType.POD_CONTAINER, "host-a", "shop", "web-0", "nginx")
    assert windows.values(key, "disk/io_read_bytes", WHOLE) == {}
    found = windows.labeled(key, "disk/io_read_bytes", WHOLE)
    (row,) = (s.tables[1] for s in READINGS if s.container == 5 and s.ts_ms == END_MS - STEP_MS)
    assert row is not None
    assert list(found) == [(("resource_id", "vda"),)]
    assert found[(("resource_id", "vda"),)][END_MS] == row[0][1]


def test_nothing_is_said_of_what_there_is_not() -> None:
    windows = _windows()
    assert windows.values(SetKey(SetType.NODE, "host-z"), "cpu/usage", WHOLE) == {}
    assert windows.values(CLUSTER, "no/such_metric", WHOLE) == {}
    assert windows.values(CLUSTER, "memory/rss", WHOLE) == {}, "no sum that Heapster made"
    assert windows.values(CLUSTER, "memory/usage", Span(END_MS + 10 * WINDOW_MS, END_MS + 20 * WINDOW_MS)) == {}


def test_a_sum_adds_what_is_known_and_a_gap_is_not_bridged() -> None:
    start = BEGIN_MS + 3 * WINDOW_MS
    gap = Gap(SOURCE, start, start + WINDOW_MS, "stall", 6)
    kept = [s for s in READINGS if s.container != 6 or not start < s.ts_ms < start + WINDOW_MS]
    found = _windows(_Reader(_log(kept, gap))).values(WEB, "cpu/usage_rate", WHOLE)
    expected = _expected([5, 6], 0, 1e-6)
    expected[start + WINDOW_MS] = _expected([5], 0, 1e-6)[start + WINDOW_MS]
    assert found == pytest.approx(expected)


def test_a_counter_that_began_anew_has_no_negative_rate() -> None:
    half = BEGIN_MS + 10 * WINDOW_MS + 30_000
    fallen = [
        msgspec.structs.replace(s, values=(s.values[0] - _value(7, half, 0), *s.values[1:]))  # type: ignore[operator]
        if s.container == 7 and s.ts_ms >= half
        else s
        for s in READINGS
    ]
    found = _windows(_Reader(_log(fallen))).values(DB, "cpu/usage_rate", WHOLE)
    expected = _expected([7], 0, 1e-6)
    broken = BEGIN_MS + 11 * WINDOW_MS
    assert {t: v for t, v in found.items() if t != broken} == pytest.approx({t: v for t, v in expected.items() if t != broken})
    assert found[broken] >= 0


def test_roll_ups_give_the_same_at_their_own_width_with_samples_for_what_is_not_rolled_up_yet() -> None:
    reader = _Rolled(_log(READINGS), settled_ms=BEGIN_MS + 900_000)
    found = _windows(reader).values(CLUSTER, "cpu/usage_rate", Span(BEGIN_MS, END_MS, 300_000))
    assert len(found) == 4
    assert found == pytest.approx(_expected([5, 6, 7], 0, 1e-6, 300_000))

"""What containers of each layout are to Heapster, and the table of its metrics against its documented names."""

import pytest

from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.heapster import sets
from tidegauge.pipeline.heapster.metrics import BY_NAME, METRICS, NOT_KNOWN, Each, Rate, Scalar, Share, Sum, Type
from tidegauge.pipeline.heapster.sets import Role, SetType
from tidegauge.pipeline.machine import Machine
from tidegauge.pipeline.records import UNLIMITED, Container, Spec
from tidegauge.pipeline.testing import START_MS, make_container

UID = "0b9f3a1e-55c2-4f6e-a1f7-3c2d9e8b7a60"
ID = "ab" * 32
IN_POD = {"pod": "web-0", "pod_namespace": "shop", "pod_uid": UID, "labels": {"io.kubernetes.container.name": "nginx"}}


def _pod(**fields: object) -> Container:
    return make_container(2, f"/kubepods/pod{UID}", **{"runtime": "kubernetes", "name": "web-0", **IN_POD, **fields})


def _member(called: str = "nginx", **fields: object) -> Container:
    labels = {"io.kubernetes.container.name": called, "app": "shop"}
    given = {"runtime": "containerd", "container_id": ID, **IN_POD, "labels": labels, **fields}
    return make_container(3, given.pop("path", f"/kubepods/pod{UID}/{ID}"), **given)


@pytest.mark.parametrize(
    ("container", "role", "key"),
    [
        (make_container(1, "/"), Role.NODE, "node:host-a"),
        (_pod(), Role.POD, "namespace:shop/pod:web-0"),
        (_pod(pod=None), Role.FREE, f"node:host-a/container:kubepods/pod{UID}"),
        (_member(), Role.CONTAINER, "namespace:shop/pod:web-0/container:nginx"),
        (_member("POD"), Role.SANDBOX, "namespace:shop/pod:web-0"),
        (
            _member(path=f"/kubepods.slice/crio-{ID}.scope", labels={}, name=f"k8s_db_web-0_shop_{UID}_2"),
            Role.CONTAINER,
            "namespace:shop/pod:web-0/container:db",
        ),
        (
            _member(path=f"/kubepods/pod{UID}/{ID}/init.scope"),
            Role.FREE,
            f"node:host-a/container:kubepods/pod{UID}/{ID}/init.scope",
        ),
        (
            make_container(4, f"/docker/{ID}", container_id=ID, runtime="docker"),
            Role.FREE,
            f"node:host-a/container:docker/{ID}",
        ),
        (make_container(5, "/system.slice/sshd.service"), Role.FREE, "node:host-a/container:system.slice/sshd.service"),
        (make_container(6, f"/libpod/{ID}", container_id=ID, pod="p"), Role.FREE, f"node:host-a/container:libpod/{ID}"),
        (_pod(container_id=UID), Role.POD, "namespace:shop/pod:web-0"),
        (
            _member(path=f"/pods/{UID}/nginx", container_id=f"{UID}/nginx", runtime="kubernetes"),
            Role.CONTAINER,
            "namespace:shop/pod:web-0/container:nginx",
        ),
    ],
)
def test_what_a_container_is(container: Container, role: Role, key: str) -> None:
    assert sets.role(container) is role
    assert str(sets.key(container)) == key


def test_the_keys_of_sums_are_heapsters() -> None:
    assert str(sets.CLUSTER) == "cluster"
    assert str(sets.SetKey(SetType.NAMESPACE, namespace="shop")) == "namespace:shop"


def test_labels_are_heapsters_without_what_runtimes_put_on() -> None:
    assert sets.labels(_member(image="nginx:1")) == {
        "type": "pod_container",
        "nodename": "host-a",
        "hostname": "host-a",
        "namespace_name": "shop",
        "pod_name": "web-0",
        "pod_id": UID,
        "container_name": "nginx",
        "container_base_image": "nginx:1",
        "labels": "app:shop",
    }


def test_limits_are_millicores_and_bytes_and_unknown_ones_are_absent() -> None:
    spec = Spec(cpu_shares=256, cpu_quota_us=150_000, cpu_period_us=100_000, memory_limit_bytes=UNLIMITED)
    assert dict(sets.limits(spec)) == {"cpu/request": 250, "cpu/limit": 1500, "memory/limit": 0}
    assert dict(sets.limits(None)) == {}


@pytest.mark.parametrize("milli", [1, 10, 100, 250, 333, 1000, 1500, 64_000])
def test_a_request_comes_back_from_the_shares_that_the_kubelet_makes_of_it(milli: int) -> None:
    shares = max(2, milli * 1024 // 1000)
    assert dict(sets.limits(Spec(cpu_shares=shares)))["cpu/request"] == (milli if shares > 2 else 0)


def test_facts_of_a_node_and_of_a_container() -> None:
    node = make_container(1, "/", machine=Machine(cpus=4, memory_bytes=8 << 30))
    assert dict(sets.facts(node, START_MS))["cpu/node_capacity"] == 4000
    told = dict(sets.facts(_member(started_ms=START_MS - 5000, restart_count=3), START_MS))
    assert told == {"uptime": 5000, "restart_count": 3}


def test_every_origin_names_a_metric_that_there_is() -> None:
    catalogue = Catalogue()
    for m in METRICS:
        match m.origin:
            case Scalar(metric):
                assert catalogue[metric].table == "sample"
            case Sum(table, metric):
                assert catalogue[metric].table == table
            case Each():
                for table, metric in (m.origin.of(False), m.origin.of(True)):
                    assert not metric or catalogue[metric].table == table
            case Rate(of):
                assert BY_NAME[of].type is Type.CUMULATIVE
            case Share(part, whole):
                assert {part, whole} <= BY_NAME.keys()
    assert not NOT_KNOWN.keys() & BY_NAME.keys()
    assert len(BY_NAME) == len(METRICS)


def test_the_labeled_metrics_are_those_of_devices() -> None:
    assert {m.name for m in METRICS if m.is_labeled} == {
        *(f"filesystem/{w}" for w in ("usage", "limit", "available", "inodes", "inodes_free")),
        *(f"disk/io_{w}_bytes{r}" for w in ("read", "write") for r in ("", "_rate")),
    }

"""What a container is to Heapster: node, pod, container of a pod, or free container; its names, key, labels and facts. Pure.

A pod is one of Kubernetes: its name and namespace are both known. Everything else that is not the host is a free container of
its node (Heapster's word is `sys_container`), named by its cgroup path without the first slash: containers of Docker and
Podman, system services, slices, cgroups inside a container, and a pod's cgroups as long as nobody has told its name.
"""

import re
from collections.abc import Iterator, Mapping
from enum import Enum, StrEnum
from typing import NamedTuple, Protocol

from tidegauge.pipeline.machine import Machine
from tidegauge.pipeline.records import UNLIMITED, Container, Spec

_CONTAINER_LABEL = "io.kubernetes.container.name"
_OWN_LABELS = ("io.kubernetes.", "annotation.", "io.cri-containerd.", "io.container.")
"""Labels that runtimes and kubelet put on, not users."""
_KUBELET_NAME = re.compile(r"k8s_([^_]+)_[^_]+_[^_]+_[^_]+_\d+")
"""As the kubelet names a container to Docker and CRI-O: k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT."""
SANDBOX = "POD"
"""Name of the container that holds a pod's network namespace."""
MIN_SHARES = 2
"""The kernel's least CPU shares, which the kubelet sets where nothing is asked for."""


class SetType(StrEnum):
    """The label `type`."""

    NODE = "node"
    POD = "pod"
    POD_CONTAINER = "pod_container"
    FREE = "sys_container"
    NAMESPACE = "ns"
    CLUSTER = "cluster"


class Role(Enum):
    """What a container of ours stands for."""

    NODE = SetType.NODE
    POD = SetType.POD
    """The pod's own cgroup."""
    SANDBOX = "sandbox"
    """A container without work of its own: its network is the pod's."""
    CONTAINER = SetType.POD_CONTAINER
    FREE = SetType.FREE


class Described(Protocol):
    """What of a container is looked at here: `records.Container` and `history.StoredContainer` have it."""

    @property
    def host(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def name(self) -> str | None: ...
    @property
    def image(self) -> str | None: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def runtime(self) -> str | None: ...
    @property
    def container_id(self) -> str | None: ...
    @property
    def pod(self) -> str | None: ...
    @property
    def pod_namespace(self) -> str | None: ...
    @property
    def pod_uid(self) -> str | None: ...


class SetKey(NamedTuple):
    """Names a set of metrics. What does not apply is empty."""

    type: SetType
    node: str = ""
    namespace: str = ""
    pod: str = ""
    container: str = ""

    def __str__(self) -> str:
        """As Heapster's `/debug/allkeys` has it."""
        match self.type:
            case SetType.CLUSTER:
                return "cluster"
            case SetType.NODE:
                return f"node:{self.node}"
            case SetType.FREE:
                return f"node:{self.node}/container:{self.container}"
            case SetType.NAMESPACE:
                return f"namespace:{self.namespace}"
            case SetType.POD:
                return f"namespace:{self.namespace}/pod:{self.pod}"
            case SetType.POD_CONTAINER:
                return f"namespace:{self.namespace}/pod:{self.pod}/container:{self.container}"


CLUSTER = SetKey(SetType.CLUSTER)


def role(c: Described) -> Role:
    """What the container stands for; total."""
    if c.path == "/":
        return Role.NODE
    if not c.pod or not c.pod_namespace:
        return Role.FREE
    last = c.path.rpartition("/")[2]
    if c.runtime == "kubernetes" and c.container_id in (None, c.pod_uid):
        return Role.POD
    # a cgroup inside a container has the container's id too, which is no part of its own name
    if not c.container_id or c.container_id.rpartition("/")[2] not in last:
        return Role.FREE
    return Role.SANDBOX if container_name(c) == SANDBOX else Role.CONTAINER


def container_name(c: Described) -> str:
    """What Kubernetes calls a container of a pod."""
    name = c.name or ""
    if label := c.labels.get(_CONTAINER_LABEL):
        return label
    found = _KUBELET_NAME.fullmatch(name)
    return found[1] if found else name or (c.container_id or "")


def key(c: Described) -> SetKey:
    """The set that the container's samples belong to; of a sandbox its pod's."""
    what = role(c)
    if what is Role.NODE:
        return SetKey(SetType.NODE, c.host)
    if what is Role.FREE:
        return SetKey(SetType.FREE, c.host, container=c.path.lstrip("/"))
    namespace, pod = c.pod_namespace or "", c.pod or ""
    if what is Role.CONTAINER:
        return SetKey(SetType.POD_CONTAINER, c.host, namespace, pod, container_name(c))
    return SetKey(SetType.POD, c.host, namespace, pod)


def user_labels(c: Described) -> dict[str, str]:
    """Labels that a user gave, sorted by name."""
    return {name: c.labels[name] for name in sorted(c.labels) if not name.startswith(_OWN_LABELS)}


def labels(c: Described, host_id: str = "") -> dict[str, str]:
    """Heapster's labels of the container's set. Those without a value are left out; `namespace_id` is never known."""
    own = key(c)
    found = {
        "type": own.type.value,
        "nodename": c.host,
        "hostname": c.host,
        "host_id": host_id,
        "namespace_name": own.namespace,
        "pod_name": own.pod,
        "pod_id": c.pod_uid if own.pod else "",
        "container_name": own.container,
        "container_base_image": c.image if own.type in (SetType.POD_CONTAINER, SetType.FREE) else "",
        "labels": ",".join(f"{name}:{value}" for name, value in user_labels(c).items()),
    }
    return {name: value for name, value in found.items() if value}


def limits(spec: Spec | None) -> Iterator[tuple[str, float]]:
    """Requests and limits of a container of a pod, by Heapster's names; 0: none. Nothing of what is not known."""
    if spec is None:
        return
    shares = spec.cpu_shares
    if shares is not None:
        # the kubelet makes shares of millicores by cutting off: the next whole number is what was asked for
        yield "cpu/request", 0 if shares <= MIN_SHARES else -(-shares * 1000 // 1024)
    if spec.cpu_quota_us is not None:
        is_none = spec.cpu_quota_us in (UNLIMITED, -1) or not spec.cpu_period_us
        yield "cpu/limit", 0 if is_none else spec.cpu_quota_us * 1000 / (spec.cpu_period_us or 1)
    if spec.memory_min_bytes is not None:
        yield "memory/request", 0 if spec.memory_min_bytes == UNLIMITED else spec.memory_min_bytes
    if spec.memory_limit_bytes is not None:
        yield "memory/limit", 0 if spec.memory_limit_bytes == UNLIMITED else spec.memory_limit_bytes


def capacity(machine: Machine | None) -> Iterator[tuple[str, float]]:
    """What a node has, by Heapster's names."""
    if machine is None:
        return
    for name, value in (("cpu", None if machine.cpus is None else machine.cpus * 1000), ("memory", machine.memory_bytes)):
        if value is not None:
            yield f"{name}/node_capacity", value
            yield f"{name}/node_allocatable", value


def facts(c: Container, ts_ms: int) -> Iterator[tuple[str, float]]:
    """What a record tells of its own set at that time, by Heapster's names. The uptime of a host is in its samples."""
    what = role(c)
    if what is Role.NODE:
        yield from capacity(c.machine)
        return
    started_ms = c.started_ms or c.created_ms
    if what is not Role.SANDBOX and ts_ms >= started_ms:
        yield "uptime", ts_ms - started_ms
    if what is Role.CONTAINER:
        if c.restart_count is not None:
            yield "restart_count", c.restart_count
        yield from limits(c.spec)

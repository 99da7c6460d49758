"""A node of Kubernetes, its pods and their containers, by the kubelet's `/stats/summary` (Summary API, v1alpha1).

Needs a bearer token or a certificate whose holder may `get` `nodes/stats`, and the certificate authority of the kubelets. The
summary names pods, not cgroups, so paths are of our own making: `/pods/UID` for a pod, `/pods/UID/NAME` for a container in it,
`/system/NAME` for the kubelet, the runtime and so on. It holds the newest values alone and no images, limits or tasks.

Written after the types of k8s.io/kubelet (stats/v1alpha1); not run against a real kubelet.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime

import msgspec

from tidegauge.collectors.remotes._http import Client, HttpConfig
from tidegauge.collectors.remotes._values import Checked, ms_of
from tidegauge.pipeline.errors import CollectError
from tidegauge.pipeline.pace import paced
from tidegauge.pipeline.plugin import Metadata, RemoteAnswer, RemoteContainer, RemoteReading, RuntimeRef
from tidegauge.pipeline.records import TableRow, TableRows

_PATH = "/stats/summary"


class _Cpu(msgspec.Struct, rename="camel"):
    time: datetime | None = None
    usage_core_nano_seconds: int | None = None


class _Memory(msgspec.Struct, rename="camel"):
    time: datetime | None = None
    usage_bytes: int | None = None
    working_set_bytes: int | None = None
    rss_bytes: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None


class _Interface(msgspec.Struct, rename="camel"):
    name: str = ""
    rx_bytes: int | None = None
    rx_errors: int | None = None
    tx_bytes: int | None = None
    tx_errors: int | None = None


class _Network(_Interface, rename="camel"):
    interfaces: list[_Interface] | None = None


class _Filesystem(msgspec.Struct, rename="camel"):
    available_bytes: int | None = None
    capacity_bytes: int | None = None
    used_bytes: int | None = None
    inodes: int | None = None
    inodes_free: int | None = None


class _Part(msgspec.Struct, rename="camel"):
    """What node, pods and containers share."""

    start_time: datetime | None = None
    cpu: _Cpu | None = None
    memory: _Memory | None = None


class _Container(_Part, rename="camel"):
    name: str = ""


class _PodRef(msgspec.Struct):
    name: str
    namespace: str
    uid: str


class _Pod(_Part, kw_only=True, rename="camel"):
    pod_ref: _PodRef
    containers: list[msgspec.Raw] | None = None
    network: _Network | None = None


class _Runtime(msgspec.Struct, rename="camel"):
    image_fs: _Filesystem | None = None


class _Node(_Part, kw_only=True, rename="camel"):
    node_name: str
    system_containers: list[msgspec.Raw] | None = None
    network: _Network | None = None
    fs: _Filesystem | None = None
    runtime: _Runtime | None = None


class _Summary(msgspec.Struct):
    node: _Node
    pods: list[msgspec.Raw] | None = None


_SUMMARY = msgspec.json.Decoder(_Summary)
_POD = msgspec.json.Decoder(_Pod)
_CONTAINER = msgspec.json.Decoder(_Container)


class KubeletConfig(HttpConfig, frozen=True, forbid_unknown_fields=True):
    pass


class KubeletRemote:
    """A node of Kubernetes, by its kubelet's `/stats/summary`."""

    Config = KubeletConfig
    base_interval_s = 10.0
    max_interval_s = 20.0
    keeps_history = False
    metrics = (
        "cpu_usage_ns",
        "memory_usage_bytes",
        "memory_working_set_bytes",
        "memory_rss_bytes",
        "memory_page_faults",
        "memory_major_page_faults",
    )
    tables = ("network", "filesystem")

    def __init__(self, config: KubeletConfig) -> None:
        self._client = Client(config)
        self._host = config.host
        self._checked = Checked()
        self._bad_containers = 0

    def ask(self, since_ms: int | None) -> RemoteAnswer:
        answer = self._client.ask(_PATH)
        try:
            summary = _SUMMARY.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise CollectError(f"{self._client.where(_PATH)}: expected the kubelet's Summary: {exc}") from None
        host = self._host or summary.node.node_name or self._client.host
        # no machine id: the node's name may be used again for another machine, so the configured name stands for it
        return RemoteAnswer("", "", host, tuple(self._containers(summary)), answer.date_ms)

    def close(self) -> None:
        self._client.close()

    def counters(self) -> Mapping[str, int]:
        return {"absurd_values": self._checked.absurd_values, "unreadable_containers": self._bad_containers}

    def _containers(self, summary: _Summary) -> Iterator[RemoteContainer]:
        node = summary.node
        tables = {"network": self._network(node.network), "filesystem": self._filesystems(node)}
        yield self._told("/", node, tables, None, None)
        for raw in node.system_containers or ():
            if (part := self._container(raw)) is not None:
                ref = RuntimeRef("kubernetes", part.name)
                yield self._told(f"/system/{part.name}", part, {}, ref, Metadata(name=part.name))
        for raw in paced(summary.pods or ()):
            try:
                pod = _POD.decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError):
                self._bad_containers += 1
                continue
            p = pod.pod_ref
            ref = RuntimeRef("kubernetes", p.uid, pod_uid=p.uid)
            said = Metadata(name=p.name, pod=p.name, pod_namespace=p.namespace, pod_uid=p.uid)
            yield self._told(f"/pods/{p.uid}", pod, {"network": self._network(pod.network)}, ref, said)
            for inner in pod.containers or ():
                if (part := self._container(inner)) is not None:
                    named = Metadata(name=part.name, pod=p.name, pod_namespace=p.namespace, pod_uid=p.uid)
                    of = RuntimeRef("kubernetes", f"{p.uid}/{part.name}", pod_uid=p.uid)
                    yield self._told(f"/pods/{p.uid}/{part.name}", part, {}, of, named)

    def _container(self, raw: msgspec.Raw) -> _Container | None:
        try:
            part = _CONTAINER.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            part = None
        if part is None or not part.name or "/" in part.name:
            self._bad_containers += 1
            return None
        return part

    def _told(
        self,
        path: str,
        part: _Part,
        tables: Mapping[str, TableRows | None],
        ref: RuntimeRef | None,
        said: Metadata | None,
    ) -> RemoteContainer:
        cpu, memory = part.cpu or _Cpu(), part.memory or _Memory()
        # each part has a time of its own, mostly the same: the CPU counter's is the one that rates need
        ts_ms = ms_of(cpu.time)
        if ts_ms is None:
            ts_ms = ms_of(memory.time)
        readings: tuple[RemoteReading, ...] = ()
        if ts_ms is not None:
            values = self._checked.values(
                {
                    "cpu_usage_ns": cpu.usage_core_nano_seconds,
                    "memory_usage_bytes": memory.usage_bytes,
                    "memory_working_set_bytes": memory.working_set_bytes,
                    "memory_rss_bytes": memory.rss_bytes,
                    "memory_page_faults": memory.page_faults,
                    "memory_major_page_faults": memory.major_page_faults,
                }
            )
            readings = (RemoteReading(ts_ms, values, {name: rows for name, rows in tables.items() if rows is not None}),)
        return RemoteContainer(path, ms_of(part.start_time), readings, ref, said)

    def _network(self, network: _Network | None) -> TableRows | None:
        """A row an interface; packets and drops are not told. None: no interface is named."""
        if network is None:
            return None
        interfaces = network.interfaces or [network]
        rows = {
            i.name: self._checked.row(i.name, (i.rx_bytes, None, i.rx_errors, None, i.tx_bytes, None, i.tx_errors, None))
            for i in interfaces
            if i.name
        }
        return tuple(rows.values()) or None

    def _filesystems(self, node: _Node) -> TableRows | None:
        """The node's own filesystem and that of images, which may be one and the same."""
        rows: list[TableRow] = []
        for name, fs in (("nodefs", node.fs), ("imagefs", node.runtime.image_fs if node.runtime else None)):
            if fs is not None:
                # `usedBytes` of imagefs is what images take, not what is used of the filesystem
                used = fs.used_bytes if name == "nodefs" else None
                rows.append(self._checked.row(name, (fs.capacity_bytes, used, fs.available_bytes, fs.inodes, fs.inodes_free)))
        return tuple(rows) or None

"""Containers, machine and samples that have everything, for tests of the Prometheus page, and the page as a parser sees it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tidegauge.api.exposition.page import Renderer
from tidegauge.pipeline.catalogue import INSTANCE_LABELS, SCALAR_TABLES, Catalogue
from tidegauge.pipeline.groups import GROUPS
from tidegauge.pipeline.latest import Latest, merged
from tidegauge.pipeline.machine import Cache, Core, Dimms, Disk, HugePages, Machine, Node
from tidegauge.pipeline.records import Container, Sample, Schema, Spec, TableRows
from tidegauge.pipeline.testing.records import START_MS, make_container

INSTANCES: Mapping[str, tuple[str, ...]] = {
    "percpu": ("0", "1"),
    "network": ("eth0",),
    "tcp": ("tcp", "tcp6"),
    "udp": ("udp", "udp6"),
    "disk_io": ("vda",),
    "disk_io_ext": ("vda",),
    "disk_usage": ("/dev/vda1",),
    "hugetlb": ("2MB",),
    "numa": ("0", "1"),
    "perf": ("instructions",),
    "resctrl": ("0",),
    "host_cpu": ("cpu0",),
    "host_disk": ("vda", "vdb"),
    "filesystem": ("/dev/vda1",),
    "app": (),
}
MACHINE = Machine(
    cpus=2,
    physical_cores=1,
    sockets=1,
    books=1,
    drawers=1,
    memory_bytes=8 << 30,
    swap_bytes=1 << 30,
    dimms=(Dimms("Registered-DDR4", 2, 8 << 30),),
    nodes=(
        Node(
            0,
            8 << 30,
            (HugePages(2 << 20, 0),),
            (10,),
            (Core(0, (0, 1), 0, (Cache(1, "Data", 32 << 10, 0),)),),
            (Cache(3, "Unified", 8 << 20, 0),),
        ),
    ),
    disks=(Disk("vda", 254, 0, 100 << 30),),
    machine_id="0123",
    system_uuid="4567",
    boot_id="89ab",
    kernel_version="6.1.0",
    os_name="An OS",
)
SPEC = Spec(
    cpu_shares=512,
    cpu_quota_us=50_000,
    cpu_period_us=100_000,
    memory_limit_bytes=256 << 20,
    memory_swap_limit_bytes=512 << 20,
    memory_reservation_bytes=128 << 20,
)


class Series(NamedTuple):
    name: str
    labels: frozenset[tuple[str, str]]
    value: float
    timestamp: Any


class Parsed(NamedTuple):
    kinds: dict[str, str]
    series: list[Series]

    def labels_of(self, name: str) -> set[str]:
        """Names of the labels that have a value in some series of the name."""
        return {label for s in self.series if s.name == name for label, value in s.labels if value}

    def values(self, name: str, /, **labels: str) -> list[float]:
        return [s.value for s in self.series if s.name == name and labels.items() <= dict(s.labels).items()]

    def value(self, name: str, /, **labels: str) -> float:
        (value,) = self.values(name, **labels)
        return value


def everything() -> Schema:
    """A schema of every metric and table that there is."""
    catalogue = Catalogue()
    names = [m.name for table in SCALAR_TABLES for m in catalogue.of_table(table)]
    return catalogue.schema(names, [t for t in INSTANCE_LABELS if t != "custom"])


def full_sample(schema: Schema, number: int) -> Sample:
    """A sample in which every value is another one, and 1000 or more."""
    counter = iter(range(1000 + 100_000 * number, 10**9))
    values = tuple(next(counter) for _ in schema.metrics)
    tables: tuple[TableRows | None, ...] = tuple(
        tuple((name, *(next(counter) for _ in t.metrics)) for name in INSTANCES[t.name]) for t in schema.tables
    )
    return Sample(number, START_MS, schema.id, values, tables)


def full_host() -> list[tuple[Container, Latest | None]]:
    """The host, and a container of Docker, one of Kubernetes and a plain cgroup, all with everything."""
    schema = everything()
    plain: dict[str, Any] = {"name": None, "image": None, "labels": {}}
    containers = [
        make_container(1, "/", machine=MACHINE, spec=SPEC, **plain),
        make_container(
            2,
            "/docker/abc",
            container_id="abc",
            health="healthy",
            labels={"com.docker.compose.service": "web", "com.docker.swarm.service.name": "stack_web"},
            environment={"path": "/bin"},
            spec=SPEC,
            created_ms=START_MS - 9000,
            runtime_created_ms=START_MS - 60_000,
            started_ms=START_MS - 10_000,
        ),
        make_container(
            3,
            "/kubepods/pod1/def",
            container_id="def",
            pod="web-0",
            pod_namespace="shop",
            labels={"io.kubernetes.container.name": "nginx"},
            spec=SPEC,
        ),
        make_container(4, "/system.slice", **plain),
    ]
    return [(c, merged(None, full_sample(schema, c.number), schema)) for c in containers]


def parsed(text: str, *, is_openmetrics: bool = False) -> Parsed:
    """The page by the parser of Prometheus' own client; ValueError if it is none."""
    families = list(parse_openmetrics(text) if is_openmetrics else parse_text(text))
    kinds = {line.split()[2]: line.split()[3] for line in text.splitlines() if line.startswith("# TYPE ")}

    def said(name: str) -> str:
        """The name as it is on the page: the parser of the text format adds `_total` to every counter."""
        bare = name.removesuffix("_total")
        return bare if not is_openmetrics and name not in kinds and bare in kinds else name

    series = [Series(said(s.name), frozenset(s.labels.items()), s.value, s.timestamp) for f in families for s in f.samples]
    return Parsed(kinds, series)


def rendered(known: Sequence[tuple[Container, Latest | None]] | None, **options: Any) -> Parsed:
    """The page of these containers as text, parsed."""
    return parsed(Renderer(GROUPS, **options).render(known, START_MS / 1000))

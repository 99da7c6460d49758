"""Our answers against recorded ones of cAdvisor 0.35, field by field, from the same kernel files and the same samples.

What may differ stands in `cadvisor_differences.tsv`; anything else fails.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.api.cadvisor_rig import Api, Difference, compare, intended, unlisted

from tidegauge.collectors.cgroup_v1 import CgroupV1Collector, CgroupV1Config
from tidegauge.collectors.diskstats import DiskstatsCollector, DiskstatsConfig
from tidegauge.collectors.machine import MachineCollector, MachineConfig
from tidegauge.collectors.remotes.cadvisor import CadvisorConfig, CadvisorRemote, _Traits
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.groups import DEFAULT_GROUPS
from tidegauge.pipeline.plugin import RemoteContainer
from tidegauge.pipeline.records import Container, Sample, TableRows
from tidegauge.pipeline.testing import START_MS, make_container


def check(differences: Iterator[Difference]) -> None:
    found = unlisted(differences)
    assert not found, "\n".join(
        f"{d.kind}\t{d.place}\ttheirs {str(d.theirs)[:90]}\tours {str(d.ours)[:90]}" for d in found[:40]
    )


# The cgroup1-vm recording: our collectors read the recorded tree.


def of_tree(root: Path, said: list[dict[str, Any]]) -> Api:
    """One sample of each container of the recorded tree, by the collectors, and records as the sampler makes them."""
    snapshot = root / "snapshot-2"
    roots = {"sys": snapshot / "sys", "proc": snapshot / "proc"}
    cgroups = CgroupV1Collector(CgroupV1Config(**roots))
    disks = DiskstatsCollector(DiskstatsConfig(proc=roots["proc"]))
    machine = MachineCollector(MachineConfig(**roots, rootfs=snapshot, groups=DEFAULT_GROUPS | {"cpu_topology"})).machine()
    schema = Catalogue().schema((*cgroups.metrics, *disks.metrics), (*cgroups.tables, *disks.tables))
    meta = json.loads((snapshot / "META.json").read_text())
    api = Api()
    samples, containers = [], []
    for number, theirs in enumerate(said, 1):
        c = make_container(number, theirs["name"], name=None, image=None, labels={}, pairs=())
        reader = cgroups.reader(c)
        assert reader is not None
        values = reader.read()
        tables: tuple[TableRows | None, ...] = reader.read_tables()
        reader.close()
        if c.is_host and (of_disks := disks.reader(c)) is not None:
            values += tuple(of_disks.read())
            tables += tuple(of_disks.read_tables())
            of_disks.close()
        else:
            values += (None,) * len(disks.metrics)
            tables += (None,) * len(disks.tables)
        containers.append(
            msgspec.structs.replace(c, spec=cgroups.spec(c), machine=machine if c.is_host else None, created_ms=START_MS)
        )
        samples.append(Sample(number, meta["end_ns"] // 1_000_000, schema.id, values, tables))
    api.add(samples, containers, schema)
    return api


@pytest.fixture(scope="module")
def vm(recorded_tree: Callable[[str], Path]) -> Path:
    return recorded_tree("cgroup1-vm")


@pytest.fixture(scope="module")
def vm_said(vm: Path) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = json.loads((vm / "cadvisor-0.35/v1.3-subcontainers.json").read_text())
    return sorted(said, key=lambda c: str(c["name"]))


@pytest.fixture(scope="module")
def vm_api(vm: Path, vm_said: list[dict[str, Any]]) -> Api:
    return of_tree(vm, vm_said)


def without_host(theirs: dict[str, Any]) -> dict[str, Any]:
    """Without what the recorded tree does not have of the host: mounted filesystems and the network of process 1."""
    if theirs["name"] != "/":
        return theirs
    stats = [{k: v for k, v in s.items() if k not in ("filesystem", "network")} for s in theirs["stats"]]
    return {**theirs, "stats": stats, "spec": theirs["spec"] | {"has_filesystem": False}}


def numbers(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{place}.{key}")
    elif isinstance(value, list):
        names = [v.get("device") or v.get("name") or i if isinstance(v, dict) else i for i, v in enumerate(value)]
        for name, inner in zip(names, value, strict=True):
            yield from numbers(inner, f"{place}[{name}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place, value


def test_the_recorded_tree_gives_cadvisors_structure(vm_api: Api, vm_said: list[dict[str, Any]]) -> None:
    ours = vm_api.get("/api/v1.3/subcontainers/", "POST", b'{"num_stats": 1}').json
    assert [c["name"] for c in ours] == [c["name"] for c in vm_said]
    for theirs, own in zip(vm_said, ours, strict=True):
        theirs = without_host(theirs)
        check(compare({**theirs, "stats": theirs["stats"][-1:]}, own))
        check(compare(theirs["spec"] | {"creation_time": ""}, own["spec"] | {"creation_time": ""}, "spec", exactly=True))
        assert theirs.get("subcontainers") == own.get("subcontainers")


def test_the_recorded_tree_gives_cadvisors_values(vm_api: Api, vm_said: list[dict[str, Any]]) -> None:
    """The tree was read between samples of cAdvisor: each number lies between the least and the greatest that it said."""
    ours = {c["name"]: c for c in vm_api.get("/api/v1.3/subcontainers/", "POST", b'{"num_stats": 1}').json}
    skipped = [i.place for i in intended() if i.kind == "value"]
    compared = exact = 0
    for theirs in vm_said:
        if theirs["name"] == "/":
            continue  # it is never still: what it counts moved on while the tree was read
        spans: dict[str, list[float]] = {}
        for stats in theirs["stats"]:
            for place, value in numbers(stats):
                spans.setdefault(place, []).append(value)
        (own,) = ours[theirs["name"]]["stats"]
        for place, value in numbers(own):
            if place not in spans or any(place.startswith(f".{s.removeprefix('stats.')}") for s in skipped):
                continue
            if theirs.get("subcontainers") and place.startswith(".diskio"):
                continue  # we count with the cgroups below, 0.35 found no file that does
            low, high = min(spans[place]), max(spans[place])
            room = 0 if low == high else max(0.35 * (high - low), 1 << 20)
            assert low - room <= value <= high + room, (theirs["name"], place, value, low, high)
            compared += 1
            exact += low == high
    assert compared > 400
    assert exact > 200


def test_the_machine_of_the_recorded_tree(vm: Path, vm_api: Api) -> None:
    theirs = json.loads((vm / "cadvisor-0.35/machine.json").read_text())
    ours = vm_api.get("/api/v1.3/machine").json
    for one in (theirs, ours):
        for missing in ("machine_id", "system_uuid", "boot_id", "hugepages", "filesystems"):
            del one[missing]  # the tree does not hold their files
        for node in one["topology"]:
            del node["hugepages"], node["caches"]
            for core in node["cores"]:
                del core["core_id"], core["caches"]
    check(compare({"machine": theirs}, {"machine": ours}, exactly=True))


def test_v2_of_the_recorded_tree(vm: Path, vm_api: Api) -> None:
    specs = json.loads((vm / "cadvisor-0.35/v2.0-spec.json").read_text())
    ours = vm_api.get("/api/v2.0/spec?recursive=true").json
    assert specs.keys() == ours.keys()
    specs["/"]["has_filesystem"] = False  # the tree has no mounts
    for name in specs:
        check(compare(specs[name] | {"creation_time": ""}, ours[name] | {"creation_time": ""}, "spec", exactly=True))
    stats = json.loads((vm / "cadvisor-0.35/v2.1-stats.json").read_text())
    mine = vm_api.get("/api/v2.1/stats?recursive=true&count=1").json
    assert stats.keys() == mine.keys()
    for name, theirs in stats.items():
        theirs["stats"] = [{k: v for k, v in s.items() if k != "cpu_inst"} for s in theirs["stats"][-1:]]
        check(compare({"{}": theirs}, {"{}": mine[name]}))


# Docker's containers: recorded answers of REST are taken in as another host's, shown again, and compared exactly.


class Remote(CadvisorRemote):
    def told(self, body: bytes, machine: bytes) -> list[RemoteContainer]:
        from tidegauge.collectors.remotes.cadvisor import _MACHINE

        containers = self._containers(body, "the recorded answer")
        traits = _Traits.of(containers)
        return [self._told(c, _MACHINE.decode(machine), traits, False) for c in containers]


def of_answer(body: bytes, machine: bytes) -> Api:
    remote = Remote(CadvisorConfig(url="http://recorded.example"))
    told = remote.told(body, machine)
    remote.close()
    schema = Catalogue().schema(remote.metrics, remote.tables)
    api = Api()
    host = make_container(1000, "/", name=None, image=None, labels={}, machine=_machine(machine))
    api.write(host)
    for number, c in enumerate(told, 1):
        fields: dict[str, Any] = {"name": None, "image": None, "labels": {}, "created_ms": c.created_ms, "spec": c.spec}
        if c.said is not None and c.ref is not None:
            fields |= {
                "name": c.said.name,
                "aliases": c.said.aliases,
                "namespace": c.said.namespace,
                "image": c.said.image,
                "labels": c.said.labels,
                "container_id": c.ref.id,
                "runtime_created_ms": c.said.created_ms,
            }
        container: Container = make_container(number, c.path, **fields, pairs=(("cpuacct", number),))
        names = schema.names
        samples = [
            Sample(
                number,
                r.ts_ms,
                schema.id,
                tuple(r.values.get(n) for n in names),
                tuple(r.tables.get(t.name) for t in schema.tables),
            )
            for r in c.readings
        ]
        api.add(samples, [container], schema)
    return api


def _machine(raw: bytes) -> Any:
    from tidegauge.pipeline.machine import Disk, Machine

    said = json.loads(raw)
    disks = [Disk(d["name"], d["major"], d["minor"], d["size"]) for d in said["disk_map"].values()]
    return Machine(cpus=said["num_cores"], memory_bytes=said["memory_capacity"], disks=tuple(disks))


@pytest.fixture(scope="module")
def rest(recorded_tree: Callable[[str], Path]) -> Path:
    return recorded_tree("cadvisor-rest")


@pytest.fixture(scope="module")
def docker(rest: Path) -> Api:
    folder = rest / "docker"
    below = json.loads((folder / "v1.3-subcontainers-docker.json").read_bytes())
    elsewhere = json.loads((folder / "v1.3-docker.json").read_bytes())
    body = [*below, *(c for name, c in elsewhere.items() if name not in {b["name"] for b in below})]
    return of_answer(json.dumps(body).encode(), (folder / "v2.0-machine.json").read_bytes())


def shortened(value: Any) -> Any:
    """Times to the millisecond, which is what we keep."""
    if isinstance(value, dict):
        return {k: shortened(v) for k, v in value.items()}
    if isinstance(value, list):
        return [shortened(v) for v in value]
    if isinstance(value, str) and len(value) > 24 and value.startswith("2026-") and value.endswith("Z"):
        seconds, _, fraction = value[:-1].partition(".")
        fraction = f"{fraction[:3]}".rstrip("0")
        return f"{seconds}.{fraction}Z" if fraction else f"{seconds}Z"
    return value


@pytest.mark.parametrize(
    ("file", "path"),
    [
        ("v1.3-subcontainers-docker.json", "/api/v1.3/subcontainers/docker"),
        ("v1.3-containers-docker-ts-web.json", "/api/v1.3/containers/docker/{id}"),
        ("v1.3-docker.json", "/api/v1.3/docker/"),
        ("v1.3-docker-ts-web-byname.json", "/api/v1.3/docker/ts-web"),
        ("v1.3-docker-ts-web-byid.json", "/api/v1.3/docker/{id}"),
    ],
)
def test_recorded_docker_containers_are_shown_as_cadvisor_does(docker: Api, rest: Path, file: str, path: str) -> None:
    """Of samples at the same time every value is the same; what each has by itself, times of the request, is shapes alone."""
    theirs = json.loads((rest / "docker" / file).read_bytes())
    id_ = next(iter(docker.get("/api/v1.3/docker/ts-web").json)).rpartition("/")[2]
    answer = docker.get(path.format(id=id_), "POST", b'{"num_stats": -1}')
    assert answer.status == 200
    ours = answer.json
    if isinstance(theirs, list):
        pairs = [(t, o) for t in theirs for o in ours if t["name"] == o["name"]]
        assert len(pairs) == len(theirs) == len(ours)
    elif "name" in theirs:
        pairs = [(theirs, ours)]
    else:
        assert theirs.keys() == ours.keys()
        pairs = [(theirs[name], ours[name]) for name in theirs]
    compared = 0
    for t, o in pairs:
        t = shortened(t)
        by_time: Mapping[str, Any] = {s["timestamp"]: s for s in o["stats"]}
        at_once = [(s, by_time[s["timestamp"]]) for s in t.pop("stats") if s["timestamp"] in by_time]
        o.pop("stats")
        check(compare(t, o, exactly=True))
        for one, other in at_once:
            check(compare({"stats": one}, {"stats": other}, exactly=True))
        compared += len(at_once)
    assert compared > 30

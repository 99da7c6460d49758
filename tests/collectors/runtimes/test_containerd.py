"""containerd's bundles, laid out as containerd 1.6 and its CRI plug-in, nerdctl and ctr do."""

import json
import os
from pathlib import Path

import pytest

from tidegauge.collectors.runtimes.containerd import ContainerdConfig, ContainerdRuntime
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.plugin import RuntimeRef

ID = "c064fbca9d9de8dd9bb0624984403b28d0da807a69365d4f7fb09123ecb0c405"
SANDBOX = "2a8c227a0a7b0a51085cc500f33f757f2914b554a13497f86c55a9519e2012e6"
REF = RuntimeRef("containerd", ID)
OWN_NETWORK = [{"type": "pid"}, {"type": "network", "path": "/proc/17/ns/net"}]
CRI = {
    "io.kubernetes.cri.container-name": "app",
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.image-name": "registry.example/app:1",
    "io.kubernetes.cri.sandbox-id": SANDBOX,
    "io.kubernetes.cri.sandbox-name": "web-0",
    "io.kubernetes.cri.sandbox-namespace": "shop",
    "io.kubernetes.cri.sandbox-uid": "u-1",
}


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "containerd" / "io.containerd.runtime.v2.task"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def runtime(tmp_path: Path) -> ContainerdRuntime:
    return ContainerdRuntime(ContainerdConfig(rootfs=tmp_path))


def _bundle(tasks: Path, namespace: str, id_: str, annotations: dict[str, str] | None, namespaces: object = ()) -> Path:
    folder = tasks / namespace / id_
    folder.mkdir(parents=True)
    spec = {"ociVersion": "1.0.2", "process": {"env": ["PATH=/bin", "MODE=test"]}, "linux": {"namespaces": namespaces}}
    (folder / "config.json").write_text(json.dumps(spec | ({"annotations": annotations} if annotations else {})))
    os.utime(folder / "config.json", (1_700_000_000, 1_700_000_000.25))
    return folder


def test_a_container_of_a_pod(tasks: Path, runtime: ContainerdRuntime) -> None:
    _bundle(tasks, "k8s.io", ID, CRI, OWN_NETWORK)
    said = runtime.describe(REF)
    assert said is not None
    assert (said.name, said.aliases, said.namespace, said.image) == ("app", ("app", ID), "containerd", "registry.example/app:1")
    assert (said.pod, said.pod_namespace, said.pod_uid, said.network) == ("web-0", "shop", "u-1", f"container:{SANDBOX}")
    assert said.labels["io.kubernetes.container.name"] == "app"
    assert said.labels["io.kubernetes.pod.namespace"] == "shop"
    assert (said.created_ms, said.environment["MODE"]) == (1_700_000_000_250, "test")


def test_the_sandbox_of_a_pod_owns_the_network(tasks: Path, runtime: ContainerdRuntime) -> None:
    sandbox = {k: v for k, v in CRI.items() if "container-name" not in k and "image" not in k}
    sandbox |= {"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": ID}
    _bundle(tasks, "k8s.io", ID, sandbox, OWN_NETWORK)
    said = runtime.describe(REF)
    assert said is not None
    assert (said.name, said.pod, said.network, said.image) == ("POD", "web-0", "own", None)


def test_a_pod_on_the_host_s_network_has_no_namespace_of_its_own(tasks: Path, runtime: ContainerdRuntime) -> None:
    _bundle(tasks, "k8s.io", ID, CRI, [{"type": "pid"}])
    said = runtime.describe(REF)
    assert said is not None
    assert said.network == "host"


def test_nerdctl_gives_names_and_ctr_none(tasks: Path, runtime: ContainerdRuntime) -> None:
    _bundle(tasks, "default", ID, {"nerdctl/name": "web"}, OWN_NETWORK)
    _bundle(tasks, "default", "job-1", None)
    named, bare = runtime.describe(REF), runtime.describe(RuntimeRef("containerd", "job-1", namespace="default"))
    assert named is not None
    assert bare is not None
    assert (named.name, named.aliases) == ("web", ("web", ID))
    assert (bare.name, bare.aliases, bare.namespace) == ("job-1", ("job-1",), "containerd")


def test_a_bundle_is_looked_for_in_its_namespace_alone_where_the_path_tells_it(tasks: Path, runtime: ContainerdRuntime) -> None:
    _bundle(tasks, "other", "job-1", None)
    assert runtime.describe(RuntimeRef("containerd", "job-1", namespace="default")) is None


def test_docker_s_own_containers_are_left_to_docker(tasks: Path, runtime: ContainerdRuntime) -> None:
    _bundle(tasks, "moby", ID, None)
    assert runtime.describe(REF) is None


def test_a_stranger_is_unknown_and_no_containerd_is_no_data(tasks: Path, tmp_path: Path, runtime: ContainerdRuntime) -> None:
    assert runtime.describe(REF) is None
    nobody = ContainerdRuntime(ContainerdConfig(rootfs=tmp_path / "elsewhere"))
    for ref in (REF, RuntimeRef("containerd", "x", namespace="default")):
        with pytest.raises(NoData):
            nobody.describe(ref)


def test_a_broken_bundle_is_an_error(tasks: Path, runtime: ContainerdRuntime) -> None:
    (_bundle(tasks, "k8s.io", ID, CRI) / "config.json").write_text("{")
    with pytest.raises(CollectError, match="not a specification"):
        runtime.describe(REF)

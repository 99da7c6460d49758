"""CRI-O's answers as its source writes them (ContainerInfo in pkg/types), over a real socket."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.collectors.runtimes.engine_server import EngineServer

from tidegauge.collectors.runtimes.crio import CrioConfig, CrioRuntime
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.plugin import RuntimeRef

ID = "c64064614423cb790e88b3e5492ff5ccf673b25ae823089f7a60c65cda24d809"
SANDBOX = "2a8c227a0a7b0a51085cc500f33f757f2914b554a13497f86c55a9519e2012e6"
INFO: dict[str, Any] = {
    "name": "k8s_app_web-0_shop_u-1_2",
    "pid": 4242,
    "image": "registry.example/app:1",
    "image_ref": "registry.example/app@sha256:00",
    "created_time": 1_700_000_000_250_000_000,
    "labels": {
        "io.kubernetes.container.name": "app",
        "io.kubernetes.pod.name": "web-0",
        "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.pod.uid": "u-1",
    },
    "annotations": {"io.kubernetes.container.restartCount": "2"},
    "crio_annotations": {"io.kubernetes.cri-o.HostNetwork": "false"},
    "log_path": "/var/log/pods/x/app/2.log",
    "root": "/var/lib/containers/storage/overlay/x/merged",
    "sandbox": SANDBOX,
    "ip_addresses": ["10.85.0.7", "1100:200::7"],
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EngineServer]:
    (tmp_path / "run" / "crio").mkdir(parents=True)
    made = EngineServer(tmp_path / "run" / "crio" / "crio.sock").start()
    yield made
    made.stop()


def _describe(tmp_path: Path) -> Any:
    return CrioRuntime(CrioConfig(rootfs=tmp_path)).describe(RuntimeRef("crio", ID))


def _says(server: EngineServer, info: object) -> None:
    server.says = b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(info).encode()


def test_a_container_of_a_pod(tmp_path: Path, server: EngineServer) -> None:
    _says(server, INFO)
    said = _describe(tmp_path)
    assert server.targets == [f"/containers/{ID}"]
    assert (said.name, said.namespace, said.image, said.pid) == (INFO["name"], "crio", "registry.example/app:1", 4242)
    assert (said.aliases, said.labels) == ((INFO["name"], ID), INFO["labels"])
    assert (said.created_ms, said.restart_count, said.health) == (1_700_000_000_250, 2, None)
    assert (said.pod, said.pod_namespace, said.pod_uid) == ("web-0", "shop", "u-1")
    assert (said.network, said.addresses) == (f"container:{SANDBOX}", ("10.85.0.7", "1100:200::7"))


def test_networks_of_sandboxes_and_of_pods_on_the_host_s(tmp_path: Path, server: EngineServer) -> None:
    _says(server, INFO | {"sandbox": ID})
    assert _describe(tmp_path).network == "own"
    _says(server, INFO | {"crio_annotations": {"io.kubernetes.cri-o.HostNetwork": "true"}})
    assert _describe(tmp_path).network == "host"


def test_older_versions_say_less(tmp_path: Path, server: EngineServer) -> None:
    _says(server, {"name": "x", "labels": None, "annotations": None, "ip_address": "10.85.0.7"})
    said = _describe(tmp_path)
    assert (said.name, said.image, said.created_ms, said.restart_count) == ("x", None, None, None)
    assert said.addresses == ("10.85.0.7",)


def test_unknown_absent_and_nonsense(tmp_path: Path, server: EngineServer) -> None:
    assert _describe(tmp_path) is None
    server.says = b"HTTP/1.0 200 OK\r\n\r\n[1]"
    with pytest.raises(CollectError):
        _describe(tmp_path)
    server.stop()
    with pytest.raises(NoData):
        _describe(tmp_path)

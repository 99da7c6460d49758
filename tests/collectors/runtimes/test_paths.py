"""Which runtime takes which cgroup path, on the layouts of every runtime and on recorded hosts."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegauge.pipeline import registry
from tidegauge.pipeline.plugin import RuntimeRef

ID = "c064fbca9d9de8dd9bb0624984403b28d0da807a69365d4f7fb09123ecb0c405"
OUTER = "2a8c227a0a7b0a51085cc500f33f757f2914b554a13497f86c55a9519e2012e6"
UID = "1be2c244-a7b8-5bf9-21df-7bf52074492b"
UID_ = UID.replace("-", "_")
STATIC_UID = "f0c2f5c7d3a1a8ed5f9c0f2b7f6a9b41"
RUNTIMES = [
    (name, cls(cls.Config()))
    for name in registry.available(registry.RUNTIMES)
    if (cls := registry.load(registry.RUNTIMES, name))
]


def _refs(path: str) -> list[RuntimeRef]:
    return [ref for _, runtime in RUNTIMES if (ref := runtime.identify(path)) is not None]


def _docker(id_: str = ID, part: str = "", pod: str | None = None) -> RuntimeRef:
    return RuntimeRef("docker", id_, part, pod)


def _containerd(pod: str | None = None) -> RuntimeRef:
    return RuntimeRef("containerd", ID, "", pod)


def _podman(part: str = "", pod: str | None = None) -> RuntimeRef:
    return RuntimeRef("podman", ID, part, pod)


def _unit(name: str) -> RuntimeRef:
    return RuntimeRef("systemd", name, name=name)


def _lxc(name: str, part: str = "") -> RuntimeRef:
    return RuntimeRef("lxc", name, part, name=name)


_PODS = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod"


@pytest.mark.parametrize(
    ("path", "refs"),
    [
        (f"/docker/{ID}", [_docker()]),
        (f"/system.slice/docker-{ID}.scope", [_docker()]),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope", [_docker()]),
        (f"/docker/{ID}/init", [_docker(part="init")]),
        (f"/docker/{ID}/system.slice/nginx.service", [_docker(part="system.slice/nginx.service")]),
        (f"/system.slice/docker-{OUTER}.scope/docker/{ID}", [_docker()]),
        (f"/my/parent/{ID}", [_containerd(), _docker()]),
        ("/docker", []),
        ("/docker/buildkit", []),
        ("/docker/buildkit/xk8ye9rz0zm0q4vbqjcx3o1nr", []),
        (f"/libpod_parent/libpod-{ID}", [_podman()]),
        ("/libpod_parent/conmon", []),
        (f"/machine.slice/libpod-{ID}.scope", [_podman()]),
        (f"/machine.slice/libpod-{ID}.scope/container", [_podman("container")]),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container", [_podman("container")]),
        (f"/system.slice/web.service/libpod-payload-{ID}", [_podman()]),
        (f"/libpod_parent/{OUTER}", []),
        (f"/libpod_parent/{OUTER}/libpod-{ID}", [_podman(pod=OUTER)]),
        (f"/machine.slice/machine-libpod_pod_{OUTER}.slice/libpod-{ID}.scope", [_podman(pod=OUTER)]),
        (f"/machine.slice/libpod-conmon-{ID}.scope", [_unit(f"libpod-conmon-{ID}.scope")]),
        (f"/kubepods/burstable/pod{UID}/{ID}", [_containerd(UID), _docker(pod=UID)]),
        (f"/kubepods/besteffort/pod{STATIC_UID}/{ID}", [_containerd(STATIC_UID), _docker(pod=STATIC_UID)]),
        (f"/kubepods/pod{UID}/crio-{ID}", [RuntimeRef("crio", ID, "", UID)]),
        (f"/kubepods/pod{UID}/crio-conmon-{ID}", []),
        (f"{_PODS}{UID_}.slice/cri-containerd-{ID}.scope", [_containerd(UID)]),
        (f"{_PODS}{UID_}.slice/docker-{ID}.scope", [_docker(pod=UID)]),
        (f"{_PODS}{UID_}.slice/crio-{ID}.scope", [RuntimeRef("crio", ID, "", UID)]),
        (f"{_PODS}{UID_}.slice/crio-{ID}.scope/container", [RuntimeRef("crio", ID, "container", UID)]),
        (f"{_PODS}{UID_}.slice/crio-conmon-{ID}.scope", [_unit(f"crio-conmon-{ID}.scope")]),
        (f"/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{ID}", [_containerd(UID)]),
        ("/kubepods", []),
        ("/kubepods/burstable", []),
        ("/kubepods.slice/kubepods-burstable.slice", [_unit("kubepods-burstable.slice")]),
        (f"/kubepods/burstable/pod{UID}", [RuntimeRef("kubernetes", UID, pod_uid=UID)]),
        (f"{_PODS}{UID_}.slice", [RuntimeRef("kubernetes", UID, pod_uid=UID)]),
        (f"/kubepods.slice/kubepods-pod{UID_}.slice", [RuntimeRef("kubernetes", UID, pod_uid=UID)]),
        ("/default/web-1", [RuntimeRef("containerd", "web-1", namespace="default")]),
        (f"/default/{ID}", [_containerd(), _docker()]),
        (f"/system.slice/nerdctl-{ID}.scope", [_containerd()]),
        ("/lxc/web1", [_lxc("web1")]),
        ("/lxc/web1/system.slice/nginx.service", [_lxc("web1", "system.slice/nginx.service")]),
        ("/lxc.payload.web1", [_lxc("web1")]),
        ("/lxc.payload/web1", [_lxc("web1")]),
        ("/lxc.payload.web1/init.scope", [_lxc("web1", "init.scope")]),
        ("/lxc.monitor.web1", []),
        ("/lxc", []),
        ("/system.slice", [_unit("system.slice")]),
        ("/system.slice/ssh.service", [_unit("ssh.service")]),
        ("/system.slice/system-getty.slice/getty@tty1.service", [_unit("getty@tty1.service")]),
        ("/user.slice/user-1000.slice/session-1.scope", [_unit("session-1.scope")]),
        ("/init.scope", [_unit("init.scope")]),
        ("/system.slice/systemd-journald-dev-log.socket", [_unit("systemd-journald-dev-log.socket")]),
        (r"/machine.slice/machine-qemu\x2d1\x2dvm.scope", [RuntimeRef("machine", "qemu-1-vm", name="qemu-1-vm")]),
        ("/system.slice/tmp.mount", []),
        ("/a/b/c", []),
        ("/bare", []),
        ("/../x", []),
    ],
)
def test_a_path_is_taken_by_its_runtimes_and_nobody_else(path: str, refs: list[RuntimeRef]) -> None:
    assert _refs(path) == refs


def test_the_recorded_host_with_every_layout(recorded_tree: Callable[[str], Path]) -> None:
    """What the recording says of each container, runtime and id, is found from its path."""
    containers = json.loads((recorded_tree("cgroup2") / "containers.json").read_text())
    named = {name: c for name, c in containers.items() if c["runtime"]}
    assert len(named) > 12
    for name, c in named.items():
        refs = _refs(c["cgroup"])
        assert [r.runtime for r in refs] == [c["runtime"]], name
        assert c["id"] in (None, refs[0].id), name
    unnamed = {c["cgroup"].rpartition("/")[2]: _refs(c["cgroup"]) for c in containers.values() if not c["runtime"]}
    assert unnamed == {unit: [_unit(unit)] for unit in unnamed}


def test_every_recorded_path_of_v1_hosts_is_taken_at_most_by_one(recorded_tree: Callable[[str], Path]) -> None:
    for tree in ("cgroup1", "cgroup1-vm"):
        containers = json.loads((recorded_tree(tree) / "containers.json").read_text())
        for name, c in containers.items():
            if c.get("runtime"):
                assert c["runtime"] in [r.runtime for r in _refs(c["cgroup"])], (tree, name)


@given(st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1), min_size=1, max_size=5))
def test_no_name_breaks_it_and_equal_paths_mean_equal_things(names: list[str]) -> None:
    path = "/" + "/".join(names)
    assert _refs(path) == _refs(path)
    for ref in _refs(path):
        assert "/" not in ref.id

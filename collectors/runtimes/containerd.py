"""containerd, by the bundle that it keeps of each running task: STATE/io.containerd.runtime.v2.task/NAMESPACE/ID/config.json.

containerd's socket speaks gRPC, for which there is no client that is kept up; the bundle's OCI specification holds what
Kubernetes, nerdctl and others write into annotations. Source: containerd's runtime/v2/README.md, the OCI runtime specification,
containerd's pkg/cri/annotations. Needs to read that folder: root. What a bundle does not tell, is absent: restarts (Kubernetes
makes a new container each time), health, exit code, and for containers made by `ctr` the image.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from tidegauge.collectors.runtimes import _labels
from tidegauge.collectors.runtimes._paths import UNIT, locate
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.plugin import Metadata, RuntimeRef

_CRI = "io.kubernetes.cri."
_NAMES = {
    _labels.CONTAINER: _CRI + "container-name",
    _labels.POD: _CRI + "sandbox-name",
    _labels.NAMESPACE: _CRI + "sandbox-namespace",
    _labels.UID: _CRI + "sandbox-uid",
}
_ENGINES_OWN = frozenset({"moby", "plugins.moby"})
"""Namespaces of Docker, which tells more of its containers itself."""
_WORD = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")
_OTHERS = frozenset({"docker", "kubepods", "libpod_parent", "lxc", "lxc.payload", "lxc.monitor"})
_LIMIT_BYTES = 8 << 20


class ContainerdConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    state: Path = Path("/run/containerd")
    """containerd's state folder, looked for below `rootfs`."""
    rootfs: Path = Path("/")


class _Process(msgspec.Struct):
    env: list[str] | None = None


class _Namespace(msgspec.Struct):
    type: str = ""
    path: str = ""


class _Linux(msgspec.Struct):
    namespaces: list[_Namespace] | None = None


class _Spec(msgspec.Struct):
    annotations: dict[str, str] | None = None
    process: _Process | None = None
    linux: _Linux | None = None


_DECODER = msgspec.json.Decoder(_Spec)


def parse(raw: bytes, id_: str) -> Metadata:
    """What a bundle's specification says. msgspec.DecodeError for anything else."""
    spec = _DECODER.decode(raw)
    annotations = spec.annotations or {}
    labels = {**annotations, **{label: annotations[key] for label, key in _NAMES.items() if annotations.get(key)}}
    is_sandbox = annotations.get(_CRI + "container-type") == "sandbox"
    name = annotations.get("nerdctl/name") or labels.get(_labels.CONTAINER) or ("POD" if is_sandbox else id_)
    return Metadata(
        name=name,
        aliases=(id_,) if name == id_ else (name, id_),
        namespace="containerd",
        image=annotations.get(_CRI + "image-name") or annotations.get("nerdctl/image-name"),
        labels=labels,
        environment=dict(pair.partition("=")[::2] for pair in (spec.process and spec.process.env) or ()),
        network=_network(spec, annotations, id_),
        **_labels.pod_fields(labels),
    )


def _network(spec: _Spec, annotations: Mapping[str, str], id_: str) -> str | None:
    if spec.linux is None or spec.linux.namespaces is None:
        return None
    if not any(n.type == "network" for n in spec.linux.namespaces):
        return "host"
    sandbox = annotations.get(_CRI + "sandbox-id", id_)
    return "own" if sandbox == id_ else f"container:{sandbox}"


class ContainerdRuntime:
    """containerd's containers, made by Kubernetes, nerdctl or `ctr`: named by their bundles."""

    Config = ContainerdConfig

    def __init__(self, config: ContainerdConfig) -> None:
        self._tasks = config.rootfs / str(config.state).lstrip("/") / "io.containerd.runtime.v2.task"

    def identify(self, path: str) -> RuntimeRef | None:
        """Containers with an id of 64 digits, and `/NAMESPACE/ID` as `ctr` makes it, which may be anything else as well."""
        place = locate(path)
        if place is not None:
            if "containerd" not in place.runtimes:
                return None
            return RuntimeRef("containerd", place.id, place.part, place.pod_uid)
        names = path.split("/")[1:]
        if len(names) != 2 or names[0] in _OTHERS or not all(_WORD.fullmatch(n) and not UNIT.fullmatch(n) for n in names):
            return None
        return RuntimeRef("containerd", names[1], namespace=names[0])

    def describe(self, ref: RuntimeRef) -> Metadata | None:
        for bundle in self._bundles(ref):
            config = bundle / "config.json"
            try:
                with config.open("rb") as file:
                    raw = file.read(_LIMIT_BYTES)
                    created_ms = int(config.stat().st_mtime * 1000)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except PermissionError as exc:
                raise NoData(f"{config}: {exc.strerror}") from exc
            try:
                return msgspec.structs.replace(parse(raw, ref.id), created_ms=created_ms)
            except msgspec.DecodeError as exc:
                raise CollectError(f"{config}: not a specification: {exc}") from exc
        return None

    def _bundles(self, ref: RuntimeRef) -> Iterator[Path]:
        try:
            namespaces = [ref.namespace] if ref.namespace else sorted(p.name for p in self._tasks.iterdir())
            if not self._tasks.is_dir():
                raise FileNotFoundError(2, "No such file or directory")
        except OSError as exc:
            raise NoData(f"{self._tasks}: {exc.strerror}") from exc
        for namespace in namespaces:
            if namespace not in _ENGINES_OWN:
                yield self._tasks / namespace / ref.id

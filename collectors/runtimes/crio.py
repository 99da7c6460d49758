"""CRI-O, asked over the HTTP end of its socket. Privileges: the right to connect to it (root's).

Source: CRI-O's pkg/types and server/inspect.go: GET /containers/ID. Not run against a real CRI-O here.
"""

from pathlib import Path
from typing import Annotated

import msgspec

from tidegauge.collectors.runtimes import _labels
from tidegauge.collectors.runtimes._paths import locate
from tidegauge.collectors.runtimes._unix_http import get
from tidegauge.pipeline.errors import CollectError
from tidegauge.pipeline.plugin import Metadata, RuntimeRef

_HOST_NETWORK = "io.kubernetes.cri-o.HostNetwork"


class CrioConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    socket: Path = Path("/run/crio/crio.sock")
    """Looked for below `rootfs`."""
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    """Longest wait for a whole answer."""
    rootfs: Path = Path("/")


class _Container(msgspec.Struct):
    name: str = ""
    pid: int = 0
    image: str = ""
    created_time: int = 0
    """Nanoseconds UTC."""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    crio_annotations: dict[str, str] | None = None
    sandbox: str = ""
    ip_addresses: list[str] | None = None
    ip_address: str = ""


_DECODER = msgspec.json.Decoder(_Container)


def parse(raw: bytes, id_: str) -> Metadata:
    """What an answer of /containers/ID says. msgspec.DecodeError for anything else."""
    found = _DECODER.decode(raw)
    labels = found.labels or {}
    is_sandbox = found.sandbox in ("", id_)
    network = "own" if is_sandbox else f"container:{found.sandbox}"
    if (found.crio_annotations or {}).get(_HOST_NETWORK) == "true":
        network = "host"
    addresses = found.ip_addresses or ([found.ip_address] if found.ip_address else [])
    return Metadata(
        name=found.name or None,
        aliases=(found.name, id_) if found.name else (id_,),
        namespace="crio",
        image=found.image or None,
        labels=labels,
        created_ms=found.created_time // 1_000_000 or None,
        restart_count=_labels.restarts(found.annotations or {}),
        pid=found.pid or None,
        addresses=tuple(a for a in addresses if a),
        network=network,
        **_labels.pod_fields(labels),
    )


class CrioRuntime:
    """CRI-O containers: named by its socket, recognised by `crio-ID` in their paths."""

    Config = CrioConfig

    def __init__(self, config: CrioConfig) -> None:
        self._socket = config.rootfs / str(config.socket).lstrip("/")
        self._timeout_s = config.timeout_s

    def identify(self, path: str) -> RuntimeRef | None:
        place = locate(path)
        if place is None or "crio" not in place.runtimes:
            return None
        return RuntimeRef("crio", place.id, place.part, place.pod_uid)

    def describe(self, ref: RuntimeRef) -> Metadata | None:
        raw = get(self._socket, f"/containers/{ref.id}", self._timeout_s)
        if raw is None:
            return None
        try:
            return parse(raw, ref.id)
        except msgspec.DecodeError as exc:
            raise CollectError(f"{self._socket}: an answer that is none: {exc}: {raw[:200]!r}") from exc

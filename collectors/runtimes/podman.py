"""Podman, asked over its Docker-compatible sockets, root's and users'. Privileges: the right to connect to them.

The sockets are opened by `systemctl enable --now podman.socket` (`--user` for a user's). Without one, containers are still
recognised, by their ids.
"""

import contextlib
from pathlib import Path
from typing import Annotated

import msgspec

from tidegauge.collectors.runtimes._engine import Engine, decoded
from tidegauge.collectors.runtimes._paths import locate
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.plugin import Metadata, RuntimeRef

_OWN = "/v4.0.0/libpod"
"""Podman's own API, which knows of pods; an older Podman answers 404."""


class _Named(msgspec.Struct, rename="pascal"):
    name: str = ""
    pod: str = ""
    """Id of the pod; of a container only."""


_DECODER = msgspec.json.Decoder(_Named)


class PodmanConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sockets: tuple[str, ...] = ("/run/podman/podman.sock", "/run/user/*/podman/podman.sock")
    """Unix sockets, as shell patterns, looked for below `rootfs` first. The second one is that of users. A
    socket that a user owns is asked for that user's containers alone."""
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    """Longest wait for a whole answer of one socket."""
    rootfs: Path = Path("/")


class PodmanRuntime(Engine):
    """Podman containers, of root and of users: named by its sockets, recognised by their paths with both cgroup drivers."""

    Config = PodmanConfig

    def __init__(self, config: PodmanConfig) -> None:
        # podman knows some of Docker's words for events by others and refuses those it does not know: so none are named
        super().__init__("podman", config.sockets, config.rootfs, config.timeout_s, ())

    def identify(self, path: str) -> RuntimeRef | None:
        place = locate(path)
        if place is None or "podman" not in place.runtimes:
            return None
        return RuntimeRef("podman", place.id, place.part, place.pod_uid)

    def describe(self, ref: RuntimeRef) -> Metadata | None:
        said = super().describe(ref)
        if said is None or not (pod := self._named(f"/containers/{ref.id}/json").pod):
            return said
        return msgspec.structs.replace(said, pod_uid=pod, pod=self._named(f"/pods/{pod}/json").name or None)

    def _named(self, target: str) -> _Named:
        """Empty where nobody answers: for want of a pod no container goes without its name."""
        with contextlib.suppress(CollectError, NoData):
            for raw in self.ask(_OWN + target):
                return decoded(_DECODER.decode, raw)
        return _Named()

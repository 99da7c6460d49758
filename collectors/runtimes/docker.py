"""Docker, asked over its socket for what a cgroup path does not tell. Privileges: the right to connect to the socket.

Only the socket matters: whatever stores images and layers (containerd's store too) is not looked at.
"""

from pathlib import Path
from typing import Annotated, Any

import msgspec

from tidegauge.collectors.runtimes._engine import Engine
from tidegauge.collectors.runtimes._paths import locate
from tidegauge.pipeline.plugin import RuntimeRef

_EVENTS = ("start", "die", "rename", "update", "health_status")
"""The rest, such as three events for each health check, is not sent to us at all."""


class DockerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sockets: tuple[str, ...] = ("/run/docker.sock", "/run/user/*/docker.sock")
    """Unix sockets, as shell patterns, looked for below `rootfs` first, or `tcp://HOST:PORT`. The second one is rootless
    Docker's. A socket that a user owns is asked for that user's containers alone."""
    tls: bool = False
    """TLS on `tcp://`; the engine's certificate and name are verified."""
    tls_ca: Path | None = None
    """Certificate of the authority that signed the engine's; without it those that the system trusts."""
    tls_cert: Path | None = None
    """Our own certificate, with which the engine lets us in, and its key."""
    tls_key: Path | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    """Longest wait for a whole answer."""
    rootfs: Path = Path("/")


def _tls(config: DockerConfig) -> Any:
    if not config.tls:
        return None
    from tidegauge.collectors.runtimes import _tls

    return _tls.context(config.tls_ca, config.tls_cert, config.tls_key, "runtimes.docker")


class DockerRuntime(Engine):
    """Docker containers: named by the engine's socket, recognised by their paths with both cgroup drivers."""

    Config = DockerConfig

    def __init__(self, config: DockerConfig) -> None:
        super().__init__("docker", config.sockets, config.rootfs, config.timeout_s, _EVENTS, _tls(config))

    def identify(self, path: str) -> RuntimeRef | None:
        place = locate(path)
        if place is None or "docker" not in place.runtimes:
            return None
        return RuntimeRef("docker", place.id, place.part, place.pod_uid)

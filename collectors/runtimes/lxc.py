"""LXC and LXD containers, by their cgroup paths alone: `/lxc.payload.NAME`, `/lxc.payload/NAME`, `/lxc/NAME`. No privileges."""

import msgspec

from tidegauge.collectors.runtimes._paths import locate
from tidegauge.pipeline.plugin import RuntimeRef


class LxcConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class LxcRuntime:
    """LXC containers, named by their cgroup paths."""

    Config = LxcConfig

    def __init__(self, config: LxcConfig) -> None:
        pass

    def identify(self, path: str) -> RuntimeRef | None:
        place = locate(path)
        if place is None or "lxc" not in place.runtimes:
            return None
        return RuntimeRef("lxc", place.id, place.part, name=place.id)

"""Slices, services, scopes and machines of systemd, by their cgroup paths alone. No privileges.

Source: systemd.unit(5), systemd.slice(5), and systemd-machined, which names the scope of a machine `machine-NAME.scope`.
"""

import msgspec

from tidegauge.collectors.runtimes._paths import UNIT, locate, pod_uid, unescape
from tidegauge.pipeline.plugin import RuntimeRef


class SystemdConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class SystemdRuntime:
    """Units of systemd, named by their cgroup paths; those that are containers or pods are left to their runtimes."""

    Config = SystemdConfig

    def __init__(self, config: SystemdConfig) -> None:
        pass

    def identify(self, path: str) -> RuntimeRef | None:
        unit = path.rpartition("/")[2]
        if not UNIT.fullmatch(unit) or pod_uid(unit) or locate(path) is not None:
            return None
        if unit.startswith("machine-") and unit.endswith(".scope"):
            machine = unescape(unit.removeprefix("machine-").removesuffix(".scope"))
            return RuntimeRef("machine", machine, name=machine)
        return RuntimeRef("systemd", unit, name=unit)

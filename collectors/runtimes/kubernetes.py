"""Pods of Kubernetes, by their cgroup paths, with both cgroup drivers. No privileges.

A pod's path holds its uid only; its name comes with the first of its containers that a runtime describes.
"""

import msgspec

from tidegauge.collectors.runtimes._paths import pod_uid
from tidegauge.pipeline.plugin import RuntimeRef


class KubernetesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class KubernetesRuntime:
    """The cgroups of pods; those of their containers belong to the runtime that made them."""

    Config = KubernetesConfig

    def __init__(self, config: KubernetesConfig) -> None:
        pass

    def identify(self, path: str) -> RuntimeRef | None:
        uid = pod_uid(path.rpartition("/")[2]) if "kubepods" in path else None
        return None if uid is None else RuntimeRef("kubernetes", uid, pod_uid=uid)

"""The labels by which Kubernetes names a container, as each runtime carries them; pure."""

from collections.abc import Mapping
from typing import Any

CONTAINER = "io.kubernetes.container.name"
POD = "io.kubernetes.pod.name"
NAMESPACE = "io.kubernetes.pod.namespace"
UID = "io.kubernetes.pod.uid"
RESTARTS = ("io.kubernetes.container.restartCount", "annotation.io.kubernetes.container.restartCount")
"""CRI-O's annotation, and the label that the kubelet's adapter for Docker makes of it."""


def pod_fields(labels: Mapping[str, str]) -> dict[str, Any]:
    """Fields of Metadata that these labels tell."""
    fields = {"pod": labels.get(POD), "pod_namespace": labels.get(NAMESPACE), "pod_uid": labels.get(UID)}
    return {name: value for name, value in fields.items() if value}


def restarts(labels: Mapping[str, str]) -> int | None:
    """How often the kubelet made the container anew; None if the labels do not say."""
    for name in RESTARTS:
        if (text := labels.get(name, "")).isdigit():
            return int(text)
    return None

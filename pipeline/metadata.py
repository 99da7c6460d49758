"""What of a container's metadata goes into its records: by path, by what a runtime said, allow-lists, bounds. Pure."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any

import msgspec

from tidegauge.pipeline.plugin import Metadata, RuntimeRef
from tidegauge.pipeline.sampler_config import Seconds

MAX_TEXT = 4096
"""Characters of a name, or of the value of a label or variable."""
MAX_PAIRS = 64
"""Labels of a container, likewise its variables and aliases."""
MAX_BYTES = 32768
"""All of a container's metadata together, in UTF-8. Each segment of the journal begins with those of all living containers."""


class MetadataConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table `[metadata]`."""

    labels: tuple[str, ...] = (
        "com.docker.compose.project",
        "com.docker.compose.service",
        "com.docker.swarm.service.name",
        "io.kubernetes.container.name",
        "io.kubernetes.pod.name",
        "io.kubernetes.pod.namespace",
        "io.kubernetes.pod.uid",
    )
    """Shell patterns of the labels that are recorded; `*` records all."""
    environment: tuple[str, ...] = ()
    """Shell patterns of the environment variables that are recorded. They often hold secrets: none by default."""
    resync_interval_s: Seconds = 60.0
    """How often runtimes are asked whether a change was missed."""
    exit_wait_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 2.0
    """How long the record of a container's end may wait for its exit code."""


def allowed(patterns: Sequence[str], pairs: Mapping[str, str]) -> dict[str, str]:
    """The pairs of which the key matches a pattern, sorted by key."""
    return {k: pairs[k] for k in sorted(pairs) if any(fnmatchcase(k, p) for p in patterns)}


def joined(name: str, part: str) -> str:
    """Name of a cgroup that lies below a container's own."""
    return f"{name}/{part}" if part else name


def path_fields(refs: Sequence[RuntimeRef]) -> dict[str, Any]:
    """Fields of a Container record that the path tells. With several runtimes in question, only what they agree on."""
    if not refs:
        return {}
    ref = refs[0]
    fields: dict[str, Any] = {"pod_uid": ref.pod_uid}
    if len({r.runtime for r in refs}) == 1:
        fields["runtime"] = ref.runtime
        fields["name"] = joined(ref.name, ref.part) if ref.name is not None else None
    # of a path that may be anything, no id is told before somebody knows it
    if ref.name is None and ref.runtime != "kubernetes" and not ref.namespace:
        fields["container_id"] = ref.id
    if ref.namespace:
        del fields["runtime"]
    return {k: v for k, v in fields.items() if v is not None}


def described_fields(ref: RuntimeRef, said: Metadata, config: MetadataConfig) -> dict[str, Any]:
    """Fields of a Container record as a runtime said them.

    A cgroup inside a container gets the container's name and its own path behind it, and nothing that would make it count
    as a second one of the same image and labels.
    """
    fields: dict[str, Any] = {
        "name": joined(said.name, ref.part) if said.name is not None else None,
        "runtime": ref.runtime,
        "container_id": ref.id,
        "pod": said.pod,
        "pod_namespace": said.pod_namespace,
        "pod_uid": ref.pod_uid or said.pod_uid,
    }
    if ref.part:
        return fields
    return fields | {
        "aliases": said.aliases,
        "namespace": said.namespace,
        "image": said.image,
        "labels": allowed(config.labels, said.labels),
        "environment": allowed(config.environment, said.environment),
        "started_ms": said.started_ms,
        "runtime_created_ms": said.created_ms,
        "restart_count": said.restart_count,
        "health": said.health,
        "network": said.network,
    }


def pod_fields(pod: str, namespace: str | None) -> dict[str, Any]:
    """Fields of the record of a pod's own cgroup."""
    return {"name": pod, "pod": pod, "pod_namespace": namespace}


def bounded(fields: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The same fields, not longer than a record may have them, and how many values were cut or left out for it.

    What stays is the same for the same fields: names come before aliases, labels before variables, each by their order.
    A name or value that is too long ends early; an alias, label or variable for which there is no room is left out.
    """
    cut = _Bounds()
    whole = {k: v if isinstance(v, tuple | Mapping) else cut.text(v) for k, v in fields.items()}
    whole |= {k: cut.texts(v) for k, v in whole.items() if isinstance(v, tuple)}
    whole |= {k: cut.pairs(v) for k, v in whole.items() if isinstance(v, Mapping)}
    return whole, cut.count


class _Bounds:
    """The room that is left."""

    def __init__(self) -> None:
        self.count = 0
        self._left = MAX_BYTES

    def text(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        short = value[:MAX_TEXT]
        if _size(short) > self._left:
            short = short[: self._left // 4]
        self._left -= _size(short)
        self.count += short != value
        return short

    def texts(self, values: Sequence[str]) -> tuple[str, ...]:
        kept = tuple(v for v in values[:MAX_PAIRS] if len(v) <= MAX_TEXT and self._take(_size(v)))
        self.count += len(values) - len(kept)
        return kept

    def pairs(self, pairs: Mapping[str, str]) -> dict[str, str]:
        kept: dict[str, str] = {}
        for key in sorted(pairs)[:MAX_PAIRS]:
            value = pairs[key][:MAX_TEXT]
            if len(key) <= MAX_TEXT and self._take(_size(key) + _size(value)):
                kept[key] = value
                self.count += value != pairs[key]
        self.count += len(pairs) - len(kept)
        return kept

    def _take(self, size: int) -> bool:
        if is_room := size <= self._left:
            self._left -= size
        return is_room


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))

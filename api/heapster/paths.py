"""Paths of the model and historical APIs -> what is asked for. Pure.

Parts are decoded one by one, so that a name with a slash may be written as it is (up to the next `metrics`), or with `%2F`.
"""

from typing import NamedTuple
from urllib.parse import unquote

from tidegauge.pipeline.heapster.sets import SetKey, SetType

ALIASES = {
    "cpu-usage": "cpu/usage_rate",
    "cpu-limit": "cpu/limit",
    "memory-limit": "memory/limit",
    "memory-usage": "memory/usage",
    "memory-working": "memory/working_set",
}
"""Names of metrics from before Heapster 1.0."""
_SERIES = ("metrics", "metrics-aggregated")


class NoSuchPath(Exception):
    """Nothing stands at the path."""


class Wanted(NamedTuple):
    """An object, and what of it. Its key has no node where the path names none; a pod may be named by its uid instead."""

    kind: str
    """`list`, `names`, `series`, `aggregated` or `keys`."""
    objects: tuple[SetKey, ...] = ()
    uids: tuple[str, ...] = ()
    """Of pods, one an object, where they are named so."""
    listed: SetType | None = None
    metric: str = ""
    aggregations: tuple[str, ...] = ()
    is_list: bool = False
    """Whether the answer holds an item for each object."""


def parse(rest: str, *, is_past: bool) -> Wanted:
    """`rest` is what follows the API's own path, not decoded. Raises NoSuchPath."""
    parts = [unquote(part) for part in rest.split("/") if part]
    try:
        return _root(parts, is_past)
    except IndexError:
        raise NoSuchPath from None


def _root(parts: list[str], is_past: bool) -> Wanted:
    if parts[0] in _SERIES:
        return _of((SetKey(SetType.CLUSTER),), parts, is_past)
    if parts == ["debug", "allkeys"] and not is_past:
        return Wanted("keys")
    if parts[0] == "nodes":
        return _nodes(parts[1:], is_past)
    if parts[0] == "namespaces":
        return _namespaces(parts[1:], is_past)
    if parts[0] == "pod-id" and is_past:
        return _by_uid(parts[1:], is_past)
    if parts[0] == "pod-id-list" and is_past:
        uids = tuple(parts[1].split(","))
        return _of((SetKey(SetType.POD),) * len(uids), parts[2:], is_past, uids=uids, is_list=True)
    raise NoSuchPath


def _nodes(parts: list[str], is_past: bool) -> Wanted:
    if not parts:
        return Wanted("list", listed=SetType.NODE)
    node, rest = parts[0], parts[1:]
    if rest[0] != "freecontainers":
        return _of((SetKey(SetType.NODE, node),), rest, is_past)
    if len(rest) == 1:
        return Wanted("list", (SetKey(SetType.NODE, node),), listed=SetType.FREE)
    name, rest = _name(rest[1:])
    return _of((SetKey(SetType.FREE, node, container=name),), rest, is_past)


def _namespaces(parts: list[str], is_past: bool) -> Wanted:
    if not parts:
        return Wanted("list", listed=SetType.NAMESPACE)
    namespace, rest = parts[0], parts[1:]
    own = SetKey(SetType.NAMESPACE, namespace=namespace)
    if rest == ["pods"]:
        return Wanted("list", (own,), listed=SetType.POD)
    if rest[0] == "pods":
        return _pod(SetKey(SetType.POD, namespace=namespace, pod=rest[1]), rest[2:], is_past)
    if rest[0] == "pod-list":
        pods = tuple(SetKey(SetType.POD, namespace=namespace, pod=pod) for pod in rest[1].split(","))
        return _of(pods, rest[2:], is_past, is_list=True)
    return _of((own,), rest, is_past)


def _pod(pod: SetKey, rest: list[str], is_past: bool) -> Wanted:
    if rest == ["containers"]:
        return Wanted("list", (pod,), listed=SetType.POD_CONTAINER)
    if rest[0] == "containers":
        name, rest = _name(rest[1:])
        return _of((SetKey(SetType.POD_CONTAINER, "", pod.namespace, pod.pod, name),), rest, is_past)
    return _of((pod,), rest, is_past)


def _by_uid(parts: list[str], is_past: bool) -> Wanted:
    uid, rest = parts[0], parts[1:]
    if rest[0] == "containers":
        name, rest = _name(rest[1:])
        return _of((SetKey(SetType.POD_CONTAINER, container=name),), rest, is_past, uids=(uid,))
    return _of((SetKey(SetType.POD),), rest, is_past, uids=(uid,))


def _name(parts: list[str]) -> tuple[str, list[str]]:
    """A name that may have slashes, and what follows."""
    end = next((i for i, part in enumerate(parts) if part in _SERIES), 0)
    if not end:
        raise NoSuchPath
    return "/".join(parts[:end]), parts[end:]


def _of(
    objects: tuple[SetKey, ...], parts: list[str], is_past: bool, *, uids: tuple[str, ...] = (), is_list: bool = False
) -> Wanted:
    if parts == ["metrics"] and not is_list:
        return Wanted("names", objects, uids)
    if parts[0] == "metrics" and len(parts) > 1:
        return Wanted("series", objects, uids, metric=_metric(parts[1:]), is_list=is_list)
    if parts[0] == "metrics-aggregated" and is_past and len(parts) > 2:
        wanted = tuple(parts[1].split(","))
        return Wanted("aggregated", objects, uids, metric=_metric(parts[2:]), aggregations=wanted, is_list=is_list)
    raise NoSuchPath


def _metric(parts: list[str]) -> str:
    name = "/".join(parts)
    return ALIASES.get(name, name)

"""The request types of v1.0 to v1.3 that are answered from containers. Worker threads."""

from collections.abc import Iterator

from tidegauge.api.cadvisor import shapes as s
from tidegauge.api.cadvisor import spec
from tidegauge.api.cadvisor.catalog import Entry
from tidegauge.api.cadvisor.errors import ApiError, Status
from tidegauge.api.cadvisor.request import Asked
from tidegauge.api.cadvisor.series import Wanted, encode
from tidegauge.api.cadvisor.sources import Sources


def container(asked: Asked, wanted: Wanted, sources: Sources) -> Iterator[bytes]:
    name = asked.container
    entry = sources.catalog.by_path.get(name)
    if entry is None:
        raise ApiError(f'failed to get container "{name}" with error: unknown container "{name}"', Status.NOT_FOUND)
    yield info(entry, wanted, sources)


def subcontainers(asked: Asked, wanted: Wanted, sources: Sources) -> Iterator[bytes]:
    name = asked.container
    entries = sources.catalog.below(name, sources.is_strict)
    if not entries:
        raise ApiError(f'failed to get subcontainers for container "{name}" with error: no containers found', Status.NOT_FOUND)
    opening = b"["
    for entry in entries:
        yield opening + info(entry, wanted, sources)
        opening = b","
    yield b"]"


def docker(asked: Asked, wanted: Wanted, sources: Sources) -> Iterator[bytes]:
    words = asked.arguments
    if len(words) > 1 and any(words[1:]):
        raise ApiError(f"unknown request for Docker container [{' '.join(words)}]", Status.BAD_REQUEST)
    if words and words[0]:
        try:
            entries = [sources.catalog.named(words[0], "docker")]
        except ApiError as exc:
            raise ApiError(f'failed to get Docker container "{words[0]}" with error: {exc}', exc.status) from exc
    else:
        entries = sources.catalog.of_runtime("docker")
    opening = b"{"
    for entry in entries:
        yield opening + encode(entry.path) + b":" + info(entry, wanted, sources)
        opening = b","
    yield b"}" if entries else b"{}"


def info(entry: Entry, wanted: Wanted, sources: Sources) -> bytes:
    c = entry.container
    of_runtime = spec.is_of_runtime(c)
    found = sources.series.v1(entry, wanted, sources.store, sources.history, sources.catalog.host)
    children = [] if of_runtime else [s.ContainerReference(name=e.path) for e in sources.catalog.children(entry.path)]
    head = encode(
        s.ContainerInfo(
            id=(c.container_id or "") if of_runtime else "",
            name=c.path,
            aliases=spec.aliases(c),
            namespace=(c.namespace or "") if of_runtime else "",
            subcontainers=children,
            spec=spec.of(
                c,
                entry.reading(),
                sources.catalog.machine,
                has_secrets=sources.may_see_secrets,
                is_strict=sources.is_strict,
            ),
        )
    )
    # the samples are encoded already
    return head[:-1] + b',"stats":[' + b",".join(found) + b"]}" if found else head

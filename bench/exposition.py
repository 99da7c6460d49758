"""The Prometheus page: one rendering and one compression for a thousand containers with everything that is read by default."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.data import containers, schema, ticks
from bench.report import Row, Section, cheaper
from bench.timing import in_turns
from tidegauge.api.exposition.page import Renderer
from tidegauge.pipeline.groups import DEFAULT_GROUPS
from tidegauge.pipeline.latest import Latest, merged
from tidegauge.pipeline.records import UNLIMITED, Container, Sample, Spec

LEVELS = (1, 6)
_SPEC = Spec(
    cpu_shares=1024,
    cpu_quota_us=UNLIMITED,
    cpu_period_us=100_000,
    memory_limit_bytes=UNLIMITED,
    memory_swap_limit_bytes=UNLIMITED,
    memory_reservation_bytes=UNLIMITED,
)

Known = Sequence[tuple[Container, Latest | None]]


def run(folder: Path, count: int = 1000, repeats: int = 9) -> list[Section]:
    # a dependency of tests, that other benches need not have
    from prometheus_client import generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    of = {n: _named(c) for n, c in containers(count).items()}
    pages = [_known(of, samples.samples) for samples in ticks(2, of, has_tables=True)]
    renderer = Renderer(DEFAULT_GROUPS)
    text = renderer.render(pages[0], 0.0)
    data = text.encode()
    at = iter(range(10**6))
    schemas = {schema().id: schema()}
    families = list(text_string_to_metric_families(text))

    class Registry:
        """The same series as the library's own objects, made beforehand."""

        def collect(self) -> object:
            return families

    registry: Any = Registry()
    before = [latest for _, latest in pages[0]]
    samples = next(ticks(1, of, has_tables=True)).samples
    times = in_turns(
        {
            "render": lambda: lambda: renderer.render(pages[next(at) % 2], 0.0).encode(),
            "library": lambda: lambda: generate_latest(registry),
            "first": lambda: lambda: Renderer(DEFAULT_GROUPS).render(pages[0], 0.0).encode(),
            "merge": lambda: lambda: [merged(b, s, schemas[s.schema]) for b, s in zip(before, samples, strict=True)],
            **{f"gzip {level}": (lambda level=level: lambda: _gzip(data, level)) for level in LEVELS},
        },
        repeats,
    )
    ms = {name: tuple(us / 1000 for us in found) for name, found in times.items()}
    lines = sum(not line.startswith("#") for line in text.splitlines())
    rows = [
        Row(f"a page of {lines} series in {len(families)} families", "ms", ms["render"]),
        cheaper("prometheus_client, its objects made beforehand / ours", ms["render"], ms["library"], "at least 5", 5),
        Row("the first page, with the labels of every container", "ms", ms["first"]),
        Row("gzip, level 1 (what is used)", "ms", ms["gzip 1"]),
        Row("gzip, level 6", "ms", ms["gzip 6"]),
        Row("size", "MB", (len(data) / 1e6,)),
        *(Row(f"size, gzip level {level}", "MB", (len(_gzip(data, level)) / 1e6,)) for level in LEVELS),
        Row(f"keeping the newest values, at each tick of {count} samples", "ms", ms["merge"]),
    ]
    return [Section(f"Prometheus page, CPU for {count} containers", rows)]


def _named(container: Container) -> Container:
    n = container.number
    labels = {"com.docker.compose.project": f"shop-{n % 7}", "com.docker.compose.service": f"web-{n}"}
    fields = {"name": f"shop-web-{n}", "image": f"example/web:1.{n % 9}", "labels": labels, "spec": _SPEC}
    return msgspec.structs.replace(container, container_id=f"{n:064x}", **fields)


def _known(of: dict[int, Container], samples: Sequence[Sample]) -> Known:
    return [(of[s.container], merged(None, s, schema())) for s in samples]


def _gzip(data: bytes, level: int) -> bytes:
    squeeze = zlib.compressobj(level, zlib.DEFLATED, 31)
    return squeeze.compress(data) + squeeze.flush()

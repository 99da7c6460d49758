"""A sampler of the real cgroups in a thread of this process, with its records at hand."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from tests.support import eventually

from tidegauge.pipeline import collecting
from tidegauge.pipeline import config as configuration
from tidegauge.pipeline.identity import Origin
from tidegauge.pipeline.records import Container, End, Event, Sample
from tidegauge.pipeline.sampler import Sampler
from tidegauge.pipeline.sampling import Collected

T = TypeVar("T")


class Watching:
    """`with Watching(runtimes, include) as w`: samples the cgroups that match until the end."""

    def __init__(self, runtimes: Mapping[str, Any], include: list[str], interval_s: float = 0.2) -> None:
        flags = {
            "runtimes": runtimes,
            "sampler": {"include": include, "base_interval_s": interval_s},
            "collectors": {n: {"enabled": False} for n in ("filesystem", "diskstats", "netdev")},
        }
        config = configuration.load(Path("/dev/null"), flags, {})
        collectors, catalogue = collecting.build(config)
        self.binder = collecting.build_binder(config)
        self._log = Collected()
        origin = Origin("source", "host", "boot")
        self.sampler = Sampler(config.sampler, collectors, catalogue, origin, self._log, naming=self.binder)
        self._thread = threading.Thread(target=self.sampler.run)

    def __enter__(self) -> "Watching":
        self.binder.start()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.sampler.stop()
        self.binder.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def of(self, kind: type[T]) -> list[T]:
        return [i for i in list(self._log.items) if isinstance(i, kind)]

    def records(self, id_: str) -> list[Container]:
        """Of the container with this id, in order; its inner cgroups left out."""
        return [c for c in self.of(Container) if c.path.endswith(id_)]

    def newest(self, id_: str) -> Container | None:
        return (self.records(id_) or [None])[-1]

    def named(self, id_: str, **fields: Any) -> Container:
        """The newest record once it has a name and these fields."""

        def is_so() -> Container | None:
            c = self.newest(id_)
            return c if c is not None and c.name is not None and all(getattr(c, k) == v for k, v in fields.items()) else None

        try:
            return eventually(is_so)
        except AssertionError as exc:
            raise AssertionError(f"{fields}: {self.records(id_)}") from exc

    def deletion(self, record: Container) -> Event:
        """The deletion event of this very instance, and its end after it."""
        event = eventually(
            lambda: next((e for e in self.of(Event) if e.kind == "deletion" and e.container == record.number), None)
        )
        assert any(e.container == record.number for e in self.of(End))
        return event

    def samples(self, record: Container) -> list[Sample]:
        return [s for i in self.of(list) for s in i if s.container == record.number]

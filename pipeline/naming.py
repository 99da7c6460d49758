"""What the sampling thread asks of who knows the names of containers. Nobody may make it wait."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from tidegauge.pipeline.records import Container


class Parting(NamedTuple):
    """What to do at a container's end."""

    exit_code: int | None = None
    wait_s: float = 0.0
    """How long its last records wait for more: 0 if nothing is expected."""


class Naming(Protocol):
    """What the sampler uses. Every method is called in the sampling thread and does not block."""

    def attach(self, bind: Callable[[str, str, Mapping[str, Any]], None], depart: Callable[[str, int | None], None]) -> None:
        """Takes the ways back, both for any thread: `bind(path, instance, fields)`, `depart(instance, exit_code)`."""
        ...

    def named(self, record: Container) -> Container:
        """The record with what its path tells."""
        ...

    def appeared(self, record: Container) -> None: ...
    def gone(self, record: Container) -> Parting: ...

    def forget(self, instance: str) -> None:
        """Its last records are written; nothing is wanted any more."""
        ...


class NoNames:
    """A Naming that knows nobody."""

    def attach(self, bind: object, depart: object) -> None:
        pass

    def named(self, record: Container) -> Container:
        return record

    def appeared(self, record: Container) -> None:
        pass

    def gone(self, record: Container) -> Parting:
        return Parting()

    def forget(self, instance: str) -> None:
        pass

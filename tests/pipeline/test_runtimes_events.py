"""Events of runtimes that come before what they tell of."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from tests.support import eventually

from tidegauge.pipeline.plugin import Metadata, RuntimeNews, RuntimeRef
from tidegauge.pipeline.records import Container
from tidegauge.pipeline.runtimes import Binder


class Hasty:
    """Tells of a change before its answers have it: the first one after the event is the old one still."""

    Config = object

    def __init__(self, config: object) -> None:
        self.answers = ["starting", "starting", "healthy"]
        self._was_asked = threading.Event()

    def identify(self, path: str) -> RuntimeRef | None:
        return RuntimeRef("hasty", path)

    def describe(self, ref: RuntimeRef) -> Metadata | None:
        self._was_asked.set()
        return Metadata(name="web", health=self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])

    def survey(self) -> Mapping[str, object]:
        return {}

    def watch(self, tell: Callable[[RuntimeNews], None], is_stopping: Callable[[], bool]) -> None:
        self._was_asked.wait(30)
        tell(RuntimeNews("changed", "/a"))
        eventually(is_stopping, 60)


def test_what_an_event_tells_of_may_come_later_than_the_event() -> None:
    binder = Binder([("hasty", Hasty(None))])
    bound: list[Any] = []
    binder.attach(lambda path, instance, fields: bound.append(fields["health"]), lambda instance, code: None)
    binder.start()
    try:
        binder.appeared(Container(1, "source", "i", 0, "boot", "/a", "host", 1, 1))
        eventually(lambda: bound == ["starting", "healthy"])
    finally:
        binder.stop()

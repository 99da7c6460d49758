"""Inside a VM with cgroup v2 alone: real OOM kills, and which containers the sampler gives the events to."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.sampler_rig import ORIGIN, ListOutlet
from tests.vm.worker import MIB, touch_memory

from tidegauge.collectors.cgroup_v2 import CgroupV2Collector, CgroupV2Config
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.kmsg import KmsgThread
from tidegauge.pipeline.records import Container, End, Event
from tidegauge.pipeline.sampler import Sampler
from tidegauge.pipeline.sampler_config import SamplerConfig

pytestmark = pytest.mark.integration
ROOT = Path("/sys/fs/cgroup")
_names = iter(range(1000))


class Watched:
    """A sampler that runs in a thread, with or without the kernel's log."""

    def __init__(self, has_log: bool) -> None:
        self.outlet = ListOutlet()
        collector = CgroupV2Collector(CgroupV2Config())
        config = SamplerConfig(base_interval_s=0.5)
        self.sampler = Sampler(config, [("cgroup_v2", collector)], Catalogue(), ORIGIN, self.outlet)
        self.kmsg = KmsgThread(Path("/dev/kmsg"), Path("/proc"), self.sampler.report_oom)
        if has_log:
            assert self.kmsg.start() is None
            self.sampler.expect_oom_reports(self.kmsg.is_behind)
        self.thread = threading.Thread(target=self.sampler.run)
        self.thread.start()

    def stop(self) -> None:
        self.sampler.stop()
        self.thread.join(60)
        self.kmsg.stop()
        assert not self.thread.is_alive()

    def story(self, *paths: str) -> list[tuple[str, str, dict[str, Any]]]:
        """(kind, path of the container, details without it) of the events of these containers."""
        items = list(self.outlet.items)
        by_number = {c.number: c.path for c in items if isinstance(c, Container)}
        return [
            (e.kind, by_number[e.container], {k: v for k, v in e.details.items() if k != "path"})
            for e in items
            if isinstance(e, Event) and e.container is not None and by_number[e.container] in paths
        ]

    def ooms(self, *paths: str) -> list[tuple[str, str, dict[str, Any]]]:
        return [one for one in self.story(*paths) if one[0].startswith("oom")]


@contextmanager
def watched(has_log: bool) -> Iterator[Watched]:
    it = Watched(has_log)
    try:
        yield it
    finally:
        it.stop()


def until(what: Callable[[], Any], why: str) -> Any:
    end = time.monotonic() + 120
    while not (result := what()):
        assert time.monotonic() < end, why
        time.sleep(0.05)
    return result


def write(path: str, name: str, text: object) -> None:
    Path(f"{ROOT}{path}/{name}").write_text(str(text))


@pytest.fixture
def paths() -> Iterator[tuple[str, str, str]]:
    """A cgroup with a limit below another, and two in it."""
    outer = f"/tidegauge-events-{next(_names)}"
    limited = f"{outer}/limited"
    made = (outer, limited, f"{limited}/one", f"{limited}/two")
    for path in made:
        Path(f"{ROOT}{path}").mkdir()
        if path in (outer, limited):
            write(path, "cgroup.subtree_control", "+memory")
    write(limited, "memory.max", 24 * MIB)
    yield made[1:]
    for path in reversed(made):
        until(lambda path=path: removed(path), f"{path} stays")


def removed(path: str) -> bool:
    try:
        Path(f"{ROOT}{path}").rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def start_greedy(path: str, is_waiting: bool = False) -> int:
    """A process in this cgroup that takes memory until it is killed, or one that only waits."""
    pid = os.fork()
    if pid == 0:
        try:
            write(path, "cgroup.procs", os.getpid())
            while is_waiting:
                time.sleep(60)
            while True:
                touch_memory()
        finally:
            os._exit(1)
    return pid


def killed(pid: int) -> int:
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    return pid


def test_the_limit_of_one_kills_in_another_and_nobody_else_is_told(paths: tuple[str, str, str]) -> None:
    limited, one, two = paths
    with watched(has_log=True) as it:
        until(lambda: {path for _, path, _ in it.story(*paths)} == set(paths), "not discovered")
        pid = killed(start_greedy(one))
        until(lambda: len(it.ooms(*paths)) >= 2, "no events")
        said = {"pid": pid, "constraint": "CONSTRAINT_MEMCG"}
        (oom, kill) = it.ooms(os.path.dirname(limited), *paths)
        assert oom[:2] == ("oom", limited)
        assert {k: oom[2][k] for k in ("pid", "constraint", "victim_path")} == {**said, "victim_path": one}
        assert kill[:2] == ("oom_kill", one)
        assert {k: kill[2][k] for k in ("pid", "constraint", "limit_path", "count")} == {
            **said,
            "limit_path": limited,
            "count": 1,
        }
        write(two, "memory.max", 16 * MIB)
        second = killed(start_greedy(two))
        until(lambda: len(it.ooms(*paths)) >= 4, "no events of the second")
        assert [(kind, path) for kind, path, _ in it.ooms(*paths)][2:] == [("oom", two), ("oom_kill", two)]
        assert it.ooms(*paths)[3][2]["pid"] == second
    local = {p: dict(line.split() for line in Path(f"{ROOT}{p}/memory.events.local").read_text().splitlines()) for p in paths}
    counted = {
        (kind, path): sum(d["count"] for k, p, d in it.ooms(path) if k == kind)
        for kind in ("oom", "oom_kill")
        for path in paths
    }
    assert counted == {(kind, path): int(local[path][kind]) for kind in ("oom", "oom_kill") for path in paths}


def test_counters_alone_tell_the_same_without_names(paths: tuple[str, str, str]) -> None:
    limited, one, _ = paths
    with watched(has_log=False) as it:
        until(lambda: {path for _, path, _ in it.story(*paths)} == set(paths), "not discovered")
        killed(start_greedy(one))
        until(lambda: len(it.ooms(*paths)) >= 2, "no events")
        assert sorted((kind, path) for kind, path, _ in it.ooms(*paths)) == [("oom", limited), ("oom_kill", one)]
        assert all(set(details) == {"count"} for _, _, details in it.ooms(*paths))


def test_all_of_a_group_that_is_killed_together(paths: tuple[str, str, str]) -> None:
    _, one, _ = paths
    write(one, "memory.oom.group", 1)
    with watched(has_log=True) as it:
        until(lambda: {path for _, path, _ in it.story(*paths)} == set(paths), "not discovered")
        pids = {start_greedy(one, is_waiting=True) for _ in range(2)}
        pids.add(start_greedy(one))
        for pid in pids:
            killed(pid)
        until(lambda: sum(d["count"] for kind, _, d in it.ooms(one) if kind == "oom_kill") >= 3, "not all were told")
        kills = [details for kind, _, details in it.ooms(one) if kind == "oom_kill"]
        assert sorted(d["pid"] for d in kills) == sorted(pids)


def test_a_container_that_is_gone_at_once_has_its_event_first(paths: tuple[str, str, str]) -> None:
    limited, one, _ = paths
    with watched(has_log=True) as it:
        until(lambda: {path for _, path, _ in it.story(*paths)} == set(paths), "not discovered")
        pid = killed(start_greedy(one))
        until(lambda: removed(one), "it stays")
        until(lambda: any(isinstance(i, End) for i in list(it.outlet.items)), "no end")
        assert [kind for kind, _, _ in it.story(one)] == ["creation", "oom_kill", "deletion"]
        assert it.ooms(one)[0][2]["pid"] == pid
        until(lambda: it.ooms(limited), "no oom of the limit")

"""What is absent on a host is named with its collector and reason, and nothing stays open."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tidegauge.pipeline import config as configuration
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.collecting import build
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.missing import Absence, Findings, find
from tidegauge.pipeline.plugin import Hierarchy
from tidegauge.pipeline.records import Container, Kind, Metric


class Scripted:
    """A collector whose readers give, by path, values or what they raise; None: no reader."""

    def __init__(
        self, metrics: tuple[str, ...], by_path: Callable[[str], Any], tables: tuple[str, ...] = (), rows: Any = ()
    ) -> None:
        self.metrics, self.tables = metrics, tables
        self._by_path, self._rows = by_path, rows
        self.open = 0
        self.is_closed = False

    def reader(self, container: Container) -> Any:
        values = self._by_path(container.path)
        if values is None:
            return None
        if isinstance(values, NoData):
            raise values
        self.open += 1
        return ScriptedReader(self, values, self._rows(container.path) if callable(self._rows) else self._rows)

    def close(self) -> None:
        self.is_closed = True


class ScriptedReader:
    def __init__(self, owner: Scripted, values: Any, rows: Any) -> None:
        self._owner, self._values, self._rows = owner, values, rows

    def read(self) -> Any:
        if isinstance(self._values, Exception):
            raise self._values
        return self._values

    def read_tables(self) -> Any:
        return self._rows

    def close(self) -> None:
        self._owner.open -= 1


class Folders(Scripted):
    """Also says where containers are found."""

    def __init__(self, root: Path, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        self._root = root

    def hierarchies(self) -> tuple[Hierarchy, ...]:
        return (Hierarchy("unified", self._root),)


def found(*collectors: Any, fragment: tuple[Metric, ...] = ()) -> Findings:
    catalogue = Catalogue()
    catalogue.add("a plug-in", fragment)
    return find([(f"c{n}", c) for n, c in enumerate(collectors)], catalogue, lambda path: path == "/left_out")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in ("a/b", "a/c", "left_out/d"):
        (tmp_path / path).mkdir(parents=True)
    return tmp_path


def test_a_metric_that_one_collector_gives_is_not_missed_at_another(root: Path) -> None:
    first = Folders(root, ("pids_current", "pids_limit"), lambda path: (None, 1))
    second = Scripted(("pids_current",), lambda path: (4,))
    assert found(first, second) == Findings((), True, 2)


def test_host_and_containers_are_told_apart(root: Path) -> None:
    collector = Folders(
        root,
        ("pids_current", "pids_limit", "memory_swap_bytes"),
        lambda path: (None, 1, None) if path == "/" else (1, None, None),
    )
    assert set(found(collector).absences) == {
        Absence(("c0",), "of the host", ("pids_current",), ()),
        Absence(("c0",), "of containers", ("pids_limit",), ()),
        Absence(("c0",), "", ("memory_swap_bytes",), ()),
    }


def test_what_one_container_has_is_not_missing_and_groups_of_containers_are_not_asked(root: Path) -> None:
    asked: list[str] = []

    def values(path: str) -> Any:
        asked.append(path)
        return (1 if path in ("/", "/a/c") else None,)

    assert found(Folders(root, ("pids_current",), values)) == Findings((), True, 2)
    assert asked == ["/", "/a/b", "/a/c"]


def test_every_reason_is_told_as_the_collector_says_it(root: Path) -> None:
    absences = found(
        Scripted(("load1",), lambda path: NoData("/proc/loadavg does not exist") if path == "/" else None),
        Scripted(("uptime_seconds",), lambda path: CollectError("uptime: expected a number") if path == "/" else None),
        Scripted(("cpu_load_milli",), lambda path: PermissionError(13, "Permission denied", "/x")),
        Scripted(("pids_limit",), lambda path: ZeroDivisionError("a bug")),
        Folders(root, (), lambda path: ()),
    ).absences
    assert {a.metrics: (a.collectors, a.where, a.reasons) for a in absences} == {
        ("load1",): (("c0",), "", ("/proc/loadavg does not exist",)),
        ("uptime_seconds",): (("c1",), "", ("uptime: expected a number",)),
        ("cpu_load_milli",): (("c2",), "", ("/x: Permission denied",)),
        ("pids_limit",): (("c3",), "", ("ZeroDivisionError: a bug",)),
    }


def test_what_nobody_had_anything_to_read_for_is_missed_at_all_who_know_it() -> None:
    absences = found(
        Scripted(("pids_limit",), lambda path: None), Scripted(("pids_limit", "load1"), lambda path: None)
    ).absences
    assert absences == (Absence(("c0", "c1"), "", ("pids_limit",), ()), Absence(("c1",), "", ("load1",), ()))


def test_a_plug_ins_own_metric_is_missed_only_where_it_tried() -> None:
    own = Metric("queue_depth", Kind.GAUGE, "count", "custom", "Jobs that wait.")
    assert found(Scripted(("queue_depth",), lambda path: None), fragment=(own,)).absences == ()
    assert found(Scripted(("queue_depth",), lambda path: (None,)), fragment=(own,)).absences[0].metrics == ("queue_depth",)


def test_a_column_is_missing_where_every_row_lacks_it_and_unknown_where_nothing_has_a_row(root: Path) -> None:
    def rows(path: str) -> Any:
        disk = ("sda", 1, 2, 3, None, None, 4, 5, 6, None, 7)
        return ((disk,),) if path == "/a/b" else ((),) if path == "/a/c" else (None,)

    collector = Folders(root, (), lambda path: (), tables=("disk_io",), rows=rows)
    of = {a.where: a.metrics for a in found(collector).absences}
    assert of.keys() == {"", "of the host"}
    assert of[""] == ("disk_sync_bytes", "disk_async_bytes", "disk_sync_ops")
    assert len(of["of the host"]) == 7
    empty = Folders(root, (), lambda path: (), tables=("disk_io",), rows=((),))
    assert found(empty).absences == ()


def test_what_cannot_be_read_of_some_container_is_told_though_others_have_it(root: Path) -> None:
    class Halting(Folders):
        def complaint(self) -> str:
            return "/a/b: Permission denied"

    assert found(Halting(root, ("pids_limit",), lambda path: (None if path == "/a/b" else 1,))).absences == (
        Absence(("c0",), "", (), ("not everything can be read, first /a/b: Permission denied",)),
    )


@pytest.mark.parametrize("values", [(1,), (1, 2, 3), CollectError("no"), FileNotFoundError(2, "gone"), ValueError("no")])
def test_every_reader_and_collector_is_closed(root: Path, values: Any) -> None:
    collector = Folders(root, ("pids_limit",), lambda path: values)
    found(collector)
    assert (collector.open, collector.is_closed) == (0, True)


def test_on_recorded_hosts_what_their_kernels_lack_is_named(recorded_tree: Callable[[str], Path]) -> None:
    """Against the documentation of the collectors, on a host that is not this one."""
    before = set(os.listdir("/proc/self/fd"))
    found_on = {}
    for tree in ("cgroup1", "cgroup2"):
        at = recorded_tree(tree) / "snapshot-1"
        config = configuration.load(Path("/dev/null"), {"roots": {"sys": str(at / "sys"), "proc": str(at / "proc")}}, {})
        findings = find(*build(config), lambda path: False)
        assert findings.has_hierarchy
        found_on[tree] = {(a.collectors, a.where): set(a.metrics) for a in findings.absences}
    assert set(os.listdir("/proc/self/fd")) == before
    v1, v2 = found_on["cgroup1"], found_on["cgroup2"]
    assert v1[("cgroup_v1",), "of the host"] == {"pids_current", "pids_limit"}
    assert {"cpu_pressure_some_ns", "io_pressure_full_ns"} <= v1[("cgroup_v1",), "of containers"]
    assert {"memory_limit_bytes", "memory_failures", "pids_current"} <= v2[("cgroup_v2",), "of the host"]
    assert v2[("cgroup_v1",), ""] == {"percpu_usage_ns"}
    assert ("cgroup_v1",) not in {owners for owners, where in v2 if where}


def test_roots_that_do_not_exist_leave_nothing_but_say_so(tmp_path: Path) -> None:
    config = configuration.load(Path("/dev/null"), {"roots": {"sys": str(tmp_path), "proc": str(tmp_path)}}, {})
    collectors, catalogue = build(config)
    findings = find(collectors, catalogue, lambda path: False)
    assert not findings.has_hierarchy
    missed = {name for a in findings.absences for name in a.metrics}
    known = {
        n
        for _, c in collectors
        for n in (*c.metrics, *(m.name for t in getattr(c, "tables", ()) for m in catalogue.of_table(t)))
    }
    assert missed == known
    cpu = next(a for a in findings.absences if "cpu_usage_ns" in a.metrics)
    assert cpu.reasons == (f"no cgroup hierarchy is mounted below {tmp_path}",)

"""resctrl on a tree made after the kernel's documentation (arch/x86/resctrl.rst); no machine of ours has it.

The tree's `tasks` files are plain files, so what the kernel does at a mkdir, a write to `tasks` and a rmdir is emulated: a new
group has no tasks and files of its own, a task that is written to a group leaves the one that it was in, and the tasks of a
removed group fall back to the control group.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.cgroup_truth import container, table_of

from tidegauge.collectors import resctrl
from tidegauge.collectors._kernel_text import Faults
from tidegauge.collectors.resctrl import ResctrlCollector, ResctrlConfig, monitored
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.records import MAX_INT

COLUMNS = [m.name for m in Catalogue().of_table("resctrl")]
FILES = {"memory_bandwidth_bytes": "mbm_total_bytes", "memory_bandwidth_local_bytes": "mbm_local_bytes"}
FILES |= {"llc_occupancy_bytes": "llc_occupancy"}


class Machine:
    """A v2 host with resctrl: two L3 caches, the tasks 1 to 99 in the root group."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.groups = root / "sys/fs/resctrl"
        self.cgroups = root / "sys/fs/cgroup"
        self.cgroups.mkdir(parents=True)
        (self.cgroups / "cgroup.controllers").write_text("cpu\n")
        self.add(self.groups, range(1, 100), 1000)
        (self.groups / "info/L3_MON").mkdir(parents=True)
        (self.groups / "info/L3_MON/num_rmids").write_text("4\n")

    def add(self, group: Path, tasks: Any, start: int) -> Path:
        (group / "mon_groups").mkdir(parents=True, exist_ok=True)
        for number, domain in enumerate(("mon_L3_00", "mon_L3_01")):
            (group / "mon_data" / domain).mkdir(parents=True)
            for place, file in enumerate(FILES.values()):
                (group / "mon_data" / domain / file).write_text(f"{start + 100 * number + place}\n")
        (group / "tasks").write_text("".join(f"{t}\n" for t in tasks))
        return group

    def make(self, group: Path) -> None:
        if len(list(self.groups.rglob("mon_groups/*/tasks"))) >= 3:
            raise OSError(28, "No space left on device")
        self.add(group, (), 0)

    def move(self, task: int, group: Path) -> None:
        if task >= 900:
            raise ProcessLookupError(3, "No such process")
        for tasks in self.groups.rglob("tasks"):
            tasks.write_text("".join(f"{t}\n" for t in resctrl.numbers(tasks) - {task}))
        (group / "tasks").write_text("".join(f"{t}\n" for t in sorted({*resctrl.numbers(group / "tasks"), task})))

    def remove(self, group: Path) -> None:
        control = group.parent.parent / "tasks"
        control.write_text(control.read_text() + (group / "tasks").read_text())
        shutil.rmtree(group)

    def cgroup(self, path: str, *tasks: int) -> None:
        where = Path(f"{self.cgroups}{path}")
        where.mkdir(parents=True, exist_ok=True)
        (where / "cgroup.threads").write_text("".join(f"{t}\n" for t in tasks))

    def collector(self, clock: Callable[[], float] = lambda: 0.0, **options: Any) -> ResctrlCollector:
        return ResctrlCollector(ResctrlConfig(sys=self.root / "sys", proc=self.root / "proc", **options), clock)

    def truth(self, group: Path) -> dict[str, dict[str, int]]:
        return {
            str(number): {c: int((group / f"mon_data/mon_L3_0{number}/{f}").read_text()) for c, f in FILES.items()}
            for number in (0, 1)
        }


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    for name in ("make", "move", "remove"):
        monkeypatch.setattr(resctrl, f"_{name}", getattr(machine, name))
    return machine


def test_without_resctrl_there_is_no_data(tmp_path: Path) -> None:
    collector = ResctrlCollector(ResctrlConfig(sys=tmp_path / "sys", proc=tmp_path / "proc"))
    with pytest.raises(NoData, match="fs/resctrl"):
        collector.reader(container("/"))


def test_groups_that_hold_just_a_containers_tasks_are_its_own(machine: Machine) -> None:
    control = machine.add(machine.groups / "docker-a", (10, 11), 2000)
    monitoring = machine.add(control / "mon_groups/inner", (20, 21, 22), 3000)
    shared = machine.add(machine.groups / "mon_groups/shared", (30, 31, 32), 4000)
    machine.cgroup("/a", 10, 11)
    machine.cgroup("/b", 20)
    machine.cgroup("/b/child", 21, 22)
    machine.cgroup("/c", 30)
    machine.cgroup("/d", 31, 32, 50)
    machine.cgroup("/empty")
    collector = machine.collector()
    expected = {"/": machine.truth(machine.groups), "/a": machine.truth(control), "/b": machine.truth(monitoring)}
    expected |= dict.fromkeys(("/b/child", "/c", "/d", "/empty"))  # part of a group, or of two: not its own
    assert {path: table_of(collector.reader(container(path)), COLUMNS) for path in expected} == expected
    assert shared.exists()
    assert collector.complaint() is None


def test_tasks_that_move_end_and_begin_a_figure(machine: Machine) -> None:
    now = [0.0]
    group = machine.add(machine.groups / "mon_groups/x", (10,), 2000)
    machine.cgroup("/a", 10)
    machine.cgroup("/b", 11)
    collector = machine.collector(lambda: now[0])
    a, b = (collector.reader(container(path)) for path in ("/a", "/b"))
    assert (table_of(a, COLUMNS), table_of(b, COLUMNS)) == (machine.truth(group), None)
    (group / "tasks").write_text("11\n")
    now[0] = 10.0
    assert table_of(a, COLUMNS) is None
    assert table_of(b, COLUMNS) == machine.truth(group)
    assert table_of(a, COLUMNS) is None


def test_groups_are_made_filled_and_removed_only_if_wanted(machine: Machine) -> None:
    control = machine.add(machine.groups / "control", (40, 41), 5000)
    machine.cgroup("/a", 10, 11, 999)
    machine.cgroup("/b", 40)
    machine.cgroup("/none")
    assert table_of(machine.collector().reader(container("/a")), COLUMNS) is None
    assert list((machine.groups / "mon_groups").iterdir()) == []
    left = machine.add(machine.groups / "mon_groups/tidegauge-left-over", (12,), 0)
    collector = machine.collector(create_groups=True)
    a, b, none = (collector.reader(container(path)) for path in ("/a", "/b", "/none"))
    assert not left.exists()
    (machine.groups / "mon_groups/cadvisor-x").mkdir()
    assert table_of(none, COLUMNS) is None
    group = machine.groups / "mon_groups/tidegauge-0123456789abcdef-0"
    assert table_of(a, COLUMNS) == machine.truth(group)
    assert resctrl.numbers(group / "tasks") == {10, 11}
    assert 10 not in resctrl.numbers(machine.groups / "tasks")
    machine.cgroup("/a", 10, 11, 13)
    assert table_of(a, COLUMNS) == machine.truth(group)
    assert resctrl.numbers(group / "tasks") == {10, 11, 13}
    assert table_of(b, COLUMNS) is not None
    assert resctrl.numbers(control / "mon_groups/tidegauge-0123456789abcdef-0/tasks") == {40}
    assert resctrl.numbers(control / "tasks") == {41}
    for reader in (a, b, none, a):
        reader.close()
    assert {p.name for p in machine.groups.rglob("mon_groups/*")} == {"cadvisor-x"}
    assert resctrl.numbers(machine.groups / "tasks") >= {10, 11, 13}


def test_a_made_group_that_somebody_removes_is_made_again(machine: Machine) -> None:
    machine.cgroup("/a", 10)
    collector = machine.collector(create_groups=True)
    reader = collector.reader(container("/a"))
    assert table_of(reader, COLUMNS)
    (group,) = (machine.groups / "mon_groups").iterdir()
    machine.remove(group)
    assert table_of(reader, COLUMNS) == machine.truth(group)


def test_no_number_left_for_a_group_is_said(machine: Machine) -> None:
    for name in ("x", "y", "z"):
        machine.add(machine.groups / "mon_groups" / name, (), 0)
    machine.cgroup("/a", 10)
    collector = machine.collector(create_groups=True)
    assert table_of(collector.reader(container("/a")), COLUMNS) is None
    assert "No space left" in (collector.complaint() or "")


def test_what_the_kernel_cannot_tell_has_no_value(machine: Machine) -> None:
    data = machine.groups / "mon_data"
    for number, word in enumerate(("Unavailable", "Error", "Unassigned")):
        (data / "mon_L3_01" / list(FILES.values())[number]).write_text(f"{word}\n")
    (data / "mon_L3_00/mbm_local_bytes").unlink()
    (data / "mon_L3_00/llc_occupancy").write_text(f"{2**63}\n")
    collector = machine.collector()
    assert table_of(collector.reader(container("/")), COLUMNS) == {"0": {"memory_bandwidth_bytes": 1000}, "1": {}}
    assert collector.counters() == {"absurd_values": 1, "unreadable_files": 0}


@given(st.binary(max_size=40))
def test_no_bytes_break_the_parser(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    group = tmp_path_factory.mktemp("group")
    (group / "mon_data/mon_L3_7").mkdir(parents=True)
    (group / "mon_data/mon_L3_7/llc_occupancy").write_bytes(raw)
    ((name, *values),) = monitored(group, Faults())
    assert name == "7"
    assert all(v is None or (isinstance(v, int) and 0 <= v <= MAX_INT) for v in values)

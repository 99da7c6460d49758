"""`tidegauge machine`: reads by itself, without a running agent."""

import os
from pathlib import Path

import msgspec
from click.testing import CliRunner
from tests.collectors.machine_trees import two_sockets, write

from tidegauge.cli.machine_command import lines
from tidegauge.cli.main import main
from tidegauge.pipeline.machine import Disk, Filesystem, Machine


def _of(root: Path, *words: str) -> str:
    roots = [f"--set=roots.{name}={root / name}" for name in ("sys", "proc")] + [f"--set=roots.rootfs={root}"]
    done = CliRunner().invoke(main, ["machine", "--config", "/dev/null", *roots, *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_line_a_field_and_one_for_each_node(tmp_path: Path) -> None:
    two_sockets(tmp_path)
    shown = _of(tmp_path).splitlines()
    assert "cpus               16" in shown
    assert "physical_cores     8" in shown
    assert [line for line in shown if line.startswith("nodes")][1].split()[1:3] == ["id=1", f"memory_bytes={1001 * 1024}"]
    assert not any("distances" in line for line in shown)
    assert "distances=12,10,32,32" in _of(tmp_path, "--set=metrics.enable=cpu_topology")


def test_json_is_the_machine(tmp_path: Path) -> None:
    two_sockets(tmp_path)
    write(tmp_path, {"etc/os-release": "PRETTY_NAME='Some Linux'"})
    machine = msgspec.json.decode(_of(tmp_path, "--json"), type=Machine)
    assert (machine.sockets, machine.os_name, len(machine.nodes)) == (2, "Some Linux", 4)


def test_this_machine() -> None:
    done = CliRunner().invoke(main, ["machine", "--config", "/dev/null"])
    assert done.exit_code == 0, done.output
    assert f"kernel_version     {os.uname().release}" in done.output


def test_no_control_characters_reach_a_terminal() -> None:
    machine = Machine(disks=(Disk("sda", 8, 0, 1),), filesystems=(Filesystem("a\x1b[2Jb", "ext4", "/x\ny"),))
    assert lines(machine)[-1] == "filesystems        device=a?[2Jb  type=ext4  mount_point=/x?y"


def test_a_collector_that_is_switched_off() -> None:
    done = CliRunner().invoke(main, ["machine", "--config", "/dev/null", "--set=collectors.machine.enabled=false"])
    assert done.exit_code == 1
    assert "no collector" in done.output

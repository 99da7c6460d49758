"""Inside a VM: the project quota of a folder on a real ext4, against the tree that it is the sum of."""

import ctypes
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.vm.worker import DISK

from tidegauge.collectors._disk_walk import Pace, measure_layer

pytestmark = pytest.mark.integration


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    _run("mkfs.ext4", "-q", "-F", "-O", "quota,project", "-E", "quotatype=prjquota", str(DISK))
    _run("mount", "-t", "ext4", "-o", "prjquota", str(DISK), str(tmp_path))
    yield tmp_path
    _run("umount", str(tmp_path))


def _fill(layer: Path) -> None:
    layer.mkdir(parents=True)
    for n in range(20):
        (layer / f"file{n}").write_bytes(b"x" * 100_000)


def test_a_layer_with_a_project_of_its_own_is_told_by_its_quota(disk: Path) -> None:
    layer = disk / "overlay2/1/diff"
    (disk / "overlay2/1").mkdir(parents=True)
    _run("chattr", "+P", "-p", "77", str(disk / "overlay2/1"))
    _fill(layer)
    (layer.parent / "work").mkdir()
    _run("sync")
    used = int(_run("du", "-s", "-B1", str(layer.parent)).split()[0])
    found = measure_layer(str(layer), None, _NoWalk())
    assert (found["bytes"], found["inodes"]) == (used, 20 + 3)
    assert found["limit"] == int(_run("df", "-B1", "--output=size", str(disk)).split()[1])


def test_a_project_of_all_layers_says_nothing_of_one(disk: Path) -> None:
    layers = disk / "overlay2"
    layers.mkdir()
    _run("chattr", "+P", "-p", "78", str(layers))
    _fill(layers / "1/diff")
    _fill(layers / "2/diff")
    _run("sync")
    found = measure_layer(str(layers / "1/diff"), None, Pace(1.0))
    assert found["bytes"] == int(_run("du", "-s", "-B1", str(layers / "1/diff")).split()[0])
    assert found["inodes"] == 21


def test_the_limit_of_the_quota_is_the_layer_s(disk: Path) -> None:
    _set_limit(79, 8 << 20)
    layer = disk / "overlay2/1/diff"
    (disk / "overlay2/1").mkdir(parents=True)
    _run("chattr", "+P", "-p", "79", str(disk / "overlay2/1"))
    _fill(layer)
    found = measure_layer(str(layer), None, _NoWalk())
    assert found["limit"] == 8 << 20


class _NoWalk(Pace):
    """Fails if anything is walked."""

    def __init__(self) -> None:
        super().__init__(1.0)

    def step(self) -> None:
        raise AssertionError("it was walked")


def _set_limit(project: int, limit_bytes: int) -> None:
    """quotactl(2), Q_SETQUOTA with struct if_dqblk, as setquota(8) does it."""
    block = struct.pack("@8QI4x", limit_bytes // 1024, 0, 0, 0, 0, 0, 0, 0, 1)
    libc = ctypes.CDLL(None, use_errno=True)
    command = (0x800008 << 8) | 2
    assert libc.quotactl(ctypes.c_int(command), str(DISK).encode(), project, block) == 0, ctypes.get_errno()

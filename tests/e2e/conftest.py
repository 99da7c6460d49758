"""Fixtures of the end-to-end tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.program import real_cgroups
from tests.servers import Influxd, need_influxd
from tests.support import need

NAMES = ("one", "two", "three")


@pytest.fixture
def cgroups() -> Iterator[dict[str, Path]]:
    """Three real cgroups with a busy process each: name -> its directory with the CPU counter."""
    need(os.geteuid() == 0, "root, to make cgroups")
    need(os.access("/sys/fs/cgroup", os.W_OK), "a writable cgroup hierarchy")
    with real_cgroups(f"tg-e2e-{os.getpid()}", NAMES) as made:
        yield made


@pytest.fixture
def influxd(tmp_path: Path) -> Iterator[Influxd]:
    """One of the test's own, which takes it away."""
    need_influxd()
    with Influxd(tmp_path / "influxd") as server:
        yield server

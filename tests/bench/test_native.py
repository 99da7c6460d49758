import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from bench.native import Limit, Wanted, build, kind_of
from tests.support import need

CASES = {
    "memory.stat": rb"(?<= )\d+",
    "cpuacct.usage": rb"\d+",
    "cpuacct.usage_percpu": rb"\d+",
    "cpuacct.stat": rb"(?<= )\d+",
    "cpu.stat": rb"(?<= )\d+",
    "memory.oom_control": rb"(?<= )\d+",
    "blkio.throttle.io_service_bytes": rb"\d+(?=\n)",
    "pids.current": rb"\d+",
    "memory.pressure": rb"(?<==)\d+",
}
"""Files by name, and the numbers that are to be found in them."""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(shutil.which(os.environ.get("CC", "cc")), "no C compiler here")
    return tmp_path_factory.mktemp("programs")


def numbers_and_bytes(program: Path, listing: Path, rounds: int) -> tuple[int, int]:
    done = subprocess.run([program, listing], input=f"{rounds} 0\n", capture_output=True, text=True, check=True, timeout=30)
    ready, answer = done.stdout.splitlines()
    assert ready == "ready"
    used, numbers, size = map(int, answer.split())
    assert used > 0
    return numbers, size


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("how", ["k", "o"])
def test_the_c_program_finds_the_numbers_of_a_recorded_file(
    name: str, how: str, programs: Path, tmp_path: Path, recorded_tree: Callable[[str], Path]
) -> None:
    tree = recorded_tree("cgroup2" if name.endswith(".pressure") else "cgroup1") / "snapshot-1/sys"
    # Those with the most to read: a counter of block I/O without a line is a poor example.
    file = max((p for p in tree.rglob(name) if p.is_file()), key=lambda p: len(p.read_bytes()))
    listing = tmp_path / "list"
    listing.write_text(f"0 {kind_of(str(file))} {how} {file}\n")
    text = file.read_bytes()
    assert numbers_and_bytes(build("limit", programs), listing, 3) == (3 * len(re.findall(CASES[name], text)), 3 * len(text))


def test_the_c_program_finds_sixteen_numbers_an_interface(programs: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list"
    listing.write_text("0 d k /proc/net/dev\n")
    interfaces = len(Path("/proc/net/dev").read_text().splitlines()) - 2
    numbers, _ = numbers_and_bytes(build("limit", programs), listing, 1)
    assert numbers == 16 * interfaces


def test_measuring_again_and_again_gives_times(programs: Path, tmp_path: Path) -> None:
    with Limit([Wanted(0, "n", "k", "/proc/uptime")], programs) as limit:
        assert limit.measure(5, 0) > 0
        assert limit.measure(2, 1) > 0


def test_a_file_that_is_not_there_is_named(programs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="limit ended with status 1"):
        Limit([Wanted(0, "n", "k", str(tmp_path / "nothing"))], programs)
    assert str(tmp_path / "nothing") in capfd.readouterr().err

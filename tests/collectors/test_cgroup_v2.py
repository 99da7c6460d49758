"""The v2 collector against the recorded v2 host, and when the kernel misbehaves."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.collectors.cgroup_truth import as_dict, container, io_stat_truth, paths_of, truth_v2

from tidegauge.collectors import _cgroup_reader
from tidegauge.collectors.cgroup_v1 import CgroupV1Collector, CgroupV1Config
from tidegauge.collectors.cgroup_v2 import CgroupV2Collector, CgroupV2Config
from tidegauge.pipeline.catalogue import METRICS, Catalogue
from tidegauge.pipeline.records import UNLIMITED, Kind

DISK_METRICS = [m.name for m in Catalogue().of_table("disk_io")]
COUNTERS = {m.name for m in METRICS if m.kind is Kind.COUNTER}
NAMES = {"254:0": "vda", "254:16": "vdb"}


def collector_of(root: Path) -> CgroupV2Collector:
    return CgroupV2Collector(CgroupV2Config(sys=root / "sys", proc=root / "proc"))


def writable(tmp_path: Path, files: dict[str, str], path: str = "/a") -> tuple[Path, Path]:
    """A v2 host with one container that has these files."""
    root = tmp_path / "sys/fs/cgroup"
    where = Path(f"{root}{path}")
    where.mkdir(parents=True)
    (root / "cgroup.controllers").write_text("cpu memory io pids\n")
    for name, content in files.items():
        (where / name).write_text(content)
    return tmp_path, where


def test_both_collectors_give_the_same_metrics() -> None:
    assert CgroupV2Collector(CgroupV2Config()).metrics == CgroupV1Collector(CgroupV1Config()).metrics


@pytest.mark.parametrize("snapshot", ["snapshot-1", "snapshot-2"])
def test_every_value_of_every_recorded_cgroup(recorded_tree: Callable[[str], Path], snapshot: str) -> None:
    root = recorded_tree("cgroup2") / snapshot
    unified = root / "sys/fs/cgroup"
    collector = collector_of(root)
    paths = paths_of(unified)
    assert len(paths) >= 43
    for path in paths:
        reader = collector.reader(container(path))
        assert reader is not None
        expected = truth_v2(unified, path, root / "proc")
        assert as_dict(collector, reader) == expected, path
        assert reader.probe() == expected["cpu_usage_ns"]
        (disk,) = reader.read_tables()
        io = io_stat_truth(Path(f"{unified}{path}/io.stat"))
        if not Path(f"{unified}{path}/io.stat").exists():
            assert disk is None
        else:
            assert disk is not None
            assert {r[0]: {k: v for k, v in zip(DISK_METRICS, r[1:], strict=True) if v is not None} for r in disk} == {
                NAMES[d]: values for d, values in io.items()
            }
        reader.close()
    assert collector.counters() == {"absurd_values": 0, "unreadable_files": 0}
    assert collector.complaint() is None


def test_counters_do_not_fall_from_one_snapshot_to_the_next(recorded_tree: Callable[[str], Path]) -> None:
    first, second = (recorded_tree("cgroup2") / s for s in ("snapshot-1", "snapshot-2"))
    old, new = collector_of(first), collector_of(second)
    moved: set[str] = set()
    for path in paths_of(first / "sys/fs/cgroup"):
        a, b = old.reader(container(path)), new.reader(container(path))
        if a is None or b is None:
            continue
        before, after = as_dict(old, a), as_dict(new, b)
        for name in COUNTERS & set(before):
            x, y = before[name], after[name]
            if x is not None and y is not None:
                assert y >= x, (path, name)
                if y > x:
                    moved.add(name)
        a.close()
        b.close()
    wanted = {"cpu_usage_ns", "cpu_user_ns", "cpu_system_ns", "cpu_throttled_ns", "memory_page_faults", "memory_failures"}
    assert wanted <= moved


@pytest.mark.parametrize("host", ["cgroup1", "cgroup1-vm"])
def test_hosts_with_v1_controllers_are_left_to_the_other_collector(recorded_tree: Callable[[str], Path], host: str) -> None:
    collector = collector_of(recorded_tree(host) / "snapshot-1")
    assert collector.hierarchies() == ()
    assert collector.reader(container("/")) is None


def test_a_container_that_is_nowhere_has_no_reader(recorded_tree: Callable[[str], Path]) -> None:
    assert collector_of(recorded_tree("cgroup2") / "snapshot-1").reader(container("/never/was")) is None


def test_without_the_cpu_controller_usage_is_still_there_and_periods_are_none(tmp_path: Path) -> None:
    root, _ = writable(tmp_path, {"cpu.stat": "usage_usec 7\nuser_usec 5\nsystem_usec 2\n"})
    collector = collector_of(root)
    reader = collector.reader(container("/a"))
    assert reader is not None
    values = as_dict(collector, reader)
    assert {k: v for k, v in values.items() if v is not None} == {
        "cpu_usage_ns": 7000,
        "cpu_user_ns": 5000,
        "cpu_system_ns": 2000,
    }
    assert reader.read_tables() == (None,)
    reader.close()


def test_the_root_of_a_cgroup_namespace_has_its_own_usage(tmp_path: Path) -> None:
    root, _ = writable(tmp_path, {})
    where = root / "sys/fs/cgroup"
    (where / "cpu.stat").write_text("usage_usec 1\n")
    (where / "memory.stat").write_text("anon 1\nfile 2\n")
    collector = collector_of(root)
    real = collector.reader(container("/"))
    (where / "memory.current").write_text("9\n")
    namespaced = collector.reader(container("/"))
    for reader, usage in ((real, 3), (namespaced, 9)):
        assert reader is not None
        assert as_dict(collector, reader)["memory_usage_bytes"] == usage
        reader.close()


def test_limits_that_are_none_are_unlimited(tmp_path: Path) -> None:
    root, where = writable(tmp_path, {"cpu.stat": "", "memory.max": "max\n", "pids.max": "max\n"})
    collector = collector_of(root)
    reader = collector.reader(container("/a"))
    assert reader is not None
    values = as_dict(collector, reader)
    assert values["memory_limit_bytes"] == values["pids_limit"] == UNLIMITED
    (where / "memory.max").write_text("4096\n")
    assert as_dict(collector, reader)["memory_limit_bytes"] == 4096
    reader.close()


def test_keys_that_move_or_appear_are_followed(tmp_path: Path) -> None:
    root, where = writable(tmp_path, {"cpu.stat": "", "memory.stat": "anon 1\nfile 2\n", "memory.current": "10\n"})
    collector = collector_of(root)
    reader = collector.reader(container("/a"))
    assert reader is not None
    assert as_dict(collector, reader)["memory_working_set_bytes"] is None
    (where / "memory.stat").write_text("file 2\nanon 3\n")
    assert as_dict(collector, reader)["memory_rss_bytes"] == 3
    (where / "memory.stat").write_text("file 2\nanon 3\ninactive_file 4\npgfault 5\n")
    values = as_dict(collector, reader)
    assert (values["memory_working_set_bytes"], values["memory_page_faults"]) == (6, 5)
    reader.close()


def test_a_device_without_figures_and_without_line_end_is_left_out(tmp_path: Path) -> None:
    root, where = writable(tmp_path, {"cpu.stat": "", "io.stat": "8:0 8:16 rbytes=1 wbytes=2 rios=3 wios=4\n"})
    reader = collector_of(root).reader(container("/a"))
    assert reader is not None
    reader.read()
    assert reader.read_tables() == ((("8:16", 1, 2, None, None, None, 3, 4, None, None, None),),)
    (where / "io.stat").write_text(f"8:16 rbytes={2**63} wbytes=-2 rios=x wios=4\n")
    reader.read()
    assert reader.read_tables() == ((("8:16", None, None, None, None, None, None, 4, None, None, None),),)
    reader.close()


def test_absurd_numbers_are_none_and_counted(tmp_path: Path) -> None:
    files = {
        "cpu.stat": f"usage_usec {2**62}\nuser_usec -1\nsystem_usec 3\n",
        "memory.current": f"{2**63}\n",
        "memory.events": "max nine\noom_kill 2\n",
        "cpu.pressure": "some avg10=0.00 total=1x\nfull avg10=0.00 total=5\n",
        "memory.pressure": "junk",
    }
    root, _ = writable(tmp_path, files)
    collector = collector_of(root)
    reader = collector.reader(container("/a"))
    assert reader is not None
    values = as_dict(collector, reader)
    assert {k: v for k, v in values.items() if v is not None} == {
        "cpu_system_ns": 3000,
        "memory_oom_kills": 2,
        "cpu_pressure_full_ns": 5000,
    }
    assert collector.counters()["absurd_values"] == 5
    reader.close()


def test_a_file_that_the_kernel_does_not_support_here_is_none_without_fuss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, where = writable(tmp_path, {"cpu.stat": "usage_usec 1\n", "io.pressure": "x", "memory.current": "5\n"})
    (where / "memory.stat").mkdir()
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".pressure"):
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(fd, size, offset)

    monkeypatch.setattr(_cgroup_reader, "_pread", pread)
    collector = collector_of(root)
    start = psutil.Process().num_fds()
    reader = collector.reader(container("/a"))
    assert reader is not None
    values = as_dict(collector, reader)
    assert (values["io_pressure_some_ns"], values["memory_rss_bytes"], values["memory_usage_bytes"]) == (None, None, 5)
    assert collector.counters()["unreadable_files"] == 1
    assert collector.complaint() == f"{where}/memory.stat: Is a directory"
    assert psutil.Process().num_fds() == start + 2
    reader.close()


def test_a_cgroup_that_vanishes_in_the_middle_of_a_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, _ = writable(tmp_path, {"cpu.stat": "usage_usec 1\n", "memory.current": "5\n"})
    reader = collector_of(root).reader(container("/a"))
    assert reader is not None
    reader.read()
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("memory.current"):
            raise OSError(errno.ENODEV, "No such device")
        return real(fd, size, offset)

    monkeypatch.setattr(_cgroup_reader, "_pread", pread)
    with pytest.raises(FileNotFoundError):
        reader.read()
    reader.close()


def test_odd_names_are_paths_like_any_other(recorded_tree: Callable[[str], Path]) -> None:
    root = recorded_tree("cgroup2") / "snapshot-1"
    collector = collector_of(root)
    for path in ("/machine.slice/machine-qemu\\x2d1\\x2dvm.scope", "/system.slice/system-getty.slice/getty@tty1.service"):
        reader = collector.reader(container(path))
        assert reader is not None
        assert reader.read()[0] is not None
        reader.close()


def test_device_names_come_from_sysfs_first(tmp_path: Path) -> None:
    root, _ = writable(tmp_path, {"cpu.stat": "", "io.stat": "8:0 rbytes=1\n104:0 rbytes=2\n259:3 rbytes=3\n"})
    links = tmp_path / "sys/dev/block"
    links.mkdir(parents=True)
    (links / "8:0").symlink_to("../../devices/pci0/block/sda")
    (links / "104:0").symlink_to("../../devices/pci0/block/cciss!c0d0")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/partitions").write_text("major minor  #blocks  name\n\n   8  0  1 wrong\n 259  3  5 nvme0n1p1\n")
    reader = collector_of(root).reader(container("/a"))
    assert reader is not None
    reader.read()
    (disk,) = reader.read_tables()
    assert disk is not None
    assert [(r[0], r[1]) for r in disk] == [("cciss/c0d0", 2), ("nvme0n1p1", 3), ("sda", 1)]
    reader.close()


def test_the_readers_memory_of_a_parked_container_is_small(recorded_tree: Callable[[str], Path], tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(recorded_tree("cgroup2") / "snapshot-1", root)
    reader = collector_of(root).reader(container("/system.slice/ssh.service"))
    assert reader is not None
    start = psutil.Process().num_fds()
    reader.read()
    reader.park()
    assert psutil.Process().num_fds() == start
    assert reader._raws == []
    reader.close()

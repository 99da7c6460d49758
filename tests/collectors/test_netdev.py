"""Interfaces of the host and of containers: recorded, made up, and of real network namespaces."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.cgroup_truth import container
from tests.collectors.made_up_host import HEAD, MadeUpHost
from tests.collectors.v1_mounts import removed
from tests.support import need

from tidegauge.collectors._kernel_text import Faults
from tidegauge.collectors.cgroup_paths import find_mounts
from tidegauge.collectors.netdev import NetdevCollector, NetdevConfig, NetdevReader, parse
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.records import MAX_INT, TableRows

COLUMNS = [m.name for m in Catalogue().of_table("network")]
NOTHING = re.compile(r"(?!)")
HOSTS = ("cgroup1", "cgroup1-vm", "cgroup2")


def collector_of(root: Path, exclude: tuple[str, ...] = ("lo",)) -> NetdevCollector:
    return NetdevCollector(NetdevConfig(sys=root / "sys", proc=root / "proc", exclude=exclude))


def rows_of(reader: NetdevReader) -> TableRows | None:
    assert reader.read() == ()
    return reader.read_tables()[0]


def truth(file: Path) -> dict[str, dict[str, int]]:
    """Interface -> metric -> value, straight from a `net/dev`."""
    out = {}
    for line in file.read_text().splitlines()[2:]:
        name, _, rest = line.partition(":")
        n = [int(x) for x in rest.split()]
        ways = {"receive": n[:8], "transmit": n[8:]}
        out[name.strip()] = {
            f"network_{way}_{what}": values[i]
            for way, values in ways.items()
            for i, what in enumerate(("bytes", "packets", "errors", "dropped"))
        }
    return out


def as_truth(rows: TableRows | None) -> dict[str, dict[str, int]]:
    assert rows is not None
    return {str(r[0]): dict(zip(COLUMNS, r[1:], strict=True)) for r in rows}  # type: ignore[arg-type]


@pytest.fixture
def host(tmp_path: Path) -> MadeUpHost:
    return MadeUpHost(tmp_path)


def received(reader: NetdevReader) -> object:
    rows = rows_of(reader)
    return None if rows is None else rows[0][1]


@pytest.mark.parametrize("name", HOSTS)
def test_interfaces_of_recorded_hosts(recorded_tree: Callable[[str], Path], name: str) -> None:
    root = recorded_tree(name) / "snapshot-1"
    expected = truth(next(p for p in (root / "proc/1/net/dev", root / "proc/net/dev") if p.exists()))
    reader = collector_of(root, ()).reader(container("/"))
    assert as_truth(rows_of(reader)) == expected
    without_lo = collector_of(root).reader(container("/"))
    assert as_truth(rows_of(without_lo)) == {k: v for k, v in expected.items() if k != "lo"}
    reader.close()


@pytest.mark.parametrize("name", HOSTS)
def test_interfaces_of_recorded_containers(recorded_tree: Callable[[str], Path], name: str) -> None:
    """Each recorded process has a file of its own here, so each counts as a namespace of its own."""
    root = recorded_tree(name) / "snapshot-1"
    collector = collector_of(root)
    mounts = find_mounts(root / "sys", root / "proc")
    seen = 0
    for where in sorted({p for h in mounts.hierarchies() for p in h.root.rglob("cgroup.procs")}):
        root_of_it = next(h.root for h in mounts.hierarchies() if where.is_relative_to(h.root))
        path = "/" + str(where.parent.relative_to(root_of_it)).removeprefix(".")
        if path == "/" or root_of_it != mounts.hierarchies()[0].root:
            continue
        try:
            pids = where.read_text().split()
        except OSError:
            pids = []
        recorded = [p for p in pids if (root / f"proc/{p}/net/dev").exists()]
        reader = collector.reader(container(path))
        rows = rows_of(reader)
        if recorded[:1] == ["1"]:
            assert rows is None
        elif recorded:
            seen += 1
            assert as_truth(rows) == {k: v for k, v in truth(root / f"proc/{recorded[0]}/net/dev").items() if k != "lo"}
        elif not pids:
            assert rows is None
        reader.close()
    assert seen >= 5


def test_counters_of_two_snapshots_do_not_fall(recorded_tree: Callable[[str], Path]) -> None:
    first, second = (
        as_truth(rows_of(collector_of(recorded_tree("cgroup2") / s, ()).reader(container("/"))))
        for s in ("snapshot-1", "snapshot-2")
    )
    assert first.keys() == second.keys()
    assert all(second[i][m] >= v for i, values in first.items() for m, v in values.items())


def test_a_container_with_a_namespace_of_its_own(host: MadeUpHost) -> None:
    host.namespace("a", 10)
    host.process(100, "a")
    host.members("/a", 100)
    reader = collector_of(host.root).reader(container("/a"))
    assert rows_of(reader) == (("eth0", 10, 2, 3, 4, 5, 6, 7, 8),)
    host.namespace("a", 11)
    assert received(reader) == 11


def test_the_hosts_namespace_is_not_counted_again_in_a_container(host: MadeUpHost) -> None:
    host.process(100, "host")
    host.members("/a", 100)
    collector = collector_of(host.root)
    assert rows_of(collector.reader(container("/a"))) is None
    assert received(collector.reader(container("/"))) == 1


def test_a_container_without_processes_has_no_rows_until_it_has_one(host: MadeUpHost) -> None:
    host.members("/a")
    reader = collector_of(host.root).reader(container("/a"))
    assert rows_of(reader) is None
    host.namespace("a", 10)
    host.process(100, "a")
    host.members("/a", 100)
    assert received(reader) == 10


def test_another_process_is_chosen_when_the_first_ends(host: MadeUpHost) -> None:
    host.namespace("a", 10)
    host.process(100, "a")
    host.process(101, "a")
    host.members("/a", 100, 101)
    reader = collector_of(host.root).reader(container("/a"))
    assert received(reader) == 10
    host.end(100)
    host.members("/a", 101)
    assert received(reader) == 10
    host.end(101)
    host.members("/a")
    assert rows_of(reader) is None


def test_a_process_number_used_again_elsewhere_is_not_taken_for_the_old_process(host: MadeUpHost) -> None:
    host.namespace("a", 10)
    host.namespace("b", 99)
    host.process(100, "a")
    host.process(101, "a")
    host.members("/a", 100, 101)
    reader = collector_of(host.root).reader(container("/a"))
    assert received(reader) == 10
    host.end(100)
    host.process(100, "b")
    host.members("/a", 101)
    assert received(reader) == 10


def test_a_process_that_leaves_the_hosts_namespace_is_followed(host: MadeUpHost) -> None:
    """A runtime puts a container's first process into the cgroup before it gives it a namespace."""
    host.namespace("a", 10)
    host.process(100, "host")
    host.members("/a", 100)
    reader = collector_of(host.root).reader(container("/a"))
    assert rows_of(reader) is None
    host.process(100, "a")
    assert received(reader) == 10


def test_a_shared_namespace_is_counted_at_one_owner_and_handed_on(host: MadeUpHost) -> None:
    host.namespace("pod", 10)
    for pid, path in ((100, "/pod/b"), (101, "/pod/a"), (102, "/pod/c")):
        host.process(pid, "pod")
        host.members(path, pid)
    collector = collector_of(host.root)
    b, c, a = (collector.reader(container(p)) for p in ("/pod/b", "/pod/c", "/pod/a"))
    for _ in range(2):
        assert [received(r) for r in (b, c, a)] == [10, None, None]
    b.close()
    assert [received(r) for r in (c, a)] == [None, 10]
    host.end(101)
    host.members("/pod/a")
    assert rows_of(a) is None
    assert received(c) == 10
    assert [received(r) for r in (b, c)] == [None, 10]


def test_a_container_nearer_to_the_root_takes_the_namespace_over(host: MadeUpHost) -> None:
    host.namespace("a", 10)
    for pid, path in ((100, "/a/inner/most"), (101, "/a")):
        host.process(pid, "a")
        host.members(path, pid)
    collector = collector_of(host.root)
    inner, outer = collector.reader(container("/a/inner/most")), collector.reader(container("/a"))
    assert received(inner) == 10
    assert received(outer) == 10
    assert received(inner) is None
    outer.close()
    assert received(inner) == 10


def test_processes_outside_of_our_own_pid_namespace_are_passed_over(host: MadeUpHost) -> None:
    host.namespace("a", 10)
    host.process(100, "a")
    host.members("/a", 0, 0, 100)
    assert received(collector_of(host.root).reader(container("/a"))) == 10


def test_no_net_dev_at_all_is_no_data(tmp_path: Path) -> None:
    with pytest.raises(NoData, match="net/dev"):
        collector_of(tmp_path).reader(container("/a"))


def test_patterns_leave_interfaces_out(tmp_path: Path) -> None:
    raw = HEAD + b"".join(b"%s: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n" % n for n in (b"veth12", b"lo", b"eth1", b"eth0"))
    collector = collector_of(tmp_path, ("lo", "veth*"))
    assert [r[0] for r in collector.parse(raw)] == ["eth0", "eth1"]
    assert len(collector_of(tmp_path, ()).parse(raw)) == 4


def test_absurd_counters_are_none_and_counted() -> None:
    faults = Faults()
    raw = b"eth0: -1 %d x 4 0 0 0 0 5 6 7 8 0 0 0 0\neth1: 1 2 3\n" % 2**63
    assert parse(raw, NOTHING, faults) == (("eth0", None, None, None, 4, 5, 6, 7, 8),)
    assert faults.absurd_values == 3


@given(
    st.dictionaries(
        st.text("abcdefghij0123456789.-_@", min_size=1, max_size=15),
        st.lists(st.integers(0, MAX_INT), min_size=16, max_size=16),
        max_size=8,
    )
)
def test_every_interface_comes_back_sorted(interfaces: dict[str, list[int]]) -> None:
    raw = HEAD + "".join(f"{n:>6}: {' '.join(map(str, v))}\n" for n, v in interfaces.items()).encode()
    rows = parse(raw, NOTHING, Faults())
    assert rows == tuple((n, *v[:4], *v[8:12]) for n, v in sorted(interfaces.items()))


@given(st.binary(max_size=300) | st.text("eth0: 1-\n ", max_size=200).map(str.encode))
def test_any_bytes_are_taken(raw: bytes) -> None:
    for row in parse(raw, NOTHING, Faults()):
        assert all(v is None or (isinstance(v, int) and 0 <= v <= MAX_INT) for v in row[1:])


@pytest.mark.integration
def test_this_hosts_interfaces_are_those_of_psutil() -> None:
    need(Path("/proc/net/dev").exists(), "procfs")
    before = psutil.net_io_counters(pernic=True)
    rows = as_truth(rows_of(collector_of(Path("/"), ()).reader(container("/"))))
    after = psutil.net_io_counters(pernic=True)
    assert rows.keys() == after.keys()
    for name, values in rows.items():
        assert before[name].bytes_recv <= values["network_receive_bytes"] <= after[name].bytes_recv
        assert before[name].packets_sent <= values["network_transmit_packets"] <= after[name].packets_sent


@pytest.fixture
def namespaced() -> Iterator[subprocess.Popen[bytes]]:
    """A real process in a network namespace of its own, with traffic on its loopback interface."""
    need(os.geteuid() == 0 and shutil.which("unshare") and shutil.which("ip"), "root, unshare and ip")
    command = "ip link set lo up && ping -c 1 127.0.0.1 >/dev/null 2>&1; echo ready; exec sleep 60"
    process = subprocess.Popen(["unshare", "-n", "sh", "-c", command], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.integration
def test_a_files_inode_tells_the_same_namespaces_apart_as_the_kernels_links_do(namespaced: subprocess.Popen[bytes]) -> None:
    pids = [p for p in psutil.pids() if os.path.exists(f"/proc/{p}/net/dev")]
    by_inode: dict[int, set[str]] = {}
    for pid in pids:
        try:
            link, inode = os.readlink(f"/proc/{pid}/ns/net"), os.stat(f"/proc/{pid}/net/dev").st_ino
        except OSError:
            continue
        by_inode.setdefault(inode, set()).add(link)
    assert len(by_inode) >= 2
    assert all(len(links) == 1 for links in by_inode.values())
    assert len({next(iter(links)) for links in by_inode.values()}) == len(by_inode)


@pytest.mark.integration
def test_a_real_container_with_a_namespace_of_its_own(namespaced: subprocess.Popen[bytes]) -> None:
    mounts = find_mounts(Path("/sys"), Path("/proc"))
    need(mounts.hierarchies(), "a cgroup hierarchy")
    path = f"/tidegauge-net-{os.getpid()}"
    where = Path(f"{mounts.hierarchies()[0].root}{path}")
    where.mkdir()
    try:
        (where / "cgroup.procs").write_text(str(namespaced.pid))
        collector = collector_of(Path("/"), ())
        reader = collector.reader(container(path))
        rows = as_truth(rows_of(reader))
        assert rows == truth(Path(f"/proc/{namespaced.pid}/net/dev"))
        assert "lo" in rows
        namespaced.kill()
        namespaced.wait()
        assert rows_of(reader) is None
        reader.close()
    finally:
        removed(where)


def test_a_process_that_is_hidden_is_counted_and_said() -> None:
    need(os.geteuid() == 0, "root, to become somebody who may not read")
    with tempfile.TemporaryDirectory(prefix="tidegauge-") as folder:
        os.chmod(folder, 0o755)
        file = Path(folder) / "10/net/dev"
        file.parent.mkdir(parents=True)
        file.write_text("")
        (Path(folder) / "10").chmod(0)
        collector = NetdevCollector(NetdevConfig(Path(folder), Path(folder)))
        os.seteuid(65534)
        try:
            assert collector.namespaces.inode(f"{file.parent}/") is None
            assert collector.namespaces.inode(f"{folder}/11/net/") is None
        finally:
            os.seteuid(0)
    assert collector.counters()["unreadable_files"] == 1
    assert collector.complaint() == f"{file}: Permission denied"

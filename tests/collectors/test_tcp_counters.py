"""The kernel's counters of TCP: recorded texts, made-up ones, and a real namespace beside nstat."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.cgroup_truth import Truth, as_dict, container
from tests.collectors.made_up_host import MadeUpHost
from tests.collectors.real_container import RealContainer, ask, eventually
from tests.support import need

from tidegauge.collectors._kernel_text import Faults
from tidegauge.collectors.tcp_counters import CounterFile, TcpCountersCollector, TcpCountersConfig
from tidegauge.pipeline.builtin_metrics import TCP_EXT_FIELDS, TCP_FIELDS, tcp_metric
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.records import MAX_INT, UNLIMITED

LINUX_3_10 = b"""Ip: Forwarding DefaultTTL\nIp: 1 64
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts
Tcp: 1 200 120000 -1 1041 7 3 5 2 9871 8812 1 0 46
Udp: InDatagrams NoPorts\nUdp: 1 2
"""  # noqa: E501 - as the kernel writes it


def truth(folder: Path) -> Truth:
    """Metric -> value of a `net` folder, straight from its files."""
    out: Truth = {tcp_metric(f): None for f in (*TCP_FIELDS, *TCP_EXT_FIELDS)}
    for file, group in (("snmp", "Tcp:"), ("netstat", "TcpExt:")):
        lines = [line.split() for line in (folder / file).read_text().splitlines() if line.startswith(f"{group} ")]
        for name, value in zip(lines[0][1:], lines[1][1:], strict=True):
            if tcp_metric(name) in out:
                out[tcp_metric(name)] = UNLIMITED if value == "-1" else int(value)
    return out


def collector_of(root: Path) -> TcpCountersCollector:
    return TcpCountersCollector(TcpCountersConfig(root / "sys", root / "proc"))


@pytest.mark.parametrize("name", ["cgroup1", "cgroup1-vm", "cgroup2"])
def test_recorded_hosts(recorded_tree: Callable[[str], Path], name: str) -> None:
    root = recorded_tree(name) / "snapshot-1"
    collector = collector_of(root)
    folder = next(f for f in (root / "proc/1/net", root / "proc/net") if (f / "dev").exists())
    values = as_dict(collector, collector.reader(container("/")))
    assert values == truth(folder)
    assert values["tcp_maxconn"] == UNLIMITED
    assert sum(v is not None for v in values.values()) > 80


def test_fields_that_a_kernel_does_not_have_are_none() -> None:
    parse = CounterFile(b"Tcp:", (b"ActiveOpens", b"InCsumErrors", b"MaxConn"), Faults())
    assert parse(LINUX_3_10) == (1041, None, UNLIMITED)


def test_order_is_by_name_and_may_change() -> None:
    parse = CounterFile(b"T:", (b"a", b"b"), Faults())
    assert parse(b"T: b x a\nT: 1 2 3\n") == (3, 1)
    assert parse(b"T: a b\nT: 4 5\n") == (4, 5)


def test_what_cannot_be_is_none_and_counted() -> None:
    faults = Faults()
    parse = CounterFile(b"Tcp:", (b"MaxConn", b"InSegs", b"OutSegs", b"InErrs"), faults)
    assert parse(b"Tcp: MaxConn InSegs OutSegs InErrs\nTcp: -2 -1 %d x\n" % (MAX_INT + 1)) == (None,) * 4
    assert faults.absurd_values == 4
    assert parse(b"Tcp: MaxConn InSegs OutSegs InErrs\nTcp: 12 1 %d 0\n" % MAX_INT) == (12, 1, MAX_INT, 0)


@pytest.mark.parametrize(
    "raw", [b"", b"Tcp: a", b"Tcp: a\nTcp:", b"Tcp: a b\nTcp: 1", b"Tcp: a\nUdp: 1", b"TcpExt: a\nTcpExt: 1"]
)
def test_a_torn_text_has_no_values(raw: bytes) -> None:
    assert CounterFile(b"Tcp:", (b"a",), Faults())(raw) == (None,)


NAMES = st.lists(st.text("abcXYZ", min_size=1, max_size=6), unique=True, min_size=1, max_size=12)


@given(NAMES, NAMES, st.data())
def test_every_field_is_found_by_its_name(there: list[str], wanted: list[str], data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, MAX_INT), min_size=len(there), max_size=len(there)))
    raw = f"Ip: a\nIp: 1\nT: {' '.join(there)}\nT: {' '.join(map(str, values))}\nUdp: a\nUdp: 2\n".encode()
    found = CounterFile(b"T:", tuple(w.encode() for w in wanted), Faults())(raw)
    known = dict(zip(there, values, strict=True))
    assert found == tuple(known.get(w) for w in wanted)


@given(st.binary(max_size=200) | st.text("Tcp: ab\n01", max_size=200).map(str.encode))
def test_any_bytes_are_taken(raw: bytes) -> None:
    for value in CounterFile(b"Tcp:", (b"a", b"b"), Faults())(raw):
        assert value is None or 0 <= value <= MAX_INT


def test_metrics_are_the_catalogues_of_the_group() -> None:
    assert TcpCountersCollector.metrics == tuple(m.name for m in Catalogue() if m.group == "advtcp")


def test_containers_without_a_namespace_that_is_theirs_have_none(tmp_path: Path) -> None:
    host = MadeUpHost(tmp_path)
    host.namespace("a", 1)
    for pid, namespace in ((100, "a"), (200, "host")):
        host.process(pid, namespace)
        host.file(pid, "net/snmp", LINUX_3_10.decode())
        host.members(f"/{pid}", pid)
    collector = collector_of(tmp_path)
    own, shared = (as_dict(collector, collector.reader(container(p))) for p in ("/100", "/200"))
    assert (own["tcp_activeopens"], own["tcp_listendrops"]) == (1041, None)
    assert set(shared.values()) == {None}
    host.end(100)
    host.members("/100")
    assert set(as_dict(collector, collector.reader(container("/100"))).values()) == {None}


def test_no_net_dev_at_all_is_no_data(tmp_path: Path) -> None:
    with pytest.raises(NoData, match="net/dev"):
        collector_of(tmp_path).reader(container("/a"))


def by_nstat(pid: int) -> dict[str, int]:
    """What nstat of iproute2 says; it leaves the four constants out."""
    command = ["nsenter", "-t", str(pid), "-n", "nstat", "-asz"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("Tcp")]
    return {tcp_metric(w[0].removeprefix("TcpExt") if w[0].startswith("TcpExt") else w[0][3:]): int(w[1]) for w in lines}


@pytest.mark.integration
def test_a_real_namespace_beside_nstat_and_what_was_done_in_it() -> None:
    need(all(shutil.which(t) for t in ("unshare", "nsenter", "ip", "nstat")), "unshare, nsenter, ip and nstat")
    with RealContainer() as real:
        process = real.run('subprocess.run(["ip", "link", "set", "lo", "up"], check=True)', "unshare", "-n")
        collector = TcpCountersCollector(TcpCountersConfig())
        reader = collector.reader(container(real.path))
        before = as_dict(collector, reader)
        assert (before["tcp_activeopens"], before["tcp_passiveopens"], before["tcp_currestab"]) == (0, 0, 0)
        ask(process, "s = socket.create_server(('127.0.0.1', 0))")
        ask(process, "pairs = [(socket.create_connection(s.getsockname()), s.accept()) for _ in range(7)]")
        ask(process, "s.close(); socket.socket().connect_ex(('127.0.0.1', 1))")
        found: Truth = {}
        said: dict[str, int] = {}

        def is_settled() -> bool:
            """Acknowledgements that wait are counted when they go out."""
            said.update(by_nstat(process.pid))
            found.update(as_dict(collector, reader))
            return said == by_nstat(process.pid)

        eventually(is_settled)
        common = said.keys() & found.keys()
        assert len(common) > 80
        assert {k: found[k] for k in common} == {k: said[k] for k in common}
        assert (found["tcp_activeopens"], found["tcp_passiveopens"], found["tcp_currestab"]) == (8, 7, 14)
        assert (found["tcp_attemptfails"], found["tcp_outrsts"], found["tcp_maxconn"]) == (1, 1, UNLIMITED)
        reader.close()

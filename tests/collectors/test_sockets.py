"""Sockets by state: made-up texts, recorded hosts, and real sockets in namespaces of their own beside ss and psutil."""

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.cgroup_truth import container
from tests.collectors.made_up_host import MadeUpHost
from tests.collectors.real_container import RealContainer, ask, eventually
from tests.support import need

from tidegauge.collectors.sockets import (
    SocketsCollector,
    SocketsConfig,
    SocketsReader,
    TcpCount,
    UdpCount,
    blocks,
    without_sockets,
)
from tidegauge.pipeline.builtin_metrics import TCP_STATES
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.records import TableRows

TCP_HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
UDP_HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops"
SS_STATES = "ESTAB SYN-SENT SYN-RECV FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT UNCONN CLOSE-WAIT LAST-ACK LISTEN CLOSING"
SS_NAMES = dict(zip(SS_STATES.split(" "), TCP_STATES, strict=True))


def tcp_line(number: int, state: int, is_v6: bool = False) -> str:
    """As net/ipv4/tcp_ipv4.c and net/ipv6/tcp_ipv6.c write them: shorter for TIME_WAIT and for requests."""
    address = "00000000000000000000000001000000" if is_v6 else "0100007F"
    head = f"{number:4d}: {address}:{number % 65536:04X} {address}:0A0B {state:02X} 00000000:00000000"
    if state == 6:
        return f"{head} 03:00000E49 00000000     0        0 0 3 00000000656c8fcd"
    if state == 12:
        return f"{head} 01:00000018 00000000     0        0 0 1 00000000656c8fcd"
    return f"{head} 00:00000000 00000000  1000        0 {number} 1 00000000d0b20654 20 4 30 10 -1"


def udp_line(number: int, to_send: int, received: int, dropped: int) -> str:
    head = f"{number:5d}: 0100007F:{number % 65536:04X} 00000000:0000 07 {to_send:08X}:{received:08X}"
    return f"{head} 00:00000000 00000000     0        0 11494 2 00000000d0b20654 {dropped}"


def text_of(head: str, lines: list[str]) -> bytes:
    return "".join(f"{line:<149}\n" for line in (head, *lines)).encode()


def tcp_count(raw: bytes) -> dict[str, int]:
    count = TcpCount()
    count.add(raw)
    return {state: n for state, n in zip(TCP_STATES, count.values(), strict=True) if n}


def udp_count(raw: bytes) -> tuple[object, ...]:
    count = UdpCount()
    count.add(raw)
    return count.values()


@given(st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=60))
def test_every_socket_is_counted_under_its_state(sockets: list[tuple[int, bool]]) -> None:
    """12 is a request not yet accepted, which counts as SYN_RECV."""
    raw = text_of(TCP_HEAD, [tcp_line(9990 + i, state, is_v6) for i, (state, is_v6) in enumerate(sockets)])
    assert tcp_count(raw) == Counter(TCP_STATES[2 if s == 12 else s - 1] for s, _ in sockets)


def test_a_state_that_is_not_known_leaves_the_others_alone() -> None:
    assert tcp_count(text_of(TCP_HEAD, [tcp_line(1, 1), tcp_line(2, 13), tcp_line(3, 255), tcp_line(4, 10)])) == {
        "established": 1,
        "listen": 1,
    }


@given(st.lists(st.tuples(*[st.integers(0, 2**32 - 1)] * 3), max_size=40))
def test_queues_and_drops_of_udp_add_up(sockets: list[tuple[int, int, int]]) -> None:
    raw = text_of(UDP_HEAD, [udp_line(i, *s) for i, s in enumerate(sockets)])
    assert udp_count(raw) == (len(sockets), *(sum(s[i] for s in sockets) for i in (2, 1, 0)))


def test_drops_that_an_old_kernel_shows_with_a_sign() -> None:
    assert udp_count(text_of(UDP_HEAD, [udp_line(1, 0, 0, -1)])) == (1, 2**32 - 1, 0, 0)


@given(st.binary(max_size=300) | st.text("0: 1AF-\n", max_size=300).map(str.encode))
def test_any_bytes_are_taken(raw: bytes) -> None:
    assert all(n >= 0 for n in tcp_count(raw).values())
    assert all(isinstance(n, int) and n >= 0 for n in udp_count(raw))


def test_a_table_of_many_blocks_is_counted_in_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "tcp"
    file.write_bytes(text_of(TCP_HEAD, [tcp_line(i, 1 + i % 11) for i in range(11_000)]))
    fd = os.open(file, os.O_RDONLY)
    try:
        found = list(blocks(fd))
    finally:
        os.close(fd)
    assert len(found) > 10
    assert all(block.endswith(b"\n") for block in found)
    count = TcpCount()
    for block in found:
        count.add(block)
    assert count.values() == (1000,) * 11


@pytest.mark.parametrize(
    ("sockstat", "sockstat6", "wanted"),
    [
        ("TCP: inuse 0 orphan 0 tw 0 alloc 9 mem 1", "TCP6: inuse 0", {"tcp", "tcp6"}),
        ("TCP: inuse 0 orphan 0 tw 1 alloc 0 mem 0", "TCP6: inuse 0", set()),
        ("TCP: inuse 10 orphan 0 tw 0 alloc 0 mem 0", "TCP6: inuse 0", {"tcp6"}),
        ("TCP: inuse 0 orphan 0 tw 0 alloc 0 mem 0", "TCP6: inuse 2", {"tcp"}),
        ("TCP: inuse 0 orphan 0 tw 0 alloc 0 mem 0", "", {"tcp"}),
        ("", "TCP6: inuse 0", set()),
        ("nonsense", "nonsense", set()),
    ],
)
def test_which_tables_are_empty_by_the_short_statistics(sockstat: str, sockstat6: str, wanted: set[str]) -> None:
    head, tail = "sockets: used 22\n", "\nUDP: inuse 1 mem 0\n"
    assert without_sockets(f"{head}{sockstat}{tail}".encode(), f"{sockstat6}\nUDP6: inuse 0\n".encode()) == wanted


def collector_of(root: Path, *groups: str) -> SocketsCollector:
    return SocketsCollector(SocketsConfig(root / "sys", root / "proc", frozenset(groups or ("tcp", "udp"))))


def rows_of(reader: SocketsReader) -> dict[str, TableRows | None]:
    assert reader.read() == ()
    tables = reader.read_tables()
    assert len(tables) == len(reader._collector.tables)
    return dict(zip(reader._collector.tables, tables, strict=True))


def by_state(rows: TableRows | None, protocol: str) -> dict[str, int]:
    assert rows is not None
    row = next(r for r in rows if r[0] == protocol)
    return {state: int(n) for state, n in zip(TCP_STATES, row[1:], strict=True) if n}


@pytest.mark.parametrize("name", ["cgroup1", "cgroup1-vm", "cgroup2"])
def test_recorded_hosts(recorded_tree: Callable[[str], Path], name: str) -> None:
    root = recorded_tree(name) / "snapshot-1"
    folder = next(f for f in (root / "proc/1/net", root / "proc/net") if (f / "dev").exists())
    tables = rows_of(collector_of(root).reader(container("/")))
    for file in ("tcp", "tcp6"):
        if (folder / file).exists():
            lines = (folder / file).read_text().splitlines()[1:]
            wanted = Counter(TCP_STATES[int(line.split()[3], 16) - 1] for line in lines)
            assert by_state(tables["tcp"], file) == wanted
    udp = [line.split() for line in (folder / "udp").read_text().splitlines()[1:]]
    assert tables["udp"] == (("udp", len(udp), sum(int(w[12]) for w in udp), 0, 0),)


def test_recorded_sockets_add_up_over_containers(recorded_tree: Callable[[str], Path]) -> None:
    """Each recorded process has files of its own here, so each counts as a namespace of its own."""
    root = recorded_tree("cgroup2") / "snapshot-1"
    collector = collector_of(root)
    seen = 0
    for file in sorted((root / "sys/fs/cgroup").rglob("cgroup.procs")):
        path = "/" + str(file.parent.relative_to(root / "sys/fs/cgroup")).removeprefix(".")
        try:
            pids = [p for p in file.read_text().split() if (root / f"proc/{p}/net/dev").exists()]
        except OSError:
            continue
        if path == "/" or not pids or pids[0] == "1":
            continue
        lines = (root / f"proc/{pids[0]}/net/tcp").read_text().splitlines()[1:]
        wanted = Counter(TCP_STATES[int(line.split()[3], 16) - 1] for line in lines)
        assert by_state(rows_of(collector.reader(container(path)))["tcp"], "tcp") == wanted
        seen += 1
    assert seen >= 5


@pytest.fixture
def host(tmp_path: Path) -> MadeUpHost:
    host = MadeUpHost(tmp_path)
    for name, pid in (("a", 100), ("b", 200)):
        host.namespace(name, 1)
        host.process(pid, name)
        host.members(f"/{name}", pid)
    host.file(100, "net/tcp", text_of(TCP_HEAD, [tcp_line(1, 1), tcp_line(2, 10)]).decode())
    host.file(100, "net/udp", text_of(UDP_HEAD, [udp_line(1, 3, 2, 1)]).decode())
    return host


def test_a_kernel_without_ipv6_has_no_rows_of_it(host: MadeUpHost) -> None:
    tables = rows_of(collector_of(host.root).reader(container("/a")))
    assert tables == {"tcp": (("tcp", 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0),), "udp": (("udp", 1, 1, 2, 3),)}


def test_a_process_without_any_of_the_files_has_no_rows(host: MadeUpHost) -> None:
    assert rows_of(collector_of(host.root).reader(container("/b"))) == {"tcp": None, "udp": None}


@pytest.mark.parametrize("group", ["tcp", "udp"])
def test_a_group_that_is_off_has_no_table(host: MadeUpHost, group: str) -> None:
    assert rows_of(collector_of(host.root, group).reader(container("/a"))).keys() == {group}


def test_a_shared_namespace_is_counted_at_one_owner(host: MadeUpHost) -> None:
    host.process(300, "a")
    host.file(300, "net/udp", text_of(UDP_HEAD, [udp_line(1, 3, 2, 1)]).decode())
    host.members("/c", 300)
    collector = collector_of(host.root, "udp")
    a, c = collector.reader(container("/a")), collector.reader(container("/c"))
    assert rows_of(a)["udp"] is not None
    assert rows_of(c)["udp"] is None
    a.close()
    assert rows_of(c)["udp"] is not None
    assert rows_of(a)["udp"] is None


def test_a_container_in_the_hosts_namespace_has_no_rows(host: MadeUpHost) -> None:
    host.process(300, "host")
    host.file(300, "net/udp", text_of(UDP_HEAD, [udp_line(1, 3, 2, 1)]).decode())
    host.members("/c", 300)
    assert rows_of(collector_of(host.root).reader(container("/c"))) == {"tcp": None, "udp": None}


def test_a_process_that_left_the_namespace_while_it_was_read_does_not_count(
    host: MadeUpHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = collector_of(host.root, "udp").reader(container("/a"))
    assert rows_of(reader)["udp"] == (("udp", 1, 1, 2, 3),)
    real = SocketsCollector._count
    left = []

    def count(self: SocketsCollector, name: str, fd: int) -> tuple[object, ...]:
        counted = real(self, name, fd)
        if not left:
            host.process(100, "b")
            host.file(100, "net/udp", text_of(UDP_HEAD, []).decode())
            left.append(name)
        return counted

    monkeypatch.setattr(SocketsCollector, "_count", count)
    assert rows_of(reader)["udp"] == (("udp", 0, 0, 0, 0),)
    assert left


def test_a_table_that_may_not_be_read_is_an_error_with_its_name(host: MadeUpHost) -> None:
    (host.root / "proc/100/net/udp").unlink()
    (host.root / "proc/100/net/udp").mkdir()
    with pytest.raises(CollectError, match=r"100/net/udp: Is a directory"):
        rows_of(collector_of(host.root, "udp").reader(container("/a")))


def test_no_net_dev_at_all_is_no_data(tmp_path: Path) -> None:
    with pytest.raises(NoData, match="net/dev"):
        collector_of(tmp_path).reader(container("/a"))


def test_rows_fit_the_tables_of_the_catalogue(host: MadeUpHost) -> None:
    for table, rows in rows_of(collector_of(host.root).reader(container("/a"))).items():
        assert rows is not None
        assert len(rows[0]) == 1 + len(Catalogue().of_table(table))


SOCKETS = """
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
kept = []
def families():
    yield socket.AF_INET, "127.0.0.1"
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        yield socket.AF_INET6, "::1"
    except OSError:
        return  # IPv6 is switched off here
def listener(family, address, backlog=100):
    s = socket.socket(family)
    s.bind((address, 0))
    s.listen(backlog)
    kept.append(s)
    return s
def pair(server):
    client = socket.create_connection(server.getsockname()[:2])
    served, _ = server.accept()
    kept.extend((client, served))
    return client, served
def every_state(family, address):
    server = listener(family, address)
    for _ in range(3):
        pair(server)
    client, served = pair(server)
    client.shutdown(socket.SHUT_WR)  # FIN_WAIT2, and CLOSE_WAIT at the other end
    client, served = pair(server)
    client.close()  # TIME_WAIT once the other end closes too
    served.recv(1)
    served.close()
    deferring = listener(family, address)
    deferring.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 100)
    kept.append(socket.create_connection(deferring.getsockname()[:2]))  # SYN_RECV until it says something
    full = listener(family, address, 0)
    kept.append(socket.create_connection(full.getsockname()[:2]))
    waiting = socket.socket(family)
    waiting.setblocking(False)
    waiting.connect_ex(full.getsockname()[:2])  # SYN_SENT: there is no place for it
    kept.append(waiting)
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    udp.bind((address, 0))
    sender = socket.socket(family, socket.SOCK_DGRAM)
    for _ in range(20):
        sender.sendto(b"x" * 1000, udp.getsockname())  # more than fit: received and dropped
    sender.sendto(b"x" * 500, socket.MSG_MORE, udp.getsockname())  # held back: to be sent
    kept.extend((udp, sender))
for family, address in families():
    every_state(family, address)
late = [pair(listener(*f)) for f in families()]
def by_psutil(file):
    import psutil
    with open(file, "w") as out:
        print(*(c.status for c in psutil.Process().net_connections("tcp4")), file=out)
def without_a_way():
    for client, served in late:
        served.shutdown(socket.SHUT_WR)
        client.recv(1)
    subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
    for client, served in late:
        client.shutdown(socket.SHUT_WR)  # LAST_ACK: nobody can confirm it
"""


def ss(pid: int, *options: str) -> list[list[str]]:
    done = subprocess.run(["nsenter", "-t", str(pid), "-n", "ss", "-anH", *options], capture_output=True, text=True, check=True)
    return [line.split() for line in done.stdout.splitlines()]


def states_by_ss(pid: int) -> dict[str, Counter[str]]:
    return {f: Counter(SS_NAMES[line[0]] for line in ss(pid, "-t", o)) for f, o in (("tcp", "-4"), ("tcp6", "-6"))}


def at_one_moment(pid: int, reader: SocketsReader) -> dict[str, dict[str, int]]:
    """Counts before and after which ss said the same, and which are compared with what it said."""
    found: dict[str, dict[str, int]] = {}

    def is_settled() -> bool:
        before = states_by_ss(pid)
        rows = rows_of(reader)["tcp"]
        found.update({p: by_state(rows, p) for p in ("tcp", "tcp6")})
        return before == states_by_ss(pid) and found == before

    try:
        eventually(is_settled)
    except AssertionError:
        assert found == states_by_ss(pid)
        raise
    return found


def needs_tools() -> None:
    need(all(shutil.which(t) for t in ("unshare", "nsenter", "ip", "ss")), "unshare, nsenter, ip and ss")
    need(Path("/proc/net/tcp6").exists(), "a kernel with IPv6")


@pytest.mark.integration
def test_real_sockets_in_every_state_are_those_of_ss_and_psutil(tmp_path: Path) -> None:
    needs_tools()
    with RealContainer() as real:
        process = real.run(SOCKETS, "unshare", "-n")
        collector = SocketsCollector(SocketsConfig())
        reader = collector.reader(container(real.path))
        found = at_one_moment(process.pid, reader)
        wanted = {"established", "listen", "fin_wait2", "close_wait", "time_wait", "syn_recv", "syn_sent"}
        assert found["tcp"].keys() == wanted
        if found["tcp6"]:
            assert found["tcp6"] == found["tcp"]
        ask(process, f"by_psutil({str(tmp_path / 'own')!r})")
        own = Counter((tmp_path / "own").read_text().split())
        for state in wanted - {"time_wait", "syn_recv"}:  # those belong to no process
            not_accepted = 1 if state == "established" else 0  # it has no descriptor yet
            assert found["tcp"][state] == own[state.upper()] + not_accepted, state

        ask(process, "without_a_way()")
        assert at_one_moment(process.pid, reader)["tcp"]["last_ack"] == 1

        for protocol, option in (("udp", "-4"), ("udp6", "-6")):
            lines = ss(process.pid, "-u", option)
            rows = rows_of(reader)["udp"]
            assert rows is not None
            row = next(r for r in rows if r[0] == protocol)
            assert row[1] == len(lines)
            assert row[3:] == (sum(int(w[1]) for w in lines), sum(int(w[2]) for w in lines))
            if lines:
                assert len(lines) == 2
                assert int(row[3] or 0) > 1000
                assert int(row[4] or 0) > 500
                assert 10 <= int(row[2] or 0) < 20
        reader.close()


@pytest.mark.integration
def test_a_namespace_without_sockets_has_zeros_and_the_first_socket_shows() -> None:
    """The short way round the table of connections must not hide any."""
    needs_tools()
    with RealContainer() as real:
        process = real.run('subprocess.run(["ip", "link", "set", "lo", "up"], check=True)', "unshare", "-n")
        reader = SocketsCollector(SocketsConfig()).reader(container(real.path))
        assert rows_of(reader)["tcp"] == (("tcp", *[0] * 11), ("tcp6", *[0] * 11))
        ask(process, "s = socket.create_server(('127.0.0.1', 0))")
        assert at_one_moment(process.pid, reader) == {"tcp": {"listen": 1}, "tcp6": {}}
        ask(process, "c = socket.create_connection(s.getsockname()); a, _ = s.accept(); c.close(); a.close(); s.close()")
        assert at_one_moment(process.pid, reader) == {"tcp": {"time_wait": 1}, "tcp6": {}}


@pytest.mark.integration
def test_thousands_of_sockets_are_counted_to_the_last() -> None:
    needs_tools()
    with RealContainer() as real:
        code = """
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
server = socket.create_server(("127.0.0.1", 0), backlog=1000)
pairs = [(socket.create_connection(server.getsockname()), server.accept()) for _ in range(min(2500, hard // 2 - 50))]
"""
        process = real.run(code, "unshare", "-n")
        found = at_one_moment(process.pid, SocketsCollector(SocketsConfig()).reader(container(real.path)))
        assert found["tcp"]["listen"] == 1
        assert found["tcp"]["established"] >= 800


@pytest.mark.integration
def test_this_hosts_listening_sockets_are_those_of_ss() -> None:
    need(shutil.which("ss"), "ss")
    inodes = {os.stat(f"/proc/{pid}/net/dev").st_ino for pid in ("1", "self")}
    need(len(inodes) == 1, "tests in the host's network namespace")
    reader = SocketsCollector(SocketsConfig(groups=frozenset({"tcp"}))).reader(container("/"))

    def agree() -> bool:
        done = subprocess.run(["ss", "-tlnH4"], capture_output=True, text=True, check=True)
        rows = rows_of(reader)["tcp"]
        return by_state(rows, "tcp").get("listen", 0) == len(done.stdout.splitlines())

    eventually(agree)

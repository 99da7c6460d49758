"""What becomes of recorded answers of cAdvisor 0.35, value by value, and of answers that are none."""

import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.cadvisor_host import CadvisorHost, HttpHost, Reply, ms
from tests.support import need

from tidegauge.collectors.remotes.cadvisor import CadvisorConfig, CadvisorRemote
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import CollectError, ConfigError
from tidegauge.pipeline.plugin import RemoteAnswer, RemoteContainer
from tidegauge.pipeline.records import MAX_INT, UNLIMITED, Spec
from tidegauge.pipeline.registry import configure

WEB = "/docker/9ffe89d709968054fe5f79f07714d2e83d8b403ea513a258cf7f6ae1063b4276"
IO = "/docker/77ece92256eb7e700005b60eb14486f44f738cc290ab1069baa800b83eaf9485"
SIDECAR = "/docker/a166cb1aa19d01afbb088e47944e44109b4e15ae6847790a2d882a072d5a5757"


def serve(machine: bytes, containers: bytes) -> Callable[[str, str, dict[str, str], bytes], Reply]:
    def reply(method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        return 200, {"Content-Type": "application/json"}, machine if path.endswith("/machine") else containers

    return reply


def ask(machine: bytes, containers: bytes) -> tuple[RemoteAnswer, CadvisorRemote]:
    with HttpHost(serve(machine, containers)) as host:
        remote = CadvisorRemote(CadvisorConfig(url=host.url))
        try:
            return remote.ask(None), remote
        finally:
            remote.close()


@pytest.fixture(scope="module")
def folder(recorded_tree: Callable[[str], Path]) -> Path:
    return recorded_tree("remotes")


@pytest.fixture(scope="module")
def docker(folder: Path) -> dict[str, RemoteContainer]:
    answer, remote = ask((folder / "docker-machine.json").read_bytes(), (folder / "docker-subcontainers.json").read_bytes())
    assert remote.counters() == {"absurd_values": 0, "unreadable_containers": 0, "shortened_answers": 0}
    return {c.path: c for c in answer.containers}


def test_every_value_of_a_container(docker: dict[str, RemoteContainer]) -> None:
    reading = docker[WEB].readings[-1]
    assert reading.ts_ms == 1795432723126
    assert {k: v for k, v in reading.values.items() if v is not None} == {
        "cpu_usage_ns": 1927623322,
        "cpu_user_ns": 1130000000,
        "cpu_system_ns": 790000000,
        "cpu_periods": 707,
        "cpu_throttled_periods": 0,
        "cpu_throttled_ns": 0,
        "memory_usage_bytes": 3268608,
        "memory_max_usage_bytes": 11489280,
        "memory_working_set_bytes": 1097728,
        "memory_rss_bytes": 53248,
        "memory_cache_bytes": 2641920,
        "memory_mapped_file_bytes": 245760,
        "memory_swap_bytes": 0,
        "memory_page_faults": 94686,
        "memory_major_page_faults": 2,
        "memory_limit_bytes": 67108864,
        "memory_failures": 0,
        "pids_limit": 50,
    }
    assert reading.tables == {
        "percpu": (("0", 1927623322), ("1", 0)),
        "network": (("eth0", 463078, 6333, 0, 0, 54092892, 6491, 0, 0),),
        "disk_io": (("vda", 16384, 0, 0, 16384, 0, 4, 0, 0, 4, 0),),
    }
    assert docker[IO].readings[-1].tables["disk_io"] == (("vda", 0, 721780736, 713031680, 1434812416, 0, 0, 346, 97, 443, 0),)


def test_names_and_times_of_a_container(docker: dict[str, RemoteContainer]) -> None:
    web = docker[WEB]
    assert web.created_ms == 1795432451351
    assert web.ref is not None
    assert web.said is not None
    assert (web.ref.runtime, web.ref.id) == ("docker", WEB.removeprefix("/docker/"))
    assert (web.said.name, web.said.namespace, web.said.image) == ("ts-web", "docker", "busybox:local")
    assert web.said.aliases == ("ts-web", WEB.removeprefix("/docker/"))
    assert web.said.labels["io.example/path"] == "x/y"
    assert docker["/docker"].ref is None
    assert [r.ts_ms for r in web.readings] == sorted(r.ts_ms for r in web.readings)
    assert len(web.readings) == 6


def test_zeros_that_mean_absent_are_none(docker: dict[str, RemoteContainer], folder: Path) -> None:
    raw = docker["/docker"].readings[-1]
    assert "network" not in raw.tables  # zeros without an interface in 0.35
    assert "network" not in docker[SIDECAR].readings[-1].tables  # it lives in another's namespace
    for container in docker.values():
        for reading in container.readings:
            assert "cpu_load_milli" not in reading.values  # its reader was off: nobody has any task
            assert "tasks_sleeping" not in reading.values
    # counted without its children there, with them in our collectors
    assert raw.values["memory_page_faults"] is None
    assert raw.values["memory_limit_bytes"] == UNLIMITED
    assert raw.values["pids_limit"] == UNLIMITED


def test_load_is_told_where_its_reader_is_on(folder: Path) -> None:
    containers = json.loads((folder / "groups-subcontainers.json").read_bytes())
    containers[0]["stats"][0]["task_stats"]["nr_sleeping"] = 2
    answer, _ = ask((folder / "host-machine.json").read_bytes(), json.dumps(containers).encode())
    by_path = {c.path: c.readings[-1].values for c in answer.containers}
    assert by_path[containers[0]["name"]]["tasks_sleeping"] == 2
    assert by_path[containers[1]["name"]]["tasks_sleeping"] == 0
    assert by_path[containers[1]["name"]]["cpu_load_milli"] == 0


def test_the_host(folder: Path) -> None:
    containers = b"[" + (folder / "host-container.json").read_bytes() + b"]"
    answer, _ = ask((folder / "host-machine.json").read_bytes(), containers)
    assert answer.machine == "3d1219c7c4c5404aaa1f6d2a48adfda4 3d1219c7c4c5404aaa1f6d2a48adfda4"
    assert answer.boot_id == "0863d449-9210-44e1-807e-9c8e45f7309c"
    assert answer.host == "127.0.0.1"
    reading = answer.containers[0].readings[-1]
    assert reading.values["host_memory_total_bytes"] == 25276510208
    assert "memory_limit_bytes" not in reading.values  # what stands there is the machine's memory
    assert ("/dev/vda", 270553174016, 39321456640, 69622837248, 16777216, 16151492) in reading.tables["filesystem"]
    assert ("eth0", 1555099726, 41500, 0, 0, 2781998, 27754, 0, 0) in reading.tables["network"]


def test_names_are_of_the_catalogue_and_rows_have_its_width(docker: dict[str, RemoteContainer]) -> None:
    catalogue = Catalogue()
    widths = {t: len(catalogue.of_table(t)) + 1 for t in CadvisorRemote.tables}
    assert all(name in catalogue for name in CadvisorRemote.metrics)
    for container in docker.values():
        for reading in container.readings:
            assert set(reading.values) <= set(CadvisorRemote.metrics)
            assert all(len(row) == widths[t] for t, rows in reading.tables.items() for row in rows)


def test_values_are_those_that_the_kernel_had(recorded_tree: Callable[[str], Path]) -> None:
    """The same host at the same moment, once by cAdvisor and once by its files, read twice meanwhile."""
    root = recorded_tree("cgroup1-vm")
    folder = root / "cadvisor-0.35"
    answer, _ = ask((folder / "machine.json").read_bytes(), (folder / "v1.3-subcontainers.json").read_bytes())
    compared = 0
    for snapshot in ("snapshot-1", "snapshot-2"):
        meta = json.loads((root / snapshot / "META.json").read_bytes())
        cgroup = root / snapshot / "sys/fs/cgroup"
        for c in answer.containers:
            place = c.path.lstrip("/")
            usage = int((cgroup / "cpu,cpuacct" / place / "cpuacct.usage").read_bytes())
            before = [r.values["cpu_usage_ns"] for r in c.readings if r.ts_ms < meta["start_ns"] // 10**6]
            after = [r.values["cpu_usage_ns"] for r in c.readings if r.ts_ms > meta["end_ns"] // 10**6]
            assert all(isinstance(v, int) and v <= usage for v in before), c.path
            assert all(isinstance(v, int) and v >= usage for v in after), c.path
            compared += len(before) + len(after)
            if c.path != "/":
                kernel = int((cgroup / "memory" / place / "memory.limit_in_bytes").read_bytes())
                limit = c.readings[-1].values["memory_limit_bytes"]
                assert limit == (UNLIMITED if kernel > 2**62 else kernel), c.path
    assert compared > 300


def test_what_is_asked_for_is_what_is_new(folder: Path) -> None:
    now_ms = 1_800_000_100_000
    recorded = CadvisorHost(folder, now_ms - 50_000, lambda: now_ms)
    with HttpHost(recorded.reply) as host:
        remote = CadvisorRemote(CadvisorConfig(url=host.url + "/"))
        answer = remote.ask(now_ms - 3000)
        method, path, headers, body = host.requests[-1]
        remote.close()
    assert (method, path, headers["content-type"]) == ("POST", "/api/v1.3/subcontainers/", "application/json")
    question = json.loads(body)
    assert question["num_stats"] >= 120  # all of the two minutes that cAdvisor keeps, of a reading a second
    assert ms(question["start"]) == now_ms - 3000
    assert {tuple(r.ts_ms - now_ms for r in c.readings) for c in answer.containers} == {(-3000, -2000, -1000, 0)}
    assert answer.date_ms == now_ms


def test_of_a_host_that_has_more_than_an_answer_may_hold_the_newest_is_taken(folder: Path) -> None:
    now_ms = 1_800_000_100_000
    recorded = CadvisorHost(folder, now_ms - 59_000, lambda: now_ms)
    with HttpHost(recorded.reply) as host:
        remote = CadvisorRemote(CadvisorConfig(url=host.url, max_answer_bytes=500_000))
        answer = remote.ask(None)
        remote.close()
    assert remote.counters()["shortened_answers"] == 2
    times = {c.path: [r.ts_ms for r in c.readings] for c in answer.containers}
    assert all(t == [now_ms - 1000 * i for i in reversed(range(16))] for t in times.values()), times


class TestBadAnswers:
    @pytest.fixture
    def machine(self, folder: Path) -> bytes:
        return (folder / "host-machine.json").read_bytes()

    @pytest.fixture
    def good(self, folder: Path) -> bytes:
        return (folder / "groups-subcontainers.json").read_bytes()

    def fault(self, reply: Any, **config: Any) -> str:
        with HttpHost(reply) as host:
            remote = CadvisorRemote(CadvisorConfig(url=host.url, **config))
            try:
                with pytest.raises(CollectError) as raised:
                    remote.ask(None)
            finally:
                remote.close()
            assert host.url in str(raised.value)
            return str(raised.value)

    @pytest.mark.parametrize(
        ("containers", "expected"),
        [
            (b"", "a list of cAdvisor's ContainerInfo"),
            (b"<html>", "a list of cAdvisor's ContainerInfo"),
            (b"{}", "a list of cAdvisor's ContainerInfo"),
            (b"[]", "at least one"),
            (b'[{"name": 7, "spec": {}}]', "at least one"),
            (b'[{"name": "no-path", "spec": {}}]', "no path"),
            (b'[{"name": "/\xff", "spec": {}}]', "ContainerInfo"),
        ],
    )
    def test_junk(self, machine: bytes, containers: bytes, expected: str) -> None:
        assert expected in self.fault(serve(machine, containers))

    def test_no_machine(self, good: bytes) -> None:
        assert "MachineInfo" in self.fault(serve(b"[1]", good))

    def test_truncated(self, machine: bytes, good: bytes) -> None:
        def reply(method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
            if path.endswith("/machine"):
                return 200, {}, machine
            return 200, {"Content-Length": str(len(good)), "Connection": "close"}, good[: len(good) // 2]

        with HttpHost(reply) as host:
            remote = CadvisorRemote(CadvisorConfig(url=host.url, timeout_s=0.3))
            with pytest.raises(CollectError, match="subcontainers"):
                remote.ask(None)
            remote.close()

    def test_too_large(self, machine: bytes, good: bytes) -> None:
        assert "max_answer_bytes" in self.fault(serve(machine, good + b" " * 9000), max_answer_bytes=8192)

    def test_unauthorized_names_what_to_set_and_no_secret(self) -> None:
        text = self.fault(lambda *a: (401, {}, b"no entry for hush-hush"), token="hush-hush")
        assert "HTTP 401" in text
        assert "token_file" in text
        assert "hush-hush" not in text

    def test_a_redirect_is_not_followed(self, machine: bytes) -> None:
        with HttpHost(serve(machine, b"[]")) as other:
            text = self.fault(lambda *a: (302, {"Location": f"{other.url}/api"}, b""))
            assert other.requests == []
        assert "redirects are not followed" in text

    def test_an_error_says_what_the_host_said(self) -> None:
        assert "unknown container" in self.fault(lambda *a: (500, {}, b'unknown container "/"\n'))

    def test_nobody_answers(self) -> None:
        assert "machine" in self.fault(lambda *a: None)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with pytest.raises(CollectError, match=str(port)):
            CadvisorRemote(CadvisorConfig(url=f"http://127.0.0.1:{port}")).ask(None)

    def test_a_host_that_drips_is_left_at_the_deadline(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            remote = CadvisorRemote(CadvisorConfig(url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.2))
            with pytest.raises(CollectError, match=r"timed out|within 0\.2 s"):
                remote.ask(None)
            remote.close()

    def test_one_bad_container_does_not_spoil_the_others(self, machine: bytes, good: bytes) -> None:
        containers = json.loads(good)
        containers[0]["stats"] = [{"timestamp": "yesterday"}]
        containers[1]["stats"][0]["memory"]["usage"] = 2**64 - 1
        containers[1]["stats"][0]["cpu"]["usage"]["total"] = -1
        answer, remote = ask(machine, json.dumps(containers).encode())
        assert [c.path for c in answer.containers] == [c["name"] for c in containers[1:]]
        values = answer.containers[0].readings[0].values
        assert values["memory_usage_bytes"] is None
        assert values["cpu_usage_ns"] is None
        assert remote.counters() == {"absurd_values": 2, "unreadable_containers": 1, "shortened_answers": 0}


def test_limits_and_pressure_of_a_later_cadvisor_on_cgroup_v2(folder: Path) -> None:
    """Fields that 0.35 does not have, after their description: `max` is 2^64 - 1, totals of pressure are in us."""
    containers = json.loads((folder / "groups-subcontainers.json").read_bytes())[1:2]
    spec, stat = containers[0]["spec"], containers[0]["stats"][0]
    spec["memory"]["limit"] = spec["processes"]["limit"] = 2**64 - 1
    stat["cpu"]["usage"].pop("per_cpu_usage")
    stat["cpu"]["psi"] = {"some": {"total": 12, "avg10": 0.5}, "full": {"total": 0}}
    stat["memory"] |= {"max_usage": 0, "total_active_file": 4096, "psi": {"some": {"total": 0}, "full": {"total": 0}}}
    stat["processes"]["threads_current"] = 7
    answer, _ = ask((folder / "host-machine.json").read_bytes(), json.dumps(containers).encode())
    values = answer.containers[0].readings[0].values
    assert (values["memory_limit_bytes"], values["pids_limit"]) == (MAX_INT, MAX_INT)
    assert (values["cpu_pressure_some_ns"], values["cpu_pressure_full_ns"]) == (12_000, 0)
    assert "memory_pressure_some_ns" not in values
    assert values["memory_max_usage_bytes"] is None
    assert values["memory_failures"] is None  # no such counter on cgroup v2
    assert values["memory_active_file_bytes"] == 4096
    assert values["pids_current"] == 7
    assert "percpu" not in answer.containers[0].readings[0].tables


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({}, "remotes.web.url: expected http://HOST:PORT or https://HOST:PORT, got ''"),
        ({"url": "ftp://x"}, "remotes.web.url: expected http"),
        ({"url": "http://me:secret@x:1"}, "without user and password"),
        ({"url": "http://x:99999"}, "remotes.web.url: expected a port"),
        ({"url": "http://x", "timeout_s": "5 sec"}, "remotes.web.timeout_s: expected a number of seconds"),
        ({"url": "http://x", "cert_file": "/c"}, "remotes.web.cert_file: expected together with key_file"),
        ({"url": "http://x", "user": "me", "token_file": "/t"}, "remotes.web.user: expected either"),
        ({"url": "http://x", "colour": "red"}, "remotes.web.colour: unknown key"),
    ],
)
def test_a_wrong_table(table: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        configure(CadvisorRemote, "remotes.web", table, {})
    assert expected in str(raised.value)
    assert "secret" not in str(raised.value)


def test_credentials(folder: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    recorded = CadvisorHost(folder, 1_800_000_000_000, lambda: 1_800_000_005_000)
    with HttpHost(recorded.reply) as host:
        remote = CadvisorRemote(CadvisorConfig(url=host.url, token_file=token))
        remote.ask(None)
        assert host.requests[-1][2]["authorization"] == "Bearer first"
        token.write_text("second")
        remote.ask(None)
        assert host.requests[-1][2]["authorization"] == "Bearer second"
        remote.close()
        remote = CadvisorRemote(CadvisorConfig(url=host.url, user="me", password="pässword"))
        remote.ask(None)
        assert host.requests[-1][2]["authorization"] == "Basic bWU6cMOkc3N3b3Jk"
        remote.close()
        token.unlink()
        with pytest.raises(CollectError, match="token_file"):
            CadvisorRemote(CadvisorConfig(url=host.url, token_file=token)).ask(None)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(shutil.which("openssl"), "openssl is not installed")
    folder = tmp_path_factory.mktemp("keys")
    for name in ("server", "client"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "3650", "-subj", f"/CN={name}",
             "-addext", "subjectAltName=IP:127.0.0.1"],
            cwd=folder, check=True, capture_output=True,
        )  # fmt: skip
    return folder


class TestTls:
    @pytest.fixture
    def host(self, keys: Path, folder: Path) -> Iterator[HttpHost]:
        """One that asks for a certificate of ours."""
        recorded = CadvisorHost(folder, 1_800_000_000_000, lambda: 1_800_000_005_000)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(keys / "server.pem", keys / "server.key")
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(keys / "client.pem")
        with HttpHost(recorded.reply) as host:
            host.server.socket = context.wrap_socket(host.server.socket, server_side=True, do_handshake_on_connect=False)
            host.url = host.url.replace("http:", "https:")
            yield host

    def test_a_certificate_of_nobody_is_refused(self, host: HttpHost, keys: Path) -> None:
        remote = CadvisorRemote(
            CadvisorConfig(url=host.url, cert_file=keys / "client.pem", key_file=keys / "client.key", timeout_s=30)
        )
        with pytest.raises(CollectError, match="certificate verify failed"):
            remote.ask(None)
        assert host.requests == []

    def test_a_trusted_one_is_taken_and_ours_is_shown(self, host: HttpHost, keys: Path) -> None:
        remote = CadvisorRemote(
            CadvisorConfig(
                url=host.url,
                ca_file=keys / "server.pem",
                cert_file=keys / "client.pem",
                key_file=keys / "client.key",
                timeout_s=30,
            )
        )
        assert remote.ask(None).containers
        remote.close()


def test_what_a_container_is_allowed(docker: dict[str, RemoteContainer], folder: Path) -> None:
    assert docker[WEB].spec == Spec(
        cpu_shares=512,
        cpu_quota_us=50_000,
        cpu_period_us=100_000,
        cpus="0",
        memory_limit_bytes=64 << 20,
        memory_swap_limit_bytes=64 << 20,
        memory_reservation_bytes=32 << 20,
        pids_limit=50,
    )
    free = docker["/docker"].spec
    assert free is not None
    assert (free.cpu_quota_us, free.memory_swap_limit_bytes, free.pids_limit) == (UNLIMITED, UNLIMITED, UNLIMITED)
    containers = json.loads((folder / "groups-subcontainers.json").read_bytes())
    for container in containers:
        container["spec"]["memory"] = {"limit": 1000, "swap_limit": 24, "reservation": 7}
        container["stats"][0]["cpu"]["usage"].pop("per_cpu_usage")
    containers[0]["spec"]["memory"]["limit"] = 2**64 - 1  # so it is cgroup v2: swap is by itself, and reserved is `memory.min`
    answer, _ = ask((folder / "host-machine.json").read_bytes(), json.dumps(containers).encode())
    first, second = answer.containers[0].spec, answer.containers[1].spec
    assert first is not None
    assert second is not None
    assert (first.memory_limit_bytes, first.memory_swap_limit_bytes) == (UNLIMITED, UNLIMITED)
    assert (second.memory_limit_bytes, second.memory_swap_limit_bytes) == (1000, 1024)
    assert (second.memory_min_bytes, second.memory_reservation_bytes) == (7, None)


def test_traffic_of_a_container_on_the_network_of_the_host_is_told_of_the_host_alone(folder: Path) -> None:
    host = json.loads((folder / "host-container.json").read_bytes())
    machine = (folder / "host-machine.json").read_bytes()
    inner = json.loads((folder / "host-container.json").read_bytes()) | {"name": "/docker/inner"}
    inner["stats"] = inner["stats"][1:2]  # the host's own figures, between two readings of it
    own = json.loads((folder / "host-container.json").read_bytes()) | {"name": "/docker/own"}
    own["stats"] = own["stats"][1:2]
    for interface in own["stats"][0]["network"]["interfaces"]:
        interface["rx_bytes"] += 10**9
    answer, _ = ask(machine, json.dumps([host, inner, own]).encode())
    by_path = {c.path: c.readings[-1].tables for c in answer.containers}
    assert "network" in by_path["/"]
    assert "network" not in by_path["/docker/inner"]
    assert "network" in by_path["/docker/own"]


@pytest.mark.parametrize("is_whole", [True, False])
def test_an_answer_in_chunks_as_go_sends_it(folder: Path, is_whole: bool) -> None:
    machine = (folder / "host-machine.json").read_bytes()
    containers = (folder / "groups-subcontainers.json").read_bytes()

    def chunked(data: bytes) -> bytes:
        parts = [data[i : i + 1500] for i in range(0, len(data), 1500)]
        return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            is_machine = self.path.endswith("/machine")
            body = chunked(machine if is_machine else containers)
            self.send_response_only(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(body if is_whole or is_machine else body[:4000])
            self.close_connection = not (is_whole or is_machine)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        remote = CadvisorRemote(CadvisorConfig(url=f"http://127.0.0.1:{server.server_port}"))
        if is_whole:
            assert len(remote.ask(None).containers) == len(json.loads(containers))
            assert len(remote.ask(None).containers) == len(json.loads(containers))
        else:
            with pytest.raises(CollectError, match=r"broke off|ContainerInfo"):
                remote.ask(None)
        remote.close()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

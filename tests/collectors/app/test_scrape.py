"""The scraping process against endpoints that mean it well, and against those that do not."""

import gzip
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from tests.collectors.app.endpoint import Endpoint, http
from tests.support import need

from tidegauge.collectors.app.announced import Refused
from tidegauge.collectors.app.exposition import Column
from tidegauge.collectors.app.scrape import LENGTH, Answer, Metric, Request, Target
from tidegauge.collectors.app.workers import Scraper
from tidegauge.pipeline.series import split_series

NO_TLS = False
STOP = threading.Event()


@pytest.fixture(scope="module")
def scraper() -> Iterator[Scraper]:
    made = Scraper()
    yield made
    STOP.set()
    made.stop()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.close()


def request(port: int, *metrics: Metric, **changes: object) -> Request:
    """As the collector makes it, with a time limit that a busy machine keeps."""
    target = Target(NO_TLS, "127.0.0.1", port, "/metrics")
    made = Request(target, (), metrics or None, 30.0, 10.0, 1 << 20, 100, 1000, "")
    return msgspec.structs.replace(made, **changes)


def answered(scraper: Scraper, asked: Request) -> tuple[tuple[str, int, int | float], ...]:
    """Series, none where the process did not survive."""
    try:
        return scraper.ask(asked).series
    except Refused:
        return ()


def gauge(name: str, regex: str) -> Metric:
    return Metric(name, regex, False, False)


def test_a_real_client_library_s_server(scraper: Scraper) -> None:
    registry = CollectorRegistry()
    Counter("jobs", "Jobs.", ["queue"], registry=registry).labels("mail").inc(3)
    Histogram("latency_seconds", "Latency.", buckets=(1,), registry=registry).observe(0.5)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        answer = scraper.ask(request(server.server_port))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert answer.faults == ()
    found = {series: (column, value) for series, column, value in answer.series}
    assert found['jobs_total{queue="mail"}'] == (Column.COUNTER, 3.0)
    assert found['latency_seconds_bucket{le="1.0"}'] == (Column.HISTOGRAM, 1.0)
    assert found["latency_seconds_sum"] == (Column.HISTOGRAM, 0.5)


def test_what_is_asked(scraper: Scraper, endpoint: Endpoint) -> None:
    endpoint.says = http(b"a 1\n")
    assert scraper.ask(request(endpoint.port)) == Answer((("a", Column.GAUGE, 1.0),))
    head = endpoint.requests[0].decode().split("\r\n")
    assert head[0] == "GET /metrics HTTP/1.1"
    assert f"Host: 127.0.0.1:{endpoint.port}" in head
    assert "Accept-Encoding: identity" in head


def test_expressions(scraper: Scraper, endpoint: Endpoint) -> None:
    endpoint.says = http(b"Active connections: 17\nload 0.25 big 99999999999999999999 word x\n")
    answer = scraper.ask(
        request(
            endpoint.port,
            Metric("connections", r"connections: (\d+)", False, True),
            Metric("handled", r"connections: (\d+)", True, True),
            Metric("handled_f", r"connections: (\d+)", True, False),
            gauge("load one", r"load ([\d.]+)"),
        )
    )
    assert answer.faults == ()
    assert answer.series == (
        ("connections", Column.INTEGER_GAUGE, 17),
        ("handled", Column.INTEGER_COUNTER, 17),
        ("handled_f", Column.COUNTER, 17.0),
        ("load_one", Column.GAUGE, 0.25),
    )


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        (gauge("a", r"(never)"), "finds nothing"),
        (gauge("a", r"load"), "0 groups"),
        (gauge("a", r"(l)(o)"), "2 groups"),
        (gauge("a", r"("), "its expression is none"),
        (gauge("a", r"(x)?load"), "finds nothing"),
        (gauge("a", r"word (\w)"), "no number"),
        (Metric("a", r"big (\d+)", False, True), "no number"),
        (gauge("", r"load (\S+)"), "name is none"),
    ],
)
def test_an_expression_that_finds_no_value_leaves_the_others_alone(
    scraper: Scraper, endpoint: Endpoint, metric: Metric, why: str
) -> None:
    endpoint.says = http(b"load 0.25 big 99999999999999999999 word x\n")
    answer = scraper.ask(request(endpoint.port, metric, gauge("fine", r"load (\S+)")))
    assert answer.series == (("fine", Column.GAUGE, 0.25),)
    assert answer.faults[0].startswith("metrics_config[0]: ")
    assert why in answer.faults[0]


def test_a_redirect_is_not_followed(scraper: Scraper, endpoint: Endpoint) -> None:
    other = Endpoint(http(b"stolen 1\n"))
    try:
        for status in ("301 Moved", "302 Found", "307 Temporary", "308 Permanent"):
            endpoint.says = http(b"a 1\n", status, f"Location: http://127.0.0.1:{other.port}/latest/meta-data")
            answer = scraper.ask(request(endpoint.port))
            assert answer.series == ()
            assert "redirect" in answer.faults[0]
        assert other.requests == []
    finally:
        other.close()


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (http(b"a 1\n", "404 Not Found"), "HTTP 404"),
        (http(b"", "204 No Content"), "HTTP 204"),
        (http(gzip.compress(b"a 1\n" * 1_000_000), "200 OK", "Content-Encoding: gzip"), "compressed"),
        (http(b"<html><body>Hello\x1b[2J</body></html>\n"), "line 1 is none"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\na 1\n", "cut short"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\na 1\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\na 1\nb 2", "cut off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + b"#" * 2_000_000, "longer than 1048576"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n" + b"#" * 2_000_000, "longer than 1048576"),
        (b"", "no HTTP"),
    ],
    ids=[
        "404",
        "204",
        "gzip",
        "html",
        "ssh",
        "many headers",
        "long header",
        "short",
        "short chunk",
        "cut",
        "long",
        "long chunk",
        "nothing",
    ],
)
def test_an_answer_that_is_not_taken(scraper: Scraper, endpoint: Endpoint, says: bytes, why: str) -> None:
    endpoint.says = says
    answer = scraper.ask(request(endpoint.port))
    assert answer.series == ()
    assert why in answer.faults[0]
    assert "\x1b" not in answer.faults[0]


def test_nobody_there(scraper: Scraper, endpoint: Endpoint) -> None:
    endpoint.close()
    answer = scraper.ask(request(endpoint.port))
    assert "cannot be reached" in answer.faults[0]
    endpoint._socket = socket.create_server(("127.0.0.1", 0))  # for the fixture to close


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not STOP.is_set():
        connection.sendall(b"# " + b"x" * 60_000 + b"\n")


def dripping(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not STOP.wait(0.01):
        connection.sendall(b"#")


def continuing(connection: socket.socket) -> None:
    while not STOP.wait(0.001):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def silent(connection: socket.socket) -> None:
    STOP.wait(60)


def test_an_endless_answer_ends_at_the_size(scraper: Scraper, endpoint: Endpoint) -> None:
    endpoint.says = endless
    assert "longer than 1048576 bytes" in scraper.ask(request(endpoint.port)).faults[0]


@pytest.mark.parametrize("says", [dripping, continuing, silent])
def test_a_slow_answer_ends_at_the_time(scraper: Scraper, endpoint: Endpoint, says: object) -> None:
    endpoint.says = says  # type: ignore[assignment]
    assert scraper.ask(request(endpoint.port, timeout_s=0.3)).faults[0] in (
        "it took longer than 0.3 s",
        "it cannot be reached: TimeoutError",
    )


@pytest.mark.parametrize("regex", [r"(a|a)*$x()", r"((?:a*)*)b", r"(?:a+)+(c)", r"^(?:(?:a?){40}){40}(c)$"])
def test_an_expression_that_never_ends_is_stopped_at_its_cpu_time(scraper: Scraper, endpoint: Endpoint, regex: str) -> None:
    endpoint.says = http(b"a" * 5000)
    expression = regex.replace("(a|a)*$x()", "(?:a|a)*x()")
    answer = scraper.ask(request(endpoint.port, gauge("a", expression), cpu_s=0.2))
    assert answer == Answer(faults=("its answer or expressions took more than 0.2 s of CPU time",))
    endpoint.says = http(b"a 1\n")
    assert scraper.ask(request(endpoint.port)).series == (("a", Column.GAUGE, 1.0),)


def test_what_does_not_heed_the_timer_is_ended_by_the_kernel() -> None:
    code = (
        "import signal, sys, time\n"
        "from types import SimpleNamespace\n"
        "from tidegauge.collectors.app import scrape\n"
        "def now(): return time.clock_gettime(scrape._TICKS_CLOCK)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPROF})\n"
        "with scrape._bounded(SimpleNamespace(timeout_s=1000.0, cpu_s=0.1)):\n"
        "    pass\n"
        "begun_s = now()\n"
        "while now() < begun_s + 1.5: pass  # what comes after is not counted\n"
        "with scrape._bounded(SimpleNamespace(timeout_s=1000.0, cpu_s=0.1)):\n"
        "    begun_s = told_s = now()\n"
        "    while True:\n"
        "        if (now_s := now()) > told_s + 0.01:\n"
        "            told_s = now_s\n"
        "            print(now_s - begun_s, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False, timeout=300)
    assert done.returncode == -signal.SIGXCPU
    assert 0.1 < float(done.stdout.split()[-1]) < 1.6


def test_an_expression_that_wants_all_memory_does_not_get_it(scraper: Scraper, endpoint: Endpoint) -> None:
    endpoint.says = http(b"a" * 500_000)
    wild = gauge("a", "(?:" * 30 + "a" + "){0,60000}" * 30 + "(b)")
    assert answered(scraper, request(endpoint.port, wild, cpu_s=1.0)) == ()
    endpoint.says = http(b"a 1\n")
    assert scraper.ask(request(endpoint.port)).series == (("a", Column.GAUGE, 1.0),)


def test_a_million_metrics_are_cut_and_counted(scraper: Scraper, endpoint: Endpoint) -> None:
    body = b"".join(b"m%d 1\n" % i for i in range(1_000_000))
    endpoint.says = http(body)
    assert "longer than" in scraper.ask(request(endpoint.port)).faults[0]
    answer = scraper.ask(request(endpoint.port, limit_bytes=1 << 24, timeout_s=60.0, cpu_s=30.0))
    assert answer.faults == ()
    assert [s for s, _, _ in answer.series] == [f"m{i}" for i in range(100)]
    assert answer.left_out == 999_900


def test_nothing_in_labels_breaks_the_form(scraper: Scraper, endpoint: Endpoint) -> None:
    lines = [
        rb'a{l="1\n# TYPE up gauge\nup 0"} 1',
        b'a{l="\x1b[31m\x00\xff"} 2',
        b'a{l="\xe2\x80\xae"} 3',
        rb'{"b\"} 1\nc",l="x"} 4',
    ]
    endpoint.says = http(b"\n".join(lines) + b"\n")
    answer = scraper.ask(request(endpoint.port))
    assert [series for series, _, _ in answer.series] == [
        r'a{l="1\n# TYPE up gauge\nup 0"}',
        'a{l="\ufffd[31m\ufffd\ufffd"}',
        'a{l="\ufffd"}',
        'b___1_c{l="x"}',
    ]
    assert split_series(answer.series[0][0]) == ("a", {"l": "1\n# TYPE up gauge\nup 0"})


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that vouches for itself, and its key."""
    need(shutil.which("openssl"), "openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=tidegauge-test"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return folder / "cert", folder / "key"


def test_tls_is_verified(scraper: Scraper, certificate: tuple[Path, Path]) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    endpoint = Endpoint(http(b"a 1\n"), tls)
    try:
        target = Target(True, "127.0.0.1", endpoint.port, "/")
        untrusted = scraper.ask(request(endpoint.port, target=target))
        assert (untrusted.series, untrusted.faults[0][:29]) == ((), "its certificate is not truste")
        pem = certificate[0].read_text()
        assert scraper.ask(request(endpoint.port, target=target, certificates=pem)).series == (("a", Column.GAUGE, 1.0),)
        elsewhere = msgspec.structs.replace(target, address="127.0.0.2")
        assert scraper.ask(request(endpoint.port, target=elsewhere, certificates=pem)).series == ()
    finally:
        endpoint.close()


@pytest.mark.integration
def test_the_process_has_no_rights(scraper: Scraper, endpoint: Endpoint) -> None:
    need(os.geteuid() == 0, "only root has rights to give up")
    endpoint.says = http(b"a 1\n")
    scraper.ask(request(endpoint.port))
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{scraper.pid}/status").read_text().splitlines())
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65534"}
    assert status["Groups"].split() == []
    assert {status[key] for key in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"


@pytest.mark.integration
def test_root_that_may_not_become_another_scrapes_as_it_is(endpoint: Endpoint) -> None:
    need(os.geteuid() == 0, "only root has rights to lose")
    need(shutil.which("setpriv"), "setpriv (util-linux) is not installed")
    endpoint.says = http(b"a 1\n")
    payload = msgspec.msgpack.encode(request(endpoint.port))
    command = ["setpriv", "--bounding-set=-setuid,-setgid", sys.executable, "-m", "tidegauge.collectors.app.scrape"]
    done = subprocess.run(command, input=LENGTH.pack(len(payload)) + payload, capture_output=True, timeout=60, check=True)
    answer = msgspec.msgpack.decode(done.stdout[LENGTH.size :], type=Answer)
    assert answer.series == (("a", Column.GAUGE, 1.0),)


def test_a_process_that_dies_is_replaced(scraper: Scraper, endpoint: Endpoint) -> None:
    endpoint.says = http(b"a 1\n")
    scraper.ask(request(endpoint.port))
    pid = scraper.pid
    assert pid is not None
    os.kill(pid, 9)
    # it may be seen to be dead before, or only when it does not answer
    found = answered(scraper, request(endpoint.port)) or answered(scraper, request(endpoint.port))
    assert found == (("a", Column.GAUGE, 1.0),)
    assert scraper.pid != pid

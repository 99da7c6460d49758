"""Connections: what is sent, what is refused, and that nothing is waited for without end."""

import base64
import contextlib
import hashlib
import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.client.serving import Request, Server, answer, chunk, read_request

from tidegauge.client import AnswerTooLarge, Client, ClientError, ConnectionFailed, HttpError, TimedOut, WrongAnswer, transport

_MACHINE = b'{"num_cores":2}'


def test_the_client_brings_nothing_of_ours_along() -> None:
    code = (
        "import sys, tidegauge.client; print([m for m in sys.modules if m.startswith('tidegauge.') "
        "and not m.startswith('tidegauge.client')], [m for m in ('starlette', 'sqlalchemy', 'psutil') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n")[0] == "[] []"


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("ftp://here", {}, "url: expected http"),
        ("here:4194", {}, "url: expected http"),
        ("http://u:p@here", {}, "expected no user"),
        ("http://here/?a=b", {}, "expected no user, query"),
        ("http://here", {"timeout_s": 0}, "above 0"),
        ("http://here", {"retries": -1}, "from 0"),
        ("http://here", {"token": "a\r\nb"}, "token: expected printable"),
        ("http://here", {"token": "t", "basic": ("u", "p")}, "one kind of credential, got token and basic"),
        ("http://here", {"basic": ("u:v", "p")}, "basic: expected a user without colon"),
        ("http://here", {"digest": ("u", "p\n")}, "digest: expected"),
        ("https://here", {"unix_socket": "/run/x"}, "unix_socket: expected an http URL"),
        ("https://here", {"ca_file": "/does/not/exist"}, "No such file"),
    ],
)
def test_what_cannot_be_is_refused_at_once(url: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        Client(url, **options)
    assert "p@here" not in str(caught.value)


def test_a_name_is_escaped_and_a_prefix_kept() -> None:
    with Server(answer(b'{"name":"x"}')) as server, Client(server.url + "/behind/") as client:
        client.container_info("/machine.slice/machine-qemu\\x2d1.scope/ä b?#%41")
        assert server.requests[0].target == (
            "/behind/api/v1.3/containers/machine.slice/machine-qemu%5Cx2d1.scope/%C3%A4%20b%3F%23%2541"
        )
        for name in ("/a/../b", "/a/./b", ".."):
            with pytest.raises(ValueError, match="name: expected"):
                client.container_info(name)


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for client in (Client(f"http://127.0.0.1:{port}"), Client(unix_socket=tmp_path / "none")):
        with pytest.raises(ConnectionFailed) as caught:
            client.machine_info()
        assert caught.value.url.endswith("/api/v1.3/machine")


def test_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Server(answer(_MACHINE), family=socket.AF_UNIX, path=str(path)) as server, Client(unix_socket=path) as client:
        assert client.machine_info().num_cores == 2
    assert server.requests[0].headers["host"] == "localhost:4194"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_leads_nowhere(status: int) -> None:
    with Server(answer(_MACHINE)) as elsewhere:
        script = answer(b"", f"{status} Moved", f"Location: {elsewhere.url}/api/v1.3/machine")
        with Server(script) as server, Client(server.url, token="secret") as client, pytest.raises(HttpError) as caught:
            client.machine_info()
    assert caught.value.status == status
    assert elsewhere.url in str(caught.value)
    assert elsewhere.requests == []
    assert len(server.requests) == 1


def test_an_answer_over_the_limit() -> None:
    with Server(answer(b'{"machine_id":"' + b"x" * 300_000 + b'"}')) as server:
        with Client(server.url, limit_bytes=200_000) as client, pytest.raises(AnswerTooLarge):
            client.machine_info()
        with Client(server.url) as client:
            assert len(client.machine_info().machine_id) == 300_000


def test_silence_is_waited_for_so_long() -> None:
    done = threading.Event()

    def silent(connection: socket.socket, request: Request) -> None:
        assert done.wait(60)

    def slow(connection: socket.socket, request: Request) -> None:
        # each byte is in time, the whole is not
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        with contextlib.suppress(OSError):
            while not done.wait(0.01):
                connection.sendall(b" ")

    for script in (silent, slow):
        done.clear()
        with Server(script) as server, Client(server.url, timeout_s=0.1) as client:
            with pytest.raises(TimedOut, match="within"):
                client.machine_info()
            done.set()


def _sends(data: bytes) -> Any:
    return lambda connection, request: connection.sendall(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x16\x03\x01 not HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b'{"num_cores"'),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
    ],
)
def test_an_answer_that_breaks_off_or_is_none(data: bytes) -> None:
    with Server(_sends(data)) as server, Client(server.url) as client, pytest.raises(ConnectionFailed):
        client.machine_info()


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"", ""),
        (b"<html>", ""),
        (b"[]", "$"),
        (b'{"num_cores":"two"}', "$.num_cores"),
        (b'{"topology":[{},{"memory":[]}]}', "$.topology[1].memory"),
        (b'{"machine_id":"\xff"}', ""),
        (b"[" * 100_000, ""),
    ],
)
def test_a_wrong_answer_names_url_and_field(body: bytes, path: str) -> None:
    with Server(answer(body)) as server, Client(server.url) as client, pytest.raises(WrongAnswer) as caught:
        client.machine_info()
    assert caught.value.url == f"{server.url}/api/v1.3/machine"
    assert str(caught.value).startswith(caught.value.url)
    assert caught.value.path == path


def test_docker_container_wants_one() -> None:
    with Server(answer(b"{}")) as server, Client(server.url) as client, pytest.raises(WrongAnswer, match="expected one"):
        client.docker_container("web")


def test_nothing_is_repeated_unless_asked() -> None:
    busy = answer(b"later", "503 Busy")
    with Server(busy, answer(_MACHINE)) as server, Client(server.url) as client:
        with pytest.raises(HttpError, match="HTTP 503: later"):
            client.machine_info()
        assert len(server.requests) == 1
    with Server(_sends(b""), busy, answer(_MACHINE)) as server, Client(server.url, retries=2) as client:
        assert client.machine_info().num_cores == 2
        assert len(server.requests) == 3
    with Server(answer(b"no", "404 None"), answer(_MACHINE)) as server, Client(server.url, retries=2) as client:
        with pytest.raises(HttpError, match="404"):
            client.machine_info()
        assert len(server.requests) == 1


def test_connections_are_kept_and_one_that_was_idle_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(_MACHINE), _MACHINE)
    served: list[int] = []

    def keeps(connection: socket.socket, request: Request | None) -> None:
        served.append(0)
        while request is not None:
            served[-1] += 1
            connection.sendall(head)
            request = read_request(connection)

    monkeypatch.setattr(transport, "_IDLE_S", 1000.0)
    with Server(keeps) as server, Client(server.url) as client:
        client.machine_info()
        client.machine_info()
        assert served == [2]
        monkeypatch.setattr(transport, "_IDLE_S", 0.0)
        client.machine_info()
        assert served == [2, 1]


def test_many_threads_share_a_client() -> None:
    with Server(answer(_MACHINE)) as server, Client(server.url) as client, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: client.machine_info().num_cores, range(200)))
    assert found == [2] * 200


def test_token_and_basic() -> None:
    with Server(answer(_MACHINE)) as server:
        with Client(server.url, token="abc") as client:
            client.machine_info()
        with Client(server.url, basic=("jürgen", "päss:wörd")) as client:
            client.machine_info()
        with Client(server.url) as client:
            client.machine_info()
    sent = [r.headers.get("authorization") for r in server.requests]
    assert sent == ["Bearer abc", "Basic " + base64.b64encode("jürgen:päss:wörd".encode()).decode(), None]


class _DigestServer:
    """Written from RFC 7616, section 3.4, for the user `Mufasa` of its examples."""

    def __init__(self, algorithm: str, uses: int) -> None:
        self._hash = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}[algorithm]
        self._algorithm = algorithm
        self._uses = uses
        self.challenges = 0
        self.right = 0
        self._counts: set[str] = set()

    def __call__(self, connection: socket.socket, request: Request) -> None:
        given = dict(re.findall(r'(\w+)="?([^",]*)"?', request.headers.get("authorization", "").removeprefix("Digest ")))
        nonce = f"nonce-{self.challenges}"
        if given.get("nonce") == nonce and self._is_right(given, request) and len(self._counts) < self._uses:
            assert given["nc"] not in self._counts
            self._counts.add(given["nc"])
            self.right += 1
            answer(_MACHINE)(connection, request)
            return
        self.challenges += 1
        self._counts = set()
        lines = [
            'WWW-Authenticate: Basic realm="api, v1", Digest realm="nobody", qop="auth-int", nonce="x"',
            f'WWW-Authenticate: Digest realm="api@example.org", qop="auth, auth-int", algorithm={self._algorithm}, '
            f'nonce="nonce-{self.challenges}", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"',
        ]
        answer(b"who are you", "401 Unauthorized", *lines)(connection, request)

    def _is_right(self, given: dict[str, str], request: Request) -> bool:
        h = lambda text: self._hash(text.encode()).hexdigest()  # noqa: E731
        ha1 = h("Mufasa:api@example.org:Circle of Life")
        ha2 = h(f"{request.method}:{request.target}")
        parts = (ha1, given["nonce"], given["nc"], given["cnonce"], given["qop"], ha2)
        return given["uri"] == request.target and given["response"] == h(":".join(parts))


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
def test_digest(algorithm: str) -> None:
    checks = _DigestServer(algorithm, uses=3)
    with Server(checks) as server:
        with Client(server.url, digest=("Mufasa", "Circle of Life")) as client:
            for _ in range(7):
                assert client.machine_info().num_cores == 2
            assert (checks.challenges, checks.right) == (3, 7)
            client.container_info("/a b", None)
        with Client(server.url, digest=("Mufasa", "wrong")) as client, pytest.raises(HttpError, match="401: who are you"):
            client.machine_info()


def test_no_error_tells_a_credential() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    for options in ({"token": "hushhush"}, {"basic": ("u", "hushhush")}, {"digest": ("u", "hushhush")}):
        client = Client(url, **options)  # type: ignore[arg-type]
        with pytest.raises(ClientError) as caught:
            client.machine_info()
        assert "hushhush" not in f"{caught.value!r} {client!r} {vars(client)!r}"

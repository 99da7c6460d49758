"""Clients that mean no good, against every route there is."""

import base64
import hashlib
import logging
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from tests.api.access import PASSWORD, TOKEN, USER, Listener, exchange, get, listening, receive, secret

from tidegauge.api import http_server
from tidegauge.api.guard import OPEN_PATHS
from tidegauge.pipeline.config import HttpConfig

SHA = "{SHA}" + base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()
HA1 = hashlib.md5(f"{USER}:localhost:{PASSWORD}".encode()).hexdigest()
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")


def _config(folder: Path, **more: object) -> HttpConfig:
    return HttpConfig(
        auth_file=secret(folder / "htpasswd", f"{USER}:{SHA}\n"),
        digest_file=secret(folder / "htdigest", f"{USER}:localhost:{HA1}\n"),
        token_file=secret(folder / "tokens", TOKEN + "\n"),
        debug=True,
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    folder = tmp_path_factory.mktemp("listener")
    with listening(_config(folder, max_connections=64), folder) as found:
        yield found


@pytest.fixture(autouse=True)
def unpunished(listener: Listener) -> None:
    listener.guard._authenticator.failures._by_address.clear()


def paths(listener: Listener) -> list[str]:
    """A path for every route, and some that no route has."""
    app = listener.guard._app
    assert isinstance(app, Starlette)
    found = [re.sub(r"\{[^}]*\}", "a", path) for path in _paths(app.routes, "")]
    assert len(found) >= 10
    return [
        *found,
        "/nothing",
        "/api",
        "/healthz/",
        "//healthz",
        "/healthz/x",
        "/healthz;x",
        "/HEALTHZ",
        "/./healthz",
        "/x/../healthz",
    ]


def _paths(routes: object, prefix: str) -> Iterator[str]:
    for route in routes:  # type: ignore[attr-defined]
        if isinstance(route, Mount):
            yield prefix + route.path + "/"
            yield from _paths(route.routes, prefix + route.path)
        else:
            assert isinstance(route, Route), f"{route}: a kind of route that this test does not know"
            yield prefix + route.path


WRONG = {
    "none": (),
    "empty": ("Authorization: ",),
    "unknown kind": ("Authorization: Negotiate abc",),
    "basic, wrong": ("Authorization: Basic YWxpY2U6d3Jvbmc=",),
    "basic, no colon": ("Authorization: Basic YWxpY2U=",),
    "basic, not base64": ("Authorization: Basic %%%",),
    "basic, the hash as password": ("Authorization: Basic " + base64.b64encode(f"{USER}:{SHA}".encode()).decode(),),
    "bearer, wrong": (f"Authorization: Bearer {TOKEN}x",),
    "bearer, cut": (f"Authorization: Bearer {TOKEN[:-1]}",),
    "bearer, empty": ("Authorization: Bearer ",),
    "digest, empty": ("Authorization: Digest ",),
    "digest, made up": (f'Authorization: Digest username="{USER}", realm="localhost", nonce="", uri="/", response="{HA1}"',),
    "two headers": (f"Authorization: Bearer {TOKEN}", "Authorization: Bearer x"),
    "another header": (f"Proxy-Authorization: Bearer {TOKEN}", f"X-Authorization: Bearer {TOKEN}"),
    "a cookie": (f"Cookie: token={TOKEN}",),
    "who says it comes from elsewhere": ("X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1", "Forwarded: for=127.0.0.1"),
    "who says it was rewritten": ("X-Original-URL: /healthz", "X-Rewrite-URL: /healthz"),
}


@pytest.mark.parametrize("why", WRONG)
def test_no_route_is_open_without_the_right_credential(listener: Listener, why: str) -> None:
    for path in paths(listener):
        for method in METHODS if why == "none" else ("GET",):
            listener.guard._authenticator.failures._by_address.clear()
            status, answer = get(listener, path, *WRONG[why], method=method)
            if path in OPEN_PATHS:
                assert status == {"GET": 200, "HEAD": 200}.get(method, 405), (method, path)
            elif method in ("GET", "HEAD", "POST"):
                assert status == 401, (method, path, answer)
                assert answer.lower().count(b"www-authenticate: ") == 3
            else:
                assert status == 405, (method, path)


def test_every_route_answers_who_has_a_credential(listener: Listener) -> None:
    for path in paths(listener):
        if path != "/debug/profile":
            assert get(listener, path, f"Authorization: Bearer {TOKEN}")[0] not in (0, 401, 403, 429, 500), path


def test_a_prefix_opens_nothing_and_redirects_lead_behind_it(tmp_path: Path) -> None:
    with listening(_config(tmp_path, url_base_prefix="/cadvisor"), tmp_path) as found:
        assert get(found, "/cadvisor/healthz")[0] == 200
        for path in ("/cadvisor/metrics", "/cadvisor", "/cadvisor/x/../healthz", "/cadvisor/cadvisor/healthz", "/metrics"):
            assert get(found, path)[0] == 401, path
        bearer = f"Authorization: Bearer {TOKEN}"
        assert get(found, "/cadvisor/metrics", bearer)[0] == get(found, "/metrics", bearer)[0] == 200
        status, answer = get(found, "/cadvisor/api", bearer)
        assert (status, b"\r\nlocation: /cadvisor/api/\r\n" in answer) == (301, True)
        client = Client(found)
        assert get(found, "/cadvisor/metrics", client.header(uri="/cadvisor/metrics"))[0] == 200, (
            "a digest is over what was sent"
        )


def test_a_token_in_the_address_does_not_count(listener: Listener) -> None:
    for query in (f"token={TOKEN}", f"access_token={TOKEN}", f"api_key={TOKEN}"):
        assert get(listener, f"/metrics?{query}")[0] == 401


def test_without_credentials_configured_loopback_sees_no_secrets(tmp_path: Path) -> None:
    with listening(HttpConfig(debug=True), tmp_path) as plain:
        assert get(plain, "/api/v1/status", f"Authorization: Bearer {TOKEN}")[0] == 200
        for path in (
            "/api/v1/processes?path=/",
            "/api/v1/dead-letters/sql/list",
            "/debug/threads",
            "/debug/heap",
            "/debug/profile",
        ):
            status, answer = get(plain, path, f"Authorization: Bearer {TOKEN}")
            assert status == 403, path
            assert b"only over the Unix socket, or with a credential" in answer
        assert get(plain, "/api/v1/dead-letters/sql/replay", method="POST")[0] == 403
        assert (plain.view.done, plain.view.asked) == ([], [])
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(plain.socket_path)), timeout=60) as local:
            assert local.get("http://localhost/debug/threads").status_code == 200
            assert local.post("http://localhost/api/v1/dead-letters/sql/replay").status_code == 200


def test_what_is_wrong_is_not_told_to_who_shows_no_credential(tmp_path: Path) -> None:
    with listening(_config(tmp_path), tmp_path) as found:
        found.view.wrong = ["sink customers: its thread has ended"]
        status, answer = get(found, "/healthz")
        assert (status, answer.endswith(b"\r\n\r\nnot well\n")) == (503, True)
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(found.socket_path)), timeout=60) as local:
            assert local.get("http://localhost/healthz").text == "sink customers: its thread has ended\n"
    with listening(HttpConfig(), tmp_path) as plain:
        plain.view.wrong = ["sink customers: its thread has ended"]
        assert get(plain, "/healthz")[1].endswith(b"\r\n\r\nsink customers: its thread has ended\n")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:4194",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "evil.example#localhost",
        "",
        " ",
        "local host",
        "localhost,evil.example",
        "localhost:80:80",
        "[::1",
        "0x7f.1.evil",
        "\xe9vil",
    ],
)
def test_a_web_page_cannot_reach_it_under_its_own_name(listener: Listener, host: str) -> None:
    request = f"GET /metrics HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    answer = exchange(listener, request.encode("latin-1"))
    assert answer.split()[1] in (b"400", b"403"), answer


def test_a_foreign_page_cannot_use_the_password_that_a_browser_remembers(listener: Listener) -> None:
    for origin in ("http://evil.example", "null", "https://localhost.evil.example", "http://localhost:1"):
        status, _ = get(
            listener, "/api/v1/dead-letters/sql/replay", f"Authorization: Bearer {TOKEN}", f"Origin: {origin}", method="POST"
        )
        assert status == 403
    assert ("sql", "replay") not in listener.view.done


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/static/../../etc/passwd",
        "/debug/../../../etc/passwd",
        "/api/v1/dead-letters/..%2f..%2fetc/list",
        "/api/v1/dead-letters/%00/list",
        "/etc/passwd",
        "//etc/passwd",
        "/\\..\\..\\etc\\passwd",
        "/%5c..%5cetc",
        "/.%00./etc/passwd",
        "http://evil.example/etc/passwd",
        "file:///etc/passwd",
    ],
)
def test_no_path_leads_to_a_file(listener: Listener, path: str) -> None:
    status, answer = get(listener, path, f"Authorization: Bearer {TOKEN}")
    assert b"root:" not in answer
    if status == 301:  # the API of cAdvisor tells the path without its dots, as cAdvisor does
        assert re.search(rb"(?i)\r\nlocation: /[^/]", answer)
    else:
        assert status in (400, 403, 404) or (status == 200 and answer.endswith(b"{}")), answer


def test_nothing_that_is_sent_becomes_a_header(listener: Listener) -> None:
    for path in (
        "/nothing%0d%0aSet-Cookie:%20a=b",
        "/api/v1/processes?path=%0d%0aSet-Cookie:%20a=b",
        "/validate%0d%0aSet-Cookie:%20a=b",
    ):
        for way in ((f"Authorization: Bearer {TOKEN}",), (), ("Origin: http://x%0d%0aSet-Cookie: a=b",)):
            _, answer = get(listener, path, *way)
            head, _, _ = answer.partition(b"\r\n\r\n")
            assert b"set-cookie" not in head.lower()


class Client:
    """Digest by hand, so that each part can be wrong."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        challenge = get(listener, "/metrics")[1].decode()
        line = next(line for line in challenge.splitlines() if line.lower().startswith("www-authenticate: digest"))
        self.nonce = re.search(r'nonce="([^"]+)"', line)[1]  # type: ignore[index]
        self.opaque = re.search(r'opaque="([^"]+)"', line)[1]  # type: ignore[index]

    def header(self, uri: str = "/metrics", count: str = "00000001", method: str = "GET") -> str:
        ha2 = hashlib.md5(f"{method}:{uri}".encode()).hexdigest()
        response = hashlib.md5(f"{HA1}:{self.nonce}:{count}:abc:auth:{ha2}".encode()).hexdigest()
        return (
            f'Authorization: Digest username="{USER}", realm="localhost", nonce="{self.nonce}", uri="{uri}", qop=auth, '
            f'nc={count}, cnonce="abc", opaque="{self.opaque}", response="{response}"'
        )


def test_a_replayed_digest_is_refused(listener: Listener) -> None:
    client = Client(listener)
    assert get(listener, "/metrics", client.header())[0] == 200
    for _ in range(3):
        status, answer = get(listener, "/metrics", client.header())
        assert (status, b"stale=true" in answer) == (401, True)
    assert get(listener, "/metrics", client.header(count="00000002"))[0] == 200


def test_a_digest_of_another_request_is_refused(listener: Listener) -> None:
    client = Client(listener)
    assert get(listener, "/api/v1/status", client.header())[0] == 401
    assert get(listener, "/metrics?a=1", client.header())[0] == 401
    assert get(listener, "/metrics", client.header(), method="POST")[0] == 401
    assert get(listener, "/metrics", client.header(uri="/metrics#a"))[0] == 401
    for count in ("00000000", "1", "0000000g", "000000001", ""):
        assert get(listener, "/metrics", client.header(count=count))[0] == 401
    assert get(listener, "/metrics", client.header())[0] == 200, "and the count is not used up"


def test_a_digest_with_an_expired_nonce_is_refused_as_stale(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(listener)
    monkeypatch.setattr("tidegauge.api.auth_digest.NONCE_LASTS_S", -1.0)
    status, answer = get(listener, "/metrics", client.header())
    assert (status, b"stale=true" in answer) == (401, True)


def test_no_secret_stands_in_the_log_or_in_an_answer(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("uvicorn.error").setLevel(logging.DEBUG)
    try:
        client = Client(listener)
        wrong = "sup3rSecretGuess"
        pair = base64.b64encode(f"{USER}:{wrong}".encode()).decode()
        secrets = [wrong, pair, PASSWORD, TOKEN, SHA, HA1, client.nonce, f"{wrong}-token"]
        answers = []
        for _ in range(15):
            for header in (f"Basic {pair}", f"Bearer {wrong}-token"):
                answers.append(get(listener, f"/metrics?password={wrong}", f"Authorization: {header}")[1])
        listener.guard._authenticator.failures._by_address.clear()
        answers.append(get(listener, "/metrics", client.header())[1])
        answers.append(get(listener, "/api/v1/status", f"Authorization: Bearer {TOKEN}")[1])
        answers.append(exchange(listener, f"GET / HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nbroken\r\n\r\n".encode()))
    finally:
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    # pytest listens to loggers that hand nothing on; the program has no log of requests (tests/e2e/test_access.py)
    logged = "\n".join(r.getMessage() for r in caplog.records if r.name != "uvicorn.access")
    assert "sends wrong credentials" in logged
    for each in secrets:
        assert each not in logged
        assert not any(each.encode() in answer for answer in answers)


_WORD = st.text(alphabet=st.characters(max_codepoint=255), max_size=30).map(lambda t: t.encode("latin-1"))
_MALFORMED = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda method, target, version, headers, body: (
            b"%s %s %s\r\n%s\r\n%s"
            % (
                method,
                target,
                version,
                b"".join(b"%s: %s\r\n" % h for h in headers),
                body,
            )
        ),
        st.sampled_from([b"GET", b"POST", b"HEAD", b"get", b"", b"PRI", b"G\0T"]),
        st.one_of(
            _WORD,
            st.sampled_from([b"/metrics", b"*", b"http://localhost/metrics", b"//x", b"/\xff", b"/%ff%00", b"/" + b"a" * 9000]),
        ),
        st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"", b"HTTP/1.1 x"]),
        st.lists(
            st.tuples(
                st.one_of(
                    _WORD,
                    st.sampled_from(
                        [
                            b"Host",
                            b"Content-Length",
                            b"Transfer-Encoding",
                            b"Authorization",
                            b"Connection",
                            b"Expect",
                            b"Upgrade",
                            b"Range",
                        ]
                    ),
                ),
                st.one_of(
                    _WORD,
                    st.sampled_from(
                        [
                            b"localhost",
                            b"-1",
                            b"99999999999999999999",
                            b"chunked",
                            b"gzip, chunked",
                            b"Basic " + b"A" * 5000,
                            b"Digest nc=1",
                            b"close",
                            b"100-continue",
                            b"websocket",
                        ]
                    ),
                ),
            ),
            max_size=8,
        ),
        st.one_of(
            st.binary(max_size=100), st.sampled_from([b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"-1\r\n", b"1;" + b"x" * 500])
        ),
    ),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(_MALFORMED)
def test_no_bytes_let_anybody_in_or_break_the_listener(listener: Listener, request: bytes) -> None:
    listener.guard._authenticator.failures._by_address.clear()
    with listener.connect() as client:
        try:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        answer = receive(client)
    for status in re.findall(rb"HTTP/1\.1 (\d+)", answer):
        assert status[:1] == b"4" or status == b"503", (request, answer)
    assert b"tidegauge_" not in answer


def test_it_still_answers_after_all_that(listener: Listener) -> None:
    assert get(listener, "/metrics", f"Authorization: Bearer {TOKEN}")[0] == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /api/v1/dead-letters/a/replay HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /api/v1/dead-letters/a/replay HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: 5\r\n"
        b"Content-Length: 6\r\n\r\nabcdeGET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n"
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
)
def test_a_second_request_on_a_connection_has_no_credential_of_the_first(listener: Listener, request_bytes: bytes) -> None:
    with listener.connect() as client:
        client.sendall(request_bytes.replace(b"%s", TOKEN.encode()))
        client.shutdown(socket.SHUT_WR)
        answer = receive(client)
    assert b"tidegauge_http_refused_total" not in answer


def test_slow_clients_are_let_go_and_others_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEADER_TIMEOUT_S", 3.0)  # what is asked here needs less on any machine
    with listening(_config(tmp_path), tmp_path) as found:
        slow = [found.connect() for _ in range(40)]
        try:
            for i, client in enumerate(slow):
                client.sendall((b"GET / HTTP/1.1\r\nHost: loc", b"GET / HTTP/1.1\r\nX-a: b\r\n", b"", b"P")[i % 4])
            assert get(found, "/metrics", f"Authorization: Bearer {TOKEN}")[0] == 200
            for client in slow:
                client.settimeout(60)
                assert b" 200 " not in receive(client)
        finally:
            for client in slow:
                client.close()


def test_five_hundred_idle_connections_do_no_harm(tmp_path: Path) -> None:
    """More than there may be: the oldest make room, and who asks is answered at once each time."""
    with listening(_config(tmp_path, max_connections=200), tmp_path) as found:
        idle = [found.connect() for _ in range(500)]
        try:
            for _ in range(10):
                assert get(found, "/metrics", f"Authorization: Bearer {TOKEN}")[0] == 200
            held = len([fd for fd in os.listdir("/proc/self/fd") if _is_of(fd, found.address)])
            assert held <= 500 + 200 + 10, "the server holds no more than it may, beside this test's own ends"
            with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(found.socket_path)), timeout=60) as local:
                assert local.get("http://localhost/metrics").status_code == 200
            assert found.guard.refused["connections"] >= 300
        finally:
            for client in idle:
                client.close()


def _is_of(fd: str, address: tuple[str, int]) -> bool:
    """True for a TCP connection of this process with one end at the address."""
    try:
        with socket.socket(fileno=os.dup(int(fd))) as found:
            return found.family == socket.AF_INET and address in (found.getsockname(), found.getpeername())
    except OSError:
        return False


def test_connections_that_are_reset_while_they_ask_leave_nothing(listener: Listener) -> None:
    for _ in range(100):
        client = listener.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic YTpi\r\n\r\n")
        client.close()
    listener.guard._authenticator.failures._by_address.clear()
    assert get(listener, "/metrics", f"Authorization: Bearer {TOKEN}")[0] == 200
    assert listener.guard._now <= 8

"""Credentials over the listener, asked by clients that others wrote: curl and httpx2."""

import hashlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import bcrypt
import httpx2
import msgspec
import pytest
from tests.api.access import BASIC, BEARER, DIGEST, PASSWORD, TOKEN, USER, Listener, certificates, get, listening, secret
from tests.support import need

from tidegauge.api import auth
from tidegauge.api.auth import Credentials
from tidegauge.api.auth_failures import FREE
from tidegauge.pipeline.config import HttpConfig
from tidegauge.pipeline.errors import ConfigError

REALM = "tide gauge"
QUERY = "/api/v1/status?x=1&y=%20é"


def users(folder: Path, password: str = PASSWORD) -> Path:
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    return secret(folder / "htpasswd", f"somebody:{hashed}\n{USER}:{hashed}\n")


def digests(folder: Path) -> Path:
    ha1 = hashlib.md5(f"{USER}:{REALM}:{PASSWORD}".encode()).hexdigest()
    return secret(folder / "htdigest", f"{USER}:{REALM}:{ha1}\n")


def config(folder: Path, *kinds: str) -> HttpConfig:
    return HttpConfig(
        auth_file=users(folder) if BASIC in kinds else None,
        digest_file=digests(folder) if DIGEST in kinds else None,
        digest_realm=REALM,
        token_file=secret(folder / "tokens", TOKEN + "\n") if BEARER in kinds else None,
    )


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    with listening(config(tmp_path, BASIC, DIGEST, BEARER), tmp_path) as found:
        yield found


def changed(path: Path) -> None:
    """Moves the time of the file, which the kernel's clock for files may have left as it was."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000_000))


def curl(*words: str) -> tuple[str, str]:
    """(status, body)."""
    need(shutil.which("curl"), "curl")
    command = ["curl", "--silent", "--max-time", "60", "--write-out", "\n%{http_code}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    body, _, status = done.stdout.rpartition("\n")
    return status, body


@pytest.mark.integration
@pytest.mark.parametrize("words", [("--basic",), ("--digest",), ("--anyauth",)])
def test_curl_is_let_in_with_the_password_alone(listener: Listener, words: tuple[str, ...]) -> None:
    url = f"{listener.url}/api/v1/status?x=1&y=2"
    status, body = curl(*words, "--user", f"{USER}:{PASSWORD}", url)
    assert (status, '"host":"here"' in body) == ("200", True)
    assert curl(*words, "--user", f"{USER}:wrong", url)[0] == "401"
    assert curl(*words, "--user", f"nobody:{PASSWORD}", url)[0] == "401"
    assert curl(url)[0] == "401"


@pytest.mark.integration
def test_curl_is_let_in_with_the_token_alone(listener: Listener) -> None:
    url = f"{listener.url}/metrics"
    assert curl("--oauth2-bearer", TOKEN, url)[0] == "200"
    assert curl("--oauth2-bearer", TOKEN + "x", url)[0] == "401"


@pytest.mark.integration
def test_curl_uses_one_nonce_for_many_requests(tmp_path: Path) -> None:
    with listening(config(tmp_path, DIGEST), tmp_path) as listener:
        status, body = curl("--digest", "--user", f"{USER}:{PASSWORD}", *[f"{listener.url}/healthz", f"{listener.url}/"] * 5)
        assert status == "200"
        assert body.count("<h1>") == 5


def test_httpx_is_let_in_with_digest_again_and_again(listener: Listener) -> None:
    with httpx2.Client(auth=httpx2.DigestAuth(USER, PASSWORD), timeout=60) as client:
        for _ in range(5):
            assert client.get(listener.url + QUERY).status_code == 200
        assert client.post(f"{listener.url}/api/v1/dead-letters/sql/replay", content=b"[1]").status_code == 200
    assert listener.view.done == [("sql", "replay")]
    with httpx2.Client(auth=httpx2.DigestAuth(USER, "wrong"), timeout=60) as client:
        assert client.get(listener.url + QUERY).status_code == 401


def test_httpx_goes_on_when_its_nonce_has_expired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(config(tmp_path, DIGEST), tmp_path) as listener:
        with httpx2.Client(auth=httpx2.DigestAuth(USER, PASSWORD), timeout=60) as client:
            assert client.get(listener.url + QUERY).status_code == 200
            monkeypatch.setattr("tidegauge.api.auth_digest.NONCE_LASTS_S", -1.0)
            stale = client.get(listener.url + QUERY)
            assert stale.status_code == 401
            assert "stale=true" in stale.headers["www-authenticate"]
            monkeypatch.undo()
            assert client.get(listener.url + QUERY).status_code == 200
        assert listener.guard._authenticator.failures.wait_s("127.0.0.1") == 0


def test_httpx_is_let_in_with_basic(listener: Listener) -> None:
    with httpx2.Client(auth=httpx2.BasicAuth(USER, PASSWORD), timeout=60) as client:
        assert client.get(listener.url + QUERY).status_code == 200
    with httpx2.Client(auth=httpx2.BasicAuth(USER, PASSWORD[:-1]), timeout=60) as client:
        assert client.get(listener.url + QUERY).status_code == 401


def test_a_password_is_compared_once(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    real: Callable[..., bool] = auth.auth_files.is_password

    def counting(password: bytes, user: bytes, known: dict[bytes, str]) -> bool:
        compared.append(password)
        return real(password, user, known)

    monkeypatch.setattr(auth.auth_files, "is_password", counting)
    with httpx2.Client(auth=httpx2.BasicAuth(USER, PASSWORD), timeout=60) as client:
        assert {client.get(listener.url + "/").status_code for _ in range(5)} == {200}
    assert compared == [PASSWORD.encode()]


def test_guessing_gets_slow_and_who_was_right_before_passes(listener: Listener) -> None:
    with (
        httpx2.Client(auth=httpx2.BasicAuth(USER, PASSWORD), timeout=60) as known,
        httpx2.Client(auth=httpx2.DigestAuth(USER, PASSWORD), timeout=60) as digesting,
    ):
        assert known.get(listener.url + "/").status_code == digesting.get(listener.url + "/").status_code == 200
        with httpx2.Client(timeout=60) as guesser:
            statuses = []
            for i in range(FREE + 6):
                answer = guesser.get(listener.url + "/", auth=(USER, f"guess{i}"))
                statuses.append(answer.status_code)
                if answer.status_code == 429:
                    assert 1 <= int(answer.headers["retry-after"]) <= 16
            assert statuses[: FREE + 1] == [401] * (FREE + 1)
            assert 429 in statuses
        listener.guard._authenticator.failures.add("127.0.0.1")  # the wait begins anew, for what follows
        listener.guard._authenticator.failures.add("127.0.0.1")
        assert known.get(listener.url + "/").status_code == digesting.get(listener.url + "/").status_code == 200
        assert httpx2.get(listener.url + "/", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert listener.guard.refused["rate"] > 0


def test_credentials_are_asked_for_on_loopback_and_not_on_the_unix_socket(listener: Listener) -> None:
    assert get(listener, "/metrics")[0] == 401
    transport = httpx2.HTTPTransport(uds=str(listener.socket_path))
    with httpx2.Client(transport=transport, timeout=60) as client:
        assert client.get("http://localhost/metrics").status_code == 200
        assert client.get("http://localhost/api/v1/dead-letters/sql/list").status_code == 200


def test_every_kind_that_is_configured_is_offered(listener: Listener, tmp_path: Path) -> None:
    offered = httpx2.get(listener.url + "/").headers.get_list("www-authenticate")
    assert [each.split()[0] for each in offered] == ["Digest", "Basic", "Bearer"]
    (tmp_path / "other").mkdir()
    with listening(config(tmp_path / "other", BEARER), tmp_path / "other") as alone:
        assert httpx2.get(alone.url + "/").headers.get_list("www-authenticate") == ['Bearer realm="localhost"']
        assert httpx2.get(alone.url + "/", auth=(USER, PASSWORD)).status_code == 401


def test_changed_files_are_read_again_and_bad_ones_are_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = [0.0]
    credentials = Credentials(config(tmp_path, BASIC, BEARER), lambda: clock[0])
    before = credentials.loaded
    clock[0] += 2
    credentials.look()
    assert credentials.loaded is before, "nothing has changed"
    changed(users(tmp_path, "a new one"))
    clock[0] += 0.5
    credentials.look()
    assert credentials.loaded is before, "it looks once a second"
    clock[0] += 0.6
    credentials.look()
    assert credentials.loaded.passwords != before.passwords
    taken = credentials.loaded
    changed(secret(tmp_path / "htpasswd", "alice:plaintextsecret\n"))
    clock[0] += 2
    credentials.look()
    assert credentials.loaded is taken
    assert "htpasswd:1: expected a hash" in caplog.text
    assert "plaintextsecret" not in caplog.text
    clock[0] += 2
    credentials.look()
    assert caplog.text.count("htpasswd:1: expected a hash") == 1, "told once, not every second"
    (tmp_path / "tokens").unlink()
    users(tmp_path)
    credentials.ask_again()
    credentials.look()
    assert credentials.loaded is taken
    secret(tmp_path / "tokens", TOKEN + "\n")
    credentials.ask_again()
    credentials.look()
    assert credentials.loaded is not taken


def test_a_password_that_was_taken_away_no_longer_passes(listener: Listener, tmp_path: Path) -> None:
    with httpx2.Client(auth=httpx2.BasicAuth(USER, PASSWORD), timeout=60) as client:
        assert client.get(listener.url + "/").status_code == 200
        users(tmp_path, "another")
        listener.credentials.ask_again()
        assert client.get(listener.url + "/").status_code == 401


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(shutil.which("openssl"), "openssl")
    return certificates(tmp_path_factory.mktemp("keys"))


def tls(keys: Path, *, with_clients: bool = True) -> HttpConfig:
    ca = keys / "ca.pem" if with_clients else None
    return HttpConfig(tls_cert=keys / "server.pem", tls_key=keys / "server.key", tls_client_ca=ca)


@pytest.mark.integration
def test_only_a_client_with_a_certificate_of_the_ca_is_let_in(keys: Path, tmp_path: Path) -> None:
    with listening(tls(keys), tmp_path) as listener:
        url = listener.url.replace("http:", "https:")
        ca = ("--cacert", str(keys / "ca.pem"))

        def named(name: str) -> tuple[str, ...]:
            return "--cert", str(keys / f"{name}.pem"), "--key", str(keys / f"{name}.key")

        assert curl(*ca, *named("client"), f"{url}/api/v1/dead-letters/sql/list") == ("200", "{}")
        for version in ("1.2", "1.3"):
            limit = ("--tls-max", version)
            assert curl(*ca, *limit, *named("client"), f"{url}/healthz")[0] == "200"
            assert curl(*ca, *limit, f"{url}/healthz")[0] == "000", "no certificate"
            assert curl(*ca, *limit, *named("intruder"), f"{url}/healthz")[0] == "000", "a stranger's"
        assert curl(*ca, "--tls-max", "1.1", *named("client"), f"{url}/healthz")[0] == "000"
        assert curl(*named("client"), f"{url}/healthz")[0] == "000", "the client knows no CA"
        assert curl(f"{listener.url}/healthz")[0] in ("000", "400"), "no TLS"
        assert listener.guard.refused["tls"] > 0
        transport = httpx2.HTTPTransport(uds=str(listener.socket_path))
        with httpx2.Client(transport=transport, timeout=60) as client:
            assert client.get("http://localhost/healthz").status_code == 200, "no TLS on the Unix socket"


@pytest.mark.integration
def test_tls_and_a_password_are_both_asked_for(keys: Path, tmp_path: Path) -> None:
    with listening(msgspec.structs.replace(tls(keys), auth_file=users(tmp_path)), tmp_path) as listener:
        url = listener.url.replace("http:", "https:") + "/metrics"
        ca = ("--cacert", str(keys / "ca.pem"))
        client = ("--cert", str(keys / "client.pem"), "--key", str(keys / "client.key"))
        assert curl(*ca, *client, url)[0] == "401"
        assert curl(*ca, *client, "--user", f"{USER}:{PASSWORD}", url)[0] == "200"
        assert curl(*ca, "--user", f"{USER}:{PASSWORD}", url)[0] == "000"


@pytest.mark.integration
def test_connections_that_never_finish_tls_do_no_harm(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegauge.api.http_server.MAX_HANDSHAKES", 10)
    monkeypatch.setattr("tidegauge.api.http_server.HEADER_TIMEOUT_S", 3600.0)
    with listening(tls(keys, with_clients=False), tmp_path) as listener:
        url = listener.url.replace("http:", "https:") + "/healthz"
        idle = [listener.connect() for _ in range(60)]
        try:
            assert curl("--cacert", str(keys / "ca.pem"), url)[0] == "200"
            ended = 0
            for client in idle[:40]:
                client.settimeout(30)
                ended += _is_ended(client)
            assert ended == 40, "the oldest make room"
        finally:
            for client in idle:
                client.close()


def _is_ended(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.integration
def test_a_new_certificate_is_used_without_a_restart(keys: Path, tmp_path: Path) -> None:
    for name in ("server.pem", "server.key"):
        shutil.copy(keys / name, tmp_path / name)
    with listening(HttpConfig(tls_cert=tmp_path / "server.pem", tls_key=tmp_path / "server.key"), tmp_path) as listener:
        url = listener.url.replace("http:", "https:") + "/healthz"
        assert curl("--cacert", str(keys / "ca.pem"), url)[0] == "200"
        shutil.copy(keys / "intruder.pem", tmp_path / "server.pem")
        listener.credentials.ask_again()
        assert curl("--cacert", str(keys / "ca.pem"), url)[0] == "200", "a key that does not fit is not taken"
        shutil.copy(keys / "intruder.key", tmp_path / "server.key")
        listener.credentials.ask_again()
        assert curl("--cacert", str(keys / "stranger.pem"), url)[0] == "200"
        assert curl("--cacert", str(keys / "ca.pem"), url)[0] == "000"


@pytest.mark.integration
def test_bad_tls_files_are_named(keys: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "ec", "-in", keys / "server.key", "-aes128", "-passout", "pass:x", "-out", locked],
        check=True, capture_output=True,
    )  # fmt: skip
    text = secret(tmp_path / "text", "nothing\n")
    for made, why in (
        (HttpConfig(tls_cert=tmp_path / "none"), "none cannot be read: No such file"),
        (HttpConfig(tls_cert=text), "expected PEM"),
        (HttpConfig(tls_cert=keys / "server.pem", tls_key=keys / "client.key"), "the key is not that of the certificate"),
        (HttpConfig(tls_cert=keys / "server.pem", tls_key=locked), "passphrase"),
        (HttpConfig(tls_cert=keys / "server.pem", tls_key=keys / "server.key", tls_client_ca=text), "tls_client_ca"),
    ):
        with pytest.raises(ConfigError, match=why):
            auth.check(made)


def test_many_first_requests_with_one_password_are_all_let_in(listener: Listener) -> None:
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(httpx2.get(listener.url + "/", auth=(USER, PASSWORD), timeout=60).status_code)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert statuses == [200] * 12

"""The client before a listener that asks for credentials and certificates, ours."""

import shutil
import ssl
import threading
from pathlib import Path

import pytest
from tests.api.access import PASSWORD, TOKEN, USER, certificates, listening, secret
from tests.client.serving import Server, waits_for
from tests.support import need

from tidegauge.client import Client, ConnectionFailed, HttpError
from tidegauge.client.digest import _HASHES
from tidegauge.pipeline.config import HttpConfig

REALM = "the realm"


def test_bearer_token(tmp_path: Path) -> None:
    config = HttpConfig(token_file=secret(tmp_path / "tokens", f"{TOKEN}\n"))
    with listening(config, tmp_path) as listener:
        with Client(listener.url, token=TOKEN) as client:
            assert client.tidegauge.status().version == "1"
        with Client(listener.url, token=TOKEN + "x") as client, pytest.raises(HttpError) as caught:
            client.tidegauge.status()
        assert caught.value.status == 401
        with Client(unix_socket=listener.socket_path) as client:
            assert client.tidegauge.status().host == "here"


def test_digest(tmp_path: Path) -> None:
    ha1 = _HASHES["MD5"](f"{USER}:{REALM}:{PASSWORD}".encode())
    config = HttpConfig(digest_file=secret(tmp_path / "htdigest", f"{USER}:{REALM}:{ha1}\n"), digest_realm=REALM)
    with listening(config, tmp_path) as listener:
        with Client(listener.url, digest=(USER, PASSWORD)) as client:
            for _ in range(5):
                assert client.tidegauge.status().version == "1"
            with pytest.raises(HttpError) as caught:  # a query is part of what is signed
                client.tidegauge.processes("/a b/é", recursive=True)
            assert caught.value.status == 503
        with Client(listener.url, digest=(USER, "wrong")) as client, pytest.raises(HttpError) as caught:
            client.tidegauge.status()
        assert caught.value.status == 401


def test_tls_with_certificates_of_both(tmp_path: Path) -> None:
    need(shutil.which("openssl"), "openssl")
    keys = certificates(tmp_path)
    config = HttpConfig(tls_cert=keys / "server.pem", tls_key=keys / "server.key", tls_client_ca=keys / "ca.pem")
    with listening(config, tmp_path) as listener:
        url = listener.url.replace("http://", "https://")
        own = {"cert_file": keys / "client.pem", "key_file": keys / "client.key"}
        with Client(url, ca_file=keys / "ca.pem", cert_file=own["cert_file"], key_file=own["key_file"]) as client:
            assert client.tidegauge.status().version == "1"
            assert client.tidegauge.status().version == "1"
        with Client(url, ca_file=keys / "stranger.pem") as client, pytest.raises(ConnectionFailed, match="certificate"):
            client.tidegauge.status()
        with Client(url, ca_file=keys / "ca.pem") as client, pytest.raises((ConnectionFailed, HttpError)):
            client.tidegauge.status()
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(keys / "server.pem", keys / "server.key")
    done, seen = threading.Event(), threading.Event()
    with (
        Server(waits_for(done, b'{"container_name":"/a"}\n'), tls=made) as server,
        Client(server.url.replace("http://", "https://"), ca_file=keys / "ca.pem") as client,
    ):
        events = client.stream_events()

        def follow() -> None:
            for _ in events:
                seen.set()

        thread = threading.Thread(target=follow)
        thread.start()
        assert seen.wait(60)
        events.close()
        thread.join(60)
        assert not thread.is_alive()
        done.set()
    with pytest.raises(ValueError, match="ca_file, cert_file, key_file"):
        Client("https://127.0.0.1", cert_file=keys / "client.pem", key_file=keys / "server.key")

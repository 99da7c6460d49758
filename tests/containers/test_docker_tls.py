"""A real Docker engine on the network, with and without TLS, by certificates that the test makes."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.containers.own_engine import OwnEngine, remove_all, run
from tests.containers.watching import Watching, eventually
from tests.support import need

from tidegauge.collectors.runtimes.docker import DockerConfig, DockerRuntime
from tidegauge.pipeline.errors import CollectError, ConfigError, NoData
from tidegauge.pipeline.plugin import RuntimeRef

pytestmark = [pytest.mark.integration, pytest.mark.docker, pytest.mark.timeout(300)]
SLEEP = ["sleep", "1000"]


class Files(NamedTuple):
    ca: Path
    cert: Path
    key: Path


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def _authority(folder: Path, name: str) -> None:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")
    ca = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
    _openssl(folder, "req", "-x509", *key, "-days", "2", "-subj", f"/CN={name}", *ca, "-out", f"{name}.pem")


def _certificate(folder: Path, authority: str, name: str, extensions: str) -> Files:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")
    _openssl(folder, "req", "-new", *key, "-subj", f"/CN={name}", "-out", f"{name}.csr")
    (folder / f"{name}.ext").write_text(extensions)
    signed_by = ("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial", "-extfile", f"{name}.ext")
    _openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed_by, "-days", "2", "-out", f"{name}.pem")
    return Files(folder / f"{authority}.pem", folder / f"{name}.pem", folder / f"{name}.key")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(shutil.which("openssl"), "openssl is not installed")
    made = tmp_path_factory.mktemp("tls")
    _authority(made, "ours")
    _authority(made, "theirs")
    return made


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


class Listening(NamedTuple):
    engine: OwnEngine
    port: int
    client: Files


@pytest.fixture(scope="module")
def listening(folder: Path) -> Iterator[Listening]:
    server = _certificate(folder, "ours", "server", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    client = _certificate(folder, "ours", "client", "extendedKeyUsage=clientAuth\n")
    port = _free_port()
    tls = ("--tlsverify", "--tlscacert", str(server.ca), "--tlscert", str(server.cert), "--tlskey", str(server.key))
    engine = OwnEngine("--host", f"tcp://127.0.0.1:{port}", *tls)
    try:
        yield Listening(engine.start(), port, client)
    finally:
        engine.remove()


def _table(port: int, files: Files, **other: Any) -> dict[str, Any]:
    tls = {"tls": True, "tls_ca": str(files.ca), "tls_cert": str(files.cert), "tls_key": str(files.key)}
    return {"sockets": [f"tcp://127.0.0.1:{port}"], **tls, **other}


def _runtime(port: int, files: Files, **other: Any) -> DockerRuntime:
    table = {k: Path(v) if k.startswith("tls_") else v for k, v in _table(port, files, **other).items()}
    return DockerRuntime(DockerConfig(**table | {"sockets": tuple(table["sockets"])}))


def test_names_events_and_exit_codes_over_tls(listening: Listening) -> None:
    client = listening.engine.client()
    try:
        runtimes = {"docker": _table(listening.port, listening.client)}
        with Watching(runtimes, [f"{listening.engine.parent}*"]) as watching:
            container = run(client, SLEEP, name="web")
            record = watching.named(container.id, name="web")
            eventually(lambda: watching.binder.counters()["runtime_connected"]["docker"])
            container.rename("renamed")
            watching.named(container.id, name="renamed")
            container.kill()
            assert watching.deletion(record).details["exit_code"] == 137
            assert watching.binder.counters()["runtime_errors"]["docker"] == 0
    finally:
        remove_all(client)
        client.close()


def test_an_engine_with_another_name_or_authority_is_not_believed(listening: Listening, folder: Path) -> None:
    ref = RuntimeRef("docker", "0" * 64)
    assert _runtime(listening.port, listening.client).describe(ref) is None
    with pytest.raises(CollectError, match="certificate verify failed"):
        _runtime(listening.port, listening.client._replace(ca=folder / "theirs.pem")).describe(ref)
    with pytest.raises(CollectError, match="certificate verify failed"):
        _runtime(listening.port, listening.client, sockets=[f"tcp://localhost:{listening.port}"]).describe(ref)


def test_an_engine_that_does_not_know_us_is_an_error(listening: Listening, folder: Path) -> None:
    stranger = _certificate(folder, "theirs", "stranger", "extendedKeyUsage=clientAuth\n")._replace(ca=listening.client.ca)
    with pytest.raises(CollectError):
        _runtime(listening.port, stranger).describe(RuntimeRef("docker", "0" * 64))
    with pytest.raises(CollectError):
        _runtime(listening.port, listening.client, tls=False).describe(RuntimeRef("docker", "0" * 64))


def test_files_that_are_no_certificates_stop_the_start(listening: Listening, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"runtimes.docker.tls_ca: .*none.pem: No such file"):
        _runtime(1, listening.client._replace(ca=tmp_path / "none.pem"))
    (tmp_path / "junk.pem").write_text("junk")
    with pytest.raises(ConfigError, match=r"runtimes.docker.tls_cert: .*junk.pem"):
        _runtime(1, listening.client._replace(cert=tmp_path / "junk.pem"))


def test_nobody_there_is_no_fault() -> None:
    runtime = DockerRuntime(DockerConfig(sockets=(f"tcp://127.0.0.1:{_free_port()}",)))
    with pytest.raises(NoData, match=r"no docker engine answers at tcp://127\.0\.0\.1"):
        runtime.describe(RuntimeRef("docker", "0" * 64))


@pytest.mark.parametrize("address", ["tcp://", "tcp://:2375", "tcp://h:port", "tcp://h:99999", "tcp://h:1/path", "tcp://u@h:1"])
def test_an_address_that_is_none_stops_the_start(address: str) -> None:
    with pytest.raises(ConfigError, match=r"runtimes.docker.sockets: expected tcp://HOST:PORT"):
        DockerRuntime(DockerConfig(sockets=(address,)))

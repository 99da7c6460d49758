"""The whole program with credentials, TLS and debug: asked by curl, with the rights that it has when it runs."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import bcrypt
import pytest
from tests.api.access import certificates, secret
from tests.e2e.program import Program, eventually
from tests.support import need

pytestmark = [pytest.mark.integration, pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

PASSWORD, TOKEN = "correct horse battery", "staple-0123456789-abcdef"


def configured(folder: Path, *, password: str = PASSWORD) -> str:
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(5)).decode()
    secret(folder / "htpasswd", f"ann:{hashed}\n")
    secret(folder / "tokens", f"{TOKEN}\n")
    return f"""
[log]
level = "debug"

[http]
listen = "127.0.0.1:0"
auth_file = "{folder}/htpasswd"
token_file = "{folder}/tokens"
tls_cert = "{folder}/server.pem"
tls_key = "{folder}/server.key"
debug = true
"""


def curl(url: str, folder: Path, *words: str) -> tuple[str, str]:
    """(status, body)."""
    done = subprocess.run(
        ["curl", "-s", "-m", "60", "--cacert", str(folder / "ca.pem"), "-w", "\n%{http_code}", *words, url],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    body, _, status = done.stdout.rpartition("\n")
    return status, body


def address(program: Program) -> str:
    return str(
        eventually(
            lambda: next(iter(re.findall(r"https://127\.0\.0\.1:\d+", program.text())), None), 30, "no address in the log"
        )
    )


def test_access_to_the_running_program(tmp_path: Path) -> None:
    need(shutil.which("curl") and shutil.which("openssl"), "curl and openssl")
    keys = certificates(tmp_path)
    with Program(tmp_path, configured(tmp_path)) as program:
        url = address(program)
        basic, bearer = ("--user", f"ann:{PASSWORD}"), ("--oauth2-bearer", TOKEN)
        assert curl(f"{url}/healthz", keys)[0] in ("200", "503")
        assert curl(f"{url}/metrics", keys)[0] == "401"
        for words in (basic, bearer):
            assert curl(f"{url}/metrics", keys, *words)[0] == "200"
        assert program.call("status").returncode in (0, 1), "over the Unix socket, without a credential"

        status, listed = curl(f"{url}/api/v1/processes?path=/&recursive=true", keys, *basic)
        assert (status, str(os.getpid()) in listed) == ("200", True)

        stacks = curl(f"{url}/debug/threads", keys, *bearer)[1]
        server, sampler = stacks.split("== sampler")
        pids = program.children()
        assert f"process {pids['server']}" in server
        assert f"process {pids['sampler']}" in sampler
        assert "thread MainThread" in sampler
        status, profile = curl(f"{url}/debug/profile?seconds=1", keys, *bearer)
        assert status == "200"
        assert {line.split(";")[0] for line in profile.splitlines()} == {"server", "sampler"}
        assert "pipeline.sampler.Sampler.run" in profile
        heap = curl(f"{url}/debug/heap", keys, *bearer)[1]
        assert heap.count("bytes objects type") == 2

        status, report = curl(f"{url}/validate/", keys, *bearer)
        assert status == "200"
        assert re.search(r"(?m)^Cgroups: \[.*\]$", report), report
        assert "Host: [Unknown]" not in report
        assert os.uname().release in report

        wrong = "this-is-a-wrong-password"
        for _ in range(10):
            curl(f"{url}/metrics?x={wrong}", keys, "--user", f"ann:{wrong}")
        eventually(lambda: "sends wrong credentials" in program.text(), 30)
        for word in (PASSWORD, TOKEN, wrong, "$2b$", "PRIVATE KEY"):
            assert word not in program.text()

        # a changed file is taken
        configured(tmp_path, password="another one")
        assert program.process is not None
        program.process.send_signal(signal.SIGHUP)
        eventually(lambda: curl(f"{url}/metrics", keys, *basic)[0] in ("401", "429"), 30)
        assert curl(f"{url}/metrics", keys, *bearer)[0] == "200"

        # a bad one is not, and the program goes on
        secret(tmp_path / "htpasswd", "ann:plainplain\n")
        program.process.send_signal(signal.SIGHUP)
        eventually(lambda: "the configuration is not taken" in program.text(), 30)
        assert "plainplain" not in program.text()
        assert curl(f"{url}/metrics", keys, *bearer)[0] == "200"

        # nor does it open what it can no longer guard, when it has to start its server again
        program.kill("server")
        eventually(lambda: "only the Unix socket is served" in program.text(), 60)
        eventually(lambda: program.status()["log"], 60, "the sinks do not go on")
        assert curl(f"{url}/healthz", keys, "-m", "1")[0] == "000"
        assert "plainplain" not in program.text()

        done = program.call("config", "check")
        assert done.returncode == 78
        assert f"{tmp_path}/htpasswd:1: expected a hash as htpasswd" in done.stderr
        assert "plainplain" not in done.stdout + done.stderr


def test_files_that_root_alone_may_read_serve_a_server_without_its_rights(tmp_path: Path) -> None:
    """The key and the passwords are read before the rights go. Nothing that everybody can reach holds them."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("curl") and shutil.which("openssl"), "curl and openssl")
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    certificates(keys)
    with Program(tmp_path / "program", configured(keys)) as program:
        url = address(program)
        assert curl(f"{url}/metrics", keys, "--oauth2-bearer", TOKEN)[0] == "200"
        program.kill("server")

        def answers() -> bool:
            return curl(f"{url}/metrics", keys, "--oauth2-bearer", TOKEN)[0] == "200"

        eventually(answers, 60, "the server that is started again has no key")


def test_a_start_with_a_bad_file_is_refused_with_its_line(tmp_path: Path) -> None:
    secret(tmp_path / "users", "ann:hunter2hunter2\n")
    program = Program(tmp_path, f'[http]\nlisten = ""\nauth_file = "{tmp_path}/users"\n')
    for words in (("run",), ("config", "check")):
        done = program.call(*words)
        assert done.returncode == 78, done.stderr
        assert f"{tmp_path}/users:1: " in done.stderr
        assert "hunter2" not in done.stderr


def test_cadvisors_flags_ask_for_the_password(tmp_path: Path) -> None:
    need(shutil.which("curl"), "curl")
    configured(tmp_path)
    program = Program(tmp_path, '[http]\nlisten = "127.0.0.1:0"\n')
    command = program.command("run", f"--http_auth_file={tmp_path}/htpasswd", "-http_auth_realm", "here", "--profiling")
    with program.log.open("ab") as log:
        program.process = subprocess.Popen(command, stdout=log, stderr=log, env=program.environ)
    try:
        url = str(eventually(lambda: next(iter(re.findall(r"http://127\.0\.0\.1:\d+", program.text())), None), 30))
        eventually(lambda: curl(f"{url}/healthz", tmp_path)[0] == "200", 60)
        status, body = curl(f"{url}/containers/", tmp_path, "-i")
        assert status == "401"
        assert 'Basic realm="here"' in body
        assert curl(f"{url}/debug/threads", tmp_path, "--user", f"ann:{PASSWORD}")[0] == "200"
    finally:
        program.stop()

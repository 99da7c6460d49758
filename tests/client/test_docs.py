"""The examples of the documentation run, and are typed."""

import importlib.util
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.client.serving import Request, Script, Server, answer, stream

ROOT = Path(__file__).parents[2]
_TEXT = (ROOT / "docs/client.md").read_text()
_EXAMPLES = re.findall(r"```python\n(.*?)```", _TEXT, re.DOTALL)
_PROCESSES = {"ts_ms": 1, "path": "/system.slice", "processes": [{"pid": 7, "command_line": ["sleep", "1"]}], "skipped": 0}

_HISTORY = {
    "unit": "cores",
    "series": [
        {
            "labels": {"host": "a", "path": "/b"},
            "value": 0.25,
            "points": [
                {"ts_ms": 1, "value": 0.5, "coverage": 1.0, "state": "measured"},
                {"ts_ms": 2, "value": None, "coverage": 0.0, "state": "unknown"},
            ],
        }
    ],
}


def _serves(root: Path) -> Script:
    """What the examples ask for, from the recorded answers."""
    docker = root / "docker"
    kill = (docker / "v1.3-events-oom-kill.json").read_bytes()
    scripts: dict[str, Script] = {
        "/api/v1.3/machine": answer((root / "raw/v1.3-machine.json").read_bytes()),
        "/api/v1.3/subcontainers/": answer((root / "raw/v1.3-containers-a-range.json").read_bytes().join([b"[", b"]"])),
        "/api/v2.1/summary/": answer((docker / "v2.0-summary-docker-recursive.json").read_bytes()),
        "/api/v1.3/docker/web": answer((docker / "v1.3-docker-ts-web-byname.json").read_bytes()),
        "/api/v1.3/events/": stream(b"\n", json.dumps(json.loads(kill)[0]).encode() + b"\n"),
        "/api/v1/events": stream(b'{"missed":3}\n{"ts_ms":5,"kind":"oom","path":"/a","details":{"pid":1}}\n'),
        "/api/v1.3/containers/no/such": answer(
            (root / "raw/err-unknown-container.txt").read_bytes(), "500 Internal Server Error"
        ),
        "/api/v1/processes": answer(json.dumps(_PROCESSES).encode()),
        "/api/v1/history/query": answer(json.dumps(_HISTORY).encode()),
    }
    return lambda connection, request: scripts[request.target.partition("?")[0]](connection, request)


@pytest.mark.parametrize("example", _EXAMPLES, ids=range(len(_EXAMPLES)))
def test_an_example_runs(
    example: str, recorded_tree: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = _serves(recorded_tree("cadvisor-rest"))
    path = tmp_path / "socket"
    with Server(script) as tcp, Server(script, family=socket.AF_UNIX, path=str(path)) as local:
        code = example.replace("http://127.0.0.1:4194", tcp.url).replace("/run/tidegauge/tidegauge.sock", str(path))
        exec(compile(code, "docs/client.md", "exec"), {})
        requests: list[Request] = tcp.requests + local.requests
    assert requests
    assert capsys.readouterr().out


def test_what_the_examples_print(recorded_tree: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    script = _serves(recorded_tree("cadvisor-rest"))
    with Server(script) as server:
        for example in _EXAMPLES:
            if "unix_socket" not in example:
                exec(compile(example.replace("http://127.0.0.1:4194", server.url), "docs/client.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "2 CPUs, 24105 MiB\n" in printed
    assert "3 events were left out\n" in printed
    assert "killed: " in printed
    assert '500 failed to get container "/no/such" with error: unknown container "/no/such"\n' in printed


def test_every_method_and_argument_is_on_the_page() -> None:
    import inspect

    from tidegauge import client as package

    names = [f"`{n}`" for n in inspect.signature(package.Client).parameters]
    for cls, prefix in ((package.Client, ""), (package.ClientV2, "v2."), (package.TidegaugeClient, "tidegauge.")):
        names += [f"`{prefix}{n}(" for n, f in vars(cls).items() if inspect.isfunction(f) and n[0] != "_" and n != "close"]
    names += [f"`{n}`" for n, c in vars(package).items() if inspect.isclass(c) and issubclass(c, package.ClientError)]
    assert [n for n in names if n not in _TEXT] == []


def test_the_examples_are_typed(tmp_path: Path) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed; the examples are checked where the code is")
    files = []
    for number, example in enumerate(_EXAMPLES):
        files.append(tmp_path / f"example_{number}.py")
        files[-1].write_text(example)
    wrong = tmp_path / "wrong.py"
    wrong.write_text('from tidegauge.client import Client\n\nClient().machine_info().num_cores + "two"\n')
    # follows the sources as a checkout has them: an installed package would be found by its marker
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        f"--cache-dir={tmp_path / 'cache'}",
        "--no-error-summary",
        "--config-file=",
    ]
    done = subprocess.run(
        [*command, "--explicit-package-bases", *map(str, files), str(wrong)],
        cwd=tmp_path,
        env={"MYPYPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout + done.stderr
    assert lines[0].startswith("wrong.py:3: error: Unsupported operand types")

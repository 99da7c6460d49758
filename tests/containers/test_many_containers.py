"""Two hundred containers of a real Docker engine come and go: each one is named and ended, and nothing is left of them."""

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import docker
import psutil
import pytest
from tests.containers.own_engine import OwnEngine, remove_all, run
from tests.e2e.program import Program, eventually

pytestmark = [pytest.mark.integration, pytest.mark.docker, pytest.mark.e2e, pytest.mark.timeout(900)]
COUNT = 200
WAIT_S = 120.0
ALLOWED = {"descriptors": 8, "threads": 4, "watches": 4, "children": 0, "resident_bytes": 32 << 20}
"""How much more of each may be there by chance, far less than one a container."""


@pytest.fixture(scope="module")
def engine() -> Iterator[OwnEngine]:
    made = OwnEngine()
    try:
        yield made.start()
    finally:
        made.remove()


class Held(NamedTuple):
    """What a process holds. Some of it comes and goes at any time: what leaks, leaks once a container."""

    descriptors: int
    threads: int
    watches: int
    children: int
    resident_bytes: int


def _held(pid: int) -> Held:
    process = psutil.Process(pid)
    watches = 0
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):  # closed since
            if "inotify" in str(info.parent.parent.joinpath("fd", info.name).readlink()):
                watches += info.read_text().count("inotify wd:")
    return Held(process.num_fds(), process.num_threads(), watches, len(process.children()), process.memory_info().rss)


def _come_and_go(engine: OwnEngine, prefix: str, count: int) -> dict[str, int]:
    """Four at a time; ids with the exit codes that they end with.

    They stay known to the engine: of one that is removed before it could be asked for, nobody can tell the name.
    """
    ended: dict[str, int] = {}
    errors: list[Exception] = []

    def some(first: int) -> None:
        client = engine.client()
        try:
            for n in range(first, count, 4):
                container = run(client, ["sh", "-c", f"sleep 0.2; exit {n}"], name=f"{prefix}-{n}")
                ended[container.id] = n
                container.wait()
        except Exception as exc:  # noqa: BLE001 - told by the test's own thread
            errors.append(exc)
        finally:
            client.close()

    threads = [threading.Thread(target=some, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(ended) == count
    return ended


def remove_ended(client: "docker.DockerClient") -> None:
    for container in client.containers.list(all=True, filters={"status": "exited"}):
        container.remove()


def _stored(program: Program, parent: str) -> tuple[dict[str, set[str]], dict[str, list[int | None]], int]:
    """Names by id, exit codes by id, containers that have not ended: those of the engine."""
    query = "SELECT path, name FROM container JOIN container_metadata m ON m.container = container.id WHERE path LIKE ?"
    names: dict[str, set[str]] = {}
    for path, name in program.sql(query, f"{parent}/%"):
        names.setdefault(path.split("/")[2], set()).update({name} - {None})
    codes: dict[str, list[int | None]] = {}
    for (details,) in program.sql("SELECT details FROM event WHERE kind = 'deletion' AND details LIKE ?", f"%{parent}/%"):
        event = json.loads(details)
        codes.setdefault(event["path"].split("/")[2], []).append(event.get("exit_code"))
    (live,) = program.sql("SELECT count(*) FROM container WHERE path LIKE ? AND ended_ms IS NULL", f"{parent}/%")
    return names, codes, live[0]


def test_each_is_named_and_ended_and_nothing_is_left(engine: OwnEngine, tmp_path: Path) -> None:
    config = f'[sampler]\ninclude = ["{engine.parent}*"]\n[runtimes.docker]\nsockets = ["{engine.socket}"]\n'
    config += "[metadata]\nexit_wait_s = 60\n"  # on a machine that is too busy with starting containers
    config += '[metrics]\nenable = ["disk"]\n[collectors.disk_usage]\ninterval_s = 1\n'
    client = engine.client()
    try:
        with Program(tmp_path, config) as program:
            keeper = run(client, ["sleep", "1000"], name="keeper")

            def wrong(wanted: dict[str, int]) -> list[object]:
                """What is not as it should be, the first few."""
                names, codes, live = _stored(program, engine.parent)
                unnamed = [(n, names.get(id_)) for id_, n in wanted.items() if len(names.get(id_, ())) != 1]
                unended = [(n, codes.get(id_)) for id_, n in wanted.items() if codes.get(id_) != [n]]
                found: list[object] = [*unnamed[:3], *unended[:3]]
                return found if live == 1 and names.get(keeper.id) == {"keeper"} else [*found, live, names.get(keeper.id)]

            def settled(wanted: dict[str, int]) -> None:
                try:
                    eventually(lambda: not wrong(wanted), WAIT_S)
                except AssertionError as exc:
                    raise AssertionError(f"names or ends are missing: {wrong(wanted)}") from exc
                remove_ended(client)

            wanted = _come_and_go(engine, "first", 20)
            settled(wanted)
            sampler = program.children()["sampler"]
            eventually(lambda: _held(sampler).children == 1, WAIT_S, "no walk was begun")
            before = _held(sampler)
            wanted |= _come_and_go(engine, "many", COUNT)
            settled(wanted)
            names, _, _ = _stored(program, engine.parent)
            assert {next(iter(names[id_])) for id_ in wanted} == {
                *(f"first-{n}" for n in range(20)),
                *(f"many-{n}" for n in range(COUNT)),
            }
            assert set(names) == {*wanted, keeper.id}

            def is_left() -> dict[str, int]:
                """What there is more than before."""
                more = {k: v - getattr(before, k) for k, v in _held(sampler)._asdict().items()}
                return {k: v for k, v in more.items() if v > ALLOWED[k]}

            eventually(lambda: not is_left(), WAIT_S, f"of {COUNT} containers something is left")
            assert program.children()["sampler"] == sampler
            (used,) = program.sql("SELECT count(*) FROM disk_usage")
            assert used[0] > 0
    finally:
        remove_all(client)
        client.close()

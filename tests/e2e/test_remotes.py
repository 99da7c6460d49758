"""The whole program with another host beside its own: recorded answers of cAdvisor, going on, over HTTP."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cadvisor_host import CadvisorHost, HttpHost
from tests.e2e.program import Program, eventually
from tests.e2e.stores import in_journal

from tidegauge.pipeline.remote_roster import source_of

pytestmark = [pytest.mark.integration, pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

WEB = "/docker/9ffe89d709968054fe5f79f07714d2e83d8b403ea513a258cf7f6ae1063b4276"
IO = "/docker/77ece92256eb7e700005b60eb14486f44f738cc290ab1069baa800b83eaf9485"
_CONFIG = """
[remotes.far]
url = "{url}"
host = "far-host"
interval_s = 0.5
retry_max_s = 1
{more}
[metadata]
labels = ["com.example.*"]
"""
_READINGS = "SELECT c.path, s.ts_ms, s.cpu_usage_ns FROM sample s JOIN container c ON c.id = s.container WHERE c.source = ?"


@pytest.fixture
def far(recorded_tree: Callable[[str], Path]) -> CadvisorHost:
    return CadvisorHost(recorded_tree("remotes"), time.time_ns() // 1_000_000 - 20_000, kept=600)


@pytest.fixture
def host(far: CadvisorHost) -> Iterator[HttpHost]:
    with HttpHost(far.reply) as host:
        yield host


def source(far: CadvisorHost) -> str:
    return source_of(f"{far.machine['machine_id']} {far.machine['system_uuid']}", "far")


def readings(program: Program, far: CadvisorHost) -> dict[str, list[tuple[int, int]]]:
    """(time, CPU time) by path, of the other host, in the order of times."""
    out: dict[str, list[tuple[int, int]]] = {}
    for path, ts_ms, cpu_ns in sorted(program.sql(_READINGS, source(far))):
        out.setdefault(path, []).append((ts_ms, cpu_ns))
    return out


def expected(far: CadvisorHost, path: str, last_ms: int) -> list[tuple[int, int]]:
    """Every reading that was ever to be had, up to that time."""
    begin = far.begun_ms[path]
    return [(t, far.cpu_ns(path, t)) for t in range(begin, last_ms + 1, 1000)]


def is_recorded(program: Program, far: CadvisorHost, ts_ms: int) -> bool:
    found = readings(program, far)
    return set(found) == set(far.containers) and all(r[-1][0] >= ts_ms for r in found.values())


def test_two_hosts_in_one_store_through_every_kind_of_stop(far: CadvisorHost, host: HttpHost, tmp_path: Path) -> None:
    with Program(tmp_path, _CONFIG.format(url=host.url, more="")) as program:
        begun_ms = far.now_ms()
        eventually(lambda: is_recorded(program, far, begun_ms - 1000), 60, "the other host is not recorded")
        eventually(lambda: "remote far: answers" in program.call("status").stdout, 30, "status does not tell")

        # killed: what was read is in the log and is not read again, what came meanwhile is fetched
        killed_ms = far.now_ms()
        program.kill("sampler")
        eventually(lambda: is_recorded(program, far, killed_ms + 3000), 60, "it does not go on after a kill")
        # down, and back before its memory ends
        far.is_down = True
        down_ms = far.now_ms()
        fault = eventually(lambda: program.status()["sampler"]["remote_faults"].get("far"), 30, "nobody complains")
        assert "HTTP 503" in fault
        far.is_down = False
        eventually(lambda: is_recorded(program, far, down_ms + 3000), 60, "it does not go on after an outage")
        # a container goes, another is made anew
        old = far.begun_ms[WEB]
        web_before = readings(program, far)[WEB]
        del far.containers[IO]
        far.make_anew(WEB)
        where = "WHERE e.kind = ? AND c.source = ?"
        events = f"SELECT c.path FROM event e JOIN container c ON c.id = e.container {where} ORDER BY c.path"
        gone = lambda: sorted(p for (p,) in program.sql(events, "deletion", source(far)))  # noqa: E731
        eventually(lambda: gone() == sorted([IO, WEB]), 30, "nothing is seen to go")
        last_ms = far.now_ms()
        eventually(lambda: is_recorded_without(program, far, last_ms), 60, "the new container is not recorded")
        program.stop()

        ours = program.sql("SELECT DISTINCT source, host FROM container WHERE source <> ?", source(far))
        theirs = program.sql("SELECT DISTINCT source, host FROM container WHERE source = ?", source(far))
        assert len(ours) == 1
        assert theirs == [(source(far), "far-host")]
        assert program.sql("SELECT DISTINCT boot_id FROM container WHERE source = ?", source(far)) == [
            (far.machine["boot_id"],)
        ]
        # each reading once, each with its own value, from first to last
        found = readings(program, far)
        for path in far.containers:
            if path != WEB:
                assert found[path] == expected(far, path, found[path][-1][0]), path
        anew = [r for r in found[WEB] if r[0] >= far.begun_ms[WEB]]
        assert anew == expected(far, WEB, anew[-1][0])
        assert [r for r in found[WEB] if r[0] < far.begun_ms[WEB]][: len(web_before)] == web_before
        assert web_before[0][0] == old
        assert program.sql("SELECT count(DISTINCT instance) FROM container WHERE path = ?", WEB) == [(2,)]
        # not by the store's own doing, which would take a repeat for what it has
        repeats = {r: n for r, n in in_journal(program.state / "journal").readings.items() if n > 1}
        assert repeats == {}
        # names, by the list of labels
        names = program.sql(
            "SELECT DISTINCT m.name, m.image, m.labels FROM container_metadata m JOIN container c ON c.id = m.container "
            "WHERE c.path = ?",
            WEB,
        )
        assert [(n, i) for n, i, _ in names] == [("ts-web", "busybox:local")]
        assert "com.example.role" in names[0][2]
        assert "weird-key.1" not in names[0][2]
        # our own containers came and went with nobody else's
        assert program.sql("SELECT count(*) FROM gap WHERE source = ?", source(far)) == [(0,)]
        assert program.sql("SELECT count(*) FROM container c WHERE c.path = '/' AND c.source <> ?", source(far)) == [(1,)]
        samples = sum(len(r) for r in found.values())
        total = program.sql("SELECT count(*) FROM sample")[0][0]
        assert 0 < samples < total
    with program:
        program.drained("sql")
        account = program.account("sql")
        assert account["dead_letter"] == 0
        assert account["dropped"] == {}


def is_recorded_without(program: Program, far: CadvisorHost, ts_ms: int) -> bool:
    found = readings(program, far)
    return all(found[path][-1][0] >= ts_ms for path in far.containers)


def test_an_outage_longer_than_its_memory_is_under_a_gap(far: CadvisorHost, host: HttpHost, tmp_path: Path) -> None:
    far.kept = 3
    with Program(tmp_path, _CONFIG.format(url=host.url, more="")) as program:
        begun_ms = far.now_ms()
        eventually(lambda: is_recorded(program, far, begun_ms - 1000), 60, "the other host is not recorded")
        far.is_down = True
        eventually(lambda: program.status()["sampler"]["remote_faults"].get("far"), 30, "nobody complains")
        last_ms = max(t for r in readings(program, far).values() for t, _ in r)
        eventually(lambda: far.now_ms() > last_ms + 9500, 60)
        far.is_down = False
        query = "SELECT from_ms, to_ms FROM gap WHERE source = ? AND reason = 'remote_down'"
        from_ms, to_ms = eventually(lambda: program.sql(query, source(far)), 60, "there is no gap")[0]
        assert from_ms >= last_ms
        times = [t for t, _ in eventually(lambda: readings(program, far), 30)["/"]]
        assert from_ms in times
        eventually(lambda: to_ms in [t for t, _ in readings(program, far)["/"]], 30, "the gap ends at no reading")
        assert not [t for t in times if from_ms < t < to_ms]


def test_a_remote_that_is_not_configured_any_more_ends(far: CadvisorHost, host: HttpHost, tmp_path: Path) -> None:
    with Program(tmp_path, _CONFIG.format(url=host.url, more="")) as program:
        begun_ms = far.now_ms()
        eventually(lambda: is_recorded(program, far, begun_ms - 1000), 60, "the other host is not recorded")
        program.stop()
        program.configure('[sinks.rows]\nplugin = "stdout"\n')
        program.start()
        alive = "SELECT count(*) FROM container WHERE source = ? AND ended_ms IS NULL"
        eventually(lambda: program.sql(alive, source(far)) == [(0,)], 60, "its containers live on")
        assert program.sql("SELECT count(*) FROM container WHERE source <> ? AND ended_ms IS NULL", source(far))[0][0] > 0


def test_the_tables_are_checked_without_asking(tmp_path: Path) -> None:
    good = Program(tmp_path / "good", _CONFIG.format(url="http://127.0.0.1:1", more='exclude = ["/system.slice"]'))
    assert good.call("config", "check").returncode == 0
    shown = good.call("config", "show").stdout
    assert "[remotes.far]" in shown
    assert 'format = "cadvisor"' in shown
    bad = Program(tmp_path / "bad", _CONFIG.format(url="http://127.0.0.1:1", more='format = "nagios"'))
    done = bad.call("config", "check")
    assert done.returncode == 78
    assert "remotes.far.format: expected one of cadvisor, kubelet, got 'nagios'" in done.stderr
    secret = Program(tmp_path / "secret", _CONFIG.format(url="http://127.0.0.1:1", more='token = "hush"'))
    done = secret.call("config", "check")
    assert "remotes.far.token: a secret may not stand in" in done.stderr
    assert "TIDEGAUGE_REMOTES__FAR__TOKEN" in done.stderr
    environ = {"TIDEGAUGE_REMOTES__FAR__TOKEN": "hush-hush"}
    from_environment = Program(tmp_path / "env", _CONFIG.format(url="http://127.0.0.1:1", more=""), environ)
    assert from_environment.call("config", "check").returncode == 0
    assert "hush-hush" not in from_environment.call("config", "show").stdout

"""The page of the running program: against recorded answers of cAdvisor, promtool, and a real Prometheus that scrapes it."""

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import bcrypt
import psutil
import pytest
from tests.api.access import certificates, secret
from tests.api.exposition_rig import Parsed, parsed
from tests.e2e.program import Program, eventually
from tests.servers import free_port
from tests.support import need

pytestmark = [pytest.mark.integration, pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

OTHERWISE = {
    "container_last_seen": "the time of asking",
    "container_start_time_seconds": "the recorded tree is made anew for the test",
    "container_memory_failures_total": "0.35 leaves out the page faults of child cgroups on v1, whatever the scope",
    "container_threads": "0.35 has no pids controller there and says 0",
    "container_threads_max": "the same",
}
"""Families whose values differ from the recorded ones, and why."""
LINT = {
    "container_memory_failcnt": 'counter metrics should have "_total" suffix',
    "container_hugetlb_failcnt": 'counter metrics should have "_total" suffix',
    "container_fs_inodes_total": 'non-counter metrics should not have "_total" suffix',
    "container_network_tcp_usage_total": 'non-counter metrics should not have "_total" suffix',
    "container_network_tcp6_usage_total": 'non-counter metrics should not have "_total" suffix',
    "container_network_udp_usage_total": 'non-counter metrics should not have "_total" suffix',
    "container_network_udp6_usage_total": 'non-counter metrics should not have "_total" suffix',
    "container_network_advance_tcp_stats_total": 'non-counter metrics should not have "_total" suffix',
    "container_cpu_load_d_average_10s": "metric names should not contain abbreviated units",
    **dict.fromkeys(
        ("machine_thread_siblings_count", "machine_node_hugepages_count", "machine_dimm_count"),
        'non-histogram and non-summary metrics should not have "_count" suffix',
    ),
    "cadvisor_version_info": "label names should be written in 'snake_case' not 'camelCase'",
}
"""What promtool says of names that cAdvisor chose."""


def _index(page: Parsed) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    of_machines = {"machine_id", "system_uuid", "boot_id"}
    return {(s.name, frozenset((k, v) for k, v in s.labels if v and k not in of_machines)): s.value for s in page.series}


def test_what_did_not_move_while_it_was_recorded_has_the_values_that_cadvisor_told(
    tmp_path: Path, recorded_tree: Callable[[str], Path]
) -> None:
    recording = recorded_tree("cgroup1-vm")
    theirs = parsed((recording / "cadvisor-0.35/metrics.txt").read_text())
    ids = {dict(s.labels)["id"] for s in theirs.series if s.name == "container_memory_rss"}
    names = ("container_memory_rss", "container_cpu_user_seconds_total", "container_spec_memory_limit_bytes")
    pages = []
    for snapshot in ("snapshot-1", "snapshot-2"):
        root = recording / snapshot
        with Program(tmp_path / snapshot, f'[roots]\nsys = "{root}/sys"\nproc = "{root}/proc"\n') as program:

            def is_whole(page: Parsed) -> bool:
                there = [{dict(s.labels)["id"] for s in page.series if s.name == name} for name in names]
                return all(found >= ids for found in there) and "machine_memory_bytes" in page.kinds

            whole = eventually(lambda: p if is_whole(p := parsed(program.get("/metrics").decode())) else None, 60)
            pages.append(_index(whole))
    first, second = pages
    still = {key: value for key, value in first.items() if second.get(key) == value and key[0] not in OTHERWISE}
    compared = {key: value for key, value in _index(theirs).items() if key in still}
    assert {key: (still[key], value) for key, value in compared.items() if still[key] != value} == {}
    assert len(compared) > 200
    assert len({name for name, _ in compared}) > 20


def test_promtool_takes_the_page_and_complains_of_cadvisors_names_alone(tmp_path: Path) -> None:
    need(shutil.which("promtool"), "promtool (Debian package prometheus)")
    with Program(tmp_path, '[metrics]\nenable = ["all"]\n') as program:
        eventually(
            lambda: b"container_spec_" in program.get("/metrics") and b"container_fs_limit" in program.get("/metrics"), 60
        )
        page = program.get("/metrics")
    tool = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False, timeout=60)
    said = set((tool.stdout + tool.stderr).decode().splitlines())
    assert tool.returncode in (0, 3), said
    assert said <= {f"{name} {what}" for name, what in LINT.items()}
    assert len(parsed(page.decode()).kinds) > 60


@contextmanager
def _prometheus(
    folder: Path, port: int, target: str, interval: str = "2s", how: str = ""
) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """A real Prometheus that scrapes the target, with what `how` adds to the job; gives the function that asks it."""
    folder.mkdir()
    (folder / "prometheus.yml").write_text(
        f"global: {{scrape_interval: {interval}, scrape_timeout: {interval}}}\n"
        f'scrape_configs: [{{job_name: cadvisor, static_configs: [{{targets: ["{target}"]}}]{how}}}]\n'
    )
    command = [
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]

    def ask(query: str) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(url, timeout=10) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return result

    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield ask
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_a_real_prometheus_has_the_series_with_right_values_and_drops_those_of_a_container_that_ended(
    tmp_path: Path, cgroups: dict[str, Path]
) -> None:
    need(shutil.which("prometheus"), "Prometheus (Debian package prometheus)")
    ours, theirs = free_port(), free_port()
    config = f'[http]\nlisten = "127.0.0.1:{ours}"\n'
    parent = cgroups["one"].parent.name
    name = "container_cpu_usage_seconds_total"
    with Program(tmp_path / "program", config), _prometheus(tmp_path / "prometheus", theirs, f"127.0.0.1:{ours}") as ask:

        def value(query: str) -> float:
            return eventually(lambda: [float(s["value"][1]) for s in ask(query)], 90, query)[0]

        assert value('up{job="cadvisor"} == 1') == 1
        assert value("machine_memory_bytes") == psutil.virtual_memory().total
        assert value("machine_cpu_cores") == psutil.cpu_count()
        assert value("container_scrape_error == 0") == value("machine_scrape_error == 0") == 0

        def used_s(folder: Path) -> float:
            """CPU time so far, by the kernel's own counter."""
            v1 = folder / "cpuacct.usage"
            if v1.exists():
                return int(v1.read_text()) / 1e9
            words = (folder / "cpu.stat").read_text().split()
            return int(words[words.index("usage_usec") + 1]) / 1e6

        for cgroup, folder in cgroups.items():
            query = f'sum({name}{{id="/{parent}/{cgroup}"}})'
            before = used_s(folder)
            # what Prometheus has in the end is no less than the kernel had, and no more than it has by then
            now = eventually(lambda: [v for s in ask(query) if (v := float(s["value"][1])) >= before], 90, query)[0]  # noqa: B023
            assert before <= now <= used_s(folder) + 1e-6  # a sum of floats
        assert value('count(tidegauge_sink_written_rows_total{sink="memory"})') == 1
        request = urllib.request.Request(f"http://127.0.0.1:{ours}/metrics", headers={"Accept": "application/openmetrics-text"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            page = parsed(answer.read().decode(), is_openmetrics=True)
        assert page.values("tidegauge_build_info") == [1]
        # the name of the family without `_total`: Prometheus took OpenMetrics
        family = urllib.parse.urlencode({"metric": name.removesuffix("_total")})
        with urllib.request.urlopen(f"http://127.0.0.1:{theirs}/api/v1/targets/metadata?{family}", timeout=10) as answer:
            assert [known["type"] for known in json.load(answer)["data"]] == ["counter"]
        _end(cgroups["three"])
        both = f'{name}{{id=~"/{parent}/(two|three)"}}'
        # far less than the five minutes that Prometheus goes on with series of which it does not know that they ended
        eventually(lambda: {s["metric"]["id"] for s in ask(both)} == {f"/{parent}/two"}, 100, f"{both}: the third goes on")


def test_a_real_prometheus_shows_its_credentials_over_tls(tmp_path: Path) -> None:
    need(shutil.which("prometheus") and shutil.which("openssl"), "Prometheus (Debian package prometheus) and openssl")
    keys = certificates(tmp_path)
    hashed = bcrypt.hashpw(b"correct horse", bcrypt.gensalt(5)).decode()
    secret(tmp_path / "users", f"ann:{hashed}\n")
    config = f"""
[http]
listen = "127.0.0.1:{(ours := free_port())}"
auth_file = "{tmp_path}/users"
tls_cert = "{keys}/server.pem"
tls_key = "{keys}/server.key"
"""
    tls = f', scheme: https, tls_config: {{ca_file: "{keys}/ca.pem"}}'
    basic = f"{tls}, basic_auth: {{username: ann, password: correct horse}}"
    target = f"127.0.0.1:{ours}"
    with (
        Program(tmp_path / "program", config),
        _prometheus(tmp_path / "in", free_port(), target, how=basic) as ask,
        _prometheus(tmp_path / "out", free_port(), target, how=tls) as ask_without,
    ):
        eventually(lambda: ask("machine_memory_bytes"), 90, "it is not let in")
        assert [float(s["value"][1]) for s in ask("machine_memory_bytes")] == [psutil.virtual_memory().total]
        assert eventually(lambda: ask_without("up"), 90, "it does not scrape")[0]["value"][1] == "0"
        assert ask_without("machine_memory_bytes") == []


def _end(folder: Path) -> None:
    """Removes the cgroup with its process, from every hierarchy."""
    for pid in (folder / "cgroup.procs").read_text().split():
        with suppress(psutil.NoSuchProcess):
            psutil.Process(int(pid)).kill()
    relative = folder.relative_to("/sys/fs/cgroup").parts[-2:]
    for place in (folder, *Path("/sys/fs/cgroup").glob(f"*/{relative[0]}/{relative[1]}")):

        def is_removed(place: Path = place) -> bool:
            try:
                place.rmdir()
            except FileNotFoundError:
                return True
            except OSError:
                return False
            return True

        eventually(is_removed, 30, f"{place} stays")

"""The listener under load: `tidegauge run` over 1000 real cgroups read each second, while dashboards and scrapers ask.

20 compressed scrapes and 50 REST requests a second: 45 for one container with 60 samples, each for another of the containers, 4
for the machine, one for all containers with a sample each. The client is a process of its own, its CPU time is told apart. The
lateness of ticks is taken before and under the load, from the stored times of the host's samples.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.cgroups import Cgroups
from bench.collect import allow_many_files
from bench.data import folder as fresh_folder
from bench.program import Program, lateness_by_tick, p99
from bench.report import Row, Section

SAMPLES = 60
KIND_S = 15.0
"""How long each kind of request is sent by itself, to tell what one costs."""


class Kind(NamedTuple):
    name: str
    rate_hz: int
    paths: Sequence[str]
    body: str = ""
    is_gzip: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.name,
            "rate_hz": self.rate_hz,
            "method": "POST" if self.body else "GET",
            "paths": self.paths,
            "body": self.body,
            "gzip": self.is_gzip,
        }


def kinds(paths: Sequence[str]) -> list[Kind]:
    return [
        Kind("/metrics, compressed", 20, ["/metrics"], is_gzip=True),
        Kind(
            f"one container, {SAMPLES} samples", 45, [f"/api/v1.3/containers{p}" for p in paths], f'{{"num_stats":{SAMPLES}}}'
        ),
        Kind("machine", 4, ["/api/v1.3/machine"]),
        Kind("all containers, one sample", 1, ["/api/v1.3/subcontainers/"], '{"num_stats":1}'),
    ]


class Load(NamedTuple):
    """What came of some seconds of load."""

    answers: Mapping[str, Mapping[str, Any]]
    """By kind: latencies `ms`, `bytes`, how many were `different`, `faults` by what they were."""
    seconds: float
    client_s: float
    """CPU time of the client, and of each process of the program."""
    parent_s: float
    sampler_s: float
    server_s: float

    @property
    def count(self) -> int:
        return sum(len(found["ms"]) for found in self.answers.values())

    @property
    def faults(self) -> int:
        return sum(sum(found["faults"].values()) for found in self.answers.values())


def put(program: Program, wanted: Sequence[Kind], seconds: float) -> Load:
    """Has a client ask for `seconds`, and returns when the last answer has come."""
    asked = json.dumps({"url": program.url, "seconds": seconds, "requests": [kind.as_dict() for kind in wanted]})
    start, before = time.monotonic(), program.cpu_ns()
    done = subprocess.run(
        [sys.executable, "-m", "bench.load_client", asked],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        timeout=seconds + 120,
        check=True,
    )
    said = json.loads(done.stdout)
    used = [(b - a) / 1e9 for a, b in zip(before, program.cpu_ns(), strict=True)]
    return Load(said["kinds"], time.monotonic() - start, said["cpu_s"], *used)


def run(folder: Path, count: int = 1000, seconds: float = 60) -> list[Section]:
    allow_many_files()
    folder.chmod(0o755)
    with (
        Cgroups(count, folder, has_network=True) as group,
        Program(fresh_folder(folder, f"load{count}"), is_dynamic=False) as program,
    ):
        group.busy(max(1, count * 3 // 100))
        program.wait_for(count)
        time.sleep(5)
        wanted = kinds(group.paths)
        # as long as it takes until there are as many samples as are asked for
        quiet_s = max(seconds, SAMPLES + 5)
        start_ms, start, before = _wall_ms(), time.monotonic(), program.cpu_ns()
        time.sleep(quiet_s)
        used_s = [(b - a) / 1e9 for a, b in zip(before, program.cpu_ns(), strict=True)]
        idle = [each / (time.monotonic() - start) for each in used_s]
        quiet_ms, quiet_pss = _wall_ms(), program.pss_mib()
        put(program, wanted, 3)  # code and caches that the first requests of each kind warm up
        load_ms = _wall_ms()
        load = put(program, wanted, seconds)
        end_ms = _wall_ms()
        pss = program.pss_mib()
        alone = {kind.name: put(program, [kind], min(seconds, KIND_S)) for kind in wanted}
        time.sleep(2)  # the last ticks reach the store
        ticks = lateness_by_tick(program, start_ms)
    without = [late for ts, late in ticks.items() if ts < quiet_ms]
    under = [late for ts, late in ticks.items() if load_ms <= ts < end_ms]
    return [
        Section(
            f"Requests, {count} containers read each second",
            [
                *(_latency(kind, load.answers[kind.name]) for kind in wanted),
                *(_slowest(kind, load.answers[kind.name]) for kind in wanted),
                Row("answered", "1/s", (load.count / load.seconds,)),
                Row("not answered", "requests", (load.faults,), "0", 0),
                Row("different pages of /metrics", "1/s", (load.answers[wanted[0].name]["different"] / load.seconds,)),
                Row("sent", "MB/s", (sum(f["bytes"] for f in load.answers.values()) / load.seconds / 1e6,)),
            ],
            f"{seconds:.0f} s; the latency runs from the time at which a request was due to the last byte of its answer.",
        ),
        Section(
            "CPU time under that load",
            [
                Row("the server, of a core", "%", (100 * load.server_s / load.seconds,)),
                Row("the server without requests, of a core", "%", (100 * idle[2],)),
                Row("the server for a request, the mean of all", "ms", (_each_ms(load, idle[2]),)),
                *(Row(f"the server for one: {name}", "ms", (_each_ms(one, idle[2]),)) for name, one in alone.items()),
                Row("the sampler, of a core", "%", (100 * load.sampler_s / load.seconds,)),
                Row("the sampler without requests, of a core", "%", (100 * idle[1],)),
                Row("the client, of a core", "%", (100 * load.client_s / load.seconds,)),
                Row("memory of the server (PSS) without requests", "MiB", (quiet_pss[2],)),
                Row("memory of the server (PSS) under load", "MiB", (pss[2],)),
            ],
            f"What one costs: its kind alone for {min(seconds, KIND_S):.0f} s, above what the server takes without requests.",
        ),
        Section(
            f"Lateness of ticks, {count} containers read each second",
            [
                Row("without load, p99", "ms", (p99(without),), "under 50", 50),
                Row("under load, p99", "ms", (p99(under),), "under 50", 50),
                Row("without load, all ticks", "ms", tuple(without)),
                Row("under load, all ticks", "ms", tuple(under)),
                Row("ticks stored of those due under load", "%", (100 * len(under) / ((end_ms - load_ms) / 1000),)),
            ],
            f"{os.cpu_count()} CPUs for all of it, the client included.",
        ),
    ]


def _latency(kind: Kind, found: Mapping[str, Any]) -> Row:
    return Row(f"{kind.name}, {kind.rate_hz}/s: latency", "ms", tuple(found["ms"]))


def _slowest(kind: Kind, found: Mapping[str, Any]) -> Row:
    return Row(f"{kind.name}: p99", "ms", (p99(found["ms"]),))


def _each_ms(load: Load, idle: float) -> float:
    """CPU time of the server for a request, above what it takes by itself (`idle`, a share of a core)."""
    return 1000 * (load.server_s - idle * load.seconds) / max(1, load.count)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000

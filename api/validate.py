"""`/validate/`: what of this host works, what does not, and what to do, as plain text for people.

Each section has a verdict in cAdvisor's words, so that what looks for them finds them; the rules are our own.
"""

import textwrap
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from tidegauge.pipeline.errors import RequestError

BEST, GOOD = "[Supported and recommended]", "[Supported, but not recommended]"
BAD, UNKNOWN = "[Unsupported]", "[Unknown]"

TIMEOUT_S = 20.0
_KEPT_S = 10.0
"""What the sampler found is shown again for so long: finding it costs a second of CPU."""
_WIDTH = 110


class Shown(Protocol):
    """What of the running server is looked at; see `api.app.ServerView`."""

    def status(self) -> dict[str, Any]: ...
    def ask(self, kind: str, arguments: Mapping[str, Any], timeout_s: float) -> Any: ...


class Section(NamedTuple):
    name: str
    verdict: str
    lines: tuple[str, ...]


def routes(view: Shown) -> list[Route]:
    kept: list[tuple[float, Mapping[str, Any]]] = []

    def page() -> str:
        now = time.monotonic()
        fault = None
        if not kept or now - kept[0][0] > _KEPT_S:
            try:
                kept[:] = [(now, view.ask("validate", {}, TIMEOUT_S))]
            except RequestError as exc:
                kept.clear()
                fault = str(exc)
        return report(view.status(), kept[0][1] if kept else None, fault)

    async def validate(request: Request) -> Response:
        return PlainTextResponse(await run_in_threadpool(page))

    async def moved(request: Request) -> Response:
        return RedirectResponse("/validate/", 301)

    return [Route("/validate/", validate), Route("/validate", moved)]


def report(status: Mapping[str, Any], facts: Mapping[str, Any] | None, fault: str | None = None) -> str:
    """The page. `facts` are those of the sampler (`cli/validate_worker.py`); None: it did not say, and `fault` is why."""
    out = [f"tidegauge {status['version']} on {status['host']}", ""]
    if facts is None:
        out += [f"Host: {UNKNOWN}", f"    {fault or 'the sampler did not answer'}", ""]
    sections = [*(_of_host(facts) if facts is not None else ()), *_of_program(status)]
    for section in sections:
        out.append(f"{section.name}: {section.verdict}")
        for line in section.lines:
            out += textwrap.wrap(line, _WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
        out.append("")
    return "\n".join(_printable(line) for line in out)


def _printable(line: str) -> str:
    """Names of containers and texts of stores may hold anything."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


def _of_host(facts: Mapping[str, Any]) -> Iterator[Section]:
    yield Section("Operating system", BEST if facts["os"] else UNKNOWN, (facts["os"] or "not told by os-release",))
    yield _kernel(facts)
    yield _cgroups(facts)
    yield _pressure(facts)
    yield _rights(facts)
    yield _absent(facts)


def _kernel(facts: Mapping[str, Any]) -> Section:
    release = facts["kernel"]
    try:
        version = tuple(int(part) for part in release.split("-")[0].split(".")[:2])
    except ValueError:
        return Section("Kernel", UNKNOWN, (release,))
    if version < (3, 10):
        return Section("Kernel", BAD, (f"{release}; 3.10 is the oldest that was thought of.",))
    if version < (4, 20):
        return Section("Kernel", GOOD, (f"{release}; pressure is told from 4.20 on, much of cgroup v2 from 4.15 on.",))
    return Section("Kernel", BEST, (f"{release}; Python {facts['python']}",))


def _cgroups(facts: Mapping[str, Any]) -> Section:
    name, mode, has = "Cgroups", facts["cgroup_mode"], facts["controllers"]
    listed = f"mode {mode}; controllers: {', '.join(has) or 'none'}"
    if mode == "none" or not facts["has_hierarchy"]:
        return Section(
            name, BAD, (listed, "No hierarchy, so no container is seen. In a container, mount /sys/fs/cgroup of the host.")
        )
    io = {"io", "blkio"} & set(has)
    lacking = [c for c in ("cpu", "memory", "pids") if c not in has] + ([] if io else ["io"])
    if lacking:
        how = (
            "Enable them in cgroup.subtree_control of the root, or in the kernel's command line (cgroup_enable=memory)."
            if mode == "v2"
            else "Mount their hierarchies, or enable them in the kernel's command line (cgroup_enable=memory)."
        )
        return Section(name, GOOD, (listed, f"Not enabled: {', '.join(lacking)}; their metrics are absent. {how}"))
    if mode != "v2":
        return Section(
            name,
            GOOD,
            (listed, "It works; systemd.unified_cgroup_hierarchy=1 in the kernel's command line brings pressure and more."),
        )
    return Section(name, BEST, (listed,))


def _pressure(facts: Mapping[str, Any]) -> Section:
    if facts["has_pressure"]:
        return Section("Pressure", BEST, ("told by the kernel",))
    return Section("Pressure", GOOD, ("Not told. From Linux 4.20 on: CONFIG_PSI=y, and psi=1 in the kernel's command line.",))


def _rights(facts: Mapping[str, Any]) -> Section:
    lines = [f"user {facts['user_id']}, capabilities {_hex(facts['capabilities'])}"]
    if facts["kernel_log_fault"] is not None:
        lines.append(
            f"The kernel's log is not read ({facts['kernel_log_fault']}): OOM events lack process and name. Give CAP_SYSLOG."
        )
    if facts["sees_host_processes"] is False:
        lines.append("Not in the host's process namespace: network of containers is absent. In a container: --pid host.")
    return Section("Rights of the sampler", BEST if len(lines) == 1 else GOOD, tuple(lines))


def _hex(value: int | None) -> str:
    return "unknown" if value is None else f"{value:#x}"


def _absent(facts: Mapping[str, Any]) -> Section:
    lines = []
    for absence in facts["absences"]:
        where = f", {absence['where']}" if absence["where"] else ""
        why = "; ".join(absence["reasons"]) or "not offered here"
        metrics = f": {', '.join(absence['metrics'])}" if absence["metrics"] else ""
        lines.append(f"{' and '.join(absence['collectors'])}{where} ({why}){metrics}")
    if not facts["asked_containers"]:
        lines.append("There is no container now, so what is absent of containers is not known.")
    if not facts["absences"]:
        return Section("Metrics", BEST, ("Everything that the collectors know is there.", *lines))
    return Section("Metrics", GOOD, ("Absent here, for this user; everything else is sampled:", *lines))


def _of_program(status: Mapping[str, Any]) -> Iterator[Section]:
    sampler = status["sampler"]
    yield _runtimes(sampler)
    faults = [*status["faults"], *(f"collector {n}: {t}" for n, t in sorted(sampler.get("collector_faults", {}).items()))]
    told = f"{status['containers']} containers; {sampler.get('samples', 0)} samples"
    yield Section("Sampling", BAD if status["faults"] else GOOD if faults else BEST, (told, *faults))
    yield _journal(status)
    for name, sink in sorted(status["sinks"].items()):
        yield _sink(name, sink)


def _runtimes(sampler: Mapping[str, Any]) -> Section:
    connected: Mapping[str, bool] = sampler.get("runtime_connected", {})
    errors: Mapping[str, int] = sampler.get("runtime_errors", {})
    if not connected:
        return Section("Container runtimes", UNKNOWN, ("Nobody had to be asked for a name yet.",))
    lines = [
        f"{name}: {'answers' if is_there else 'DOES NOT ANSWER'}, {errors.get(name, 0)} questions without an answer"
        for name, is_there in sorted(connected.items())
    ]
    unnamed = sampler.get("containers_unnamed", 0)
    if unnamed:
        lines.append(f"{unnamed} containers are without name. Give the sampler the right to connect to their runtime's socket.")
    return Section("Container runtimes", BEST if all(connected.values()) and not unnamed else GOOD, tuple(lines))


def _journal(status: Mapping[str, Any]) -> Section:
    sampler = status["sampler"]
    lost = sampler.get("journal_overwritten_unread_rows", 0)
    errors = sampler.get("journal_append_errors", 0) + sampler.get("journal_sync_errors", 0) + sampler.get("log_failures", 0)
    lines = [f"{sampler.get('journal_bytes', 0)} bytes in {status['state_dir']}/journal"]
    if status["log"] is None:
        return Section("Journal", UNKNOWN, (*lines, "The sampler has not told of it yet."))
    if errors:
        lines.append(f"{errors} times it could not be written. Look at the disk below it: is it full, or read-only?")
    if lost:
        lines.append(f"{lost} rows were overwritten before every sink had read them. The sinks do not keep up.")
    return Section("Journal", GOOD if errors or lost else BEST, tuple(lines))


def _sink(name: str, sink: Mapping[str, Any]) -> Section:
    dropped = sum(sink["dropped"].values())
    lines = [f"{sink['state']}; {sink['written']} rows written, {sink['pending']} pending, {dropped} dropped"]
    if sink["last_error"]:
        lines.append(f"last error: {sink['last_error']}")
    if sink["dead_letter"]:
        lines.append(f"{sink['dead_letter']} rows were refused; see tidegauge journal dead-letters {name}.")
    return Section(f"Sink {name}", BEST if len(lines) == 1 and not dropped else GOOD, tuple(lines))

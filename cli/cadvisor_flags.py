"""cAdvisor's spellings of flags, as nested configuration: whoever starts cAdvisor today can keep the command line.

Go's flag syntax: `-x v`, `--x v`, `--x=v`; booleans `--x` or `--x=false`; durations `1m30s`. `_` and `-` are the same.
Contract: https://github.com/google/cadvisor/blob/master/docs/runtime_options.md
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import click

from tidegauge.pipeline.groups import GROUPS
from tidegauge.pipeline.times import go_duration_s


def _boolean(text: str) -> bool:
    value = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}.get(text.lower())
    if value is None:
        raise ValueError("true or false")
    return value


def _text(text: str) -> str:
    return text


def _file(text: str) -> str | None:
    """Absolute: a daemon may change its folder. The empty text, cAdvisor's default, is none."""
    return os.path.abspath(text) if text else None


def _prefix(text: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*/?", text):
        raise ValueError("a path such as /cadvisor")
    return text.rstrip("/")


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise ValueError("a port from 0 to 65535")
    return int(text)


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:9]) <= 10_000:
        raise ValueError("a number from 1 to 10000")
    return int(text)


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _unix_socket(text: str) -> list[str]:
    path = text.removeprefix("unix://")
    if not path.startswith("/"):
        raise ValueError("a Unix socket, unix:///PATH")
    return [path]


def _engine_address(text: str) -> list[str]:
    if text.startswith("tcp://"):
        return [text]
    try:
        return _unix_socket(text)
    except ValueError as exc:
        raise ValueError("unix:///PATH or tcp://HOST:PORT") from exc


def _kinds(text: str) -> list[str]:
    """Metric kinds: the groups that cAdvisor knows too."""
    kinds = _list(text)
    if any(kind not in GROUPS or kind in _OWN_GROUPS for kind in kinds):
        raise ValueError(f"some of {', '.join(g for g in GROUPS if g not in _OWN_GROUPS)}")
    return kinds


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ValueError("a number of events from 0")
    return int(text)


_EVENTS = {"default": "default", "oom": "oom", "oomKill": "oom_kill"} | {
    "containerCreation": "creation",
    "containerDeletion": "deletion",
}
"""cAdvisor's names of events -> our kinds."""


def _by_event(parse: Callable[[str], Any]) -> Callable[[str], dict[str, Any]]:
    def parse_all(text: str) -> dict[str, Any]:
        out = {}
        for part in _list(text):
            kind, sep, value = part.partition("=")
            if not sep or kind not in _EVENTS:
                raise ValueError(f"KIND=VALUE, a comma between two, each kind one of {', '.join(_EVENTS)}")
            out[_EVENTS[kind]] = parse(value)
        return out

    return parse_all


_OWN_GROUPS = ("filesystem", "pids", "host")
"""Groups that cAdvisor's flags cannot speak of."""

_ID = "[0-9a-f]" * 64
_CONTAINERS = (f"/*{_ID}", f"/*{_ID}.scope")
"""Patterns of cgroup paths that end in a runtime's container."""


class Flag(NamedTuple):
    """`path` is where the value goes in the configuration; "" where `translate` builds on it, None for no effect."""

    parse: Callable[[str], Any]
    path: str | None
    why: str = ""


FLAGS: Mapping[str, Flag] = {
    "listen_ip": Flag(_text, ""),
    "port": Flag(_port, ""),
    "http_auth_file": Flag(_file, "http.auth_file"),
    "http_auth_realm": Flag(_text, "http.auth_realm"),
    "http_digest_file": Flag(_file, "http.digest_file"),
    "http_digest_realm": Flag(_text, "http.digest_realm"),
    "url_base_prefix": Flag(_prefix, "http.url_base_prefix"),
    "profiling": Flag(_boolean, "http.debug"),
    "housekeeping_interval": Flag(go_duration_s, "sampler.base_interval_s"),
    "max_housekeeping_interval": Flag(go_duration_s, "sampler.max_interval_s"),
    "allow_dynamic_housekeeping": Flag(_boolean, "sampler.dynamic"),
    "global_housekeeping_interval": Flag(go_duration_s, "sampler.walk_interval_s"),
    "update_machine_info_interval": Flag(go_duration_s, "sampler.machine_interval_s"),
    "raw_cgroup_prefix_whitelist": Flag(_list, ""),
    "storage_driver": Flag(_list, ""),
    "storage_duration": Flag(go_duration_s, "sinks.memory.storage_duration_s"),
    "storage_driver_host": Flag(_text, ""),
    "storage_driver_secure": Flag(_boolean, ""),
    "storage_driver_db": Flag(_text, ""),
    "storage_driver_user": Flag(_text, ""),
    "storage_driver_buffer_duration": Flag(go_duration_s, ""),
    "storage_driver_influxdb_retention_policy": Flag(_text, ""),
    "event_storage_age_limit": Flag(_by_event(go_duration_s), "sinks.memory.event_age_limit_s"),
    "event_storage_event_limit": Flag(_by_event(_count), "sinks.memory.event_limit"),
    "disable_root_cgroup_stats": Flag(_boolean, ""),
    "application_metrics_count_limit": Flag(_limit, "collectors.app.metrics_limit"),
    "docker_only": Flag(_boolean, ""),
    "disable_metrics": Flag(_kinds, ""),
    "enable_metrics": Flag(_kinds, ""),
    "docker": Flag(_engine_address, "runtimes.docker.sockets"),
    "docker_tls": Flag(_boolean, ""),
    "docker_tls_cert": Flag(_text, ""),
    "docker_tls_key": Flag(_text, ""),
    "docker_tls_ca": Flag(_text, ""),
    "podman": Flag(_unix_socket, "runtimes.podman.sockets"),
    "store_container_labels": Flag(_boolean, ""),
    "whitelisted_container_labels": Flag(_list, ""),
    "env_metadata_whitelist": Flag(_list, ""),
    "containerd": Flag(_text, None, "containerd's state folder is read: see runtimes.containerd.state"),
    "containerd_namespace": Flag(_text, None, "containers of all namespaces are named"),
    "docker_root": Flag(_text, None, "nothing below it is read"),
    "docker_env_metadata_whitelist": Flag(_text, None, "env_metadata_whitelist is for all runtimes"),
    "containerd_env_metadata_whitelist": Flag(_text, None, "env_metadata_whitelist is for all runtimes"),
    "crio_client_timeout": Flag(go_duration_s, None, "CRI-O's state folder is read"),
    "container_hints": Flag(_text, None, "no hints are read"),
    "enable_load_reader": Flag(_boolean, None, "tasks are counted unless the group cpuLoad is off"),
    "machine_id_file": Flag(_text, None, "the usual places are read"),
    "boot_id_file": Flag(_text, None, "the usual place is read"),
    "log_cadvisor_usage": Flag(_boolean, None, "the program is measured like any other"),
    "jitter_factor": Flag(_text, None, "sampling is not jittered"),
    "initial_splay_factor": Flag(_text, None, "sampling is not jittered"),
    "max_procs": Flag(_text, None, "it has no meaning here"),
    "logtostderr": Flag(_boolean, None, "logs always go to standard error"),
    "alsologtostderr": Flag(_boolean, None, "logs always go to standard error"),
    "stderrthreshold": Flag(_text, None, "see log.level"),
    "v": Flag(_text, None, "see log.level"),
    "vmodule": Flag(_text, None, "see log.level"),
}

_BOOLEANS = frozenset(name for name, flag in FLAGS.items() if flag.parse is _boolean)
_DRIVERS = {"influxdb": "influxdb", "stdout": "stdout", "memory": "memory", "sql": "sql", "sqlite": "sql"}


def translate(arguments: Sequence[str], warn: Callable[[str], None]) -> dict[str, Any]:
    """Nested configuration of the arguments. click.UsageError (exit 2) names the flag, what was expected and got."""
    given = _parse(arguments)
    out: dict[str, Any] = {}
    for name, value in given.items():
        flag = FLAGS[name]
        if flag.path is None:
            warn(f"--{name} is taken and has no effect: {flag.why}")
        elif flag.path:
            put(out, flag.path, value)
    if "listen_ip" in given or "port" in given:
        address = str(given.get("listen_ip") or "127.0.0.1")
        put(out, "http.listen", f"{f'[{address}]' if ':' in address else address}:{given.get('port', 4194)}")
    if given.get("store_container_labels"):
        put(out, "metadata.labels", ["*"])
    elif "store_container_labels" in given or "whitelisted_container_labels" in given:
        put(out, "metadata.labels", given.get("whitelisted_container_labels", []))
    if "env_metadata_whitelist" in given:
        put(out, "metadata.environment", [f"{prefix}*" for prefix in given["env_metadata_whitelist"]])
    prefixes = given.get("raw_cgroup_prefix_whitelist")
    if prefixes or given.get("docker_only"):
        raw = [pattern for p in prefixes or () for pattern in (p, p.rstrip("/") + "/*")]
        put(out, "sampler.include", [*_CONTAINERS, *raw])
    if "disable_root_cgroup_stats" in given:
        put(out, "sampler.sample_host", not given["disable_root_cgroup_stats"])
    _metrics(given, out)
    _docker_tls(given, out, warn)
    if "storage_driver" in given:
        chosen = set()
        for driver in given["storage_driver"]:
            if driver not in _DRIVERS:
                raise click.UsageError(f"--storage_driver: expected some of {', '.join(_DRIVERS)}, got {driver!r}")
            chosen.add(_DRIVERS[driver])
        for sink in set(_DRIVERS.values()) - {"memory"}:
            put(out, f"sinks.{sink}.enabled", sink in chosen)
    _influxdb(given, out, warn)
    return out


def _metrics(given: Mapping[str, Any], out: dict[str, Any]) -> None:
    """A list that is given replaces cAdvisor's own, so that kinds which are off by default are on unless it names them."""
    if kinds := given.get("enable_metrics"):
        put(out, "metrics", {"enable": [*kinds, *_OWN_GROUPS], "disable": ["all"]})
    elif "disable_metrics" in given:
        put(out, "metrics", {"enable": ["all"], "disable": given["disable_metrics"]})


def _docker_tls(given: Mapping[str, Any], out: dict[str, Any], warn: Callable[[str], None]) -> None:
    """Without `--docker-tls` the files have no effect; with it they have cAdvisor's names in the current folder by default."""
    if given.get("docker_tls"):
        put(out, "runtimes.docker.tls", True)
        for key in ("cert", "key", "ca"):
            put(out, f"runtimes.docker.tls_{key}", os.path.abspath(given.get(f"docker_tls_{key}", f"{key}.pem")))
        return
    for name in given:
        if name in ("docker_tls_cert", "docker_tls_key", "docker_tls_ca"):
            warn(f"--{name} is taken and has no effect without --docker-tls")


_INFLUXDB = {
    "storage_driver_db": ("database", "bucket"),
    "storage_driver_user": ("user",),
    "storage_driver_buffer_duration": ("flush_interval_s",),
    "storage_driver_influxdb_retention_policy": ("retention_policy",),
}


def _influxdb(given: Mapping[str, Any], out: dict[str, Any], warn: Callable[[str], None]) -> None:
    """Flags of the InfluxDB driver; without `--storage_driver=influxdb` they have no effect, as in cAdvisor."""
    names = [n for n in given if n in _INFLUXDB or n in ("storage_driver_host", "storage_driver_secure")]
    if not out.get("sinks", {}).get("influxdb", {}).get("enabled"):
        for name in names:
            warn(f"--{name} is taken and has no effect without --storage_driver=influxdb")
        return
    scheme = "https" if given.get("storage_driver_secure") else "http"
    put(out, "sinks.influxdb.url", f"{scheme}://{given.get('storage_driver_host', 'localhost:8086')}")
    for name in names:
        for key in _INFLUXDB.get(name, ()):
            put(out, f"sinks.influxdb.{key}", given[name])


def _parse(arguments: Sequence[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word in ("-", "--"):
            raise click.UsageError(f"unexpected argument {word!r}")
        name, sep, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if name == "storage_driver_password":
            raise click.UsageError(
                "--storage_driver_password: a secret may not stand on the command line; set sinks.influxdb.password_file"
            )
        if name not in FLAGS:
            raise click.UsageError(f"no such option: {word.partition('=')[0]}")
        if not sep:
            if name in _BOOLEANS:
                value = "true"
            elif rest:
                value = rest.pop(0)
            else:
                raise click.UsageError(f"--{name}: expected a value")
        try:
            given[name] = FLAGS[name].parse(value)
        except ValueError as exc:
            raise click.UsageError(f"--{name}: expected {exc}, got {value!r}") from exc
    return given


def is_with_one_dash(word: str) -> bool:
    """True for a flag of more than one letter in Go's spelling: `-port=1`, `-port`."""
    name = word[1:].partition("=")[0].replace("-", "_")
    return word.startswith("-") and len(name) > 1 and name in FLAGS


def put(into: dict[str, Any], path: str, value: Any) -> None:
    """Sets a nested key given as `a.b.c`."""
    *parents, last = path.split(".")
    for part in parents:
        into = into.setdefault(part, {})
    into[last] = value

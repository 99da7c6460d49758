"""The configuration: one TOML file, `TIDEGAUGE_*` variables and flags, checked once, as frozen Structs.

Order of strength: flags, environment, file, defaults; the defaults stand in the Structs alone. Every plug-in owns the table
that bears its name; runner options stand in the same table and are the same for every sink. A variable names its key with
two underscores a level: `TIDEGAUGE_SINKS__INFLUXDB__URL`. Secrets (`token`, `password`) come from the environment or from a
file named by the key with `_file`, never from the configuration file.
"""

import os
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tidegauge.pipeline import registry
from tidegauge.pipeline.errors import ConfigError
from tidegauge.pipeline.groups import MetricsConfig
from tidegauge.pipeline.journal import JournalConfig
from tidegauge.pipeline.metadata import MetadataConfig
from tidegauge.pipeline.options import RunnerOptions
from tidegauge.pipeline.remote_options import RemoteOptions
from tidegauge.pipeline.sampler_config import SamplerConfig

SECRET_KEYS = frozenset({"token", "password"})
ENV_PREFIX = "TIDEGAUGE_"
_ENV_NOT_KEYS = ("TIDEGAUGE_CONFIG", "TIDEGAUGE_TEST", "TIDEGAUGE_VM")
"""Variables that are no configuration keys: the file itself, and what the tests read."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""Name of a sink's table: cursor and dead letters are files of that name."""

MOST_REMOTES = 64
"""A thread each; and what is counted of them all goes to the server in one message of bounded size."""

DEFAULT_SINKS: Mapping[str, Mapping[str, Any]] = {"memory": {}, "sql": {}}
"""Run unless `enabled = false` stands in their table: recent samples for the API, and history on SQLite."""


class RootsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the host's kernel files are; inside a container they lie below a mount."""

    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    rootfs: Path = Path("/")


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class HttpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The listener. Empty `listen`: no TCP; empty `socket`: no Unix socket."""

    listen: str = "127.0.0.1:4194"
    socket: str | None = None
    """None: in the runtime folder (default state folder) or in the state folder (any other)."""
    allow_remote: bool = False
    """True: an address beyond loopback is taken although nobody is asked for a credential."""
    auth_file: Path | None = None
    """Users and hashes as htpasswd makes them: asks for HTTP Basic."""
    auth_realm: str = "localhost"
    digest_file: Path | None = None
    """Users and hashes as htdigest makes them: asks for HTTP Digest."""
    digest_realm: str = "localhost"
    """The realm in the file of `digest_file`; other realms there do not count."""
    token_file: Path | None = None
    """Bearer tokens, one a line."""
    tls_cert: Path | None = None
    """PEM of the certificate and what leads to its CA: TLS on `listen`."""
    tls_key: Path | None = None
    """PEM of its key, without a passphrase. None: it stands in the file of `tls_cert`."""
    tls_client_ca: Path | None = None
    """PEM of the CAs of clients: who has no certificate of theirs is not let in."""
    debug: bool = False
    """True: stacks, profile and memory of the processes below `/debug/`, for who has a credential or the Unix socket."""
    query: bool = False
    """True: questions in SQL on `/api/v1/query`, for who has a credential or the Unix socket."""
    query_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 10.0
    """How long such a question may take; at most nine tenths of `request_timeout_s`."""
    url_base_prefix: Annotated[str, msgspec.Meta(pattern=r"^(/[A-Za-z0-9._~-]+)*$")] = ""
    """Path under which a proxy shows the listener, such as `/cadvisor`: it is taken off before each path."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that requests may bear besides localhost, the addresses listened on and this host's name."""
    max_connections: Annotated[int, msgspec.Meta(ge=1)] = 512
    max_requests: Annotated[int, msgspec.Meta(ge=1)] = 64
    """Requests served at a time; more are answered 503."""
    max_body_bytes: Annotated[int, msgspec.Meta(ge=0)] = 1 << 20
    request_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 30.0
    compat: Literal["", "strict"] = ""
    """`strict`: cAdvisor's REST API answers as cAdvisor does where it errs too; docs/rest-api.md lists where."""
    metrics_timestamps: bool = False
    """True: samples of containers on `/metrics` bear the time at which they were taken, as cAdvisor's do."""

    @property
    def asks_password(self) -> bool:
        """True if a request over TCP has to bear a password or a token."""
        return any(file is not None for file in (self.auth_file, self.digest_file, self.token_file))

    @property
    def asks_credential(self) -> bool:
        """True if it has to come from who has a password, a token or a certificate."""
        return self.asks_password or self.tls_client_ca is not None

    @property
    def is_remote(self) -> bool:
        """True if the address is reached from other machines."""
        return bool(self.listen) and not is_loopback(split_address(self.listen)[0])


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything, as the processes take it. The tables of plug-ins are held raw; `collecting.check` checks them."""

    state_dir: Path
    host: str
    server_user: str = "tidegauge"
    """User of the server process when started as root; `nobody` if there is no such user."""
    log: LogConfig = LogConfig()
    roots: RootsConfig = RootsConfig()
    sampler: SamplerConfig = SamplerConfig()
    metrics: MetricsConfig = MetricsConfig()
    metadata: MetadataConfig = MetadataConfig()
    journal: JournalConfig = JournalConfig()
    http: HttpConfig = HttpConfig()
    collectors: Mapping[str, Any] = msgspec.field(default_factory=dict)
    runtimes: Mapping[str, Any] = msgspec.field(default_factory=dict)
    sinks: Mapping[str, Any] = msgspec.field(default_factory=dict)
    remotes: Mapping[str, Any] = msgspec.field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """Values that plug-ins take for fields of these names."""
        return {
            "sys": self.roots.sys,
            "proc": self.roots.proc,
            "rootfs": self.roots.rootfs,
            "state_dir": self.state_dir,
            "host": self.host,
            "groups": self.metrics.groups,
        }

    @property
    def is_default_state_dir(self) -> bool:
        return self.state_dir == default_state_dir()


def default_state_dir() -> Path:
    """`/var/lib/tidegauge` for root, the XDG state folder else."""
    if os.geteuid() == 0:
        return Path("/var/lib/tidegauge")
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "tidegauge"


def default_files() -> Iterator[Path]:
    """Places where a configuration file is looked for, strongest first."""
    if os.geteuid() != 0:
        yield Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "tidegauge" / "tidegauge.toml"
    yield Path("/etc/tidegauge/tidegauge.toml")


def load(
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Reads, merges and checks. `flags` is nested as the file is. ConfigError names path, expected and got."""
    environ = os.environ if environ is None else environ
    merged = _read_file(file, environ)
    _merge(merged, _from_environment(environ))
    _merge(merged, flags or {})
    merged.setdefault("state_dir", str(default_state_dir()))
    merged.setdefault("host", socket.gethostname() or "localhost")
    config: Config = registry.convert(merged, Config, "")
    _check(config)
    return config


def sink_tables(config: Config) -> dict[str, Mapping[str, Any]]:
    """Tables of the sinks that run, the default ones included; those with `enabled = false` are left out."""
    named = {name: dict(table) for name, table in config.sinks.items()}
    for name, table in DEFAULT_SINKS.items():
        named.setdefault(name, dict(table))
    return {name: table for name, table in named.items() if is_enabled(table, f"sinks.{name}")}


def collector_tables(config: Config) -> dict[str, Mapping[str, Any]]:
    """Tables of the collectors that run: every installed one unless `enabled = false` stands in its table."""
    return _installed_tables(config.collectors, registry.COLLECTORS)


def runtime_tables(config: Config) -> dict[str, Mapping[str, Any]]:
    """Tables of the container runtimes that are asked: every installed one unless `enabled = false` stands in its table."""
    return _installed_tables(config.runtimes, registry.RUNTIMES)


def remote_tables(config: Config) -> dict[str, Mapping[str, Any]]:
    """Tables of the other hosts that are asked; those with `enabled = false` are left out."""
    tables = {name: table for name, table in sorted(config.remotes.items()) if is_enabled(table, f"remotes.{name}")}
    if len(tables) > MOST_REMOTES:
        raise ConfigError(f"remotes: expected at most {MOST_REMOTES} tables, got {len(tables)}")
    return tables


def split_remote(name: str, table: Mapping[str, Any]) -> tuple[Any, RemoteOptions, Any]:
    """Class of the remote's format, the options of every remote, and the format's own Config."""
    path = f"remotes.{name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{path}: expected a name of letters, digits, _ and -, got {name!r}")
    keys = {f.name for f in msgspec.structs.fields(RemoteOptions)}
    options: RemoteOptions = registry.convert({k: v for k, v in table.items() if k in keys}, RemoteOptions, path)
    formats = registry.available(registry.REMOTES)
    if options.format not in formats:
        raise ConfigError(f"{path}.format: expected one of {', '.join(formats)}, got {options.format!r}")
    cls = registry.load(registry.REMOTES, options.format)
    # no settings: `host` is the other host here
    return cls, options, registry.configure(cls, path, {k: v for k, v in table.items() if k not in keys}, {})


def _installed_tables(tables: Mapping[str, Any], group: str) -> dict[str, Mapping[str, Any]]:
    installed = registry.available(group)
    key = group.removeprefix("tidegauge.")
    for name in tables:
        if name not in installed:
            raise ConfigError(f"{key}.{name}: expected one of {', '.join(installed)}, got {name!r}")
    out: dict[str, Mapping[str, Any]] = {}
    for name in installed:
        table = dict(tables.get(name, {}))
        if is_enabled(table, f"{key}.{name}"):
            table.pop("enabled", None)
            out[name] = table
    return out


def is_enabled(table: Mapping[str, Any], path: str) -> bool:
    value = table.get("enabled", True)
    if isinstance(value, str) and value.lower() in ("true", "false", "1", "0"):
        return value.lower() in ("true", "1")
    if not isinstance(value, bool):
        raise ConfigError(f"{path}.enabled: expected true or false, got {value!r}")
    return value


def split_sink(name: str, table: Mapping[str, Any], config: Config) -> tuple[Any, RunnerOptions, Any]:
    """Class of the sink, its runner's options and its own Config. Loads the plug-in, so it may import much."""
    path = f"sinks.{name}"
    runner_keys = {f.name for f in msgspec.structs.fields(RunnerOptions)}
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{path}: expected a name of letters, digits, _ and -, got {name!r}")
    options: RunnerOptions = registry.convert({k: v for k, v in table.items() if k in runner_keys}, RunnerOptions, path)
    if options.retry_min_s > options.retry_max_s:
        raise ConfigError(
            f"{path}.retry_min_s: expected at most retry_max_s ({options.retry_max_s:g}), got {options.retry_min_s:g}"
        )
    cls = registry.load(registry.SINKS, options.plugin or name)
    own = {k: v for k, v in table.items() if k not in runner_keys}
    return cls, options, registry.configure(cls, path, own, config.settings)


def dumps(config: Config) -> bytes:
    """The configuration as `loads` takes it: how the parent tells its processes of a new one."""
    return msgspec.json.encode(config, enc_hook=str)


def loads(data: bytes) -> Config:
    config: Config = registry.convert(msgspec.json.decode(data), Config, "")
    return config


def _check(config: Config) -> None:
    for group in ("collectors", "runtimes", "remotes", "sinks"):
        for name, table in getattr(config, group).items():
            if not isinstance(table, Mapping):
                raise ConfigError(f"{group}.{name}: expected a table, got {table!r}")
    if not config.state_dir.is_absolute():
        raise ConfigError(f"state_dir: expected an absolute path, got {str(config.state_dir)!r}")
    if not config.host or any(c.isspace() or ord(c) < 32 for c in config.host):
        raise ConfigError(f"host: expected a name without white space, got {config.host!r}")
    sampler = config.sampler
    if not 0.01 <= sampler.base_interval_s <= sampler.max_interval_s:
        raise ConfigError(
            f"sampler.base_interval_s: expected seconds from 0.01 up to max_interval_s ({sampler.max_interval_s:g}), "
            f"got {sampler.base_interval_s:g}"
        )
    address = config.http.listen
    if address:
        host, port = split_address(address)
        if not (is_loopback(host) or config.http.asks_credential or config.http.allow_remote):
            raise ConfigError(
                f"http.listen: {address!r} reaches beyond this machine and no credential is asked for; expected a loopback "
                "address, a file of credentials (http.auth_file, ...), or http.allow_remote = true"
            )
        if not 0 <= port <= 65535:
            raise ConfigError(f"http.listen: expected a port from 0 to 65535, got {port}")
    for key in ("auth_realm", "digest_realm"):
        realm = getattr(config.http, key)
        if not realm.isascii() or not realm.isprintable() or not realm or set(realm) & set('"\\:'):
            raise ConfigError(f'http.{key}: expected printable ASCII without ", \\ and :, got {realm!r}')
    for key in ("tls_key", "tls_client_ca"):
        if getattr(config.http, key) is not None and config.http.tls_cert is None:
            raise ConfigError(f"http.{key}: expected http.tls_cert beside it")


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of `127.0.0.1:4194`, `[::1]:4194`, `:4194` (every address)."""
    host, sep, port = address.rpartition(":")
    if not sep or not port.isdigit():
        raise ConfigError(f"http.listen: expected ADDRESS:PORT, got {address!r}")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _read_file(file: Path | None, environ: Mapping[str, str]) -> dict[str, Any]:
    named = file or (Path(environ["TIDEGAUGE_CONFIG"]) if environ.get("TIDEGAUGE_CONFIG") else None)
    path = named or next((p for p in default_files() if os.path.exists(p)), None)  # False where it may not be looked for
    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text())
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: not TOML: {exc}") from exc
    for at, key in _secrets(table, ""):
        raise ConfigError(
            f"{at}: a secret may not stand in {path}; expected {at}_file, or the variable "
            f"{ENV_PREFIX}{at.upper().replace('.', '__')} for {key}"
        )
    return table


def _secrets(table: Mapping[str, Any], at: str) -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _secrets(value, f"{at}{key}.")
        elif key in SECRET_KEYS:
            yield f"{at}{key}", key


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    known = {f.name for f in msgspec.structs.fields(Config)}
    out: dict[str, Any] = {}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENV_PREFIX) or variable.startswith(_ENV_NOT_KEYS):
            continue
        parts = variable.removeprefix(ENV_PREFIX).lower().split("__")
        if parts[0] not in known:
            raise ConfigError(
                f"{variable}: unknown variable; expected {ENV_PREFIX} and one of {', '.join(sorted(known)).upper()}"
            )
        value: Any = text
        if text.startswith(("[", "{")):
            try:
                value = msgspec.json.decode(text)
            except msgspec.DecodeError as exc:
                raise ConfigError(f"{variable}: expected JSON after {text[:1]!r}, got {text!r}") from exc
        node = out
        for part in parts[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{variable}: {part} is both a value and a table")
        node[parts[-1]] = value
    return out


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value

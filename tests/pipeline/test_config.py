"""Merging, checking and messages of the configuration."""

import os
import pwd
from pathlib import Path

import pytest
from tests.support import need

from tidegauge.pipeline import collecting
from tidegauge.pipeline import config as configuration
from tidegauge.pipeline.errors import ConfigError


def _load(
    tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, flags: dict | None = None
) -> configuration.Config:
    file = tmp_path / "tidegauge.toml"
    file.write_text(text)
    return configuration.load(file, flags or {}, environ or {})


def test_flags_beat_environment_beats_file_beats_defaults(tmp_path: Path) -> None:
    text = "[sampler]\nbase_interval_s = 2\nmax_interval_s = 20\nwalk_interval_s = 33\n"
    environ = {"TIDEGAUGE_SAMPLER__BASE_INTERVAL_S": "3", "TIDEGAUGE_SAMPLER__MAX_INTERVAL_S": "30"}
    got = _load(tmp_path, text, environ, {"sampler": {"base_interval_s": 4}}).sampler
    assert (got.base_interval_s, got.max_interval_s, got.walk_interval_s, got.dynamic) == (4, 30, 33, True)


def test_the_state_folder_may_come_from_the_environment(tmp_path: Path) -> None:
    assert _load(tmp_path, environ={"TIDEGAUGE_STATE_DIR": "/tmp/x"}).state_dir == Path("/tmp/x")


def test_variables_of_the_tests_and_of_others_are_left_alone(tmp_path: Path) -> None:
    _load(tmp_path, environ={"TIDEGAUGE_TESTS_STRICT": "1", "PATH": "/bin", "TIDEGAUGE_CONFIG": "elsewhere"})


def test_a_list_in_the_environment_is_json_or_comma_separated(tmp_path: Path) -> None:
    for text in ('["/a", "/b*"]', "/a,/b*"):
        assert _load(tmp_path, environ={"TIDEGAUGE_SAMPLER__INCLUDE": text}).sampler.include == ("/a", "/b*")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[sampler]\nbase_interval_s = '5 sec'",
            "sampler.base_interval_s: expected a number of seconds, got '5 sec'",
        ),
        ("[sampler]\nbase_interval = 5", "sampler.base_interval: unknown key"),
        ("colour = 'red'", "colour: unknown key; expected one of"),
        ("[sampler]\nbase_interval_s = 90", "sampler.base_interval_s: expected seconds from 0.01 up to max_interval_s"),
        ("[http]\nlisten = '0.0.0.0:4194'", "http.listen: .* reaches beyond this machine"),
        ("[http]\nlisten = '4194'", "http.listen: expected ADDRESS:PORT, got '4194'"),
        ("[sinks]\ninfluxdb = 3", "sinks.influxdb: expected a table, got 3"),
        (
            "[sinks.influxdb]\ntoken = 'abc'",
            r"sinks.influxdb.token: a secret may not stand in .*TIDEGAUGE_SINKS__INFLUXDB__TOKEN",
        ),
        ("[log]\nlevel = 'loud'", "log.level: expected one of debug, info, warning, error, got 'loud'"),
        ("[sampler]\nbase_intervall_s = 1", "sampler.base_intervall_s: unknown key; expected one of .*base_interval_s"),
        ("[sampler]\nmax_interval_s = inf", "sampler.max_interval_s: expected a finite number, got inf"),
        ("[sampler]\ndynamic = 3", "sampler.dynamic: expected true or false, got 3"),
        ("[[sampler.policies]]\npath = '/x'\nbase = 3", r"sampler.policies\[0\].base: unknown key; expected one of"),
        ("[http]\nmax_requests = 0", "http.max_requests: expected a whole number >= 1, got 0"),
        ("[http]\nallowed_hosts = 3", "http.allowed_hosts: expected a list, got 3"),
        ("[journal]\nsegment_bytes = 'big'", "journal.segment_bytes: expected a number of bytes, got 'big'"),
        ("[roots]\nproc = 3", "roots.proc: expected a path, got 3"),
        ("state_dir = 'here'", "state_dir: expected an absolute path"),
        ("sampler = [", "not TOML"),
    ],
)
def test_a_wrong_key_is_named_with_expected_and_got(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _load(tmp_path, text)


def test_an_unknown_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TIDEGAUGE_SAMPLR__X: unknown variable"):
        _load(tmp_path, environ={"TIDEGAUGE_SAMPLR__X": "1"})


def test_remote_addresses_are_taken_when_allowed_by_name(tmp_path: Path) -> None:
    assert _load(tmp_path, "[http]\nlisten = '0.0.0.0:4194'\nallow_remote = true").http.allow_remote


@pytest.mark.parametrize(
    "asked",
    ["auth_file = '/f'", "digest_file = '/f'", "token_file = '/f'", "tls_cert = '/f'\ntls_client_ca = '/f'"],
)
def test_remote_addresses_are_taken_where_a_credential_is_asked_for(tmp_path: Path, asked: str) -> None:
    assert _load(tmp_path, f"[http]\nlisten = '0.0.0.0:4194'\n{asked}").http.is_remote


@pytest.mark.parametrize(
    ("http", "text"),
    [
        ("listen = '0.0.0.0:1'\ntls_cert = '/f'", "no credential is asked for"),
        ("tls_key = '/f'", "http.tls_key: expected http.tls_cert beside it"),
        ("tls_client_ca = '/f'", "http.tls_client_ca: expected http.tls_cert beside it"),
        ("auth_realm = 'a\"b'", "http.auth_realm: expected printable ASCII"),
        ("digest_realm = 'a:b'", "http.digest_realm: expected printable ASCII"),
        ("digest_realm = ''", "http.digest_realm: expected printable ASCII"),
        ('auth_realm = "a\\nb"', "http.auth_realm: expected printable ASCII"),
    ],
)
def test_what_access_cannot_work_with_is_named(tmp_path: Path, http: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        _load(tmp_path, f"[http]\n{http}")


def test_memory_and_sql_run_unless_they_are_switched_off(tmp_path: Path) -> None:
    assert set(configuration.sink_tables(_load(tmp_path))) == {"memory", "sql"}
    config = _load(tmp_path, "[sinks.sql]\nenabled = false\n[sinks.stdout]\n")
    assert set(configuration.sink_tables(config)) == {"memory", "stdout"}


def test_one_plugin_can_run_twice_under_names_of_its_own(tmp_path: Path) -> None:
    config = _load(tmp_path, "[sinks.copy]\nplugin = 'stdout'\n")
    cls, options, _ = configuration.split_sink("copy", configuration.sink_tables(config)["copy"], config)
    assert (cls.__name__, options.plugin) == ("StdoutSink", "stdout")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sinks.'../../x']\nplugin = 'stdout'", "expected a name of letters, digits, _ and -, got '../../x'"),
        ("[sinks.sql]\nretry_min_s = 9\nretry_max_s = 3", r"sinks.sql.retry_min_s: expected at most retry_max_s \(3\), got 9"),
        ("[sinks.sql]\nstart = 'yesterday'", "sinks.sql.start: expected beginning, end or an ISO 8601 time, got 'yesterday'"),
        ("[sinks.sql]\nlag_age_s = inf", "sinks.sql.lag_age_s: expected a finite number, got inf"),
        ("[sinks.sql]\nlag_policy = 'x'", "sinks.sql.lag_policy: expected one of drop_oldest, downsample, got 'x'"),
        ("[sinks.sql]\nbatch_rows = 0", "sinks.sql.batch_rows: expected a whole number >= 1, got 0"),
        ("[collectors.netdev]\nexclude = 3", "collectors.netdev.exclude: expected a list, got 3"),
    ],
)
def test_a_wrong_key_of_a_plugin_is_named_too(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        collecting.check(_load(tmp_path, text))


def test_the_configuration_travels_to_the_processes_as_it_is(tmp_path: Path) -> None:
    text = "[sampler]\nbase_interval_s = 2\n[[sampler.policies]]\npath = '/x'\n[sinks.stdout]\n[http]\nallowed_hosts = ['a']\n"
    config = _load(tmp_path, text)
    assert configuration.loads(configuration.dumps(config)) == config


def test_an_unknown_plugin_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    config = _load(tmp_path, "[sinks.influx]\n")
    with pytest.raises(ConfigError, match=r"sinks.influx: expected one of influxdb, memory, sql, stdout"):
        collecting.check(config)


def test_every_runtime_is_recognised_unless_its_table_says_no(tmp_path: Path) -> None:
    config = _load(tmp_path, "[runtimes.docker]\nsockets = ['/x.sock']\n[runtimes.lxc]\nenabled = false\n")
    tables = configuration.runtime_tables(config)
    assert set(tables) == {"containerd", "crio", "docker", "kubernetes", "podman", "systemd"}
    assert tables["docker"] == {"sockets": ["/x.sock"]}
    collecting.check(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[runtimes.dokcer]\n", "runtimes.dokcer: expected one of containerd, crio, docker"),
        ("[runtimes.docker]\nsocket = '/x'", "runtimes.docker.socket: unknown key"),
        ("[runtimes.docker]\ntimeout_s = 0", "runtimes.docker.timeout_s: "),
        ("[runtimes]\ndocker = 3", "runtimes.docker: expected a table, got 3"),
        ("[metadata]\nexit_wait_s = -1", "metadata.exit_wait_s: "),
    ],
)
def test_what_is_wrong_with_a_runtime_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        collecting.check(_load(tmp_path, text))


def test_a_home_that_may_not_be_entered_holds_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(os.geteuid() == 0, "root, to become somebody who may not enter a folder")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(closed))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        assert configuration.load(None, {}, {}).sampler.dynamic
    finally:
        os.seteuid(0)

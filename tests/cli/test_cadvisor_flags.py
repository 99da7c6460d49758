"""cAdvisor's command lines, as its documentation and compose files in the wild have them."""

import os
from pathlib import Path

import click
import pytest

from tidegauge.cli.cadvisor_flags import FLAGS, translate
from tidegauge.cli.run_command import command as run
from tidegauge.pipeline import config as configuration
from tidegauge.pipeline.config import Config
from tidegauge.pipeline.groups import DEFAULT_GROUPS, GROUPS
from tidegauge.pipeline.housekeeping import is_included, is_pruned


def _translate(*arguments: str) -> tuple[dict, list[str]]:
    warnings: list[str] = []
    return translate(arguments, warnings.append), warnings


def test_the_prefix_of_a_proxy_and_the_interval_of_the_machine() -> None:
    want = {"http": {"url_base_prefix": "/cadvisor"}, "sampler": {"machine_interval_s": 60.0}}
    assert _translate("--url_base_prefix=/cadvisor/", "--update_machine_info_interval=1m")[0] == want
    assert _translate("--url_base_prefix=")[0] == {"http": {"url_base_prefix": ""}}
    with pytest.raises(click.UsageError, match="a path such as /cadvisor"):
        _translate("--url_base_prefix=cadvisor")


def test_the_limit_of_application_metrics() -> None:
    assert _translate("--application_metrics_count_limit=50")[0] == {"collectors": {"app": {"metrics_limit": 50}}}
    with pytest.raises(click.UsageError, match="a number from 1 to 10000"):
        _translate("--application_metrics_count_limit=0")


def test_spellings_with_one_or_two_dashes_and_either_word_separator_are_one_flag() -> None:
    want = {"sampler": {"base_interval_s": 5.0}}
    for arguments in (
        ("--housekeeping_interval=5s",),
        ("-housekeeping_interval=5s",),
        ("--housekeeping-interval", "5s"),
        ("-housekeeping_interval", "5s"),
    ):
        assert _translate(*arguments) == (want, [])


@pytest.mark.parametrize("name", sorted(FLAGS))
def test_no_flag_with_one_dash_is_taken_for_another(name: str) -> None:
    """`-http_auth_file` is not `-h` with more letters behind it."""
    context = run.make_context("run", [f"-{name}=x", f"-{name.replace('_', '-')}=y"], resilient_parsing=True)
    dashes = "--" if len(name) > 1 else "-"
    assert context.params["arguments"] == (f"{dashes}{name}=x", f"{dashes}{name.replace('_', '-')}=y")


def test_files_of_credentials_are_absolute_and_the_empty_default_is_none() -> None:
    http = _translate("--http_auth_file", "users", "-http_auth_realm=a b", "--http_digest_file=", "--profiling")[0]["http"]
    assert http == {"auth_file": os.path.abspath("users"), "auth_realm": "a b", "digest_file": None, "debug": True}
    assert configuration.load(Path(os.devnull), {"http": http}, {}).http.asks_password
    http = _translate("--http_digest_file=/d", "--http_digest_realm=r", "--listen_ip=0.0.0.0")[0]["http"]
    assert configuration.load(Path(os.devnull), {"http": http}, {}).http.is_remote, "with a credential it may be"


def test_a_boolean_takes_its_value_only_after_an_equals_sign() -> None:
    assert _translate("--allow_dynamic_housekeeping=false")[0] == {"sampler": {"dynamic": False}}
    assert _translate("--allow_dynamic_housekeeping")[0] == {"sampler": {"dynamic": True}}
    with pytest.raises(click.UsageError, match="unexpected argument 'false'"):
        _translate("--allow_dynamic_housekeeping", "false")


def test_storage_drivers_replace_the_default_ones_but_memory() -> None:
    out, _ = _translate("--storage_driver=influxdb", "--storage_driver_host=db:8086", "--storage_driver_db=cadvisor")
    assert out["sinks"]["influxdb"] == {
        "enabled": True,
        "url": "http://db:8086",
        "database": "cadvisor",
        "bucket": "cadvisor",
    }
    assert out["sinks"]["sql"] == {"enabled": False}
    assert "memory" not in out["sinks"]


def test_flags_of_a_driver_that_is_not_chosen_switch_nothing_on() -> None:
    out, warnings = _translate("--storage_driver_host=db:8086", "--storage_driver_db=x", "--storage_driver=stdout")
    assert out["sinks"]["influxdb"] == {"enabled": False}
    assert len(warnings) == 2


def test_sockets_labels_and_environment_of_containers() -> None:
    given = ("--docker=unix:///var/run/docker.sock", "--store_container_labels=false", "--env_metadata_whitelist=APP_,MODE")
    assert _translate(*given, "--whitelisted_container_labels=a,b") == (
        {
            "runtimes": {"docker": {"sockets": ["/var/run/docker.sock"]}},
            "metadata": {"labels": ["a", "b"], "environment": ["APP_*", "MODE*"]},
        },
        [],
    )
    assert _translate("--store_container_labels")[0] == {"metadata": {"labels": ["*"]}}
    assert _translate("--store_container_labels=false")[0] == {"metadata": {"labels": []}}
    assert _translate()[0] == {}
    with pytest.raises(click.UsageError, match="--docker: expected unix:///PATH or tcp://HOST:PORT, got 'npipe://x'"):
        _translate("--docker=npipe://x")


def _load(*arguments: str) -> Config:
    return configuration.load(Path("/dev/null"), _translate(*arguments)[0], {})


def test_docker_on_the_network() -> None:
    plain, warnings = _translate("--docker=tcp://127.0.0.1:2375", "--docker-tls-cert=c.pem")
    assert plain == {"runtimes": {"docker": {"sockets": ["tcp://127.0.0.1:2375"]}}}
    assert warnings == ["--docker_tls_cert is taken and has no effect without --docker-tls"]
    tls = _translate("--docker=tcp://db:2376", "--docker-tls", "--docker-tls-cert=/c.pem", "--docker-tls-ca", "/ca.pem")[0]
    assert tls["runtimes"]["docker"] == {
        "sockets": ["tcp://db:2376"],
        "tls": True,
        "tls_cert": "/c.pem",
        "tls_key": os.path.abspath("key.pem"),
        "tls_ca": "/ca.pem",
    }


KINDS = set(GROUPS) - {"filesystem", "pids", "host"}
"""Those of cAdvisor."""


def test_a_list_of_disabled_kinds_replaces_the_default_one() -> None:
    off = {"percpu", "tcp", "disk"}
    assert _load(f"--disable_metrics={','.join(off)}").metrics.groups == set(GROUPS) - off
    assert _load("--disable_metrics=").metrics.groups == set(GROUPS)
    assert _load().metrics.groups == DEFAULT_GROUPS


def test_a_list_of_enabled_kinds_is_all_there_is_beside_what_cadvisor_has_no_word_for() -> None:
    on = {"cpu", "memory", "advtcp"}
    for arguments in (("--enable_metrics=cpu,memory,advtcp",), ("--enable_metrics=cpu,memory,advtcp", "--disable_metrics=cpu")):
        assert _load(*arguments).metrics.groups == on | {"filesystem", "pids", "host"}
    assert _load("--enable_metrics=").metrics.groups == DEFAULT_GROUPS
    assert _load("--enable_metrics=", "--disable_metrics=disk").metrics.groups == set(GROUPS) - {"disk"}


def test_every_kind_of_cadvisor_is_known_and_no_other() -> None:
    assert _load(f"--enable_metrics={','.join(KINDS)}").metrics.groups == set(GROUPS)
    for flag in ("--enable_metrics", "--disable_metrics"):
        for kind in ("accelerator", "filesystem", "all"):
            with pytest.raises(click.UsageError, match=f"{flag}: expected some of cpu, .*, got 'cpu,{kind}'"):
                _translate(f"{flag}=cpu,{kind}")


def test_containers_of_runtimes_only() -> None:
    id_ = "0123456789abcdef" * 4
    containers = (f"/docker/{id_}", f"/system.slice/docker-{id_}.scope", f"/kubepods/pod1/{id_}", f"/x/libpod-{id_}")
    others = ("/system.slice/cron.service", "/docker", f"/docker/{id_}/init", f"/docker/{id_[1:]}", f"/x/{id_}.mount")

    def sampled(*arguments: str) -> set[str]:
        sampler = _load(*arguments).sampler
        return {p for p in (*containers, *others) if is_included(sampler.include, p) and not is_pruned(sampler.exclude, p)}

    assert sampled("--docker_only") == set(containers)
    assert sampled("--docker_only", "--raw_cgroup_prefix_whitelist=/system.slice") == {*containers, others[0]}
    assert sampled("--raw_cgroup_prefix_whitelist=/system.slice") == {*containers, others[0]}
    assert sampled("--docker_only=false") == sampled()


def test_the_root_without_samples() -> None:
    assert _load("--disable_root_cgroup_stats").sampler.sample_host is False
    assert _load("--disable_root_cgroup_stats=false").sampler.sample_host is True


def test_flags_without_effect_are_taken_with_a_warning() -> None:
    out, warnings = _translate("-logtostderr", "--v=2")
    assert out == {}
    assert len(warnings) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--housekeeping_interval=5"], "--housekeeping_interval: expected a duration such as 1s, 500ms or 1m30s, got '5'"),
        (["--housekeping_interval=5s"], "no such option: --housekeping_interval"),
        (["--storage_driver=bigquery"], "expected some of .* got 'bigquery'"),
        (["--storage_driver_password=x"], "password_file"),
        (["--port=http"], "expected a port"),
        (["--max_housekeeping_interval"], "expected a value"),
    ],
)
def test_a_bad_flag_is_a_usage_error_that_names_flag_expected_and_got(arguments: list[str], words: str) -> None:
    with pytest.raises(click.UsageError, match=words):
        _translate(*arguments)


def test_limits_of_events_are_given_by_kind() -> None:
    out, warnings = _translate(
        "--event_storage_age_limit=default=24h,oom=1h", "-event_storage_event_limit", "oomKill=5,containerDeletion=0"
    )
    assert warnings == []
    assert out == {
        "sinks": {
            "memory": {
                "event_age_limit_s": {"default": 86_400.0, "oom": 3600.0},
                "event_limit": {"oom_kill": 5, "deletion": 0},
            }
        }
    }


@pytest.mark.parametrize(
    "argument",
    [
        "event_storage_age_limit=24h",
        "event_storage_age_limit=creation=1h",
        "event_storage_age_limit=oom=1",
        "event_storage_event_limit=oom=-1",
        "event_storage_event_limit=oom=",
    ],
)
def test_limits_of_events_that_cannot_be_are_refused(argument: str) -> None:
    with pytest.raises(click.UsageError, match=f"^--{argument.partition('=')[0]}: expected "):
        _translate(f"--{argument}")


def test_every_flag_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/cadvisor-flags.md").read_text().replace("-", "_")
    assert [name for name in FLAGS if f"`{name}`" not in page] == []

"""cAdvisor's command lines, as its documentation and compose files in the wild have them."""

import click
import pytest

from tidegauge.cli.cadvisor_flags import go_duration, translate


def _translate(*arguments: str) -> tuple[dict, list[str]]:
    warnings: list[str] = []
    return translate(arguments, warnings.append), warnings


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1.0), ("500ms", 0.5), ("1m30s", 90.0), ("1h", 3600.0), ("1.5s", 1.5), ("0", 0.0), ("2m0s", 120.0)],
)
def test_go_durations_are_seconds(text: str, seconds: float) -> None:
    assert go_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "s", "1x", "1s ", "-1s", "1s2", "1 s"])
def test_what_go_refuses_as_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        go_duration(text)


def test_spellings_with_one_or_two_dashes_and_either_word_separator_are_one_flag() -> None:
    want = {"sampler": {"base_interval_s": 5.0}}
    for arguments in (
        ("--housekeeping_interval=5s",),
        ("-housekeeping_interval=5s",),
        ("--housekeeping-interval", "5s"),
        ("-housekeeping_interval", "5s"),
    ):
        assert _translate(*arguments) == (want, [])


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
    with pytest.raises(click.UsageError, match="--docker: expected a Unix socket"):
        _translate("--docker=tcp://127.0.0.1:2375")


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

"""Nothing is counted in secret: every counter of every part stands on the page, with its help."""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.sampler_rig import Rig
from tests.pipeline.sink_bench import Bench

from tidegauge.pipeline import config as configuration
from tidegauge.pipeline import registry, self_metrics
from tidegauge.pipeline.collecting import build, build_binder
from tidegauge.pipeline.messages import Channel, pair
from tidegauge.pipeline.schedule import Schedule
from tidegauge.pipeline.sink_runner import SinkRunner
from tidegauge.pipeline.telemetry import counters_of, render
from tidegauge.pipeline.testing import RecordingSink

GENERIC = "Counted by the "


class CountingSink(RecordingSink):
    """Counts what nobody here has heard of, and something under a name that the runner has."""

    def counters(self) -> Mapping[str, int]:
        return {"tide_tables": 7, "writes": 77, "accepted_rows": 78}


@pytest.fixture
def channel() -> Iterator[Channel]:
    ends = [Channel(end) for end in pair()]
    yield ends[0]
    for end in ends:
        end.close()


def page_of(channel: Channel, runners: list[SinkRunner], sampler: Mapping[str, Any]) -> str:
    return render(self_metrics.families(0, channel, runners, sampler))


def with_numbers(counters: Mapping[str, Any], numbers: Iterator[int]) -> dict[str, Any]:
    """The same keys, each value a number of its own; those by label with one label."""
    out: dict[str, Any] = {}
    for key, value in counters.items():
        if isinstance(value, Mapping):
            out[key] = {"x": {f"{key}_y": next(numbers)} if key == "collector_counters" else next(numbers)}
        else:
            out[key] = next(numbers)
    return out


def shown(page: str) -> dict[int, str]:
    """Value -> line, for lines with an integer."""
    rows = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
    return {int(value): name for name, _, value in rows if value.isdigit()}


def numbers_of(filled: Mapping[str, Any]) -> dict[int, str]:
    out: dict[int, str] = {}
    for key, value in filled.items():
        while isinstance(value, Mapping):
            [value] = value.values()
        out[value] = key
    return out


def test_every_number_that_the_sampler_tells_stands_on_the_page(channel: Channel) -> None:
    rig, schedule = Rig(), Schedule()
    schedule.add("walk", lambda: None, 60)
    binder = build_binder(configuration.load(Path("/dev/null"), {}, {}))
    counters = {**rig.sampler.counters(), **schedule.counters(), **binder.counters()}
    rig.close()
    assert counters.pop("collector_faults") == {}, "text, for the status"
    filled = with_numbers(counters, count(10_001))
    on_page = shown(page_of(channel, [], filled))
    assert {key for number, key in numbers_of(filled).items() if number not in on_page} == set()
    assert 'tidegauge_runtime_connected{runtime="docker"} 1' in page_of(channel, [], {"runtime_connected": {"docker": True}})


def test_every_number_of_a_runner_stands_on_the_page_with_a_help_of_its_own(
    channel: Channel, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = bench().runner
    filled = with_numbers(runner.counters(), count(10_001))
    assert {"damaged_records", "cursor_errors", "maintenance_errors", "refused_gaps"} <= filled.keys()
    monkeypatch.setattr(runner, "counters", lambda: filled)
    page = page_of(channel, [runner], {})
    assert numbers_of(filled).keys() <= shown(page).keys()
    assert GENERIC not in page


def test_every_number_of_our_own_plug_ins_has_a_help_of_its_own(channel: Channel, tmp_path: Path) -> None:
    config = configuration.load(Path("/dev/null"), {"state_dir": str(tmp_path)}, {})
    collectors, _ = build(config)
    counted = {name: counters for name, collector in collectors if (counters := counters_of(collector))}
    assert counted.keys() == {"cgroup_v1", "cgroup_v2", "disk_io_ext", "netdev", "taskload", "filesystem"}
    sinks: dict[str, Any] = {}
    for name, entry in registry.available(registry.SINKS).items():
        table = {"url": "http://127.0.0.1:1"} if name == "influxdb" else {}
        cls, _, own = configuration.split_sink(name, table, config)
        assert cls is entry.load()
        sinks[name] = cls(own)
    counted_sinks = {name: counters for name, sink in sinks.items() if (counters := counters_of(sink))}
    assert "sql" in counted_sinks
    page = page_of(channel, [], {"collector_counters": counted})
    page += render(self_metrics._counters_of_parts("sink", counted_sinks, self_metrics._PLUGIN_COUNTERS))
    for part, by_name in (("collector", counted), ("sink", counted_sinks)):
        for name, counters in by_name.items():
            for key in counters:
                assert f'tidegauge_{part}_{key}_total{{{part}="{name}"}} 0' in page
    assert GENERIC not in page


def test_what_a_strangers_sink_counts_is_shown_but_not_in_place_of_ours(channel: Channel, bench: Callable[..., Bench]) -> None:
    runner = bench(CountingSink()).runner
    page = page_of(channel, [runner], {})
    assert 'tidegauge_sink_tide_tables_total{sink="test"} 7' in page
    assert f"# HELP tidegauge_sink_tide_tables_total {GENERIC}sink itself: tide tables." in page
    assert 'tidegauge_sink_writes_total{sink="test"} 0' in page
    assert not {77, 78} & shown(page).keys()


def test_the_page_keeps_to_the_conventions(channel: Channel, bench: Callable[..., Bench]) -> None:
    rig = Rig()
    counters = {**rig.sampler.counters(), "collector_counters": {"a": {"unreadable_files": 1}}, "messages_unsent": 4}
    rig.close()
    families = self_metrics.families(0, channel, [bench(CountingSink()).runner], counters)
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "a page with a family twice is refused as a whole"
    for family in families:
        assert re.fullmatch(r"tidegauge_[a-z0-9_]+", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter"), family.name
        assert family.help.endswith("."), family.name
    page = render(families)
    assert 'tidegauge_messages_unsent_total{process="sampler"} 4' in page
    for line in page.splitlines():
        if not line.startswith("#"):
            assert f"# HELP {re.split('[{ ]', line)[0]} " in page


def test_before_the_samplers_first_word_there_is_a_page_all_the_same(channel: Channel) -> None:
    assert "tidegauge_build_info" in page_of(channel, [], {})

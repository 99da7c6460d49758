import itertools

import numpy as np
import pytest
from bench.generator import History

from tidegauge.pipeline.records import Batch, Container, End, Schema


@pytest.fixture(scope="module")
def day() -> History:
    return History(days=1)


@pytest.mark.parametrize("days", [1, 7])
def test_nearly_three_quarters_of_the_values_repeat_the_one_before(days: float) -> None:
    assert 0.70 <= History(days=days).share_repeated() <= 0.75


def test_fifty_containers_on_five_hosts_in_ten_namespaces_of_which_five_live_less_than_a_day() -> None:
    history = History()
    lives = (history.death - history.birth) * history.interval_ms
    assert len(history.containers) == 50
    assert len({c.host for c in history.containers}) == len({c.source for c in history.containers}) == 5
    assert len({c.namespace for c in history.containers}) == 10
    assert (lives < 86_400_000).sum() == 5
    assert (lives == 7 * 86_400_000).sum() == 45
    assert history.samples == lives.sum() // 10_000


def test_records_hold_what_the_arrays_hold(day: History) -> None:
    names = ("cpu_usage_ns", "memory_working_set_bytes", "memory_oom_kills")
    series = day.series(names)
    at = [day.schema.names.index(name) for name in names]
    found: dict[int, list[tuple[int, ...]]] = {}
    for record in day.records():
        if isinstance(record, Batch):
            for s in record.samples:
                found.setdefault(s.container, []).append((s.ts_ms, *(int(s.values[i] or 0) for i in at)))
    for i, container in enumerate(day.containers):
        there = series.is_alive[i]
        expected = np.stack([series.ts_ms[i, there], *(series.values[name][i, there] for name in names)], axis=1)
        assert np.array_equal(np.array(found[container.number]), expected)


def test_records_come_as_from_a_log(day: History) -> None:
    living: dict[int, Container] = {}
    ended = set()
    row, last_ms = 0, 0
    for record in itertools.islice(day.records(), 30_000):
        if isinstance(record, Batch):
            assert list(record.rows) == list(range(row + 1, row + 1 + len(record.samples)))
            row = record.rows[-1]
            times = [s.ts_ms for s in record.samples]
            assert last_ms < times[0]
            assert times == sorted(times)
            last_ms = times[-1]
            assert {s.container for s in record.samples} <= set(living)
            assert record.containers == living
        else:
            assert isinstance(record, Schema | Container | End)
            assert record.row == row + 1
            row = record.row
            if isinstance(record, Container):
                assert last_ms < record.valid_from_ms or last_ms == 0
                living[record.number] = record
            elif isinstance(record, End):
                assert record.ts_ms >= last_ms
                ended.add(living.pop(record.container).number)
    assert ended


def test_the_same_arguments_give_the_same_values() -> None:
    one, other = (History(days=0.02).series(["cpu_usage_ns", "memory_rss_bytes"]) for _ in range(2))
    assert all(np.array_equal(one.values[name], other.values[name]) for name in one.values)
    # as they have always been, but for the last bits of a logarithm: what was measured before stays comparable
    assert one.values["cpu_usage_ns"][0, [0, -1]].tolist() == pytest.approx([1400587162621166, 1402425950615421], rel=1e-6)


def test_counters_never_fall_and_totals_are_sums(day: History) -> None:
    series = day.series(day.schema.names)
    v, there = series.values, series.is_alive
    pair = there[:, 1:] & there[:, :-1]
    for metric in day.schema.metrics:
        if metric.kind == "counter":
            assert (np.diff(v[metric.name])[pair] >= 0).all(), metric.name
        assert (v[metric.name][there] >= 0).all(), metric.name
    assert np.array_equal(v["cpu_usage_ns"], v["cpu_user_ns"] + v["cpu_system_ns"])
    assert (v["memory_working_set_bytes"] <= v["memory_usage_bytes"]).all()
    assert (v["memory_max_usage_bytes"] >= v["memory_usage_bytes"])[there].all()
    for what in ("cpu", "memory", "io"):
        assert (v[f"{what}_pressure_full_ns"] <= v[f"{what}_pressure_some_ns"])[there].all()


def test_writes_are_of_the_size_asked_for_and_leave_nothing_out(day: History) -> None:
    sizes = [sum(len(r.samples) for r in records if isinstance(r, Batch)) for records in day.writes(300)]
    assert sum(sizes) == day.samples
    assert max(sizes) <= 300
    assert np.median(sizes) > 280

"""What the filters of a sink leave of the rows."""

from collections.abc import Callable

from tests.pipeline.sink_bench import Bench

from tidegauge.pipeline.records import Batch, Container, Event, Schema
from tidegauge.pipeline.testing import (
    flat,
    generate_records,
)


def test_metrics_are_filtered_by_pattern(bench: Callable[..., Bench]) -> None:
    b = bench(metrics_include=("cpu_*", "network_receive_*"), metrics_exclude=("*_packets", "cpu_system_ns"))
    records = list(generate_records(6))
    b.fill(records)
    b.run()
    expected = [
        (
            key,
            {
                n: v
                for n, v in values.items()
                if n.startswith(("cpu_", "network_receive_", "is_closing")) and "packets" not in n
            },
        )
        for key, values in flat(records)
    ]
    assert flat(b.sink.written) == expected
    [schema] = [r for r in b.sink.written if isinstance(r, Schema)]
    assert schema.names == ("cpu_usage_ns", "cpu_user_ns")
    assert schema.row == 1


def test_a_row_of_which_no_value_is_left_is_filtered(bench: Callable[..., Bench]) -> None:
    b = bench(metrics_include=("memory_*",))
    records = list(generate_records(10))
    b.fill(records)
    b.run()
    closing = sum(1 for _, v in flat(records) if "is_closing" in v)
    assert closing
    assert b.runner.account().filtered == closing


def test_containers_are_filtered_by_path_or_name(bench: Callable[..., Bench]) -> None:
    b = bench(containers_include=("/docker/*", "web-1"), containers_exclude=("web-3",))
    records = list(generate_records(4, 4))
    b.fill(records)
    b.run()
    assert {s.container for r in b.samples if isinstance(r, Batch) for s in r.samples} == {1, 2, 4}
    assert {r.number for r in b.sink.written if isinstance(r, Container)} == {1, 2, 4}
    assert {r.container for r in b.sink.written if isinstance(r, Event)} == {1, 2, 4}
    assert b.runner.account().filtered == 2 + 4


def test_labels_pass_by_allow_list_and_tags_are_added(bench: Callable[..., Bench]) -> None:
    b = bench(labels=("com.*",), tags={"site": "north"})
    b.ticks(1)
    b.run()
    wanted = {"com.example.team": "blue", "site": "north"}
    assert [dict(r.labels) for r in b.sink.written if isinstance(r, Container)] == [wanted] * 3
    assert all(dict(c.labels) == wanted for r in b.samples if isinstance(r, Batch) for c in r.containers.values())

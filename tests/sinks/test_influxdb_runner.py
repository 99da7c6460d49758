"""A runner over a real InfluxDB: what the store leaves out becomes a dead letter with its reason, and the rest is stored."""

from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.sink_bench import Bench
from tests.servers import Influxd

from tidegauge.pipeline.testing import PLUGIN_METRICS, START_MS, make_container, make_sample, make_schema
from tidegauge.sinks.influxdb import InfluxdbConfig, InfluxdbSink

SCHEMA = make_schema(fragment=PLUGIN_METRICS)


def sample(n: int, **values: Any) -> Any:
    return make_sample(SCHEMA, 1, START_MS + n, **values)


@pytest.mark.integration
def test_conflicts_of_types_become_dead_letters_with_their_reason(influxd: Influxd, tmp_path: Path) -> None:
    """One field, then two fields at once, whose count fits neither: then the batch is halved."""
    sink: Any = InfluxdbSink(InfluxdbConfig(url=influxd.url, database="letters"))
    b = Bench(tmp_path, sink)
    b.fill([SCHEMA, make_container(1), [sample(0, queue_depth=1, cpu_usage_ns=1)]])
    b.run()
    rows = [sample(n, queue_depth=2.5 if n % 40 == 7 else n, cpu_usage_ns=n) for n in range(1, 100)]
    b.fill([rows])
    b.run()
    letters = b.runner.list_letters()
    assert len(letters) == 3
    assert all("field type conflict" in x["reason"] and '"queue_depth"' in x["reason"] for x in letters)
    b.fill([[sample(200, queue_depth=0.5), sample(201, cpu_usage_ns=1.5), sample(202, queue_depth=7, cpu_usage_ns=2**63 - 1)]])
    b.run()
    reasons = [x["reason"] for x in b.runner.list_letters()[3:]]
    assert len(reasons) == 2
    assert '"queue_depth"' in reasons[0]
    assert '"cpu_usage_ns"' in reasons[1]
    account = b.runner.account()
    assert (account.dead_letter, account.is_exact) == (5, True)
    stored = influxd.query("SELECT queue_depth FROM container", "letters")
    assert [r["time"] - START_MS for r in stored] == [0, *(n for n in range(1, 100) if n % 40 != 7), 202]
    sink.close()

"""What the README shows works as it stands there."""

import os
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from tests.containers.engine import ROOT

from tidegauge.pipeline.testing import make_batch, make_container, make_sample, make_schema
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

README = (ROOT / "README.md").read_text()


def test_the_query_gives_cores(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    sink = SqlSink(SqlConfig(state_dir=tmp_path))
    sink.open()
    now_ms = int(time.time() * 1000)
    schema = make_schema()
    idle, busy = make_container(1, "/idle"), make_container(2, "/busy")
    samples = [
        make_sample(schema, number, now_ms - age_ms, cpu_usage_ns=cpu_ns)
        for number, readings in ((1, {60_000: 7, 2000: 7}), (2, {20_000: 0, 10_000: 5 * 10**9}))
        for age_ms, cpu_ns in readings.items()
    ]
    sink.write([schema, idle, busy, make_batch(samples, (idle, busy), (schema,))])
    sink.close()
    (query,) = re.findall(r"```sql\n(.*?)```", README, re.DOTALL)
    with closing(sqlite3.connect(tmp_path / "server" / "tidegauge.db")) as database:
        assert database.execute(query).fetchall() == [("web-2", pytest.approx(0.5)), ("web-1", 0.0)]


def test_the_database_is_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    place = SqlSink(SqlConfig(state_dir=Path("/var/lib/tidegauge"))).path
    assert f"sqlite3 {place} " in README
    assert "$state/server/tidegauge.db" in (ROOT / "run.sh").read_text()


@pytest.mark.parametrize("command", ["run.sh", "test.sh", ".ci/run", "deploy/secrets.sh"])
def test_scripts_can_be_started(command: str) -> None:
    assert os.access(ROOT / command, os.X_OK)

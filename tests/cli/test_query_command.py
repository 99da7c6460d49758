"""`tidegauge query`: the forms of its answer, and the rules that it shares with the endpoint."""

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.support import need

from tidegauge.cli import query_command
from tidegauge.cli.main import main
from tidegauge.cli.query_command import table
from tidegauge.pipeline.sql_query import SqlAnswer
from tidegauge.pipeline.testing import START_MS, make_batch, make_container, make_sample, make_schema
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

SCHEMA = make_schema(("cpu_usage_ns", "memory_working_set_bytes"), ())
SQL = "SELECT container, count(*) AS samples, sum(cpu_seconds) / sum(seconds) AS cores, NULL AS none FROM cpu"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder with a database in it, as a stopped program leaves it."""
    monkeypatch.setattr(query_command, "drop_to", lambda ids: None)  # the rest of the tests needs the rights
    sink = SqlSink(SqlConfig(state_dir=tmp_path))
    containers = [make_container(n, f"/c/{n}", name=name) for n, name in ((1, "web"), (2, "日本 \x1b[31m"))]
    samples = [
        make_sample(SCHEMA, n, START_MS + s * 1000, cpu_usage_ns=s * n * 10**9 // 8, memory_working_set_bytes=s << 40)
        for s in range(4)
        for n in (1, 2)
    ]
    sink.write([make_batch(samples, containers, (SCHEMA,))])
    sink.close()
    return tmp_path


def run(state: Path, *words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, ["query", "--state-dir", str(state), *words], input=stdin)


def test_a_table_has_numbers_to_the_right_and_no_control_characters(state: Path) -> None:
    result = run(state, f"{SQL} GROUP BY container ORDER BY cores")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "container   samples  cores  none",
        "----------  -------  -----  ----",
        "web               4  0.125  -",
        "日本 ?[31m        4   0.25  -",
    ]


def test_sql_comes_from_standard_input_too(state: Path) -> None:
    assert run(state, "-", stdin="SELECT 1 AS one -- of\n").stdout.splitlines() == ["one", "---", "  1"]


def test_csv_and_json_hold_the_same(state: Path) -> None:
    sql = "SELECT container, ts_ms, ts_ms, cpu_cores FROM cpu ORDER BY id, ts_ms"
    rows = list(csv.reader(io.StringIO(run(state, sql, "--format", "csv").stdout)))
    assert rows[0] == ["container", "ts_ms", "ts_ms", "cpu_cores"]
    assert rows[1] == ["web", str(START_MS), str(START_MS), ""]
    listed = json.loads(run(state, sql, "--format", "json").stdout)
    assert listed[0] == {"container": "web", "ts_ms": START_MS, "ts_ms_2": START_MS, "cpu_cores": None}
    assert [[r["container"], str(r["ts_ms"])] for r in listed] == [row[:2] for row in rows[1:]]
    assert json.loads(run(state, "SELECT 1 FROM cpu WHERE 0", "--format", "json").stdout) == []


def test_parquet_has_types(state: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    need(parquet, "pyarrow")
    path = tmp_path / "a.parquet"
    sql = "SELECT container, ts_ms, cpu_cores, CASE WHEN ts_ms % 2 THEN 1 ELSE 0.5 END AS mixed FROM cpu ORDER BY id, ts_ms"
    assert run(state, sql, "--format", "parquet", "-o", str(path)).exit_code == 0
    found = parquet.read_table(path)
    assert [str(field.type) for field in found.schema] == ["string", "int64", "double", "double"]
    assert found.to_pylist()[1] == {"container": "web", "ts_ms": START_MS + 1000, "cpu_cores": 0.125, "mixed": 0.5}
    piped = run(state, sql, "--format", "parquet")
    assert piped.stdout_bytes == path.read_bytes()


def test_rows_that_are_cut_off_are_told(state: Path) -> None:
    result = run(state, "SELECT ts_ms FROM cpu", "--limit", "3")
    assert len(result.stdout.splitlines()) == 5
    assert "more rows than these 3" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["DELETE FROM sample"], 1, "Only SELECT"),
        (["SELECT nobody FROM cpu"], 1, "no such column: nobody"),
        (["SELECT 1", "--sink", "memory"], 1, "no sink of that name"),
        (["SELECT 1", "--set", "sinks.sql.enabled=false"], 1, "no sink that keeps its rows in SQL"),
        (["SELECT 1", "--limit", "0"], 2, "limit"),
        (["SELECT 1", "--format", "xml"], 2, "format"),
        (["SELECT 1", "-o", "/no/such/folder/a.csv"], 1, "No such file"),
        (
            ["WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x FROM r) SELECT count(*) FROM r", "--timeout", "0.5"],
            1,
            "0.5 s",
        ),
        (["SELECT 1", "--set", "sinks.sql.url=postgresql+psycopg://a@127.0.0.1:1/b"], 1, "query_url"),
    ],
)
def test_what_cannot_be_answered_says_why(state: Path, words: list[str], code: int, said: str) -> None:
    result = run(state, *words)
    assert result.exit_code == code, result.output
    assert said in result.output


def test_lines_fit_a_terminal_as_far_as_that_goes() -> None:
    answer = SqlAnswer(["container", "path", "bytes"], [["a" * 30, "/x/" + "b" * 60, 123], ["c", "/d", 4]])
    for width in (60, 40, 30):
        lines = table(answer, width)
        assert {len(line) for line in lines} == {width}, lines
    assert table(answer, 30)[2] == "aaaaaaaaa…  /x/bbbbbbb…    123"
    assert table(answer, 20)[-4:] == ["-- row 2", "container  c", "path       /d", "bytes      4"]
    assert "a" * 30 in table(answer)[2]
    assert table(SqlAnswer(["n"], [])) == ["n", "-"]


def test_numbers_are_readable() -> None:
    cells = [
        row.strip() for row in table(SqlAnswer(["x"], [[v] for v in (0.0, 1.5, 1e-7, 2.0, 123456789.125, 1e20, 7, -0.25)]))[2:]
    ]
    assert cells == ["0", "1.5", "1e-07", "2", "123456789.125", "1e+20", "7", "-0.25"]

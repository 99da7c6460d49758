"""`tidegauge query`: the forms of its answer, and the rules that it shares with the endpoint."""

import csv
import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from tidegauge.cli import query_command
from tidegauge.cli.main import main
from tidegauge.cli.options import EXIT_CONFIG
from tidegauge.cli.query_forms import table
from tidegauge.pipeline.sql_query import SqlAnswer
from tidegauge.pipeline.testing import START_MS, make_batch, make_container, make_sample, make_schema
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

SCHEMA = make_schema(("cpu_usage_ns", "memory_working_set_bytes"), ())
SQL = "SELECT container, count(*) AS samples, sum(cpu_seconds) / sum(seconds) AS cores, NULL AS none FROM cpu"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder with a database in it, as a stopped program leaves it."""
    monkeypatch.setattr(query_command, "server_ids", lambda user, root: None)  # the files here are whose tests these are
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


MIXED = """
    SELECT 9223372036854775807 AS whole, 0.5 AS part, 'é' AS words, x'00ff' AS raw, NULL AS absent,
           1 AS numbers, 1 AS words_too, x'0a' AS raw_too, 7 AS twice, 'b' AS twice
    UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, 0.5, 'a', 'b', 8, 'c'
    UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, 9007199254740993, 1.5, NULL, NULL, NULL
"""


def test_parquet_has_a_type_for_each_column(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    result = run(state, MIXED, "--format", "parquet", "--output", str(path))
    assert (result.exit_code, result.output) == (0, "")
    found = parquet.read_table(path)
    assert {field.name: str(field.type) for field in found.schema} == {
        "whole": "int64",
        "part": "double",
        "words": "string",
        "raw": "binary",
        "absent": "null",
        "numbers": "double",
        "words_too": "string",
        "raw_too": "string",
        "twice": "int64",
        "twice_2": "string",
    }
    assert found.to_pylist() == [
        dict(zip(found.column_names, row, strict=True))
        for row in (
            (2**63 - 1, 0.5, "é", b"\x00\xff", None, 1.0, "1", "0a", 7, "b"),
            (None, None, None, None, None, 0.5, "a", "b", 8, "c"),
            (None, None, None, None, None, 2.0**53, "1.5", None, None, None),
        )
    ]
    group = parquet.ParquetFile(path).metadata.row_group(0)
    assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}
    assert run(state, MIXED, "--format", "parquet").stdout_bytes == path.read_bytes()


def test_parquet_is_read_by_another_program(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    sql = "SELECT container, ts_ms, cpu_cores, x'01' AS raw, NULL AS absent FROM cpu ORDER BY id, ts_ms"
    assert run(state, sql, "--format", "parquet", "-o", str(path)).exit_code == 0
    with duckdb.connect() as db:
        assert db.execute(f"SELECT count(*), sum(cpu_cores), max(ts_ms) FROM '{path}' WHERE container = 'web'").fetchall() == [
            (4, 0.375, START_MS + 3000)
        ]
        assert db.execute(f"SELECT DISTINCT raw, absent FROM '{path}'").fetchall() == [(b"\x01", None)]
        types = [row[1] for row in db.execute(f"DESCRIBE SELECT * FROM '{path}'").fetchall()]
        assert types[:4] == ["VARCHAR", "BIGINT", "DOUBLE", "BLOB"]


def test_parquet_without_rows_has_its_columns(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    assert run(state, "SELECT container, ts_ms FROM cpu WHERE 0", "--format", "parquet", "-o", str(path)).exit_code == 0
    assert (parquet.read_table(path).column_names, parquet.read_table(path).num_rows) == (["container", "ts_ms"], 0)


def test_without_pyarrow_the_extra_is_named_and_nothing_is_asked(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr(query_command, "ask", lambda *_: pytest.fail("the store was asked"))
    result = run(state, "SELECT 1", "--format", "parquet", "-o", str(tmp_path / "a.parquet"))
    assert (result.exit_code, "pip install 'tidegauge[parquet]'" in result.stderr) == (EXIT_CONFIG, True)
    assert not (tmp_path / "a.parquet").exists()


def test_pyarrow_is_loaded_for_parquet_alone(state: Path) -> None:
    """In a process of its own, since other tests load it."""
    code = (
        "import sys; from tidegauge.cli.main import main\n"
        f"main(['query', '--state-dir', {str(state)!r}, 'SELECT 1'], standalone_mode=False)\n"
        "assert 'pyarrow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_terminal_gets_no_binary(state: Path, form: str) -> None:
    """On a real one, at which `isatty` looks."""
    ours, theirs = os.openpty()
    command = [
        sys.executable,
        "-m",
        "tidegauge.cli.main",
        "query",
        "--state-dir",
        str(state),
        "SELECT 1 AS a",
        "--format",
        form,
    ]
    with os.fdopen(ours, "rb", 0) as terminal:
        done = subprocess.run(
            command, stdout=theirs, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False, timeout=120
        )
        os.close(theirs)
        try:
            shown = terminal.read(1000)
        except OSError:  # nobody has it open any more, and nothing was left to read
            shown = b""
    if form == "csv":
        assert (done.returncode, shown.split()) == (0, [b"a", b"1"])
    else:
        assert (done.returncode, shown) == (2, b"")
        assert b"--output FILE" in done.stderr


def test_a_file_has_its_new_content_whole_or_keeps_the_old(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    path, link = folder / "a.csv", folder / "link.csv"
    path.write_text("before\n" * 100)
    path.chmod(0o600)
    link.symlink_to(path)
    assert run(state, "SELECT nobody", "--format", "csv", "-o", str(path)).exit_code == 1
    assert path.read_text() == "before\n" * 100
    monkeypatch.setitem(query_command._FORMS, "csv", lambda answer: 1 // 0)
    assert isinstance(run(state, "SELECT 1", "--format", "csv", "-o", str(path)).exception, ZeroDivisionError)
    assert path.read_text() == "before\n" * 100
    monkeypatch.undo()
    assert run(state, "SELECT 1 AS one", "--format", "csv", "-o", str(link)).exit_code == 0
    assert path.read_text() == "one\n1\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (link.is_symlink(), sorted(p.name for p in folder.iterdir())) == (True, ["a.csv", "link.csv"])


def test_the_store_is_asked_with_the_rights_of_the_server(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(query_command, "server_ids", lambda user, root: (user, root))
    monkeypatch.setattr(query_command, "ask", lambda *given: asked.append(given[2]) or SqlAnswer(["n"], [[1]]))
    assert run(state, "SELECT 1", "--set", "server_user=somebody").exit_code == 0
    assert asked == [("somebody", state)]


def test_a_device_is_written_to_and_stays(state: Path) -> None:
    assert run(state, "SELECT 1", "-o", "/dev/null").exit_code == 0
    assert Path("/dev/null").is_char_device()


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

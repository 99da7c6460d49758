"""The examples of docs/plugins.md: a stranger's package, tested as its author would, then installed beside ours."""

import csv
import re
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from tests.packaging.example_plugin.tidegauge_example.csv_sink import CsvConfig, CsvSink
from tests.packaging.example_plugin.tidegauge_example.file_handles import FileHandlesCollector, FileHandlesConfig

from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.plugin import Sink
from tidegauge.pipeline.records import Value
from tidegauge.pipeline.testing import Key, SinkContract, Stored, make_container

ROOT = Path(__file__).parents[2]
EXAMPLE = Path(__file__).parent / "example_plugin"


class TestCsvSink(SinkContract):
    is_idempotent = False
    keeps_order = True
    holds_tables = False

    def make_sink(self, tmp_path: Path) -> Sink:
        self.path = tmp_path / "out.csv"
        return CsvSink(CsvConfig(self.path))

    def make_unreachable_sink(self, tmp_path: Path) -> Sink:
        return CsvSink(CsvConfig(tmp_path / "missing" / "out.csv"))

    def stored(self, sink: Sink) -> Stored:
        samples: list[tuple[Key, dict[str, Value]]] = []
        with self.path.open(newline="") as file:
            for instance, epoch, ts_ms, is_closing, _, metric, text in csv.reader(file):
                key = (instance, int(epoch), int(ts_ms))
                if not samples or samples[-1][0] != key or metric in samples[-1][1]:
                    samples.append((key, {"is_closing": 1} if is_closing == "1" else {}))
                samples[-1][1][metric] = float(text) if re.search("[.e]", text) else int(text)
        return samples


def test_collector_reads_what_the_kernel_says(tmp_path: Path) -> None:
    (tmp_path / "sys" / "fs").mkdir(parents=True)
    (tmp_path / "sys" / "fs" / "file-nr").write_text("1504\t0\t9223372036854775807\n")
    collector = FileHandlesCollector(FileHandlesConfig(tmp_path))
    reader = collector.reader(make_container(1, "/"))
    assert reader is not None
    assert reader.read() == (1504, 2**63 - 1)
    reader.close()
    reader.close()
    assert collector.reader(make_container(2, "/docker/x")) is None


def test_collector_without_its_file_has_no_data(tmp_path: Path) -> None:
    with pytest.raises(NoData, match="file-nr does not exist"):
        FileHandlesCollector(FileHandlesConfig(tmp_path)).reader(make_container(1, "/"))


@pytest.mark.parametrize("name", ["pyproject.toml", "tidegauge_example/file_handles.py", "tidegauge_example/csv_sink.py"])
def test_the_page_shows_the_code_that_is_tested(name: str) -> None:
    code = (EXAMPLE / name).read_text()
    assert f"\n{code}```\n" in (ROOT / "docs" / "plugins.md").read_text(), name


@pytest.mark.integration
@pytest.mark.e2e
def test_installed_plugins_take_part(installed: Path, tmp_path: Path) -> None:
    python = installed / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", EXAMPLE], check=True, stdin=subprocess.DEVNULL)
    out = tmp_path / "out.csv"
    state = tmp_path / "state"
    settings = [f"sinks.csv.path={out}", "http.listen=127.0.0.1:0"]
    command = [installed / "bin" / "tidegauge", "run", "--state-dir", state, *(x for s in settings for x in ("--set", s))]
    with (tmp_path / "log").open("wb") as log:
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while not (out.exists() and "file_handles_allocated" in out.read_text()):
            assert program.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.1)
    finally:
        program.terminate()
        program.wait(30)
    with out.open(newline="") as file:
        in_csv = {(int(r[2]), int(r[6])) for r in csv.reader(file) if (r[4], r[5]) == ("/", "file_handles_allocated")}
    with closing(sqlite3.connect(state / "server" / "tidegauge.db")) as database:
        in_sql = set(database.execute("SELECT ts_ms, value FROM custom WHERE metric = 'file_handles_allocated'"))
    assert in_csv
    assert in_csv == in_sql

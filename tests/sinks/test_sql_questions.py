"""The page of questions: each is asked as it stands there, of SQLite and of PostgreSQL, and the answer is the one beside it.

What some of them must be is worked out here, from the records alone.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.servers import PostgresServer, need_postgres
from tests.sinks import shop
from tests.sinks.shop import MIB, ms

from tidegauge.cli.query_forms import table
from tidegauge.pipeline import rates
from tidegauge.pipeline.records import Batch, Gap, Sample
from tidegauge.pipeline.sql_query import MOST_ANSWER_BYTES, Question, SqlAnswer
from tidegauge.sinks.sql import migrate
from tidegauge.sinks.sql.database import open_database
from tidegauge.sinks.sql.query_postgresql import VIEWS, PostgresqlStore
from tidegauge.sinks.sql.query_sqlite import SqliteStore
from tidegauge.sinks.sql.query_time import Clock
from tidegauge.sinks.sql.query_worker import Store, collect
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

PAGE = Path(__file__).parents[2] / "docs" / "questions.md"
CLOCK = Clock(ms(shop.NOW) / 1000)
Ask = Callable[[str], SqlAnswer]


def questions() -> list[tuple[str, str, str]]:
    """(number, SQL, answer) of each."""
    parts = re.split(r"^## (\d+)\. .*$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    out = []
    for number, text in zip(parts[::2], parts[1::2], strict=True):
        (sql,) = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
        (answer,) = re.findall(r"```\n\n```\n(.*?)```", text, re.DOTALL)
        out.append((number, sql, answer))
    return out


def asker(make: Callable[[], Store]) -> Ask:
    def ask(sql: str) -> SqlAnswer:
        with contextlib.closing(make()) as store:
            found = store.ask(sql, 10_000, time.monotonic() + 120)
            return collect(found, Question(sql, answer_bytes=MOST_ANSWER_BYTES))

    return ask


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    sink = SqlSink(SqlConfig(url=f"sqlite:///{tmp_path_factory.mktemp('shop') / 'a.db'}"))
    sink.write(shop.records())
    sink.close()
    return asker(lambda: SqliteStore(str(sink.path), 1 << 30, CLOCK))


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    need_postgres()
    with PostgresServer() as server:
        url = server.database("shop", server.role("agent"))
        migrate.upgrade(open_database(url, busy_timeout_s=5, password=server.password))
        sink = SqlSink(SqlConfig(url=url, password=server.password))
        sink.write(shop.records())
        sink.close()
        server.sql(f"GRANT SELECT ON {', '.join(VIEWS)} TO {server.role('asker')}", database="shop")
        file = tmp_path_factory.mktemp("secret") / "password"
        file.write_text(server.password)
        parameters = {"host": "127.0.0.1", "port": str(server.port), "user": "asker", "dbname": "shop"}
        yield asker(lambda: PostgresqlStore(parameters, str(file), CLOCK))


def test_there_are_twenty() -> None:
    assert [number for number, _, _ in questions()] == [str(n) for n in range(1, 21)]


@pytest.mark.parametrize(("number", "sql", "answer"), questions())
def test_sqlite_answers_as_the_page_says(sqlite: Ask, number: str, sql: str, answer: str) -> None:
    assert table(sqlite(sql)) == answer.splitlines()


@pytest.mark.integration
@pytest.mark.parametrize(("number", "sql", "answer"), questions())
def test_postgresql_answers_as_the_page_says(postgresql: Ask, number: str, sql: str, answer: str) -> None:
    assert table(postgresql(sql)) == answer.splitlines()


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [sample for record in shop.records() if isinstance(record, Batch) for sample in record.samples]


def rows(ask: Ask, number: int) -> list[list[Any]]:
    return ask(questions()[number - 1][1]).rows


def value(sample: Sample, metric: str) -> int:
    found = sample.values[shop.SCHEMA.names.index(metric)]
    assert isinstance(found, int)
    return found


def used_s(samples: Sequence[Sample], number: int, start: str, end: str) -> tuple[float, float]:
    """(CPU seconds, seconds) of the known steps that end within the time."""
    gaps = [g for g in shop.records() if isinstance(g, Gap) and g.source == shop.PLACES[number - 1].source]
    points = rates.points([s for s in samples if s.container == number], {shop.SCHEMA.id: shop.SCHEMA}, "cpu_usage_ns")
    found = [r for r in rates.rates(points, gaps, 301_000) if ms(start) <= r.to_ms < ms(end)]
    return sum(r.increase for r in found) / 1e9, sum(r.to_ms - r.from_ms for r in found) / 1e3


def test_the_most_memory_is_that_of_the_records(sqlite: Ask, samples: list[Sample]) -> None:
    inner = {3, 4, 5, 8, 9}
    tuesday = [s for s in samples if ms("2026-11-17 00:00") <= s.ts_ms < ms("2026-11-18 00:00") and s.container in inner]
    best = max(tuesday, key=lambda s: value(s, "memory_working_set_bytes"))
    assert rows(sqlite, 1) == [[shop.PLACES[best.container - 1].name, value(best, "memory_working_set_bytes")]]
    assert rows(sqlite, 1)[0][1] == (500 + 4 * 47 + 23) * MIB


def test_means_of_cpu_are_those_of_the_rules(sqlite: Ask, samples: list[Sample]) -> None:
    wanted = {}
    for number in (3, 4, 8, 9):
        used, seconds = used_s(samples, number, "2026-11-19 11:00:00", "2026-11-19 12:00:01")
        wanted[shop.PLACES[number - 1].name] = used / seconds
    assert dict(map(tuple, rows(sqlite, 2))) == pytest.approx(wanted)


def test_core_hours_are_those_of_the_rules(sqlite: Ask, samples: list[Sample]) -> None:
    hours = {n: used_s(samples, n, "2026-11-18 00:00:00", "2026-11-19 00:00:00")[0] / 3600 for n in (1, 3, 4, 6, 8, 9)}
    assert dict(map(tuple, rows(sqlite, 19))) == pytest.approx({"front": hours[3] + hours[8], "data": hours[4] + hours[9]})


def test_traffic_is_that_of_the_records(sqlite: Ask) -> None:
    """Half a day at the rate of the night and half a day at three times that, but for the steps around the gap."""
    day_s, lost_s = 86_400, 600
    wanted = {"shop-web": 40 * 1024 * 2 * day_s}
    for name, kib in (("shop-web-2", 40), ("cache", 15)):
        wanted[name] = kib * 1024 * (2 * day_s - lost_s)
    found = {name: received for name, received, _ in rows(sqlite, 11)}
    assert found == pytest.approx(wanted, rel=0.004)

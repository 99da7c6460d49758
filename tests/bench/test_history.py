"""The eight questions of `python -m bench --only history`, over three hours, on each real store, against numpy."""

import shutil
from collections.abc import Callable, Iterator, Mapping

import pytest
from bench.generator import History
from bench.questions import QUESTIONS, Asked
from bench.stores import STORES, ParquetStore, Store
from tests.servers import need_influxd, need_postgres, need_victoria_metrics

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

NEEDS: Mapping[str, Callable[[], None]] = {
    "sqlite": lambda: None,
    "parquet": lambda: None,
    "postgresql": need_postgres,
    "influxdb": need_influxd,
    "victoriametrics": need_victoria_metrics,
}
HISTORY = History(days=0.125)


@pytest.fixture(scope="module")
def asked() -> Asked:
    return Asked(HISTORY)


@pytest.fixture(scope="module", params=list(STORES))
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    name = request.param
    NEEDS[name]()
    folder = tmp_path_factory.mktemp("history") / name
    with STORES[name](folder) as store:
        store.load(HISTORY.writes(1500), is_settled=False)
        yield store
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_answer_is_that_of_an_independent_computation(question: str, store: Store, asked: Asked) -> None:
    assert asked.expected(question).low, "a question whose answer is empty proves nothing"
    ways = [way for way in store.ways if question in store.questions(way)]
    assert {way: store.check(question, asked, way) for way in ways} == {way: [] for way in ways}


def test_parquet_files_are_as_small_as_they_should_be(store: Store) -> None:
    """What counts is sorted, and packed as numbers that move: 1.4 bytes a value otherwise."""
    if isinstance(store, ParquetStore):
        assert store.size_bytes() / (HISTORY.samples * HISTORY.values_a_sample) < 1

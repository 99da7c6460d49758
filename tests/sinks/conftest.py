"""Fixtures of the sinks' tests."""

from collections.abc import Iterator

import alembic
import pytest
from tests.servers import Influxd, PostgresServer, need_influxd
from tests.sinks.databases import Postgresql, Sqlite

assert alembic.__version__, "loaded, so that the SQL sink migrates in this process: a fresh one for each test takes its time"


@pytest.fixture(scope="module")
def influxd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influxd]:
    """One for the tests of a module, each with a database of its own."""
    need_influxd()
    with Influxd(tmp_path_factory.mktemp("influxd")) as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def databases(request: pytest.FixtureRequest) -> Iterator[Sqlite | Postgresql]:
    """Each database that the SQL sink writes to."""
    if request.param == "sqlite":
        yield Sqlite()
    else:
        yield request.getfixturevalue("postgresql")


@pytest.fixture
def postgresql(postgres: PostgresServer) -> Iterator[Postgresql]:
    """Databases of the test's own in a running server, which are dropped at its end."""
    databases = Postgresql(postgres)
    yield databases
    databases.close()

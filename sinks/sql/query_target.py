"""How a question in SQL reaches the store: a SQLite file as it is, PostgreSQL by a role of its own."""

from pathlib import Path

import sqlalchemy as sa

from tidegauge.pipeline.sql_query import QueryError, QueryTarget, Why

WORKER = "tidegauge.sinks.sql.query_worker"


def query_target(url: str, query_url: str, query_password_file: Path | None) -> QueryTarget:
    """`url` is the sink's own. QueryError where no question may be asked."""
    own = sa.make_url(url)
    if own.get_backend_name() == "sqlite":
        return QueryTarget(WORKER, {"dialect": "sqlite", "path": str(own.database)})
    if not query_url:
        raise QueryError(
            Why.STORE,
            "Expected query_url in the sink's table: the address of a role that may SELECT the views and nothing else.",
        )
    try:
        asked = sa.make_url(query_url)
    except sa.exc.ArgumentError:
        asked = sa.make_url("none://")
    if asked.get_backend_name() != "postgresql":
        raise QueryError(Why.STORE, "query_url: expected postgresql+psycopg://role@host:port/database.")
    if asked.password is not None or "password" in asked.query:
        raise QueryError(Why.STORE, "query_url: expected no password in it; there is query_password_file.")
    parameters = asked.translate_connect_args(username="user", database="dbname") | dict(asked.query)
    settings = {
        "dialect": "postgresql",
        "parameters": {name: str(value) for name, value in parameters.items()},
        "password_file": None if query_password_file is None else str(query_password_file),
    }
    return QueryTarget(WORKER, settings)

"""The process that runs a question in SQL: `python -m tidegauge.sinks.sql.query_worker`, started by `pipeline.sql_query`.

It bounds itself before it looks at the question, and imports little: SQLAlchemy and Alembic alone would take longer than most
questions.
"""

import ctypes
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

import msgspec

from tidegauge.pipeline.sql_query import (
    Fault,
    Order,
    QueryError,
    Question,
    Reply,
    SqlAnswer,
    Value,
    Why,
    readable,
    too_long,
)
from tidegauge.sinks.sql.query_time import Clock

_FILE_BYTES = 1 << 20
"""Size to which it may grow a file: SQLite's shared index of the write-ahead log, nothing else."""
_PR_SET_PDEATHSIG = 1


class Rows(NamedTuple):
    columns: Sequence[str]
    rows: Iterator[Sequence[Any]]


class Store(Protocol):
    def ask(self, sql: str, limit: int, deadline_s: float) -> Rows:
        """At least `limit` rows if there are so many; QueryError. `deadline_s` is of the monotonic clock. Once."""
        ...

    def close(self) -> None: ...


def bound(question: Question) -> None:
    """No descriptor of the parent's is open here but the standard ones; what the question may use is set for good."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.nice(10)
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass
    seconds = math.ceil(question.timeout_s) + 1
    for kind, limit in (
        (resource.RLIMIT_AS, question.memory_bytes),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, _FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        _, hard = resource.getrlimit(kind)
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (least, least))


def answer(order: Order) -> Reply:
    question = order.question
    deadline_s = time.monotonic() + question.timeout_s
    try:
        store = _store(order)
        bound(question)
        found = store.ask(question.sql, question.limit + 1, deadline_s)
        return Reply(collect(found, question))
    except QueryError as exc:
        return Reply(fault=Fault(exc.why, str(exc)))
    except MemoryError:
        return Reply(fault=Fault(Why.TOO_LARGE, f"The question took more than {question.memory_bytes >> 20} MiB."))
    except TimeoutError:
        return Reply(fault=Fault(Why.TOO_LONG, too_long(question.timeout_s)))


def _store(order: Order) -> Store:
    if order.settings["dialect"] == "sqlite":
        from tidegauge.sinks.sql.query_sqlite import SqliteStore

        return SqliteStore(order.settings["path"], order.question.memory_bytes, Clock())
    from tidegauge.sinks.sql.query_postgresql import PostgresqlStore

    return PostgresqlStore(order.settings["parameters"], order.settings["password_file"], Clock())


def collect(found: Rows, question: Question) -> SqlAnswer:
    """The rows up to the first bound that they reach. Bytes are those of their JSON."""
    rows: list[list[Value]] = []
    size = 0
    for row in found.rows:
        values = [_plain(value) for value in row]
        size += len(msgspec.json.encode(readable(values))) + 1
        if len(rows) >= question.limit or size > question.answer_bytes:
            return SqlAnswer(list(found.columns), rows, is_cut=True)
        rows.append(values)
    return SqlAnswer(list(found.columns), rows)


def _plain(value: Any) -> Value:
    """What SQLite has no type for, as it has it; what JSON has no number for as None."""
    if value is None or isinstance(value, str | bytes):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Decimal):
        if value.is_finite() and value == value.to_integral_value() and abs(value) < 2**63:
            return int(value)
        value = float(value)
    if isinstance(value, datetime):
        return value.isoformat(" ", "milliseconds").removesuffix("+00:00")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def main() -> None:
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer(order)))
    sys.stdout.buffer.flush()
    os._exit(0)  # without the clean-up of a heap that may be full


if __name__ == "__main__":
    main()

"""Asks a store in SQL, in a process of its own with bounds on address space, CPU time, wall time, rows and bytes.

The SQL comes from whoever may ask. The process runs the store's worker module, which lets it do nothing but read; this module
starts it, hands it the question over its standard input, so that neither SQL nor passwords stand in a command line, and ends
it. A worker that dies, hangs or babbles costs its question and nothing else.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Protocol, runtime_checkable

import msgspec

from tidegauge.pipeline.errors import TidegaugeError

MOST_ROWS = 1_000_000
MOST_SQL_CHARACTERS = 100_000
MOST_ANSWER_BYTES = 64 << 20
_GRACE_S = 3.0
"""For the start of the process, beyond the time that the question may take: the worker itself says when that is over."""


class QueryTarget(msgspec.Struct, frozen=True):
    """How a worker reaches a store. May hold a password: never shown."""

    module: str
    """Of the worker, run with `python -m`."""
    settings: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"QueryTarget({self.module!r}, ...)"


class Question(msgspec.Struct, frozen=True):
    sql: str
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_ROWS)] = 10_000
    """Rows that are wanted at most."""
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 30.0
    memory_bytes: Annotated[int, msgspec.Meta(ge=64 << 20)] = 512 << 20
    """Address space of the process."""
    answer_bytes: Annotated[int, msgspec.Meta(ge=1024, le=MOST_ANSWER_BYTES)] = MOST_ANSWER_BYTES


Value = int | float | str | bytes | None


class SqlAnswer(msgspec.Struct, frozen=True):
    """What a question found. Integers have 64 bits, floats are finite, times are text in UTC, true and false 1 and 0."""

    columns: list[str]
    rows: list[list[Any]]
    """Of `Value`: msgspec takes no union of text and bytes."""
    is_cut: bool = False
    """True if there are more rows than were asked for, or than fit into `answer_bytes`."""


def readable(row: Sequence[Value]) -> list[int | float | str | None]:
    """For forms that have no bytes: these as hexadecimal digits."""
    return [value.hex() if isinstance(value, bytes) else value for value in row]


class Why(StrEnum):
    BAD_SQL = "bad_sql"
    """It cannot be run, or does what is not allowed."""
    TOO_LONG = "too_long"
    """It took longer than it may."""
    TOO_LARGE = "too_large"
    """It took more memory than it may."""
    STORE = "store"
    """The store does not answer, or must not be asked as it is set up."""


class Fault(msgspec.Struct, frozen=True):
    why: Why
    text: str


class QueryError(TidegaugeError):
    def __init__(self, why: Why, text: str) -> None:
        super().__init__(text)
        self.why = why


@runtime_checkable
class KeepsSql(Protocol):
    """A sink whose store can be asked in SQL."""

    def query_target(self) -> QueryTarget:
        """How a question reaches it, without I/O. QueryError where the configuration does not allow one. Any thread."""
        ...


class Order(msgspec.Struct, frozen=True):
    """What a worker reads from its standard input, as JSON."""

    question: Question
    settings: Mapping[str, Any]


class Reply(msgspec.Struct, frozen=True):
    """What it writes to its standard output, as msgpack: one of both."""

    answer: SqlAnswer | None = None
    fault: Fault | None = None


class Asking:
    """One question on its way. `answer` is called once; `stop` at any time, by any thread."""

    def __init__(self, target: QueryTarget, question: Question, ids: tuple[int, int] | None = None) -> None:
        """`ids`: user and group of the process, for who is root; None: one's own."""
        self._target = target
        self._question = question
        self._rights: dict[str, Any] = {} if ids is None else {"user": ids[0], "group": ids[1], "extra_groups": [ids[1]]}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def answer(self) -> SqlAnswer:
        """Waits for it, at most `timeout_s` and a few seconds. QueryError if there is none."""
        question = self._question
        if len(question.sql) > MOST_SQL_CHARACTERS:
            raise QueryError(Why.BAD_SQL, f"Expected at most {MOST_SQL_CHARACTERS} characters of SQL.")
        if "\0" in question.sql or any("\ud800" <= c <= "\udfff" for c in question.sql):
            raise QueryError(Why.BAD_SQL, "Expected text of UTF-8 without NUL.")
        with self._lock:
            if self._is_stopped:
                raise QueryError(Why.TOO_LONG, "The question was given up.")
            try:
                self._process = process = subprocess.Popen(
                    [sys.executable, "-P", "-m", self._target.module],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=_environment(),
                    **self._rights,
                )
            except OSError as exc:
                raise QueryError(Why.STORE, f"No process for the question: {exc.strerror}.") from exc
        with process:
            try:
                order = msgspec.json.encode(Order(question, self._target.settings))
                out, _ = process.communicate(order, timeout=question.timeout_s + _GRACE_S)
            except subprocess.TimeoutExpired:
                raise QueryError(Why.TOO_LONG, too_long(question.timeout_s)) from None
            finally:
                process.kill()
        return _answer(process.returncode, out, question)

    def stop(self) -> None:
        """Ends the process; `answer` then fails."""
        with self._lock:
            self._is_stopped = True
            if self._process is not None:
                self._process.kill()


def ask(target: QueryTarget, question: Question, ids: tuple[int, int] | None = None) -> SqlAnswer:
    """The answer; QueryError if there is none. Waits. `ids` as of `Asking`."""
    return Asking(target, question, ids).answer()


async def ask_async(target: QueryTarget, question: Question) -> SqlAnswer:
    """As `ask`, on a thread of the loop's; a task that is cancelled takes the process with it."""
    asking = Asking(target, question)
    answer = asyncio.ensure_future(asyncio.to_thread(asking.answer))
    try:
        return await asyncio.shield(answer)
    finally:
        asking.stop()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may have nobody to tell


def _environment() -> dict[str, str]:
    """Without our own variables: they may hold the passwords of stores."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TIDEGAUGE_")}


def _answer(code: int, out: bytes, question: Question) -> SqlAnswer:
    try:
        reply = msgspec.msgpack.decode(out, type=Reply)
    except msgspec.DecodeError:
        reply = Reply()
    if reply.answer is not None:
        return reply.answer
    if reply.fault is not None:
        raise QueryError(reply.fault.why, reply.fault.text)
    # The kernel ends it at its limit of CPU time; without memory it may not even be able to say so.
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        raise QueryError(Why.TOO_LONG, too_long(question.timeout_s))
    raise QueryError(Why.TOO_LARGE, f"The question took more than {question.memory_bytes >> 20} MiB, or its process failed.")


def too_long(timeout_s: float) -> str:
    return f"The question took longer than {timeout_s:g} s: ask about less time, or allow more."

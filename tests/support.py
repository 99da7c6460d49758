"""What tests of every package share."""

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

T = TypeVar("T")
IS_STRICT = os.environ.get("TIDEGAUGE_TESTS_STRICT") == "1"
"""Set in CI: what a test needs and does not find is then a failure, not a skip."""


def need(is_there: object, reason: str) -> None:
    """Skips the test with the reason if the real thing that it needs is missing; in CI it fails instead."""
    if is_there:
        return
    if IS_STRICT:
        pytest.fail(f"needed in CI and missing: {reason}")
    pytest.skip(reason)


def eventually(what: Callable[[], T], timeout_s: float = 60.0, why: str = "", not_yet: tuple[type[Exception], ...] = ()) -> T:
    """The first true result; a failure with `why` and the last result after the timeout. Errors of `not_yet` are no result."""
    end_s, pause_s = time.monotonic() + timeout_s, 0.001
    while True:
        error: Exception | None = None
        try:
            if result := what():
                return result
        except not_yet as exc:
            error = exc
        last = repr(result) if error is None else f"{type(error).__name__}: {error}"
        assert time.monotonic() < end_s, f"{why or 'it did not come about'} within {timeout_s:g} s; last: {last}"
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.02)


@contextlib.contextmanager
def descriptors_beyond_1023() -> Iterator[None]:
    """Every descriptor that is opened meanwhile has a number that select(2) cannot take, as in an agent with much to read."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need(hard == resource.RLIM_INFINITY or hard >= 2048, "the limit of open files is below 2048")
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    held = [os.open(os.devnull, os.O_RDONLY)]
    try:
        while held[-1] < 1024:
            held.append(os.dup(held[0]))
        yield
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

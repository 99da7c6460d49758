"""What tests of every package share."""

import contextlib
import os
import resource
from collections.abc import Iterator

import pytest

IS_STRICT = os.environ.get("TIDEGAUGE_TESTS_STRICT") == "1"
"""Set in CI: what a test needs and does not find is then a failure, not a skip."""


def need(is_there: object, reason: str) -> None:
    """Skips the test with the reason if the real thing that it needs is missing; in CI it fails instead."""
    if is_there:
        return
    if IS_STRICT:
        pytest.fail(f"needed in CI and missing: {reason}")
    pytest.skip(reason)


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

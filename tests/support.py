"""What tests of every package share."""

import os

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

"""Fixtures of the tests of the pipeline."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.pipeline.sink_bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    return lambda *a, **k: Bench(tmp_path, *a, **k)

"""The page on Heapster's APIs names everything there is, and its tables are the program's own."""

import re
from pathlib import Path

from tidegauge.api.heapster.differences import DIFFERENCES, metrics_table, table
from tidegauge.pipeline.heapster.metrics import BY_NAME, NOT_KNOWN

PAGE = (Path(__file__).parents[2] / "docs/heapster.md").read_text()


def test_the_list_of_differences_is_on_the_page() -> None:
    assert f"<!-- differences -->\n{table()}\n<!-- end of differences -->" in PAGE
    assert len({d.what for d in DIFFERENCES}) == len(DIFFERENCES)


def test_every_metric_is_on_the_page() -> None:
    assert f"<!-- metrics -->\n{metrics_table()}\n<!-- end of metrics -->" in PAGE
    assert set(re.findall(r"^\| `([a-z_/]+)` \|", metrics_table(), re.M)) == BY_NAME.keys() | NOT_KNOWN.keys()

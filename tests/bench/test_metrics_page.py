"""The page of metrics is what the catalogue says."""

from pathlib import Path

from bench.metrics_page import page

from tidegauge.pipeline.catalogue import METRICS

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_is_made_from_the_catalogue_as_it_is() -> None:
    assert PAGE.read_text() == page(), "run: python -m bench.metrics_page > docs/metrics.md"


def test_every_metric_has_a_row_with_every_column() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    of_metrics = [row.replace("\\|", "").strip("| ").split(" | ") for row in rows if row.count("|") > 8]
    assert [row[0] for row in of_metrics if len(row) != 10] == []
    assert {row[0].strip("`") for row in of_metrics} == {m.name for m in METRICS}

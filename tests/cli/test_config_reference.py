"""The page of the configuration is what the code says."""

from pathlib import Path

from tidegauge.cli.config_reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_made_from_the_code_as_it_is() -> None:
    assert PAGE.read_text() == reference(), "run: python -m tidegauge.cli.config_reference > docs/configuration.md"

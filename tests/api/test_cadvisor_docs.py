"""The page on the REST API names everything there is, and the list of differences is the program's own."""

import fnmatch
from pathlib import Path

from tests.api.cadvisor_rig import intended

from tidegauge.api.cadvisor.differences import table
from tidegauge.api.cadvisor.request import EVENT_PARAMETERS, TYPES, V2_PARAMETERS

PAGE = (Path(__file__).parents[2] / "docs/rest-api.md").read_text()


def test_every_request_type_and_parameter_is_on_the_page() -> None:
    for type_ in {t for types in TYPES.values() for t in types}:
        assert f"`{type_}" in PAGE
    for parameter in (*V2_PARAMETERS, *EVENT_PARAMETERS):
        assert parameter.name in PAGE


def test_the_list_of_differences_is_on_the_page() -> None:
    assert f"<!-- differences -->\n{table()}\n<!-- end of differences -->" in PAGE


def test_the_table_for_recorded_answers_is_well_formed() -> None:
    lines = intended()
    assert len({(i.place, i.kind) for i in lines}) == len(lines)
    for line in lines:
        assert line.kind in ("missing", "extra", "type", "value", "length")
        assert line.reason
        assert not any(
            other is not line and other.kind == line.kind and fnmatch.fnmatchcase(line.place, other.place) for other in lines
        ), f"{line.place} is covered by another line"

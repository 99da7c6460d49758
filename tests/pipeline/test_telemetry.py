"""Exposition of the program's own counters."""

from typing import Any

import pytest

from tidegauge.pipeline.telemetry import Family, Point, by, counters_of, one, render


class Counting:
    """A plug-in that says whatever it is given."""

    def __init__(self, said: Any) -> None:
        self.said = said

    def counters(self) -> Any:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({"lost_rows": 3}, {"lost_rows": 3}),
        ({"Lost": 1, "lost rows": 1, 7: 1, "": 1, "é": 1, "kept": 2}, {"kept": 2}),
        ({"float": 1.5, "none": None, "flag": True, "kept": 0}, {"kept": 0}),
        (ValueError("no"), {"counting_errors": 1}),
        (None, {"counting_errors": 1}),
    ],
)
def test_a_plug_in_that_counts_nonsense_harms_no_page(said: Any, shown: dict[str, int]) -> None:
    assert counters_of(Counting(said)) == shown


def test_a_plug_in_that_counts_nothing_shows_nothing() -> None:
    assert counters_of(object()) == {}


def test_labels_and_help_are_escaped_and_families_without_values_left_out() -> None:
    page = render(
        [
            one("a_total", "counter", "Says \\ and\nmore.", 3),
            one("gone", "gauge", "Nothing.", None),
            by("b", "gauge", "By name.", "name", {"y": 0.5, 'x"\\\n': 1}),
            Family("c", "gauge", "Two labels.", [Point({"k": "1", "l": "2"}, 7)]),
        ]
    )
    assert page == (
        "# HELP a_total Says \\\\ and\\nmore.\n# TYPE a_total counter\na_total 3\n"
        '# HELP b By name.\n# TYPE b gauge\nb{name="x\\"\\\\\\n"} 1\nb{name="y"} 0.5\n'
        '# HELP c Two labels.\n# TYPE c gauge\nc{k="1",l="2"} 7\n'
    )

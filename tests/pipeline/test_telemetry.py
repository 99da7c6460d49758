"""Exposition of the program's own counters."""

from tidegauge.pipeline.telemetry import Family, Point, by, one, render


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

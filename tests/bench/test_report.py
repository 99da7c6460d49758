from bench.__main__ import BENCHES, PAGE, put
from bench.report import Row, Section, cheaper, markdown, ratio


def test_a_ratio_is_taken_repeat_by_repeat_and_held_against_its_goal() -> None:
    row = ratio("ours / theirs", (2.0, 3.0, 8.0), (2.0, 2.0, 2.0), "at most 1.3", 1.3)
    assert row.values == (1.0, 1.5, 4.0)
    assert row.median == 1.5
    assert row.verdict == "missed"


def test_cheaper_is_a_lower_bound() -> None:
    assert cheaper("x", (1.0,), (12.0,), "at least 10", 10).verdict == "met"
    assert cheaper("x", (2.0,), (12.0,), "at least 10", 10).verdict == "missed"


def test_a_row_without_a_goal_has_no_verdict() -> None:
    assert Row("x", "us", (1.0,)).verdict == ""


def test_the_table_shows_median_spread_goal_and_verdict() -> None:
    text = markdown([Section("Title", [Row("a", "us", (1.0, 3.0, 2.0), "at most 5", 5), Row("b", "s", (1234.5,))], "Note.")])
    assert text.splitlines() == [
        "### Title",
        "",
        "Note.",
        "",
        "| what | median | min - max | unit | goal | |",
        "| --- | --- | --- | --- | --- | --- |",
        "| a | 2 | 1 - 3 | us | at most 5 | met |",
        "| b | 1234 | one run | s |  |  |",
    ]


def test_results_of_one_bench_are_replaced_and_the_others_stay() -> None:
    page = "Head.\n<!-- a: begin -->\nold a\n<!-- a: end -->\n<!-- b: begin -->\nold b\n<!-- b: end -->\nTail.\n"
    assert put(page, "b", "new") == page.replace("old b\n", "\nnew\n")


def test_the_page_has_a_place_for_every_bench() -> None:
    text = PAGE.read_text()
    assert [b for b in BENCHES if text.count(f"<!-- {b}: begin -->\n") != 1 or text.count(f"<!-- {b}: end -->\n") != 1] == []

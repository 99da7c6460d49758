"""The text of a series: a form that can be trusted, whatever stands in names and values, and that can be read back."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegauge.pipeline.series import MAX_LABEL_VALUE, MAX_LABELS, MAX_NAME, MAX_SERIES, clean_name, series_text, split_series

TEXTS = st.text(max_size=30)
NAMES = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,20}", fullmatch=True)
LABEL_NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,10}", fullmatch=True)
SHOWABLE = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"], include_characters="\n"), max_size=20)


def test_labels_stand_in_order_with_prometheus_escapes() -> None:
    text = series_text("http_requests_total", {"path": 'a"b\\c\nd', "code": "200", "empty": ""})
    assert text == r'http_requests_total{code="200",path="a\"b\\c\nd"}'
    assert series_text("up", {}) == "up"


@given(name=NAMES, labels=st.dictionaries(LABEL_NAMES, SHOWABLE.filter(bool), max_size=5))
def test_what_can_be_shown_comes_back_as_it_was(name: str, labels: dict[str, str]) -> None:
    assert split_series(series_text(name, labels)) == (name, labels)


@given(name=TEXTS.filter(bool), labels=st.dictionaries(TEXTS.filter(bool), TEXTS, max_size=5))
def test_the_form_holds_for_any_text(name: str, labels: dict[str, str]) -> None:
    try:
        text = series_text(name, labels)
    except ValueError:  # two labels are one once they are cleaned
        return
    text.encode()
    assert re.fullmatch(r'[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_][a-zA-Z0-9_]*="([^"\\\n]|\\["\\n])*",?)+\})?', text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)
    name_back, labels_back = split_series(text)
    assert series_text(name_back, labels_back) == text


@pytest.mark.parametrize("c", ["\x00", "\x1b", "\r", "\x7f", "\x85", "\u202e", "\u2028", "\ufeff", "\ud800"])
def test_characters_that_could_fool_a_reader_are_replaced(c: str) -> None:
    assert series_text("a", {"l": f"x{c}y"}) == 'a{l="x\ufffdy"}'


def test_names_become_names_of_prometheus() -> None:
    assert clean_name("jvm.memory used") == "jvm_memory_used"
    assert clean_name("9lives") == "_9lives"
    assert series_text("a", {"b:c": "1"}) == 'a{b_c="1"}'


@pytest.mark.parametrize(
    ("name", "labels", "why"),
    [
        ("", {}, "a name of 0"),
        ("n" * (MAX_NAME + 1), {}, "a name of 201"),
        ("a", {"l": "v" * (MAX_LABEL_VALUE + 1)}, "value of 301"),
        ("a", {f"l{i}": "v" for i in range(MAX_LABELS + 1)}, "51 labels"),
        ("a", {f"l{i}": "v" * 250 for i in range(5)}, f"at most {MAX_SERIES}"),
        ("a", {"a.b": "1", "a-b": "2"}, "twice"),
    ],
)
def test_what_is_too_long_or_ambiguous_is_no_series(name: str, labels: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        series_text(name, labels)


@pytest.mark.parametrize("text", ["", "{}", "a{", 'a{b="c"', 'a{b="c}', "a{b=c}", 'a{b="c"}}', 'a{b="c" }', "a b"])
def test_other_text_is_no_series(text: str) -> None:
    with pytest.raises(ValueError):
        split_series(text)

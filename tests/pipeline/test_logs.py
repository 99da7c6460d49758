"""Names and labels are anybody's text: whatever they hold, a log line stays a line, and JSON stays JSON."""

import json
import logging
import re
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegauge.pipeline.logs import JsonFormatter, TextFormatter

ANY = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)
"""Control characters and halves of surrogate pairs too."""


def record(text: str, *, has_exception: bool) -> logging.LogRecord:
    found = None
    if has_exception:
        try:
            raise ValueError(text)
        except ValueError:
            found = sys.exc_info()
    return logging.LogRecord("a.b", logging.WARNING, "", 0, "container %s", (text,), found)


@example("\n", True)
@given(ANY, st.booleans())
def test_no_text_forges_a_line_or_moves_the_cursor(text: str, has_exception: bool) -> None:
    line = TextFormatter("server").format(record(text, has_exception=has_exception))
    line.encode()
    head, *rest = line.split("\n")
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z WARNING server: container ", head)
    assert all(more.startswith("  ") for more in rest)
    assert bool(rest) == has_exception
    assert not re.search("[\x00-\x1f\x7f-\x9f]", line.replace("\n", ""))


@given(ANY, st.booleans())
def test_every_line_of_json_is_one_object(text: str, has_exception: bool) -> None:
    line = JsonFormatter("server").format(record(text, has_exception=has_exception))
    assert "\n" not in line
    assert not re.search("[\x00-\x1f]", line)
    said = json.loads(line)
    assert said["message"] == "container " + text.encode(errors="backslashreplace").decode()
    assert ("exception" in said) == has_exception


@pytest.mark.parametrize(("text", "shown"), [("a\nb", r"a\x0ab"), ("\x1b[31m", r"\x1b[31m"), ("\udc80", r"\udc80"), ("é", "é")])
def test_what_is_shown_instead(text: str, shown: str) -> None:
    assert TextFormatter("server").format(record(text, has_exception=False)).endswith(f"container {shown}")

"""The text that names one series of an application: `name{label="value",other="value"}`, labels in order of their names.

It is the key of the table `app`. Names are those of Prometheus ([a-zA-Z_:][a-zA-Z0-9_:]*, labels without the colon); other
characters become underscores. In values a backslash, a quote and a newline are escaped as in Prometheus' text format; other
control characters and those that change the direction of text become U+FFFD. So whoever shows a series can trust its form.

Source: Prometheus text exposition format 0.0.4.
"""

import re
from collections.abc import Mapping

MAX_NAME = 200
MAX_LABELS = 50
MAX_LABEL_VALUE = 300
MAX_SERIES = 1000
"""Characters, or labels, at most; what is longer is no series."""

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"(?:,|$)')
_NOT_IN_NAME = re.compile(r"[^a-zA-Z0-9_:]")
_NOT_IN_LABEL = re.compile(r"[^a-zA-Z0-9_]")
_UNSHOWABLE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb]"
)
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def clean_name(text: str) -> str:
    """The text as a metric's name. ValueError if it is empty or too long."""
    return _clean(text, _NOT_IN_NAME)


def series_text(name: str, labels: Mapping[str, str]) -> str:
    """The series' text. ValueError if something is too long, or two labels have the same name once they are cleaned.

    A label without a value is as one that is not there.
    """
    out = clean_name(name)
    if len(labels) > MAX_LABELS:
        raise ValueError(f"{len(labels)} labels: expected at most {MAX_LABELS}")
    cleaned: dict[str, str] = {}
    for key, value in labels.items():
        key = _clean(key, _NOT_IN_LABEL)
        if key in cleaned:
            raise ValueError("a label occurs twice")
        if len(value) > MAX_LABEL_VALUE:
            raise ValueError(f"a label's value of {len(value)} characters: expected at most {MAX_LABEL_VALUE}")
        if value:
            cleaned[key] = _UNSHOWABLE.sub("\ufffd", value)
    if cleaned:
        out += "{" + ",".join(f'{k}="{v.translate(_ESCAPES)}"' for k, v in sorted(cleaned.items())) + "}"
    if len(out) > MAX_SERIES:
        raise ValueError(f"{len(out)} characters: expected at most {MAX_SERIES}")
    return out


def split_series(text: str) -> tuple[str, dict[str, str]]:
    """Name and labels of a series' text. ValueError if it is none."""
    match = _NAME.match(text)
    if match is None:
        raise ValueError("no name")
    rest = text[match.end() :]
    if not rest:
        return match[0], {}
    if rest[0] != "{" or rest[-1] != "}":
        raise ValueError("no braces around the labels")
    labels: dict[str, str] = {}
    at, inner = 0, rest[1:-1]
    while at < len(inner):
        if (label := _LABEL.match(inner, at)) is None:
            raise ValueError("a label without a form")
        labels[label[1]] = unescape(label[2])
        at = label.end()
    return match[0], labels


def unescape(text: str) -> str:
    """A label's value without its escapes."""
    return _ESCAPED.sub(lambda m: "\n" if m[1] == "n" else m[1] if m[1] in '\\"' else m[0], text) if "\\" in text else text


def _clean(text: str, unwanted: re.Pattern[str]) -> str:
    if not 0 < len(text) <= MAX_NAME:
        raise ValueError(f"a name of {len(text)} characters: expected 1 to {MAX_NAME}")
    cleaned = unwanted.sub("_", text)
    return f"_{cleaned}" if cleaned[0].isdigit() else cleaned

"""Plots in a terminal: what stands where, and that unknown and gone are never taken for zero."""

import math
from datetime import UTC

from hypothesis import given
from hypothesis import strategies as st

from tidegauge.cli.plot import Bucket, chart, sparkline

MINUTE_MS = 60_000
START_MS = 1_700_000_000_000 - 1_700_000_000_000 % 3_600_000
_DOTS = {(0, 0): 0x40, (0, 1): 0x80, (1, 0): 0x04, (1, 1): 0x20, (2, 0): 0x02, (2, 1): 0x10, (3, 0): 0x01, (3, 1): 0x08}


def _buckets(*values: float | None, gone: int = 0) -> list[Bucket]:
    made = [Bucket(START_MS + i * MINUTE_MS, START_MS + (i + 1) * MINUTE_MS, v) for i, v in enumerate(values)]
    return made + [
        Bucket(START_MS + i * MINUTE_MS, START_MS + (i + 1) * MINUTE_MS, None, is_gone=True)
        for i in range(len(values), len(values) + gone)
    ]


def _label(value: float) -> str:
    return f"{value:g}"


def _dots(lines: list[str], height: int) -> set[tuple[int, int]]:
    """(column, row) of each dot, from the lower left."""
    out = set()
    for row, line in enumerate(reversed(lines[:height])):
        for x, c in enumerate(line[line.index("┤" if "┤" in line else "│") + 1 :]):
            if 0x2800 <= ord(c) < 0x2900:
                out |= {(2 * x + dx, 4 * row + dy) for (dy, dx), bit in _DOTS.items() if (ord(c) - 0x2800) & bit}
    return out


def test_a_plot_has_a_scale_dots_and_times() -> None:
    lines = chart(_buckets(0, 1, 2, 3, 4), 44, 5, _label, UTC)
    assert [line[:3] for line in lines] == ["4 ┤", "  │", "2 ┤", "  │", "0 ┤", "  └", "   "]
    assert lines[-1].split() == ["22:00", "22:02", "22:04"]
    assert lines[-2].count("┬") == 3
    assert max(map(len, lines)) <= 44


def test_a_rising_value_rises() -> None:
    lines = chart(_buckets(*range(20)), 45, 7, _label, UTC)
    dots = _dots(lines, 7)
    tops = [max(y for x, y in dots if x == column) for column in range(max(x for x, _ in dots) + 1)]
    assert tops == sorted(tops)
    assert (tops[0], tops[-1]) == (0, round(19 / 20 * 27))


def test_zero_is_drawn_and_unknown_is_shaded_and_gone_is_empty() -> None:
    lines = chart(_buckets(0, 0, None, None, 4, 4, gone=2), 3 + 80, 5, _label, UTC)
    bottom, top = lines[4][3:].ljust(80), lines[0][3:].ljust(80)
    assert set(bottom[:20]) <= {"⣀"}
    assert top[:20].strip() == ""
    assert bottom[20:40] == top[20:40] == "░" * 20
    assert bottom[60:].strip() == top[60:].strip() == ""


def test_a_value_that_only_holds_is_dotted() -> None:
    held = [b._replace(is_held=True) for b in _buckets(1, 1, 1)]
    solid, dotted = (_dots(chart(b, 63, 3, _label, UTC), 3) for b in (_buckets(1, 1, 1), held))
    assert len(solid) / 4 < len(dotted) < len(solid) / 2


def test_a_plain_terminal_gets_plain_characters() -> None:
    lines = chart(_buckets(0, 0, None, None, 4, 4, gone=2), 83, 5, _label, UTC, is_ascii=True)
    assert "".join(lines).isascii()
    assert "*" in lines[0]
    assert "?" * 20 in lines[0]
    assert sparkline(_buckets(0, 0.1, None, 4, gone=1), 5, 4, is_ascii=True) == "_.?# "


def test_a_line_of_blocks() -> None:
    assert sparkline(_buckets(0, 0.01, 2, 4, None, gone=1), 6, 4) == "_▁▄█░ "
    assert sparkline([], 4, 1) == "    "
    assert sparkline(_buckets(0, 0), 4, 0) == "____"


def test_the_scale_of_bytes_ends_at_powers_of_two() -> None:
    lines = chart(_buckets(3_000_000_000), 60, 5, lambda v: f"{v / 2**30:g}Gi", UTC, is_binary=True)
    assert lines[0].strip().startswith("3Gi ┤")
    assert chart(_buckets(3_000_000_000), 60, 5, _label, UTC)[0].strip().startswith("3e+09 ┤")


def test_times_fit_the_span() -> None:
    for minutes, expected in (
        (1, "22:00:10"),
        (5, "22:01"),
        (300, "23:00"),
        (3 * 1440, "15. 12:00"),
        (40 * 1440, "11-26"),
        (3000 * 1440, "2029-08-26"),
    ):
        buckets = [Bucket(START_MS, START_MS + minutes * MINUTE_MS, 1.0)]
        assert expected in chart(buckets, 100, 5, _label, UTC)[-1], minutes


@given(
    st.lists(st.none() | st.floats(-1e15, 1e15), max_size=60),
    st.integers(1, 200),
    st.integers(3, 20),
    st.booleans(),
    st.booleans(),
)
def test_whatever_the_values_the_plot_has_its_size(
    values: list[float | None], width: int, height: int, is_ascii: bool, is_binary: bool
) -> None:
    lines = chart(_buckets(*values), width, height, _label, UTC, is_ascii=is_ascii, is_binary=is_binary)
    assert len(lines) == height + 2
    margin = max(map(len, map(_label, (0.0, 1.0)))) + 40
    assert all(len(line) <= max(width, margin) for line in lines)
    assert len(sparkline(_buckets(*values), width, 1.0, is_ascii=is_ascii)) == width
    known = [v for v in values if v is not None and math.isfinite(v)]
    drawn = any(0x2800 < ord(c) < 0x2900 or c == "*" for line in lines for c in line)
    assert drawn is bool(known)

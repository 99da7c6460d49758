"""Plots in a terminal: a value over time in braille dots, or in one line of blocks. Pure text; no terminal is asked.

A value of zero is drawn at the bottom. What is unknown is shaded over the whole height, and where nothing was there to be
measured, the plot is empty: neither can be taken for zero. A value that was only read before and holds is dotted.
"""

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import NamedTuple

_BLOCKS = "▁▂▃▄▅▆▇█"
_BLOCKS_ASCII = ".-=*#"
_DOTS = ((0x40, 0x80), (0x04, 0x20), (0x02, 0x10), (0x01, 0x08))
"""Bits of a braille character by row from the bottom and by column."""
_STEPS_S = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200),
    *(86_400 * days for days in (1, 2, 5, 10, 30, 60, 180, 365, 730, 1825, 3650, 36_500)),
)
_LABEL = 12
"""Columns of a label of the time axis with the space around it."""


class Bucket(NamedTuple):
    """`value` None: unknown, or with `is_gone` that nothing was there."""

    from_ms: int
    to_ms: int
    value: float | None
    is_gone: bool = False
    is_held: bool = False
    """Read before it; nothing was read in it."""


class _Column(NamedTuple):
    """What lies over one column of dots: least and greatest value, None where all is unknown or gone."""

    low: float | None
    high: float | None
    is_gone: bool
    is_held: bool = False


def chart(
    buckets: Sequence[Bucket],
    width: int,
    height: int,
    label: Callable[[float], str],
    zone: tzinfo | None = None,
    *,
    is_ascii: bool = False,
    is_binary: bool = False,
) -> list[str]:
    """Lines of a plot, `width` columns at most, `height` of them the plot's, one the axis', one the times'.

    `label` writes a value for the scale. `is_binary`: the scale ends at powers of two, for bytes.
    """
    known = [b.value for b in buckets if b.value is not None]
    low, top = _scale(min(known, default=0.0), max(known, default=0.0), is_binary)
    values = [low + (top - low) * i / (height - 1) for i in range(height)]
    shown = {0: label(low), height // 2: label(values[height // 2]), height - 1: label(top)}
    margin = max(map(len, shown.values())) + 1
    columns = max(1, width - margin - 1)
    per_column = 1 if is_ascii else 2
    steps = 1 if is_ascii else 4
    grid = [[0] * columns for _ in range(height)]
    shade: list[str | None] = [None] * columns
    before: tuple[int, int] | None = None
    for x, column in enumerate(_columns(buckets, columns * per_column)):
        if column.low is None or column.high is None:
            before = None
            if not column.is_gone:
                shade[x // per_column] = "?" if is_ascii else "░"
            continue
        ends = [round((v - low) / (top - low) * (height * steps - 1)) for v in (column.low, column.high)]
        first, last = ends
        if before is not None:  # joined to the one before, or a step would be two dots far from each other
            first, last = min(first, before[1]), max(last, before[0])
        before = (ends[0], ends[1])
        if column.is_held and x % 3 and first == last:
            continue
        for y in range(first, last + 1):
            grid[y // steps][x // per_column] |= 1 if is_ascii else _DOTS[y % steps][x % per_column]
    lines = []
    for row in range(height - 1, -1, -1):
        head = shown.get(row, "").rjust(margin - 1) + (" |" if is_ascii else " ┤" if row in shown else " │")
        cells = [_cell(bits, shade[i], is_ascii) for i, bits in enumerate(grid[row])]
        lines.append((head + "".join(cells)).rstrip())
    from_ms, to_ms = (buckets[0].from_ms, buckets[-1].to_ms) if buckets else (0, 1)
    lines += [" " * margin + line for line in _axis(from_ms, to_ms, columns, zone, is_ascii)]
    return lines


def _cell(bits: int, shade: str | None, is_ascii: bool) -> str:
    if bits:
        return "*" if is_ascii else chr(0x2800 + bits)
    return shade or " "


def sparkline(buckets: Sequence[Bucket], width: int, top: float, *, is_ascii: bool = False) -> str:
    """One line: the height of a block is the greatest value there, `top` that of the highest block; zero is `_`."""
    blocks = _BLOCKS_ASCII if is_ascii else _BLOCKS
    out = ""
    for column in _columns(buckets, width):
        if column.high is None:
            out += " " if column.is_gone else "?" if is_ascii else "░"
        elif column.high <= 0:
            out += "_"
        else:
            share = column.high / top if top > 0 else 0.0
            out += blocks[min(len(blocks) - 1, max(0, math.ceil(share * len(blocks)) - 1))]
    return out


def _columns(buckets: Sequence[Bucket], width: int) -> list[_Column]:
    """The buckets over so many equal parts of their time. A part of which something is known counts as known."""
    if not buckets:
        return [_Column(None, None, True)] * width
    start, span = buckets[0].from_ms, buckets[-1].to_ms - buckets[0].from_ms
    out, first = [], 0
    for i in range(width):
        from_ms, to_ms = start + span * i / width, start + span * (i + 1) / width
        while first < len(buckets) - 1 and buckets[first].to_ms <= from_ms:
            first += 1
        last = first
        while last < len(buckets) - 1 and buckets[last].to_ms < to_ms:
            last += 1
        inside = buckets[first : last + 1]
        known = [b.value for b in inside if b.value is not None]
        if known:
            out.append(_Column(min(known), max(known), False, all(b.is_held for b in inside)))
        else:
            out.append(_Column(None, None, all(b.is_gone for b in inside)))
    return out


def _scale(low: float, high: float, is_binary: bool) -> tuple[float, float]:
    """Ends of the scale: zero is always on it."""
    low, high = min(low, 0.0), max(high, 0.0)
    span = high - low
    if span < 1e-300:
        return low, low + 1.0
    base = 2.0 ** math.floor(math.log2(span)) if is_binary else 10.0 ** math.floor(math.log10(span))
    step = next((base * f for f in (0.2, 0.25, 0.5, 1.0) if span / (base * f) <= 6), 2 * base)
    return math.floor(low / step) * step, math.ceil(high / step) * step


def _axis(from_ms: int, to_ms: int, columns: int, zone: tzinfo | None, is_ascii: bool) -> list[str]:
    """The line below the plot with its ticks, and the times under these."""
    span_s = (to_ms - from_ms) / 1000
    step_s = next((s for s in _STEPS_S if span_s / s <= max(1, columns // _LABEL)), _STEPS_S[-1])
    line = ["-" if is_ascii else "─"] * columns
    times = [" "] * (columns + 1)
    free = 0
    for ts_s in _ticks(from_ms / 1000, to_ms / 1000, step_s, zone):
        x = int((ts_s * 1000 - from_ms) / (to_ms - from_ms) * columns)
        text = datetime.fromtimestamp(ts_s, zone).astimezone(zone).strftime(_form(step_s, span_s))
        if free <= x and x + len(text) <= columns + 1 and x < columns:
            line[x] = "+" if is_ascii else "┬"
            times[x : x + len(text)] = text
            free = x + len(text) + 1
    return [("+" if is_ascii else "└") + "".join(line), (" " + "".join(times)).rstrip()]


def _form(step_s: float, span_s: float) -> str:
    if step_s < 60:
        return "%H:%M:%S"
    if step_s < 86_400:
        return "%H:%M" if span_s <= 86_400 else "%d. %H:%M"
    return "%m-%d" if span_s < 300 * 86_400 else "%Y-%m-%d"


def _ticks(from_s: float, to_s: float, step_s: int, zone: tzinfo | None) -> list[float]:
    """Times between at which the clock on the wall shows a multiple of the step."""
    first = datetime.fromtimestamp(from_s, zone)
    day = first.replace(hour=0, minute=0, second=0, microsecond=0)
    if step_s > 86_400:
        day -= timedelta(days=(day.toordinal() % (step_s // 86_400)))
    out: list[float] = []
    i = 0
    while True:
        at = (day + timedelta(seconds=step_s * i)).timestamp()
        if at > to_s:
            return out
        if at >= from_s:
            out.append(at)
        i += 1

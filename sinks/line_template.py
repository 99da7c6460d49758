"""Lines of line protocol from a vector of values, for layouts that spread one sample over several lines. No I/O.

A `LineTemplate` knows which value goes into which line under which field; lines and fields without a value are left out.
"""

import struct
from collections.abc import Callable, Sequence
from math import isfinite
from operator import itemgetter
from typing import Any, NamedTuple, NoReturn

from tidegauge.pipeline.records import MAX_INT
from tidegauge.sinks.line_protocol import MAX_TS_MS, NoLine

_TIME = b"\xff"
"""Stands for the time while a line is made: no byte of UTF-8, so in no name."""
_MIN_INT = -(2**63)
_PATTERNS_MAX = 50


class Field(NamedTuple):
    """One field of one line."""

    name: bytes
    """Escaped."""
    place: int
    """Of its value in the vector."""
    is_float: bool = False


class LineTemplate:
    """Lines of one series set: `lines` are series keys (escaped) with their fields. Values are ints, floats or None."""

    __slots__ = ("_last", "_lines", "_patterns")

    def __init__(self, lines: Sequence[tuple[bytes, Sequence[Field]]]) -> None:
        self._lines = lines
        self._patterns: dict[tuple[bool, ...], _Pattern] = {}
        self._last: _Pattern | None = None

    def render(self, values: Sequence[Any], ts_ms: int) -> bytes:
        """The lines at this time, joined by newlines; b"" without a value. NoLine for a value without a form."""
        last = self._last
        if last is None or not last.fits(values):
            absent = tuple(v is None for v in values)
            last = self._patterns.get(absent)
            if last is None:
                if len(self._patterns) >= _PATTERNS_MAX:
                    self._patterns.clear()
                last = self._patterns[absent] = _Pattern(self._lines, absent)
            self._last = last
        return last.render(values, ts_ms)


class _Pattern:
    """The lines where these values, and no others, are None."""

    __slots__ = ("_absent", "_floats", "_format", "_names", "_nones", "_pack", "_pick", "_width")

    def __init__(self, lines: Sequence[tuple[bytes, Sequence[Field]]], absent: Sequence[bool]) -> None:
        fields: list[Field] = []
        texts = []
        for key, own in lines:
            present = [f for f in own if not absent[f.place]]
            if present:
                parts = (f.name.replace(b"%", b"%%") + (b"=%a" if f.is_float else b"=%di") for f in present)
                texts.append(b"%s %s %s" % (key.replace(b"%", b"%%"), b",".join(parts), _TIME))
                fields += present
        nones = [i for i, is_absent in enumerate(absent) if is_absent]
        self._width = len(absent)
        self._format = b"\n".join(texts)
        self._names = [f.name.decode() for f in fields]
        self._pick = picker([f.place for f in fields])
        self._floats = [i for i, f in enumerate(fields) if f.is_float]
        self._absent = picker(nones)
        self._nones = (None,) * len(nones)
        # Raises struct.error where a value is no integer of 64 bit, or no number at all.
        self._pack: Callable[..., bytes] = struct.Struct("".join("d" if f.is_float else "q" for f in fields)).pack

    def fits(self, values: Sequence[Any]) -> bool:
        """False if other values than before are None; one that is there too little shows in `render`."""
        if len(values) != self._width or self._absent(values) != self._nones:
            return False
        return None not in self._pick(values)

    def render(self, values: Sequence[Any], ts_ms: int) -> bytes:
        if not -MAX_TS_MS <= ts_ms <= MAX_TS_MS:
            raise NoLine(f"time {ts_ms} ms: expected one within +-{MAX_TS_MS}")
        picked: Sequence[Any] = self._pick(values)
        try:
            self._pack(*picked)
        except struct.error:
            picked = [self._number(i, v) for i, v in enumerate(picked)]
        for i in self._floats:
            if not isfinite(picked[i]):
                self._refuse(i, picked[i])
        if self._floats:
            numbers = list(picked)
            for i in self._floats:
                numbers[i] = float(numbers[i])
            picked = numbers
        return (self._format % tuple(picked)).replace(_TIME, b"%d" % ts_ms)

    def _number(self, i: int, value: Any) -> int | float:
        """The value as its field holds it: a float in an integer field is cut off."""
        if isinstance(value, int | float) and isfinite(value) and _MIN_INT <= value <= MAX_INT:
            return float(value) if i in self._floats else int(value)
        self._refuse(i, value)

    def _refuse(self, i: int, value: Any) -> NoReturn:
        raise NoLine(f"{self._names[i]}: expected a number of 64 bit or None, got {value!r:.40}")


def picker(places: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """Takes the values at these places, as a tuple."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple(values[i] for i in places)

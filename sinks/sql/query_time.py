"""`ms(...)` of the SQL questions: times in words that people use -> milliseconds since 1970, UTC."""

import re
import time
from datetime import UTC, datetime, timedelta

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_UNITS_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400}
_SHIFT = re.compile(r"([+-])\s*(\d{1,9}(?:\.\d{1,3})?)\s*([a-z]+?)s?")
_EXPECTED = (
    "ms(): expected a time such as '2026-11-17', '2026-11-17 10:30', 'now', 'today', 'yesterday', 'last tuesday' or '-1 hour', "
    "then shifts such as '+30 minutes'"
)


class Clock:
    """`now` is when it was made: it stands still for the length of a question."""

    def __init__(self, now_s: float | None = None) -> None:
        self._now = datetime.fromtimestamp(time.time() if now_s is None else now_s, UTC)

    def ms(self, *words: str) -> int:
        """The time that the first word names, moved by the others. ValueError. A time without a zone is UTC."""
        if not words or not all(isinstance(word, str) for word in words):
            raise ValueError(_EXPECTED)
        first, *shifts = (word.strip().lower() for word in words)
        moment = self._shift(self._now, first) if first[:1] in ("+", "-") else self._named(first)
        for shift in shifts:
            moment = self._shift(moment, shift)
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
        return since // timedelta(milliseconds=1)

    def _named(self, word: str) -> datetime:
        midnight = self._now.replace(hour=0, minute=0, second=0, microsecond=0)
        if word == "now":
            return self._now
        if word in ("today", "yesterday"):
            return midnight - timedelta(days=word == "yesterday")
        if word.startswith("last ") and (day := word[5:].strip()) in _DAYS:
            return midnight - timedelta(days=(self._now.weekday() - _DAYS.index(day) - 1) % 7 + 1)
        try:
            given = datetime.fromisoformat(word)
        except ValueError:
            raise ValueError(_EXPECTED) from None
        try:
            return given.astimezone(UTC) if given.tzinfo else given.replace(tzinfo=UTC)
        except OverflowError:
            raise ValueError(_EXPECTED) from None

    def _shift(self, moment: datetime, word: str) -> datetime:
        found = _SHIFT.fullmatch(word)
        if found is None or found[3] not in _UNITS_S:
            raise ValueError(_EXPECTED)
        try:
            return moment + timedelta(seconds=float(found[1] + found[2]) * _UNITS_S[found[3]])
        except OverflowError:
            raise ValueError(_EXPECTED) from None

"""Times and durations as programs write them. Pure."""

import re
from datetime import datetime

_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def go_duration_s(text: str) -> float:
    """Seconds of Go's `1m30s`, `500ms` without a sign; ValueError for anything else, a bare number included (0 is allowed)."""
    if text == "0":
        return 0.0
    if not _DURATION.fullmatch(text):
        raise ValueError("a duration such as 1s, 500ms or 1m30s")
    return sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(text))


def moment_ms(text: str) -> int | None:
    """ms UTC of an ISO 8601 time with its zone, as a parameter of a URL gives it; None if it is none."""
    try:
        time = datetime.fromisoformat(text.replace(" ", "+"))  # a plus that was not escaped is read as a blank
    except ValueError:
        return None
    return None if time.tzinfo is None else round(time.timestamp() * 1000)

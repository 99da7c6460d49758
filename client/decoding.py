"""From JSON to the types of this package, as lenient as the Go clients of this API are.

Fields that are not known are passed over. What is absent or null is Go's zero value: 0, "", nothing; an object that a server
may leave out is None. So one set of types reads cAdvisor 0.35, its newest release and tidegauge.
"""

import functools
import re
from collections.abc import Hashable
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import msgspec

from tidegauge.client.errors import WrongAnswer

T = TypeVar("T")
ZERO_TIME = datetime(1, 1, 1, tzinfo=UTC)
"""What Go says for a time that is not set."""
_AT = re.compile(r" - at `(?:key in )?(\$[^`]*)`\Z")


class Model(msgspec.Struct, frozen=True, gc=False):
    """What all types of answers have in common. Names are those of the JSON, but where they are no Python names."""


@functools.lru_cache(64)
def _decoder(shape: Any) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(shape)


def decode(data: bytes, shape: type[T], url: str) -> T:
    """The body as this type. WrongAnswer if it cannot be."""
    try:
        decoder: msgspec.json.Decoder[T] = _decoder(cast(Hashable, shape))
        try:
            value = decoder.decode(data)
        except msgspec.ValidationError:
            # null stands for a zero value in Go, but not for these types; it is rare, so looked for only now
            value = msgspec.convert(_without_nulls(msgspec.json.decode(data)), shape, str_keys=True)
        return value
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as exc:
        text = str(exc)
        found = _AT.search(text)
        path = found[1] if found is not None else "$" if isinstance(exc, msgspec.ValidationError) else ""
        raise WrongAnswer(url, f"the answer is not what was expected: {text[:500]}", path) from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(v) for v in value]
    return value


def known_time(time: datetime | None) -> datetime | None:
    """None for Go's zero time, which means that it is not known."""
    return None if time is None or time.year == 1 else time

"""A nested mapping as TOML text: what the standard library can read but not write."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec


def to_toml(table: Mapping[str, Any]) -> str:
    """Plain keys first, then tables; None is left out, since TOML has no word for it."""
    return "\n".join(_lines(table, "")).lstrip("\n") + "\n"


def _lines(table: Mapping[str, Any], at: str) -> Iterator[str]:
    is_plugin = at.count(".") == 1
    plain = {k: v for k, v in table.items() if is_plugin or not isinstance(v, Mapping)}
    for key, value in plain.items():
        if value is not None:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in table.items():
        if key not in plain:
            path = f"{at}.{_key(key)}" if at else _key(key)
            if any(not isinstance(v, Mapping) for v in value.values()):
                yield ""
                yield f"[{path}]"
            yield from _lines(value, path)


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() else msgspec.json.encode(key).decode()


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }" if value else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    if isinstance(value, Path):
        value = str(value)
    return msgspec.json.encode(value).decode()

"""Names -> plug-in classes, through entry points. The only place that knows of concrete plug-ins, and only by name."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, get_origin

import msgspec

from tidegauge.pipeline.errors import ConfigError

COLLECTORS = "tidegauge.collectors"
RUNTIMES = "tidegauge.runtimes"
SINKS = "tidegauge.sinks"


def available(group: str) -> dict[str, EntryPoint]:
    """Entry points of a group by name. ConfigError if a name is owned twice, with both owners named."""
    found: dict[str, EntryPoint] = {}
    for ep in entry_points(group=group):
        other = found.get(ep.name)
        if other is not None and other.value != ep.value:
            raise ConfigError(f"{group}: {ep.name} is owned by both {_owner(other)} and {_owner(ep)}")
        found[ep.name] = ep
    return dict(sorted(found.items()))


def load(group: str, name: str) -> Any:
    """The class behind a name. ConfigError if there is none, or if what it imports is missing (names the extra)."""
    known = available(group)
    if name not in known:
        raise ConfigError(f"{group.removeprefix('tidegauge.')}.{name}: expected one of {', '.join(known)}, got {name!r}")
    ep = known[name]
    try:
        return ep.load()
    except ModuleNotFoundError as exc:
        extras = f" (extras: {', '.join(ep.extras)})" if ep.extras else ""
        raise ConfigError(f"{name} of {_owner(ep)} needs the module {exc.name}, which is not installed{extras}") from exc


def configure(cls: Any, path: str, table: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """The plug-in's Config from its table; fields that bear the name of a setting take it unless the table sets them.

    `path` is where the table stands (`sinks.influxdb`), for messages. ConfigError names path, expected and got.
    """
    fields = {f.name for f in msgspec.structs.fields(cls.Config)}
    merged = {k: v for k, v in settings.items() if k in fields} | dict(table)
    return convert(merged, cls.Config, path)


def convert(table: Mapping[str, Any], type_: Any, path: str) -> Any:
    """A Struct from a table. Strings become numbers where the type wants one, as environment variables need it."""
    if issubclass(type_, msgspec.Struct):
        known = [f.encode_name for f in msgspec.structs.fields(type_)]
        for key in table:
            if key not in known:
                at = f"{path}.{key}".lstrip(".")
                raise ConfigError(f"{at}: unknown key; expected one of {', '.join(sorted(known))}")
    try:
        return msgspec.convert(_split_lists(table, type_), type_, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as exc:
        raise ConfigError(_message(str(exc), table, path)) from exc


def _decode(type_: Any, value: Any) -> Any:
    if type_ is Path and isinstance(value, (str, Path)):
        return Path(value)
    raise msgspec.ValidationError(f"Expected `{type_.__name__}`")


def _split_lists(table: Mapping[str, Any], type_: Any) -> dict[str, Any]:
    """The table with `a,b` as a list where the type wants one: environment variables and flags are text."""
    out = dict(table)
    for field in msgspec.structs.fields(type_):
        value = out.get(field.encode_name)
        if isinstance(value, str) and get_origin(field.type) in (tuple, list):
            out[field.encode_name] = [part.strip() for part in value.split(",") if part.strip()]
        elif isinstance(value, Mapping) and isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            out[field.encode_name] = _split_lists(value, field.type)
    return out


def _message(text: str, table: Mapping[str, Any], path: str) -> str:
    """msgspec's `Expected `float`, got `str` - at `$.timeout_s`` as path, expected and got."""
    what, _, where = text.partition(" - at `$")
    where = where.rstrip("`")
    value: Any = table
    try:
        for part in where.replace("[", ".[").strip(".").split("."):
            if part.startswith("["):
                value = value[int(part[1:-1])] if part[1:-1].isdigit() else value
            elif part:
                value = value[part]
    except (KeyError, IndexError, TypeError):
        value = None
    got = "" if isinstance(value, Mapping) or value is None else f", got {value!r}"
    what = what.partition(", got ")[0]
    if what.startswith("Object contains unknown field "):
        key = what.removeprefix("Object contains unknown field ").strip("`")
        where, what = f"{where}.{key}", "unknown key"
    at = f"{path}{where}".lstrip(".")
    return f"{at}: {what[0].lower()}{what[1:]}{got}".replace("`", "")


def _owner(ep: EntryPoint) -> str:
    dist = f"{ep.dist.name} {ep.dist.version}" if ep.dist is not None else "an unknown distribution"
    return f"{dist} ({ep.value})"

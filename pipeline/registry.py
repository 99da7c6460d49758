"""Names -> plug-in classes, through entry points. The only place that knows of concrete plug-ins, and only by name."""

import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from tidegauge.pipeline.errors import ConfigError

COLLECTORS = "tidegauge.collectors"
REMOTES = "tidegauge.remotes"
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
    """A Struct from a table. Text becomes numbers and lists where the type wants them, as environment variables need it."""
    try:
        return msgspec.convert(_prepared(table, type_, path), type_, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as exc:
        raise ConfigError(_message(str(exc), table, type_, path)) from exc


def _decode(type_: Any, value: Any) -> Any:
    if type_ is Path and isinstance(value, (str, Path)):
        return Path(value)
    raise ValueError(f"Expected `{type_.__name__}`")  # msgspec adds where


def _prepared(table: Mapping[str, Any], type_: Any, path: str) -> dict[str, Any]:
    """The table with `a,b` as a list where the type wants one. ConfigError for a key that is not known and for inf and nan."""
    types = {f.encode_name: f.type for f in msgspec.structs.fields(type_)}
    out = dict(table)
    for key, value in table.items():
        at = f"{path}.{key}".lstrip(".")
        if key not in types:
            raise ConfigError(f"{at}: unknown key; expected one of {', '.join(sorted(types))}")
        wanted = types[key]
        if isinstance(value, str) and get_origin(wanted) in (tuple, list):
            out[key] = [part.strip() for part in value.split(",") if part.strip()]
        elif isinstance(value, Mapping) and _is_struct(wanted):
            out[key] = _prepared(value, wanted, at)
        elif isinstance(value, list) and (item := next(filter(_is_struct, get_args(wanted)), None)):
            out[key] = [_prepared(v, item, f"{at}[{i}]") if isinstance(v, Mapping) else v for i, v in enumerate(value)]
        elif isinstance(value, float) and not isfinite(value):
            raise ConfigError(f"{at}: expected a finite number, got {value}")
    return out


def _is_struct(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)


def _message(text: str, table: Mapping[str, Any], type_: Any, path: str) -> str:
    """msgspec's "Expected `float`, got `str` - at `$.timeout_s`" as path, expected and got."""
    what, _, where = text.partition(" - at `$")
    where = where.rstrip("`")
    if ": expected " in what:  # of a Struct's own check, which names its key
        return f"{path}{where}.{what}".lstrip(".")
    value: Any = table
    wanted: Any = type_
    name = ""
    for key, index in _STEP.findall(where):
        name = key or name
        if key:
            fields = {f.encode_name: f.type for f in msgspec.structs.fields(wanted)} if _is_struct(wanted) else {}
            wanted = fields.get(key)
            value = value.get(key) if isinstance(value, Mapping) else None
        else:
            wanted = next(iter(get_args(wanted)), None)
            value = value[int(index)] if isinstance(value, (list, tuple)) and index.isdigit() else None
    got = "" if value is None else f", got {'a table' if isinstance(value, Mapping) else repr(value)}"
    bound = _BOUND.search(what)
    expected = _words(wanted, name)
    if expected is None or what.startswith("Object"):
        return f"{path}{where}: {what[0].lower()}{what[1:]}".lstrip(".").replace("`", "")
    return f"{path}{where}: expected {expected}{f' {bound[0].strip()}' if bound else ''}{got}".lstrip(".")


_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[(\d+|\.\.\.)\]")
_BOUND = re.compile(r" (?:>=|<=|>|<|matching|of length) .*?(?=, got|$)")
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


def _words(type_: Any, name: str) -> str | None:
    """What a value of the type looks like, in words; the unit is that of the key's name. None if nothing can be said."""
    origin = get_origin(type_)
    if origin is Annotated:
        return _words(get_args(type_)[0], name)
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(type_)))}"
    if origin in (Union, UnionType):
        parts = [w for t in get_args(type_) if t is not type(None) and (w := _words(t, name))]
        return " or ".join(parts) or None
    if origin in (tuple, list):
        return "a list"
    if origin is not None or _is_struct(type_):
        return "a table"
    word = _WORDS.get(type_)
    if type_ in (int, float):
        unit = next((unit for suffix, unit in (("_s", "seconds"), ("_bytes", "bytes")) if name.endswith(suffix)), None)
        word = f"a number of {unit}" if unit else word
    return word


def _owner(ep: EntryPoint) -> str:
    dist = f"{ep.dist.name} {ep.dist.version}" if ep.dist is not None else "an unknown distribution"
    return f"{dist} ({ep.value})"

"""What a request asks: its parts, the parameters of each version, and the body of v1. Pure.

The tables of parameters are all that may be given; the OpenAPI description is made from them.
Source: cAdvisor cmd/internal/api/handler.go, versions.go; info/v1/container.go (ContainerInfoRequest).
"""

import posixpath
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from tidegauge.api.cadvisor.errors import ApiError, Status
from tidegauge.api.cadvisor.series import Wanted
from tidegauge.pipeline.times import go_duration_s

TYPES: Mapping[str, tuple[str, ...]] = {
    "v1.0": ("containers", "machine"),
    "v1.1": ("containers", "machine", "subcontainers"),
    "v1.2": ("containers", "docker", "machine", "subcontainers"),
    "v1.3": ("containers", "docker", "events", "machine", "subcontainers"),
    "v2.0": ("appmetrics", "attributes", "events", "machine", "ps", "spec", "stats", "storage", "summary", "version"),
    "v2.1": (
        *("appmetrics", "attributes", "events", "machine", "machinestats", "ps"),
        *("spec", "stats", "storage", "summary", "version"),
    ),
}
"""Request types of each version, as the discovery answers list them."""


class Parameter(NamedTuple):
    name: str
    type: str
    """Of JSON schema; `duration` is Go's (`1.5s`), `time` RFC 3339."""
    default: Any
    help: str
    types: tuple[str, ...] | None = None
    """Request types that look at it; None: all of v2."""


V2_PARAMETERS = (
    Parameter("type", "string", "name", "what the name in the path is: name (a path), docker or podman (alias, id, beginning)"),
    Parameter("count", "integer", 64, "the newest so many samples; -1: all"),
    Parameter("recursive", "boolean", False, "and everything below; only the word `true` counts"),
    Parameter(
        "max_age",
        "duration",
        None,
        "idle containers whose newest sample is older are read at the next tick, for which the answer waits",
    ),
    Parameter("label", "string", "", "filesystems with this label", ("storage",)),
    Parameter("uuid", "string", "", "the filesystem with this UUID", ("storage",)),
)
EVENT_PARAMETERS = (
    Parameter("stream", "boolean", False, "what comes from now on, a JSON object a line", ("events",)),
    Parameter("subcontainers", "boolean", False, "and of everything below", ("events",)),
    Parameter("all_events", "boolean", False, "all four types", ("events",)),
    Parameter("oom_events", "boolean", False, "type oom", ("events",)),
    Parameter("oom_kill_events", "boolean", False, "type oomKill", ("events",)),
    Parameter("creation_events", "boolean", False, "type containerCreation", ("events",)),
    Parameter("deletion_events", "boolean", False, "type containerDeletion", ("events",)),
    Parameter("max_events", "integer", 10, "the newest so many; 0 or less: all", ("events",)),
    Parameter("start_time", "time", None, "at or after", ("events",)),
    Parameter("end_time", "time", None, "at or before", ("events",)),
)

_GO_INT = re.compile(r"[+-]?\d{1,18}")
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})


class Asked(NamedTuple):
    version: str
    type: str
    arguments: tuple[str, ...]
    """The parts of the path after the type."""

    @property
    def container(self) -> str:
        """The container that the rest of the path names."""
        return clean("/" + "/".join(self.arguments))


def clean(path: str) -> str:
    """Without empty parts and dots, as Go's path.Clean."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def asked(path: str) -> Asked:
    """The parts of a path below `/api/`. ApiError for what there is not; the texts list what there is."""
    version, _, rest = path.removeprefix("/api/").partition("/")
    type_, _, arguments = rest.partition("/")
    if not version:
        raise ApiError(f"Supported API versions: {','.join(TYPES)}", Status.BAD_REQUEST, is_discovery=True)
    if version not in TYPES:
        raise ApiError(f'unsupported API version "{version}"', Status.NOT_FOUND)
    if not type_:
        raise ApiError(f'Supported request types: "{",".join(TYPES[version])}"', Status.BAD_REQUEST, is_discovery=True)
    if type_ not in TYPES[version]:
        raise ApiError(f'unknown request type "{type_}"', Status.NOT_FOUND)
    return Asked(version, type_, tuple(arguments.split("/")) if arguments else ())


class ContainerInfoRequest(msgspec.Struct):
    """The body of v1. Unknown fields are ignored."""

    num_stats: int = 60
    start: str = ""
    end: str = ""


_DECODER = msgspec.json.Decoder(ContainerInfoRequest)


def body_of(raw: bytes) -> Wanted:
    """Which samples a v1 body asks for; all defaults without one."""
    if not raw.strip():
        return Wanted(60)
    try:
        request = _DECODER.decode(raw)
        start_ms, end_ms = _body_time(request.start, True), _body_time(request.end, False)
    except (msgspec.DecodeError, ValueError) as exc:
        raise ApiError(f"unable to decode the json value: {exc}", Status.BAD_REQUEST) from exc
    return Wanted(None if request.num_stats < 0 else request.num_stats, start_ms, end_ms)


def _body_time(text: str, is_start: bool) -> int | None:
    """A zero time is none. Rounded inwards: samples are of whole milliseconds."""
    if not text or text.startswith("0001-01-01T00:00:00"):
        return None
    time_ms = parse_time(text, is_start)
    if time_ms is None:
        raise ValueError(f"parsing time {text!r}: expected RFC 3339")
    return time_ms


def parse_time(text: str, is_start: bool) -> int | None:
    """RFC 3339 as ms UTC; None if it is none."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:\d\d)", text)
    if match is None:
        return None
    try:
        seconds = datetime.fromisoformat(match[1] + ("+00:00" if match[3] == "Z" else match[3])).timestamp()
    except ValueError:
        return None
    fraction_ns = int((match[2] or "").ljust(9, "0"))
    return round(seconds) * 1000 + (-(-fraction_ns // 1_000_000) if is_start else fraction_ns // 1_000_000)


class Options(NamedTuple):
    """The parameters of v2."""

    id_type: str
    newest: int
    """So many samples; -1: all."""
    is_recursive: bool
    label: str
    uuid: str
    max_age_ms: int | None = None
    """How old the newest sample may be; None: however old."""

    @property
    def wanted(self) -> Wanted:
        return Wanted(None if self.newest < 0 else self.newest)


def options_of(params: Mapping[str, str], is_strict: bool) -> Options:
    """ApiError, with cAdvisor's texts, for a value that cannot be."""
    id_type = params.get("type") or "name"
    if id_type not in ("name", "docker", "podman"):
        raise ApiError(f"unknown 'type' \"{id_type}\"", Status.BAD_REQUEST)
    text = params.get("count") or "64"
    if not _GO_INT.fullmatch(text):
        raise ApiError(f"failed to parse 'count' option: {text}", Status.BAD_REQUEST)
    if (count := int(text)) < -1:
        raise ApiError(f"invalid 'count' option: only -1 and larger values allowed, not {count}", Status.BAD_REQUEST)
    age = params.get("max_age")
    try:
        age_ms = _milliseconds(age) if age else None
    except ValueError:
        raise ApiError(f"failed to parse 'max_age' option: time: invalid duration \"{age}\"", Status.BAD_REQUEST) from None
    return Options(
        id_type,
        count,
        params.get("recursive") == "true",
        params.get("label", ""),
        params.get("uuid", ""),
        age_ms,
    )


def _milliseconds(duration: str) -> int:
    """Of Go's text; none is below 0, and a century is the most. ValueError for what is no duration."""
    seconds = go_duration_s(duration[1:] if duration[0] in "+-" else duration)
    return 0 if duration.startswith("-") else round(1000 * min(seconds, 3.2e9))


def flag(params: Mapping[str, str], name: str) -> bool:
    """As Go's ParseBool; what does not parse is ignored."""
    return params.get(name, "") in _TRUE


def number(params: Mapping[str, str], name: str, default: int) -> int:
    """What does not parse is ignored."""
    text = params.get(name, "")
    return int(text) if _GO_INT.fullmatch(text) else default

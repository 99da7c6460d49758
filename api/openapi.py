"""`/openapi.json`: what can be asked of the listener, as OpenAPI 3.1. Made once, from the tables and types that answer.

A container's name is one part of a path here, for OpenAPI has no parameter with slashes; slashes in a name stay as they are.
Below `/api`, a path with a slash at its end is the same as without.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidegauge.api import query
from tidegauge.api.cadvisor import machine_shapes as m
from tidegauge.api.cadvisor import shapes as s
from tidegauge.api.cadvisor.request import EVENT_PARAMETERS, TYPES, V2_PARAMETERS, ContainerInfoRequest, Parameter
from tidegauge.api.heapster import description as heapster
from tidegauge.api.heapster.model import AGGREGATIONS
from tidegauge.api.history import DEFAULT_CONTAINERS, PastContainers, PastMetrics
from tidegauge.pipeline.config import HttpConfig
from tidegauge.pipeline.history_answer import Answer
from tidegauge.pipeline.history_query import AGGREGATES, GROUPS, MAX_SERIES, SELECTORS, Resolution
from tidegauge.pipeline.version import VERSION

PATH = "/openapi.json"
JSON, TEXT, HTML, LINES = "application/json", "text/plain", "text/html", "application/x-ndjson"
CSV = "text/csv"
OPENMETRICS = "application/openmetrics-text"
REFUSALS: Mapping[int, str] = {
    401: "a credential is asked for",
    403: "Host or Origin are not ours, or this is shown only over the Unix socket or with a credential",
    413: "the body is too large, or a question reads more than it may",
    414: "path and query are too long",
    429: "too many wrong credentials from this address",
    431: "the headers are too large",
    503: "too many requests at a time, no answer in time, or what is asked for is not there now",
}
"""What may come of any request, said by the guard or the route."""
_ERRORS: Mapping[int, str] = {
    301: "the path, cleaned, is found there",
    400: "what is asked for cannot be; the text says why",
    404: "there is no such thing",
    405: "this cannot be done with this method",
    409: "the sink refuses",
    500: "it failed; with http.compat = strict whatever cAdvisor cannot answer",
    504: "no answer of the sampler in time, or a question takes too long",
    507: "the answer would be too large",
}
_ANY_TEXT = {"type": "string"}
_FREE: Mapping[str, Any] = {"type": "object"}
_EVENT: Mapping[str, Any] = {
    "type": "object",
    "required": ["ts_ms", "kind", "path", "details"],
    "properties": {
        "ts_ms": {"type": "integer"},
        "details": {"type": "object"},
        **{name: {"type": "string"} for name in ("kind", "path", "instance", "host", "name", "namespace", "image")},
    },
}
_SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "boolean": {"type": "string", "enum": ["true", "false"]},
    "duration": {"type": "string", "pattern": r"^[0-9]{1,6}(ns|us|ms|s|m|h)$"},
    "time": {"type": "string", "format": "date-time"},
    "integer": {"type": "integer", "minimum": -1, "maximum": 10**9},
    "string": {"type": "string"},
}
_ALLOWED: Mapping[str, tuple[str, ...]] = {"type": ("name", "docker", "podman")}
_NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "path of the cgroup without its first slash, or what a runtime calls the container",
    "schema": {"type": "string", "pattern": "^[^./][^/]*$"},
}


class Operation(NamedTuple):
    """What a method of a path does."""

    path: str
    """With parameters in braces."""
    route: str
    """Path of the route that answers, as the application has it."""
    summary: str
    content: Mapping[str, Any]
    """Of the 200: media type -> type or schema."""
    parameters: tuple[Mapping[str, Any], ...] = ()
    statuses: tuple[int, ...] = ()
    """Others that it answers with, besides REFUSALS."""
    method: str = "get"
    body: Any = None
    """Type or schema of the JSON body."""
    needs_body: bool = False


def _query(parameter: Parameter) -> Mapping[str, Any]:
    schema = dict(_SCHEMAS[parameter.type])
    if parameter.name in _ALLOWED:
        schema["enum"] = list(_ALLOWED[parameter.name])
    if parameter.default not in (None, ""):
        schema["default"] = str(parameter.default).lower() if parameter.type == "boolean" else parameter.default
    return {"name": parameter.name, "in": "query", "description": parameter.help, "schema": schema}


def _given(name: str, schema: Mapping[str, Any], help_: str, where: str = "query", required: bool = False) -> Mapping[str, Any]:
    return {"name": name, "in": where, "description": help_, "schema": schema, "required": required or where == "path"}


_FLAG = _SCHEMAS["boolean"]
_TIME_MS = {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 10**15}, {"type": "string", "format": "date-time"}]}
_PAST = {"anyOf": [{"type": "string", "pattern": r"^[0-9]{1,5}(s|m|h|d)$"}, {"const": "now"}, *_TIME_MS["anyOf"]]}
_STORE = _given("store", {"type": "string"}, "name of a sink that keeps history; sql, or the first by name, without it")
_SPAN = (
    _given("since", {**_PAST, "default": "1h"}, "so long ago, ms since 1970, or a time with its zone"),
    _given("until", {**_PAST, "default": "now"}, "the end"),
)
_CHOSEN = {
    "container": "path, name, alias or beginning of the id",
    "name": "the runtime's name of the container",
    "path": "path of the cgroup",
    "id": "the runtime's id or its beginning, or the 16 digits of the instance",
    "host": "name of the host",
    "namespace": "the pod's in Kubernetes, else the runtime's",
    "image": "name of the image",
    "pod": "name of the pod",
    "runtime": "docker, podman, containerd, crio, systemd ...",
    "label": "KEY=VALUE; each that is given must fit",
}
_SELECTED = tuple(
    _given(
        name,
        {"type": "array", "items": {"type": "string", **({"pattern": "^[^=]+=."} if name == "label" else {})}},
        f"{_CHOSEN[name]}; exact or with *, ? and [...], may be repeated",
    )
    for name in SELECTORS
)
_DURATION = {"type": "string", "pattern": r"^[1-9][0-9]{0,4}(m|h|d)$"}
_OWN = (
    Operation("/", "/", "a page that lists what there is", {HTML: _ANY_TEXT}),
    Operation("/healthz", "/healthz", "whether all is well; 503 says what is not", {TEXT: _ANY_TEXT}),
    Operation(
        "/metrics", "/metrics", "containers, machine and own counters for Prometheus", {TEXT: _ANY_TEXT, OPENMETRICS: _ANY_TEXT}
    ),
    Operation(PATH, PATH, "this description", {JSON: _FREE}),
    Operation("/api/v1/status", "/api/v1/status", "state of every part", {JSON: _FREE}),
    Operation(
        "/api/v1/events",
        "/api/v1/events",
        "what happened to containers, or with stream=true what happens from now on",
        {JSON: {"type": "array", "items": _EVENT}, LINES: _EVENT},
        (
            _given("start", _TIME_MS, "at or after; ms since 1970, or a time with its zone"),
            _given("end", _TIME_MS, "at or before"),
            _given("kind", {"type": "string"}, "several with commas between; all without it"),
            _given("path", {"type": "string", "pattern": "^/", "default": "/"}, "of this cgroup path"),
            _given("subcontainers", {**_FLAG, "default": "true"}, "and of those below it"),
            _given("limit", {"type": "integer", "minimum": 0, "default": 1000}, "the newest so many; 0: all"),
            _given("stream", {**_FLAG, "default": "false"}, "a JSON object a line, until the client leaves"),
        ),
        (400,),
    ),
    Operation(
        "/api/v1/history/containers",
        "/api/v1/history/containers",
        "containers that were sampled between two times",
        {JSON: PastContainers},
        (
            *_SPAN,
            *_SELECTED,
            _given("limit", {"type": "integer", "minimum": 0, "default": DEFAULT_CONTAINERS}, "the newest so many"),
            _STORE,
        ),
        (400,),
    ),
    Operation(
        "/api/v1/history/metrics",
        "/api/v1/history/metrics",
        "what a store can be asked for",
        {JSON: PastMetrics},
        (_STORE,),
        (400,),
    ),
    Operation(
        "/api/v1/history/query",
        "/api/v1/history/query",
        "one metric of some containers between two times, in buckets",
        {JSON: Answer},
        (
            _given("metric", {"type": "string", "minLength": 1}, "its name; counters are answered as rates", required=True),
            *_SPAN,
            *_SELECTED,
            _given("instance", {"type": "string"}, "interface, disk ...: exact or with *; all of them, summed, without it"),
            _given(
                "agg",
                {"anyOf": [{"enum": list(AGGREGATES)}, {"type": "string", "pattern": r"^p[1-9]?[0-9](\.[0-9]{1,6})?$"}]},
                "over time; avg without it",
            ),
            _given("bucket", _DURATION, "width of the buckets; one for the whole span without it"),
            _given(
                "group",
                {"type": "string", "pattern": f"^(none|({'|'.join(GROUPS)}|label:[a-z]+)(,({'|'.join(GROUPS)}))*)$"},
                "containers that agree in these are one series; several with commas; container without it, none for all",
            ),
            _given("top", {"type": "integer", "minimum": 1, "maximum": MAX_SERIES}, "the greatest so many over the whole span"),
            _given("resolution", {"enum": list(get_args(Resolution)), "default": "auto"}, "samples, or roll-ups of a width"),
            _STORE,
        ),
        (400,),
    ),
    Operation(
        "/api/v1/processes",
        "/api/v1/processes",
        "processes of a container",
        {JSON: _FREE},
        (
            _given("path", {"type": "string", "minLength": 1}, "path, name, alias or beginning of the id", required=True),
            _given("recursive", {**_FLAG, "default": "false"}, "and of those below it"),
        ),
        (400, 404, 500, 504, 507),
    ),
    *(
        Operation(
            "/api/v1/dead-letters/{sink}/{action}",
            "/api/v1/dead-letters/{sink}/{action:str}",
            summary,
            {JSON: _FREE},
            (
                _given("sink", {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"}, "name of the sink", "path"),
                _given("action", {"type": "string", "enum": actions}, "what to do", "path"),
            ),
            (400, 404, 405, 409),
            method,
            body,
        )
        for method, actions, summary, body in (
            ("get", ["list"], "what a sink's store refused for good", None),
            (
                "post",
                ["replay", "discard"],
                "sends it once more, or forgets it",
                {"type": ["array", "null"], "items": {"type": "integer"}},
            ),
        )
    ),
    Operation(
        query.PATH,
        query.PATH,
        "asks a store in SQL, with http.query set",
        {JSON: query.QueryAnswer, CSV: _ANY_TEXT},
        statuses=(400, 404, 504, 507),
        method="post",
        body=query.QueryBody,
        needs_body=True,
    ),
    Operation("/validate/", "/validate/", "what of this host works, what does not, and what to do", {TEXT: _ANY_TEXT}),
    Operation("/validate", "/validate", "leads to /validate/", {}, statuses=(301,)),
)
_SECONDS = _given("seconds", {"type": "number", "exclusiveMinimum": 0, "maximum": 60, "default": 10}, "how long to look")
_DEBUG = tuple(
    Operation(f"/debug/{name}", f"/debug/{name}", summary, {TEXT: _ANY_TEXT}, parameters, (400, 500, 504))
    for name, summary, parameters in (
        ("threads", "what every thread does", ()),
        ("profile", "where the time goes, for a flame graph", (_SECONDS,)),
        ("heap", "what the memory holds", ()),
    )
)
_TYPES: Mapping[str, Any] = {
    "machine": m.MachineInfo,
    "containers": s.ContainerInfo,
    "subcontainers": list[s.ContainerInfo],
    "docker": dict[str, s.ContainerInfo],
    "events": list[s.EventInfo],
    "version": str,
    "attributes": m.Attributes,
    "summary": dict[str, s.DerivedStats],
    "stats": dict[str, s.ContainerInfoV2],
    "spec": dict[str, s.ContainerSpec],
    "storage": list[m.FsInfo] | m.FsInfo,
    "ps": list[s.ProcessInfo],
    "appmetrics": dict[str, dict[str, dict[str, list[s.MetricValBasic]]]],
    "machinestats": list[s.MachineStats],
}
_STATS_V20 = dict[str, list[s.ContainerStatsV20]]
_UNNAMED = frozenset({"machine", "version", "attributes", "storage", "machinestats"})
_CADVISOR_ROUTE = "/api{rest:path}"


def _of_cadvisor() -> Iterator[Operation]:
    for path in ("/api", "/api/", *(f"/api/{version}" for version in TYPES)):
        status = 301 if path == "/api" else 400
        for method in ("get", "post"):
            yield Operation(path, _CADVISOR_ROUTE, "lists what there is", {}, statuses=(status,), method=method)
    for version, types in TYPES.items():
        for type_ in types:
            yield from _of_type(version, type_)


def answer_type(version: str, type_: str) -> Any:
    """What the JSON of one of cAdvisor's answers decodes to."""
    return _STATS_V20 if (version, type_) == ("v2.0", "stats") else _TYPES[type_]


def _of_type(version: str, type_: str) -> Iterator[Operation]:
    is_v1 = version.startswith("v1.")
    parameters: tuple[Mapping[str, Any], ...] = ()
    if type_ == "events":
        parameters = tuple(map(_query, EVENT_PARAMETERS))
    elif not is_v1:
        parameters = tuple(_query(p) for p in V2_PARAMETERS if p.types is None or type_ in p.types)
    content = {JSON: answer_type(version, type_)}
    if type_ == "events":
        content[LINES] = s.EventInfo
    statuses = (301, 400, 404, 500, 504, *((507,) if type_ == "ps" else ()))
    body = ContainerInfoRequest if is_v1 and type_ != "events" else None
    for rest in ("",) if type_ in _UNNAMED else ("", "/{name}"):
        for method in ("get", "post"):
            its = (_NAME, *parameters) if rest == "/{name}" else parameters
            path = f"/api/{version}/{type_}{rest}"
            yield Operation(path, _CADVISOR_ROUTE, f"cAdvisor's {type_}", content, its, statuses, method, body)


_PART: Mapping[str, Any] = _NAME["schema"]  # type: ignore[assignment]
_ASKED: tuple[tuple[str, str, Mapping[str, Any], str], ...] = (
    ("node", "path", _PART, "name of a host"),
    ("namespace", "path", _PART, "namespace of pods"),
    ("pod", "path", _PART, "name of a pod"),
    ("container", "path", _PART, "name of a container; slashes stay, or are %2F"),
    ("pods", "path", _PART, "names of pods, with commas between"),
    ("uid", "path", _PART, "uid of a pod"),
    ("uids", "path", _PART, "uids of pods, with commas between"),
    ("metric", "path", _PART, "Heapster's name; slashes stay"),
    ("aggregations", "path", {"enum": list(AGGREGATIONS)}, "several with commas between"),
    ("start", "query", {"type": "string", "format": "date-time"}, "the first time; the historical API asks for one"),
    ("end", "query", {"type": "string", "format": "date-time"}, "the last time; now without it"),
    ("labels", "query", {"type": "string", "pattern": "^[a-z_]+:[^,]+$"}, "all labels of a labeled metric, name:value"),
    ("bucket", "query", {"type": "string", "pattern": "^[1-9][0-9]{0,3}(ms|s|m|h|d)$"}, "width; one for all without it"),
    ("labelSelector", "query", {"type": "string", "pattern": "^[a-z]+=[a-z]+$"}, "as of Kubernetes"),
)
_HEAPSTER = {name: _given(name, schema, help_, where) for name, where, schema, help_ in _ASKED}


def _of_heapster() -> Iterator[Operation]:
    for each in heapster.operations():
        names = (*re.findall(r"{(\w+)}", each.path), *each.query)
        parameters = tuple(_HEAPSTER[name] for name in names)
        yield Operation(each.path, each.route, each.summary, {JSON: each.shape}, parameters, each.statuses)


def operations(config: HttpConfig) -> Iterator[Operation]:
    """All that is answered; GET is HEAD too."""
    yield from _OWN
    yield from _of_heapster()
    if config.debug:
        yield from _DEBUG
    yield from _of_cadvisor()


def document(config: HttpConfig) -> dict[str, Any]:
    """The description as JSON-able values."""
    found = list(operations(config))
    types = [t for o in found for t in (*o.content.values(), o.body) if t is not None and not isinstance(t, Mapping)]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    of_type = {repr(t): schema for t, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for each in found:
        at = paths.setdefault(each.path, {})
        at[each.method] = _described(each, of_type)
        if each.method == "get":
            at["head"] = _described(each._replace(body=None), of_type, is_head=True)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tidegauge",
            "version": VERSION,
            "description": "Samples of containers, and the state of the program.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {f"Status{status}": _text(status, why) for status, why in {**_ERRORS, **REFUSALS}.items()},
            "parameters": {_key(o, p): p for o in found for p in o.parameters},
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "digest": {"type": "http", "scheme": "digest"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
        "security": [{}, {"basic": []}, {"digest": []}, {"bearer": []}],
    }


def _described(operation: Operation, of_type: Mapping[str, Any], *, is_head: bool = False) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    if operation.content:
        responses["200"] = {"description": operation.summary}
        if not is_head:
            content = {kind: {"schema": _schema(shape, of_type)} for kind, shape in operation.content.items()}
            responses["200"]["content"] = content
    for status in (*operation.statuses, *REFUSALS):
        responses[str(status)] = {"$ref": f"#/components/responses/Status{status}"}
    out: dict[str, Any] = {"summary": operation.summary, "responses": responses}
    if operation.parameters:
        out["parameters"] = [{"$ref": f"#/components/parameters/{_key(operation, p)}"} for p in operation.parameters]
    if operation.body is not None:
        out["requestBody"] = {"required": operation.needs_body, "content": {JSON: {"schema": _schema(operation.body, of_type)}}}
    return out


def _schema(shape: Any, of_type: Mapping[str, Any]) -> Any:
    return shape if isinstance(shape, Mapping) else of_type[repr(shape)]


def _text(status: int, why: str) -> dict[str, Any]:
    if status == 301:
        return {"description": why, "headers": {"Location": {"schema": _ANY_TEXT}}}
    return {"description": why, "content": {TEXT: {"schema": _ANY_TEXT}}}


def _key(operation: Operation, parameter: Mapping[str, Any]) -> str:
    """Name of a parameter among the components: cAdvisor's mean the same wherever they stand, ours do not."""
    if operation.route == _CADVISOR_ROUTE:
        return f"cadvisor.{parameter['name']}"
    return f"{operation.route.split('/')[-1].strip('{}').split(':')[0]}.{operation.method}.{parameter['name']}"


def route(config: HttpConfig) -> Route:
    made: list[bytes] = []

    async def answer(request: Request) -> Response:
        if not made:
            made.append(msgspec.json.encode(document(config)))
        return Response(made[0], media_type=JSON)

    return Route(PATH, answer)

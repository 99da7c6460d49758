"""The OpenAPI 3.1 description of these paths: from the tables of `request` and the structs of `shapes`. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from tidegauge.api.cadvisor import machine_shapes as m
from tidegauge.api.cadvisor import shapes as s
from tidegauge.api.cadvisor.request import EVENT_PARAMETERS, TYPES, V2_PARAMETERS, ContainerInfoRequest, Parameter

_NAMED = frozenset({"containers", "subcontainers", "docker", "events", "summary", "stats", "spec", "ps", "appmetrics"})
"""Request types with a container behind them; it may be left out."""
ANSWERS: Mapping[str, Any] = {
    "machine": m.MachineInfo,
    "containers": s.ContainerInfo,
    "subcontainers": list[s.ContainerInfo],
    "docker": dict[str, s.ContainerInfo],
    "events": list[s.EventInfo],
    "version": str,
    "attributes": m.Attributes,
    "summary": dict[str, s.DerivedStats],
    "spec": dict[str, s.ContainerSpec],
    "storage": list[m.FsInfo] | m.FsInfo,
    "ps": list[s.ProcessInfo],
    "appmetrics": dict[str, dict[str, dict[str, list[s.MetricValBasic]]]],
    "machinestats": list[s.MachineStats],
}
_STATS: Mapping[str, Any] = {"v2.0": dict[str, list[s.ContainerStatsV20]], "v2.1": dict[str, s.ContainerInfoV2]}
_ERRORS = {
    "400": "What was asked cannot be",
    "403": "Only over the Unix socket, or with a credential",
    "404": "There is no such container, or version, or type",
    "503": "What would know it does not run, or does not answer",
}
_REF = "#/components/schemas/{name}"
_FORMATS: Mapping[str, Mapping[str, str]] = {
    "time": {"type": "string", "format": "date-time"},
    "duration": {"type": "string", "examples": "1.5s"},
}


def answer_type(version: str, type_: str) -> Any:
    """What the JSON of an answer decodes to."""
    return _STATS[version] if type_ == "stats" else ANSWERS[type_]


def paths() -> dict[str, Any]:
    """Path items, with and without the name of a container."""
    pairs = [(version, type_) for version, types in TYPES.items() for type_ in types]
    answers, _ = _schemas()
    found: dict[str, Any] = {}
    for version, type_ in pairs:
        path = f"/api/{version}/{type_}"
        found[path] = _item(version, type_, answers[version, type_], is_named=False)
        if type_ in _NAMED:
            found[f"{path}/{{name}}"] = _item(version, type_, answers[version, type_], is_named=True)
    return found


def components() -> dict[str, Any]:
    """Schemas by name."""
    return _schemas()[1]


def _schemas() -> tuple[dict[tuple[str, str], Any], dict[str, Any]]:
    pairs = [(version, type_) for version, types in TYPES.items() for type_ in types]
    wanted = [answer_type(*pair) for pair in pairs]
    made, named = msgspec.json.schema_components([*wanted, ContainerInfoRequest], ref_template=_REF)
    return dict(zip(pairs, made, strict=False)), named


def _item(version: str, type_: str, schema: Any, *, is_named: bool) -> dict[str, Any]:
    parameters = [_parameter(p) for p in _parameters(version, type_)]
    if is_named:
        parameters.insert(0, {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}})
    operation = {
        "operationId": f"{version.replace('.', '_')}_{type_}{'_of' if is_named else ''}",
        "tags": ["cAdvisor"],
        "parameters": parameters,
        "responses": {
            "200": {"description": "The answer", "content": {"application/json": {"schema": schema}}},
            **{
                status: {"description": text, "content": {"text/plain": {"schema": {"type": "string"}}}}
                for status, text in _ERRORS.items()
            },
        },
    }
    item: dict[str, Any] = {"get": operation}
    if version.startswith("v1.") and type_ not in ("machine", "events"):
        body = {"content": {"application/json": {"schema": {"$ref": _REF.format(name="ContainerInfoRequest")}}}}
        item["post"] = operation | {"operationId": f"{operation['operationId']}_post", "requestBody": body}
    return item


def _parameters(version: str, type_: str) -> tuple[Parameter, ...]:
    if type_ == "events":
        return EVENT_PARAMETERS
    return tuple(p for p in V2_PARAMETERS if p.types is None or type_ in p.types) if version.startswith("v2.") else ()


def _parameter(p: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = dict(_FORMATS.get(p.type, {"type": p.type}))
    if "examples" in schema:
        schema["examples"] = [schema["examples"]]
    if p.default is not None:
        schema["default"] = p.default
    return {"name": p.name, "in": "query", "required": False, "description": p.help, "schema": schema}

"""The description of the API is whole: every route, method, parameter and type is in it, and nothing that is not there."""

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from tests.api.access import View
from tests.api.test_cadvisor_requests import filled

from tidegauge.api import app, debug, events, openapi
from tidegauge.api.cadvisor.request import EVENT_PARAMETERS, TYPES, V2_PARAMETERS
from tidegauge.api.processes import STATUS
from tidegauge.pipeline.config import HttpConfig


@pytest.fixture(params=[False, True], ids=["plain", "debug"])
def config(request: pytest.FixtureRequest) -> HttpConfig:
    return HttpConfig(debug=request.param)


def _routes(config: HttpConfig) -> dict[str, Route]:
    application = app.build(View(), config, "here")._app  # type: ignore[arg-type]
    assert isinstance(application, Starlette)
    return {r.path: r for r in application.routes if isinstance(r, Route)}


def test_every_route_and_method_is_there_and_no_other(config: HttpConfig) -> None:
    routes = _routes(config)
    described: dict[str, set[str]] = {}
    for operation in openapi.operations(config):
        described.setdefault(operation.route, set()).add(operation.method.upper())
    for methods in described.values():
        methods |= {"HEAD"} if "GET" in methods else set()
    assert described == {path: route.methods for path, route in routes.items()}
    for operation in openapi.operations(config):
        filled = re.sub(r"\{\w+\}", "x", operation.path)
        assert routes[operation.route].path_regex.fullmatch(filled), operation.path
        taken = next(r for r in routes.values() if r.path_regex.fullmatch(filled))
        assert taken.path == operation.route, f"{operation.path} is answered by another route"


def test_links_of_the_page_lead_somewhere(config: HttpConfig) -> None:
    links = re.findall(r"<a href=([^ >]+)>", app._index(View()))  # type: ignore[arg-type]
    assert len(links) >= 9
    for link in links:
        assert any(r.path_regex.fullmatch(f"/{link}") for r in _routes(config).values()), link


CADVISOR = filled()
CADVISOR.processes = {"processes": []}


@pytest.mark.parametrize(("version", "type_"), [(version, type_) for version, types in TYPES.items() for type_ in types])
def test_answers_of_cadvisor_are_of_the_described_form(version: str, type_: str) -> None:
    """Decoded as what is described, and encoded again, nothing is lost or added."""
    query = "all_events=true&subcontainers=true" if type_ == "events" else "recursive=true"
    answer = CADVISOR.get(f"/api/{version}/{type_}?{query}")
    assert answer.status == 200
    decoded = msgspec.json.decode(answer.body, type=openapi.answer_type(version, type_))
    assert json.loads(msgspec.json.encode(decoded)) == answer.json


def test_every_request_type_of_cadvisor_is_there() -> None:
    paths = openapi.document(HttpConfig())["paths"]
    for version, types in TYPES.items():
        for type_ in types:
            assert paths[f"/api/{version}/{type_}"].keys() == {"get", "head", "post"}
        assert {p.split("/")[3] for p in paths if p.startswith(f"/api/{version}/")} == set(types)
        assert f"/api/{version}" in paths


def _names(item: dict[str, Any], document: dict[str, Any]) -> set[str]:
    return {_resolved(p, document)["name"] for p in item.get("parameters", ())}


def _resolved(value: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in value:
        return value
    for part in value["$ref"].removeprefix("#/").split("/"):
        document = document[part]
    return document


def test_every_parameter_is_there() -> None:
    document = openapi.document(HttpConfig())
    paths = document["paths"]
    assert _names(paths["/api/v1/events"]["get"], document) == events._NAMES
    for version, types in TYPES.items():
        for type_ in types:
            expected = {p.name for p in V2_PARAMETERS if p.types is None or type_ in p.types} if version[1] == "2" else set()
            if type_ == "events":
                expected = {p.name for p in EVENT_PARAMETERS}
            got = _names(paths[f"/api/{version}/{type_}"]["get"], document)
            assert got == expected, (version, type_)
            if version[1] == "1" and type_ != "events":
                assert not paths[f"/api/{version}/{type_}"]["post"]["requestBody"]["required"]
    assert paths["/api/v1/query"]["post"]["requestBody"]["required"]


def test_every_status_of_a_question_to_the_sampler_is_there() -> None:
    paths = openapi.document(HttpConfig(debug=True))["paths"]
    for path in ("/api/v1/processes", "/api/v2.0/ps", "/api/v2.1/ps/{name}"):
        assert {str(s) for s in STATUS.values()} <= paths[path]["get"]["responses"].keys()
    assert len(debug.routes(lambda *_: None)) == sum(path.startswith("/debug/") for path in paths)


def test_every_reference_leads_somewhere_and_it_is_json(config: HttpConfig) -> None:
    document = json.loads(json.dumps(openapi.document(config)))

    def references(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict):
            if "$ref" in value:
                yield value
            for inner in value.values():
                yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    found = list(references(document))
    assert len(found) > 500
    for reference in found:
        assert _resolved(reference, document)
    for item in document["paths"].values():
        for operation in item.values():
            assert operation["responses"].keys() - {str(s) for s in openapi.REFUSALS}, "no answer of its own"

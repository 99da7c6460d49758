"""The description of the REST API: complete, closed in itself, and true of the answers."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from tests.api.test_cadvisor_requests import filled

from tidegauge.api.cadvisor import openapi
from tidegauge.api.cadvisor.request import EVENT_PARAMETERS, TYPES, V2_PARAMETERS

PAIRS = [(version, type_) for version, types in TYPES.items() for type_ in types]
API = filled()
API.processes = {"processes": []}


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_path_and_parameter_is_described() -> None:
    paths = openapi.paths()
    assert {f"/api/{version}/{type_}" for version, type_ in PAIRS} <= paths.keys()
    names = {p["name"] for item in paths.values() for p in item["get"]["parameters"]}
    assert names == {"name", *(p.name for p in (*V2_PARAMETERS, *EVENT_PARAMETERS))}
    ids = [operation["operationId"] for item in paths.values() for operation in item.values()]
    assert len(set(ids)) == len(ids)
    json.dumps(paths)


def test_every_reference_leads_somewhere() -> None:
    schemas = openapi.components()
    wanted = set(references([openapi.paths(), schemas]))
    assert {ref.removeprefix("#/components/schemas/") for ref in wanted} <= schemas.keys()
    assert len(schemas) > 50


@pytest.mark.parametrize(("version", "type_"), PAIRS)
def test_answers_are_of_the_described_form(version: str, type_: str) -> None:
    """Decoded as what is described, and encoded again, nothing is lost or added."""
    query = "all_events=true&subcontainers=true" if type_ == "events" else "recursive=true"
    answer = API.get(f"/api/{version}/{type_}?{query}")
    assert answer.status == 200
    decoded = msgspec.json.decode(answer.body, type=openapi.answer_type(version, type_))
    assert json.loads(msgspec.json.encode(decoded)) == answer.json

"""The description of the API against the running program: requests made from it, answers held against it."""

import contextlib
import http.client
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from tests.e2e.program import Program, eventually, real_cgroups
from tests.support import need

pytestmark = [pytest.mark.integration, pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

PARENT = f"tg-openapi-{os.getpid()}"
EXAMPLES = 3
"""Of each operation."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    need(importlib.util.find_spec("schemathesis"), "schemathesis")
    need(os.geteuid() == 0, "root, to make cgroups")
    need(os.access("/sys/fs/cgroup", os.W_OK), "a writable cgroup hierarchy")
    folder = tmp_path_factory.mktemp("program")
    with real_cgroups(PARENT, ("a",)), Program(folder, '[http]\nlisten = "127.0.0.1:0"\nmax_requests = 64\n') as program:
        found = eventually(lambda: re.findall(r"http://(127\.0\.0\.1:\d+)", program.text()), 30, "no address in the log")
        eventually(lambda: _get(found[0], f"/api/v2.1/summary/{PARENT}/a")[0] == 200, 90, "there are no samples")
        eventually(lambda: _get(found[0], "/api/v1.3/machine")[0] == 200, 90, "the machine is not read")
        yield found[0]


def _get(address: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def test_requests_made_from_the_description(address: str) -> None:
    import schemathesis

    status, body = _get(address, "/openapi.json")
    assert status == 200
    raw: dict[str, Any] = json.loads(body)
    for parameter in raw["components"]["parameters"].values():
        if parameter["name"] == "stream":  # does not end; followed by tests of its own
            parameter["schema"]["enum"] = ["false"]
        if parameter["name"] == "name":  # one that is there, besides those that are not
            parameter["schema"] = {"anyOf": [{"const": PARENT}, parameter["schema"]]}
    schema = schemathesis.openapi.from_dict(raw)
    schema.config.update(base_url=f"http://{address}")
    checks = schemathesis.checks.CHECKS.get_by_names(
        ["status_code_conformance", "content_type_conformance", "response_schema_conformance"]
    )
    seen: dict[str, set[int]] = {}
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.seed(4194)
        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=False,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
        )
        @hypothesis.given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            response = case.call(timeout=60)
            seen.setdefault(case.operation.label, set()).add(response.status_code)
            assert response.status_code != 500, response.text
            case.validate_response(response, checks=checks)

        ask()
    assert len(seen) == sum(len(item) for item in raw["paths"].values())
    assert sum(200 in statuses for statuses in seen.values()) > len(seen) / 2

"""Whatever is asked, the answer is one of those that are meant, and JSON where it says so."""

import json
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from tests.api.test_cadvisor_requests import filled

from tidegauge.api.cadvisor.request import EVENT_PARAMETERS, TYPES, V2_PARAMETERS

API, STRICT = filled(), filled(is_strict=True)
TYPED = [(version, type_) for version, types in TYPES.items() for type_ in types if type_ != "ps"]
ODD = st.one_of(
    st.text(max_size=20),
    st.integers().map(str),
    st.sampled_from(
        ["true", "-1", "0", "docker", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00.5Z", "1e3", "NaN", "..", "\x00"]
    ),
)
NAMES = st.sampled_from([p.name for p in (*V2_PARAMETERS, *EVENT_PARAMETERS) if p.name != "stream"])


@given(st.sampled_from(TYPED), st.lists(ODD, max_size=3), st.dictionaries(NAMES, ODD, max_size=4))
def test_any_path_and_parameters(pair: tuple[str, str], words: list[str], params: dict[str, str]) -> None:
    path = "/".join(("/api", *pair, *(quote(w, safe="") for w in words)))
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in params.items())
    for api, statuses in ((API, (200, 301, 400, 404)), (STRICT, (200, 301, 400, 500))):
        answer = api.get(f"{path}?{query}")
        assert answer.status in statuses, answer
        if answer.status == 200:
            json.loads(answer.body)
        elif answer.status == 301:
            assert answer.headers["location"].startswith("/")
            assert not answer.headers["location"].startswith("//")
        else:
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"


JSON = st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda value: json.dumps(value).encode())


@given(st.one_of(st.binary(max_size=60), JSON))
def test_any_body(body: bytes) -> None:
    assert API.get("/api/v1.3/containers/docker", "POST", body).status in (200, 400)


@given(
    st.fixed_dictionaries(
        {}, optional={"num_stats": st.integers(), "start": ODD, "end": ODD, "other": st.none() | st.booleans()}
    )
)
def test_any_request_of_the_right_form(request: dict[str, object]) -> None:
    answer = API.get("/api/v1.3/containers/docker", "POST", json.dumps(request).encode())
    assert answer.status in (200, 400)
    if answer.status == 200:
        assert len(answer.json.get("stats", ())) <= 5

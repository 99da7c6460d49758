"""Names and values of labels: whatever a container is called, the page can be parsed and says it."""

import re

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from tests.api.exposition_rig import parsed

from tidegauge.api.exposition.labels import container_labels, device_path, escaped, in_order, label_names
from tidegauge.api.exposition.page import Renderer
from tidegauge.pipeline.testing.records import make_container

ANY_TEXT = st.text(st.characters(codec=None), max_size=20)
"""Halves of surrogate pairs, quotes, control characters and all."""
PROMETHEUS_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@given(st.sets(ANY_TEXT | st.sampled_from(["a.b", "a-b", "a_b", "a/b", "ä", "ö", ""]), max_size=12))
def test_every_key_has_a_legal_name_of_its_own_that_the_order_of_keys_does_not_change(keys: set[str]) -> None:
    names = label_names("container_label_", keys)
    assert set(names) == keys
    assert len(set(names.values())) == len(keys)
    assert all(PROMETHEUS_NAME.fullmatch(n) and n.startswith("container_label_") for n in names.values())
    assert label_names("container_label_", sorted(keys, reverse=True)) == names


def test_of_keys_with_one_name_the_one_that_needed_no_change_keeps_it() -> None:
    names = label_names("container_label_", ["a.b", "a_b", "a-b", "com.docker.compose.service"])
    assert names["a_b"] == "container_label_a_b"
    assert re.fullmatch(r"container_label_a_b_[0-9a-f]{8}", names["a.b"])
    assert re.fullmatch(r"container_label_a_b_[0-9a-f]{8}", names["a-b"])
    assert names["a.b"] != names["a-b"]
    assert names["com.docker.compose.service"] == "container_label_com_docker_compose_service"
    assert label_names("container_label_", ["a.b", "a-b"])["a-b"] == "container_label_a_b"


def test_keys_of_a_recorded_engine_have_the_names_that_cadvisor_gave_them() -> None:
    names = label_names(
        "container_label_", ["com.example.role", "com.example.team", "org.example.src", "io.example/path", "weird-key.1"]
    )
    assert sorted(names.values()) == [
        "container_label_com_example_role",
        "container_label_com_example_team",
        "container_label_io_example_path",
        "container_label_org_example_src",
        "container_label_weird_key_1",
    ]


def test_the_labels_that_everybody_asks_for_come_first() -> None:
    container = make_container(
        path="/docker/x", labels={"z": "1", "a": "2"}, environment={"e": "3"}, pod="p", pod_namespace="n", image=None
    )
    labels = container_labels(container)
    assert labels == {
        "id": "/docker/x",
        "name": "web-1",
        "namespace": "n",
        "pod": "p",
        "container_env_e": "3",
        "container_label_a": "2",
        "container_label_z": "1",
    }
    assert in_order({"container_label_a", "image", "id", "name", "pod"}) == ("id", "name", "image", "pod", "container_label_a")


@given(ANY_TEXT)
def test_an_escaped_value_is_printable_and_two_values_stay_two(value: str) -> None:
    shown = escaped(value)
    shown.encode()
    assert not re.search("[\x00-\x1f\x7f]", shown)
    assert not re.search(r'(?<!\\)(\\\\)*"', shown)


@given(
    path=ANY_TEXT,
    name=ANY_TEXT,
    labels=st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=4),
    environment=st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=2),
)
def test_no_name_or_label_breaks_the_page(path: str, name: str, labels: dict[str, str], environment: dict[str, str]) -> None:
    plain = make_container(name=name, labels=labels, environment=environment, pod=name or None)
    container = msgspec.structs.replace(plain, path=f"/x/{path}")
    for is_openmetrics in (False, True):
        text = Renderer(()).render([(container, None)], 0.0, is_openmetrics=is_openmetrics)
        text.encode()
        page = parsed(text + ("# EOF\n" if is_openmetrics else ""), is_openmetrics=is_openmetrics)
        (series,) = (s for s in page.series if s.name == "container_last_seen")
        found = dict(series.labels)
        if path.isascii() and path.isprintable():
            assert found["id"] == f"/x/{path}"
        assert sum(label.startswith("container_label_") for label in found) == len(labels)
        assert sum(label.startswith("container_env_") for label in found) == len(environment)


def test_newlines_quotes_and_backslashes_come_back_as_they_were() -> None:
    value = 'two\nlines, a "quote", a \\ and ünïcode'
    for is_openmetrics in (False, True):
        text = Renderer(()).render([(make_container(name=value), None)], 0.0, is_openmetrics=is_openmetrics)
        page = parsed(text + ("# EOF\n" if is_openmetrics else ""), is_openmetrics=is_openmetrics)
        assert page.values("container_last_seen", name=value) == [0]


def test_control_characters_and_halves_of_characters_become_visible() -> None:
    page = parsed(Renderer(()).render([(make_container(name="a\0b\x1b[31m\x7f\udc80"), None)], 0.0))
    assert page.values("container_last_seen", name=r"a\x00b\x1b[31m\x7f\udc80") == [0]


def test_a_disk_is_shown_by_its_path_below_dev() -> None:
    assert device_path("vda") == "/dev/vda"
    assert device_path("cciss!c0d0") == "/dev/cciss/c0d0"
    assert device_path("259:3") == "259:3"

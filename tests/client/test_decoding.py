"""Answers of other versions: fields that are missing, new or null; and answers that are none."""

import contextlib
import functools
import json
import random
import tarfile
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.recorded import differences
from tests.conftest import FIXTURES

from tidegauge.client import (
    Attributes,
    ContainerInfo,
    ContainerInfoV2,
    ContainerSpec,
    DeprecatedContainerStats,
    DerivedStats,
    Event,
    FsInfo,
    MachineInfo,
    MachineStats,
    ProcessInfo,
    WrongAnswer,
)
from tidegauge.client.decoding import decode

_SHAPES: dict[str, Any] = {
    "raw/v1.3-machine.json": MachineInfo,
    "raw/v1.3-containers-a-3stats.json": ContainerInfo,
    "docker/all-metrics_v1.3-docker-ts-web.json": dict[str, ContainerInfo],
    "raw/v2.0-attributes.json": Attributes,
    "raw/v2.0-stats-a.json": dict[str, list[DeprecatedContainerStats]],
    "docker/v2.1-stats-docker-ts-web.json": dict[str, ContainerInfoV2],
    "raw/v2.1-machinestats.json": list[MachineStats],
    "raw/v2.0-summary-a.json": dict[str, DerivedStats],
    "raw/v2.0-spec-recursive.json": dict[str, ContainerSpec],
    "raw/v2.0-storage.json": list[FsInfo],
    "raw/v2.0-ps-a.json": list[ProcessInfo],
    "raw/v2.0-events-sub.json": list[Event],
}


@functools.cache
def _recorded(file: str) -> bytes:
    with tarfile.open(FIXTURES / "cadvisor-rest.tar.gz") as archive:
        member = archive.extractfile(f"cadvisor-rest/{file}")
        assert member is not None
        return member.read()


_LATER = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_MAPS = frozenset({"labels", "envs", "stats", "disk_map", "custom_metrics", "memory_by_type", "tcp_advanced"})
"""Objects that have no fields but names of the world in them; `stats` where it is one."""


def _changed(value: Any, chance: random.Random, later: Any, is_map: bool = False) -> Any:
    """With fields left out, made null or added; maps keep what they have."""
    if isinstance(value, list):
        return [_changed(v, chance, later) for v in value[:2]]
    if not isinstance(value, dict):
        return value
    out = {}
    for key, inner in value.items():
        fate = 9 if is_map else chance.randrange(9)
        if fate == 0:
            continue
        out[key] = None if fate == 1 else _changed(inner, chance, later, key in _MAPS)
    if not is_map and chance.random() < 0.5:
        out["tidegauge_test"] = later
    return out


def _known(value: Any) -> Any:
    """Without what was added."""
    if isinstance(value, dict):
        return {k: _known(v) for k, v in value.items() if k != "tidegauge_test"}
    return [_known(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("file", _SHAPES)
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), later=_LATER)
def test_missing_null_and_new_fields(file: str, seed: int, later: Any) -> None:
    raw = json.loads(_recorded(file))
    is_by_name = isinstance(raw, dict) and next(iter(raw)).startswith("/")
    answered = _changed(raw, random.Random(seed), later, is_by_name)
    value = decode(json.dumps(answered).encode(), _SHAPES[file], "here")
    assert differences(value, _known(answered)) == []


@given(st.binary(max_size=200) | _LATER.map(lambda v: json.dumps(v).encode()), st.sampled_from(list(_SHAPES.values())))
def test_whatever_comes_is_an_answer_or_a_wrong_answer(data: bytes, shape: Any) -> None:
    with contextlib.suppress(WrongAnswer):
        decode(data, shape, "here")


def test_all_types_can_be_made_of_nothing() -> None:
    for shape in {*_SHAPES.values()}:
        if isinstance(shape, type) and issubclass(shape, msgspec.Struct):
            assert decode(b"{}", shape, "here") == shape()


def test_limits_beyond_63_bits() -> None:
    value = decode(
        b'{"memory":{"limit":18446744073709551615},"processes":{"limit":18446744073709551615}}', ContainerSpec, "here"
    )
    assert value.memory.limit == value.processes.limit == 2**64 - 1


def test_answers_are_not_changed_by_accident() -> None:
    with pytest.raises(AttributeError):
        MachineInfo().num_cores = 1  # type: ignore[misc]
    one, two = decode(b"{}", ContainerSpec, ""), decode(b"{}", ContainerSpec, "")
    one.labels["a"] = "b"
    assert two.labels == {}

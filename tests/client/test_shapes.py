"""What tidegauge's server sends has a place in the client's types, field for field."""

import types
import typing
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tidegauge import client
from tidegauge.api.cadvisor import machine_shapes, shapes

_PAIRS = [
    (shapes.ContainerInfo, client.ContainerInfo),
    (shapes.ContainerStatsV21, client.ContainerStatsV2),
    (shapes.ContainerStatsV20, client.DeprecatedContainerStats),
    (shapes.MachineStats, client.MachineStats),
    (shapes.DerivedStats, client.DerivedStats),
    (shapes.ProcessInfo, client.ProcessInfo),
    (shapes.EventInfo, client.Event),
    (machine_shapes.MachineInfo, client.MachineInfo),
    (machine_shapes.Attributes, client.Attributes),
    (machine_shapes.FsInfo, client.FsInfo),
]


@pytest.mark.parametrize(("sent", "read"), _PAIRS, ids=lambda t: t.__name__)
def test_every_field_that_is_sent_is_read(sent: type, read: type) -> None:
    assert list(_unread(sent, read, read.__name__)) == []


def _unread(sent: type, read: type, at: str) -> Iterator[str]:
    theirs = {f.encode_name: f.type for f in msgspec.structs.fields(read)}
    for field in msgspec.structs.fields(sent):
        place = f"{at}.{field.encode_name}"
        if field.encode_name not in theirs:
            yield place
            continue
        inner, outer = _struct(field.type), _struct(theirs[field.encode_name])
        if inner is not None and outer is not None:
            yield from _unread(inner, outer, place)
        elif inner is not None and theirs[field.encode_name] != dict[str, int]:
            yield f"{place}: {outer} for {inner}"


def _struct(hint: Any) -> Any:
    """The struct in a type such as `Sequence[X] | None`."""
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias) and issubclass(hint, msgspec.Struct):
        return hint
    return next((found for inner in typing.get_args(hint) if (found := _struct(inner)) is not None), None)


def test_a_field_that_is_not_read_would_be_seen() -> None:
    assert list(_unread(shapes.ContainerSpec, client.MachineInfo, "x"))[:2] == ["x.creation_time", "x.start_time"]

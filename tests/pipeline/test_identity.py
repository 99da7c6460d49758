"""Instance ids, numbers, and what counts as the same container."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.pipeline.sampler_rig import ORIGIN

from tidegauge.pipeline.housekeeping import Policy
from tidegauge.pipeline.identity import Identities, first_number, instance_id, is_same, live_containers
from tidegauge.pipeline.records import Container, End, encode_record

POLICY = Policy(1.0, 60.0, True)


def admit(ids: Identities, path: str, **pairs: int) -> Container:
    return ids.admit(path, pairs, POLICY, 5, 10).record


def test_an_instance_id_has_16_hex_digits_and_depends_on_all_four() -> None:
    ids = {
        instance_id("b", "/a", "cpuacct", 1),
        instance_id("c", "/a", "cpuacct", 1),
        instance_id("b", "/b", "cpuacct", 1),
        instance_id("b", "/a", "memory", 1),
        instance_id("b", "/a", "cpuacct", 11),
    }
    assert len(ids) == 5
    assert all(len(i) == 16 and int(i, 16) >= 0 for i in ids)


@pytest.mark.parametrize(
    ("seen", "now", "same"),
    [
        ({"cpuacct": 1}, {"cpuacct": 1}, True),
        ({"cpuacct": 1}, {"cpuacct": 1, "memory": 2}, True),
        ({"cpuacct": 1, "memory": 2}, {"memory": 2}, True),
        ({"cpuacct": 1}, {"cpuacct": 2}, False),
        ({"cpuacct": 1, "memory": 2}, {"cpuacct": 1, "memory": 3}, False),
        ({"cpuacct": 1}, {"memory": 2}, False),
        ({"cpuacct": 1}, {}, False),
        ({}, {}, True),
    ],
)
def test_a_later_sighting_matches_if_one_pair_agrees_and_none_disagrees(
    seen: dict[str, int], now: dict[str, int], same: bool
) -> None:
    assert is_same(admit(Identities(ORIGIN), "/a", **seen), now) is same


def test_the_first_pair_names_the_instance_and_all_are_carried() -> None:
    record = admit(Identities(ORIGIN), "/a", cpuacct=3, memory=7)
    assert record.instance == instance_id("boot-1", "/a", "cpuacct", 3)
    assert record.pairs == (("cpuacct", 3), ("memory", 7))


def test_numbers_go_on_after_the_greatest_seen() -> None:
    ids = Identities(ORIGIN)
    numbers = [admit(ids, f"/{n}", cpuacct=n).number for n in range(5)]
    assert numbers == [1, 2, 3, 4, 5]
    again = Identities(ORIGIN, [msgspec.structs.replace(admit(ids, "/x", cpuacct=9), number=40)])
    assert admit(again, "/y", cpuacct=10).number == 41


def test_each_start_has_numbers_of_its_own() -> None:
    assert first_number(0) == 1
    assert first_number(1 << 32) == 1 << 24
    assert first_number(3 << 32) - first_number(2 << 32) == 1 << 24
    known = admit(Identities(ORIGIN), "/x", cpuacct=9)
    assert admit(Identities(ORIGIN, [known], 100), "/y", cpuacct=10).number == 100


def test_a_known_container_keeps_number_and_names_and_needs_no_new_record() -> None:
    known = msgspec.structs.replace(admit(Identities(ORIGIN), "/a", cpuacct=3), name="web", row=77)
    admission = Identities(ORIGIN, [known]).admit("/a", {"cpuacct": 3}, POLICY, 99, 100)
    assert not admission.is_new
    assert admission.is_logged
    assert admission.record == msgspec.structs.replace(known, row=0)


def test_a_known_container_with_a_new_pair_host_or_interval_gets_a_new_record() -> None:
    known = admit(Identities(ORIGIN), "/a", cpuacct=3)
    for origin, pairs, policy in (
        (ORIGIN, {"cpuacct": 3, "memory": 4}, POLICY),
        (ORIGIN._replace(host="renamed"), {"cpuacct": 3}, POLICY),
        (ORIGIN, {"cpuacct": 3}, Policy(2.0, 60.0, True)),
    ):
        record, is_new, is_logged = Identities(origin, [known]).admit("/a", pairs, policy, 99, 100)
        assert (record.number, record.instance, record.valid_from_ms) == (known.number, known.instance, 100)
        assert not is_new
        assert not is_logged


def test_a_static_policy_shows_as_equal_intervals() -> None:
    record = Identities(ORIGIN).admit("/a", {}, Policy(2.0, 60.0, False), 0, 0).record
    assert (record.base_interval_s, record.max_interval_s) == (2.0, 2.0)


def test_containers_not_seen_again_are_lost_once() -> None:
    ids = Identities(ORIGIN)
    known = [admit(ids, "/a", cpuacct=1), admit(ids, "/b", cpuacct=2)]
    other = msgspec.structs.replace(admit(ids, "/c", cpuacct=3), boot_id="boot-0")
    again = Identities(ORIGIN, [*known, other])
    admit(again, "/a", cpuacct=1)
    assert [c.path for c in again.take_lost()] == ["/b", "/c"]
    assert again.take_lost() == []


def test_an_epoch_is_carried_over_a_restart_within_a_boot_only() -> None:
    known = msgspec.structs.replace(admit(Identities(ORIGIN), "/a", cpuacct=1), epoch=4)
    assert Identities(ORIGIN, [known]).epoch == 4
    assert Identities(ORIGIN._replace(boot_id="boot-2"), [known]).epoch == 0


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=30), st.binary(max_size=8))
def test_live_containers_of_a_log_are_those_not_ended(history: list[tuple[int, bool]], junk: bytes) -> None:
    ids = Identities(ORIGIN)
    records = {n: msgspec.structs.replace(admit(ids, f"/{n}", cpuacct=n), number=n) for n in range(1, 7)}
    frames: list[tuple[int, bytes]] = []
    expected: set[int] = set()
    for number, is_end in history:
        type_, payload = encode_record(End(number, 0) if is_end else records[number])
        frames += [(type_, payload), (99, junk)]
        if is_end:
            expected.discard(number)
        else:
            expected.add(number)
    assert {c.number for c in live_containers(frames)} == expected


def test_a_damaged_container_frame_is_passed_over() -> None:
    assert live_containers([(2, b"\xc1")]) == []

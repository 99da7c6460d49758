"""Intervals as a pure function of what was seen."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.cgroup_truth import container

from tidegauge.pipeline.housekeeping import Policy, is_included, is_pruned, next_interval, policy_of, spread
from tidegauge.pipeline.sampler_config import PolicyConfig, SamplerConfig

policies = st.builds(
    lambda base, factor, dynamic: Policy(base, base * factor, dynamic),
    st.floats(0.01, 100),
    st.floats(1, 1000),
    st.booleans(),
)


def run(policy: Policy, changes: list[bool]) -> list[float]:
    intervals = [policy.base_s]
    for has_changed in changes:
        intervals.append(next_interval(policy, intervals[-1], has_changed))
    return intervals


def test_idle_intervals_double_and_stay_at_the_maximum() -> None:
    assert run(Policy(1, 60, True), [False] * 9) == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_the_first_change_brings_the_base_back() -> None:
    assert run(Policy(1, 60, True), [False, False, False, True, False]) == [1, 2, 4, 8, 1, 2]


@given(policies, st.lists(st.booleans(), max_size=40))
def test_an_interval_lies_between_base_and_maximum(policy: Policy, changes: list[bool]) -> None:
    assert all(policy.base_s <= i <= policy.max_s for i in run(policy, changes))


@given(policies, st.lists(st.booleans(), max_size=40))
def test_without_a_change_it_never_shrinks_and_with_one_it_is_the_base(policy: Policy, changes: list[bool]) -> None:
    intervals = run(policy, changes)
    for before, after, has_changed in zip(intervals, intervals[1:], changes, strict=False):
        assert after == policy.base_s if has_changed or not policy.is_dynamic else after >= before


@given(st.floats(0.01, 1000), st.integers(1, 10**6))
def test_a_wait_is_shortened_by_at_most_half(interval_s: float, number: int) -> None:
    assert interval_s / 2 <= spread(interval_s, number) <= interval_s


@pytest.mark.parametrize("first", [1, 77, 5000])
def test_containers_made_together_are_spread_evenly(first: int) -> None:
    ticks = Counter(int(spread(60, n)) for n in range(first, first + 300))
    assert set(ticks) <= set(range(30, 61))
    assert max(ticks.values()) <= 13


def test_the_first_policy_that_matches_holds_and_leaves_the_rest_as_it_was() -> None:
    config = SamplerConfig(
        policies=(PolicyConfig("/docker/*", base_interval_s=5), PolicyConfig("/docker/a", dynamic=False), PolicyConfig("/x/*")),
        max_interval_s=30,
    )
    assert policy_of(config, "/docker/a") == Policy(5, 30, True)
    assert policy_of(config, "/x/y") == Policy(1, 30, True)
    assert policy_of(config, "/other") == Policy(1, 30, True)


def test_a_policy_by_name_image_or_label_holds_once_they_are_known() -> None:
    web = msgspec.structs.replace(
        container("/docker/a"), name="web-1", image="nginx:1.27", labels={"com.docker.compose.service": "shop"}
    )
    for policy in (
        PolicyConfig(name="web-*", base_interval_s=5),
        PolicyConfig(image="nginx:*", base_interval_s=5),
        PolicyConfig(label="com.docker.compose.service=sh*", base_interval_s=5),
        PolicyConfig(path="/docker/*", name="web-*", image="nginx*", label="*=shop", base_interval_s=5),
    ):
        config = SamplerConfig(policies=(policy,))
        assert policy_of(config, web.path, web).base_s == 5
        assert policy_of(config, web.path).base_s == 1
        assert policy_of(config, web.path, container(web.path)).base_s == 1
    for policy in (
        PolicyConfig(name="web", base_interval_s=5),
        PolicyConfig(image="nginx", base_interval_s=5),
        PolicyConfig(label="shop", base_interval_s=5),
        PolicyConfig(path="/podman/*", name="web-*", base_interval_s=5),
        PolicyConfig(name="web-*", image="redis*", base_interval_s=5),
        PolicyConfig(name="web-*", label="other=*", base_interval_s=5),
    ):
        assert policy_of(SamplerConfig(policies=(policy,)), web.path, web).base_s == 1


def test_a_policy_without_a_pattern_is_none() -> None:
    with pytest.raises(ValueError, match="expected a pattern"):
        PolicyConfig(base_interval_s=5)


def test_the_host_is_never_dynamic() -> None:
    assert not policy_of(SamplerConfig(policies=(PolicyConfig("*", dynamic=True),)), "/").is_dynamic


def test_a_maximum_below_the_base_is_the_base() -> None:
    assert policy_of(SamplerConfig(policies=(PolicyConfig("*", base_interval_s=90),)), "/a") == Policy(90, 90, True)


def test_patterns_span_slashes_and_spare_the_host() -> None:
    assert is_pruned(("*.mount",), "/system.slice/dev-hugepages.mount")
    assert not is_pruned(("*.mount",), "/system.slice/cron.service")
    assert is_pruned(("/a.mount",), "/a.mount/b/c")
    assert not is_pruned(("/a.mount",), "/a.mounts")
    assert not is_pruned(("*",), "/")
    assert is_included((), "/a")
    assert is_included(("/docker/*",), "/docker/a/b")
    assert is_included(("/docker/*",), "/")
    assert not is_included(("/docker/*",), "/system.slice")

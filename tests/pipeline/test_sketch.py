"""The quantile sketch, against exact quantiles and against itself."""

import functools
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegauge.pipeline.sketch import Sketch, merged

VALUES = st.one_of(st.just(0.0), st.floats(1e-9, 1e18), st.integers(0, 2**63 - 1), st.integers(0, 100))
ADDED = st.lists(st.tuples(VALUES, st.integers(1, 300_000)), max_size=60)


def sketch_of(added: list[tuple[float, int]]) -> Sketch:
    sketch = Sketch()
    for value, weight in added:
        sketch.add(value, weight)
    return sketch


def exact(added: list[tuple[float, int]], share: float) -> float:
    """Nearest rank over every unit of weight."""
    need = share * sum(w for _, w in added)
    ordered = sorted(added)
    sums = itertools.accumulate(w for _, w in ordered)
    return next(value for (value, _), below in zip(ordered, sums, strict=True) if below >= need)


@given(ADDED.filter(bool), st.sampled_from([0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_quantiles_are_within_one_percent(added: list[tuple[float, int]], share: float) -> None:
    found = sketch_of(added).quantile(share)
    assert found is not None
    truth = exact(added, share)
    assert abs(found - truth) <= 0.01 * truth


@given(st.lists(ADDED, max_size=5), st.randoms(use_true_random=False))
def test_merging_is_adding_in_any_order_and_grouping(parts: list[list[tuple[float, int]]], random: object) -> None:
    whole = sketch_of([a for part in parts for a in part])
    one_by_one = functools.reduce(lambda left, right: merged((left, right)), map(sketch_of, parts), Sketch())
    shuffled = list(parts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    right = functools.reduce(lambda left, right: merged((right, left)), map(sketch_of, reversed(shuffled)), Sketch())
    assert whole == one_by_one == right
    assert whole.encode() == one_by_one.encode() == right.encode()
    assert whole.weight == sum(w for part in parts for _, w in part)


@given(st.lists(ADDED, max_size=5), ADDED, st.integers(0, 5))
def test_merging_what_was_encoded_is_adding_it(
    parts: list[list[tuple[float, int]]], more: list[tuple[float, int]], at: int
) -> None:
    """Whether it was decoded before or is merged as it lies there, and whatever was added between."""
    whole, bulk = sketch_of([a for part in (*parts, more) for a in part]), Sketch()
    for i, part in enumerate(parts):
        decoded = Sketch.decode(sketch_of(part).encode())
        if i == at:
            assert decoded.weight == sum(w for _, w in part)
        bulk.merge(decoded)
        assert decoded == sketch_of(part)
        assert bool(decoded) is bool(part)
    for value, weight in more:
        bulk.add(value, weight)
    assert bulk == whole
    assert bulk.encode() == whole.encode()
    again = Sketch.decode(bulk.encode())
    again.merge(Sketch.decode(bulk.encode()))
    for value, weight in more:
        again.add(value, weight)
    assert again.weight == 2 * whole.weight + sum(w for _, w in more)
    assert repr(Sketch.decode(bulk.encode())) == repr(Sketch.decode(whole.encode()))
    assert Sketch.decode(bulk.encode()).quantile(0.5) == whole.quantile(0.5)


@given(ADDED, st.sampled_from([1, 1000, 2**32]))
def test_bytes_hold_the_whole_sketch(added: list[tuple[float, int]], factor: int) -> None:
    sketch = sketch_of([(value, weight * factor) for value, weight in added])
    assert Sketch.decode(sketch.encode()) == sketch


def test_bytes_are_the_same_for_ever() -> None:
    """These stand in databases: a change of them is a change of the schema."""
    sketch = sketch_of([(0, 5), (1.0, 7), (1e9, 60_000), (0.25, 1)])
    assert sketch.encode().hex() == "000080baff0000170405000100070060ea"
    sketch.add(0, 70_000)
    assert sketch.encode().hex() == "010080baff0000170475110100010000000700000060ea0000"
    assert sketch.quantile(0.5) == 0.0
    assert sketch.quantile(0.99) == pytest.approx(1e9, rel=0.01)


def test_a_bin_is_four_bytes() -> None:
    assert len(sketch_of([(1.1**i, 10_000) for i in range(30)]).encode()) == 1 + 4 * 30


def test_an_empty_sketch_has_no_quantile() -> None:
    assert Sketch().quantile(0.5) is None
    assert Sketch.decode(Sketch().encode()) == Sketch()


def test_what_is_below_zero_counts_as_zero_what_has_no_end_as_the_greatest_and_no_number_is_refused() -> None:
    assert sketch_of([(-1, 5), (-1e-300, 2)]) == sketch_of([(0, 7)])
    assert sketch_of([(float("inf"), 5), (float("-inf"), 2)]) == sketch_of([(1e300, 5), (0, 2)])
    with pytest.raises(ValueError, match="takes no"):
        Sketch().add(float("nan"))


@pytest.mark.parametrize("damaged", [b"", b"\x07", b"\x00\x01", b"\x01" + b"\x00" * 7])
def test_other_bytes_are_no_sketch(damaged: bytes) -> None:
    with pytest.raises(ValueError, match="not a sketch"):
        Sketch.decode(damaged)

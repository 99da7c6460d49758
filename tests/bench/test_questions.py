"""What holds the stores' answers against numpy's finds every kind of wrong answer."""

import pytest
from bench.generator import History
from bench.questions import QUESTIONS, RELATIVE, Answer, Asked


@pytest.fixture(scope="module")
def asked() -> Asked:
    return Asked(History(days=0.1))


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_right_answer_passes_and_wrong_ones_are_named(question: str, asked: Asked) -> None:
    right = dict(asked.expected(question).low)
    assert asked.differences(question, right) == []
    key = max(right, key=lambda k: right[k])
    assert "missing" in asked.differences(question, {k: v for k, v in right.items() if k != key})[0]
    assert "too many" in asked.differences(question, right | {"another": 1.0})[0]
    highest = asked.expected(question).high[key]
    assert "expected" in asked.differences(question, right | {key: highest * (1 + 2 * RELATIVE)})[0]


def test_a_figure_that_is_read_as_stored_has_no_tolerance(asked: Asked) -> None:
    right = dict(asked.expected("export").low)
    key = next(iter(right))
    assert asked.differences("export", right | {key: right[key] + 1})


def test_the_ten_largest_come_in_their_order(asked: Asked) -> None:
    right: Answer = asked.expected("top").low
    assert asked.differences("top", dict(reversed(list(right.items())))) == ["top: in another order"]


def test_rates_of_a_namespace_are_the_sum_of_its_containers(asked: Asked) -> None:
    assert asked.expected("namespace").low != asked.expected("rate").low
    members = [c for c in asked.history.containers if c.namespace == asked.namespace]
    assert len(members) == 5

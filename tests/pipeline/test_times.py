"""Times and durations as programs write them."""

import pytest

from tidegauge.pipeline.times import go_duration_s, moment_ms


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("500ms", 0.5),
        ("1m30s", 90.0),
        ("1h", 3600.0),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("2us", 2e-6),
        ("2µs", 2e-6),
        ("2μs", 2e-6),
        ("0", 0.0),
        ("2m0s", 120.0),
    ],
)
def test_go_durations_are_seconds(text: str, seconds: float) -> None:
    assert go_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "s", "1x", "1s ", "-1s", "1s2", "1 s"])
def test_what_go_refuses_as_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        go_duration_s(text)


@pytest.mark.timeout(60)
def test_a_long_text_that_is_no_duration_is_refused_at_once() -> None:
    """It takes minutes where digits can be told apart in two ways, or the search begins anew at each."""
    with pytest.raises(ValueError, match="duration"):
        go_duration_s("1" * 400_000)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:01Z", 1000),
        ("1970-01-01T02:00:00.0015+02:00", 2),
        ("1970-01-01T02:00:00 02:00", 0),
        ("1969-12-31T23:59:59Z", -1000),
        ("1970-01-01T00:00:01", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_a_moment_has_a_zone_and_a_plus_may_have_become_a_blank(text: str, ms: int | None) -> None:
    assert moment_ms(text) == ms

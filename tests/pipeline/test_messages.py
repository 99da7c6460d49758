"""The channel between the two processes."""

from collections.abc import Iterator

import pytest

from tidegauge.pipeline.messages import Channel, LogMoved, Needed, SamplerCounters, pair


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    one, other = (Channel(end) for end in pair())
    yield one, other
    one.close()
    other.close()


def test_every_message_arrives_as_it_was_sent(channels: tuple[Channel, Channel]) -> None:
    one, other = channels
    for message in (LogMoved(1, 2, 3), SamplerCounters({"x": 1, "by": {"y": 2.5}}), Needed(None), Needed(4)):
        assert one.send(message)
        assert other.receive(1) == message
    assert other.receive(0) is None


def test_sending_never_blocks_and_counts_what_did_not_fit(channels: tuple[Channel, Channel]) -> None:
    one, other = channels
    sent = sum(one.send(LogMoved(i, i, i)) for i in range(5000))
    assert 0 < sent < 5000
    assert one.unsent == 5000 - sent
    received = 0
    while other.receive(0) is not None:
        received += 1
    assert received == sent


def test_a_packet_that_cannot_be_read_is_counted_and_skipped() -> None:
    a, b = pair()
    other = Channel(b)
    a.send(b"\xc1nonsense")
    a.send(b"\x93\xa3log\x01")
    assert other.receive(1) is None
    assert other.receive(1) is None
    assert other.undecodable == 2
    a.close()
    other.close()

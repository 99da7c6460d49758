"""HTTP Digest: RFC 7616's example, nonces that expire, counts that serve once, and what a replay is worth."""

import hashlib
import re
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegauge.api import auth_digest
from tidegauge.api.auth_digest import Digest, Outcome, parameters

REALM = "localhost"
HA1 = hashlib.md5(f"ann:{REALM}:pw".encode()).hexdigest()
USERS = {b"ann": HA1}


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def digest(clock: Clock) -> Digest:
    return Digest(REALM, clock)


def challenged(digest: Digest) -> dict[str, str]:
    challenge = digest.challenge()
    assert challenge.startswith("Digest ")
    found = parameters(challenge.removeprefix("Digest "))
    assert found is not None
    return found


def response(
    challenge: dict[str, str], count: int = 1, uri: str = "/x?a=1", method: str = "GET", ha1: str = HA1
) -> dict[str, str]:
    """As a client makes it (RFC 7616, 3.4.1)."""
    nc, cnonce = f"{count:08x}", "c0ffee"
    ha2 = hashlib.md5(f"{method}:{uri}".encode()).hexdigest()
    text = f"{ha1}:{challenge['nonce']}:{nc}:{cnonce}:auth:{ha2}"
    return {
        "username": "ann",
        "realm": challenge["realm"],
        "nonce": challenge["nonce"],
        "opaque": challenge["opaque"],
        "uri": uri,
        "qop": "auth",
        "nc": nc,
        "cnonce": cnonce,
        "response": hashlib.md5(text.encode()).hexdigest(),
    }


def test_the_example_of_the_rfc(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 7616, 3.9.1. Its nonce is not ours, so that the right password makes it stale rather than wrong."""
    digest = Digest("http-auth@example.org", clock)
    monkeypatch.setattr(digest, "_opaque", "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS")
    users = {b"Mufasa": hashlib.md5(b"Mufasa:http-auth@example.org:Circle of Life").hexdigest()}
    text = (
        'username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html", algorithm=MD5, '
        'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", nc=00000001, '
        'cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth, '
        'response="8ca523f5e9506fed4657c9700eebdbec", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    )
    found = parameters(text)
    assert found is not None
    assert digest.verify(found, "GET", b"/dir/index.html", users) is Outcome.STALE
    found["response"] = "8ca523f5e9506fed4657c9700eebdbed"
    assert digest.verify(found, "GET", b"/dir/index.html", users) is Outcome.WRONG


def test_a_right_answer_serves_once(digest: Digest) -> None:
    challenge = challenged(digest)
    assert not digest.knows(challenge)
    first = response(challenge)
    assert digest.verify(first, "GET", b"/x?a=1", USERS) is Outcome.RIGHT
    assert digest.knows(challenge)
    assert digest.verify(first, "GET", b"/x?a=1", USERS) is Outcome.STALE
    assert digest.verify(response(challenge, 2), "GET", b"/x?a=1", USERS) is Outcome.RIGHT


def test_an_answer_to_another_request_is_wrong(digest: Digest) -> None:
    good = response(challenged(digest))
    for change in (
        {"uri": "/y"},
        {"username": "bob"},
        {"realm": "other"},
        {"nonce": challenged(digest)["nonce"]},
        {"nc": "00000002"},
        {"nc": "1"},
        {"nc": "-0000001"},
        {"cnonce": "other"},
        {"cnonce": ""},
        {"qop": "auth-int"},
        {"qop": ""},
        {"opaque": "x"},
        {"algorithm": "SHA-256"},
        {"algorithm": "MD5-sess"},
        {"response": ""},
        {"response": "é" * 32},
    ):
        assert digest.verify(good | change, "GET", b"/x?a=1", USERS) is Outcome.WRONG, change
    for name in ("username", "realm", "nonce", "opaque", "uri", "qop", "nc", "cnonce", "response"):
        assert digest.verify({k: v for k, v in good.items() if k != name}, "GET", b"/x?a=1", USERS) is Outcome.WRONG, name
    assert digest.verify(good, "POST", b"/x?a=1", USERS) is Outcome.WRONG
    assert digest.verify(good, "GET", b"/x?a=2", USERS) is Outcome.WRONG
    assert digest.verify(good, "GET", b"/x", USERS) is Outcome.WRONG
    assert digest.verify(good, "GET", b"/x?a=1", {}) is Outcome.WRONG
    assert digest.verify(good, "GET", b"/x?a=1", USERS) is Outcome.RIGHT, "and none of these used up the count"


def test_an_expired_nonce_is_stale_only_with_the_right_password(digest: Digest, clock: Clock) -> None:
    challenge = challenged(digest)
    clock.now_s += auth_digest.NONCE_LASTS_S + 1
    assert digest.verify(response(challenge), "GET", b"/x?a=1", USERS) is Outcome.STALE
    assert digest.verify(response(challenge, ha1="0" * 32), "GET", b"/x?a=1", USERS) is Outcome.WRONG
    assert "stale=true" in digest.challenge(is_stale=True)


def test_a_nonce_of_another_or_changed_is_stale(digest: Digest, clock: Clock) -> None:
    theirs = challenged(Digest(REALM, clock)) | {"opaque": challenged(digest)["opaque"]}
    assert digest.verify(response(theirs), "GET", b"/x?a=1", USERS) is Outcome.STALE
    ours = challenged(digest)
    for nonce in ("", "AAAA", "!", ours["nonce"][:-4], "B" + ours["nonce"][1:], ours["nonce"] + "AAAA"):
        made = response(ours | {"nonce": nonce})
        assert digest.verify(made, "GET", b"/x?a=1", USERS) is Outcome.STALE, nonce


@settings(max_examples=60)
@given(st.lists(st.one_of(st.integers(0, 200), st.sampled_from([2**32 - 1, 2**31])), max_size=60))
def test_no_count_ever_serves_twice(counts: list[int]) -> None:
    digest = Digest(REALM, Clock())
    challenge = challenged(digest)
    served = []
    highest = 0
    for count in counts:
        outcome = digest.verify(response(challenge, count), "GET", b"/x?a=1", USERS)
        assert outcome in (Outcome.RIGHT, Outcome.STALE)
        if count > highest:
            assert outcome is Outcome.RIGHT, "a count higher than all before serves"
            highest = count
        if outcome is Outcome.RIGHT:
            served.append(count)
    assert len(served) == len(set(served))
    assert 0 not in served


def test_a_count_far_below_the_highest_costs_nothing(digest: Digest) -> None:
    challenge = challenged(digest)
    assert digest.verify(response(challenge, 2**32 - 1), "GET", b"/x?a=1", USERS) is Outcome.RIGHT
    tracemalloc.start()
    try:
        assert digest.verify(response(challenge, 1), "GET", b"/x?a=1", USERS) is Outcome.STALE
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_counts_out_of_order_serve(digest: Digest) -> None:
    challenge = challenged(digest)
    for count in (3, 1, 2, 60, 59):
        assert digest.verify(response(challenge, count), "GET", b"/x?a=1", USERS) is Outcome.RIGHT


def test_a_nonce_that_was_given_up_does_not_serve_again(digest: Digest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_digest, "MAX_NONCES", 3)
    used = [response(challenged(digest)) for _ in range(10)]
    for each in used:
        assert digest.verify(each, "GET", b"/x?a=1", USERS) is Outcome.RIGHT
        assert len(digest._used) <= 3
    for each in used:
        assert digest.verify(each, "GET", b"/x?a=1", USERS) is Outcome.STALE
    assert digest.verify(response(challenged(digest)), "GET", b"/x?a=1", USERS) is Outcome.RIGHT


def test_expired_nonces_are_forgotten(digest: Digest, clock: Clock) -> None:
    for _ in range(20):
        assert digest.verify(response(challenged(digest)), "GET", b"/x?a=1", USERS) is Outcome.RIGHT
        clock.now_s += auth_digest.NONCE_LASTS_S / 4
    assert len(digest._used) <= 5


def test_challenges_that_nobody_answers_take_no_memory(digest: Digest) -> None:
    assert len({challenged(digest)["nonce"] for _ in range(1000)}) == 1000
    assert not digest._used


def test_a_question_mark_with_nothing_after_it_is_the_same_target(digest: Digest) -> None:
    assert digest.verify(response(challenged(digest), uri="/x?"), "GET", b"/x", USERS) is Outcome.RIGHT


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('a="b", c=d', {"a": "b", "c": "d"}),
        ('A = "x\\"y\\\\" ,b="1,2"', {"a": 'x"y\\', "b": "1,2"}),
        ("a=1, a=2", None),
        ("a=1, A=2", None),
        ('a="1', None),
        ("a=", None),
        ("=b", None),
        ("nonsense", None),
        ("a=b c=d", None),
        ("", {}),
    ],
)
def test_parameters_of_a_header(text: str, found: dict[str, str] | None) -> None:
    assert parameters(text) == found


@settings(max_examples=300)
@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=200))
def test_no_header_breaks_the_parser(text: str) -> None:
    found = parameters(text)
    assert found is None or all(re.fullmatch(r"[a-z0-9*_-]+", name) for name in found)


@settings(max_examples=300)
@given(
    st.dictionaries(
        st.sampled_from(["username", "realm", "nonce", "opaque", "uri", "qop", "nc", "cnonce", "response", "algorithm"]),
        st.text(alphabet=st.characters(max_codepoint=255), max_size=40),
    )
)
def test_what_is_made_up_is_never_right(given_parameters: dict[str, str]) -> None:
    assert Digest(REALM, Clock()).verify(given_parameters, "GET", b"/", USERS) is Outcome.WRONG

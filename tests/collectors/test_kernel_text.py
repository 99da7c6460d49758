"""Property tests of the parsers behind the cgroup collectors: right on valid files, quiet on any bytes."""

from hypothesis import given
from hypothesis import strategies as st

from tidegauge.collectors._kernel_text import (
    Faults,
    KeyedFile,
    blkio_rows,
    io_stat_rows,
    limit_file,
    number_file,
    percpu_rows,
    pressure_file,
)
from tidegauge.pipeline.records import MAX_INT, UNLIMITED

numbers = st.integers(0, MAX_INT)
words = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)
devices = st.builds("{}:{}".format, st.integers(0, 999), st.integers(0, 99999))
junk = st.binary(max_size=300) | st.lists(
    st.sampled_from(
        [
            "some",
            "full",
            "total=",
            "8:0",
            "Read",
            "Write",
            "rbytes=",
            "=",
            "-5",
            "1_0",
            "9" * 5000,
            "7",
            "\n",
            " ",
            "max",
            "key",
        ]
    )
).map(lambda parts: " ".join(parts).encode())


def fits(value: object) -> bool:
    return value is None or (isinstance(value, int) and 0 <= value <= MAX_INT)


@given(numbers)
def test_numbers_come_back(n: int) -> None:
    assert number_file(Faults())(b"%d\n" % n) == (n,)


@given(numbers)
def test_limits_come_back_and_the_greatest_are_unlimited(n: int) -> None:
    parse = limit_file(Faults())
    assert parse(b"%d\n" % n) == (UNLIMITED if n >= 0x7FFFFFFFFFFF0000 else n,)
    assert parse(b"max\n") == (UNLIMITED,)


@given(st.dictionaries(words, numbers, min_size=1, max_size=20), st.data())
def test_keyed_files_come_back_in_any_order_and_with_any_keys_missing(content: dict[str, int], data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.sampled_from(sorted(content)) | words, unique=True, min_size=1, max_size=8))
    faults = Faults()
    parse = KeyedFile(faults, dict.fromkeys(wanted, 1))
    for _ in range(3):
        order = data.draw(st.permutations(sorted(content)))
        raw = "".join(f"{k} {content[k]}\n" for k in order).encode()
        assert list(parse(raw)) == [content.get(k) for k in wanted]
    assert faults.absurd_values == 0


def test_a_key_that_comes_in_the_place_of_another_is_seen() -> None:
    parse = KeyedFile(Faults(), {"a": 1, "b": 1})
    assert list(parse(b"a 1\nx 2\n")) == [1, None]
    assert list(parse(b"a 1\nb 2\n")) == [1, 2]
    assert list(parse(b"a 1\nx 2\n")) == [1, None]


@given(st.integers(0, 2**64), st.sampled_from([1, 1000, 10**7]))
def test_scaled_values_that_do_not_fit_are_none(n: int, scale: int) -> None:
    faults = Faults()
    expected = n * scale if n * scale <= MAX_INT else None
    assert list(KeyedFile(faults, {"user": scale})(b"user %d\n" % n)) == [expected]
    assert faults.absurd_values == (expected is None)


@given(numbers, numbers | st.none())
def test_pressure_totals_come_back_in_ns(some: int, full: int | None) -> None:
    head = "avg10=0.00 avg60=1.50 avg300=99.00 total="
    raw = f"some {head}{some}\n" + ("" if full is None else f"full {head}{full}\n")

    def ns(us: int | None) -> int | None:
        return None if us is None or us * 1000 > MAX_INT else us * 1000

    assert pressure_file(Faults())(raw.encode()) == (ns(some), ns(full))


@given(st.lists(numbers, max_size=300))
def test_percpu_rows_come_back(values: list[int]) -> None:
    raw = "".join(f"{v} " for v in values) + "\n"
    assert percpu_rows(raw.encode(), Faults()) == tuple((str(i), v) for i, v in enumerate(values))


@given(st.dictionaries(devices, st.lists(numbers, min_size=6, max_size=6), max_size=5))
def test_io_stat_rows_come_back_sorted(content: dict[str, list[int]]) -> None:
    keys = ("rbytes", "wbytes", "dbytes", "rios", "wios", "dios")
    raw = "".join(f"{d} " + " ".join(f"{k}={v}" for k, v in zip(keys, vs, strict=True)) + "\n" for d, vs in content.items())
    rows = io_stat_rows(raw.encode(), str, Faults())
    assert rows == tuple((d, *vs[:3], None, None, *vs[3:], None, None) for d, vs in sorted(content.items()))


@given(st.dictionaries(devices, st.lists(numbers, min_size=10, max_size=10), max_size=5))
def test_blkio_rows_come_back_sorted(content: dict[str, list[int]]) -> None:
    ops = ("Read", "Write", "Discard", "Sync", "Async")

    def raw(part: slice) -> bytes:
        lines = [f"{d} {op} {v}" for d, vs in content.items() for op, v in zip(ops, vs[part], strict=True)]
        return ("\n".join([*lines, "Total 5"]) + "\n").encode()

    rows = blkio_rows(raw(slice(0, 5)), raw(slice(5, 10)), str, Faults())
    assert rows == tuple((d, *vs) for d, vs in sorted(content.items()))


@given(junk)
def test_no_parser_raises_whatever_the_bytes(raw: bytes) -> None:
    faults = Faults()
    for parse in (
        number_file(faults),
        limit_file(faults),
        pressure_file(faults),
        KeyedFile(faults, {"key": 1, "some": 1000, "max": 1}),
    ):
        assert all(fits(v) for v in parse(raw))
    for rows in (blkio_rows(raw, raw, str, faults), io_stat_rows(raw, str, faults), percpu_rows(raw, faults)):
        assert all(isinstance(row[0], str) and all(fits(v) for v in row[1:]) for row in rows)

"""Parsers of the text files that cgroups are read from: bytes -> integers, without I/O.

All take whatever bytes there are and never raise: what is absent is None, what cannot be (negative, beyond 64 bit signed, not a
number) is None as well and counted in `Faults.absurd_values`.

Source: kernel documentation cgroup-v1/*.rst, cgroup-v2.rst, accounting/psi.rst.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter, mul
from typing import Any, NamedTuple

from tidegauge.pipeline.records import MAX_INT, UNLIMITED, TableRow, TableRows

Optional = int | None

_UNLIMITED_FROM = MAX_INT - 0xFFFF
"""v1 states no limit as the largest multiple of the page size (4 to 64 KiB) within 64 bit signed."""


class Faults:
    """What a collector met that should not be: counters for its self-metrics."""

    __slots__ = ("absurd_values", "first_unreadable", "unreadable_files")

    def __init__(self) -> None:
        self.absurd_values = 0
        """Numbers that could not be: reported as None."""
        self.unreadable_files = 0
        """Times that a file was there and could not be read: its values are None."""
        self.first_unreadable: str | None = None
        """The first of them, with the reason."""

    def unreadable(self, path: str, exc: OSError) -> None:
        self.unreadable_files += 1
        if self.first_unreadable is None:
            self.first_unreadable = f"{path}: {exc.strerror}"

    def number(self, token: bytes, scale: int = 1) -> Optional:
        """The number times `scale`, or None if it is absurd."""
        if token.isdigit() and len(token) < 20 and (value := int(token) * scale) <= MAX_INT:
            return value
        self.absurd_values += 1
        return None


class Faulty:
    """The part of a collector that shows its `Faults`: it is `Counted` and `Complaining`."""

    _faults: Faults

    def counters(self) -> Mapping[str, int]:
        return {"absurd_values": self._faults.absurd_values, "unreadable_files": self._faults.unreadable_files}

    def complaint(self) -> str | None:
        return self._faults.first_unreadable


_CPU_NAMES: list[str] = []
"""Made once each: every sample of every container has them."""

Parser = Callable[[bytes], Sequence[Optional]]


def number_file(faults: Faults) -> Parser:
    """Parser of a file that is one number."""

    def parse(raw: bytes) -> tuple[Optional]:
        token = raw.rstrip()
        return (int(token) if token.isdigit() and len(token) < 19 else faults.number(token),)

    return parse


def limit_file(faults: Faults) -> Parser:
    """Parser of a file that is a limit: `max` and v1's huge number are UNLIMITED."""

    def parse(raw: bytes) -> tuple[Optional]:
        token = raw.rstrip()
        if token == b"max":
            return (UNLIMITED,)
        value = faults.number(token)
        return (UNLIMITED if value is not None and value >= _UNLIMITED_FROM else value,)

    return parse


class _Layout(NamedTuple):
    """Where the wanted keys stand among the words of a file with a given number of words."""

    places: tuple[int, ...]
    """Index among the wanted keys of each value that is picked."""
    others: list[bytes] | None
    """Every key of the file, where a wanted one is missing: it may come in the place of another."""
    keys: tuple[bytes, ...]
    pick_keys: Callable[[Sequence[bytes]], Any]
    pick_values: Callable[[Sequence[bytes]], Any]


class KeyedFile:
    """Parser of `key value` lines, for some of the keys: values in the order of `keys`, None for a key that is not there.

    The places of the keys are learned once for each length of file and checked at every call, so that a call is one split
    and two picks: memory.stat costs half of what making a dictionary does. Shared by all readers of a collector.
    """

    def __init__(self, faults: Faults, keys: Mapping[str, int]) -> None:
        """`keys` maps each wanted key to the factor its value is multiplied by."""
        self._faults = faults
        self._keys = tuple(k.encode() for k in keys)
        self._scales = tuple(keys.values())
        self._is_scaled = any(s != 1 for s in self._scales)
        self._layouts: dict[int, _Layout] = {}

    def __call__(self, raw: bytes) -> Sequence[Optional]:
        words = raw.split()
        layout = self._layouts.get(len(words))
        if (
            layout is None
            or layout.pick_keys(words) != layout.keys
            or (layout.others is not None and layout.others != words[::2])
        ):
            layout = self._learn(words)
        if layout is None:
            return (None,) * len(self._keys)
        tokens = layout.pick_values(words)
        joined = b"".join(tokens)
        if joined.isdigit() and len(joined) < 400 and len(tokens) == len(self._keys):
            values = list(map(int, tokens))
            if self._is_scaled:
                values = list(map(mul, values, self._scales))
            if max(values) <= MAX_INT:
                return values
        slow: list[Optional] = [None] * len(self._keys)
        for place, token in zip(layout.places, tokens, strict=True):
            slow[place] = self._faults.number(token, self._scales[place])
        return slow

    def _learn(self, words: Sequence[bytes]) -> _Layout | None:
        at = {key: i for i, key in reversed(list(enumerate(words[:-1]))) if i % 2 == 0}
        places = tuple(i for i, key in enumerate(self._keys) if key in at)
        if not places:
            return None
        keys = tuple(self._keys[i] for i in places)
        others = None if len(keys) == len(self._keys) else list(words[::2])
        layout = _Layout(places, others, keys, _picker([at[k] for k in keys]), _picker([at[k] + 1 for k in keys]))
        if len(self._layouts) > 64:
            self._layouts.clear()
        self._layouts[len(words)] = layout
        return layout


def _picker(indexes: list[int]) -> Callable[[Sequence[bytes]], Any]:
    """itemgetter that answers with a tuple for one index too."""
    if len(indexes) == 1:
        only = indexes[0]
        return lambda words: (words[only],)
    return itemgetter(*indexes)


def pressure_file(faults: Faults) -> Parser:
    """Parser of a pressure file: totals of `some` and `full` in ns; `full` is absent in old cpu.pressure."""

    def parse(raw: bytes) -> tuple[Optional, Optional]:
        totals: dict[bytes, Optional] = {}
        for line in raw.split(b"\n"):
            head, found, total = line.rpartition(b" total=")
            if found:
                totals[head[:5]] = faults.number(total, 1000)
        return totals.get(b"some "), totals.get(b"full ")

    return parse


def percpu_rows(raw: bytes, faults: Faults) -> TableRows:
    """Rows (CPU, ns used on it) of cpuacct.usage_percpu."""
    tokens = raw.split()
    while len(_CPU_NAMES) < len(tokens):
        _CPU_NAMES.append(str(len(_CPU_NAMES)))
    if b"".join(tokens).isdigit() and len(max(tokens, key=len)) < 19:
        return tuple(zip(_CPU_NAMES, map(int, tokens), strict=False))
    return tuple([(name, faults.number(token)) for name, token in zip(_CPU_NAMES, tokens, strict=False)])


DeviceNames = Callable[[str], str]
"""`major:minor` -> name of the block device."""

_BLKIO_OPS = (b"Read", b"Write", b"Discard", b"Sync", b"Async")
_IO_KEYS = (b"rbytes", b"wbytes", b"dbytes", b"", b"", b"rios", b"wios", b"dios", b"", b"")
"""In the order of the table disk_io; io.stat does not tell synchronous from asynchronous requests."""


def blkio_rows(size: bytes, ops: bytes, name: DeviceNames, faults: Faults) -> TableRows:
    """disk_io rows of a pair of v1 files (io_service_bytes, io_serviced), sorted by device."""
    devices: dict[bytes, list[Optional]] = {}
    for start, raw in ((0, size), (5, ops)):
        for line in raw.split(b"\n"):
            words = line.split()
            if len(words) != 3 or words[1] not in _BLKIO_OPS or b":" not in words[0]:
                continue
            row = devices.setdefault(words[0], [None] * 10)
            row[start + _BLKIO_OPS.index(words[1])] = faults.number(words[2])
    return _rows(devices, name)


def io_stat_rows(raw: bytes, name: DeviceNames, faults: Faults) -> TableRows:
    """disk_io rows of io.stat, sorted by device.

    Kernels before 5.13 write a device without figures as its bare number and no line end, so words are taken one by one.
    """
    devices: dict[bytes, list[Optional]] = {}
    figures: dict[bytes, bytes] = {}
    found: list[tuple[bytes, dict[bytes, bytes]]] = []
    for word in raw.split():
        key, equals, value = word.partition(b"=")
        if key and equals:
            figures[key] = value
        elif b":" in word:
            figures = {}
            found.append((word, figures))
    for device, figures in found:
        if figures:
            devices[device] = [faults.number(figures[key]) if key in figures else None for key in _IO_KEYS]
    return _rows(devices, name)


def _rows(devices: Mapping[bytes, Sequence[Optional]], name: DeviceNames) -> TableRows:
    rows: list[TableRow] = [(name(device.decode("ascii", "replace")), *row) for device, row in devices.items()]
    return tuple(sorted(rows, key=lambda row: str(row[0])))

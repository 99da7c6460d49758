"""A mergeable quantile sketch: how long a value was how large, within 1 % of the value. Pure; no I/O.

Values fall into bins whose bounds grow by 2 % each, as in DDSketch (Masson, Rim, Lee: VLDB 2019, arXiv 1908.10693), with one
bin for zero. A bin is answered by the value that is off by the same share from both its bounds: at most 1/101, so 0.991 %.
Weights are whole numbers, here milliseconds: merging is their addition, exact in any order and any grouping, and equal sketches
are equal bytes. Own code, for the bytes' sake: decision 0025.
"""

import functools
import math
import struct
from collections.abc import Iterable

_GROWTH = 1.02
_SCALE = 1 / math.log(_GROWTH)
_MIDDLE = 2 / (1 + _GROWTH)
_ZERO = -32768
"""The bin of zero; those of other values go from -32767 to 32767, which is 1e-281 to 1e281."""
_WEIGHTS = "HIQ"
"""How wide weights are in bytes; the first byte of an encoded sketch says which."""
_log, _ceil = math.log, math.ceil


class Sketch:
    """Not shared by threads."""

    __slots__ = ("_bins", "_packed")

    def __init__(self) -> None:
        self._bins: dict[int, int] = {}
        self._packed: bytes | memoryview | None = None
        """What it holds beside these bins, as it was encoded, until it is asked: most are only merged into another one."""

    def add(self, value: float, weight: int = 1) -> None:
        """What is below 0 counts as 0, which these sketches are not of; infinity as the greatest. ValueError for NaN.

        `weight` is over 0.
        """
        if 0 < value < math.inf:
            place = min(max(_ceil(_log(value) * _SCALE), -32767), 32767)
        elif value <= 0:
            place = _ZERO
        elif value > 0:
            place = 32767
        else:
            raise ValueError(f"a sketch takes no {value}")
        self._bins[place] = self._bins.get(place, 0) + weight

    def merge(self, other: "Sketch") -> None:
        """Takes in all of another one, as if everything had been added here."""
        if other._packed is not None:
            self._unpack(other._packed)
        bins = self._bins
        for place, weight in other._bins.items():
            bins[place] = bins.get(place, 0) + weight

    def _unpack(self, encoded: bytes | memoryview) -> None:
        bins = self._bins
        get = bins.get
        count, packing = _packing(encoded[0], len(encoded))
        numbers = packing.unpack(encoded)[1:]
        for place, weight in zip(numbers, numbers[count:], strict=False):
            bins[place] = get(place, 0) + weight

    def _all(self) -> dict[int, int]:
        if self._packed is not None:
            self._unpack(self._packed)
            self._packed = None
        return self._bins

    def __bool__(self) -> bool:
        return bool(self._all())

    @property
    def weight(self) -> int:
        return sum(self._all().values())

    def quantile(self, share: float) -> float | None:
        """The nearest rank: the least value such that at least `share` (0 to 1) of the weight is not above it; None if empty.

        Off by at most 1 % of the value itself.
        """
        need = share * self.weight
        below = 0
        found: float | None = None
        bins = self._all()
        for place in sorted(bins):
            found = 0.0 if place == _ZERO else _MIDDLE * _GROWTH**place
            below += bins[place]
            if below >= need:
                break
        return found

    def encode(self) -> bytes:
        """4 bytes a bin in most cases. Equal sketches give equal bytes, in every version of the program."""
        bins = self._all()
        places = sorted(bins)
        weights = [bins[place] for place in places]
        most = max(weights, default=0)
        width = 0 if most < 1 << 16 else 1 if most < 1 << 32 else 2
        return struct.pack(f"<B{len(places)}h{len(places)}{_WEIGHTS[width]}", width, *places, *weights)

    @classmethod
    def decode(cls, encoded: bytes | memoryview) -> "Sketch":
        """ValueError for what `encode` did not make."""
        sketch = cls()
        try:
            _packing(encoded[0], len(encoded))
        except (IndexError, ValueError):
            raise ValueError("not a sketch") from None
        sketch._packed = encoded
        return sketch

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sketch) and self._all() == other._all()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Sketch({self._all()!r})"


@functools.lru_cache(4096)
def _packing(width: int, size: int) -> tuple[int, struct.Struct]:
    """How many bins so many bytes hold, and how they lie there. IndexError, ValueError if they are no sketch."""
    letter = _WEIGHTS[width]
    count, rest = divmod(size - 1, struct.calcsize(f"<h{letter}"))
    if rest:
        raise ValueError
    return count, struct.Struct(f"<B{count}h{count}{letter}")


def merged(sketches: Iterable[Sketch]) -> Sketch:
    """One sketch of all; none of them is changed."""
    out = Sketch()
    for sketch in sketches:
        out.merge(sketch)
    return out

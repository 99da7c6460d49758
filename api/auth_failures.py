"""Wrong credentials by address: after a few each further one has to wait longer, up to a bound, and never for good.

A right one does not set the count back: who guesses beside a client that scrapes every second, from behind the same proxy,
would never have to wait.
"""

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Callable

FREE = 8
"""So many wrong ones in a row cost no wait."""
MAX_WAIT_S = 16.0
FORGOTTEN_AFTER_S = 300.0
MAX_ADDRESSES = 4096
"""Addresses remembered; beyond that the one that was wrong longest ago is forgotten."""


def neighbourhood(address: str) -> str:
    """What is counted as one: an IPv4 address, or the /64 that a single host may choose its IPv6 addresses from."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.IPv6Network((ip, 64), strict=False))
    return str(ip)


class Failures:
    """`clock` is monotonic, in seconds. One thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_address: OrderedDict[str, tuple[int, float, float]] = OrderedDict()
        """(wrong ones in a row, time of the last, time until which the next waits)."""

    def wait_s(self, address: str) -> float:
        """Seconds until a credential from this address is looked at again; 0 if at once."""
        state = self._by_address.get(address)
        return 0.0 if state is None else max(0.0, state[2] - self._clock())

    def add(self, address: str) -> bool:
        """One more wrong credential; True if from now on the address has to wait, and had not before."""
        now = self._clock()
        count, last_s, _ = self._by_address.pop(address, (0, now, now))
        count = 1 if now - last_s > FORGOTTEN_AFTER_S else count + 1
        wait_s = 0.0 if count <= FREE else min(MAX_WAIT_S, math.ldexp(1.0, min(count - FREE - 1, 10)))
        while len(self._by_address) >= MAX_ADDRESSES:
            self._by_address.popitem(last=False)
        self._by_address[address] = (count, now, now + wait_s)
        return count == FREE + 1

    def __len__(self) -> int:
        return len(self._by_address)

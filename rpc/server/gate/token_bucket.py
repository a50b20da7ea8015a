"""A rate: so many tokens a second, and some saved up."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

#: addresses whose rate is remembered
_ADDRESSES: Final = 8192


class TokenBucket:
    """`rate` tokens a second, at most `burst` saved up. `clock`: seconds, monotonic."""

    __slots__ = ("_at", "_clock", "_left", "burst", "rate")

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.burst = burst
        self._clock = clock
        self._left = burst
        self._at = clock()

    def wait_seconds(self, amount: float) -> float:
        """How long until `amount` tokens are there; 0: now. More than can be saved up count as all that can be."""
        now = self._clock()
        self._left = min(self.burst, self._left + (now - self._at) * self.rate)
        self._at = now
        lacking = min(amount, self.burst) - self._left
        return max(0.0, lacking / self.rate)

    def take(self, amount: float) -> None:
        """Use tokens, whether or not they are there: see `wait_seconds`."""
        self._left -= amount


#: makes a bucket, of a name, a rate and a burst
MakeBucket = Callable[[str, float, float], TokenBucket]


def own_bucket(name: str, rate: float, burst: float) -> TokenBucket:
    """A bucket that this process alone takes from."""
    return TokenBucket(rate, burst)


class BucketsByAddress:
    """A bucket for each address, the last used ones of them. `make`: an address's bucket."""

    def __init__(self, make: Callable[[str], TokenBucket]) -> None:
        self._make = make
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def of(self, address: str) -> TokenBucket:
        """The bucket of an address."""
        bucket = self._buckets.get(address)
        if bucket is None:
            bucket = self._buckets[address] = self._make(address)
            if len(self._buckets) > _ADDRESSES:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(address)
        return bucket

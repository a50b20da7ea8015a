"""When a tipset is final: the calculator of FRC-0089, from the block counts of the observed chain.

It gives an upper bound of the probability that an adversary with at most 30 % of the power has, or gets, a heavier
chain without a given tipset. The bound sums three distributions: the adversary's lead when the tipset was made (L,
Poisson over every possible start), the blocks that it made since (B, Poisson), and its future gain (M, Skellam).
Source: FIPs, FRC-0089; its reference implementation; Lotus `chain/ecfinality`.

The reference sums every term. This calculator skips the terms that are too small to change the sum as a double. On a
chain of five blocks an epoch, that takes 1 % of the time. `tests/chain/test_finality.py` compares with the full sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Final

#: the finality of expected consensus, in epochs
FINALITY: Final = 900
#: epochs of block counts that the calculator reads
WINDOW: Final = FINALITY + 5
BLOCKS_PER_EPOCH: Final = 5
BYZANTINE: Final = 0.3
GUARANTEE: Final = 2.0**-30
#: the depths between which `threshold_depth` searches
_LOWEST: Final = 3
_HIGHEST: Final = 450

_NEGLIGIBLE: Final = 1e-25
#: the logarithm of what is far below that
_NOTHING: Final = -69.0
_MOST_LEAD: Final = 400
_MOST_FUTURE: Final = 100
_MALICIOUS: Final = BLOCKS_PER_EPOCH * BYZANTINE
_HONEST: Final = BLOCKS_PER_EPOCH - _MALICIOUS


def _poisson(rate: float, count: int) -> float:
    return math.exp(count * math.log(rate) - rate - math.lgamma(count + 1))


def _skellam(k: int, rate1: float, rate2: float) -> float:
    """The probability that a Poisson count of `rate1` exceeds one of `rate2` by `k`: summed from its peak."""
    product = rate1 * rate2
    peak = int((-k + math.sqrt(k * k + 4 * product)) / 2)
    log_term = (
        (k + peak) * math.log(rate1)
        + peak * math.log(rate2)
        - rate1
        - rate2
        - math.lgamma(k + peak + 1)
        - math.lgamma(peak + 1)
    )
    total = term = 1.0
    at = peak
    while term > 1e-20 * total:
        at += 1
        term *= product / ((k + at) * at)
        total += term
    term, at = 1.0, peak
    while at > 0 and term > 1e-20 * total:
        term *= (k + at) * at / product
        at -= 1
        total += term
    return math.exp(log_term) * total


def _is_tail(values: list[float], k: int) -> bool:
    return k > 1 and values[k] < _NEGLIGIBLE and values[k] < values[k - 1]


def _lead(chain: Sequence[int], current: int, target: int, finality: int) -> list[float]:
    starts: list[tuple[float, float, int]] = []
    expected = 0.0
    seen = 0
    for i in range(target, max(0, current - finality), -1):
        expected += _MALICIOUS
        seen += chain[i - 1]
        starts.append((expected, math.log(expected), seen))
    lgamma = math.lgamma
    # with more blocks seen than expected, each further block is less likely: a start whose probability of a lead of 0
    # is negligible adds nothing to any lead
    starts = [
        (expected, log, seen)
        for expected, log, seen in starts
        if expected > seen + 1 or seen * log - expected - lgamma(seen + 1) > _NOTHING
    ]
    found: list[float] = []
    for k in range(_MOST_LEAD + 1):
        best = max(
            ((k + seen) * log - expected - lgamma(k + seen + 1) for expected, log, seen in starts), default=-math.inf
        )
        found.append(math.exp(best))
        if _is_tail(found, k):
            break
    found[0] += 1 - sum(found)
    return found


def _since(epochs: int) -> list[float]:
    found: list[float] = []
    for k in range(epochs * BLOCKS_PER_EPOCH + 1):
        found.append(_poisson(epochs * _MALICIOUS, k))
        if _is_tail(found, k):
            break
    return found


@lru_cache(maxsize=1)
def _future() -> list[float]:
    """Probability mass of the adversary's future gain (FRC-0089, M). Independent of the observed chain."""
    public = (1 - _poisson(_HONEST, 0)) * sum(
        (_HONEST + k) / 2.0**k * _poisson(_MALICIOUS, k) for k in range(4 * BLOCKS_PER_EPOCH)
    )
    found: list[float] = []
    for k in range(_MOST_LEAD + 1):
        best = 0.0
        for i in range(_MOST_FUTURE, 0, -1):
            chance = _skellam(k, i * _MALICIOUS, i * public)
            if chance < _NEGLIGIBLE and chance < best:
                break
            best = max(best, chance)
        found.append(best)
        if _is_tail(found, k):
            break
    found[0] += 1 - sum(found)
    return found


def _at_least(values: Sequence[float], size: int) -> list[float]:
    """`at[n]`: the probability of n or more, as the reference sums it (1 for n of 0 and 1)."""
    sums = list(accumulate(values))
    last = len(sums) - 1
    return [sums[-1] - (sums[min(n - 1, last)] if n > 1 else 0.0) for n in range(size + 1)]


def reorg_probability(chain: Sequence[int], depth: int, finality: int = FINALITY, *, enough: float = math.inf) -> float:
    """An upper bound of the probability that the tipset `depth` epochs below the newest of `chain` is ever reverted.

    `chain`: the number of blocks of each epoch, oldest first, 0 for null rounds. The sum stops once it exceeds
    `enough`; the result is then some value above `enough`.
    """
    current = len(chain) - 1
    target = current - depth
    if depth <= 0 or target < 0:
        return 1.0
    lead, since, future = _lead(chain, current, target, finality), _since(depth), _future()
    blocks = sum(chain[target:current])
    lead_sums = list(accumulate(lead))
    chance = lead_sums[-1] - (lead_sums[min(blocks - 1, len(lead) - 1)] if blocks > 0 else 0.0)
    since_from = _at_least(since, blocks)
    # `future` ends where a larger gain has no weight
    future_from = _at_least(future, min(blocks, len(future)))
    last = len(since) - 1
    double = 0.0
    for ahead in range(blocks):
        weight = lead[min(ahead, len(lead) - 1)]
        if weight < _NEGLIGIBLE and ahead >= len(lead):
            break
        left = blocks - ahead
        later = 0.0
        for gained in range(1, min(left, len(future_from) - 1) + 1):
            later += since[min(left - gained, last)] * future_from[gained]
        double += weight * (since_from[left] + later)
        # only the first term can be negative
        if chance + double > enough:
            break
    return min(chance + double, 1.0)


def threshold_depth(chain: Sequence[int], finality: int = FINALITY, guarantee: float = GUARANTEE) -> int:
    """The least depth, in epochs, at which a tipset is final; -1 when no depth up to 450 epochs is."""
    low, high = _LOWEST, min(_HIGHEST, len(chain) - 1)
    if low >= high:
        return -1
    if reorg_probability(chain, low, finality, enough=guarantee) < guarantee:
        return low
    if reorg_probability(chain, high, finality, enough=guarantee) > guarantee:
        return -1
    while low < high:
        middle = (low + high) // 2
        if reorg_probability(chain, middle, finality, enough=guarantee) < guarantee:
            high = middle
        else:
            low = middle + 1
    return low

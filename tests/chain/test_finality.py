"""The calculator of FRC-0089 against what its reference gave."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.consensus.finality import GUARANTEE, _at_least, _future, _poisson, _since, reorg_probability, threshold_depth
from tests.support.paths import VECTORS

CASES = orjson.loads((VECTORS / "frc0089.json").read_bytes())


@pytest.mark.parametrize("depth", sorted(map(int, CASES["probabilities"])))
def test_the_references_figures(depth: int) -> None:
    wanted = CASES["probabilities"][str(depth)]
    # cumulative sums near 1 carry the last bit of 1 as their error: what is smaller cannot be told
    assert reorg_probability(CASES["chain"], depth) == pytest.approx(wanted, rel=1e-12, abs=3e-16)


def every_term(chain: list[int], depth: int) -> float:
    """The same, adding up every term as the reference does."""
    current = len(chain) - 1
    target = current - depth
    lead: list[float] = []
    for k in range(401):
        expected, seen, best = 0.0, 0, 0.0
        for i in range(target, max(0, current - 900), -1):
            expected += 1.5
            seen += chain[i - 1]
            best = max(best, _poisson(expected, k + seen))
        lead.append(best)
        if k > 1 and best < 1e-25 and best < lead[-2]:
            break
    lead[0] += 1 - sum(lead)
    since, future = _since(depth), _future()
    blocks = sum(chain[target:current])
    since_from, future_from = _at_least(since, blocks), _at_least(future, blocks)
    chance = sum(lead) - sum(lead[: min(blocks - 1, len(lead) - 1) + 1]) if blocks > 0 else sum(lead)
    for ahead in range(blocks):
        weight = lead[min(ahead, len(lead) - 1)]
        left = blocks - ahead
        chance += weight * since_from[left]
        for made in range(left):
            chance += weight * since[min(made, len(since) - 1)] * future_from[left - made]
    return min(chance, 1.0)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 7).flatmap(
        lambda most: st.lists(st.integers(0, most + 5).map(lambda n: min(n, most)), min_size=20, max_size=300)
    ),
    st.integers(1, 60),
)
def test_terms_that_are_left_out_do_not_count(chain: list[int], depth: int) -> None:
    depth = min(depth, len(chain) - 1)
    wanted = every_term(chain, depth)
    assert reorg_probability(chain, depth) == pytest.approx(wanted, rel=1e-12, abs=1e-15)
    enough = reorg_probability(chain, depth, enough=GUARANTEE)
    assert (enough > GUARANTEE) == (wanted > GUARANTEE)
    if wanted <= GUARANTEE:
        assert enough == reorg_probability(chain, depth)


def test_healthy_and_degraded_chains() -> None:
    depths = {blocks: threshold_depth([blocks] * 905) for blocks in (5, 3, 1)}
    assert 0 < depths[5] < 35
    assert 35 < depths[3] < 450
    assert depths[1] == -1


def test_the_threshold_is_the_least_depth() -> None:
    chain = CASES["chain"]
    depth = threshold_depth(chain)
    assert reorg_probability(chain, depth) < GUARANTEE <= reorg_probability(chain, depth - 1)


def test_depths_outside_the_chain_are_never_final() -> None:
    assert reorg_probability([5] * 10, 0) == 1.0
    assert reorg_probability([5] * 10, 10) == 1.0
    assert threshold_depth([5] * 4) == -1
    assert threshold_depth([]) == -1


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=40, max_size=120), st.integers(1, 30))
def test_a_probability_is_one(chain: list[int], depth: int) -> None:
    assert 0 <= reorg_probability(chain, depth) <= 1

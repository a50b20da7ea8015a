"""The calculator of FRC-0089 against what its reference gave."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.finality import GUARANTEE, reorg_probability, threshold_depth

VECTORS = orjson.loads((Path(__file__).parent / "vectors" / "frc0089.json").read_bytes())


@pytest.mark.parametrize("depth", sorted(map(int, VECTORS["probabilities"])))
def test_the_references_figures(depth: int) -> None:
    wanted = VECTORS["probabilities"][str(depth)]
    # cumulative sums near 1 carry the last bit of 1 as their error: what is smaller cannot be told
    assert reorg_probability(VECTORS["chain"], depth) == pytest.approx(wanted, rel=1e-12, abs=3e-16)


def test_healthy_and_degraded_chains() -> None:
    depths = {blocks: threshold_depth([blocks] * 905) for blocks in (5, 3, 1)}
    assert 0 < depths[5] < 35
    assert 35 < depths[3] < 450
    assert depths[1] == -1


def test_the_threshold_is_the_least_depth() -> None:
    chain = VECTORS["chain"]
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

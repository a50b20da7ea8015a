"""Pledges, deposits, vesting and quality against what go-state-types computes (`vectors/economy.jsonl`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chain.actors
from blockstore.cid import Cid, cid_of
from chain.actors.codes import bundle_of, bundles, known_code, networks_of
from chain.actors.economy import (
    FIL,
    Economy,
    cumulative_ratio,
    deal_collateral,
    economy_of,
    initial_pledge,
    ln,
    locked,
    precommit_deposit,
    qa_power,
    qa_power_max,
    vested,
)
from chain.actors.load import Loaded
from chain.actors.methods import BY_MANIFEST, KINDS
from chain.actors.versions import BadNetworkVersion, actors_version
from chain.state.state_tree import Actor
from tests.support.paths import VECTORS

ECONOMY = VECTORS / "economy.jsonl"

YEAR = 365 * 2880


def code_on(network: str, name: str = "storagepower") -> Cid:
    found = bundle_of(network, 16)
    assert found is not None
    return found.actors[name]


def loaded(kind: str, version: int, state: dict[str, Any], network: str = "mainnet") -> Loaded:
    actor = Actor(code_on(network, KINDS[kind].manifest), cid_of(b""), 0, 0)
    return Loaded(actor, KINDS[kind], version, state)


def estimate(position: int, velocity: int) -> dict[str, int]:
    return {"PositionEstimate": position, "VelocityEstimate": velocity}


def pledge(version: int, p1: int, v1: int, p2: int, v2: int, qa: int, base: int, circ: int, *ramp: int) -> int:
    since, duration = ramp or (0, 0)
    reward = loaded("reward", version, {"ThisEpochRewardSmoothed": estimate(p1, v1), "ThisEpochBaselinePower": base})
    # the ramp starts above epoch 0, so that it counts
    power = {"ThisEpochQAPowerSmoothed": estimate(p2, v2), "RampStartEpoch": 1000, "RampDurationEpochs": duration}
    return initial_pledge(reward, loaded("power", version, power), qa, circ, 1000 + since)


def deposit(p1: int, v1: int, p2: int, v2: int, qa: int) -> int:
    reward = loaded("reward", 16, {"ThisEpochRewardSmoothed": estimate(p1, v1)})
    return precommit_deposit(reward, estimate(p2, v2), qa)


def collateral(piece: int, raw: int, base: int, circ: int) -> int:
    power = loaded("power", 16, {"TotalRawBytePower": raw})
    return deal_collateral(piece, power, loaded("reward", 16, {"ThisEpochBaselinePower": base}), circ)


FUNCTIONS: dict[str, Callable[..., int]] = {
    "ln": ln,
    "cumulative_ratio": lambda e, p1, v1, p2, v2: cumulative_ratio(e, estimate(p1, v1), estimate(p2, v2)),
    "precommit_deposit": deposit,
    "initial_pledge_14": lambda *args: pledge(14, *args),
    "initial_pledge_16": lambda *args: pledge(16, *args),
    "qa_power": qa_power,
    "qa_power_max": qa_power_max,
    "deal_collateral": collateral,
    "locked": locked,
}


@pytest.mark.parametrize("what", sorted(FUNCTIONS))
def test_as_go_computes_it(what: str) -> None:
    seen = 0
    for line in ECONOMY.read_bytes().splitlines():
        vector = orjson.loads(line)
        if vector["what"] == what:
            given_values = [int(value) for value in vector["in"]]
            assert FUNCTIONS[what](*given_values) == int(vector["out"]), given_values
            seen += 1
    assert seen == 40


def test_before_ignition_whole_fil_counts_as_atto_fil() -> None:
    mainnet = economy_of(code_on("mainnet"))
    assert vested(mainnet, 94_000, 7) < 10**9
    assert vested(mainnet, 94_001, 7) < 10**9  # nothing is vested before liftoff, but the pledge counts
    assert vested(mainnet, 94_001, 7) == 7
    assert vested(mainnet, 138_721, 7) == 0


def test_everything_is_vested_in_the_end() -> None:
    sold = 10_632_000 + 19_015_887 + 32_787_700 + 22_421_712 + 9_400_000 + 7_223_364
    sold += 87_637_883 + 898_958 + 400_000_000 + 9_805_053
    for network in ("mainnet", "calibrationnet", "butterflynet", "devnet"):
        economy = economy_of(code_on(network))
        assert vested(economy, economy.liftoff + 6 * YEAR, 0) == sold * FIL
        assert vested(economy, economy.liftoff + 6 * YEAR - 1, 0) < sold * FIL


@given(st.sampled_from(["mainnet", "calibrationnet"]), st.integers(0, 7 * YEAR), st.integers(0, 10_000))
def test_what_is_vested_stays_so(network: str, height: int, later: int) -> None:
    economy = economy_of(code_on(network))
    steps = (economy.ignition, economy.calico)
    # an upgrade can set the schedule back; between upgrades it only rises
    if not any(height <= step < height + later for step in steps):
        assert vested(economy, height, 0) <= vested(economy, height + later, 0)


@pytest.mark.parametrize(
    ("network", "height", "whole"),
    [
        # day one after Liftoff plus one year: the first two schedules are through, a half, a third, a sixth of the rest
        ("mainnet", 148_888 + YEAR, 10_632_000 + 51_803_587 + 31_821_712),
        ("calibrationnet", -5 + YEAR, 10_632_000 + 51_803_587 + 31_821_712),
    ],
)
def test_a_year_after_liftoff(network: str, height: int, whole: int) -> None:
    rest = 0
    for years, amount in ((2, 7_223_364), (3, 88_536_841), (6, 409_805_053)):
        epochs = years * YEAR
        rest += amount * FIL - amount * FIL // epochs * (epochs - YEAR)
    assert vested(economy_of(code_on(network)), height, 0) == whole * FIL + rest


def test_economies_by_the_code_of_an_actor() -> None:
    assert economy_of(code_on("mainnet")).least_power == 10 << 40
    assert economy_of(code_on("calibrationnet")).reserved_since_25 == 1_200_000_000
    assert economy_of(code_on("testing-fake-proofs")).assembly == -1
    unknown = economy_of(cid_of(b"made"))
    assert isinstance(unknown, Economy)
    assert unknown.least_power == 2048


def test_bundles() -> None:
    assert len({(bundle.network, bundle.version) for bundle in bundles()}) == len(bundles()) > 80
    for bundle in bundles():
        assert set(bundle.actors) <= set(BY_MANIFEST)
        for name, code in bundle.actors.items():
            known, version = known_code(code) or ("", 0)
            assert known == name
            assert version >= bundle.version or version == bundle.version
            assert bundle.network in networks_of(code)
    assert known_code(cid_of(b"made")) is None
    assert bundle_of("mainnet", 7) is None


def test_actors_versions() -> None:
    assert [actors_version(version) for version in (0, 3, 4, 9, 16, 17, 18, 19, 20, 21)] == [
        *(0, 0, 2, 2, 8, 9, 10, 11, 11, 12)
    ]
    assert [actors_version(version) for version in range(22, 30)] == [13, 14, 15, 16, 16, 17, 18, 19]
    with pytest.raises(BadNetworkVersion, match="unsupported network version 9999"):
        actors_version(9999)


def test_each_actor_module_is_a_kind() -> None:
    assert sorted(chain.actors.kinds.__all__) == sorted(KINDS)

"""Actors, powers, rewards, miners, deals and contracts in tables: what they say of a tipset is what Lotus answered."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from leader_bridge.tables.actors import ACTOR_STATES, ACTORS
from leader_bridge.tables.contracts import FEVM_CONTRACTS
from leader_bridge.tables.market import MARKET_DEAL_PROPOSALS, MARKET_DEAL_STATES
from leader_bridge.tables.miners import MINER_INFOS, MINER_SECTOR_INFOS
from leader_bridge.tables.power import CHAIN_POWERS, CHAIN_REWARDS, POWER_ACTOR_CLAIMS
from tests.support.tables.places import KINDS
from tests.tables.conftest import StoreOf, TablesOf
from tests.tables.recorded_rows import Timeline, answers, by, chain_heights, cid, pairs

pytestmark = pytest.mark.recorded
CHAINS = ["devnet", pytest.param("upgrades", marks=pytest.mark.long), pytest.param("busy", marks=pytest.mark.long)]
#: attoFIL that there are on each chain, whoever has them
ALL_FIL = 2_000_000_000 * 10**18
BURNT, MARKET = "f099", "f05"
TALL = 16  # tipsets at which whole states are compared, at most


async def _heights(store_of: StoreOf, chain: str) -> dict[str, int]:
    heights = await chain_heights(await store_of(chain))
    # no key means the head
    return {**heights, "": max(heights.values())}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chain", CHAINS)
async def test_actors_and_balances(chain: str, kind: str, tables_of: TablesOf, store_of: StoreOf) -> None:
    place, heights = await tables_of(chain, kind), await _heights(store_of, chain)
    actors = Timeline(place.rows(ACTORS.table), "id")
    ids = {(params[0], key): said for params, said, key in pairs(chain, "StateLookupID", 1)}
    compared = 0
    for params, said, key in pairs(chain, "StateGetActor", 1):
        address = params[0] if params[0][1] == "0" else ids.get((params[0], key))
        if address is None or key not in heights:
            continue
        row = actors.at("f" + address[1:], heights[key])
        assert row is not None, params
        assert (row["balance"], row["nonce"]) == (said["Balance"], said["Nonce"])
        assert (row["head"], row["code_cid"]) == (cid(said["Head"]), cid(said["Code"]))
        compared += 1
    assert compared >= 1000
    sums = 0
    for _, said, key in pairs(chain, "StateListActors", 0):
        if key in heights and sums < TALL:
            sums += 1
            there = {one: row for one, row in actors.all_at(heights[key]).items() if row["state"] is not None}
            assert set(there) >= set(said) - _without_state(actors, heights[key])
            assert set(there) <= set(said)
            assert sum(int(row["balance"]) for row in actors.all_at(heights[key]).values()) == ALL_FIL
    assert sums >= 10
    burnt = 0
    for _, said, key in pairs(chain, "StateVMCirculatingSupplyInternal", 0):
        if key in heights:
            row = actors.at(BURNT, heights[key])
            assert row is not None
            assert row["balance"] == said["FilBurnt"]
            burnt += 1
    assert burnt >= 10


def _without_state(actors: Timeline, height: int) -> set[str]:
    """Actors of a kind that has no state: it is JSON null, as that of a removed one."""
    return {one for one, row in actors.all_at(height).items() if row["state"] is None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chain", CHAINS)
async def test_states_of_actors(chain: str, kind: str, tables_of: TablesOf, store_of: StoreOf) -> None:
    place, heights = await tables_of(chain, kind), await _heights(store_of, chain)
    actors = Timeline(place.rows(ACTORS.table), "id")
    ids = {(params[0], key): said for params, said, key in pairs(chain, "StateLookupID", 1)}
    heads = by(place.rows(ACTOR_STATES.table), "head")
    compared = 0
    for params, said, key in pairs(chain, "StateReadState", 1):
        address = params[0] if params[0][1] == "0" else ids.get((params[0], key))
        if address is None or key not in heights:
            continue
        row = actors.at("f" + address[1:], heights[key])
        assert row is not None, params
        assert (row["balance"], row["state"]) == (said["Balance"], said["State"])
        assert heads[row["head"]][0]["state"] == said["State"]
        compared += 1
    assert compared >= 500


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chain", CHAINS)
async def test_power(chain: str, kind: str, tables_of: TablesOf, store_of: StoreOf) -> None:
    place, heights = await tables_of(chain, kind), await _heights(store_of, chain)
    claims = Timeline(place.rows(POWER_ACTOR_CLAIMS.table), "miner_id")
    network = place.rows(CHAIN_POWERS.table)
    whole = Timeline([{**row, "network": 1} for row in network], "network")
    compared = 0
    for params, said, key in pairs(chain, "StateMinerPower", 1):
        if key not in heights or not params[0]:
            continue
        row, total = claims.at(params[0], heights[key]), whole.at(1, heights[key])
        assert total is not None
        found = (0, 0) if row is None else (row["raw_byte_power"], row["quality_adj_power"])
        assert tuple(map(str, found)) == _power(said["MinerPower"])
        # what Lotus calls the total is of all miners, where none has the least power
        totals = (total["total_raw_bytes_committed"], total["total_qa_bytes_committed"])
        assert tuple(map(str, totals)) == _power(said["TotalPower"])
        every = claims.all_at(heights[key]).values()
        assert sum(one["raw_byte_power"] for one in every) == total["total_raw_bytes_committed"]
        assert sum(one["quality_adj_power"] for one in every) == total["total_qa_bytes_committed"]
        assert total["miner_count"] == len(every)
        compared += 1
    assert compared >= 10
    states = {row["state_root"] for row in network}
    assert len(states) == len(network)


def _power(said: dict[str, str]) -> tuple[str, str]:
    return said["RawBytePower"], said["QualityAdjPower"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chain", CHAINS)
async def test_rewards(chain: str, kind: str, tables_of: TablesOf, store_of: StoreOf) -> None:
    place, heights = await tables_of(chain, kind), await _heights(store_of, chain)
    rewards = Timeline([{**row, "network": 1} for row in place.rows(CHAIN_REWARDS.table)], "network")
    compared = 0
    for _, said, key in pairs(chain, "StateVMCirculatingSupplyInternal", 0):
        if key in heights:
            row = rewards.at(1, heights[key])
            assert row is not None
            assert str(row["total_mined_reward"]) == said["FilMined"]
            compared += 1
    assert compared >= 10
    for params, said, key in pairs(chain, "StateReadState", 1):
        if params[0] == "f02" and key in heights:
            state = said["State"]
            row = rewards.at(1, heights[key])
            assert row is not None
            assert str(row["new_reward"]) == state["ThisEpochReward"]
            assert str(row["new_baseline_power"]) == state["ThisEpochBaselinePower"]
            smoothed = state["ThisEpochRewardSmoothed"]
            assert str(row["new_reward_smoothed_position_estimate"]) == smoothed["PositionEstimate"]
            assert str(row["cum_sum_realized"]) == state["CumsumRealized"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chain", CHAINS)
async def test_miners(chain: str, kind: str, tables_of: TablesOf, store_of: StoreOf) -> None:
    place, heights = await tables_of(chain, kind), await _heights(store_of, chain)
    infos = Timeline(place.rows(MINER_INFOS.table), "miner_id")
    compared = 0
    for params, said, key in pairs(chain, "StateMinerInfo", 1):
        if key not in heights:
            continue
        row = infos.at(params[0], heights[key])
        assert row is not None
        assert (row["owner_id"], row["worker_id"]) == (said["Owner"], said["Worker"])
        assert (row["peer_id"], row["sector_size"]) == (said["PeerId"], said["SectorSize"])
        assert (row["control_addresses"] or None) == said["ControlAddresses"]
        assert row["consensus_faulted_elapsed"] == said["ConsensusFaultElapsed"]
        compared += 1
    assert compared >= 10
    sectors = Timeline(place.rows(MINER_SECTOR_INFOS.table), "miner_id", "sector_id")
    compared = 0
    for params, said, key in pairs(chain, "StateSectorGetInfo", 2):
        if key not in heights or said is None:
            continue
        row = sectors.at((params[0], params[1]), heights[key])
        assert row is not None
        assert (row["activation_epoch"], row["expiration_epoch"]) == (said["Activation"], said["Expiration"])
        assert row["sealed_cid"] == cid(said["SealedCID"])
        numbers = ("deal_weight", "verified_deal_weight", "initial_pledge", "daily_fee")
        names = ("DealWeight", "VerifiedDealWeight", "InitialPledge", "DailyFee")
        assert [str(row[name]) for name in numbers] == [said[name] or "0" for name in names]
        assert row["power_base_epoch"] == said["PowerBaseEpoch"]
        compared += 1
    assert compared >= 10
    for params, said, key in pairs(chain, "StateMinerSectors", 2):
        if key in heights and params[1] is None:
            there = {number for miner, number in sectors.all_at(heights[key]) if miner == params[0]}
            assert there == {one["SectorNumber"] for one in said or []}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chain", CHAINS)
async def test_deals(chain: str, kind: str, tables_of: TablesOf, store_of: StoreOf) -> None:
    place, heights = await tables_of(chain, kind), await _heights(store_of, chain)
    proposals = Timeline(place.rows(MARKET_DEAL_PROPOSALS.table), "deal_id")
    states = Timeline(place.rows(MARKET_DEAL_STATES.table), "deal_id")
    compared = 0
    for _, said, key in pairs(chain, "StateMarketDeals", 0):
        if key not in heights:
            continue
        height = heights[key]
        assert set(proposals.all_at(height)) == {int(number) for number in said}
        for number, deal in said.items():
            _compare_deal(proposals.at(int(number), height), deal["Proposal"])
            row, state = states.at(int(number), height), deal["State"]
            found = (-1, -1, -1)
            if row is not None:
                found = (row["sector_start_epoch"], row["last_update_epoch"], row["slash_epoch"])
            assert found == (state["SectorStartEpoch"], state["LastUpdatedEpoch"], state["SlashEpoch"])
            compared += 1
    assert compared >= 20


def _compare_deal(row: dict[str, Any] | None, said: dict[str, Any]) -> None:
    assert row is not None
    assert (row["client_id"], row["provider_id"]) == (said["Client"], said["Provider"])
    assert (row["start_epoch"], row["end_epoch"]) == (said["StartEpoch"], said["EndEpoch"])
    assert (row["padded_piece_size"], row["piece_cid"]) == (said["PieceSize"], cid(said["PieceCID"]))
    assert row["unpadded_piece_size"] == said["PieceSize"] * 127 // 128
    assert (row["storage_price_per_epoch"], row["is_verified"]) == (said["StoragePricePerEpoch"], said["VerifiedDeal"])
    assert row["client_collateral"] == said["ClientCollateral"]
    assert row["provider_collateral"] == said["ProviderCollateral"]
    if row["is_string"]:
        assert base64.b64decode(row["label"]).decode() == said["Label"]
    else:
        # Lotus shows no label that is not text
        assert (said["Label"], row["label"] != "") == ("", True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chain", CHAINS)
async def test_contracts(chain: str, kind: str, tables_of: TablesOf) -> None:
    place = await tables_of(chain, kind)
    contracts = by(place.rows(FEVM_CONTRACTS.table), "eth_address")
    codes = {params[0].lower(): said for params, said in answers(chain, "eth_getCode") if len(said) > 4}
    compared = 0
    for address, code in codes.items():
        if address in contracts:
            assert {"0x" + row["byte_code"] for row in contracts[address]} == {code}
            compared += 1
    assert compared >= 5

"""Tables of the power and reward actors: the network's power, each miner's, and the block rewards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from chain.actors.adt import HAMT_BITS
from chain.actors.load import POWER, REWARD, Loaded
from chain.actors.schema import type_of
from chain.address import Address
from chain.ipld.hamt import DELETED, Hamt, diff
from leader_bridge.tables.source import TipsetView, held
from leader_bridge.tables.table import Row, Task, table

_PART: Final = 512


async def changed_state(view: TipsetView, address: Address, kind: str) -> tuple[Loaded | None, Loaded] | None:
    """(state before, state now) of a built-in actor; None where it has not changed. `before` None: there was none."""
    old, new = await view.changed(address)
    if new is None:
        return None
    with held(f"the state at epoch {view.height}"):
        now = await (await view.states()).state_of(new, kind)
    before: Loaded | None = None
    previous = await view.previous_states()
    if old is not None and previous is not None:
        with held(f"the state of the parent of epoch {view.height}"):
            before = await previous.state_of(old, kind)
    return before, now


# --- power ---------------------------------------------------------------------------------------------


async def _chain_powers(view: TipsetView) -> AsyncIterator[list[Row]]:
    found = await changed_state(view, POWER, "power")
    if found is None:
        return
    state = found[1].state
    smoothed = state["ThisEpochQAPowerSmoothed"]
    yield [
        (
            view.height,
            view.state_root,
            state["TotalRawBytePower"],
            state["TotalQualityAdjPower"],
            state["TotalBytesCommitted"],
            state["TotalQABytesCommitted"],
            state["TotalPledgeCollateral"],
            smoothed["PositionEstimate"],
            smoothed["VelocityEstimate"],
            state["MinerCount"],
            state["MinerAboveMinPowerCount"],
        )
    ]


CHAIN_POWERS: Final = Task(
    "chain_powers",
    table(
        "chain_powers",
        "The power of the network, where it changed.",
        key="height state_root",
        columns="""
height                         bigint  Epoch of the tipset before whose messages it is so.
state_root                     text    CID of the state.
total_raw_bytes_power          numeric Bytes of the miners that have the least power for a share of the elections.
total_qa_bytes_power           numeric The same, adjusted by quality.
total_raw_bytes_committed      numeric Bytes of all miners.
total_qa_bytes_committed       numeric The same, adjusted by quality.
total_pledge_collateral        numeric attoFIL that all miners have pledged.
qa_smoothed_position_estimate  wide    Smoothed power adjusted by quality: bytes times 2^128.
qa_smoothed_velocity_estimate  wide    Its change an epoch: bytes times 2^128.
miner_count                    bigint? Miners with a claim.
participating_miner_count      bigint? Those of them that have the least power.
""",
    ),
    _chain_powers,
)


async def _claims(view: TipsetView) -> AsyncIterator[list[Row]]:
    found = await changed_state(view, POWER, "power")
    if found is None:
        return
    before, now = found
    if before is not None and before.state["Claims"] == now.state["Claims"]:
        return
    claim = type_of("power", "Claim", now.version)
    rows: list[Row] = []
    async for miner, value in _claim_changes(view, before, now):
        one = claim.decode(value)
        address = view.source.address(Address.checked(miner))
        rows.append((view.height, address, view.state_root, one["RawBytePower"], one["QualityAdjPower"]))
        if len(rows) >= _PART:
            yield rows
            rows = []
    yield rows


async def _claim_changes(view: TipsetView, before: Loaded | None, now: Loaded) -> AsyncIterator[tuple[bytes, Any]]:
    reader = view.source.objects
    tree = Hamt(reader, now.state["Claims"], HAMT_BITS)
    with held(f"the claims at epoch {view.height}, or at its parent's,"):
        if before is None:
            async for item in tree.items():
                yield item
            return
        async for miner, _, new in diff(Hamt(reader, before.state["Claims"], HAMT_BITS), tree):
            if new is not DELETED:
                yield miner, new


POWER_ACTOR_CLAIMS: Final = Task(
    "power_actor_claims",
    table(
        "power_actor_claims",
        "The power of each miner, where it changed; of the genesis, all.",
        key="height miner_id state_root",
        columns="""
height             bigint  Epoch of the tipset before whose messages it is so.
miner_id           text    ID address of the miner.
state_root         text    CID of the state.
raw_byte_power     numeric Bytes that the miner proves.
quality_adj_power  numeric The same, adjusted by quality.
""",
    ),
    _claims,
)


# --- reward --------------------------------------------------------------------------------------------


async def _chain_rewards(view: TipsetView) -> AsyncIterator[list[Row]]:
    found = await changed_state(view, REWARD, "reward")
    if found is None:
        return
    state = found[1].state
    smoothed = state["ThisEpochRewardSmoothed"]
    yield [
        (
            view.height,
            view.state_root,
            state["CumsumBaseline"],
            state["CumsumRealized"],
            state["EffectiveBaselinePower"],
            state["ThisEpochBaselinePower"],
            smoothed["PositionEstimate"],
            smoothed["VelocityEstimate"],
            state["TotalStoragePowerReward"],
            state["ThisEpochReward"],
            state["EffectiveNetworkTime"],
        )
    ]


CHAIN_REWARDS: Final = Task(
    "chain_rewards",
    table(
        "chain_rewards",
        "What the network pays for blocks, where it changed.",
        key="height state_root",
        columns="""
height                                 bigint   Epoch of the tipset before whose messages it is so.
state_root                             text     CID of the state.
cum_sum_baseline                       numeric  Sum of the baseline power over all epochs, byte-epochs.
cum_sum_realized                       numeric  Sum of the real power, capped by the baseline, byte-epochs.
effective_baseline_power               numeric  Baseline power at the effective network time, bytes.
new_baseline_power                     numeric  Baseline power of this epoch, bytes.
new_reward_smoothed_position_estimate  wide     Smoothed reward an epoch: attoFIL times 2^128.
new_reward_smoothed_velocity_estimate  wide     Its change an epoch: attoFIL times 2^128.
total_mined_reward                     numeric  attoFIL paid for blocks so far.
new_reward                             numeric? attoFIL for a block with one win, times the expected wins an epoch.
effective_network_time                 bigint?  Epochs that the network has come, measured by its power.
""",
    ),
    _chain_rewards,
)

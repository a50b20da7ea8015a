"""Tables of storage miners: what they say of themselves, and their sectors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from chain.actors.load import Loaded
from chain.actors.schema import type_of
from chain.address import Address
from chain.errors import BadObject
from chain.ipld.amt import Amt, diff
from chain.ipld.dag_cbor import decode
from leader_bridge.tables.actors import kind_of
from leader_bridge.tables.multiaddr import multiaddr_text
from leader_bridge.tables.source import TipsetView, held
from leader_bridge.tables.table import Row, Task, table
from rpc.peer_id import peer_id_text

_PART: Final = 512
_SECTORS_BITS: Final = 5
_MINER: Final = "storageminer"
#: what columns show of a miner whose worker does not change: Go's zero
_NO_CHANGE: Final = 0


async def _changed_miners(view: TipsetView) -> AsyncIterator[tuple[Address, Loaded | None, Loaded]]:
    """(ID address, state before, state now) of the miners that changed."""
    now, previous = await view.states(), await view.previous_states()
    async for part in view.changes():
        for address, old, new in part:
            if new is None or (old is not None and old.head == new.head):
                continue
            kind = await kind_of(view, now, new)
            if kind is None or kind[0] != _MINER:
                continue
            with held(f"the state at epoch {view.height}"):
                loaded = await now.state_of(new, "miner")
            before: Loaded | None = None
            if old is not None and previous is not None:
                with held(f"the state of the parent of epoch {view.height}"):
                    before = await previous.state_of(old, "miner")
            yield address, before, loaded


# --- info ----------------------------------------------------------------------------------------------


async def _infos(view: TipsetView) -> AsyncIterator[list[Row]]:
    address = view.source.address
    async for miner, before, now in _changed_miners(view):
        if before is not None and before.state["Info"] == now.state["Info"]:
            continue
        info = type_of("miner", "MinerInfo", now.version).decode(decode(await view.object(now.state["Info"])))
        pending = info["PendingWorkerKey"]
        yield [
            (
                view.height,
                address(miner),
                view.state_root,
                address(info["Owner"]),
                address(info["Worker"]),
                address(pending["NewWorker"]) if pending else None,
                pending["EffectiveAt"] if pending else _NO_CHANGE,
                info["ConsensusFaultElapsed"],
                peer_id_text(info["PeerId"]),
                view.source.text_of([address(one) for one in info["ControlAddresses"]]),
                view.source.text_of([multiaddr_text(one) for one in info["Multiaddrs"]]),
                info["SectorSize"],
            )
        ]


MINER_INFOS: Final = Task(
    "miner_infos",
    table(
        "miner_infos",
        "What miners say of themselves, where it changed; of the genesis, all.",
        key="height miner_id state_root",
        columns="""
height                     bigint  Epoch of the tipset before whose messages it is so.
miner_id                   text    ID address of the miner.
state_root                 text    CID of the state.
owner_id                   text    ID address of the owner, who gets what is withdrawn.
worker_id                  text    ID address of the worker, which signs blocks.
new_worker                 text?   ID address of the worker that takes over.
worker_change_epoch        bigint  Epoch at which it takes over; 0: there is none.
consensus_faulted_elapsed  bigint  Epoch at which a punishment for a fault of consensus ends.
peer_id                    text?   libp2p peer ID; null: none, or bytes that are no peer ID.
control_addresses          jsonb?  ID addresses that may prove for it.
multi_addresses            jsonb?  Where it listens; bytes that are no multiaddress as 0x and hexadecimal.
sector_size                bigint  Bytes of a sector.
""",
    ),
    _infos,
)


# --- sectors -------------------------------------------------------------------------------------------


async def _sectors(view: TipsetView) -> AsyncIterator[list[Row]]:
    async for miner, before, now in _changed_miners(view):
        if before is not None and before.state["Sectors"] == now.state["Sectors"]:
            continue
        address = view.source.address(miner)
        kind = type_of("miner", "SectorOnChainInfo", now.version)
        rows: list[Row] = []
        async for number, value in _sector_changes(view, before, now):
            sector = kind.decode(value)
            if sector["SectorNumber"] != number:
                raise BadObject(f"sector {number} of {address} calls itself {sector['SectorNumber']}")
            rows.append(_sector_row(view, address, sector))
            if len(rows) >= _PART:
                yield rows
                rows = []
        yield rows


async def _sector_changes(view: TipsetView, before: Loaded | None, now: Loaded) -> AsyncIterator[tuple[int, Any]]:
    reader = view.source.objects
    with held(f"the sectors at epoch {view.height}, or at its parent's,"):
        tree = await Amt.load(reader, now.state["Sectors"], version=3, bit_width=_SECTORS_BITS)
        if before is None:
            async for item in tree.items():
                yield item
            return
        old = await Amt.load(reader, before.state["Sectors"], version=3, bit_width=_SECTORS_BITS)
        async for number, _, new in diff(old, tree):
            if new is not None:
                yield number, new


def _sector_row(view: TipsetView, miner: str, sector: dict[str, Any]) -> Row:
    key = sector.get("SectorKeyCID")
    return (
        view.height,
        miner,
        sector["SectorNumber"],
        view.state_root,
        str(sector["SealedCID"]),
        sector["Activation"],
        sector["Expiration"],
        sector["DealWeight"],
        sector["VerifiedDealWeight"],
        sector["InitialPledge"],
        sector["ExpectedDayReward"] or 0,
        sector["ExpectedStoragePledge"] or 0,
        None if key is None else str(key),
        sector.get("ReplacedDayReward") or 0,
        sector.get("PowerBaseEpoch", 0),
        sector.get("DailyFee") or 0,
    )


MINER_SECTOR_INFOS: Final = Task(
    "miner_sector_infos",
    table(
        "miner_sector_infos_v7",
        "Sectors that are new or changed; of the genesis, all.",
        key="height miner_id sector_id state_root",
        columns="""
height                   bigint  Epoch of the tipset before whose messages it is so.
miner_id                 text    ID address of the miner.
sector_id                bigint  Number of the sector.
state_root               text    CID of the state.
sealed_cid               text    Commitment to the sealed data (CommR).
activation_epoch         bigint? Epoch at which the sector was proven first.
expiration_epoch         bigint? Epoch at which it ends.
deal_weight              numeric Bytes of deals times epochs.
verified_deal_weight     numeric The same of verified deals.
initial_pledge           numeric attoFIL pledged for it.
expected_day_reward      numeric attoFIL a day that were expected at activation.
expected_storage_pledge  numeric attoFIL of twenty days that were expected at activation.
sector_key_cid           text?   Commitment before data was put into an empty sector.
replaced_day_reward      numeric attoFIL a day of the sector that this one replaced.
power_base_epoch         bigint  Epoch from which its power counts; 0 before actors version 12.
daily_fee                numeric attoFIL a day; 0 before actors version 16.
""",
    ),
    _sectors,
)

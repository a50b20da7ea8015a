"""Tables of the storage market: deals, and what has become of them."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any, Final

from chain.actors.load import MARKET, Loaded
from chain.actors.schema import type_of
from chain.ipld.amt import Amt, diff
from leader_bridge.tables.power import changed_state
from leader_bridge.tables.source import TipsetView, held
from leader_bridge.tables.table import Row, Task, table

_PART: Final = 512
_PROPOSALS_BITS: Final = 5
_STATES_BITS: Final = 6


async def _changes(
    view: TipsetView, field: str, type_name: str, bits: int
) -> AsyncIterator[tuple[int, dict[str, Any]]]:
    """(deal, decoded value) of what is new or other in an array of the market."""
    found = await changed_state(view, MARKET, "market")
    if found is None:
        return
    before, now = found
    if before is not None and before.state[field] == now.state[field]:
        return
    kind = type_of("market", type_name, now.version)
    with held(f"the deals at epoch {view.height}, or at its parent's,"):
        tree = await _array(view, now, field, bits)
        if before is None:
            async for number, value in tree.items():
                yield number, kind.decode(value)
            return
        async for number, _, new in diff(await _array(view, before, field, bits), tree):
            if new is not None:
                yield number, kind.decode(new)


async def _array(view: TipsetView, market: Loaded, field: str, bits: int) -> Amt:
    return await Amt.load(view.source.objects, market.state[field], version=3, bit_width=bits)


async def _proposals(view: TipsetView) -> AsyncIterator[list[Row]]:
    address = view.source.address
    rows: list[Row] = []
    async for number, deal in _changes(view, "Proposals", "DealProposal", _PROPOSALS_BITS):
        label = deal["Label"]
        is_text = isinstance(label, str)
        # as Lily: the character 0, which PostgreSQL does not keep, is left out of text before it is encoded
        encoded = label.replace("\0", "").encode() if is_text else label
        rows.append(
            (
                view.height,
                number,
                view.state_root,
                deal["PieceSize"],
                deal["PieceSize"] - deal["PieceSize"] // 128,
                deal["StartEpoch"],
                deal["EndEpoch"],
                address(deal["Client"]),
                address(deal["Provider"]),
                str(deal["ClientCollateral"]),
                str(deal["ProviderCollateral"]),
                str(deal["StoragePricePerEpoch"]),
                str(deal["PieceCID"]),
                deal["VerifiedDeal"],
                base64.b64encode(encoded).decode(),
                is_text,
            )
        )
        if len(rows) >= _PART:
            yield rows
            rows = []
    yield rows


MARKET_DEAL_PROPOSALS: Final = Task(
    "market_deal_proposals",
    table(
        "market_deal_proposals",
        "Deals that are new; of the genesis, all.",
        key="height deal_id",
        columns="""
height                   bigint  Epoch of the tipset before whose messages the deal is there first.
deal_id                  bigint  Number of the deal.
state_root               text    CID of the state.
padded_piece_size        bigint  Bytes of the piece with padding.
unpadded_piece_size      bigint  Bytes of the piece without padding.
start_epoch              bigint  Epoch by which a sector must prove the deal.
end_epoch                bigint  Epoch at which the deal ends.
client_id                text    Address of the client.
provider_id              text    Address of the miner.
client_collateral        text    attoFIL that the client has locked.
provider_collateral      text    attoFIL that the miner has locked.
storage_price_per_epoch  text    attoFIL an epoch.
piece_cid                text    Commitment to the piece.
is_verified              boolean Whether it is a deal with datacap.
label                    text?   What the client wrote, in base64.
is_string                boolean Whether that is text, not bytes.
""",
    ),
    _proposals,
)


async def _states(view: TipsetView) -> AsyncIterator[list[Row]]:
    rows: list[Row] = []
    async for number, state in _changes(view, "States", "DealState", _STATES_BITS):
        epochs = (state["SectorStartEpoch"], state["LastUpdatedEpoch"], state["SlashEpoch"])
        rows.append((view.height, number, *epochs, view.state_root))
        if len(rows) >= _PART:
            yield rows
            rows = []
    yield rows


MARKET_DEAL_STATES: Final = Task(
    "market_deal_states",
    table(
        "market_deal_states",
        "What has become of deals that sectors prove, where it changed; of the genesis, all.",
        key="height deal_id state_root",
        columns="""
height              bigint  Epoch of the tipset before whose messages it is so.
deal_id             bigint  Number of the deal.
sector_start_epoch  bigint  Epoch at which a sector proved the deal first; -1: not yet.
last_update_epoch   bigint  Epoch of the last payment; -1: none.
slash_epoch         bigint  Epoch at which the sector was given up; -1: it was not.
state_root          text    CID of the state.
""",
    ),
    _states,
)

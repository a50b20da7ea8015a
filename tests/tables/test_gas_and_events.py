"""Gas and events in tables against recorded answers: StateReplay tells what each message cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chain.message import Message, Receipt
from leader_bridge.tables.actors import ACTORS
from leader_bridge.tables.events import EVENTS
from leader_bridge.tables.executed import GAS_OUTPUTS, RECEIPTS, GasOutputs, gas_outputs
from leader_bridge.tables.messages import MESSAGES
from tests.support.tables.places import KINDS, new_place
from tests.tables.conftest import StoreOf, TablesOf
from tests.tables.recorded_rows import answers, by, chain_heights, cid, data, key_cid

pytestmark = pytest.mark.recorded


@pytest.mark.parametrize(
    ("chain", "kind"),
    [
        ("vmup", "parquet"),
        pytest.param("vmup", "postgresql", marks=pytest.mark.long),
        pytest.param("busy", "parquet", marks=pytest.mark.long),
        pytest.param("busy", "postgresql", marks=pytest.mark.long),
    ],
)
async def test_gas_of_replayed_messages(chain: str, kind: str, store_of: StoreOf, tmp_path: Path) -> None:
    """Row by row, and the sum of what was burnt."""
    store = await store_of(chain)
    place = new_place(kind, lambda: tmp_path)
    await place.extract(store, "gas_outputs")
    rows = by(place.rows(GAS_OUTPUTS.table), "height", "cid")
    heights = await chain_heights(store)
    compared, burnt = 0, 0
    for params, said in answers(chain, "StateReplay", "vm"):
        height = heights.get(key_cid(params[0] or []))
        if height is None or (height, cid(params[1])) not in rows:
            continue
        (row,) = rows[height, cid(params[1])]
        cost = said["GasCost"]
        names = ("base_fee_burn", "over_estimation_burn", "miner_penalty", "miner_tip", "refund", "gas_used")
        fields = ("BaseFeeBurn", "OverEstimationBurn", "MinerPenalty", "MinerTip", "Refund", "GasUsed")
        assert [str(row[name]) for name in names] == [cost[field] for field in fields]
        assert row["exit_code"] == said["MsgRct"]["ExitCode"]
        paid = row["gas_limit"] * row["gas_fee_cap"] - row["refund"]
        assert str(paid) == cost["TotalCost"]
        assert row["gas_used"] + row["gas_refund"] + row["gas_burned"] == row["gas_limit"]
        burnt += int(cost["BaseFeeBurn"]) + int(cost["OverEstimationBurn"])
        compared += 1
    assert compared >= 150
    assert burnt > 0


@pytest.mark.parametrize(
    ("limit", "used", "cap", "premium", "code", "expected"),
    [
        # base fee 100: the cap does not pay it, so the miner does
        (1000, 900, 60, 10, 0, GasOutputs(54000, 60, 36040, 0, 5940, 99, 1)),
        (1000, 100, 200, 10, 0, GasOutputs(10000, 90000, 0, 10000, 90000, 0, 900)),
        # refused before it ran: the sender is no account, or has not so much
        (1000, 0, 200, 10, 1, GasOutputs(0, 0, 100_000, 0, 0, 0, 0)),
        (1000, 0, 200, 10, 2, GasOutputs(0, 0, 100_000, 0, 0, 0, 0)),
        # its own bytes cost more: how much, the machine's price list says
        (1000, 0, 200, 10, 7, GasOutputs(0, 0, None, 0, 0, 0, 0)),
    ],
)
def test_what_recordings_lack(limit: int, used: int, cap: int, premium: int, code: int, expected: GasOutputs) -> None:
    message = Message(0, b"\0\1", b"\0\2", 0, 0, limit, cap, premium, 0, b"")
    assert gas_outputs(message, Receipt(0, code, b"", used, None), 100) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "chain", ["devnet", pytest.param("upgrades", marks=pytest.mark.long), pytest.param("busy", marks=pytest.mark.long)]
)
async def test_events(chain: str, kind: str, tables_of: TablesOf, store_of: StoreOf) -> None:
    place = await tables_of(chain, kind)
    rows = place.rows(EVENTS.table)
    of_message = by(rows, "message_cid")
    heights = await chain_heights(await store_of(chain))
    sent = {row["cid"]: row["height"] for row in place.rows(MESSAGES.table)}
    compared = 0
    for params, said in answers(chain, "GetActorEventsRaw"):
        found = by([{**one, "message": cid(one["msgCid"])} for one in said or []], "message")
        whole = set(params[0] or {}) <= {"fromHeight", "toHeight"}
        for message, events in found.items():
            if key_cid(events[0]["tipsetKey"]) not in heights or not whole:
                continue
            assert sent[message] == events[0]["height"]
            entries = by(of_message[message], "event_index")
            # an event without entries has no row
            events = [event for event in events if event["entries"]]
            assert [_entries(entries[index]) for index in sorted(entries)] == [
                _said(event["entries"]) for event in events
            ]
            compared += len(events)
        if whole and params[0]:
            low, high = params[0]["fromHeight"], params[0]["toHeight"]
            there = {
                (row["message_cid"], row["event_index"]) for row in rows if low <= sent[row["message_cid"]] <= high
            }
            assert len(there) == sum(bool(event["entries"]) for event in said or [])
    assert compared >= 20
    every = {tuple(map(str, _entries(some))) for some in by(rows, "message_cid", "event_index").values()}
    for _, said in answers(chain, "ChainGetEvents"):
        for event in said or []:
            assert not event["Entries"] or tuple(map(str, _said(event["Entries"]))) in every
    emitters = {row["emitter"] for row in rows}
    assert emitters <= {row["id"] for row in place.rows(ACTORS.table)}
    receipts = {(row["height"], row["message"]) for row in place.rows(RECEIPTS.table)}
    assert {(row["height"], row["message_cid"]) for row in rows} <= receipts


def _entries(rows: list[dict[str, Any]]) -> list[tuple[int, str, int, bytes | None]]:
    ordered = sorted(rows, key=lambda row: row["entry_index"])
    return [(row["flags"][0], row["key"], row["codec"], bytes(row["value"]) or None) for row in ordered]


def _said(entries: list[dict[str, Any]]) -> list[tuple[int, str, int, bytes | None]]:
    return [(one["Flags"], one["Key"], one["Codec"], data(one["Value"])) for one in entries]


@pytest.mark.parametrize("kind", KINDS)
async def test_values_of_built_in_actors_are_decoded(kind: str, tables_of: TablesOf) -> None:
    """FIP-0083: `$type` is text, a sector a number, a commitment a link."""
    rows = (await tables_of("devnet", kind)).rows(EVENTS.table)
    types = {row["decoded"] for row in rows if row["key"] == "$type"}
    assert "sector-precommitted" in types
    assert all(isinstance(row["decoded"], int) for row in rows if row["key"] == "sector")
    links = [row["decoded"] for row in rows if row["key"] == "unsealed-cid" and row["decoded"] is not None]
    assert all(set(link) == {"/"} for link in links)
    assert all(row["decoded"] is None for row in rows if row["codec"] == 0x55)

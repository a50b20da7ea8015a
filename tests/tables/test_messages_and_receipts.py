"""Blocks, messages and receipts in tables, row by row and in sum, against what Lotus answered."""

from __future__ import annotations

import pytest

from leader_bridge.tables.blocks import BLOCK_HEADERS, BLOCK_PARENTS
from leader_bridge.tables.executed import PARSED_MESSAGES, RECEIPTS
from leader_bridge.tables.messages import BLOCK_MESSAGES, MESSAGES
from tests.support.tables.places import KINDS
from tests.tables.conftest import StoreOf, TablesOf
from tests.tables.recorded_rows import answers, by, chain_heights, cid, data

pytestmark = pytest.mark.recorded
#: the short chain in every run, the others where there is time
CHAINS = ["devnet", pytest.param("upgrades", marks=pytest.mark.long), pytest.param("busy", marks=pytest.mark.long)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chain", CHAINS)
async def test_headers_and_parents(chain: str, kind: str, tables_of: TablesOf, store_of: StoreOf) -> None:
    place = await tables_of(chain, kind)
    headers = place.rows(BLOCK_HEADERS.table)
    rows = {row["cid"]: row for row in headers}
    parents = by(place.rows(BLOCK_PARENTS.table), "block")
    assert {row["height"] for row in headers} == set((await chain_heights(await store_of(chain))).values())
    compared = 0
    for (block,), said in answers(chain, "ChainGetBlock"):
        row = rows.get(cid(block))
        if row is None:
            continue  # of a fork
        compared += 1
        assert row == {
            "height": said["Height"],
            "cid": cid(block),
            "miner": said["Miner"],
            "parent_weight": said["ParentWeight"],
            "parent_base_fee": said["ParentBaseFee"],
            "parent_state_root": cid(said["ParentStateRoot"]),
            "win_count": (said["ElectionProof"] or {"WinCount": 0})["WinCount"],
            "timestamp": said["Timestamp"],
            "fork_signaling": said["ForkSignaling"],
        }
        assert sorted(one["parent"] for one in parents[cid(block)]) == sorted(map(cid, said["Parents"]))
    assert compared >= 48
    heads = [said for _, said in answers(chain, "ChainGetTipSetByHeight") if said["Cids"][0]["/"] in rows]
    assert len(heads) >= 50
    counts = by(headers, "height")
    for said in heads:
        assert {row["cid"] for row in counts[said["Height"]]} == {cid(block) for block in said["Cids"]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chain", CHAINS)
async def test_messages(chain: str, kind: str, tables_of: TablesOf) -> None:
    place = await tables_of(chain, kind)
    heights = {row["cid"]: row["height"] for row in place.rows(BLOCK_HEADERS.table)}
    messages = {(row["height"], row["cid"]): row for row in place.rows(MESSAGES.table)}
    of_block = by(place.rows(BLOCK_MESSAGES.table), "block")
    compared = 0
    for (block,), said in answers(chain, "ChainGetBlockMessages"):
        if cid(block) not in heights:
            continue
        assert {row["message"] for row in of_block.get(cid(block), [])} == {cid(one) for one in said["Cids"]}
        signed = [(one["Message"], cid(one["CID"])) for one in said["SecpkMessages"]]
        for message, name in [*signed, *((one, cid(one["CID"])) for one in said["BlsMessages"])]:
            row = messages[heights[cid(block)], name]
            assert (row["from"], row["to"], row["nonce"]) == (message["From"], message["To"], message["Nonce"])
            assert (row["value"], row["gas_fee_cap"]) == (int(message["Value"]), int(message["GasFeeCap"]))
            assert (row["gas_premium"], row["gas_limit"]) == (int(message["GasPremium"]), message["GasLimit"])
            assert row["method"] == message["Method"]
            compared += 1
    assert compared >= 50


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chain", CHAINS)
async def test_receipts(chain: str, kind: str, tables_of: TablesOf) -> None:
    place = await tables_of(chain, kind)
    heights = {row["cid"]: row["height"] for row in place.rows(BLOCK_HEADERS.table)}
    receipts = by(place.rows(RECEIPTS.table), "height")
    compared = gas = 0
    for (block,), said in answers(chain, "ChainGetParentReceipts"):
        if cid(block) not in heights:
            continue
        rows = sorted(receipts.get(heights[cid(block)], []), key=lambda row: row["idx"])
        assert [(row["exit_code"], row["gas_used"], row["return"]) for row in rows] == [
            (one["ExitCode"], one["GasUsed"], data(one["Return"])) for one in said or []
        ]
        assert sum(row["gas_used"] for row in rows) == sum(one["GasUsed"] for one in said or [])
        compared += len(rows)
        gas += sum(row["gas_used"] for row in rows)
    assert compared >= 50
    assert gas > 0
    ordered = by(place.rows(RECEIPTS.table), "height", "message")
    for (block,), said in answers(chain, "ChainGetParentMessages"):
        if cid(block) in heights:
            for index, one in enumerate(said or []):
                (row,) = ordered[heights[cid(block)], cid(one["Cid"])]
                assert row["idx"] == index


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chain", CHAINS)
async def test_what_was_returned_is_decoded(chain: str, kind: str, tables_of: TablesOf) -> None:
    """`ReturnDec` of StateWaitMsg, which names the tipset of the receipt."""
    place = await tables_of(chain, kind)
    rows = by(place.rows(RECEIPTS.table), "height", "message")
    compared = 0
    for _, said in answers(chain, "StateWaitMsg"):
        (row,) = rows[said["Height"], cid(said["Message"])]
        receipt = said["Receipt"]
        assert (row["exit_code"], row["gas_used"]) == (receipt["ExitCode"], receipt["GasUsed"])
        if row["parsed_return"] is not None:
            assert row["parsed_return"] == said["ReturnDec"]
            compared += 1
        else:
            # nothing was returned, it failed, or the bytes as they are stand in the place of what is not decoded
            assert not receipt["Return"] or receipt["ExitCode"] or said["ReturnDec"] in (receipt["Return"], None, {})
    assert compared >= 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chain", CHAINS)
async def test_parameters_are_decoded(chain: str, kind: str, tables_of: TablesOf, store_of: StoreOf) -> None:
    """StateDecodeParams was asked with the bytes of messages of the chain."""
    place = await tables_of(chain, kind)
    parsed = {(row["height"], row["cid"]): row for row in place.rows(PARSED_MESSAGES.table)}
    failed = {row["message"] for row in place.rows(RECEIPTS.table) if row["exit_code"]}
    heights = await chain_heights(await store_of(chain))
    messages = place.rows(MESSAGES.table)
    assert len(parsed) + len({row["cid"] for row in messages if row["cid"] in failed}) <= len(messages)
    decoded = {
        (params[0], params[1], str(result)): result
        for params, result in answers(chain, "StateDecodeParams")
        if result not in (None, {})
    }
    of = by(messages, "cid")
    compared = 0
    for (_, name), row in parsed.items():
        (message, *_rest) = of[name]
        said = decoded.get((row["to"], message["method"], str(row["params"])))
        if said is not None:
            compared += 1
            assert row["params"] == said
    assert compared >= 1
    assert heights

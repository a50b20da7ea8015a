"""What a real node answered about actor states, asked of our methods over the recorded chains.

Two chains: one at network version 29, one that passes through all actors versions from 9 on.
"""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest

import rpc.methods.state.market
import rpc.methods.state.miner
import rpc.methods.state.msig
import rpc.methods.state.paych
import rpc.methods.state.power
import rpc.methods.state.read_state
import rpc.methods.state.verifreg  # noqa: F401  (declares)
from follower.commands.comparison import judge, read_records
from rpc.server.dispatch import Dispatcher
from tests.support.recorded import recorded
from tests.support.wire_chain import recorded_services

PATHS = ("/rpc/v0", "/rpc/v1")

#: methods by family, and how many of their calls were recorded on (devnet, upgrades) at least
FAMILIES = {
    "states": (r"ReadState|DecodeParams|EncodeParams", 2200, 4700),
    "miners": (
        r"StateMiner(?!InitialPledge|PreCommitDeposit|Creation|Power)|StateSector|StateAllMinerFaults",
        1000,
        2900,
    ),
    "market": (r"StateMarket|ForPendingDeal", 2200, 4700),
    "registry": (r"StateVerif|StateGetAlloc|StateGetClaim|StateGetAllA|StateGetAllC", 7800, 10000),
    "multisigs": (r"MsigGet", 1900, 1200),
    "channels": (r"PaychStatus", 420, 300),
    "money": (
        r"Supply|StateMinerInitialPledge|PreCommitDepositForPower|CreationDeposit|CollateralBounds|MinerPower|ListMiners",
        70,
        100,
    ),
}


@pytest.fixture(scope="module", params=["devnet", "upgrades"])
def folder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.recorded
@pytest.mark.parametrize("family", list(FAMILIES))
async def test_every_recorded_answer(folder: str, family: str) -> None:
    pattern, *least = FAMILIES[family]
    dispatcher = Dispatcher(await recorded_services(recorded(folder)))
    asked = 0
    wrong: list[str] = []
    for record in read_records(recorded(f"{folder}/rpc.jsonl.zst"), re.compile(pattern), PATHS):
        asked += 1
        answer = await ask(dispatcher, record.path, record.method, record.params)
        why, _ = judge(record, answer)
        if why is None and "error" in record.answer and record.answer["error"]["code"] in (1, 11):
            wanted, got = record.answer["error"]["message"], answer["error"]["message"]
            why = None if got == wanted else f"text: recorded {wanted!r}, answered {got!r}"
        if why is not None:
            wrong.append(f"{record.path} {record.method} {str(record.params)[:120]}: {why}")
    assert not wrong, f"{len(wrong)} of {asked}: " + "\n".join(wrong[:20])
    assert asked >= least[folder == "upgrades"]


async def ask(dispatcher: Dispatcher, path: str, method: str, params: Any) -> Any:
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    _, answer = await dispatcher.http(int(path[-1]), body)
    return orjson.loads(answer)


@pytest.mark.recorded
async def test_v0_has_no_null_for_a_sector_that_is_not_pre_committed(folder: str) -> None:
    dispatcher = Dispatcher(await recorded_services(recorded(folder)))
    params = ["f01000", 99, []]
    newer = await ask(dispatcher, "/rpc/v1", "Filecoin.StateSectorPreCommitInfo", params)
    assert newer["result"] is None
    older = await ask(dispatcher, "/rpc/v0", "Filecoin.StateSectorPreCommitInfo", params)
    assert older["error"] == {"code": 1, "message": "precommit info does not exist"}


@pytest.mark.recorded
async def test_sectors_of_a_bitfield(folder: str) -> None:
    dispatcher = Dispatcher(await recorded_services(recorded(folder)))
    every = await ask(dispatcher, "/rpc/v1", "Filecoin.StateMinerSectors", ["f01000", None, []])
    numbers = [sector["SectorNumber"] for sector in every["result"]]
    assert numbers
    some = await ask(dispatcher, "/rpc/v1", "Filecoin.StateMinerSectors", ["f01000", [numbers[0], 1], []])
    assert some["result"] == every["result"][:1]
    bad = await ask(dispatcher, "/rpc/v1", "Filecoin.StateMinerSectors", ["f01000", {"no": "runs"}, []])
    assert bad["error"]["code"] == -32700

"""Real clients (ethers, viem, web3.py) against a follower on the recorded chain: they read what Lotus answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from blockstore.memory import MemoryStore
from blockstore.store import Store
from devnode.replay import ReplayNode, start_replay
from follower.commands.comparison import read_records
from leader_bridge.bridge import Bridge
from leader_bridge.settings import BridgeSettings
from rpc.client.node_info import parse_node_info
from rpc.server.limits import ServerSettings
from rpc.server.server import Server
from tests.clients.test_eth_streams import recorded_stream
from tests.support.node_packages import installed
from tests.support.recorded import recorded
from tests.support.served import served
from tests.support.whole_path import reach

HERE: Final = Path(__file__).parent
CLIENTS: Final = ("ethers", "viem", "web3")
TOKEN: Final = "0xaafc1d4be2abbb2cf1599dd810246519e40d3151"
TRANSFER: Final = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
ABI: Final = ["event Transfer(address indexed from, address indexed to, uint256 value)"]
#: the length of a hash as text
_HASH: Final = 66
#: an epoch from which the chain is followed
START: Final = 1040

pytestmark = pytest.mark.recorded


# --- the clients ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def commands() -> dict[str, list[str]]:
    """How each client is run: its packages are installed once, as the lock file names them."""
    node, folder = installed(HERE)
    scripts = {name: [node, str(folder / f"{name}_{{}}.mjs")] for name in ("ethers", "viem")}
    return {**scripts, "web3": [sys.executable, str(HERE / "web3_{}.py")]}


class Script:
    """A client at work: it writes JSON, a line each."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: list[str], work: str, asked: Path) -> Script:
        """`work` is "reads" or "follow"."""
        return cls(
            await asyncio.create_subprocess_exec(
                *(part.replace("{}", work) for part in command),
                str(asked),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=1 << 26,
                start_new_session=True,
            )
        )

    async def line(self) -> Any:
        """The next answer; the test fails with what the client says where there is none."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        raw = await self._process.stdout.readline()
        if not raw:
            pytest.fail((await self._process.stderr.read()).decode()[-3000:])
        return json.loads(raw)

    async def tell(self, what: Any) -> None:
        """One line to the client."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        await self._process.stdin.drain()

    async def stop(self) -> None:
        """Wait for its end, or end it."""
        if self._process.returncode is None:
            try:
                await asyncio.wait_for(self._process.wait(), 10)
            except TimeoutError:
                # node may be a child of the command that pip installed
                os.killpg(self._process.pid, signal.SIGKILL)
                await self._process.wait()


# --- what Lotus answered -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answers:
    """Recorded answers of one method by parameters, those without error."""

    found: dict[str, Any]

    @classmethod
    def of(cls, method: str) -> Answers:
        records = read_records(recorded("devnet/rpc.jsonl.zst"), re.compile(f"^{method}$"), ["/rpc/v1"])
        return cls({json.dumps(one.params): one.answer["result"] for one in records if one.answer.get("result")})

    def params(self) -> Iterator[list[Any]]:
        for key in self.found:
            yield json.loads(key)

    def __getitem__(self, params: list[Any]) -> Any:
        return self.found[json.dumps(params)]


def _number(value: str | None) -> str | None:
    return None if value is None else str(int(value, 16))


def _text(value: str | None) -> str | None:
    return None if value is None else value.lower()


def _form(raw: dict[str, Any], numbers: tuple[str, ...], texts: tuple[str, ...]) -> dict[str, Any]:
    return {**{name: _number(raw[name]) for name in numbers}, **{name: _text(raw[name]) for name in texts}}


def _transaction(raw: dict[str, Any]) -> dict[str, Any]:
    formed = _form(raw, ("nonce", "value"), ("hash", "from", "to", "input"))
    return {**formed, "index": _number(raw["transactionIndex"])}


def _block(raw: dict[str, Any], full: bool) -> dict[str, Any]:
    numbers = ("number", "timestamp", "gasLimit", "gasUsed", "baseFeePerGas")
    listed = [_transaction(tx) if full else _text(tx) for tx in raw["transactions"]]
    return {**_form(raw, numbers, ("hash", "parentHash", "miner")), "transactions": listed}


def _log(raw: dict[str, Any]) -> dict[str, Any]:
    return {**_form(raw, ("logIndex",), ("address", "data")), "topics": [_text(one) for one in raw["topics"]]}


def _receipt(raw: dict[str, Any]) -> dict[str, Any]:
    numbers = ("blockNumber", "transactionIndex", "gasUsed", "status")
    texts = ("transactionHash", "blockHash", "from", "to", "contractAddress")
    return {**_form(raw, numbers, texts), "logs": [_log(one) for one in raw["logs"]]}


def _decoded(raw: dict[str, Any]) -> dict[str, Any]:
    """A transfer by hand: two addresses in topics, a number in the data."""
    sender, receiver = ("0x" + topic[-40:] for topic in raw["topics"][1:])
    return {"from": sender, "to": receiver, "value": _number(raw["data"])}


def _transfer(raw: dict[str, Any]) -> dict[str, Any]:
    return {**_form(raw, ("blockNumber", "logIndex"), ("transactionHash",)), **_decoded(raw)}


def _is_number(block: Any) -> bool:
    return isinstance(block, str) and block.startswith("0x") and len(block) < _HASH


# --- reading -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def questions() -> dict[str, Any]:
    """What is asked, of what was recorded: every block, receipt and contract, and some of the rest."""
    # the head itself is executed by nobody yet
    executed = int(Answers.of("eth_blockNumber")[[]], 16)
    blocks = [
        {"block": params[0], "full": params[1]}
        for answers in map(Answers.of, ("eth_getBlockByNumber", "eth_getBlockByHash"))
        for params in answers.params()
        if (_is_number(params[0]) or len(params[0]) == _HASH) and int(answers[params]["number"], 16) <= executed
    ]
    code, storage, balances = (
        [params for params in answers.params() if _is_number(params[-1])]
        for answers in map(Answers.of, ("eth_getCode", "eth_getStorageAt", "eth_getBalance"))
    )
    code_of = Answers.of("eth_getCode")
    filled = Answers.of("eth_getStorageAt")
    return {
        "blocks": blocks,
        "receipts": [params[0] for params in Answers.of("eth_getTransactionReceipt").params()],
        "transfers": {"fromBlock": "0x402", "toBlock": "0x452"},
        # contracts, and some addresses that are none
        "code": [params for params in code if code_of[params] != "0x"][:100] + code[:20],
        "storage": [params for params in storage if int(filled[params], 16)][:100] + storage[:50],
        "balances": balances[:200],
        "token": TOKEN,
        "topic": TRANSFER,
        "abi": ABI,
    }


@contextlib.asynccontextmanager
async def _bridged(node: ReplayNode, store: Store, backfill: int) -> AsyncIterator[Bridge]:
    """A bridge at work between a node and a store, which has the node's head."""
    network = recorded("devnet/network.json")
    bridge = Bridge(store, parse_node_info(node.base), BridgeSettings(network_file=network, backfill_epochs=backfill))
    running = asyncio.create_task(bridge.run())
    try:
        await reach(store, node, running)
        yield bridge
    finally:
        bridge.stop()
        await running
        await node.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole() -> AsyncIterator[Server]:
    """A follower over a store that a bridge filled with the whole chain."""
    node = await start_replay(recorded("devnet"), at_end=True)
    store = MemoryStore()
    async with _bridged(node, store, 2000) as bridge:
        async with asyncio.timeout(100):
            await bridge.backfill.idle.wait()
    # nearly all answers are long enough to be packed
    async with served(store, settings=ServerSettings(gzip_from_bytes=256)) as server:
        yield server


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.asyncio(loop_scope="module")
async def test_reads_are_what_lotus_answered(
    client: str, commands: dict[str, list[str]], questions: dict[str, Any], whole: Server, tmp_path: Path
) -> None:
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps({**questions, "http": f"http://127.0.0.1:{whole.port}/rpc/v1"}))
    before = _packed_answers(whole)
    script = await Script.start(commands[client], "reads", asked)
    try:
        async with asyncio.timeout(120):
            found = await script.line()
    finally:
        await script.stop()
    _judge(questions, found)
    # each of these clients takes gzip, without being told to
    assert _packed_answers(whole) - before > 100


def _packed_answers(server: Server) -> float:
    return server.metrics.registry.get_sample_value("follower_rpc_gzip_answers_total") or 0


def _judge(questions: dict[str, Any], found: dict[str, Any]) -> None:
    """Everything that a client read is what was recorded."""
    by_number, by_hash = Answers.of("eth_getBlockByNumber"), Answers.of("eth_getBlockByHash")
    assert len(questions["blocks"]) > 100
    for one, block in zip(questions["blocks"], found["blocks"], strict=True):
        raw = (by_hash if len(one["block"]) == _HASH else by_number)[[one["block"], one["full"]]]
        assert block == _block(raw, one["full"])
    receipts = Answers.of("eth_getTransactionReceipt")
    assert len(questions["receipts"]) > 90
    for digest, receipt in zip(questions["receipts"], found["receipts"], strict=True):
        assert receipt == _receipt(receipts[[digest]])
    logs = Answers.of("eth_getLogs")[[{"fromBlock": "0x402", "toBlock": "0x452", "topics": [TRANSFER]}]]
    transfers = [_transfer(log) for log in logs if log["address"] == TOKEN]
    assert len(transfers) == 17
    assert found["transfers"] == transfers
    code, storage, balances = (Answers.of(method) for method in ("eth_getCode", "eth_getStorageAt", "eth_getBalance"))
    assert found["code"] == [code[params] for params in questions["code"]]
    assert found["storage"] == [storage[params] for params in questions["storage"]]
    assert found["balances"] == [_number(balances[params]) for params in questions["balances"]]
    assert found["chain"] == _number(Answers.of("eth_chainId")[[]])


# --- following -----------------------------------------------------------------------------------------


def _change(raw: dict[str, Any]) -> dict[str, Any]:
    return {**_form(raw, (), ("transactionHash", "blockHash")), "removed": raw["removed"], **_decoded(raw)}


async def test_clients_follow_heads_and_page_through_filters(commands: dict[str, list[str]], tmp_path: Path) -> None:
    """All three at once, while the chain is played: what each was told is what the node pushed when it was made."""
    node = await start_replay(recorded("devnet"))
    while node.head.height < START:
        node.advance(1)
    store = MemoryStore()
    heads = [frame["params"]["result"] for frame in recorded_stream("eth_newheads")]
    logs = [frame["params"]["result"] for frame in recorded_stream("eth_logs")]
    scripts: dict[str, Script] = {}
    async with asyncio.timeout(60), _bridged(node, store, 20), served(store) as server:
        at = f"127.0.0.1:{server.port}/rpc/v1"
        asked = tmp_path / "asked.json"
        questions = {"http": f"http://{at}", "ws": f"ws://{at}", "token": TOKEN, "topic": TRANSFER, "abi": ABI}
        asked.write_text(json.dumps(questions))
        try:
            for client in CLIENTS:
                scripts[client] = await Script.start(commands[client], "follow", asked)
            assert [await script.line() for script in scripts.values()] == ["filter"] * len(CLIENTS)
            # what is executed by now is not told any more
            before = node.head.height - 1
            expected = [
                _change(log)
                for log in logs
                if int(log["blockNumber"], 16) > before and log["address"] == TOKEN and log["topics"][0] == TRANSFER
            ]
            ready = asyncio.gather(*(script.line() for script in scripts.values()))
            while not ready.done():
                # a subscription shows that it is there by its first head
                node.advance(1)
                await store_follows(store, node)
                await asyncio.wait({ready}, timeout=0.2)
            assert await ready == ["ready"] * len(CLIENTS)
            while not node.ended:
                node.advance(1)
                await store_follows(store, node)
            last = {"number": _number(heads[-1]["number"]), "logs": len(expected)}
            found: dict[str, Any] = {}
            for client, script in scripts.items():
                await script.tell(last)
                found[client] = await script.line()
        finally:
            await asyncio.gather(*(script.stop() for script in scripts.values()))
    numbers, hashes = [_number(head["number"]) for head in heads], [head["hash"] for head in heads]
    assert len(expected) > 10
    for client, told in found.items():
        # web3.py does not show of a decoded event that it was removed
        seen = [{name: one[name] for name in one if client != "web3" or name != "removed"} for one in expected]
        assert told["changes"] == seen, client
        # everything was told: nothing of it comes again
        assert told["all"] == [], client
        assert told["gone"] is True
        assert len(told["heads"]) > 20
        assert told["heads"] == numbers[-len(told["heads"]) :], client
    assert found["web3"]["hashes"] == hashes[-len(found["web3"]["hashes"]) :]


async def store_follows(store: Store, node: ReplayNode) -> None:
    """Wait until the store has the node's head."""
    while (entry := await store.head()) is None or entry.head.key != node.heads.head.key:
        await asyncio.sleep(0.002)

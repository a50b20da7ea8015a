"""web3.py follows new heads over WebSocket and pages through a filter over HTTP."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from web3 import AsyncWeb3, Web3, WebSocketProvider
from web3_reads import ABI, plain


def _shown(one: Any) -> dict[str, Any]:
    return {
        **{name: one[name] for name in ("transactionHash", "blockHash")},
        **{name: one["args"][name] for name in ("from", "to", "value")},
    }


async def follow(asked: dict[str, Any]) -> dict[str, Any]:
    """Heads and logs until the block that the test names, and what the filter finds in all."""
    heads: list[int] = []
    hashes: list[Any] = []
    changes: list[Any] = []
    web3 = Web3(Web3.HTTPProvider(asked["http"]))
    token = web3.eth.contract(address=Web3.to_checksum_address(asked["token"]), abi=ABI)
    transfers = token.events.Transfer.create_filter(from_block="latest")
    print(json.dumps("filter"), flush=True)
    async with AsyncWeb3(WebSocketProvider(asked["ws"])) as socket:
        await socket.eth.subscribe("newHeads")
        print(json.dumps("ready"), flush=True)
        waiting = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))

        async def read() -> None:
            async for message in socket.socket.process_subscriptions():
                block = message["result"]
                heads.append(block["number"])
                hashes.append(block["hash"])

        reading = asyncio.create_task(read())
        last = json.loads(await waiting)
        while int(last["number"]) not in heads or len(changes) < last["logs"]:
            changes += [_shown(one) for one in await asyncio.to_thread(transfers.get_new_entries)]
            await asyncio.sleep(0.02)
        reading.cancel()
    found = [_shown(one) for one in transfers.get_all_entries()]
    gone = web3.eth.uninstall_filter(transfers.filter_id)
    return {"heads": heads, "hashes": hashes, "changes": changes, "all": found, "gone": gone}


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        print(json.dumps(plain(asyncio.run(follow(json.load(file))))), flush=True)

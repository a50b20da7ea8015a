"""Rows that the store lacks: which message a transaction hash is of, and which tipset includes a message.

A node is asked. What it says is looked up in objects that are fetched by CID, so that a wrong answer is found out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from blockstore.cid import Cid, parse
from blockstore.errors import BadCid, Missing, StoreError
from blockstore.store import ETH_TXS, MESSAGES, Store, Table
from chain.errors import BadObject, NotHeld
from chain.eth.transaction import NotEthTx, eth_tx, is_eth
from chain.eth.types import EthAddressError
from chain.ipld.objects import Objects
from chain.message import SignedMessage, decode_any_message
from chain.tipset import Tipset, TipsetKey
from chain.tipset_messages import load_message_cids
from follower.forwarding.unheld_chain import Ask, Lies, UnheldChain
from rpc import eth_json
from rpc.json_wire import key_json

log = logging.getLogger(__name__)


class UnheldRows:
    """The store as one request sees it; all but the two look-ups below are the store's own.

    `epochs`: of the tipsets that were found.
    """

    def __init__(
        self, store: Store, objects: Objects, chain: UnheldChain, head: Tipset, ask: Ask, lies: Lies, eth_chain_id: int
    ) -> None:
        self._store = store
        self._objects = objects
        self._chain = chain
        self._head = head
        self._ask = ask
        self._lies = lies
        self._eth_chain_id = eth_chain_id
        self.epochs: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def row(self, table: Table, partition: bytes, key: bytes) -> bytes | None:
        """As `Store.row`."""
        found = await self._store.row(table, partition, key)
        if found is None and table is ETH_TXS:
            return await self._message_of(partition)
        return found

    async def scan(
        self,
        table: Table,
        partition: bytes,
        *,
        start: bytes = b"",
        end: bytes | None = None,
        reverse: bool = False,
        limit: int = 1000,
    ) -> list[tuple[bytes, bytes]]:
        """As `Store.scan`."""
        found = await self._store.scan(table, partition, start=start, end=end, reverse=reverse, limit=limit)
        if table is MESSAGES:
            found += await self._including(Cid(partition))
        return found

    async def _message_of(self, digest: bytes) -> bytes | None:
        """The CID of the message that was signed as the transaction with this hash, if a node knows it.

        Errors: NotHeld (no node answers rightly).
        """
        method = "Filecoin.EthGetMessageCidByTransactionHash"
        async for node, answer in self._ask(method, [eth_json.data(digest)], self._head):
            if answer is None:
                return None
            try:
                cid = parse(answer["/"])
                if bytes(cid[-32:]) == digest:
                    # a message that was not signed as a transaction has no row
                    return None
                message = decode_any_message(await self._objects.get(cid))
                if not isinstance(message, SignedMessage) or not is_eth(message):
                    raise BadObject(f"{cid} is no transaction")
                if eth_tx(message, self._eth_chain_id).hash != digest:
                    raise BadObject(f"{cid} is another transaction")
            except (BadCid, BadObject, NotEthTx, EthAddressError, Missing, KeyError, TypeError) as error:
                self._lies.note(node, f"the message of transaction {eth_json.data(digest)}: {error}")
                continue
            except StoreError as error:
                log.info("%s names the message of transaction %s: %s", node, eth_json.data(digest), error)
                continue
            return bytes(cid)
        raise NotHeld(f"transaction {eth_json.data(digest)}: no full node tells its message")

    async def _including(self, cid: Cid) -> Sequence[tuple[bytes, bytes]]:
        """The MESSAGES row of the tipset that includes a message, if a node knows one. Errors: NotHeld, as above."""
        asked = [key_json(self._head.key), {"/": str(cid)}, -1, False]
        async for node, answer in self._ask("Filecoin.StateSearchMsg", asked, self._head):
            if answer is None:
                return []
            try:
                executing = await self._chain.tipset(TipsetKey.of(parse(one["/"]) for one in answer["TipSet"]))
                if parse(answer["Message"]["/"]) != cid or answer["Height"] != executing.height:
                    raise BadObject("it names another message or epoch")
                tipset = await self._chain.parent(executing)
                if not await self._includes(tipset, cid):
                    raise BadObject(f"the tipset at epoch {tipset.height} does not include it")
            except (BadCid, BadObject, NotHeld, Missing, KeyError, TypeError) as error:
                self._lies.note(node, f"the place of message {cid}: {error}")
                continue
            except StoreError as error:
                log.info("%s names the place of message %s: %s", node, cid, error)
                continue
            self.epochs.append(tipset.height)
            return [(tipset.height.to_bytes(8, "big") + tipset.key.cid, b"")]
        raise NotHeld(f"where message {cid} was executed: no full node tells it")

    async def _includes(self, tipset: Tipset, cid: Cid) -> bool:
        for block in tipset.blocks:
            bls, signed = await load_message_cids(self._objects, block.messages)
            if cid in bls or cid in signed:
                return True
        return False

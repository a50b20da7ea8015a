"""Transactions that are in a full node's mempool, as subscribers hear them. Source: Lotus `node/impl/eth/utils.go`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any, Final

from chain.errors import ChainError
from chain.eth.transaction import eth_tx
from chain.message import DELEGATED, SignedMessage
from rpc import eth_json
from rpc.context import Context
from rpc.execution.message_param import MessageParam
from rpc.params import Integer, mismatch, param_of
from rpc.services import Mempool
from rpc.session import Burst

log = logging.getLogger("follower.rpc")

#: `MpoolUpdate.Type` of a message that comes
MPOOL_ADD: Final = 0
_MESSAGE: Final = param_of("Message", MessageParam)
_TYPE: Final = Integer("crypto.SigType", 0, 255)
_DATA: Final = param_of("Data", bytes)


def pending_hash(value: Any, chain_id: int) -> bytes:
    """The hash of a signed message in Lotus' JSON: an Ethereum transaction's own, else the digest of the message's CID.

    Errors: ValueError (not that JSON), ChainError (a delegated signature on what is no transaction).
    """
    if not isinstance(value, dict) or not isinstance(value.get("Signature"), dict):
        raise mismatch(value, "types.SignedMessage")
    signature = value["Signature"]
    kind = _TYPE.decode(signature.get("Type"))
    signed = SignedMessage(_MESSAGE.decode(value.get("Message")), (kind, _DATA.decode(signature.get("Data"))))
    return eth_tx(signed, chain_id).hash if kind == DELEGATED else bytes(signed.cid[-32:])


async def new_pending_transactions(ctx: Context, mempool: Mempool) -> AsyncIterator[Burst]:
    """The hash of each message that comes into the full node's mempool."""
    async for update in mempool.updates():
        if update.get("Type") != MPOOL_ADD:
            continue
        try:
            yield Burst([eth_json.data(pending_hash(update.get("Message"), ctx.network.eth_chain_id))])
        except (ValueError, ChainError) as error:
            log.debug("a pending message has no hash: %s", error)

"""Chain objects in the JSON that Lotus gives: names, order of keys, `null` against `[]`.

The functions return values that may hold `Cid`, `Address` and `bytes`; the wire writes those. Their rules:
a byte string that is empty on chain is `null`, for Go's decoder leaves the slice nil; a signature's data and
the lists that a method makes itself are never nil. Keys stand in the order of Go's struct fields. Sources:
Lotus `chain/types/{blockheader,tipset,message,signedmessage,message_receipt,event}.go` and their generated
CBOR readers, go-state-types `crypto/signature.go`.

`JsonCache` keeps texts that can never change, ready to be copied into an answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final

import orjson

from blockstore.cid import Cid, cid_of
from chain.address import Address
from chain.block import BlockHeader
from chain.message import Event, Message, Receipt, SignedMessage, encode_message
from chain.tipset import Tipset, TipsetKey
from chain.tipset_messages import IncludedMessage
from rpc.context import Context
from rpc.json_wire import encoder

#: what a head change is: the first one of a subscription, an epoch taken back, one put on
CURRENT: Final = "current"
REVERT: Final = "revert"
APPLY: Final = "apply"


def signature(value: tuple[int, bytes] | None) -> dict[str, Any] | None:
    """A signature: its data is never null, even where it is empty."""
    return None if value is None else {"Type": value[0], "Data": value[1]}


def header(block: BlockHeader) -> dict[str, Any]:
    """A block header."""
    election = block.election_proof
    return {
        "Miner": Address(block.miner),
        "Ticket": None if block.ticket is None else {"VRFProof": block.ticket or None},
        "ElectionProof": election and {"WinCount": election[0], "VRFProof": election[1] or None},
        "BeaconEntries": [{"Round": n, "Data": data or None} for n, data in block.beacon_entries] or None,
        "WinPoStProof": [{"PoStProof": n, "ProofBytes": data or None} for n, data in block.win_post] or None,
        "Parents": list(block.parents) or None,
        "ParentWeight": str(block.parent_weight),
        "Height": block.height,
        "ParentStateRoot": block.parent_state_root,
        "ParentMessageReceipts": block.parent_message_receipts,
        "Messages": block.messages,
        "BLSAggregate": signature(block.bls_aggregate),
        "Timestamp": block.timestamp,
        "BlockSig": signature(block.block_sig),
        "ForkSignaling": block.fork_signaling,
        "ParentBaseFee": str(block.parent_base_fee),
    }


def tipset(value: Tipset) -> dict[str, Any]:
    """A tipset: its CIDs, its headers in the same order, its epoch."""
    return {
        "Cids": [block.cid for block in value.blocks],
        "Blocks": [header(block) for block in value.blocks],
        "Height": value.height,
    }


def message(value: Message, cid: Cid | None = None) -> dict[str, Any]:
    """An unsigned message with its CID, which is made of the message where it is not given."""
    return {
        "Version": value.version,
        "To": Address(value.to),
        "From": Address(value.from_),
        "Nonce": value.nonce,
        "Value": str(value.value),
        "GasLimit": value.gas_limit,
        "GasFeeCap": str(value.gas_fee_cap),
        "GasPremium": str(value.gas_premium),
        "Method": value.method,
        "Params": value.params or None,
        "CID": value.cid if cid is None else cid,
    }


def signed_message(value: SignedMessage, cid: Cid | None = None, raw: bytes | None = None) -> dict[str, Any]:
    """A signed message with its CID, and the unsigned one in it with its own; `raw`: its stored bytes."""
    return {
        "Message": message(value.message, None if raw is None else inner_message_cid(raw, value)),
        "Signature": signature(value.signature),
        "CID": value.cid if cid is None else cid,
    }


def inner_message_cid(raw: bytes, value: SignedMessage) -> Cid:
    """The CID of the unsigned message inside the stored bytes of a signed one."""
    size = 1 + len(value.signature[1])
    tail = size + (1 if size < 24 else 2 if size < 0x100 else 3)
    inner = raw[1:-tail]
    # a signature whose length is not written in its shortest form would be cut in the wrong place
    return cid_of(inner if inner[:1] == b"\x8a" else encode_message(value.message))


def receipt(value: Receipt) -> dict[str, Any]:
    """A message receipt, of either version."""
    return {
        "ExitCode": value.exit_code,
        "Return": value.return_ or None,
        "GasUsed": value.gas_used,
        "EventsRoot": value.events_root,
    }


def event(value: Event) -> dict[str, Any]:
    """An actor event."""
    entries = [
        {"Flags": entry.flags, "Key": entry.key, "Codec": entry.codec, "Value": entry.value or None}
        for entry in value.entries
    ]
    return {"Emitter": value.emitter, "Entries": entries or None}


#: (tipset, epoch) pairs whose answer is remembered: about 400 bytes each
_ANCESTORS: Final = 8192


class JsonCache:
    """Texts that cannot change, by what they are of: an LRU of `cache_bytes`, one a server.

    Keys are a letter for the kind and the CID or tipset key; an entry is put only after the bytes that it
    is made of were read from the store.
    """

    #: what an entry costs beside its text
    _OVERHEAD: Final = 300

    def __init__(self, address_prefix: str, cache_bytes: int = 32 << 20) -> None:
        self._texts: OrderedDict[bytes, tuple[orjson.Fragment, int]] = OrderedDict()
        self._encode = encoder(address_prefix)
        self.limit = cache_bytes
        #: the longest text that is kept: a longer one would push out too much else
        self.most = cache_bytes // 16
        #: bytes held, with what the entries cost beside their texts
        self.size = 0
        self._ancestors: OrderedDict[tuple[bytes, int, bool], TipsetKey] = OrderedDict()

    def get(self, key: bytes) -> orjson.Fragment | None:
        """A text that was kept, or None."""
        found = self._texts.get(key)
        if found is None:
            return None
        self._texts.move_to_end(key)
        return found[0]

    def keep(self, key: bytes, value: Any) -> orjson.Fragment:
        """The text of a value, kept unless it is too long."""
        text = self._encode(value)
        fragment = orjson.Fragment(text)
        size = len(text) + len(key) + self._OVERHEAD
        if len(text) <= self.most:
            old = self._texts.pop(key, None)
            self.size += size - (0 if old is None else old[1])
            self._texts[key] = (fragment, size)
            while self.size > self.limit:
                _, (_, dropped) = self._texts.popitem(last=False)
                self.size -= dropped
        return fragment

    def header(self, block: BlockHeader) -> orjson.Fragment:
        """The text of a header."""
        key = b"h" + block.cid
        found = self.get(key)
        return self.keep(key, header(block)) if found is None else found

    def tipset(self, value: Tipset) -> orjson.Fragment:
        """The text of a tipset."""
        key = b"t" + value.key
        found = self.get(key)
        return self.keep(key, tipset(value)) if found is None else found

    def tipset_by_key(self, key: TipsetKey) -> orjson.Fragment | None:
        """The text of a tipset that was asked for before."""
        return self.get(b"t" + key)

    def ancestor(self, anchor: Tipset, epoch: int, previous: bool) -> orjson.Fragment | None:
        """The text of an ancestor that was asked for before. Which one it is can never change."""
        key = self._ancestors.get((anchor.key, epoch, previous))
        return None if key is None else self.tipset_by_key(key)

    def keep_ancestor(self, anchor: Tipset, epoch: int, previous: bool, found: Tipset) -> orjson.Fragment:
        """The text of an ancestor, to be found again by its epoch."""
        self._ancestors[anchor.key, epoch, previous] = found.key
        if len(self._ancestors) > _ANCESTORS:
            self._ancestors.popitem(last=False)
        return self.tipset(found)

    def head_change(self, kind: str, value: Tipset) -> dict[str, Any]:
        """One change of a `ChainNotify` frame or a path: `kind` is `CURRENT`, `REVERT` or `APPLY`."""
        return {"Type": kind, "Val": self.tipset(value)}


_CACHE: Final = "lotus_json"


def json_cache(ctx: Context) -> JsonCache:
    """The cache of the server that a request came to; made at first use."""
    services = ctx.services
    cache = services.caches.get(_CACHE)
    if cache is None:
        cache = services.caches[_CACHE] = JsonCache(ctx.network.address_prefix, services.cache_sizes.json)
    assert isinstance(cache, JsonCache)
    return cache


def messages(values: Iterable[IncludedMessage]) -> list[dict[str, Any]] | None:
    """Messages as Lotus lists those of a tipset, with their CIDs; null where there are none."""
    return [
        {
            "Cid": one.cid,
            "Message": message(one.message, one.cid if one.signed is None else inner_message_cid(one.raw, one.signed)),
        }
        for one in values
    ] or None

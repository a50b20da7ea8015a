"""Which tipset an Ethereum block parameter names.

`latest` is the head's parent: the head's own messages are executed by no one yet. A number is an epoch, not
above the head's minus one. A hash is that of the tipset key. What needs the head executed is asked of a full
node by the head's hash, so that it answers for the head that the request has pinned. Source: Lotus
`node/impl/eth/tipsetresolver.go`, `chain/types/ethtypes/eth_types.go`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from blockstore.cid import Cid
from chain.errors import BadRequest, NotFound, NotHeld, NullRound
from chain.eth.types import cid_of_hash
from chain.tipset import Tipset
from rpc import eth_json
from rpc.context import WHOLE_HEAD, Context
from rpc.lookup.ancestors import ancestry_of
from rpc.lookup.finality import finalized_tipset, safe_tipset
from rpc.lookup.tipsets import load_tipset
from rpc.params import EthHash, EthUint64, json_kind, mismatch, param_of

EARLIEST: Final = "earliest"
PENDING: Final = "pending"
LATEST: Final = "latest"
TAGS: Final = frozenset({EARLIEST, PENDING, LATEST, "finalized", "safe"})

_HASH: Final = param_of("blockHash", EthHash)
_NUMBER: Final = param_of("blockNumber", EthUint64)
_HASH_TEXT: Final = 66


@dataclass(frozen=True, slots=True)
class BlockParameter:
    """A block parameter: one of a tag, a number and a hash, or none where a client named none."""

    tag: str | None = None
    number: int | None = None
    hash: bytes | None = None
    must_be_canonical: bool = False


class _BlockDecoder:
    go = "ethtypes.EthBlockNumberOrHash"

    def decode(self, value: Any) -> BlockParameter:
        """Errors: ValueError."""
        if value is None:
            return BlockParameter()
        if isinstance(value, dict):
            return self._object(value)
        if not isinstance(value, str):
            raise mismatch(value, "string")
        if value in TAGS:
            return BlockParameter(tag=value)
        if len(value) == _HASH_TEXT and value.startswith("0x"):
            return BlockParameter(hash=_HASH.decode(value))
        try:
            return BlockParameter(number=_NUMBER.decode(value))
        except ValueError:
            raise ValueError("invalid block param") from None

    def _object(self, value: dict[str, Any]) -> BlockParameter:
        fields = {name.lower(): item for name, item in value.items()}
        number, digest, canonical = (fields.get(name) for name in ("blocknumber", "blockhash", "requirecanonical"))
        try:
            found = BlockParameter(
                number=None if number is None else _NUMBER.decode(number),
                hash=None if digest is None else _HASH.decode(digest),
                must_be_canonical=bool(canonical),
            )
        except ValueError:
            raise mismatch(value, "string") from None
        if json_kind(canonical) not in ("bool", "null"):
            raise mismatch(value, "string")
        if found.number is not None and found.hash is not None:
            raise ValueError("cannot specify both blockNumber and blockHash")
        return found


BlockParam = Annotated[BlockParameter, _BlockDecoder()]


async def select_tag(ctx: Context, tag: str) -> Tipset:
    """The tipset that a tag names. Errors: BadRequest (`earliest`, no tag), NotHeld."""
    if tag == LATEST:
        return await select_latest(ctx)
    if tag == PENDING:
        return (await ctx.head()).tipset
    if tag == "finalized":
        return await finalized_tipset(ctx)
    if tag == "safe":
        return await safe_tipset(ctx)
    if tag == EARLIEST:
        raise BadRequest(f'block param "{EARLIEST}" is not supported')
    raise BadRequest(f"unknown block tag: {tag}")


async def select_latest(ctx: Context) -> Tipset:
    """The newest tipset whose messages are executed. Errors: BadRequest (the chain has but its genesis), NotHeld."""
    head = (await ctx.head()).tipset
    if head.height == 0:
        raise BadRequest("failed to get parent tipset")
    return await ctx.index.parent(head)


async def select_number(ctx: Context, number: int, strict: bool) -> Tipset:
    """The tipset at an epoch, with `strict` not in a null round. Errors: BadRequest, NullRound, NotHeld."""
    head = (await ctx.pin_head()).tipset
    # the tipset there, and that there is one above it
    ctx.note_chain(number + 1)
    if number >= 1 << 63:
        raise BadRequest(f"failed to get tipset at height: {number}")
    if number > head.height - 1:
        raise BadRequest("requested a future epoch (beyond 'latest')")
    tipset = await ancestry_of(ctx).at_height(head, number)
    if strict and tipset.height != number:
        raise NullRound(number)
    return tipset


async def select_text(ctx: Context, text: str, strict: bool) -> Tipset:
    """The tipset that a tag or a number in a string names. Errors: BadRequest, NullRound, NotHeld."""
    if text in TAGS:
        return await select_tag(ctx, text)
    try:
        number = _NUMBER.decode(text)
    except ValueError as error:
        raise BadRequest(f"failed to parse block number: {error}") from None
    return await select_number(ctx, number, strict)


async def select_hash(ctx: Context, digest: bytes) -> Tipset:
    """The tipset with this hash, on whatever fork. One row at most. Errors: NotFound, NotHeld."""
    cid = cid_of_hash(digest)
    if (await ctx.pin_head()).tipset.key.cid == cid:
        return (await ctx.head()).tipset
    key = await ctx.index.key_of(cid)
    if key is None:
        await _no_other_object(ctx, cid)
        raise NotFound(f"failed to get tipset by hash: cannot find tipset with cid {cid}: ipld: could not find {cid}")
    return await load_tipset(ctx, key)


async def _no_other_object(ctx: Context, cid: Cid) -> None:
    """Errors: NotFound, where the hash is a message's or any other object's that is no byte string."""
    data = await ctx.objects.get_held(cid.multihash)  # nothing is fetched for a hash that leads nowhere
    if data and data[0] >> 5 != 2:
        raise NotFound("failed to get tipset by hash: cannot unmarshal block into tipset key: expected byte array")


async def select(ctx: Context, block: BlockParameter, strict: bool = False) -> Tipset:
    """The tipset that a block parameter names. Errors: BadRequest, NullRound, NotFound, NotHeld."""
    if block.tag is not None:
        return await select_tag(ctx, block.tag)
    if block.number is not None:
        if block.number >= 1 << 63:
            # as the signed epoch that it is there
            raise BadRequest(f"failed to get tipset at height: {block.number - (1 << 64)}")
        return await select_number(ctx, block.number, strict)
    if block.hash is None:
        raise BadRequest("invalid block param")
    tipset = await select_hash(ctx, block.hash)
    if block.must_be_canonical:
        if tipset.height > (await ctx.pin_head()).tipset.height:
            raise BadRequest(f"failed to get tipset at height: {tipset.height}")
        if not await is_canonical(ctx, tipset):
            raise BadRequest("tipset is not canonical")
    return tipset


async def is_canonical(ctx: Context, tipset: Tipset) -> bool:
    """Whether a tipset is the request's head or among its ancestors. Errors: NotHeld."""
    head = (await ctx.pin_head()).tipset
    try:
        found = await ancestry_of(ctx).is_ancestor(tipset.key, tipset.height, head)
    except NotHeld:
        raise NotHeld(f"the chain at epoch {tipset.height}") from None
    ctx.note_chain(tipset.height if found else WHOLE_HEAD)
    return found


def block_hash(tipset: Tipset) -> bytes:
    """A tipset's hash as Ethereum clients know it."""
    return tipset.key.block_hash


def node_block_parameter(tipset: Tipset) -> dict[str, str]:
    """The block parameter by which a full node is asked for exactly this tipset."""
    return {"blockHash": eth_json.data(block_hash(tipset))}

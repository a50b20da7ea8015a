"""Balances, nonces, code and storage of contracts and accounts, and addresses in both forms.

Lotus runs a contract's own methods for its code and storage; here they are read from its state: the bytecode by
its CID, a slot by a path down the KAMT. A contract that destroyed itself has neither. All of it is of the state
after the block. Sources: Lotus `node/impl/eth/lookup.go`, `transaction.go`, `filecoin.go`; builtin-actors
`actors/evm/src/lib.rs`.
"""

from __future__ import annotations

from typing import Any, Final

from blockstore.cid import Cid
from chain.actors.load import SYSTEM, Loaded, States
from chain.address import Address
from chain.address import parse as parse_address
from chain.errors import ActorNotFound, BadAddress, BadRequest
from chain.eth.types import EthAddressError, NoEthAddress, eth_address, filecoin_address
from chain.ipld.kamt import Kamt
from chain.state.state_tree import Actor
from chain.tipset import Tipset
from rpc import eth_json
from rpc.context import Context
from rpc.errors import MethodError
from rpc.lookup.actor_states import in_prefix, load_tree, node_cache
from rpc.lookup.eth.block_parameter import (
    PENDING,
    BlockParam,
    BlockParameter,
    node_block_parameter,
    select,
    select_text,
)
from rpc.lookup.eth.contracts import load_contract
from rpc.lookup.eth.executed_tipset import PostRoots, find_post_roots
from rpc.lookup.eth.transactions import load_tree_after
from rpc.lookup.forward import forward
from rpc.lookup.next_nonce import next_nonce
from rpc.params import EthAddress, EthBytes, RawParams, json_kind, raw_list
from rpc.registry import EVERY_VERSION, Cache, Cost, method

_WORD: Final = 32


# --- addresses -----------------------------------------------------------------------------------------


@method(
    "Filecoin.EthAddressToFilecoinAddress",
    versions=EVERY_VERSION,
    cost=Cost.FREE,
    answered="local",
    cache=Cache.IMMUTABLE,
)
async def eth_address_to_filecoin_address(ctx: Context, address: EthAddress) -> Address:
    """The Filecoin address of an Ethereum one: f410, or the ID that a masked one stands for. Errors: BadAddress."""
    return filecoin_address(address)


def _one_or_two(params: Any) -> list[Any]:
    """Errors: MethodError, for anything but an array of one or two texts."""
    given = raw_list(params, 1, 2)
    for value in given:
        if value is not None and not isinstance(value, str):
            raise MethodError(
                f"decoding params: json: cannot unmarshal {json_kind(value)} into Go value of type string"
            )
    return given


@method("Filecoin.FilecoinAddressToEthAddress", versions=EVERY_VERSION, cost=Cost.STATE, cache=Cache.HEAD)
async def filecoin_address_to_eth_address(ctx: Context, params: RawParams) -> str:
    """The Ethereum address of a Filecoin one: (address, block or tag; "finalized" where it is left out).

    f0 and f410 addresses convert as they are; others are the masked ID that they have at the block.
    Errors: no address; no actor there at that block.
    """
    given = _one_or_two(params)
    block = "finalized" if len(given) == 1 or given[1] is None else given[1]
    try:
        address = parse_address(given[0] or "")
    except BadAddress as error:
        raise MethodError(f"decoding params: {error}") from error
    try:
        return eth_json.data(eth_address(address))
    except NoEthAddress:
        pass
    except EthAddressError as error:
        raise MethodError(f"error converting filecoin address to eth address: {error}") from error
    name = in_prefix(ctx, address)
    if address.protocol not in (1, 2, 3):
        raise MethodError(f"invalid filecoin address protocol: {name}")
    tipset = await select_text(ctx, block, strict=False)
    tree = await load_tree(ctx, tipset.parent_state_root, tipset.height)
    try:
        return eth_json.data(eth_address(await tree.lookup_id(address)))
    except ActorNotFound:
        raise MethodError(
            f"failed to lookup ID address for given Filecoin address {name} (ensure that the address has been "
            "instantiated on-chain and sufficient epochs have passed since instantiation to confirm to the given "
            f"'blkParam': \"{block}\"): resolve address {name}: actor not found"
        ) from None


# --- actors --------------------------------------------------------------------------------------------


class _After:
    """The actors after the tipset of a block parameter."""

    def __init__(self, ctx: Context, block: BlockParameter, states: States) -> None:
        self._ctx = ctx
        self._block = block
        self._states = states

    @classmethod
    async def load(cls, ctx: Context, block: BlockParameter, tipset: Tipset, post: PostRoots) -> _After:
        tree = await load_tree_after(ctx, tipset, post)
        version = ctx.network.version_at(tipset.height + 1)
        return cls(ctx, block, States(ctx.objects, tree, version, ctx.network.address_prefix))

    async def actor(self, address: Address) -> Actor | None:
        """The one actor that the answer is about; None where there is none. What is answered must be a function of it
        and the network version: that is noted. Errors: NotHeld (actors of an unknown version)."""
        try:
            actor = await self._states.tree.get(address)
        except ActorNotFound:
            await self._check_version()
            return None
        if self._block.tag is not None:
            view = self._block.tag, self._states.network_version
            self._ctx.note_actor(view, self._states.tree, address, actor)
        return actor

    async def _check_version(self) -> None:
        """Refuse to say that an actor is absent in a state whose actors version is unknown. Errors: NotHeld."""
        try:
            system = await self._states.tree.get(SYSTEM)
        except ActorNotFound:
            return
        await self._states.kind_of(system)

    async def contract(self, actor: Actor | None) -> Loaded | None:
        """The state of a contract; None for any other actor. Errors: NotHeld (an unknown actors version)."""
        return await load_contract(self._states, actor)


def _checked(address: bytes, said: str) -> Address:
    try:
        return filecoin_address(address)
    except BadAddress as error:
        raise MethodError(f"{said}{error}") from error


@method(
    "Filecoin.EthGetBalance", aliases=("eth_getBalance",), versions=EVERY_VERSION, cost=Cost.STATE, cache=Cache.CHAIN
)
async def eth_get_balance(ctx: Context, address: EthAddress, block: BlockParam) -> Any:
    """The balance of an address after a block, attoFIL; 0 where there is no actor. Errors: BadRequest, NotHeld."""
    wanted = _checked(address, "")
    tipset = await select(ctx, block)
    post = await find_post_roots(ctx, tipset)
    if post is None:
        return await forward(
            ctx, "Filecoin.EthGetBalance", [eth_json.data(address), node_block_parameter(tipset)], at=tipset
        )
    after = await _After.load(ctx, block, tipset, post)
    actor = await after.actor(wanted)
    return hex(0 if actor is None else actor.balance)


@method(
    "Filecoin.EthGetTransactionCount",
    aliases=("eth_getTransactionCount",),
    versions=EVERY_VERSION,
    cost=Cost.STATE,
    cache=Cache.CHAIN,
)
async def eth_get_transaction_count(ctx: Context, address: EthAddress, block: BlockParam) -> Any:
    """The nonce of an account, or of a living contract, after a block. `pending` counts the mempool's messages
    too, which a full node knows. Errors: BadRequest, NotHeld, NeedsNode."""
    wanted = _checked(address, "invalid address: ")
    if block == BlockParameter(tag=PENDING):
        if ctx.node is not None or ctx.executor is None:
            return await forward(ctx, "Filecoin.EthGetTransactionCount", [eth_json.data(address), PENDING])
        try:
            return hex(await next_nonce(ctx, wanted))
        except ActorNotFound as error:
            raise MethodError(f"failed to get nonce from mpool: {error}") from error
    tipset = await select(ctx, block)
    post = await find_post_roots(ctx, tipset)
    if post is None:
        return await forward(
            ctx, "Filecoin.EthGetTransactionCount", [eth_json.data(address), node_block_parameter(tipset)], at=tipset
        )
    after = await _After.load(ctx, block, tipset, post)
    actor = await after.actor(wanted)
    if actor is None:
        return hex(0)
    contract = await after.contract(actor)
    if contract is None:
        return hex(actor.nonce)
    return hex(contract.state["Nonce"] if contract.state["Tombstone"] is None else 0)


@method("Filecoin.EthGetCode", aliases=("eth_getCode",), versions=EVERY_VERSION, cost=Cost.STATE, cache=Cache.CHAIN)
async def eth_get_code(ctx: Context, address: EthAddress, block: BlockParam) -> Any:
    """The bytecode of a contract after a block; empty for any other actor, and for a contract that destroyed
    itself. Errors: BadRequest, NotHeld."""
    wanted = _checked(address, "cannot get Filecoin address: ")
    tipset = await select(ctx, block)
    if tipset.height == 0:
        raise BadRequest("block param must not specify genesis block")
    post = await find_post_roots(ctx, tipset)
    if post is None:
        return await forward(
            ctx, "Filecoin.EthGetCode", [eth_json.data(address), node_block_parameter(tipset)], at=tipset
        )
    after = await _After.load(ctx, block, tipset, post)
    contract = await after.contract(await after.actor(wanted))
    if contract is None or contract.state["Tombstone"] is not None:
        return eth_json.data(b"")
    return eth_json.data(await ctx.objects.get(Cid(contract.state["Bytecode"])))


@method(
    "Filecoin.EthGetStorageAt",
    aliases=("eth_getStorageAt",),
    versions=EVERY_VERSION,
    cost=Cost.STATE,
    cache=Cache.CHAIN,
)
async def eth_get_storage_at(ctx: Context, address: EthAddress, position: EthBytes, block: BlockParam) -> Any:
    """One slot of a contract's storage after a block, 32 bytes; zero where nothing is. Errors: BadRequest,
    NotHeld."""
    tipset = await select(ctx, block)
    if len(position) > _WORD:
        raise BadRequest("supplied storage key is too long")
    wanted = _checked(address, "cannot get Filecoin address: ")
    post = await find_post_roots(ctx, tipset)
    if post is None:
        params = [eth_json.data(address), eth_json.data(position), node_block_parameter(tipset)]
        return await forward(ctx, "Filecoin.EthGetStorageAt", params, at=tipset)
    after = await _After.load(ctx, block, tipset, post)
    contract = await after.contract(await after.actor(wanted))
    value = 0
    if contract is not None and contract.state["Tombstone"] is None:
        storage = Kamt(ctx.objects, contract.state["ContractState"], node_cache(ctx))
        value = await storage.get(int.from_bytes(position, "big"))
    return eth_json.data(value.to_bytes(_WORD, "big"))

"""Actor states and parameters, decoded: `StateReadState`, `StateDecodeParams`, `StateEncodeParams`.

Also what the other families of state methods share: the actors at a tipset.
"""

from __future__ import annotations

from typing import Annotated, Any

from blockstore.cid import Cid
from chain.actors.codes import known_code
from chain.actors.load import kind_of_code
from chain.actors.methods import GoPanic, NoSuchMethod, params_cbor, params_json, state_json
from chain.address import Address
from chain.errors import NotFound
from chain.tipset import TipsetKey
from rpc.context import Context
from rpc.errors import MethodError, RpcError, error_prefix
from rpc.lookup.actor_states import states_at
from rpc.params import Integer
from rpc.registry import Cache, Cost, method

MethodNum = Annotated[int, Integer("abi.MethodNum", 0, (1 << 64) - 1)]


class FatalError(RpcError):
    """The answer of Lotus to a method that panics. HTTP status 500."""

    code = 0
    protocol = True

    def __init__(self, name: str, error: GoPanic) -> None:
        super().__init__(f"fatal error calling '{name}': panic in rpc method '{name}': {error}")


@method("Filecoin.StateReadState", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_read_state(ctx: Context, actor: Address, tipset_key: TipsetKey) -> dict[str, Any]:
    """An actor's balance, code and decoded state. Errors: actor not found; a state that cannot be decoded."""
    _, states = await states_at(ctx, tipset_key)
    with error_prefix("getting actor"):
        found = await states.actor(actor)
    with error_prefix(f"dumping actor state (a:{actor.text(ctx.network.address_prefix)})"):
        kind = await kind_of_code(states.tree, found.code, states.network_version)
        if kind is None:
            raise NotFound(f"state type for actor {found.code} not found")
        data = await ctx.objects.get(found.head)
        state = state_json(*kind, found.head, data)
    return {"Balance": str(found.balance), "Code": found.code, "State": state}


@method("Filecoin.StateDecodeParams", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_decode_params(
    ctx: Context, to: Address, number: MethodNum, params: bytes, tipset_key: TipsetKey
) -> Any:
    """The parameters of a call to an actor's method. Errors: unknown method; bytes of another type."""
    _, states = await states_at(ctx, tipset_key)
    with error_prefix("getting actor"):
        found = await states.actor(to)
    name, version = await kind_of_code(states.tree, found.code, states.network_version) or ("", 0)
    try:
        return params_json(name, version, number, params, str(found.code))
    except NoSuchMethod as error:
        raise MethodError(f"getting params type: {error}") from error
    except GoPanic as error:
        raise FatalError("Filecoin.StateDecodeParams", error) from error


@method("Filecoin.StateEncodeParams", cost=Cost.CHAIN, cache=Cache.HEAD)
async def state_encode_params(ctx: Context, code: Cid, number: MethodNum, params: Any) -> bytes:
    """The CBOR of parameters given as JSON. Errors: unknown code or method; JSON of another type."""
    name, version = await _kind_anywhere(ctx, code) or ("", 0)
    try:
        return params_cbor(name, version, number, params, str(code) if code else "b")
    except NoSuchMethod as error:
        raise MethodError(f"getting params type: {error}") from error
    except GoPanic as error:
        raise FatalError("Filecoin.StateEncodeParams", error) from error


async def _kind_anywhere(ctx: Context, code: Cid) -> tuple[str, int] | None:
    """(manifest name, actors version) of a code, in the bundles or in the head's state."""
    if not code:
        return None
    found = known_code(code)
    if found is not None:
        return found
    _, states = await states_at(ctx, TipsetKey())
    return await kind_of_code(states.tree, code, states.network_version)

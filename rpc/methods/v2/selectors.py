"""/rpc/v2: tipsets and actors by selector. Source: Lotus `node/impl/full/chain_v2.go`, `state_v2.go`.

A selector is one of a tag (latest, safe, finalized), a tipset key, or a height below an anchor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from chain.address import Address
from chain.consensus.finality import FINALITY
from chain.errors import ActorNotFound, BadObject, BadRequest, NotFound
from chain.tipset import Tipset, TipsetKey
from rpc.context import Context
from rpc.errors import MethodError, RpcError
from rpc.lookup.actor_states import actor_json, lookup_id, tree_at
from rpc.lookup.finality import ec_finality, ec_finalized, f3_finalized, finalized_tipset, safe_tipset
from rpc.lookup.tipsets import load_tipset, tipset_at
from rpc.lotus_json import json_cache
from rpc.params import field_of, mismatch, param_of
from rpc.registry import V2, Cache, Cost, method

_KEY = param_of("key", TipsetKey)
_EPOCH = param_of("at", int)


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where a height is looked for from: a key, a tag, or (neither) the head."""

    key: TipsetKey | None = None
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Height:
    """An epoch; `previous` takes the tipset before a null round instead of the one after."""

    at: int | None
    previous: bool
    anchor: Anchor | None


@dataclass(frozen=True, slots=True)
class Selector:
    """What was given; whether it makes sense is said by `validate`."""

    key: TipsetKey | None = None
    height: Height | None = None
    tag: str | None = None

    def validate(self) -> None:
        """Errors: BadRequest."""
        if self.height is not None:
            _validate_height(self.height)
        given = sum(part is not None for part in (self.key, self.height, self.tag))
        if given != 1:
            raise BadRequest(
                f"validating selector: exactly one tipset selection criteria must be specified, found: {given}"
            )


def _validate_height(height: Height) -> None:
    where = "validating selector: validating tipset height"
    if height.at is None:
        raise BadRequest(f"{where}: invalid tipset height: at epoch must be specified")
    if height.at < 0:
        raise BadRequest(f"{where}: invalid tipset height: epoch cannot be less than zero")
    if height.anchor is not None and height.anchor.key is not None and height.anchor.tag is not None:
        raise BadRequest(f"{where}: invalid tipset anchor: at most one of key or tag must be specified")


def _fields(value: Any, go: str) -> dict[str, Any]:
    """An object's fields by lower-case name, as Go matches them; null is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise mismatch(value, go)
    return {name.lower(): item for name, item in value.items()}


def _tag(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise mismatch(value, "types.TipSetTag")
    return value


def _key(value: Any) -> TipsetKey | None:
    if value is None:
        return None
    key: TipsetKey = _KEY.decode(value)
    return key


class _SelectorParam:
    go = "types.TipSetSelector"

    def decode(self, value: Any) -> Selector:
        fields = _fields(value, self.go)
        height: Height | None = None
        if fields.get("height") is not None:
            with field_of("TipSetSelector", "height"):
                given = _fields(fields["height"], "types.TipSetHeight")
            with field_of("TipSetHeight", "height.previous"):
                previous = given.get("previous", False)
                if previous is not None and not isinstance(previous, bool):
                    raise mismatch(previous, "bool")
            with field_of("TipSetHeight", "height.at"):
                at = None if given.get("at") is None else _EPOCH.decode(given["at"])
            height = Height(at, bool(previous), self._anchor(given.get("anchor")))
        with field_of("TipSetSelector", "key"):
            key = _key(fields.get("key"))
        with field_of("TipSetSelector", "tag"):
            return Selector(key, height, _tag(fields.get("tag")))

    @staticmethod
    def _anchor(value: Any) -> Anchor | None:
        if value is None:
            return None
        with field_of("TipSetHeight", "height.anchor"):
            parts = _fields(value, "types.TipSetAnchor")
        with field_of("TipSetAnchor", "height.anchor.key"):
            key = _key(parts.get("key"))
        with field_of("TipSetAnchor", "height.anchor.tag"):
            return Anchor(key, _tag(parts.get("tag")))


SelectorParam = Annotated[Selector, _SelectorParam()]


async def _by_tag(ctx: Context, tag: str) -> Tipset:
    if tag == "latest":
        return (await ctx.head()).tipset
    if tag == "finalized":
        return await finalized_tipset(ctx)
    if tag == "safe":
        return await safe_tipset(ctx)
    raise BadRequest(f"unknown tipset tag: {tag}")


async def select(ctx: Context, selector: Selector) -> Tipset:
    """The tipset that a selector names. Errors: BadRequest, NotFound, NotHeld."""
    selector.validate()
    if selector.key is not None:
        return await load_tipset(ctx, selector.key) if selector.key else (await ctx.head()).tipset
    if selector.tag is not None:
        return await _by_tag(ctx, selector.tag)
    height = selector.height
    assert height is not None
    assert height.at is not None
    try:
        start = await _anchored(ctx, height.anchor)
    except (BadRequest, NotFound, BadObject) as error:
        raise BadRequest(f"getting anchor from tipset: {error}") from None
    return await tipset_at(ctx, height.at, start, height.previous)


async def _anchored(ctx: Context, anchor: Anchor | None) -> Tipset:
    if anchor is None:
        return await finalized_tipset(ctx)
    if anchor.key is not None:
        return await load_tipset(ctx, anchor.key) if anchor.key else (await ctx.head()).tipset
    return await _by_tag(ctx, "latest" if anchor.tag is None else anchor.tag)


@method("Filecoin.ChainGetTipSet", versions=V2, cache=Cache.HEAD)
async def chain_get_tipset_v2(ctx: Context, selector: SelectorParam) -> dict[str, Any]:
    """The tipset that a selector names. Errors: BadRequest, NotFound, NotHeld."""
    return json_cache(ctx).tipset(await select(ctx, selector))  # type: ignore[return-value]


@method("Filecoin.ChainGetTipSetFinalityStatus", versions=V2, cache=Cache.HEAD)
async def chain_get_tipset_finality_status(ctx: Context) -> dict[str, Any]:
    """What the calculator, F3 and both together hold final. Errors: NotHeld."""
    cache = json_cache(ctx)
    head = (await ctx.head()).tipset
    ec = await ec_finality(ctx)
    final = await ec_finalized(ctx)
    f3 = await f3_finalized(ctx, head.height - FINALITY)
    if f3 is not None and f3.height > final.height:
        final = f3
    return {
        "ecFinalityThresholdDepth": ec.depth,
        "ecFinalizedTipSet": None if ec.tipset is None else cache.tipset(ec.tipset),
        "f3FinalizedTipSet": None if f3 is None else cache.tipset(f3),
        "finalizedTipSet": cache.tipset(final),
        "head": cache.tipset(head),
    }


async def _selected(ctx: Context, selector: Selector) -> Tipset:
    try:
        return await select(ctx, selector)
    except (BadRequest, NotFound, BadObject) as error:
        raise BadRequest(f"getting tipset: {error}") from None


@method("Filecoin.StateGetActor", versions=V2, cost=Cost.STATE, cache=Cache.HEAD)
async def state_get_actor_v2(ctx: Context, address: Address, selector: SelectorParam) -> dict[str, Any]:
    """An actor as the selected tipset sees it. Errors: actor not found, BadRequest, NotHeld."""
    tipset = await _selected(ctx, selector)
    tree = await tree_at(ctx, tipset.key)
    return actor_json(ctx, await tree.find(address, ctx.network.address_prefix))


@method("Filecoin.StateGetID", versions=V2, cost=Cost.STATE, cache=Cache.HEAD)
async def state_get_id_v2(ctx: Context, address: Address, selector: SelectorParam) -> Address:
    """The ID address of an address as the selected tipset sees it. Errors: actor not found, BadRequest, NotHeld."""
    tipset = await _selected(ctx, selector)
    try:
        return await lookup_id(ctx, address, tipset.key)
    except (ActorNotFound, RpcError) as error:
        raise MethodError(f"looking up ID: {error}") from None

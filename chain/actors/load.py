"""Loads actors from a state tree: kind, version and state.

Errors are worded as Lotus words them ("actor code is not miner: account"), because clients read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blockstore.cid import Cid
from chain.actors.codes import known_code
from chain.actors.methods import KINDS, Kind
from chain.actors.versions import LAST_NETWORK_VERSION, LAST_VERSION, UnknownActors, actors_version, unknown_actors
from chain.address import Address, from_id
from chain.errors import ActorNotFound, ChainError
from chain.ipld.dag_cbor import decode
from chain.ipld.objects import ObjectReader
from chain.state.state_tree import Actor, StateTree

SYSTEM = from_id(0)
INIT = from_id(1)
REWARD = from_id(2)
CRON = from_id(3)
POWER = from_id(4)
MARKET = from_id(5)
VERIFREG = from_id(6)
DATACAP = from_id(7)
BURNT_FUNDS = from_id(99)


class WrongKind(ChainError):
    """An actor of another kind than the method needs."""


async def kind_of_code(tree: StateTree, code: Cid, network_version: int) -> tuple[str, int] | None:
    """(manifest name, actors version) of a code CID that occurs in `tree`, or None for an unknown one.

    `network_version` counts only for networks of which Lotus embeds no bundle. Errors: UnknownActors (a version
    newer than this release), Missing, BadObject.
    """
    found = known_code(code)
    if found is not None:
        if found[1] > LAST_VERSION:
            raise UnknownActors(found[1])
        return found
    if network_version > LAST_NETWORK_VERSION:
        raise unknown_actors(network_version)
    tree.check_code(code)
    name = await tree.code_name(code)
    return None if name is None else (name, actors_version(network_version))


@dataclass(frozen=True, slots=True)
class Loaded:
    """An actor with its decoded state: a dict by field name, of the types that `schema` lists. Others share the state:
    it is not to be changed."""

    actor: Actor
    kind: Kind
    version: int
    state: dict[str, Any]


class States:
    """The actors of one state root. `network_version` is the network's at the tipset asked about; `prefix`, the
    letter that addresses begin with in the texts of errors."""

    __slots__ = ("network_version", "prefix", "reader", "tree")

    def __init__(self, reader: ObjectReader, tree: StateTree, network_version: int, prefix: str = "f") -> None:
        self.reader = reader
        self.tree = tree
        self.network_version = network_version
        self.prefix = prefix

    @property
    def actors_version(self) -> int:
        """The actors version that goes with the network version. Errors: UnknownActors."""
        if self.network_version > LAST_NETWORK_VERSION:
            raise unknown_actors(self.network_version)
        return actors_version(self.network_version)

    async def actor(self, address: Address) -> Actor:
        """The actor at an address of any form. Errors: ActorNotFound, Missing, BadObject."""
        return await self.tree.find(address, self.prefix)

    async def lookup_id(self, address: Address) -> Address:
        """The ID address of an address. Errors: ActorNotFound, Missing, BadObject."""
        try:
            return await self.tree.lookup_id(address)
        except ActorNotFound as error:
            raise ActorNotFound(f"resolve address {address.text(self.prefix)}: actor not found") from error

    async def load(self, address: Address, kind: str) -> Loaded:
        """The actor at `address`, which must be of `kind` (a module's name), with its state.

        Errors: ActorNotFound, WrongKind, OldActors, UnknownActors, Missing, BadObject.
        """
        return await self.state_of(await self.actor(address), kind)

    async def kind_of(self, actor: Actor) -> tuple[str, int]:
        """(manifest name, actors version). Errors: UnknownActors; WrongKind, for a code that is no built-in actor's."""
        found = await kind_of_code(self.tree, actor.code, self.network_version)
        if found is None:
            raise WrongKind(f"unknown actor code {actor.code}")
        return found

    async def state_of(self, actor: Actor, kind: str) -> Loaded:
        """The state of an actor that must be of `kind`. Errors: as `load`."""
        wanted = KINDS[kind]
        name, version = await self.kind_of(actor)
        if name != wanted.manifest:
            raise WrongKind(f"actor code is not {kind}: {name}")
        state_type = wanted.type("State", version)  # refuses older versions before the state is read
        cache = self.tree.cache
        key = b"S%d%b,%b" % (version, kind.encode(), actor.head)
        state = None if cache is None else cache.get(key)
        if state is None:
            data = await self.reader.get(actor.head)
            state = state_type.decode(decode(data))
            if cache is not None:
                cache.put(key, state, len(data))
        return Loaded(actor, wanted, version, state)

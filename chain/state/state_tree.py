"""The state tree: every actor by its ID address, the address map of the init actor, the actor codes of the manifest.

A root is `[version, actors, info]` (versions 1 to 5), or the map of actors itself (version 0). The map is a HAMT of bit
width 5. Its key is the ID address, its value `[code, head, nonce, balance]`; version 5 (from network version 18)
appends the delegated address or null.
Source: Lotus `chain/state/statetree.go`, `chain/types/actor.go`, `chain/vm/vm.go`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from blockstore.cid import Cid
from blockstore.errors import BadCid
from chain.address import Address, from_id
from chain.errors import ActorNotFound, BadAddress, BadObject, ChainError, NotHeld
from chain.ipld.bigint import decode_bigint
from chain.ipld.dag_cbor import decode
from chain.ipld.hamt import DELETED, UNREAD, Hamt, get_each
from chain.ipld.hamt import diff as diff_maps
from chain.ipld.objects import ObjectReader
from chain.ipld.tree_nodes import NodeCache

#: Refuses a code by raising.
CodeCheck = Callable[[Cid], None]

SYSTEM: Final = from_id(0)
INIT: Final = from_id(1)

_MAX_VERSION: Final = 5
#: bytes of an actor's encoded form, about
_ACTOR_BYTES: Final = 100
_BIT_WIDTH: Final = 5
#: actors whose delegated address is their only robust one. A contract ("evm") has a second one, of its creation.
_ONLY_DELEGATED: Final = frozenset({"ethaccount", "placeholder"})


@dataclass(frozen=True, slots=True)
class Actor:
    """One actor. `balance`: attoFIL; `delegated`: its f4 address, if it has one."""

    code: Cid
    head: Cid
    nonce: int
    balance: int
    delegated: Address | None = None


@dataclass(frozen=True, slots=True)
class InitState:
    """The init actor's state. `next_id`: the ID of the next new actor; `addresses`: robust address to ID."""

    addresses: Hamt
    next_id: int
    network_name: str


class AskedActors(Protocol):
    """Who is told which actors requests ask for (`chain.state.recent_actors`)."""

    def take(self, root: bytes, address: Address) -> Actor | None:
        """Note that an actor is asked for under a state root; the actor, if it was read ahead."""


class UnresolvedAddress(ChainError):
    """The address belongs to an actor without a key address."""


def decode_actor(value: Any, version: int = _MAX_VERSION) -> Actor:
    """An actor from its decoded fields. `version`: of the state tree. Errors: BadObject."""
    if type(value) is not list or len(value) != (5 if version >= 5 else 4):
        raise BadObject(f"an actor of a state tree of version {version} is a list of {5 if version >= 5 else 4}")
    code, head, nonce, balance = value[:4]
    if type(code) is not bytes or type(head) is not bytes or type(nonce) is not int or nonce < 0:
        raise BadObject("an actor is [code, head, nonce, balance]")
    delegated: Address | None = None
    if version >= 5 and value[4] is not None:
        delegated = _address(value[4])
    return Actor(Cid(code), Cid(head), nonce, decode_bigint(balance), delegated)


def _address(value: Any) -> Address:
    if type(value) is not bytes or not value:
        raise BadObject("an address is a byte string")
    try:
        return Address.checked(value)
    except BadAddress as error:
        raise BadObject(str(error)) from None


def actor_key(root: bytes, address: bytes) -> bytes:
    """Where the actor at an address under a state root is kept in a `NodeCache`."""
    return b"a" + root + address


class StateTree:
    """The actors of one state root."""

    __slots__ = ("_check", "_codes", "_init", "_recent", "actors", "cache", "reader", "root", "version")

    def __init__(
        self,
        reader: ObjectReader,
        root: Cid,
        version: int,
        actors: Cid,
        cache: NodeCache | None = None,
        check: CodeCheck | None = None,
        recent: AskedActors | None = None,
    ) -> None:
        self.reader = reader
        self.root = root
        self.version = version
        self.cache = cache
        self._check = check
        self._recent = recent
        self.actors = Hamt(reader, actors, _BIT_WIDTH, cache)
        self._init: InitState | None = None
        self._codes: dict[str, Cid] | None = None

    @classmethod
    async def load(
        cls,
        objects: ObjectReader,
        root: bytes,
        cache: NodeCache | None = None,
        check: CodeCheck | None = None,
        recent: AskedActors | None = None,
    ) -> StateTree:
        """The tree under `root`. Takes one read. `cache`: for decoded nodes. `recent`: told who is asked for.

        `check` refuses the codes of actors whose states this release cannot decode, before one is decoded here.
        Errors: BadObject, Missing, NotHeld (a version of the tree that is not known).
        """
        version, actors = _root_of(root, await objects.get(root))
        return cls(objects, Cid(root), version, actors, cache, check, recent)

    def check_code(self, code: Cid) -> None:
        """Refuse the code of an actor whose state this release cannot decode. Errors: those of `check`."""
        if self._check is not None:
            self._check(code)

    async def get(self, address: Address, *, is_asked: bool = True) -> Actor:
        """The actor at an address of any form. One read a level of the tree; a robust address is first resolved in the
        init actor's map. `is_asked`: by a request, not by a message. Errors: ActorNotFound, BadObject, Missing.
        """
        if not address:
            raise ChainError("GetActor called on undefined address")
        known = self._asked_before(address) if is_asked else self._cached(address)
        if known is not None:
            return known
        try:
            address_id = await self.lookup_id(address) if address[0] else address
        except ActorNotFound as error:
            raise ActorNotFound(f"resolution lookup failed ({address}): {error}") from None
        found = await self.actors.get(address_id)
        if found is None:
            raise ActorNotFound
        actor = decode_actor(found, self.version)
        # what is in the cache is not noted when it is asked for
        if is_asked:
            self._keep(address, actor)
        return actor

    def peek(self, address: Address) -> Actor | None:
        """The actor that a request asks for, as far as memory tells: None where it does not, or where there is none.

        Errors: BadObject.
        """
        known = self._asked_before(address)
        if known is not None:
            return known
        address_id = address
        if address[0]:
            found = UNREAD if self._init is None else self._init.addresses.peek(address)
            if found is UNREAD or found is None:
                return None
            address_id = _id(found)
        value = self.actors.peek(address_id)
        if value is UNREAD or value is None:
            return None
        actor = decode_actor(value, self.version)
        self._keep(address, actor)
        return actor

    def _cached(self, address: Address) -> Actor | None:
        return None if self.cache is None else self.cache.get(actor_key(self.root, address))

    def _keep(self, address: Address, actor: Actor) -> None:
        if self.cache is not None:
            self.cache.put(actor_key(self.root, address), actor, _ACTOR_BYTES)

    def _asked_before(self, address: Address) -> Actor | None:
        """An actor that is cached, or was read ahead; notes that it is asked for."""
        known = self._cached(address)
        if known is not None or self._recent is None:
            return known
        # once for each root and address: what is found now is in the cache from here on
        ahead = self._recent.take(self.root, address)
        if ahead is not None:
            self._keep(address, ahead)
        return ahead

    async def find(self, address: Address, prefix: str) -> Actor:
        """As `get`; texts of errors name addresses with the network's `prefix`."""
        try:
            return await self.get(address)
        except ActorNotFound as error:
            if address.is_id:
                raise
            name = address.text(prefix)
            text = f"resolution lookup failed ({name}): resolve address {name}: actor not found"
            raise ActorNotFound(text) from error

    async def get_many(self, addresses: Sequence[Address]) -> list[Actor | None]:
        """The actors at many addresses, in their order; None for those without one. One read a level for all.

        Errors: ActorNotFound (no init actor), BadObject, Missing.
        """
        robust = [address for address in addresses if address[0]]
        ids: dict[Address, bytes] = {}
        if robust:
            found = await (await self.init_state()).addresses.get_many(robust)
            ids = {address: _id(one) for address, one in zip(robust, found, strict=True) if one is not None}
        keys = [ids.get(address, b"") if address[0] else address for address in addresses]
        values = iter(await self.actors.get_many([key for key in keys if key]))
        actors: list[Actor | None] = []
        for key in keys:
            value = next(values) if key else None
            actors.append(None if value is None else decode_actor(value, self.version))
        return actors

    async def lookup_id(self, address: Address) -> Address:
        """The ID address of an address. An ID address is returned as it is, even if it has no actor.
        Errors: ActorNotFound, BadObject, Missing."""
        if address.is_id:
            return address
        found = await (await self.init_state()).addresses.get(address)
        if found is None:
            raise ActorNotFound(f"resolve address {address}: actor not found")
        return _id(found)

    async def init_state(self) -> InitState:
        """The init actor's state. Read once for each tree. Errors: ActorNotFound, BadObject, Missing."""
        if self._init is None:
            actor = await self.get(INIT, is_asked=False)
            self.check_code(actor.code)
            value = decode(await self.reader.get(check_cid(actor.head)))
            if type(value) is not list or len(value) != 3:
                raise BadObject("the init actor's state is a list of 3")
            addresses, next_id, name = value
            if type(addresses) is not bytes or type(next_id) is not int or type(name) is not str:
                raise BadObject("the init actor's state is [address map, next ID, network name]")
            self._init = InitState(Hamt(self.reader, addresses, _BIT_WIDTH, self.cache), next_id, name)
        return self._init

    async def first_robust_address(self, address: Address) -> Address | None:
        """The robust address of an ID address that comes first in the init actor's map, or None if it has none there.

        An actor that can only have one tells it itself, and the map confirms it: a few reads. For all others, among
        them contracts, which have two, the whole map is walked.
        Errors: ActorNotFound (no init actor), BadObject, Missing.
        """
        told = await self._told_by_itself(address)
        if told is not None and await (await self.init_state()).addresses.get(told) == address.id:
            return told
        async for found in self.robust_addresses(address):
            return found
        return None

    async def _told_by_itself(self, address: Address) -> Address | None:
        """The only robust address that an actor can have, as it tells it, or None. Errors: BadObject, Missing."""
        try:
            actor = await self.get(address, is_asked=False)
            name = await self.code_name(actor.code)
            if name in _ONLY_DELEGATED:
                return actor.delegated
            if name == "account" and actor.delegated is None:
                return await self.account_key(address)
        except (ActorNotFound, BadObject):
            # an entry of the map can outlive its actor, and needs nothing of the actor's state
            return None
        return None

    async def robust_addresses(self, address: Address) -> AsyncIterator[Address]:
        """The robust addresses of an ID address. Walks the whole address map.

        Errors: ActorNotFound, BadObject, Missing.
        """
        wanted = address.id
        async for key, value in (await self.init_state()).addresses.items():
            if value == wanted:
                yield _address(key)

    async def items(self) -> AsyncIterator[tuple[Address, Actor]]:
        """Every (ID address, actor), in the order of the HAMT. Memory is bounded. Errors: BadObject, Missing."""
        async for key, value in self.actors.items():
            yield _address(key), decode_actor(value, self.version)

    async def diff(self, newer: StateTree) -> AsyncIterator[tuple[Address, Actor | None, Actor | None]]:
        """(ID address, actor here, actor in `newer`) of every actor that differs. Errors: BadObject, Missing."""
        async for key, old, new in diff_maps(self.actors, newer.actors):
            yield (
                _address(key),
                None if old is DELETED else decode_actor(old, self.version),
                None if new is DELETED else decode_actor(new, newer.version),
            )

    async def account_key(self, address: Address) -> Address:
        """The key address or delegated address of an account. An address of these protocols is returned as it is.

        Errors: ActorNotFound, UnresolvedAddress (not an account), BadObject, Missing.
        """
        if address.protocol in (1, 3, 4):
            return address
        try:
            actor = await self.get(address)
        except ActorNotFound:
            raise ActorNotFound(f"failed to find actor: {address}") from None
        if actor.delegated is not None:
            return actor.delegated
        self.check_code(actor.code)
        name = await self.code_name(actor.code)
        if name != "account":
            reason = f"actor code is not account: {name}" if name else f"unknown actor code {actor.code}"
            raise UnresolvedAddress(f"failed to get account actor state for {address}: {reason}")
        value = decode(await self.reader.get(check_cid(actor.head)))
        if type(value) is not list or len(value) != 1:
            raise BadObject("an account's state is a list of 1")
        return _address(value[0])

    async def manifest_cid(self) -> Cid:
        """The CID of the manifest: the list of actor codes that the system actor's state links to (actors 8 and later).

        Errors: ActorNotFound, BadObject, Missing.
        """
        actor = await self.get(SYSTEM, is_asked=False)
        self.check_code(actor.code)
        value = decode(await self.reader.get(check_cid(actor.head)))
        if type(value) is not list or len(value) != 1 or type(value[0]) is not bytes:
            raise BadObject("the system actor's state is not [manifest]")
        return check_cid(value[0])

    async def actor_codes(self) -> dict[str, Cid]:
        """Actor codes by their name in the manifest ("account", "storageminer", …). Read once for each tree.

        Errors: as `manifest_cid`.
        """
        if self._codes is not None:
            return self._codes
        entries = decode(await self.reader.get(await self.manifest_cid()))
        if type(entries) is not list:
            raise BadObject("the actors' manifest is not a list")
        found: dict[str, Cid] = {}
        for entry in entries:
            if type(entry) is not list or len(entry) != 2 or type(entry[0]) is not str or type(entry[1]) is not bytes:
                raise BadObject("the actors' manifest is not a list of [name, code]")
            found[entry[0]] = check_cid(entry[1])
        self._codes = found
        return found

    async def code_name(self, code: Cid) -> str | None:
        """The manifest name of a code, or None. A code from before actors 8, as "fil/1/account", gives "account".

        Errors: as `manifest_cid`.
        """
        if check_cid(code).is_identity:
            text = code.identity_content.decode("utf-8", "replace")
            return text.rpartition("/")[2] if text.startswith("fil/") else None
        for name, known in (await self.actor_codes()).items():
            if known == code:
                return name
        return None


def _root_of(root: bytes, data: bytes) -> tuple[int, Cid]:
    """(version, map of actors) of a state root, from its bytes. Errors: BadObject, NotHeld (an unknown version)."""
    value = decode(data)
    if type(value) is not list:
        raise BadObject("a state root is a list")
    if len(value) != 3:
        return 0, Cid(root)
    version, actors, _ = value
    if type(version) is not int or type(actors) is not bytes:
        raise BadObject("a state root is [version, actors, info]")
    if version < 0:
        raise BadObject(f"unsupported state tree version: {version}")
    if version > _MAX_VERSION:
        raise NotHeld(f"state tree version {version} (this release reads versions up to {_MAX_VERSION})")
    return version, Cid(actors)


async def actor_in_each(reader: ObjectReader, roots: Sequence[Cid], address: Address) -> list[Actor | None]:
    """The actor with this ID address under each state root, in their order; None where there is none.

    One read a level of the trees for all roots together. What they have in common is read once. Errors: BadObject,
    Missing, NotHeld.
    """
    distinct = list(dict.fromkeys(roots))
    heads = [_root_of(root, data) for root, data in zip(distinct, await reader.get_many(distinct), strict=True)]
    values = await get_each(reader, [(actors, address) for _, actors in heads], _BIT_WIDTH)
    found = {
        root: None if value is None else decode_actor(value, version)
        for root, (version, _), value in zip(distinct, heads, values, strict=True)
    }
    return [found[root] for root in roots]


def check_cid(data: bytes) -> Cid:
    """The CID that these bytes are. Errors: BadObject."""
    try:
        cid = Cid(data)
        if cid.multihash[:1] == b"\0":
            _ = cid.identity_content
        elif len(data) != 38:
            _ = cid.codec
    except (BadCid, IndexError) as error:
        raise BadObject(f"a link is no CID: {error}") from None
    return cid


def _id(value: Any) -> Address:
    if type(value) is not int or value < 0:
        raise BadObject("an actor ID is a number")
    try:
        return from_id(value)
    except BadAddress as error:
        raise BadObject(str(error)) from None

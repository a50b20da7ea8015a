"""Generations: objects lie in places of which the oldest is dropped whole, so that a store keeps its size.

A store with generations has one *lasting* place (headers, and what is kept for ever) and a few *generations*, numbered
from 1. New objects go to the current one. A generation is *self-contained*: what is closed in it has everything below
it in it or in the lasting place. So a generation can be dropped without a look at the others, as soon as nothing that
it alone holds is kept any more. What is closed in the previous generation counts as loose: who closes it again copies
it to the current one.

The *layout* says which generations there are. It is one row of META, so it is fenced like every row of a leader.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, runtime_checkable

import orjson

from blockstore.errors import Missing
from blockstore.store import META, Batch, Held, Store, Table

#: the number of the place that is never dropped
LASTING: Final = 0
#: the row of META that holds the layout
LAYOUT_KEY: Final = b"generations"


@dataclass(frozen=True, slots=True)
class Layout:
    """Which generations there are.

    `held`: those that are read, the current one first; at most two. `next`: the one that is being filled, if any.
    `begins`: by generation, the lowest epochs from which on it holds (every state, all messages) that are kept; of the
    first one, when it was first looked at.
    """

    held: tuple[int, ...] = (1,)
    next: int | None = None
    begins: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def current(self) -> int:
        """The generation that is written to."""
        return self.held[0]

    @property
    def previous(self) -> int | None:
        """The one that is to be dropped next."""
        return self.held[1] if len(self.held) > 1 else None

    @property
    def numbers(self) -> tuple[int, ...]:
        """All generations that are named: none of them may be dropped."""
        return self.held if self.next is None else (*self.held, self.next)

    def with_next(self) -> Layout:
        """The layout in which a new generation is being filled."""
        return replace(self, next=self.current + 1)

    def switched(self, state: int, messages: int) -> Layout:
        """The layout in which the next generation is the current one, whole from these epochs on."""
        if self.next is None or len(self.held) > 1:
            raise ValueError("there is no next generation, or the previous one is still held")
        return Layout((self.next, *self.held), None, {**self.begins, self.next: (state, messages)})

    def without_previous(self) -> Layout:
        """The layout without the oldest generation."""
        return Layout(self.held[:1], self.next, {self.current: self.begins[self.current]})

    def with_begin(self, state: int) -> Layout:
        """The layout that notes when its first generation was first looked at."""
        return replace(self, begins={**self.begins, self.current: (state, 0)})

    def encode(self) -> bytes:
        """The stored form."""
        begins = {str(number): epochs for number, epochs in self.begins.items()}
        return orjson.dumps({"held": self.held, "next": self.next, "begins": begins})


def decode_layout(value: bytes | None) -> Layout:
    """The layout that a row says; a store without one has its first generation."""
    if value is None:
        return Layout()
    raw = orjson.loads(value)
    begins = {int(number): (state, messages) for number, (state, messages) in raw["begins"].items()}
    return Layout(tuple(raw["held"]), raw["next"], begins)


def put_layout(batch: Batch, layout: Layout) -> None:
    """Write the layout with a batch."""
    batch.put(META, b"", LAYOUT_KEY, layout.encode())


class Place(Protocol):
    """Where objects lie: one generation, or the lasting place. Errors: StoreUnavailable; writers also StoreFull."""

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        """The objects in the order asked for."""

    async def held_many(self, multihashes: Sequence[bytes]) -> list[Held]:
        """How each is held here."""

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        """As `Store.put_many`."""

    async def mark_closed(self, multihashes: Sequence[bytes]) -> None:
        """Mark objects that are held here as closed."""


@runtime_checkable
class GenerationalStore(Protocol):
    """What a store with generations has beside `Store`."""

    #: reads of one place; each object that was asked for counts once for each place that was looked into
    looks: int

    @property
    def current_generation(self) -> int:
        """The generation that is written to, as far as this store object knows: it read the layout a while ago."""

    async def layout(self) -> Layout:
        """The layout as it is now; what this store object reads follows it."""

    def place(self, number: int) -> Place:
        """A place by its number: a generation of the layout, or LASTING."""

    async def make_generation(self, number: int) -> None:
        """Make the place of a generation, if it is not there."""

    async def drop_generation(self, number: int) -> None:
        """Remove a generation whole. One that is not there is no error. It is in no layout any more."""

    async def generations(self) -> list[int]:
        """The numbers of all generations that take room, of the layout or not."""

    async def drop_partitions(self, table: Table, partitions: Sequence[bytes]) -> None:
        """Remove all rows of some partitions. In LMDB the term fences it as it does `write`."""


class ObjectPlace(Protocol):
    """What a walk needs of a store."""

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        """As `Store.get_many`."""

    async def held_many(self, multihashes: Sequence[bytes]) -> list[Held]:
        """As `Store.held_many`."""

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        """As `Store.put_many`."""

    async def close_many(self, multihashes: Sequence[bytes]) -> None:
        """As `Store.close_many`."""


class ObjectsInto:
    """The objects of a store, for a writer that writes to one place.

    Closed is what is closed there, or in the lasting place. All else that the store holds is loose: closing it copies
    it there.
    """

    def __init__(self, store: Store, number: int) -> None:
        assert isinstance(store, GenerationalStore)
        self._store = store
        self._into = store.place(number)
        self._lasting = None if number == LASTING else store.place(LASTING)

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        """The objects, wherever they lie."""
        return await self._store.get_many(multihashes)

    async def held_many(self, multihashes: Sequence[bytes]) -> list[Held]:
        """How each counts for a writer to this place."""
        return await held_for(self._into, self._lasting, self._held_elsewhere, multihashes)

    async def _held_elsewhere(self, multihashes: Sequence[bytes]) -> list[Held]:
        return await self._store.held_many(multihashes)

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        """Store objects in this place."""
        await self._into.put_many(objects, closed=closed)

    async def close_many(self, multihashes: Sequence[bytes]) -> None:
        """Mark objects as closed, and copy those that lie elsewhere. Errors: Missing."""
        await close_in(self._into, self._store.get_many, multihashes)


class OnlyIn(ObjectsInto):
    """The same for a pass that copies to a place: what is not there counts as absent, wherever else it is held."""

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        """What is there."""
        return await self._into.get_many(multihashes)

    async def _held_elsewhere(self, multihashes: Sequence[bytes]) -> list[Held]:
        return [Held.ABSENT] * len(multihashes)

    async def close_many(self, multihashes: Sequence[bytes]) -> None:
        """Mark what is there as closed."""
        await self._into.mark_closed(multihashes)


async def held_for(
    into: Place,
    lasting: Place | None,
    elsewhere: Callable[[Sequence[bytes]], Awaitable[list[Held]]],
    multihashes: Sequence[bytes],
) -> list[Held]:
    """How objects count for a writer to `into`: CLOSED there or in `lasting`, else LOOSE wherever they are held."""
    out = await into.held_many(multihashes)
    left = [at for at, held in enumerate(out) if held != Held.CLOSED]
    if lasting is not None and left:
        for at, held in zip(left, await lasting.held_many([multihashes[at] for at in left]), strict=True):
            out[at] = max(out[at], held)
        left = [at for at in left if out[at] != Held.CLOSED]
    left = [at for at in left if out[at] == Held.ABSENT]
    if left:
        for at, held in zip(left, await elsewhere([multihashes[at] for at in left]), strict=True):
            out[at] = Held.LOOSE if held else Held.ABSENT
    return out


async def close_in(
    into: Place, get_many: Callable[[Sequence[bytes]], Awaitable[list[bytes | None]]], multihashes: Sequence[bytes]
) -> None:
    """Mark objects of a place as closed; `get_many` has those that lie elsewhere: they are copied. Errors: Missing."""
    held = await into.held_many(multihashes)
    here = [one for one, how in zip(multihashes, held, strict=True) if how == Held.LOOSE]
    away = [one for one, how in zip(multihashes, held, strict=True) if how == Held.ABSENT]
    copies: list[tuple[bytes, bytes]] = []
    for multihash, data in zip(away, await get_many(away) if away else [], strict=True):
        if data is None:
            raise Missing(multihash)
        copies.append((multihash, data))
    if copies:
        await into.put_many(copies, closed=True)
    if here:
        await into.mark_closed(here)


def objects_of(store: Store) -> ObjectPlace:
    """What a writer of a walk uses: the current generation as it is now, though another may become current meanwhile.

    So a walk writes all to one generation, which stays self-contained. A store without generations is its own.
    """
    if isinstance(store, GenerationalStore):
        return ObjectsInto(store, store.current_generation)
    return store


def lasting_objects(store: Store) -> ObjectPlace:
    """The same for what is never dropped."""
    return ObjectsInto(store, LASTING) if isinstance(store, GenerationalStore) else store


async def put_lasting(store: Store, objects: Mapping[bytes, bytes]) -> None:
    """Store objects (bytes by multihash) closed where nothing is dropped: headers. What is there stays as it is."""
    if not isinstance(store, GenerationalStore):
        await store.put_many(objects.items(), closed=True)
        return
    place = store.place(LASTING)
    held = await place.held_many(list(objects))
    new = [pair for pair, how in zip(objects.items(), held, strict=True) if how != Held.CLOSED]
    if new:
        await place.put_many(new, closed=True)


async def keep_lasting(store: Store, multihashes: Sequence[bytes]) -> None:
    """The same for objects that the store holds: they are copied. Errors: Missing."""
    if not isinstance(store, GenerationalStore):
        await store.close_many(multihashes)
        return
    objects = dict(zip(multihashes, await store.get_many(multihashes), strict=True))
    for multihash, data in objects.items():
        if data is None:
            raise Missing(multihash)
    await put_lasting(store, {multihash: data for multihash, data in objects.items() if data is not None})

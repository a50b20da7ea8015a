"""What the two forms of archives have in common: steps that ask for bytes, and the objects that they lead to.

A search is a generator: it yields the span of the file that it needs and gets its bytes. Many searches run side by
side, so that each round reads all that they ask for at once.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from blockstore.archive.source import ByteSource, Span
from blockstore.cid import read_cid, read_uvarint
from blockstore.errors import BadCar, BadCid

T = TypeVar("T")

#: asks for spans, gets their bytes, returns a result
Steps = Generator[Span, bytes, T]

#: rounds of one search; a search in an index that is sound takes a few dozen at most
MAX_ROUNDS: Final = 4096


class TooLong(BadCar):
    """A search that takes more reads than it may."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an index says that an object may be: `entry` numbers the index' entries, `offset` is in the file."""

    entry: int
    offset: int


@dataclass(slots=True)
class Part:
    """A part of the file that was read: its bytes, and where in them each object is, by multihash.

    `cut`: it was longer than what is read here, and its end is left out.
    """

    data: bytes
    objects: dict[bytes, tuple[int, int]]
    cut: bool = False

    @property
    def weight(self) -> int:
        """Bytes of memory, about."""
        return len(self.data) + 300 * len(self.objects) + 500


class Layout(Protocol):
    """The form of an archive."""

    #: entries of the index, numbered from 0; empty ones count
    entries: int
    #: where in the file the objects end
    data_end: int

    def find(self, multihash: bytes) -> Steps[list[Place]]:
        """Where the object may be; [] where the index does not have it. Errors: BadCar."""

    def read(self, offset: int) -> Steps[bytes]:
        """The bytes of the part at an offset that the index gave. Errors: BadCar."""

    def parse(self, offset: int, raw: bytes, limit: int) -> Part:
        """What is in these bytes, of `limit` bytes of content at most. May take milliseconds. Errors: BadCar."""


async def run_steps(source: ByteSource, searches: Sequence[Steps[T]], rounds: int = MAX_ROUNDS) -> list[T | BadCar]:
    """The result of each search, or the error that says what is wrong with the file. Errors: StoreUnavailable.

    A search that takes more than `rounds` is ended, with a TooLong.
    """
    out: list[T | BadCar | None] = [None] * len(searches)
    asked: list[tuple[int, Span]] = []
    answers: list[tuple[int, bytes | None]] = [(at, None) for at in range(len(searches))]
    for turn in range(rounds + 1):
        asked = []
        for at, data in answers:
            try:
                search = searches[at]
                span = next(search) if data is None else search.send(data)
            except StopIteration as done:
                out[at] = done.value
            except BadCar as error:
                out[at] = error
            else:
                asked.append((at, span))
        if not asked or turn == rounds:
            break
        read = await source.read_many([span for _, span in asked])
        answers = [(at, data) for (at, _), data in zip(asked, read, strict=True)]
    for at, span in asked:
        searches[at].close()
        out[at] = TooLong(f"{source.name}: a search takes more than {rounds} reads", span[0])
    return out  # type: ignore[return-value]


def sections(data: bytes, start: int, *, name: str, is_cut: bool, offset: int) -> dict[bytes, tuple[int, int]]:
    """Where the objects of whole CAR sections are, by multihash. `is_cut`: the last one may be incomplete.

    `offset` (in the file) is for errors. Errors: BadCar.
    """
    objects: dict[bytes, tuple[int, int]] = {}
    at, end = start, len(data)
    while at < end:
        try:
            size, body = read_uvarint(data, at)
            behind = body + size
            if behind > end:
                if is_cut:
                    break
                raise BadCar(f"{name}: a section of {size} bytes where {end - body} are left", offset)
            cid, begin = read_cid(data, body)
        except BadCid as error:
            if is_cut:
                break
            raise BadCar(f"{name}: a section without a CID ({error})", offset) from None
        if begin > behind:
            raise BadCar(f"{name}: a section of {size} bytes, shorter than its CID", offset)
        objects[cid.multihash] = (begin, behind)
        at = behind
    return objects

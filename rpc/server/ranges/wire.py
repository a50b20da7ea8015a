"""What goes over the wire between a store that is filled and a follower that gives.

    GET /range                                            what the follower holds and allows, as JSON (`Offer`)
    GET /range?head=HEX&low=EPOCH&high=EPOCH&parts=PARTS  objects of a range of tipsets, as a CARv1
    POST /obj                                             objects; the body is multihashes, each behind its length
    GET /shard-files?after=NAME                           shards of files that are kept, behind this name, as JSON
    GET /shard-files/NAME                                 one of them, as its file holds it (`blockstore.shards.folder`)

Each request has `Authorization: Bearer TOKEN`. `head` is a tipset key: the range is of that tipset's ancestry. `parts`:
`headers`, or `messages` and `receipts` with a comma between. What the follower does not hold stands in the header
`X-Not-Held`: epochs of a range, places in the list of /obj. 404 says that it has nothing of it. An answer ends early
behind 2 MiB: what is neither in it nor in `X-Not-Held` is to be asked for again.

An answer of headers goes from the top down, and ends with the first tipset below the range: it proves that nothing is
left out. Only the genesis has none below it.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from blockstore.car.reader import CarReader
from blockstore.car.writer import car_header
from blockstore.cid import Cid, multihash_end, read_uvarint, uvarint, verify
from blockstore.errors import BadCar, BadCid
from blockstore.shards.erasure import BadShards
from blockstore.shards.folder import is_shard_name
from blockstore.shards.manifest import Manifest, decode_manifest

RANGE: Final = "/range"
OBJECTS: Final = "/obj"
SHARD_FILES: Final = "/shard-files"
NOT_HELD: Final = "X-Not-Held"
CAR_TYPE: Final = "application/vnd.ipld.car"
#: the first bytes of each answer of objects
CAR_START: Final = car_header(())

HEADERS: Final = "headers"
MESSAGES: Final = "messages"
RECEIPTS: Final = "receipts"
PARTS: Final = (HEADERS, MESSAGES, RECEIPTS)

#: epochs of one range of headers, and tipsets of one of messages and receipts
RANGE_EPOCHS: Final = 10
MOST_EPOCHS: Final = 100
#: objects of one request
MOST_OBJECTS: Final = 256
SOFT_BYTES: Final = 2 << 20
HARD_BYTES: Final = 20 << 20
#: tipsets of the head's chain that an offer names
CHAIN_TIPSETS: Final = 100
#: shards of one answer that names them
MOST_SHARDS: Final = 500
#: bytes of a body with the most multihashes
MOST_BODY: Final = MOST_OBJECTS * 80


class BadWire(Exception):
    """What came is not in this form."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a follower holds and allows.

    `chain`: (epoch, tipset key) of its head and the tipsets below, newest first. `held`: the lowest epoch from which on
    it holds headers, messages, state, receipts, events; a kind that it does not hold is left out.
    """

    network: dict[str, Any]
    chain: tuple[tuple[int, bytes], ...]
    held: dict[str, int] = field(default_factory=dict)
    requests_per_second: int = 10

    def to_json(self) -> bytes:
        """The body of an answer."""
        return orjson.dumps(
            {
                "network": self.network,
                "chain": [[height, key.hex()] for height, key in self.chain],
                "held": self.held,
                "requests_per_second": self.requests_per_second,
            }
        )


def read_offer(body: bytes) -> Offer:
    """Errors: BadWire."""
    try:
        value = orjson.loads(body)
        chain = tuple((int(height), bytes.fromhex(key)) for height, key in value["chain"][: 2 * CHAIN_TIPSETS])
        held = {str(name): int(low) for name, low in value["held"].items()}
        limit = int(value["requests_per_second"])
        if not isinstance(value["network"], dict) or limit < 1:
            raise ValueError("no network, or no limit")
        if min([0, *held.values(), *(height for height, _ in chain)]) < 0:
            raise ValueError("an epoch below 0")
        return Offer(value["network"], chain, held, limit)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadWire(f"not an offer: {error}") from None


@dataclass(frozen=True, slots=True)
class KeptShard:
    """A shard that a follower says it keeps, in a file of this name."""

    name: str
    manifest: Manifest
    index: int


def write_kept(shards: Iterable[KeptShard]) -> bytes:
    """The body of an answer that names shards."""
    return orjson.dumps([[one.name, one.manifest.encode().decode(), one.index] for one in shards])


def read_kept(body: bytes) -> list[KeptShard]:
    """Errors: BadWire."""
    found: list[KeptShard] = []
    try:
        for name, manifest, index in orjson.loads(body):
            one = KeptShard(name, decode_manifest(manifest.encode()), index)
            if not is_shard_name(name) or type(index) is not int or not 0 <= index < one.manifest.count:
                raise ValueError("no such shard")
            found.append(one)
    except (ValueError, TypeError, AttributeError, BadShards) as error:
        raise BadWire(f"not a list of shards: {error}") from None
    if len(found) > MOST_SHARDS or any(not one.manifest.file for one in found):
        raise BadWire("not a list of shards: too long, or not of files")
    return found


def encode_multihashes(multihashes: Iterable[bytes]) -> bytes:
    """The body of a request for objects."""
    return b"".join(uvarint(len(one)) + one for one in multihashes)


def read_multihashes(body: bytes) -> list[bytes]:
    """Errors: BadWire (also for more than `MOST_OBJECTS`)."""
    found: list[bytes] = []
    at = 0
    try:
        while at < len(body):
            size, at = read_uvarint(body, at)
            one = body[at : at + size]
            if len(found) == MOST_OBJECTS or multihash_end(one, 0) != size or len(one) != size:
                raise BadWire(f"more than {MOST_OBJECTS} objects, or no multihash")
            found.append(one)
            at += size
    except (BadCid, IndexError) as error:
        raise BadWire(str(error)) from None
    return found


def read_car(body: bytes) -> dict[Cid, bytes]:
    """The objects of an answer, in its order, each verified by its hash. Errors: BadWire, HashMismatch."""
    if not body.startswith(CAR_START):
        # also keeps out what would be unpacked to any size
        raise BadWire("not a CARv1 without roots")
    found: dict[Cid, bytes] = {}
    try:
        for cid, data in CarReader(io.BytesIO(body), check=False, max_section=HARD_BYTES):
            verify(cid.multihash, data)
            found[cid] = data
    except (BadCar, BadCid) as error:
        raise BadWire(str(error)) from None
    return found


def write_numbers(numbers: Sequence[int]) -> str:
    """The value of `X-Not-Held`."""
    return ",".join(map(str, numbers))


def read_numbers(text: str) -> list[int]:
    """Errors: BadWire."""
    try:
        return [int(one) for one in text.split(",") if one]
    except ValueError:
        raise BadWire("not a list of numbers") from None

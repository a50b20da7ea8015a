"""Sorts the objects of a file on disk, so that a store gets them in the order of their keys.

1. `add`: each batch of the file is cut at fixed keys into a few hundred *buckets*, and each part is appended to its
   bucket's file. A manifest with the files' lengths makes the batch count. A killed import cuts the files to these
   lengths and goes on at the manifest's offset.
2. `decide`: which objects are closed is decided before any is stored, so that none is stored twice. While batches come,
   the links out of them are written down, bucket by bucket too. A link is missing if its bucket has no such object. If
   none is, every object of the file is closed. If some are, the objects with links are read once more for those that
   truly link to a missing object, then for those that link to these, and so on; these stay loose. When there are many,
   all objects with links stay loose, and the last pass of the import closes them as it does in a small file.
3. `bucket`: one bucket after another is sorted in memory and appended to the store.

Blocks' headers are closed whatever they name, as everywhere.
"""

from __future__ import annotations

import marshal
import os
import re
import shutil
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from blockstore.car.closed_order import Pairs
from blockstore.cid import Cid
from blockstore.lmdb.place import CLOSED, LOOSE
from chain.errors import BadObject
from leader_bridge.imports.closing import possible_links
from leader_bridge.imports.undecided import read_header
from leader_bridge.store.mirror import walked_links

#: a link, and in it the multihash
_LINK: Final = re.compile(rb"\xd8\x2a\x58\x27\x00\x01[\x71\x55](\xa0\xe4\x02\x20.{32})", re.DOTALL)
_MARK: Final = b"\xd8\x2a"
_CBOR: Final = b"\x01\x71"
#: nearly all keys begin so: blake2b-256
_BLAKE: Final = b"\xa0\xe4\x02\x20"
_MANIFEST: Final = "manifest.json"
_OPEN: Final = "open"
#: bytes of objects in a bucket, about
_BUCKET_BYTES: Final = 128 << 20
_FEWEST_BITS: Final = 4
_MOST_BITS: Final = 12
#: multihashes remembered, so that a link is written down once
_REMEMBERED: Final = 1_000_000
#: more open objects than these, or more levels of them, and the last pass of the import decides
_MOST_OPEN: Final = 200_000
_MOST_PASSES: Final = 12
_NO_REFERENCES: Final = 2


@dataclass(slots=True)
class _Manifest:
    """What counts: the stream and the position in it, the files' lengths, and whether storing has begun."""

    fingerprint: str
    bits: int
    closes: bool
    offset: int = 0
    objects: int = 0
    object_bytes: int = 0
    is_decided: bool = False
    all_loose: bool = False
    lengths: dict[str, int] = field(default_factory=dict)


class SortedRuns:
    """The sorted objects of one file, in `folder`. Its methods block: they are called in threads.

    `closes`: whether objects with links are to be closed (else they are stored loose, for there is no last pass).
    """

    def __init__(self, folder: Path, manifest: _Manifest) -> None:
        self._folder = folder
        self._manifest = manifest
        #: between two of these lies a bucket
        step = 16 - manifest.bits
        limits = [_BLAKE + (number << step).to_bytes(2, "big") for number in range(1 << manifest.bits)]
        self._limits = [*limits, _BLAKE[:-1] + bytes((_BLAKE[-1] + 1,))]
        self._recent: set[bytes] = set()
        self._written: set[bytes] = set()
        self._open: frozenset[bytes] = frozenset()

    @classmethod
    def begin(cls, folder: Path, fingerprint: str, size: int, *, closes: bool) -> SortedRuns:
        """New runs for a file of about `size` bytes of objects; what `folder` held is deleted. Errors: OSError."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        bits = min(max((size // _BUCKET_BYTES).bit_length(), _FEWEST_BITS), _MOST_BITS)
        runs = cls(folder, _Manifest(fingerprint, bits, closes))
        runs._save()
        return runs

    @classmethod
    def resume(cls, folder: Path, fingerprint: str, *, closes: bool) -> SortedRuns | None:
        """The runs of an earlier run of the same import; None where there are none. Errors: OSError."""
        try:
            manifest = _Manifest(**orjson.loads((folder / _MANIFEST).read_bytes()))
        except (FileNotFoundError, TypeError, ValueError):
            return None
        if manifest.fingerprint != fingerprint or manifest.closes != closes:
            return None
        runs = cls(folder, manifest)
        if manifest.is_decided:
            runs._open = frozenset(marshal.loads((folder / _OPEN).read_bytes()))
            return runs
        for path in folder.iterdir():
            if path.name != _MANIFEST:
                os.truncate(path, manifest.lengths.get(path.name, 0))
        return runs

    @property
    def offset(self) -> int:
        """The position in the stream up to which objects are here."""
        return self._manifest.offset

    @property
    def objects(self) -> int:
        """Objects that are here or stored."""
        return self._manifest.objects

    @property
    def object_bytes(self) -> int:
        """Their bytes."""
        return self._manifest.object_bytes

    @property
    def is_decided(self) -> bool:
        """Whether `decide` has been called, and the file is here whole."""
        return self._manifest.is_decided

    @property
    def is_loose(self) -> bool:
        """Whether objects with links are stored loose."""
        return self._manifest.all_loose or not self._manifest.closes

    @property
    def buckets(self) -> range:
        """The numbers of the buckets, in the order of their keys."""
        return range(len(self._limits) + 1)

    def remove(self) -> None:
        """Delete everything."""
        shutil.rmtree(self._folder, ignore_errors=True)

    # --- files -------------------------------------------------------------------------------------

    def _save(self) -> None:
        made = self._folder / (_MANIFEST + ".new")
        names = {name: getattr(self._manifest, name) for name in self._manifest.__slots__}
        made.write_bytes(orjson.dumps(names))
        made.replace(self._folder / _MANIFEST)

    def _path(self, kind: str, number: int) -> Path:
        return self._folder / f"{kind}-{number}"

    def _append(self, kind: str, items: list[Any], keys: list[bytes], made: Any) -> None:
        """Write sorted `items`, whose keys are `keys`, to their buckets; `made` makes a list of a slice of them."""
        cuts = [0, *(bisect_left(keys, limit) for limit in self._limits), len(keys)]
        for number in self.buckets:
            low, high = cuts[number], cuts[number + 1]
            if low < high:
                packed = marshal.dumps(made(items[low:high]), _NO_REFERENCES)
                with open(self._path(kind, number), "ab") as file:
                    file.write(len(packed).to_bytes(8, "big"))
                    file.write(packed)
                    self._manifest.lengths[f"{kind}-{number}"] = file.tell()

    def _parts(self, kind: str, number: int) -> Iterator[list[Any]]:
        """The lists that were written to a bucket."""
        try:
            with open(self._path(kind, number), "rb") as file:
                while head := file.read(8):
                    yield marshal.loads(file.read(int.from_bytes(head, "big")))
        except FileNotFoundError:
            return

    # --- 1: the file comes -------------------------------------------------------------------------

    def add(self, leaves: Pairs, others: Pairs, offset: int, size: int) -> None:
        """Take in a batch, both parts sorted; `offset` is the stream's position behind it. Errors: OSError."""
        manifest = self._manifest
        keys = [multihash for multihash, _ in leaves]
        self._append("leaves", leaves, keys, _closed)
        upper = [multihash for multihash, _ in others]
        self._append("others", others, upper, _closed if manifest.closes else _loose)
        if manifest.closes:
            every = sorted(keys + upper)
            self._append("keys", every, every, list)
            here = set(every)
            links = self._links(others) - here - self._recent - self._written
            out = sorted(links)
            self._append("links", out, out, list)
            if len(self._recent) > _REMEMBERED:
                self._recent.clear()
            if len(self._written) > _REMEMBERED:
                self._written.clear()
            self._recent |= here
            self._written |= links
        manifest.offset = offset
        manifest.objects += len(leaves) + len(others)
        manifest.object_bytes += size
        self._save()

    def _links(self, others: Pairs) -> set[bytes]:
        found: set[bytes] = set()
        findall, update = _LINK.findall, found.update
        for multihash, data in others:
            links = findall(data)
            if data[:1] == b"\x90" and read_header(data) is not None:
                continue
            update(links if len(links) == data.count(_MARK) else self._all_links(multihash, data))
        return found

    def _all_links(self, multihash: bytes, data: bytes) -> Iterable[bytes]:
        """The multihashes that an object links to, perhaps too many."""
        try:
            return [Cid(link).multihash for link in possible_links(_CBOR + multihash, data)]
        except BadObject:
            # an object that cannot be read is never closed: a link to itself that nothing answers
            return [b"\0" + multihash]

    # --- 2: what is closed -------------------------------------------------------------------------

    def decide(self) -> None:
        """Decide which objects are stored loose. The file is here whole. Errors: OSError."""
        manifest = self._manifest
        if manifest.is_decided:
            return
        found: set[bytes] = set()
        level = self._missing() if manifest.closes else set()
        passes = 0
        while level:
            if len(found) + len(level) > _MOST_OPEN or passes == _MOST_PASSES:
                manifest.all_loose = True
                break
            level = self._above(level) - found
            found |= level
            passes += 1
        self._open = frozenset(() if manifest.all_loose else found)
        (self._folder / _OPEN).write_bytes(marshal.dumps(list(self._open)))
        manifest.is_decided = True
        self._save()
        for kind in ("links", "keys"):
            for number in self.buckets:
                self._path(kind, number).unlink(missing_ok=True)

    def _missing(self) -> set[bytes]:
        """Links that no object of the file answers. Stops where there are too many."""
        found: set[bytes] = set()
        for number in self.buckets:
            missing = {link for part in self._parts("links", number) for link in part}
            for part in self._parts("keys", number):
                missing.difference_update(part)
            found |= missing
            if len(found) > _MOST_OPEN:
                break
        return found

    def _above(self, level: set[bytes]) -> set[bytes]:
        """The objects that truly link to one of `level`."""
        above: set[bytes] = set()
        findall = _LINK.findall
        for number in self.buckets:
            for part in self._parts("others", number):
                for multihash, value in part:
                    links: Iterable[bytes] = (found := findall(value))
                    if len(found) != value.count(_MARK):
                        links = self._all_links(multihash, value[1:])
                    if level.isdisjoint(links):
                        continue
                    data = value[1:]
                    if read_header(data) is None and self._links_truly(multihash, data, level):
                        above.add(multihash)
        return above

    @staticmethod
    def _links_truly(multihash: bytes, data: bytes, level: set[bytes]) -> bool:
        try:
            return any(link.multihash in level for link in walked_links(Cid(_CBOR + multihash), data))
        except BadObject:
            return True

    # --- 3: into the store -------------------------------------------------------------------------

    def bucket(self, number: int, after: bytes | None) -> list[tuple[bytes, bytes]]:
        """(multihash, flag and bytes) of a bucket in order, each once, behind `after`. Errors: OSError."""
        pairs: dict[bytes, bytes] = {}
        for part in self._parts("others", number):
            if self._manifest.all_loose:
                part = [
                    (key, value if read_header(value[1:]) is not None else LOOSE + value[1:]) for key, value in part
                ]
            elif self._open:
                part = [(key, LOOSE + value[1:] if key in self._open else value) for key, value in part]
            pairs.update(part)
        for part in self._parts("leaves", number):
            pairs.update(part)
        items = sorted(pairs.items())
        if after is not None and items and items[0][0] <= after:
            items = [item for item in items if item[0] > after]
        return items

    def drop(self, number: int) -> None:
        """Delete a bucket that is stored."""
        for kind in ("leaves", "others"):
            self._path(kind, number).unlink(missing_ok=True)


def _closed(pairs: Pairs) -> Pairs:
    return [(multihash, CLOSED + data) for multihash, data in pairs]


def _loose(pairs: Pairs) -> Pairs:
    return [(multihash, LOOSE + data) for multihash, data in pairs]

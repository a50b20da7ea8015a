"""Files put together from shards that followers keep: each gives what it has, and any shards that are enough give the
file.

A shard comes through the pool, so a source's limits, pauses and cool-downs are those of all its requests. A file saves
requests and nothing depends on it: where shards are too few, or their sources say nothing, its objects are asked for
singly.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from blockstore.errors import StoreFull
from blockstore.shards.erasure import BadShards
from blockstore.shards.files import join_files
from blockstore.shards.folder import find_shards, read_shard, write_shards
from blockstore.shards.manifest import Manifest
from leader_bridge.clock import monotonic
from leader_bridge.imports.progress import Reporter
from leader_bridge.sync.gather_most import gather_most
from leader_bridge.sync.pool import Pool
from leader_bridge.sync.requests import NotHeldAnywhere
from leader_bridge.sync.run_together import run_together
from leader_bridge.sync.sources.source import (
    Answer,
    BadSource,
    ShardListWork,
    ShardWork,
    SourceError,
    Work,
)
from leader_bridge.sync.votes import LEAST_VOTERS
from rpc.server.ranges.wire import KeptShard

log = logging.getLogger(__name__)

#: seconds that a source has to name its shards; when most have, the others have so many more
_LIST_SECONDS: Final = 120.0
_LATE_SECONDS: Final = 10.0
#: shards that one source may name: those of a terabyte and more
_MOST_NAMED: Final = 200_000
#: seconds after which a source that is free gets a shard of a piece for which enough are on their way
_LATE_SHARD_SECONDS: Final = 5.0
#: sources that may be doubted, one after the other, where what most of them name is not the file
_MOST_DOUBTED: Final = 3
#: seconds without any shard, after which a file is given up
SILENT_SECONDS: Final = 120.0

#: a file: its name, bytes and SHA-256
_File = tuple[str, int, str]
#: what each source says that it keeps, by source
_Named = Mapping[str, Sequence[KeptShard]]


async def files_of_shards(
    pool: Pool,
    names: Sequence[str],
    folder: Path,
    progress: Reporter,
    *,
    silent_seconds: float = SILENT_SECONDS,
) -> list[Path]:
    """Put together the files of which the sources `names` keep shards; where they lie in `folder`.

    Their shards lie there too: a killed run goes on with them. Where three sources or more tell what they keep,
    a file that one of them names alone is left out. Errors: Closed, StoreFull (the disk), StoreUnavailable (no
    library), OSError.
    """
    progress.phase("shards of files", len(names), "sources")
    named = await gather_most(
        {name: _named(pool, name) for name in names}, seconds=_LIST_SECONDS, late_seconds=_LATE_SECONDS
    )
    for name in names:
        if name not in named:
            log.warning("%s does not tell what shards it keeps: others are asked", name)
    found: list[Path] = []
    for file, tellers in sorted(_files(named).items()):
        if len(named) >= LEAST_VOTERS and len(tellers) < 2:
            log.warning("the file %s is left out: %s alone names shards of it", file[0], *tellers)
            continue
        try:
            place = folder / hashlib.blake2b(repr(file).encode(), digest_size=16).hexdigest()
            found.append(await _file(pool, named, file, place, progress, silent_seconds))
        except BadShards as error:
            progress.say(f"{file[0]} is not put together: {error}. Its objects are asked for singly")
    return found


async def _answer(pool: Pool, name: str, work: Work) -> Answer | None:
    """What one source answers; None where it does not hold it, or is left alone. Errors: Closed."""
    try:
        async with pool.answered(work, never=frozenset(pool.standings) - {name}) as (_, answer):
            return answer
    except NotHeldAnywhere:
        return None


async def _named(pool: Pool, name: str) -> Sequence[KeptShard] | None:
    """What a source keeps; None where it does not tell. Errors: Closed."""
    try:
        await pool.offer(name)
    except SourceError as error:
        log.info("%s", error)
        return None
    # its offer tells how often it may be asked
    pool.keep_limits()
    found: list[KeptShard] = []
    after = ""
    while len(found) < _MOST_NAMED:
        answer = await _answer(pool, name, ShardListWork(after))
        if answer is None:
            return None
        if not answer.kept:
            break
        if answer.kept[0].name <= after or any(
            one.name >= other.name for one, other in zip(answer.kept, answer.kept[1:], strict=False)
        ):
            pool.blame(name, BadSource(f"{name} names its shards in no order"))
            return None
        found += answer.kept
        after = answer.kept[-1].name
    return found


def _files(named: _Named) -> dict[_File, set[str]]:
    """The files, and who keeps shards of them."""
    found: dict[_File, set[str]] = defaultdict(set)
    for name, shards in named.items():
        for one in shards:
            found[one.manifest.file, one.manifest.total, one.manifest.digest].add(name)
    return found


async def _file(
    pool: Pool, named: _Named, file: _File, folder: Path, progress: Reporter, silent_seconds: float
) -> Path:
    """Put one file together. Errors: BadShards, as `files_of_shards`."""
    place = folder / "shards"
    told, suspects = dict(named), _disputed(named, file)
    while True:
        try:
            await _Fetching(pool, _pieces(told, file), place, progress, silent_seconds).run()
            (joined,) = await asyncio.to_thread(join_files, [place], folder)
        except BadShards as error:
            # what they gave together is not the file
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
            if not suspects:
                raise
            told = {name: shards for name, shards in named.items() if name != suspects[0]}
            log.warning("%s; trying without what %s names", error, suspects.pop(0))
        else:
            return joined


@dataclass(eq=False, slots=True)
class _Piece:
    """A piece of a file. `kept`: by source and index, the shards that are named; `have`: proven and on disk."""

    manifest: Manifest
    kept: dict[str, dict[int, KeptShard]] = field(default_factory=dict)
    have: set[int] = field(default_factory=set)
    under_way: dict[int, float] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        return len(self.have) >= self.manifest.data

    def next_of(self, source: str, now: float) -> KeptShard | None:
        """A shard to ask a source for, if one is needed that it keeps."""
        late = sum(now - since >= _LATE_SHARD_SECONDS for since in self.under_way.values())
        if len(self.have) + len(self.under_way) - late >= self.manifest.data:
            return None
        kept = self.kept.get(source, {})
        return next((one for index, one in kept.items() if index not in self.have | self.under_way.keys()), None)


def _candidates(named: _Named, file: _File) -> dict[int, dict[Manifest, dict[str, dict[int, KeptShard]]]]:
    """What is named of a file: by where the piece begins, manifest, source and index."""
    found: dict[int, dict[Manifest, dict[str, dict[int, KeptShard]]]] = defaultdict(dict)
    for name, shards in named.items():
        for one in shards:
            if (one.manifest.file, one.manifest.total, one.manifest.digest) == file:
                kept = found[one.manifest.offset].setdefault(one.manifest, {})
                kept.setdefault(name, {})[one.index] = one
    return found


def _chosen(candidates: Mapping[Manifest, Mapping[str, object]]) -> Manifest:
    """The one that most sources name."""
    return max(candidates, key=lambda one: (len(candidates[one]), one.root))


def _disputed(named: _Named, file: _File) -> list[str]:
    """Sources whose manifests are used though others name different ones: the first to be doubted, a few of them."""
    disputes = [one for one in _candidates(named, file).values() if len(one) > 1]
    doubted = Counter(name for one in disputes for name in one[_chosen(one)])
    return [name for name, _ in doubted.most_common(_MOST_DOUBTED)]


def _pieces(named: _Named, file: _File) -> list[_Piece]:
    """The pieces of a file as most sources name them, from its beginning. Errors: BadShards (too few shards)."""
    at = _candidates(named, file)
    pieces: list[_Piece] = []
    offset = 0
    while offset < file[1]:
        if offset not in at:
            raise BadShards(f"nobody keeps shards from byte {offset:,} on")
        manifest = _chosen(at[offset])
        kept = at[offset][manifest]
        count = len({index for shards in kept.values() for index in shards})
        if count < manifest.data:
            raise BadShards(f"from byte {offset:,}, {count} of the {manifest.data} shards that are needed are kept")
        pieces.append(_Piece(manifest, kept))
        offset += manifest.size
    return pieces


class _Fetching:
    """Gets enough shards of each piece into a folder, from all sources at once, the lowest piece first."""

    def __init__(
        self, pool: Pool, pieces: Sequence[_Piece], place: Path, progress: Reporter, silent_seconds: float
    ) -> None:
        self._pool = pool
        self._pieces = pieces
        self._left = list(pieces)
        self._whole_bytes = 0
        self._place = place
        self._progress = progress
        self._silent_seconds = silent_seconds
        self._came_at = monotonic()
        self._moved = asyncio.Event()

    async def run(self) -> None:
        """Errors: BadShards (the sources do not give enough), Closed, StoreFull, OSError."""
        await asyncio.to_thread(self._find_there)
        first = self._pieces[0].manifest
        self._progress.phase(f"shards of {first.file}", first.total, "bytes")
        self._progress.at(self._whole_bytes)
        sources = {name for piece in self._pieces for name in piece.kept}
        self._came_at = monotonic()
        work = asyncio.create_task(run_together(self._take_from(name) for name in sources))
        try:
            while self._left and not work.done():
                self._moved.clear()
                left = self._came_at + self._silent_seconds - monotonic()
                if left <= 0:
                    raise BadShards(f"no shard has come for {self._silent_seconds:g} s")
                moved = asyncio.create_task(self._moved.wait())
                await asyncio.wait({work, moved}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                moved.cancel()
            if work.done():
                work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        if self._left:
            piece = self._left[0]
            manifest = piece.manifest
            raise BadShards(f"from byte {manifest.offset:,}, {len(piece.have)} of {manifest.data} shards were given")

    def _find_there(self) -> None:
        """Count what an earlier run has left."""
        pieces = {piece.manifest: piece for piece in self._pieces}
        for found in find_shards(self._place) if self._place.is_dir() else ():
            if isinstance(found, BadShards):
                continue
            if found.manifest not in pieces:
                # of what was named then, and not now
                found.path.unlink()
                continue
            with contextlib.suppress(BadShards):
                self._came(pieces[found.manifest], read_shard(found).index)

    def _came(self, piece: _Piece, index: int) -> None:
        piece.have.add(index)
        if piece.is_whole and piece in self._left:
            self._left.remove(piece)
            self._whole_bytes += piece.manifest.size

    async def _take_from(self, name: str) -> None:
        """Ask one source for what is needed, until nothing is that it keeps."""
        while any(piece.kept.get(name) for piece in self._left):
            now = monotonic()
            asked = ((piece, one) for piece in self._left if (one := piece.next_of(name, now)) is not None)
            if (found := next(asked, None)) is None:
                # others are to bring what is needed: they may be late
                await asyncio.sleep(_LATE_SHARD_SECONDS / 10)
                continue
            piece, wanted = found
            piece.under_way[wanted.index] = now
            try:
                is_given = await self._take(name, piece, wanted)
            finally:
                del piece.under_way[wanted.index]
            if not is_given:
                # it has lost this one, or is left alone
                del piece.kept[name][wanted.index]

    async def _take(self, name: str, piece: _Piece, wanted: KeptShard) -> bool:
        never = frozenset(self._pool.standings) - {name}
        try:
            async with self._pool.answered(ShardWork(wanted), never=never) as (_, answer):
                assert answer.shard is not None
                try:
                    await asyncio.to_thread(write_shards, [self._place], piece.manifest, [answer.shard])
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise StoreFull(f"no room for shards in {self._place}") from None
                    raise
        except NotHeldAnywhere:
            return False
        self._came(piece, wanted.index)
        self._came_at = monotonic()
        self._moved.set()
        self._progress.at(self._whole_bytes)
        return True

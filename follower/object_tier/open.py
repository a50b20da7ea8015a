"""Opens the object tier that the settings ask for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from blockstore.background import in_background
from blockstore.errors import StoreUnavailable
from blockstore.shards import erasure
from blockstore.shards.inbox import Inbox
from blockstore.store import ObjectStore, Store
from blockstore.store_url import public_url
from blockstore.tier.claims import Claims
from blockstore.tier.disk import DiskTier
from blockstore.tier.objects import StoreSource, TieredObjects
from blockstore.tier.sources import RankedSources, Source, Standing
from chain.ipld.objects import Objects
from follower.object_tier.files import ReceivedFiles
from follower.object_tier.peers import PeerObjects, PeerSource
from follower.object_tier.shards import ShardReceiver
from follower.settings import CannotRun, Settings, reading
from rpc.server.metrics import Metrics
from rpc.server.server import Server

log = logging.getLogger(__name__)

OFF: Final = "off"
_DEFAULT_FOLDER: Final = "data/object-tier"


@dataclass(frozen=True, slots=True)
class ObjectTier:
    """What of the tier a process closes at its end: readers read from `objects`."""

    objects: TieredObjects
    disk: DiskTier | None
    peers: Sequence[PeerSource]

    async def close(self) -> None:
        """Write what waits, close. A second call does nothing."""
        await self.objects.close()
        for peer in self.peers:
            await peer.close()


@contextlib.asynccontextmanager
async def probing(ranked: Iterable[RankedSources[Any]]) -> AsyncIterator[None]:
    """Probe those that have a choice, within the block."""
    tasks = [in_background(one.run(), "the probes of sources") for one in ranked if len(one.standings) > 1]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def is_shared(store_url: str) -> bool:
    """Whether a store is on other machines: a tier of objects pays there."""
    return not store_url.startswith(("lmdb://", "memory://"))


def tier_folder(settings: Settings) -> Path | None:
    """Where objects are kept on this machine; None for nowhere."""
    folder: str = settings["object_tier_dir"]
    if folder == OFF or (not folder and not is_shared(settings["store"])):
        return None
    return Path(folder or _DEFAULT_FOLDER)


async def open_object_tier(settings: Settings, below: ObjectStore) -> ObjectTier | None:
    """The tier over `below`, the store and its archives; None where neither it nor peers are asked for.

    Errors: StoreUnavailable (the folder cannot be used), CannotRun (the secret's file).
    """
    folder = tier_folder(settings)
    peers = split_peers(settings["object_peers"])
    if folder is None and not peers and not is_shared(settings["store"]):
        return None
    disk, claims = (None, None) if folder is None else await _open_disk(settings, folder)
    secret = read_secret(settings) if peers else ""
    others = [PeerSource(url, secret) for url in peers]
    sources: list[Source[bytes]] = [StoreSource(below, public_url(settings["store"])), *others]
    ranked = RankedSources(sources, repeats=is_shared(settings["store"]))
    return ObjectTier(TieredObjects(below, ranked, disk=disk, claims=claims), disk, others)


async def _open_disk(settings: Settings, folder: Path) -> tuple[DiskTier | None, Claims | None]:
    disk: DiskTier | None = None
    try:
        # the first process looks at every entry
        disk = await asyncio.to_thread(DiskTier, folder, settings["object_tier_mb"] << 20)
        return disk, Claims(folder / "objects.claims")
    except (OSError, sqlite3.Error) as error:
        if disk is not None:
            disk.close()
        text = f"the object tier in {folder} cannot be opened: {error}"
        if settings["object_tier_dir"]:
            raise StoreUnavailable(text) from None
        # nobody asked for it
        log.warning("%s; objects are kept in memory alone", text)
        return None, None


def read_secret(settings: Settings, needed_by: str = "object_peers") -> str:
    """What followers tell each other apart by. Errors: CannotRun (no file, or it cannot be used)."""
    path: str = settings["object_peer_secret_file"]
    if not path:
        raise CannotRun(f"{needed_by} needs object_peer_secret_file, the secret that the peers know too")
    with reading("object_peer_secret_file", path) as file:
        secret = file.read_bytes().decode("ascii", "replace").strip()
        if len(secret) < 16 or not secret.isascii() or not secret.isprintable():
            raise ValueError("not 16 printable ASCII characters or more")
    return secret


def split_peers(text: str) -> list[str]:
    """The URLs of followers, of a setting."""
    return [url.strip() for url in text.split(",") if url.strip()]


def serve_peers(settings: Settings, server: Server, objects: Objects, tier: ObjectTier | None) -> PeerObjects | None:
    """Give objects to peers from now on, where the settings allow it. Errors: CannotRun (the secret's file)."""
    if not settings["object_peer_secret_file"]:
        return None

    def near(multihash: bytes) -> bytes | None:
        found = objects.cached(multihash)
        return found if found is not None or tier is None else tier.objects.local(multihash)

    given = PeerObjects(near, read_secret(settings))
    given.serve_on(server)
    return given


def take_shards(
    settings: Settings, server: Server, store: Store, tier: ObjectTier | None, metrics: Metrics
) -> ShardReceiver | None:
    """Take shards from now on, where the settings ask for it.

    Errors: CannotRun (no secret, no folder of the object tier, no library), StoreUnavailable (the folder).
    """
    megabytes: int = settings["shard_mb"]
    if not megabytes:
        return None
    folder = tier_folder(settings)
    if tier is None or tier.disk is None or folder is None:
        raise CannotRun("shard_mb needs the object tier's folder: set object_tier_dir")
    if not erasure.is_available():
        raise CannotRun("shard_mb needs pyeclib: pip install 'lotus-follower[dispersal]'")
    secret = read_secret(settings, "shard_mb")
    try:
        inbox = Inbox(folder / "shards", megabytes << 20)
        received = settings["received_files_dir"]
        files = ReceivedFiles(Path(received)) if received else None
    except OSError as error:
        raise StoreUnavailable(f"shards cannot be taken: {error}") from None
    receiver = ShardReceiver(store, inbox, tier.objects, secret, split_peers(settings["object_peers"]), files)
    receiver.serve_on(server)
    metrics.labelled_counter(
        "follower_shards", "Shards that came, by what became of them.", "outcome", lambda: receiver.shards
    )
    for name, doc, read in (
        ("follower_shard_pieces", "Pieces that were put together from shards.", lambda: receiver.pieces),
        ("follower_shard_objects", "Objects of them, given to the object tier.", lambda: receiver.objects),
        ("follower_shard_relayed_bytes", "Bytes of shards passed on to peers.", lambda: receiver.relayed_bytes),
        ("follower_shard_not_relayed", "Shards not passed on for want of memory.", lambda: receiver.not_relayed),
    ):
        metrics.counter(name, doc, read)
    return receiver


def register(
    metrics: Metrics, tier: ObjectTier | None, nodes: RankedSources[Any] | None, given: PeerObjects | None
) -> None:
    """Declare the metrics."""
    standings: list[Standing[Any]] = []
    if tier is not None:
        objects, disk = tier.objects, tier.disk
        metrics.labelled_counter(
            "follower_object_tier_reads",
            "Objects that were not in memory, by what answered: disk, the sources, a read that was under way in this "
            "process (joined) or in another one of the machine (waited).",
            "tier",
            lambda: {
                "disk": objects.disk_hits,
                "sources": objects.fetched,
                "joined": objects.joined,
                "waited": objects.waited,
            },
        )
        metrics.counter(
            "follower_object_tier_passed_through",
            "Objects that were not kept on disk: too large, or more at once than are written.",
            lambda: objects.passed_through,
        )
        standings += objects.sources.standings
        if disk is not None:
            _register_disk(metrics, disk)
    if nodes is not None:
        standings += nodes.standings
    if given is not None:
        metrics.counter("follower_object_peer_given", "Objects given to peer followers.", lambda: given.given)
    for name, doc, read in _SOURCES:
        metrics.labelled_counter(name, doc, "source", _by_source(standings, read))


def _register_disk(metrics: Metrics, disk: DiskTier) -> None:
    metrics.gauge(
        "follower_object_tier_bytes", "Bytes of disk that objects take on this machine.", lambda: disk.used_bytes
    )
    metrics.counter(
        "follower_object_tier_evicted", "Objects on disk that made room, by this process.", lambda: disk.evicted
    )
    metrics.counter(
        "follower_object_tier_damaged",
        "Objects on disk whose bytes did not fit their hash: they were fetched again.",
        lambda: disk.damaged,
    )


_SOURCES: Final[tuple[tuple[str, str, Callable[[Standing[Any]], float]], ...]] = (
    ("follower_object_source_requests", "Requests for objects.", lambda one: one.requests),
    ("follower_object_source_objects", "Objects that a source gave.", lambda one: one.objects),
    ("follower_object_source_failures", "Requests and probes that failed.", lambda one: one.failures),
    (
        "follower_object_source_hedges",
        "Second requests, after the 95th percentile of the first.",
        lambda one: one.hedges,
    ),
    ("follower_object_source_hedge_wins", "Second requests that answered first.", lambda one: one.hedge_wins),
    (
        "follower_object_source_seconds",
        "Seconds of all requests that were answered, those for many objects apart.",
        lambda one: one.seconds,
    ),
)


def _by_source(
    standings: Iterable[Standing[Any]], read: Callable[[Standing[Any]], float]
) -> Callable[[], Mapping[str, float]]:
    return lambda: {one.source.name: read(one) for one in standings}

"""What `--from` names: followers, full nodes behind `node:`, CAR files, folders of their shards, and lists of these.

A follower behind `shards:` gives shards of files too.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Final

from follower.settings import CannotRun, Settings, reading

if TYPE_CHECKING:
    from leader_bridge.sync.discovery import FindSources
    from leader_bridge.sync.sources.source import SyncSource

log = logging.getLogger(__name__)

#: sources, in use and in reserve together (`leader_bridge.sync.sources.source_set`)
_MOST: Final = 100
_LIST: Final = "list:"
_NODE: Final = "node:"
_SHARDS: Final = "shards:"
_ADDRESSES: Final = (_NODE, "http://", "https://", f"{_SHARDS}http://", f"{_SHARDS}https://")


def split_sources(text: str) -> list[str]:
    """The sources of `--from`, separated by commas. Errors: CannotRun (none, one twice, or no address)."""
    found: list[str] = []
    for part in [part.strip() for part in text.split(",") if part.strip()]:
        found += _read_list(part) if part.startswith(_LIST) else [part]
    if not found:
        raise CannotRun("--from names no source")
    for one in found:
        if not one.startswith(_ADDRESSES) and not Path(one).exists():
            raise CannotRun(
                "--from takes [shards:]http(s)://HOST:PORT, node:NODE, a CAR file or a folder of shards, not "
                f"{one.partition('?')[0]!r}"
            )
    if len(set(found)) < len(found):
        raise CannotRun("--from names a source twice")
    if all(not one.startswith(_ADDRESSES) for one in found):
        raise CannotRun("--from names files alone: `follower import` reads them")
    return found


def _read_list(text: str) -> list[str]:
    """The lines of a list of followers and nodes. Errors: CannotRun (the file, or a line of it)."""
    with reading("--from", text.removeprefix(_LIST)) as path:
        lines = [line.strip() for line in path.read_text().splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    for one in found:
        if not one.startswith(_ADDRESSES):
            raise CannotRun(f"{text} has a line that is neither [shards:]http(s)://HOST:PORT nor node:NODE: {one!r}")
    return found


def source_finder(settings: Settings, text: str) -> FindSources | None:
    """Reads the lists of `--from` again, for sources that have joined; None where it names no list."""
    lists = [part.strip() for part in text.split(",") if part.strip().startswith(_LIST)]
    if not lists:
        return None

    def find(known: Collection[str]) -> list[SyncSource]:
        try:
            named = [one for text in lists for one in _read_list(text)]
            return [source for source in open_sources(settings, named) if source.name not in known]
        except CannotRun as error:
            log.warning("the list of sources is not read again: %s", error)
            return []

    return find


def car_files(sources: list[str]) -> list[Path]:
    """The files of `--from`."""
    return [path for path in _paths(sources) if not path.is_dir()]


def shard_folders(sources: list[str]) -> list[Path]:
    """The folders of `--from`: each has shards of CAR files."""
    return [path for path in _paths(sources) if path.is_dir()]


def _paths(sources: list[str]) -> list[Path]:
    return [Path(one) for one in sources if not one.startswith(_ADDRESSES)]


def node_texts(sources: list[str]) -> list[str]:
    """What the bridge follows afterwards, where no node is set: the sources themselves."""
    return [
        one.removeprefix(_NODE) if one.startswith(_NODE) else one.removeprefix(_SHARDS).rstrip("/")
        for one in _addresses(sources)
    ]


def shard_keepers(sources: list[str]) -> list[str]:
    """The names of the followers that give shards of files, as sources have them."""
    from leader_bridge.sync.sources.peer import peer_name

    return [peer_name(one.removeprefix(_SHARDS)) for one in sources if one.startswith(_SHARDS)]


def _addresses(sources: list[str]) -> list[str]:
    return [one for one in sources if one.startswith(_ADDRESSES)]


def sync_token(settings: Settings) -> str:
    """The token that followers are asked with. Errors: CannotRun (its file)."""
    path: str = settings["sync_token_file"]
    if not path:
        return ""
    with reading("sync_token_file", path) as file:
        return file.read_bytes().decode("ascii", "replace").strip()


def open_sources(settings: Settings, sources: list[str]) -> list[SyncSource]:
    """Errors: CannotRun (the token's file, a node's address)."""
    from leader_bridge.sync.sources.node import NodeSource
    from leader_bridge.sync.sources.peer import PeerSource
    from rpc.client.client import NodeClient
    from rpc.client.node_info import parse_node_info
    from rpc.node_errors import BadNodeInfo

    sources = _addresses(sources)
    followers = [one for one in sources if not one.startswith(_NODE)]
    token = sync_token(settings)
    if followers and not token:
        raise CannotRun("followers give ranges for a token alone: set sync_token_file")
    found: list[SyncSource] = []
    limit = settings["sync_requests_per_second"]
    for one in sources:
        if not one.startswith(_NODE):
            found.append(PeerSource(one.removeprefix(_SHARDS), token))
            continue
        try:
            infos = parse_node_info(one.removeprefix(_NODE))
        except BadNodeInfo as error:
            raise CannotRun(str(error)) from None
        for info in infos:
            client = NodeClient(info, timeout=settings["node_timeout_seconds"], max_in_flight=4)
            batch = settings["fetch_batch"]
            found.append(NodeSource(client, most_objects=batch, requests_per_second=limit))
    names = [source.name for source in found]
    if len(set(names)) < len(names):
        raise CannotRun("--from names a source twice")
    if len(found) > _MOST:
        raise CannotRun(f"--from names {len(found)} sources, and at most {_MOST} are used")
    return found

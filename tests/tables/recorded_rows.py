"""What a recorded Lotus says should be in the tables: its answers, with the epochs of the tipsets they are about."""

from __future__ import annotations

import base64
import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from typing import Any

from blockstore.cid import parse
from blockstore.memory import MemoryStore
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.tipset import TipsetKey
from follower.commands.comparison import read_records
from tests.support.recorded import recorded


@cache
def answers(folder: str, method: str, file: str = "rpc") -> list[tuple[list[Any], Any]]:
    """(parameters, result) of the recorded answers of a method that are no errors, each question once."""
    found: dict[str, tuple[list[Any], Any]] = {}
    pattern = re.compile(rf"^(Filecoin\.)?{re.escape(method)}$")
    for record in read_records(recorded(f"{folder}/{file}.jsonl.zst"), pattern):
        if "result" in record.answer:
            found[record.call] = (record.params, record.answer["result"])
    return list(found.values())


def cid(value: Any) -> str:
    """The text of a CID in JSON."""
    text: str = value["/"]
    return text


def data(text: str | None) -> bytes | None:
    """Bytes from base64; null and no bytes are the same."""
    return base64.b64decode(text) or None if text else None


async def chain_heights(store: MemoryStore) -> dict[str, int]:
    """The epoch of each tipset of the chain, by the CID of its key."""
    entry = await store.head()
    assert entry is not None
    index = ChainIndex(store, Objects(store))
    tipset = await index.tipset(TipsetKey(entry.head.key))
    found = {str(tipset.key.cid): tipset.height}
    while tipset.height:
        tipset = await index.parent(tipset)
        found[str(tipset.key.cid)] = tipset.height
    return found


def key_cid(blocks: list[Any]) -> str:
    """The CID of a tipset's key in JSON; of the empty one, which means the head, "" ."""
    return str(TipsetKey.of(parse(cid(block)) for block in blocks).cid) if blocks else ""


def by(rows: list[dict[str, Any]], *names: str) -> dict[Any, list[dict[str, Any]]]:
    """Rows by a column, or by several."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row[names[0]] if len(names) == 1 else tuple(row[name] for name in names), []).append(row)
    return found


def pairs(folder: str, method: str, at: int) -> Iterator[tuple[list[Any], Any, str]]:
    """As `answers`, with the CID of the tipset key that is parameter `at`; without selectors of other forms."""
    for params, result in answers(folder, method):
        if not isinstance(params[at], dict):
            yield params, result, key_cid(params[at] or [])


class Timeline:
    """Rows of a table that has a row for each change: what held at an epoch."""

    def __init__(self, rows: list[dict[str, Any]], *names: str) -> None:
        self._changes = {
            key: sorted(changes, key=lambda row: row["height"]) for key, changes in by(rows, *names).items()
        }
        self._heights = {key: [row["height"] for row in rows] for key, rows in self._changes.items()}

    def at(self, key: Any, height: int) -> dict[str, Any] | None:
        """The newest row at or below an epoch."""
        number = bisect_right(self._heights.get(key, []), height)
        return self._changes[key][number - 1] if number else None

    def all_at(self, height: int) -> dict[Any, dict[str, Any]]:
        """The newest rows of all keys."""
        found = {key: self.at(key, height) for key in self._changes}
        return {key: row for key, row in found.items() if row is not None}

"""Rows of the FLEET table in which each bridge tells what it does. The status page reads them.

Nothing is decided by them: who leads is decided by the lease. A row is renewed every few seconds; a reader counts by
its own clock for how long a row has stayed the same.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from blockstore.store import FLEET, Batch, Store

log = logging.getLogger(__name__)

#: seconds between two renewals of a row
RENEW_SECONDS: Final = 3.0
#: partition of the FLEET table; row key: the bridge's name
_BRIDGES: Final = b"bridges"
#: begins `stopped` of a process that fills the store, and then says how far it is
FILLING: Final = "filling: "
_MOST_BRIDGES: Final = 64
_MOST_BYTES: Final = 8192
_MOST_NODES: Final = 16
_MOST_ERRORS: Final = 5
_MOST_TEXT: Final = 240


@dataclass(frozen=True, slots=True)
class NodeStanding:
    """A full node as a bridge ranks it. `name`: host and port. `standing`: one word or two, e.g. "followed"."""

    name: str
    standing: str
    failures: int = 0
    wrong_objects: int = 0


@dataclass(frozen=True, slots=True)
class LoggedError:
    """A warning or an error of a log. `at`: seconds since 1970."""

    at: int
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class BridgeRow:
    """What a bridge tells. Epochs are -1 where they are not known.

    `height`: the published head; `node_height`: the followed node's head; `policy`: the setting `state`;
    `backfill_left`: epochs that are still to be fetched; `fetched`: objects that this process has fetched;
    `stopped`: why nothing is published ("": it is); `nodes`: best first; `renewals` makes each renewal another row.
    """

    name: str
    leads: bool
    term: int = 0
    height: int = -1
    node_height: int = -1
    policy: str = ""
    backfill_left: int = 0
    stopped: str = ""
    nodes: tuple[NodeStanding, ...] = ()
    errors: tuple[LoggedError, ...] = ()
    renewals: int = 0
    written_ms: int = 0
    fetched: int = 0


def put_bridge(batch: Batch, row: BridgeRow) -> None:
    """Write the row of a bridge with a batch: its best nodes and its newest errors, as many as a row holds."""
    value = asdict(row)
    value["nodes"] = value["nodes"][:_MOST_NODES]
    value["errors"] = [{**one, "text": one["text"][:_MOST_TEXT]} for one in value["errors"][-_MOST_ERRORS:]]
    batch.put(FLEET, _BRIDGES, row.name.encode(), orjson.dumps(value))


def delete_bridge(batch: Batch, name: str) -> None:
    """Remove the row of a bridge with a batch."""
    batch.delete(FLEET, _BRIDGES, name.encode())


async def read_bridges(store: Store) -> list[BridgeRow]:
    """The valid rows, by name. Errors: StoreError."""
    rows = await store.scan(FLEET, _BRIDGES, limit=_MOST_BRIDGES)
    found = (_decode(key, value) for key, value in rows)
    return [row for row in found if row is not None]


def _decode(key: bytes, value: bytes) -> BridgeRow | None:
    try:
        if len(value) > _MOST_BYTES:
            raise ValueError("too long")
        raw: Mapping[str, Any] = orjson.loads(value)
        if raw["name"].encode() != key:
            raise ValueError("another name than its key")
        return BridgeRow(
            name=_text(raw["name"]),
            leads=raw["leads"] is True,
            term=int(raw["term"]),
            height=int(raw["height"]),
            node_height=int(raw["node_height"]),
            policy=_text(raw["policy"]),
            backfill_left=int(raw["backfill_left"]),
            stopped=_text(raw["stopped"]),
            nodes=tuple(
                NodeStanding(
                    _text(one["name"]), _text(one["standing"]), int(one["failures"]), int(one["wrong_objects"])
                )
                for one in raw["nodes"][:_MOST_NODES]
            ),
            errors=tuple(
                LoggedError(int(one["at"]), _text(one["level"]), _text(one["text"]))
                for one in raw["errors"][:_MOST_ERRORS]
            ),
            renewals=int(raw["renewals"]),
            written_ms=int(raw["written_ms"]),
            # a bridge of an older version does not tell
            fetched=int(raw.get("fetched", 0)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.debug("the row of bridge %r is left out: %s", key[:80], error)
        return None


def _text(value: Any) -> str:
    return str(value)[:_MOST_TEXT]

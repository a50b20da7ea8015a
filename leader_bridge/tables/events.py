"""The table of events, a row an entry.

Source: FIP-0049 (events), FIP-0083 (those of built-in actors, whose values are CBOR).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from blockstore.cid import DAG_CBOR, Cid
from chain.address import from_id
from chain.errors import BadObject
from chain.ipld.amt import Amt
from chain.ipld.dag_cbor import decode_linked
from chain.message import EventEntry, event_from_fields
from chain.state.tipset_events import EVENTS_BIT_WIDTH
from leader_bridge.tables.source import TipsetView, held
from leader_bridge.tables.table import Row, Task, table

#: codecs of values that are CBOR
_CBOR: Final = (0x51, DAG_CBOR)


async def _events(view: TipsetView) -> AsyncIterator[list[Row]]:
    executed = await view.parent()
    if executed is None or not await executed.messages():
        return
    source = view.source
    for one, receipt in zip(await executed.messages(), await executed.receipts(), strict=True):
        if receipt.events_root is None:
            continue
        cid = str(one.cid)
        with held(f"the events of the tipset at epoch {executed.height}"):
            async for part in Amt(source.objects, receipt.events_root, 3, EVENTS_BIT_WIDTH).parts():
                rows: list[Row] = []
                for index, value in part:
                    event = event_from_fields(value)
                    emitter = source.address(from_id(event.emitter))
                    rows += (
                        (
                            view.height,
                            view.state_root,
                            cid,
                            index,
                            emitter,
                            bytes((entry.flags,)),
                            entry.codec,
                            entry.key,
                            entry.value,
                            at,
                            _decoded(view, entry),
                        )
                        for at, entry in enumerate(event.entries)
                    )
                yield rows


def _decoded(view: TipsetView, entry: EventEntry) -> str | None:
    if entry.codec not in _CBOR:
        return None
    try:
        return view.source.text_of(_json(decode_linked(entry.value)))
    except BadObject:
        # a contract may call any bytes CBOR: they stand in `value`
        return None


def _json(value: Any) -> Any:
    """A value that the JSON writer takes: keys of maps become text."""
    if isinstance(value, dict):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json(item) for item in value]
    if isinstance(value, bytes) and not isinstance(value, Cid):
        return bytes(value)
    return value


EVENTS: Final = Task(
    "events",
    table(
        "actor_events",
        "Entries of the events that the messages of the parent tipset emitted.",
        key="height state_root message_cid event_index entry_index",
        columns="""
height       bigint  Epoch of the tipset whose header has the receipts: the one after the message's.
state_root   text    CID of the state after the message's tipset.
message_cid  text    CID of the message.
event_index  bigint  Number of the event among those of the message.
emitter      text    ID address of the actor that emitted it.
flags        bytea   One byte: 1 the key is indexed, 2 the value is indexed.
codec        bigint  Codec of the value: 85 raw bytes, 81 CBOR.
key          text    Key of the entry; of contracts t1 to t4 (topics) and d (data).
value        bytea   Value of the entry.
entry_index  bigint  Number of the entry in the event.
decoded      jsonb?  The value decoded, where it is CBOR. Not in Lily.
""",
    ),
    _events,
)

"""Making the rows of events: what the bridge does when it keeps a tipset, and an import in its final pass.

The events of a tipset, and the state in which their emitters are looked up, are named by its child's header: they
are indexed with the child.
"""

from __future__ import annotations

import logging

from blockstore.errors import Missing
from blockstore.store import Batch
from chain.errors import ActorNotFound, BadObject, NotHeld
from chain.eth.transaction import NotEthTx, eth_tx, is_eth
from chain.eth.types import EthAddressError, NotEthHash, hash_of
from chain.index.event_rows import IndexedEvent, put_events
from chain.ipld.objects import ObjectReader
from chain.network import NetworkRecord
from chain.state.id_resolver import id_resolver
from chain.state.tipset_events import load_events_after, read_receipts
from chain.tipset import Tipset
from chain.tipset_messages import IncludedMessage, load_tipset_messages

log = logging.getLogger(__name__)


def message_hash(one: IncludedMessage, chain_id: int) -> bytes:
    """The hash by which Ethereum clients know a message. Errors: NotEthTx, EthAddressError, NotEthHash."""
    if one.signed is not None and is_eth(one.signed):
        return eth_tx(one.signed, chain_id).hash
    return hash_of(one.cid)


async def index_events(
    batch: Batch, reader: ObjectReader, tipset: Tipset, child: Tipset, network: NetworkRecord
) -> bool:
    """Add the event rows of `tipset`, whose child's header tells what it did, to `batch`.

    False where something that is needed is not held (receipts, events, messages, or the actors after it) or is
    malformed: nothing is added then, no head is held up for it, and whoever asks for its events reads the tipset
    itself. Errors: StoreError.
    """
    try:
        receipts = await read_receipts(reader, child.parent_message_receipts)
        events = await load_events_after(reader, receipts, child.parent_state_root)
        found: list[IndexedEvent] = []
        if events:
            messages = await load_tipset_messages(reader, tipset, network, id_resolver(reader))
            if len(messages) != len(receipts):
                raise BadObject(f"{len(receipts)} receipts of {len(messages)} messages at epoch {tipset.height}")
            hashes = {
                at: hash_or_none(messages[at], network.eth_chain_id) for at in {event.message for event in events}
            }
            found = [IndexedEvent(event, messages[event.message].cid, hashes[event.message]) for event in events]
    except (Missing, NotHeld, ActorNotFound):
        return False
    except BadObject as error:
        log.warning("the events of epoch %d are not indexed: %s", tipset.height, error)
        return False
    put_events(batch, tipset.height, tipset.key.block_hash, found)
    return True


def hash_or_none(one: IncludedMessage, chain_id: int) -> bytes | None:
    """As `message_hash`, None instead of an error."""
    try:
        return message_hash(one, chain_id)
    except (NotEthTx, EthAddressError, NotEthHash):
        return None

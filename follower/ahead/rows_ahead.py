"""Reads the rows of the newest tipsets in a few bursts before a follower of a shared store answers.

Without them each of the first requests for an epoch walks from row to row, and each step is a round trip.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from blockstore.errors import StoreError
from blockstore.store import Store
from chain.errors import ChainError
from chain.index.chain_index import ChainIndex

log = logging.getLogger(__name__)

#: a day of epochs, in parts that keep the event loop for a few milliseconds each
_EPOCHS: Final = 2880
_PART: Final = 96


async def read_rows_ahead(store: Store, index: ChainIndex, seconds: float = 1.0) -> int:
    """Have the rows of the last day of epochs cached, as far as `seconds` suffice; of how many epochs they are."""
    done = 0
    try:
        async with asyncio.timeout(seconds):
            head, _ = await asyncio.gather(store.head(), index.kept())
            top = -1 if head is None else head.head.height
            while top >= 0 and done < _EPOCHS:
                low = max(0, top - _PART + 1)
                await index.read_rows(low, top, with_posts=True)
                done += top - low + 1
                top = low - 1
    except TimeoutError:
        log.debug("rows of %d epochs were read ahead in %g s", done, seconds)
    except (StoreError, ChainError) as error:
        # they are read when they are needed, and who needs them says what is wrong
        log.info("no rows are read ahead: %s", error)
    return done

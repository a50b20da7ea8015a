"""Tries a server before anything is published to it: prepare, publish and take over, on a log of its own.

What publishing rests on differs between servers that speak CQL, and between their versions. A server that does not do
it is found here, before a chain is in it, and the message names what it did.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable
from typing import Final

from blockstore.cassandra.head import CassandraHeadLog
from blockstore.cassandra.session import Session
from blockstore.errors import Fenced, StoreError, StoreUnavailable
from blockstore.store import HeadEntry, TipsetRef

_DELTA_MS: Final = 4
_EPSILON_MS: Final = 1


async def probe(session: Session, keyspace: str) -> None:
    """Errors: StoreError, with what the server did that it must not; StoreUnavailable."""
    chain = b"probe " + secrets.token_hex(8).encode()
    step = "making a head row with IF NOT EXISTS"

    def log() -> CassandraHeadLog:
        return CassandraHeadLog(session, keyspace, _DELTA_MS, _EPSILON_MS, chain=chain)

    old, new = log(), log()
    try:
        if await old.last():
            raise StoreError("a row that was never written is there")
        step = "a compare-and-set on a row that is absent"
        await _fenced(old.renew(1, 1), "it is applied")
        await old.make()
        await new.make()
        step = "taking a term"
        term = await old.new_term("one")
        _expect(term == 1, f"the first term is {term}")
        step = "preparing and stamping an entry"
        await old.append(_entry(1, term))
        await old.append(_entry(2, term))
        _expect(await _numbers(new) == [1, 2], f"entries 1 and 2 are read as {await _numbers(new)}")
        step = "taking over"
        later = await new.new_term("two", term)
        _expect(later == 2, f"the second term is {later}")
        await _fenced(old.append(_entry(3, term)), "an older term publishes")
        await _fenced(old.renew(term, 2), "an older term renews its lease")
        await _fenced(log().new_term("three", term), "a term is taken after one that is not the newest")
        await new.append(_entry(3, later))
        await new.renew(later, 7)
        lease = await old.lease()
        _expect((lease.term, lease.owner, lease.renewals) == (2, "two", 7), f"the lease is read as {lease}")
        _expect(await _numbers(old) == [1, 2, 3], f"entries 1 to 3 are read as {await _numbers(old)}")
        step = "trimming the log"
        await new.trim(1)
        _expect(await _numbers(old) == [3], f"after trimming, entries are read as {await _numbers(old)}")
        step = "removing the row again"
        await new.remove()
        _expect(await old.last() == 0, "a row that was deleted is there")
    except StoreUnavailable as error:
        raise StoreUnavailable(f"the server was not tried to the end: {step}: {error}") from None
    except StoreError as error:
        raise StoreError(
            f"this server does not do what publishing heads needs: {step}: {error}. docs/databases.md says which "
            "servers do, and which settings they want"
        ) from None


def _expect(holds: bool, did: str) -> None:
    if not holds:
        raise StoreError(did)


async def _fenced(work: Awaitable[object], did: str) -> None:
    try:
        await work
    except Fenced:
        return
    raise StoreError(did)


async def _numbers(log: CassandraHeadLog) -> list[int]:
    return [entry.seq for entry in await log.entries(0, 10)]


def _entry(seq: int, term: int) -> HeadEntry:
    ref = TipsetRef(seq, b"probe")
    return HeadEntry(seq, term, (), (ref,), ref)

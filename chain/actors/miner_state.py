"""Sectors, deadlines, partitions and funds of a storage miner.

Sources: go-state-types `builtin/v*/miner/*_state.go`, `dline/deadline.go`; Lotus
`chain/actors/builtin/miner/v*.go` (what the API shows of older versions).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, TypeVar

from blockstore.cid import Cid
from chain.actors.adt import array_count, array_get, array_items, map_get, read_ahead, uint_key
from chain.actors.leaves import LEAVES, Type
from chain.actors.load import Loaded
from chain.actors.schema import type_of
from chain.actors.versions import LAST_VERSION
from chain.errors import BadObject, ChainError
from chain.ipld import bitfield
from chain.ipld.amt import Amt
from chain.ipld.dag_cbor import decode
from chain.ipld.objects import ObjectReader, let_others_go_on

T = TypeVar("T")

DEADLINES: Final = 48
PROVING_PERIOD: Final = 2880
CHALLENGE_WINDOW: Final = 60
CHALLENGE_LOOKBACK: Final = 20
FAULT_CUTOFF: Final = 70

#: a walk of the whole array is cheaper than look-ups of more than one value in this many
_SPARSE: Final = 8
_SECTORS_BITS: Final = 5
_PARTITIONS_BITS: Final = 3
_SNAPSHOT_BITS: Final = 2
_EXPIRATIONS_BITS: Final = 4

#: a sector's number has at most 63 bits
MAX_SECTOR: Final = (1 << 63) - 1


class MinerError(ChainError):
    """Something that a miner's state lacks, with Lotus' text."""


def to_newest_json(name: str, value: dict[str, Any]) -> Any:
    """A sector or pre-commit as the API shows it, whatever version it is of: with the newest one's fields.

    What older versions lack is Go's zero value. The replaced day reward, though in all versions, is shown
    from actors 12 on, when the field that tells since when (`PowerBaseEpoch`) came.
    """
    newest = type_of("miner", name, LAST_VERSION)
    out = newest.zero()
    out.update((field, value[field]) for field in out if field in value)
    if "ReplacedDayReward" in value and "PowerBaseEpoch" not in value:
        out["ReplacedDayReward"] = None
    return newest.dump(out)


class Miner:
    """A miner's state and what stands below it."""

    def __init__(self, reader: ObjectReader, loaded: Loaded) -> None:
        self.reader = reader
        self.state = loaded.state
        self.version = loaded.version
        self.balance = loaded.actor.balance

    def _type(self, name: str) -> Type:
        return type_of("miner", name, self.version)

    async def _object(self, name: str, cid: Cid) -> Any:
        return self._type(name).decode(decode(await self.reader.get(cid)))

    async def info(self) -> dict[str, Any]:
        """MinerInfo."""
        found: dict[str, Any] = await self._object("MinerInfo", self.state["Info"])
        return found

    async def sector(self, number: int) -> dict[str, Any] | None:
        """SectorOnChainInfo, or None."""
        if number > MAX_SECTOR:
            raise MinerError(f"failed to get sector {number}: index is too large")
        kind = self._type("SectorOnChainInfo")
        found: dict[str, Any] | None = await array_get(self.reader, self.state["Sectors"], number, kind, _SECTORS_BITS)
        return found

    async def sector_leaves(
        self, known: Callable[[bytes], T | None]
    ) -> AsyncIterator[tuple[bytes, T | None, list[dict[str, Any]]]]:
        """As `Amt.leaves`, of the array of sectors: SectorOnChainInfo."""
        kind = self._type("SectorOnChainInfo")
        tree = await Amt.load(self.reader, self.state["Sectors"], version=3, bit_width=_SECTORS_BITS)
        async for cid, found, items in tree.leaves(known):
            yield cid, found, [kind.decode(item) for item in items]

    async def some_sectors(self, numbers: bitfield.Spans) -> AsyncIterator[list[dict[str, Any]]]:
        """The sectors of these runs of numbers, some at a time. Errors: MinerError (one is not there), BadObject."""
        kind = self._type("SectorOnChainInfo")
        tree = await Amt.load(self.reader, self.state["Sectors"], version=3, bit_width=_SECTORS_BITS)
        wanted = bitfield.members_of(numbers)
        if sum(end - start for start, end in numbers) * _SPARSE < tree.count:
            for number in wanted:
                yield [_found(await tree.get(number), number, kind)]
            return
        first = next(wanted, None)
        if first is None:
            return
        # walk both in step
        at_least = first
        async for at, item in tree.items(start=first):
            if at < at_least:
                continue
            yield [_found(item if at == at_least else None, at_least, kind)]
            following = next(wanted, None)
            if following is None:
                return
            at_least = following
        raise _no_sector(at_least)

    async def precommit(self, number: int) -> dict[str, Any] | None:
        """SectorPreCommitOnChainInfo, or None."""
        kind = self._type("SectorPreCommitOnChainInfo")
        root = self.state["PreCommittedSectors"]
        found: dict[str, Any] | None = await map_get(self.reader, root, uint_key(number), kind)
        return found

    async def allocated(self) -> bytes:
        """The sector numbers ever used, RLE+."""
        found: bytes = LEAVES["bits"].decode(decode(await self.reader.get(self.state["AllocatedSectors"])))
        return found

    async def due(self) -> list[Cid]:
        """The CIDs of the 48 deadlines. One read."""
        found: list[Cid] = (await self._object("Deadlines", self.state["Deadlines"]))["Due"]
        return found

    async def deadlines(self, due: Sequence[Cid] | None = None) -> list[dict[str, Any]]:
        """The deadlines of these CIDs: one read of many objects. All 48 without `due`: a read more."""
        due = await self.due() if due is None else due
        kind = self._type("Deadline")
        return [kind.decode(decode(data)) for data in await self.reader.get_many(due)]

    async def deadline(self, index: int) -> dict[str, Any]:
        """One deadline. Errors: MinerError, for an index from 48 on."""
        due = await self.due()
        if index >= len(due):
            raise MinerError(f"invalid deadline {index}")
        found: dict[str, Any] = await self._object("Deadline", due[index])
        return found

    async def partitions(
        self, deadline: dict[str, Any], reader: ObjectReader | None = None
    ) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        """(index, Partition) of a deadline."""
        kind = self._type("Partition")
        root = deadline["Partitions"]
        async for at, found in array_items(reader or self.reader, root, kind, _PARTITIONS_BITS):
            yield at, found

    async def disputable_proofs(self, deadlines: list[dict[str, Any]]) -> list[int]:
        """How many proofs of the last proving period can still be disputed, for each deadline."""
        roots = [deadline["OptimisticPoStSubmissionsSnapshot"] for deadline in deadlines]
        ahead = await read_ahead(self.reader, roots)
        return [await array_count(ahead, root, _SNAPSHOT_BITS) for root in roots]

    async def all_partitions(
        self, deadlines: Sequence[dict[str, Any]] | None = None
    ) -> AsyncIterator[tuple[int, int, dict[str, Any]]]:
        """(deadline index, partition index, Partition) of all or these deadlines: the arrays' roots come in one read.

        Others go on after each partition, for a caller's work with large bitfields.
        """
        deadlines = await self.deadlines() if deadlines is None else deadlines
        ahead = await read_ahead(self.reader, [deadline["Partitions"] for deadline in deadlines])
        for index, deadline in enumerate(deadlines):
            async for at, found in self.partitions(deadline, ahead):
                yield index, at, found
                await let_others_go_on(self.reader)

    async def find_sector(self, number: int) -> tuple[int, int]:
        """(deadline, partition) of a sector. Errors: MinerError."""
        async for index, at, partition in self.all_partitions():
            if bitfield.has(partition["Sectors"], number):
                return index, at
        raise MinerError(f"sector {number} not due at any deadline")

    async def expiration(self, number: int) -> tuple[int, int]:
        """(on time, early) epoch at which a sector expires; 0 for not. Errors: MinerError."""
        on_time = early = 0
        kind = self._type("ExpirationSet")
        async for _, _, partition in self.all_partitions():
            if not bitfield.has(partition["Sectors"], number):
                continue
            if bitfield.has(partition["Terminated"], number):
                break
            root = partition["ExpirationsEpochs"]
            async for epoch, found in array_items(self.reader, root, kind, _EXPIRATIONS_BITS):
                if bitfield.has(found["EarlySectors"], number):
                    early = epoch
                elif bitfield.has(found["OnTimeSectors"], number):
                    on_time = epoch
                    break
            if on_time:
                break
        if not on_time and not early:
            raise MinerError(f"failed to find sector {number}")
        return on_time, early

    async def vested(self, epoch: int) -> int:
        """attoFIL that vested before `epoch` and are still in the vesting table, which is in order of epochs."""
        total = 0
        kind = self._type("VestingFund")
        for item in await self._vesting():
            fund = item if type(item) is dict else kind.decode(item)
            if fund["Epoch"] >= epoch:
                break
            total += fund["Amount"]
        return total

    async def _vesting(self) -> list[Any]:
        """The vesting table; entries of a stored one are not decoded yet, for few of them are ever looked at."""
        held = self.state["VestingFunds"]
        if held is None:
            return []
        stored = decode(await self.reader.get(held["Tail"] if self.version >= 16 else held))
        if self.version < 16:
            if type(stored) is not list or len(stored) != 1:
                raise BadObject("a vesting table is a list of one list")
            stored = stored[0]
        if type(stored) is not list:
            raise BadObject("a vesting table is a list")
        return [held["Head"], *stored] if self.version >= 16 else stored

    def available(self) -> int:
        """The balance that is neither locked nor owed, attoFIL; can be below zero. Errors: MinerError."""
        state = self.state
        locked = state["LockedFunds"] + state["PreCommitDeposits"] + state["InitialPledge"]
        unlocked: int = self.balance - locked
        if unlocked < 0:
            raise MinerError(f"negative unlocked balance {unlocked}")
        debt: int = state["FeeDebt"]
        return unlocked - debt

    def proving_deadline(self, epoch: int) -> dict[str, int]:
        """The deadline that the miner's state says is current, or its next occurrence if that has elapsed."""
        start, index = self.state["ProvingPeriodStart"], self.state["CurrentDeadline"]
        found = deadline_info(start, index, epoch)
        if epoch < found["Close"]:
            return found
        period = epoch // PROVING_PERIOD * PROVING_PERIOD + start % PROVING_PERIOD
        while period > epoch:
            period -= PROVING_PERIOD
        if epoch >= period + (index + 1) * CHALLENGE_WINDOW:
            period += PROVING_PERIOD
        return deadline_info(period, index, epoch)


def _no_sector(number: int) -> MinerError:
    return MinerError(f"failed to load sectors: can't find sector {number}")


def _found(item: Any, number: int, kind: Type) -> dict[str, Any]:
    if item is None:
        raise _no_sector(number)
    found: dict[str, Any] = kind.decode(item)
    return found


def deadline_info(start: int, index: int, epoch: int) -> dict[str, int]:
    """A deadline of the proving period that starts at `start`, seen at `epoch`, as dline.Info in JSON."""
    if index < DEADLINES:
        opened = start + index * CHALLENGE_WINDOW
        close = opened + CHALLENGE_WINDOW
        challenge = opened - CHALLENGE_LOOKBACK
        cutoff = opened - FAULT_CUTOFF
    else:  # behind the last deadline: one without duration
        opened = close = challenge = start + PROVING_PERIOD
        cutoff = 0
    return {
        "CurrentEpoch": epoch,
        "PeriodStart": start,
        "Index": index,
        "Open": opened,
        "Close": close,
        "Challenge": challenge,
        "FaultCutoff": cutoff,
        "WPoStPeriodDeadlines": DEADLINES,
        "WPoStProvingPeriod": PROVING_PERIOD,
        "WPoStChallengeWindow": CHALLENGE_WINDOW,
        "WPoStChallengeLookback": CHALLENGE_LOOKBACK,
        "FaultDeclarationCutoff": FAULT_CUTOFF,
    }

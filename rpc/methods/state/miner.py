"""Storage miners: info, sectors, deadlines, partitions, balances."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import orjson

from chain.actors.leaves import UNDEFINED
from chain.actors.miner_state import Miner, to_newest_json
from chain.address import Address
from chain.errors import BadObject
from chain.ipld import bitfield
from chain.tipset import Tipset, TipsetKey
from rpc.context import Context
from rpc.errors import MethodError, error_prefix
from rpc.json_wire import encoder
from rpc.lookup.actor_states import states_at
from rpc.lookup.decoded_cache import DecodedCache, KeptTexts, decoded_cache, keep
from rpc.lookup.long_answers import PacedReader, list_of
from rpc.lotus_json import json_cache
from rpc.params import Integer, Uint64
from rpc.peer_id import peer_id_text
from rpc.registry import V0, V1, Cache, Cost, method

SectorNumber = Annotated[int, Integer("abi.SectorNumber", 0, (1 << 64) - 1)]

#: what kept counts of a deadline take
_COUNTS_BYTES = 500

_ACTOR = "failed to load miner actor"
_STATE = "failed to load miner actor state"


class _BitField:
    """A bitfield parameter: an array of run lengths; null for every sector. Decoded: the runs of members."""

    go = "*bitfield.BitField"

    def decode(self, value: Any) -> bitfield.Spans | None:
        """Errors: ValueError."""
        if value is None:
            return None
        try:
            return bitfield.spans_of_runs(bitfield.runs_from_json(value))
        except BadObject as error:
            raise ValueError(str(error)) from None


BitField = Annotated[bitfield.Spans | None, _BitField()]


async def _miner(
    ctx: Context, key: TipsetKey, address: Address, where: str = "", *, walks: bool = False
) -> tuple[Tipset, Miner]:
    """The tipset and the miner. `where`: Lotus' prefix of the error texts; "-" for no text of its own. `walks`: other
    requests go on at each read of the miner."""
    tipset, states = await states_at(ctx, key)
    if where == "-":
        loaded = await states.load(address, "miner")
    else:
        with error_prefix(where + _ACTOR):
            actor = await states.actor(address)
        with error_prefix(where + _STATE):
            loaded = await states.state_of(actor, "miner")
    return tipset, Miner(PacedReader(ctx) if walks else ctx.objects, loaded)


async def _merged(ctx: Context, miner: Miner, pick: Callable[[dict[str, Any]], bytes]) -> bitfield.Spans:
    """The union of what is picked of all partitions: the runs of members."""
    merge = bitfield.Merge()
    async for _, _, partition in miner.all_partitions():
        merge.add(pick(partition))
    found: bitfield.Spans = []
    for some in merge.spans():
        found += some
        await ctx.checkpoint()
    return found


def _json(members: bitfield.Spans) -> list[int]:
    """Run lengths, as of a bitfield in JSON."""
    return bitfield.runs_of_spans(members) or [0]


def live(partition: dict[str, Any]) -> bytes:
    """The sectors of a partition that were not terminated."""
    return bitfield.subtract(partition["Sectors"], partition["Terminated"])


def active(partition: dict[str, Any]) -> bytes:
    """The sectors of a partition that count for power."""
    return bitfield.subtract(bitfield.subtract(live(partition), partition["Faults"]), partition["Unproven"])


@method("Filecoin.StateMinerInfo", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_miner_info(ctx: Context, address: Address, tipset_key: TipsetKey) -> dict[str, Any]:
    """Owner, worker, control addresses, peer and sector size of a miner."""
    _, miner = await _miner(ctx, tipset_key, address)
    cache = json_cache(ctx)
    # an object of its own, which changes once in a miner's lifetime
    key = b"MI%d," % miner.version + miner.state["Info"]
    kept = cache.get(key)
    return cache.keep(key, _info_json(await miner.info())) if kept is None else kept  # type: ignore[return-value]


def _info_json(info: dict[str, Any]) -> dict[str, Any]:
    pending = info["PendingWorkerKey"]
    term = info["BeneficiaryTerm"]
    change = info["PendingBeneficiaryTerm"]
    return {
        "Owner": info["Owner"],
        "Worker": info["Worker"],
        "NewWorker": pending["NewWorker"] if pending else UNDEFINED,
        "ControlAddresses": info["ControlAddresses"] or None,
        "WorkerChangeEpoch": pending["EffectiveAt"] if pending else -1,
        "PeerId": peer_id_text(info["PeerId"]),
        "Multiaddrs": [part or None for part in info["Multiaddrs"]] or None,
        "WindowPoStProofType": info["WindowPoStProofType"],
        "SectorSize": info["SectorSize"],
        "WindowPoStPartitionSectors": info["WindowPoStPartitionSectors"],
        "ConsensusFaultElapsed": info["ConsensusFaultElapsed"],
        "PendingOwnerAddress": info["PendingOwnerAddress"],
        "Beneficiary": info["Beneficiary"],
        "BeneficiaryTerm": {
            "Quota": str(term["Quota"]),
            "UsedQuota": str(term["UsedQuota"]),
            "Expiration": term["Expiration"],
        },
        "PendingBeneficiaryTerm": change
        and {
            "NewBeneficiary": change["NewBeneficiary"],
            "NewQuota": str(change["NewQuota"]),
            "NewExpiration": change["NewExpiration"],
            "ApprovedByBeneficiary": change["ApprovedByBeneficiary"],
            "ApprovedByNominee": change["ApprovedByNominee"],
        },
    }


@method("Filecoin.StateMinerSectors", cost=Cost.SCAN, cache=Cache.TIPSET)
async def state_miner_sectors(
    ctx: Context, address: Address, sectors: BitField, tipset_key: TipsetKey
) -> list[dict[str, Any]]:
    """The sectors of a miner: all, or those in the bitfield. Errors: no such sector."""
    _, miner = await _miner(ctx, tipset_key, address, walks=True)
    if sectors is None:
        return await _all_sectors(ctx, miner)
    return await list_of(ctx, miner.some_sectors(sectors), partial(to_newest_json, "SectorOnChainInfo"))


async def _all_sectors(ctx: Context, miner: Miner) -> list[Any]:
    """As text, kept by leaf of the array: an epoch changes few of them."""
    texts = KeptTexts(decoded_cache(ctx, "miner_sectors"), b"%d," % miner.version)
    encode = encoder(ctx.network.address_prefix)
    found: list[Any] = []
    async for cid, text, sectors in miner.sector_leaves(texts.get):
        if text is None:
            text = encode([to_newest_json("SectorOnChainInfo", sector) for sector in sectors])[1:-1]
            texts.keep(cid, text)
        if text:
            ctx.reserve(len(text))
            found.append(orjson.Fragment(text))
        await ctx.checkpoint()
    return found


@method("Filecoin.StateMinerActiveSectors", cost=Cost.SCAN, cache=Cache.TIPSET)
async def state_miner_active_sectors(ctx: Context, address: Address, tipset_key: TipsetKey) -> list[dict[str, Any]]:
    """The sectors of a miner that count for power."""
    _, miner = await _miner(ctx, tipset_key, address, walks=True)
    found = miner.some_sectors(await _merged(ctx, miner, active))
    return await list_of(ctx, found, partial(to_newest_json, "SectorOnChainInfo"))


@method("Filecoin.StateMinerSectorCount", cost=Cost.SCAN, cache=Cache.TIPSET)
async def state_miner_sector_count(ctx: Context, address: Address, tipset_key: TipsetKey) -> dict[str, int]:
    """How many sectors of a miner are live, active and faulty."""
    _, miner = await _miner(ctx, tipset_key, address, "-", walks=True)
    cache = decoded_cache(ctx, "sector_counts")
    deadlines = await miner.deadlines()
    counts = {deadline["Partitions"]: _counts(cache, miner, deadline) for deadline in deadlines}
    # few deadlines change in an epoch, and those without partitions are all alike
    new = list({root: deadline for deadline in deadlines if counts[root := deadline["Partitions"]] is None}.values())
    sums = [[0, 0, 0] for _ in new]
    async for index, _, partition in miner.all_partitions(new):
        sums[index][0] += bitfield.count(live(partition))
        sums[index][1] += bitfield.count(active(partition))
        sums[index][2] += bitfield.count(partition["Faults"])
    for deadline, found in zip(new, sums, strict=True):
        counts[deadline["Partitions"]] = found
        keep(cache, _counts_key(miner, deadline), found, _COUNTS_BYTES)
    columns = zip(*(counts[deadline["Partitions"]] or () for deadline in deadlines), strict=True)
    return dict(zip(("Live", "Active", "Faulty"), map(sum, columns), strict=True))


def _counts_key(miner: Miner, deadline: dict[str, Any]) -> bytes:
    return b"".join((b"%d," % miner.version, deadline["Partitions"]))


def _counts(cache: DecodedCache, miner: Miner, deadline: dict[str, Any]) -> list[int] | None:
    """Live, active and faulty sectors of a deadline, where they are kept."""
    found = cache.get(_counts_key(miner, deadline))
    return None if found is None else found[0]


@method("Filecoin.StateMinerDeadlines", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_miner_deadlines(ctx: Context, address: Address, tipset_key: TipsetKey) -> list[dict[str, Any]]:
    """The 48 deadlines of a miner's proving period."""
    _, miner = await _miner(ctx, tipset_key, address)
    cache = json_cache(ctx)
    version = b"%d," % miner.version
    key = b"MD" + version + miner.state["Deadlines"]
    kept = cache.get(key)
    if kept is not None:
        return kept  # type: ignore[return-value]
    # each is an object of its own, and few change in an epoch
    due = await miner.due()
    found = {cid: cache.get(b"ME" + version + cid) for cid in due}
    new = [cid for cid, text in found.items() if text is None]
    deadlines = await miner.deadlines(new)
    for cid, deadline, proofs in zip(new, deadlines, await miner.disputable_proofs(deadlines), strict=True):
        found[cid] = cache.keep(b"ME" + version + cid, _deadline_json(deadline, proofs))
    return cache.keep(key, [found[cid] for cid in due])  # type: ignore[return-value]


def _deadline_json(deadline: dict[str, Any], proofs: int) -> dict[str, Any]:
    return {
        "PostSubmissions": bitfield.to_json(deadline["PartitionsPoSted"]),
        "DisputableProofCount": proofs,
        "DailyFee": str(deadline.get("DailyFee", 0)),
    }


@method("Filecoin.StateMinerPartitions", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_miner_partitions(
    ctx: Context, address: Address, index: Uint64, tipset_key: TipsetKey
) -> list[dict[str, Any]] | None:
    """The partitions of one deadline; null when it has none. Errors: an index from 48 on."""
    _, miner = await _miner(ctx, tipset_key, address)
    with error_prefix("failed to load the deadline"):
        deadline = await miner.deadline(index)
    found = [
        {
            "AllSectors": bitfield.to_json(partition["Sectors"]),
            "FaultySectors": bitfield.to_json(partition["Faults"]),
            "RecoveringSectors": bitfield.to_json(partition["Recoveries"]),
            "LiveSectors": bitfield.to_json(live(partition)),
            "ActiveSectors": bitfield.to_json(active(partition)),
        }
        async for _, partition in miner.partitions(deadline)
    ]
    return found or None


@method("Filecoin.StateMinerProvingDeadline", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_miner_proving_deadline(ctx: Context, address: Address, tipset_key: TipsetKey) -> dict[str, int]:
    """The current deadline of a miner, or its next occurrence if it has passed."""
    tipset, miner = await _miner(ctx, tipset_key, address)
    return miner.proving_deadline(tipset.height)


@method("Filecoin.StateMinerFaults", cost=Cost.SCAN, cache=Cache.TIPSET)
async def state_miner_faults(ctx: Context, address: Address, tipset_key: TipsetKey) -> list[int]:
    """The faulty sectors of a miner."""
    _, miner = await _miner(ctx, tipset_key, address, walks=True)
    return _json(await _merged(ctx, miner, lambda partition: bytes(partition["Faults"])))


@method("Filecoin.StateMinerRecoveries", cost=Cost.SCAN, cache=Cache.TIPSET)
async def state_miner_recoveries(ctx: Context, address: Address, tipset_key: TipsetKey) -> list[int]:
    """The faulty sectors of a miner that are declared recovered."""
    _, miner = await _miner(ctx, tipset_key, address, walks=True)
    return _json(await _merged(ctx, miner, lambda partition: bytes(partition["Recoveries"])))


@method("Filecoin.StateAllMinerFaults", cost=Cost.FREE, cache=Cache.TIPSET)
async def state_all_miner_faults(ctx: Context, lookback: int, tipset_key: TipsetKey) -> None:
    """Always an error, as in Lotus."""
    raise MethodError("fixme")


@method("Filecoin.StateMinerAllocated", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_miner_allocated(ctx: Context, address: Address, tipset_key: TipsetKey) -> list[int]:
    """The sector numbers that a miner has ever used."""
    _, miner = await _miner(ctx, tipset_key, address, "-")
    return bitfield.to_json(await miner.allocated())


@method("Filecoin.StateMinerSectorAllocated", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_miner_sector_allocated(
    ctx: Context, address: Address, sector: SectorNumber, tipset_key: TipsetKey
) -> bool:
    """Whether a miner has ever used this sector number."""
    _, miner = await _miner(ctx, tipset_key, address)
    return bitfield.has(await miner.allocated(), sector)


@method("Filecoin.StateMinerAvailableBalance", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_miner_available_balance(ctx: Context, address: Address, tipset_key: TipsetKey) -> str:
    """The attoFIL that a miner can withdraw, with the funds that vested until now."""
    tipset, miner = await _miner(ctx, tipset_key, address)
    vested = await miner.vested(tipset.height)
    return str(miner.available() + vested)


@method("Filecoin.StateSectorGetInfo", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_sector_get_info(
    ctx: Context, address: Address, sector: SectorNumber, tipset_key: TipsetKey
) -> dict[str, Any] | None:
    """A proven sector, or null."""
    _, miner = await _miner(ctx, tipset_key, address, "(get sset) ")
    found = await miner.sector(sector)
    return None if found is None else to_newest_json("SectorOnChainInfo", found)


@method("Filecoin.StateSectorPreCommitInfo", versions=V0, cost=Cost.STATE, cache=Cache.TIPSET)
async def state_sector_pre_commit_info_v0(
    ctx: Context, address: Address, sector: SectorNumber, tipset_key: TipsetKey
) -> dict[str, Any]:
    """A sector that is committed but not yet proven. Errors: there is none."""
    found = await state_sector_pre_commit_info(ctx, address, sector, tipset_key)
    if found is None:
        raise MethodError("precommit info does not exist")
    return found


@method("Filecoin.StateSectorPreCommitInfo", versions=V1, cost=Cost.STATE, cache=Cache.TIPSET)
async def state_sector_pre_commit_info(
    ctx: Context, address: Address, sector: SectorNumber, tipset_key: TipsetKey
) -> dict[str, Any] | None:
    """A sector that is committed but not yet proven, or null."""
    _, miner = await _miner(ctx, tipset_key, address, "(get sset) ")
    found = await miner.precommit(sector)
    return None if found is None else to_newest_json("SectorPreCommitOnChainInfo", found)


@method("Filecoin.StateSectorExpiration", cost=Cost.SCAN, cache=Cache.TIPSET)
async def state_sector_expiration(
    ctx: Context, address: Address, sector: SectorNumber, tipset_key: TipsetKey
) -> dict[str, int]:
    """When a sector expires: on time, and early if it is faulty (else 0)."""
    _, miner = await _miner(ctx, tipset_key, address, "-", walks=True)
    on_time, early = await miner.expiration(sector)
    return {"OnTime": on_time, "Early": early}


@method("Filecoin.StateSectorPartition", cost=Cost.SCAN, cache=Cache.TIPSET)
async def state_sector_partition(
    ctx: Context, address: Address, sector: SectorNumber, tipset_key: TipsetKey
) -> dict[str, int]:
    """The deadline and partition that a sector is in."""
    _, miner = await _miner(ctx, tipset_key, address, "-", walks=True)
    deadline, partition = await miner.find_sector(sector)
    return {"Deadline": deadline, "Partition": partition}

"""The capacity model: what a number of requests a second needs. `follower plan` prints it.

Its figures are in `capacity.json`, fitted by `python -m benches.load.fit` to what `python -m benches.load.costs`
measured. Each is an `Estimate`: a value with the least and the most that were measured. Arithmetic keeps both ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from typing import Any, Final

import orjson

#: of the file; another number when a field changes its meaning or goes
FORMAT: Final = 1
#: epochs of states that a store keeps by default (`keep_state_epochs`)
KEPT_EPOCHS: Final = 3_780
#: wide of a HAMT node: the depth of a tree grows by a level for so many times the entries
_TREE_WIDTH: Final = 32
#: cost classes whose answers read the state tree
_STATE: Final = frozenset({"state", "scan", "heavy", "execute"})


class BadModel(Exception):
    """The model cannot be read, or what is asked of it makes no sense."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure that is not known exactly: `low` <= `value` <= `high`, none below 0. Errors: BadModel."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.value <= self.high < math.inf:
            raise BadModel(f"{self.low}, {self.value}, {self.high}: not in order")

    @classmethod
    def exactly(cls, value: float) -> Estimate:
        """A figure that is known."""
        return cls(value, value, value)

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.value + other.value, self.low + other.low, self.high + other.high)

    def __mul__(self, other: Estimate) -> Estimate:
        return Estimate(self.value * other.value, self.low * other.low, self.high * other.high)

    def times(self, factor: float) -> Estimate:
        """The estimate `factor` (at least 0) times."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)

    def __truediv__(self, other: Estimate) -> Estimate:
        if not other.low:
            raise BadModel("a division by what may be 0")
        return Estimate(self.value / other.value, self.low / other.high, self.high / other.low)

    def ceil(self, least: int = 1) -> Estimate:
        """Whole units, at least so many."""
        return Estimate(*(float(max(least, math.ceil(one - 1e-9))) for one in (self.value, self.low, self.high)))


ZERO: Final = Estimate.exactly(0)


@dataclass(frozen=True, slots=True)
class Model:
    """The fitted figures.

    `methods`, `classes`: microseconds of a follower's CPU for a request whose answer is made, by method and by cost
    class; `kept_us`: for one whose answer is kept as bytes. `answer_bytes`: by method and class. `full_cores`: how many
    times that a request costs where several followers share full cores; `among_others`: how many times that of it alone
    a method costs in a mix (1 in models without it).
    `head_ms`: CPU that a head costs each serving process. `trips`: store round trips of an answer from the state
    tree, by MiB of object cache, on a chain of `trips_actors`. `balancer_us`: CPU of HAProxy a request. `read_us`,
    `write_us`: CPU of a database node for a read and a write of an object. `object_us`: CPU of the bridge an object;
    `object_bytes`: of one, as stored.
    """

    methods: Mapping[str, Estimate]
    classes: Mapping[str, Estimate]
    answer_bytes: Mapping[str, float]
    kept_us: Estimate
    full_cores: Estimate
    among_others: Estimate
    head_ms: Estimate
    trips: tuple[tuple[float, Estimate], ...]
    trips_actors: float
    balancer_us: Estimate
    read_us: Estimate
    write_us: Estimate
    object_us: Estimate
    object_bytes: Estimate
    measured: Mapping[str, Any]

    @classmethod
    def load(cls, data: bytes | None = None) -> Model:
        """The model of a file; without one, of the package. Errors: BadModel."""
        try:
            found = orjson.loads((files(__package__) / "capacity.json").read_bytes() if data is None else data)
            if found["format"] != FORMAT:
                raise BadModel(f"a model of format {found['format']}, not {FORMAT}")
            return cls(
                methods={name: Estimate(*value) for name, value in found["methods"].items()},
                classes={name: Estimate(*value) for name, value in found["classes"].items()},
                answer_bytes={name: float(value) for name, value in found["answer_bytes"].items()},
                among_others=Estimate(*found.get("among_others", (1, 1, 1))),
                trips=tuple((float(size), Estimate(*value)) for size, value in found["trips"]),
                trips_actors=float(found["trips_actors"]),
                measured=found["measured"],
                **{
                    name: Estimate(*found[name])
                    for name in (
                        "kept_us", "full_cores", "head_ms", "balancer_us", "read_us", "write_us", "object_us",
                        "object_bytes",
                    )
                },
            )  # fmt: skip
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise BadModel(f"the model cannot be read: {error!r}") from None

    def request_us(self, shares: Mapping[str, float], classes: Mapping[str, str], kept: float = 0.0) -> Estimate:
        """CPU of a follower for a request of a mix, alone on its core. `shares` by method add up to 1.

        `kept`: the share of requests whose answers are kept, from 0 to 1.
        """
        found = ZERO
        for name, share in shares.items():
            cost = self.methods.get(name)
            if cost is None:
                cost = self.classes[classes[name]]
            found += cost.times(share)
        if sum(share > 0 for share in shares.values()) > 1:
            found = found * self.among_others
        return found.times(1 - kept) + self.kept_us.times(kept)

    def bytes_each(self, shares: Mapping[str, float], classes: Mapping[str, str]) -> float:
        """Bytes of the mean answer."""
        known = self.answer_bytes
        return sum(share * known.get(name, known[classes[name]]) for name, share in shares.items())

    def trips_each(
        self, shares: Mapping[str, float], classes: Mapping[str, str], cache_mb: float, actors: int
    ) -> Estimate:
        """Store round trips of the mean answer: a warm object cache of so many MiB, a chain of so many actors."""
        share = sum(part for name, part in shares.items() if classes[name] in _STATE)
        # a larger chain has the same upper levels, and reads below them what no cache holds
        deeper = max(0.0, math.log(actors / self.trips_actors, _TREE_WIDTH))
        found = self._trips(cache_mb * self.trips_actors / max(actors, self.trips_actors))
        return (found + Estimate(deeper, 0, 2 * deeper)).times(share)

    def _trips(self, megabytes: float) -> Estimate:
        """Between two sizes that were measured, on a straight line over the logarithm of the size."""
        sizes = self.trips
        if megabytes <= sizes[0][0]:
            return sizes[0][1]
        for (size, few), (larger, more) in pairwise(sizes):
            if megabytes <= larger:
                part = math.log(megabytes / size) / math.log(larger / size)
                return few.times(1 - part) + more.times(part)
        return sizes[-1][1]


@dataclass(frozen=True, slots=True)
class Case:
    """An operator's case.

    `utilisation`: the share of a core that is planned for, from 0 to 1. `copies`, `read_copies`: of an object, and how
    many database nodes answer a read. `kept`: the share of requests whose answers are kept as bytes. `gigabits`: of a
    machine's network. `objects`: new ones a head. `block_seconds`: between heads.
    """

    rps: float
    cores: int = 16
    utilisation: float = 0.6
    cache_mb: float = 256.0
    actors: int = 3_500_000
    objects: int = 40_000
    block_seconds: float = 30.0
    copies: int = 3
    read_copies: int = 2
    gigabits: float = 10.0
    kept: float = 0.0

    def __post_init__(self) -> None:
        for name in (
            "rps",
            "cores",
            "cache_mb",
            "actors",
            "objects",
            "block_seconds",
            "copies",
            "read_copies",
            "gigabits",
        ):
            if not 0 < getattr(self, name) < math.inf:
                raise BadModel(f"{name} is {getattr(self, name)}: it must be above 0")
        if not 0 < self.utilisation <= 1:
            raise BadModel(f"utilisation is {self.utilisation}: it must be above 0, and 1 at most")
        if not 0 <= self.kept <= 1:
            raise BadModel(f"kept is {self.kept}: it must be from 0 to 1")


@dataclass(frozen=True, slots=True)
class Limit:
    """What breaks: `rps` is where one unit of it (`unit`) is full; `remedy` says what is done."""

    name: str
    unit: str
    rps: Estimate
    remedy: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a case needs. CPU in microseconds a request, disk in bytes, network in bytes a second."""

    request_us: Estimate
    bytes_each: float
    trips_each: Estimate
    processes: Estimate
    machines: Estimate
    balancers: Estimate
    database_nodes: Estimate
    bridge_share: Estimate
    disk: Estimate
    outbound: float
    reads: Estimate
    limits: tuple[Limit, ...]


def plan(model: Model, case: Case, shares: Mapping[str, float], classes: Mapping[str, str]) -> Plan:
    """The arithmetic. Errors: BadModel, when heads alone keep a core busy, or shares do not add up to 1."""
    if not math.isclose(sum(shares.values()), 1, rel_tol=1e-6):
        raise BadModel("the shares of a mix add up to 1")
    request = model.request_us(shares, classes, case.kept) * model.full_cores
    size = model.bytes_each(shares, classes)
    trips = model.trips_each(shares, classes, case.cache_mb, case.actors).times(1 - case.kept)
    heads = model.head_ms.times(1e-3 / case.block_seconds)
    left = case.utilisation - heads.high
    if left <= 0:
        raise BadModel("the heads alone take the share of a core that is planned for")
    free = Estimate(case.utilisation - heads.value, left, case.utilisation - heads.low)
    processes = (request.times(case.rps * 1e-6) / free).ceil()
    # one more, so that a machine may fail or restart
    machines = processes.times(1 / case.cores).ceil() + Estimate.exactly(1)
    balancing = model.balancer_us.times(case.rps * 1e-6 / case.utilisation)
    network = case.gigabits * 1e9 / 8
    wires = Estimate.exactly(case.rps * size / (network * case.utilisation))
    balancers = Estimate(*(
        max(getattr(balancing, name) / case.cores, getattr(wires, name)) for name in ("value", "low", "high")
    )).ceil() + Estimate.exactly(1)  # fmt: skip
    writes = case.objects / case.block_seconds
    database_us = trips * model.read_us.times(case.read_copies * case.rps) + model.write_us.times(writes * case.copies)
    nodes = database_us.times(1e-6 / case.cores / case.utilisation).ceil(case.copies)
    return Plan(
        request_us=request,
        bytes_each=size,
        trips_each=trips,
        processes=processes,
        machines=machines,
        balancers=balancers,
        database_nodes=nodes,
        bridge_share=model.object_us.times(1e-6 * case.objects / case.block_seconds),
        disk=model.object_bytes.times(float(case.objects) * KEPT_EPOCHS * case.copies),
        outbound=case.rps * size,
        reads=trips.times(case.rps),
        limits=tuple(sorted(_limits(model, case, request, size, trips, free), key=lambda limit: limit.rps.value)),
    )


def _limits(model: Model, case: Case, request: Estimate, size: float, trips: Estimate, free: Estimate) -> list[Limit]:
    second = Estimate.exactly(1e6)
    cores = float(case.cores)
    found = [
        Limit("follower", f"a machine of {case.cores} cores", (second * free).times(cores) / request, "add followers"),
        Limit(
            "balancer", f"a machine of {case.cores} cores",
            second.times(cores * case.utilisation) / model.balancer_us, "several balancers, DNS or anycast before them",
        ),
        Limit(
            "network", f"{case.gigabits:g} Gbit/s of a balancer",
            Estimate.exactly(case.gigabits * 1e9 / 8 * case.utilisation / size),
            "a lower gzip_from_kb, or several balancers",
        ),
    ]  # fmt: skip
    reading = trips * model.read_us.times(case.read_copies)
    if reading.low:
        found.append(
            Limit(
                "database", f"{case.copies} nodes of {case.cores} cores",
                second.times(cores * case.utilisation * case.copies) / reading,
                "a larger object_cache_mb, then more nodes",
            )
        )  # fmt: skip
    return found

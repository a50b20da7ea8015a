"""Computes circulating supply, pledges, deposits and collateral.

What a build of Lotus fixes (upgrade epochs of its first versions, the reserve, the least power of a block
producer) is in no state. Which build a chain belongs to is told by its actors: each build embeds the bundle of
one network, and the "testing" bundles are those of Lotus' own test networks.
Sources: Lotus `chain/stmgr/supply.go`, `build/buildconstants/params_*.go`; `itests/kit`; go-state-types
`builtin/v*/miner/monies.go`, `market/policy.go`, `util/smoothing`, `util/math`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from chain.actors.codes import networks_of
from chain.actors.load import BURNT_FUNDS, MARKET, POWER, REWARD, Loaded, States
from chain.address import from_id
from chain.errors import ChainError

FIL: Final = 10**18
TOTAL_FIL: Final = 2_000_000_000 * FIL
RESERVE: Final = from_id(90)

_EPOCHS_IN_DAY: Final = 2880
_HALF_YEAR: Final = 183 * _EPOCHS_IN_DAY
_YEAR: Final = 365 * _EPOCHS_IN_DAY

#: (epochs to unlock, whole FIL) of the money sold before genesis
_BEFORE_CALICO: Final = (
    (_HALF_YEAR, 49_929_341 + 32_787_700),
    (_YEAR, 22_421_712),
    (2 * _YEAR, 7_223_364),
    (3 * _YEAR, 87_637_883),
    (6 * _YEAR, 100_000_000 + 300_000_000),
)
_SINCE_CALICO: Final = (
    (0, 10_632_000),
    (_HALF_YEAR, 19_015_887 + 32_787_700),
    (_YEAR, 22_421_712 + 9_400_000),
    (2 * _YEAR, 7_223_364),
    (3 * _YEAR, 87_637_883 + 898_958),
    (6 * _YEAR, 100_000_000 + 300_000_000 + 9_805_053),
)


@dataclass(frozen=True, slots=True)
class Economy:
    """Epochs of the upgrades Ignition, Assembly, Liftoff and Calico; FIL reserved at first and since network
    version 25; bytes that a miner needs to produce blocks for sure, and those that the network's parameters
    name (a tenth of which a new miner deposits for); the share of the supply, in percent, that deals lock."""

    ignition: int
    assembly: int
    liftoff: int
    calico: int
    reserved: int
    reserved_since_25: int
    least_power: int
    named_power: int
    collateral_percent: int = 1


_RESERVED: Final = 300_000_000
_DEVELOPMENT: Final = Economy(-2, -5, -6, -9, _RESERVED, 1_400_000_000, 2048, 2048)
_TIB: Final = 1 << 40
_GIB: Final = 1 << 30
#: by the network of the actors' bundle
_ECONOMIES: Final = {
    "mainnet": Economy(94_000, 138_720, 148_888, 265_200, _RESERVED, _RESERVED, 10 * _TIB, 10 * _TIB),
    "calibrationnet": Economy(-3, 30, -5, 120, _RESERVED, 1_200_000_000, 32 * _GIB, 32 * _GIB),
    "butterflynet": Economy(-3, -5, -7, -9, _RESERVED, 1_600_000_000, 2 * _GIB, 2 * _GIB),
    "caterpillarnet": Economy(-2, -5, -6, -9, _RESERVED, _RESERVED, 2048, 2048),
    "devnet": _DEVELOPMENT,
    # networks of Lotus' test kit: mainnet's build, of which the kit changes a few values
    **dict.fromkeys(
        ("testing", "testing-fake-proofs"),
        Economy(94_000, -1, 148_888, 265_200, _RESERVED, _RESERVED, 2048, 10 * _TIB, 0),
    ),
}


def economy_of(code: bytes) -> Economy:
    """The constants of the network whose actors have this code. Development networks' for an unknown code."""
    for network in sorted(networks_of(code)):
        return _ECONOMIES.get(network, _DEVELOPMENT)
    return _DEVELOPMENT


def locked(initial: int, duration: int, elapsed: int) -> int:
    """The part of `initial` that a linear schedule locks after `elapsed` of `duration` epochs, rounded up."""
    if elapsed >= duration:
        return 0
    if elapsed <= 0:
        return initial
    return -(-initial * (duration - elapsed) // duration)


def _locked_at_first(initial: int, duration: int, elapsed: int) -> int:
    """As `locked`, with the rounding of the first actors version. Used for the genesis sales."""
    if elapsed >= duration:
        return 0
    if elapsed < 0:
        return initial
    return initial // duration * (duration - elapsed)


def vested(economy: Economy, height: int, genesis_pledge: int) -> int:
    """attoFIL of the genesis sales that are vested at an epoch, and until Assembly the genesis pledge."""
    if height <= economy.ignition:
        # mainnet counted FIL instead of attoFIL before Ignition
        total = _vested(_BEFORE_CALICO, 1, height)
    elif height <= economy.calico:
        total = _vested(_BEFORE_CALICO, FIL, height - economy.liftoff)
    else:
        total = _vested(_SINCE_CALICO, FIL, height - economy.liftoff)
    return total + genesis_pledge if height <= economy.assembly else total


def _vested(schedule: Iterable[tuple[int, int]], unit: int, elapsed: int) -> int:
    return sum(amount * unit - _locked_at_first(amount * unit, duration, elapsed) for duration, amount in schedule)


@dataclass(frozen=True, slots=True)
class Supply:
    """attoFIL, as `StateVMCirculatingSupplyInternal` names them."""

    vested: int
    mined: int
    burnt: int
    locked: int
    circulating: int
    reserve_disbursed: int

    def to_json(self) -> dict[str, str]:
        """api.CirculatingSupply."""
        return {
            "FilVested": str(self.vested),
            "FilMined": str(self.mined),
            "FilBurnt": str(self.burnt),
            "FilLocked": str(self.locked),
            "FilCirculating": str(self.circulating),
            "FilReserveDisbursed": str(self.reserve_disbursed),
        }


def market_locked(market: Loaded) -> int:
    """The attoFIL that deals lock."""
    state = market.state
    return sum(
        state[name]
        for name in ("TotalClientLockedCollateral", "TotalProviderLockedCollateral", "TotalClientStorageFee")
    )


async def circulating_supply(states: States, height: int, genesis_pledge: Callable[[], Awaitable[int]]) -> Supply:
    """The supply that the VM works with at `height`.

    `genesis_pledge` (attoFIL locked by the power actor in the genesis state) is asked until Assembly only.
    Errors: ActorNotFound, OldActors, Missing, BadObject.
    """
    disbursed = 0
    reward = await states.load(REWARD, "reward")
    economy = economy_of(reward.actor.code)
    if height > economy.assembly:
        since = states.network_version >= 25
        reserved = economy.reserved_since_25 if since else economy.reserved
        disbursed = reserved * FIL - (await states.tree.get(RESERVE)).balance
    mined = reward.state["TotalStoragePowerReward"]
    burnt = (await states.tree.get(BURNT_FUNDS)).balance
    held = (await states.load(POWER, "power")).state["TotalPledgeCollateral"]
    if states.network_version < 23:
        held += market_locked(await states.load(MARKET, "market"))
    out = vested(economy, height, await genesis_pledge() if height <= economy.assembly else 0)
    return Supply(out, mined, burnt, held, max(0, out + mined + disbursed - burnt - held), disbursed)


# Q.128 arithmetic of the alpha-beta filters

_PRECISION: Final = 128
_EPSILON: Final = 302231454903657293676544
_LN2: Final = 235865763225513294137944142764154484399
_LN_NUMERATOR: Final = (
    261417938209272870992496419296200268025,
    7266615505142943436908456158054846846897,
    32458783941900493142649393804518050491988,
    17078670566130897220338060387082146864806,
    -35150353308172866634071793531642638290419,
    -20351202052858059355702509232125230498980,
    -1563932590352680681114104005183375350999,
)
_LN_DENOMINATOR: Final = (
    49928077726659937662124949977867279384,
    2508163877009111928787629628566491583994,
    21757751789594546643737445330202599887121,
    53400635271583923415775576342898617051826,
    41248834748603606604000911015235164348839,
    9015227820322455780436733526367238305537,
    340282366920938463463374607431768211456,
)


def _div(number: int, by: int) -> int:
    """Go's Euclidean division: the remainder is never negative."""
    if not by:
        raise ChainError("division by zero")
    return number // by if by > 0 else -(number // -by)


def _polynomial(coefficients: tuple[int, ...], x: int) -> int:
    result = coefficients[0]
    for coefficient in coefficients[1:]:
        result = (result * x >> _PRECISION) + coefficient
    return result


def ln(z: int) -> int:
    """The natural logarithm of `z`, both Q.128; `z` is above zero."""
    k = z.bit_length() - 1 - _PRECISION
    x = z >> k if k > 0 else z << -k
    quotient = _div(_polynomial(_LN_NUMERATOR, x) << _PRECISION, _polynomial(_LN_DENOMINATOR, x))
    return k * _LN2 + quotient


Estimate = dict[str, Any]


def position(estimate: Estimate) -> int:
    """The filter's value, a whole number."""
    value: int = estimate["PositionEstimate"]
    return value >> _PRECISION


def cumulative_ratio(epochs: int, above: Estimate, below: Estimate) -> int:
    """The sum of above/below over the next `epochs`, Q.128."""
    delta = epochs << _PRECISION
    position1, velocity1 = above["PositionEstimate"], above["VelocityEstimate"]
    position2, velocity2 = below["PositionEstimate"], below["VelocityEstimate"]
    squared = velocity2 * velocity2 >> _PRECISION
    if squared > _EPSILON:
        start = position2
        end = start + (delta * velocity2 >> _PRECISION)
        start, end = ln(start), ln(end)
        m1 = velocity2 * position1 * (end - start) >> _PRECISION
        m2 = velocity1 * (position2 * (start - end) + velocity2 * delta) >> _PRECISION
        return _div(m1 + m2, squared)
    middle = (velocity1 * (delta >> 1) >> _PRECISION) + position1
    return _div(middle * delta, position2)


def expected_reward(reward: Estimate, power: Estimate, qa_power: int, epochs: int) -> int:
    """attoFIL that `qa_power` bytes may expect over `epochs`; at least 1, as pledges are counted."""
    if not position(power):
        found = position(reward)
    else:
        found = max(0, qa_power * cumulative_ratio(epochs, reward, power) >> _PRECISION)
    return max(1, found)


_PLEDGE_EPOCHS: Final = 20 * _EPOCHS_IN_DAY
_PLEDGE_CAP: Final = FIL // (32 << 30)
_GAMMA: Final = 1000
_FULL_SKEW: Final = 300


def precommit_deposit(reward: Loaded, power: Estimate, qa_power: int) -> int:
    """attoFIL that a pre-committed sector of `qa_power` bytes must deposit."""
    return expected_reward(reward.state["ThisEpochRewardSmoothed"], power, qa_power, _PLEDGE_EPOCHS)


def initial_pledge(reward: Loaded, power: Loaded, qa_power: int, circulating: int, height: int) -> int:
    """attoFIL that a sector of `qa_power` bytes must pledge (FIP-0081's ramp from actors 15 on)."""
    smoothed = power.state["ThisEpochQAPowerSmoothed"]
    base = expected_reward(reward.state["ThisEpochRewardSmoothed"], smoothed, qa_power, _PLEDGE_EPOCHS)
    network = position(smoothed)
    skew = 0
    if reward.version >= 15:
        start, duration = power.state["RampStartEpoch"], power.state["RampDurationEpochs"]
        since, duration = (height - start, duration) if start > 0 else (0, 0)
        if since >= 0:
            skew = _FULL_SKEW if not duration or since >= duration else since * _FULL_SKEW // duration
    gamma = _GAMMA - skew
    share = 3 * circulating * qa_power
    baseline = max(network, reward.state["ThisEpochBaselinePower"], qa_power)
    simple = max(network, qa_power)
    extra = _div(gamma * share, baseline * 10 * _GAMMA) + _div(skew * share, simple * 10 * _GAMMA)
    return min(base + extra, _PLEDGE_CAP * qa_power)


def deal_collateral(piece: int, power: Loaded, reward: Loaded, circulating: int) -> int:
    """attoFIL that a provider must at least lock for a deal of `piece` bytes."""
    percent = economy_of(power.actor.code).collateral_percent
    network = max(power.state["TotalRawBytePower"], reward.state["ThisEpochBaselinePower"], piece)
    return _div(percent * circulating * piece, 100 * network)


_QUALITY: Final = 10
_VERIFIED: Final = 100
_PRECISION_BITS: Final = 20


def qa_power(size: int, duration: int, verified_weight: int) -> int:
    """Quality-adjusted bytes of a sector; the weight is verified bytes times epochs."""
    space_time = size * duration
    weighted = (space_time - verified_weight) * _QUALITY + verified_weight * _VERIFIED
    quality = _div(_div(weighted << _PRECISION_BITS, space_time), _QUALITY)
    return size * quality >> _PRECISION_BITS


def qa_power_max(size: int) -> int:
    """Quality-adjusted bytes of a sector full of verified deals."""
    return size * _VERIFIED // _QUALITY

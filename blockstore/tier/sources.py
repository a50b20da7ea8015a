"""Sources of objects, the fastest first; one that fails or is slow is passed over.

The rules are those of Joystream's distributor, with its faults mended (a failed probe counts), and a second request for
what takes unusually long: Dean and Barroso, "The tail at scale" (2013).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from blockstore.cid import cid_of
from blockstore.errors import StoreError, StoreUnavailable
from blockstore.recent_times import RecentTimes

log = logging.getLogger(__name__)

K = TypeVar("K")
K_contra = TypeVar("K_contra", contravariant=True)

#: bytes; None: the source does not hold it; the error that prevented an answer
Outcome = bytes | StoreError | None

#: response times whose mean ranks a source, and those of which the 95th percentile is taken
_RANKED: Final = 10
_WINDOW: Final = 200
_FEWEST: Final = 20
PROBE_SECONDS: Final = 60.0
#: what probes ask for: an empty CBOR array. Whether it is held does not matter
PROBED: Final = cid_of(b"\x80")
PROBES_AT_ONCE: Final = 10
_PROBE_TIMEOUT_SECONDS: Final = 5.0
#: seconds that a source which failed is passed over; they double with each failure
_COOL_DOWN_SECONDS: Final = 5.0
_LONGEST_COOL_DOWN_SECONDS: Final = 300.0
#: a request for more keys is told apart: its time says something else, and so many keys may take as long as one
_KEYS: Final = 32
#: no second request is later than so many medians: where more than one in twenty is slow, the percentile says nothing
_MEDIANS: Final = 3.0
#: a source that is slower than the first one by more is not asked a second time: the first one is
_SLOWER: Final = 4.0
#: second requests per request, and how many may come at once
_HEDGE_SHARE: Final = 0.1
_HEDGES_AT_ONCE: Final = 10.0


class Source(Protocol[K_contra]):
    """A place that may hold objects. What it answers is verified."""

    @property
    def name(self) -> str:
        """For logs and metrics: without secrets."""

    async def read(self, keys: Sequence[K_contra]) -> Sequence[Outcome]:
        """For each key its bytes, None where this source does not hold it, or an error.

        Errors: StoreError, when the source cannot be asked at all.
        """

    async def probe(self) -> None:
        """Ask something cheap. Errors: StoreError."""


class Standing(Generic[K]):
    """What is known of one source."""

    def __init__(self, source: Source[K]) -> None:
        self.source = source
        self.times: deque[float] = deque(maxlen=_RANKED)
        self._window = RecentTimes(_WINDOW)
        self.cooling_until = float("-inf")
        self._failed_in_a_row = 0
        #: requests; those that failed; second requests; second requests that answered first; objects that it gave
        self.requests = self.failures = self.hedges = self.hedge_wins = self.objects = 0
        #: of all requests that were answered, but those for many keys
        self.seconds = 0.0

    @property
    def mean(self) -> float | None:
        """Mean of the last response times in seconds; None while there is none."""
        return sum(self.times) / len(self.times) if self.times else None

    def note(self, seconds: float) -> None:
        """A response time."""
        self.seconds += seconds
        self.times.append(seconds)
        self._window.add(seconds)
        self._failed_in_a_row = 0

    def fail(self, now: float) -> None:
        """It could not be asked: passed over for a while."""
        self.failures += 1
        seconds = min(_COOL_DOWN_SECONDS * 2**self._failed_in_a_row, _LONGEST_COOL_DOWN_SECONDS)
        self._failed_in_a_row = min(self._failed_in_a_row + 1, 16)
        self.cooling_until = max(self.cooling_until, now + seconds)

    def hedge_delay(self) -> float | None:
        """Seconds after which a second request is made; None while too little is known."""
        if len(self._window) < _FEWEST:
            return None
        return min(self._window.quantile(0.95), _MEDIANS * self._window.quantile(0.5))


class RankedSources(Generic[K]):
    """Reads from the first source that holds a key, best first. `run` probes them.

    `repeats`: where no other source is about as fast, a second request goes to the first source again, as is of use
    with a database of several replicas. `now`: seconds.
    """

    def __init__(
        self, sources: Sequence[Source[K]], *, repeats: bool = False, now: Callable[[], float] | None = None
    ) -> None:
        if not sources:
            raise ValueError("at least one source is needed")
        self.standings = [Standing(source) for source in sources]
        self._now = now or (lambda: asyncio.get_running_loop().time())
        self._repeats = repeats
        self._hedges_left = _HEDGES_AT_ONCE
        self._losers: set[asyncio.Task[Any]] = set()

    def ranked(self) -> list[Standing[K]]:
        """The sources in the order in which they are asked: by mean, unknown ones behind, failed ones last."""
        if len(self.standings) == 1:
            return self.standings
        now = self._now()

        def place(one: Standing[K]) -> tuple[bool, bool, float]:
            mean = one.mean
            return one.cooling_until > now, mean is None, mean or 0.0

        return sorted(self.standings, key=place)

    async def read(self, keys: Sequence[K]) -> list[Outcome]:
        """For each key its bytes; None when no source holds it; an error when one that could not be asked may."""
        outcomes: list[Outcome] = [None] * len(keys)
        left = list(range(len(keys)))
        asked: set[int] = set()
        while left:
            order = [one for one in self.ranked() if id(one) not in asked]
            if not order:
                break
            wanted = [keys[at] for at in left]
            answers: Sequence[Outcome]
            try:
                one, answers = await self._ask(order, wanted)
            except StoreError as error:
                # those asked have failed: they stand last now
                one, answers = order[0], [error] * len(left)
            asked.add(id(one))
            for at, answer in zip(left, answers, strict=True):
                # that this source has none says nothing against another that could not be asked
                if answer is not None or outcomes[at] is None:
                    outcomes[at] = answer
            left = [at for at in left if not isinstance(outcomes[at], bytes)]
        return outcomes

    async def _ask(self, order: Sequence[Standing[K]], keys: Sequence[K]) -> tuple[Standing[K], Sequence[Outcome]]:
        """The first answer to a request, and to a second one where the first takes long. Errors: StoreError."""
        first = order[0]
        self._hedges_left = min(self._hedges_left + _HEDGE_SHARE, _HEDGES_AT_ONCE)
        second = self._second(order) if len(keys) <= _KEYS else None
        delay = first.hedge_delay() if second is not None else None
        if second is None or delay is None:
            return first, await self._timed(first, keys)
        tasks = {asyncio.create_task(self._timed(first, keys)): first}
        hedge: asyncio.Task[Sequence[Outcome]] | None = None
        try:
            done, _ = await asyncio.wait(tasks, timeout=delay)
            if not done and self._hedges_left >= 1:
                self._hedges_left -= 1
                second.hedges += 1
                hedge = asyncio.create_task(self._timed(second, keys))
                tasks[hedge] = second
            error: StoreError | None = None
            while tasks:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    one = tasks.pop(task)
                    try:
                        answers = task.result()
                    except StoreError as failed:
                        error = failed
                        continue
                    one.hedge_wins += task is hedge
                    return one, answers
            assert error is not None
            raise error
        finally:
            for task in tasks:
                task.cancel()
                self._losers.add(task)
                task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._losers.discard(task)
        if not task.cancelled():
            # it has failed, or answered too late: either is noted already
            task.exception()

    def _second(self, order: Sequence[Standing[K]]) -> Standing[K] | None:
        first, now = order[0], self._now()
        mean = first.mean or 0.0
        for other in order[1:]:
            if other.cooling_until <= now and other.mean is not None and other.mean <= mean * _SLOWER:
                return other
        return first if self._repeats else None

    async def _timed(self, one: Standing[K], keys: Sequence[K]) -> Sequence[Outcome]:
        began = self._now()
        one.requests += 1
        try:
            answers = await one.source.read(keys)
        except asyncio.CancelledError:
            # the other one was faster: it would have taken at least this long
            if len(keys) <= _KEYS:
                one.note(self._now() - began)
            raise
        except StoreError as error:
            self._failed(one, error)
            raise
        if len(keys) <= _KEYS:
            one.note(self._now() - began)
        given = sum(isinstance(answer, bytes) for answer in answers)
        one.objects += given
        if not given and answers and all(isinstance(answer, StoreError) for answer in answers):
            self._failed(one, answers[0])
        return answers

    def _failed(self, one: Standing[K], error: object) -> None:
        if one.cooling_until <= self._now():
            log.info("%s is passed over for a while: %s", one.source.name, error)
        one.fail(self._now())

    # --- probes ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Probe all sources now and each 60 s, until cancelled."""
        while True:
            await self.probe_all()
            await asyncio.sleep(PROBE_SECONDS)

    async def probe_all(self) -> None:
        """Probe every source, at most 10 at once."""
        places = asyncio.Semaphore(PROBES_AT_ONCE)

        async def probe(one: Standing[K]) -> None:
            async with places:
                began = self._now()
                try:
                    async with asyncio.timeout(_PROBE_TIMEOUT_SECONDS):
                        await one.source.probe()
                except TimeoutError:
                    self._failed(one, StoreUnavailable("a probe was not answered"))
                except StoreError as error:
                    self._failed(one, error)
                else:
                    one.note(self._now() - began)

        await asyncio.gather(*(probe(one) for one in self.standings))

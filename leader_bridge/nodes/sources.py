"""The full nodes as sources of objects: ranked, verified, each with a cool-down of its own.

An object is asked of one node after another. A node that answers wrong bytes is named, counted and left alone for
minutes. One that does not hold an object is not to blame; the next is asked. One that cannot be reached cools down
for a time that grows, and meanwhile `probe` asks it one cheap question. Only when every node was asked and said no
is an object *missing*; nothing waits for a node that failed three times in a row or gave wrong bytes, or a dead node
in the list could hold up everything.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from blockstore.cid import Cid, verify
from blockstore.errors import BadCid, HashMismatch
from blockstore.store import Held
from leader_bridge import metrics
from leader_bridge.clock import monotonic
from leader_bridge.nodes.subscription import Change, Subscription, fetch_chain_head
from rpc.client.client import NodeClient
from rpc.node_errors import BadAnswer, CallFailed, NodeError, NodeRefused, NodeTimeout, RateLimited

log = logging.getLogger(__name__)

_FIRST_COOLDOWN: Final = 0.2
_LONGEST_COOLDOWN: Final = 30.0
#: a node that failed so often in a row counts as gone: nothing waits for what it may hold
_UNREACHABLE_AFTER: Final = 3
#: in the text of an error that says nothing of whether the object is there
_BUSY_WORDS: Final = ("limit", "too many", "busy", "timeout", "timed out", "deadline", "cancel", "overload")
_LONGEST_BAD_OBJECT_COOLDOWN: Final = 600.0
#: seconds in which a followed node that is cordoned is left
_CORDON_SECONDS: Final = 1.0
#: full batches after which a smaller batch grows again; twice as many each time that proves wrong
_GROW_AFTER: Final = 16
_MOST_GROW_AFTER: Final = 4096
#: how long a node has to answer a probe
_PROBE_TIMEOUT: Final = 2.0


class NoSource(Exception):
    """No node could be asked just now; `wait` is how many seconds until one can."""

    def __init__(self, reason: str, wait: float) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(slots=True)
class Fetched:
    """What a fetch brought: verified bytes by CID, and what every node said it does not hold.

    `stored`: how the fetcher has stored some of them already.
    """

    found: dict[Cid, bytes] = field(default_factory=dict)
    missing: list[Cid] = field(default_factory=list)
    stored: dict[Cid, Held] = field(default_factory=dict)


class Source:
    """One node with its record. `refusal` is why it must not be used at all ("" for none)."""

    def __init__(self, client: NodeClient, batch: int) -> None:
        self.client = client
        self.batch = self._most_batch = batch
        #: full batches that were answered since it got smaller, and after how many it grows
        self._full_batches = 0
        self._grow_after = _GROW_AFTER
        self._has_grown = False
        self.refusal = ""
        #: an operator wants it to be left alone
        self.is_cordoned = False
        self.failures = 0
        self.wrong_objects = 0
        self.cooling_until = 0.0
        #: it cools down after a failure, and its answer to a cheap question would end that
        self._awaits_probe = False
        self._was_probed = False
        self._trusts_probe = True

    @property
    def name(self) -> str:
        """Host and port."""
        return self.client.name

    @property
    def may_be_used(self) -> bool:
        """Whether it may be asked at all, when it does not cool down."""
        return not self.refusal and not self.is_cordoned

    def shrink_batch(self, size: int) -> None:
        """A batch of this size has failed as a whole: ask for half of it."""
        self.batch = max(1, size // 2)
        self._full_batches = 0
        if self._has_grown:
            # its own limit, most likely
            self._grow_after, self._has_grown = min(2 * self._grow_after, _MOST_GROW_AFTER), False

    def batch_answered(self, size: int) -> None:
        """A batch was answered. After some full ones the next are larger: what failed may have been a bad moment."""
        if size < self.batch or self.batch == self._most_batch:
            return
        self._full_batches += 1
        if self._full_batches >= self._grow_after:
            self.batch = min(2 * self.batch, self._most_batch)
            self._full_batches, self._has_grown = 0, True

    def cool_down(self, seconds: float) -> None:
        """Leave the node alone for a while."""
        self.cooling_until = max(self.cooling_until, monotonic() + seconds)

    def record_failure(self, error: Exception) -> None:
        """Note a failure; the cool-down grows with each one in a row."""
        if isinstance(error, Cordoned):
            return
        self.failures += 1
        if self._was_probed:
            # it answers the cheap question and fails all the same: only time helps
            self._was_probed, self._trusts_probe = False, False
        if isinstance(error, RateLimited):
            self.cool_down(error.retry_after)
        else:
            self._awaits_probe = not isinstance(error, NodeRefused)
            longest = min(_LONGEST_COOLDOWN, _FIRST_COOLDOWN * 2 ** min(self.failures - 1, 10))
            self.cool_down(longest * random.uniform(0.5, 1.0))
        if self.failures == 1 or isinstance(error, NodeRefused):
            log.warning("%s: %s", self.name, error)
        metrics.RETRIES.inc()

    def record_wrong_object(self, cid: Cid, first_cooldown_seconds: float) -> None:
        """Note wrong bytes: named in the log, left alone for long."""
        self.wrong_objects += 1
        self._awaits_probe = False
        self.cool_down(min(_LONGEST_BAD_OBJECT_COOLDOWN, first_cooldown_seconds * 2 ** min(self.wrong_objects - 1, 10)))
        metrics.WRONG_OBJECTS.labels(self.name).inc()
        log.error("%s answered bytes that are not %s: it is left alone for a while", self.name, cid)

    def mark_healthy(self) -> None:
        """Note a good answer."""
        if self.failures:
            log.info("%s answers again", self.name)
        self.failures = 0
        self._awaits_probe, self._was_probed, self._trusts_probe = False, False, True

    async def probe(self) -> bool:
        """Ask a node that cools down after a failure for its head; whether it answered, which ends the cool-down."""
        if (
            not self.may_be_used
            or not self._awaits_probe
            or not self._trusts_probe
            or self.cooling_until <= monotonic()
        ):
            return False
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                await fetch_chain_head(self.client)
        except (NodeError, TimeoutError) as error:
            log.debug("%s does not answer: %s", self.name, error)
            return False
        self._awaits_probe, self._was_probed = False, True
        self.cooling_until = monotonic()
        return True


class Cordoned(NodeError):
    """An operator wants the followed node to be left alone."""


class WatchedSubscription:
    """The subscription to a node; it ends when the node is cordoned."""

    def __init__(self, source: Source, subscription: Subscription) -> None:
        self._source = source
        self._subscription = subscription
        self.transport = subscription.transport

    async def next(self, timeout: float) -> list[Change]:
        """See `Subscription`. Errors: Cordoned too."""
        end = monotonic() + timeout
        while True:
            if self._source.is_cordoned:
                raise Cordoned(f"{self._source.name} is cordoned")
            try:
                return await self._subscription.next(min(_CORDON_SECONDS, max(0.001, end - monotonic())))
            except NodeTimeout:
                if monotonic() >= end:
                    raise

    async def close(self) -> None:
        """See `Subscription`."""
        await self._subscription.close()


class Sources:
    """Every node of the list. `batch` is how many objects one request asks for; `bad_object_cooldown_seconds` how long
    a node is left alone after its first wrong object.

    The first node is preferred; `prefer` puts the one that is followed first.
    """

    def __init__(
        self, clients: Sequence[NodeClient], *, batch: int = 256, bad_object_cooldown_seconds: float = 30.0
    ) -> None:
        if not clients:
            raise ValueError("at least one node is needed")
        self.all = [Source(client, batch) for client in clients]
        self.batch = batch
        self._bad_object_cooldown_seconds = bad_object_cooldown_seconds
        self._preferred = self.all[0]

    def cordon(self, names: Collection[str]) -> None:
        """Leave the nodes of these names alone until the next call; the others are taken back."""
        for source in self.all:
            source.is_cordoned = source.name in names

    def prefer(self, source: Source) -> None:
        """Ask this node first from now on."""
        self._preferred = source

    def usable(self) -> list[Source]:
        """The nodes that may be asked now, best first."""
        now = monotonic()
        fit = [source for source in self.all if source.may_be_used and source.cooling_until <= now]
        fit.sort(key=lambda source: (source.wrong_objects > 0, source.failures, source is not self._preferred))
        return fit

    def next_usable_in(self) -> float:
        """Seconds until a node that cools down may be asked again (0.05 at least)."""
        now = monotonic()
        waits = [source.cooling_until - now for source in self.all if source.may_be_used]
        return max(0.05, min(waits, default=1.0))

    async def probe(self) -> bool:
        """Ask every node that cools down after a failure one cheap question, at once; whether one answered."""
        return any(await asyncio.gather(*(source.probe() for source in self.all)))

    async def another_ahead(self, source: Source, height: int) -> Source | None:
        """Another node, of those that may be asked now, whose head is more than an epoch above `height`."""
        others = [other for other in self.usable() if other is not source]
        heads = await asyncio.gather(*(fetch_chain_head(other.client) for other in others), return_exceptions=True)
        for other, head in zip(others, heads, strict=True):
            if isinstance(head, NodeError):
                other.record_failure(head)
            elif isinstance(head, BaseException):
                raise head
            elif head.height > height + 1:
                return other
        return None

    async def close(self) -> None:
        """Close every client."""
        await asyncio.gather(*(source.client.close() for source in self.all))

    async def fetch(self, cids: Sequence[Cid]) -> Fetched:
        """Objects by CID, each verified. Errors: NoSource, when some node that may hold one is not to be had.

        Duplicates are asked once.
        """
        fetched = Fetched()
        left = list(dict.fromkeys(cids))
        answered = False
        unsure = ""
        for source in self.usable():
            if not left:
                break
            try:
                left = await self._ask(source, left, fetched)
                answered = True
            except NodeError as error:
                source.record_failure(error)
                # an error of the node's own is an answer, a cut connection is none
                answered |= isinstance(error, CallFailed)
                unsure = str(error)
                left = [cid for cid in left if cid not in fetched.found]
        if not left:
            return fetched
        now = monotonic()
        awaited = [
            s.name
            for s in self.all
            if s.may_be_used and s.cooling_until > now and s.failures < _UNREACHABLE_AFTER and not s.wrong_objects
        ]
        if not answered or awaited:
            # a node that cools down or was cut off may hold it: nobody has it only if all that can be asked said so
            reason = unsure or f"{', '.join(awaited) or 'every node'} cannot be asked just now"
            raise NoSource(reason, self.next_usable_in())
        fetched.missing = left
        return fetched

    async def _ask(self, source: Source, cids: Sequence[Cid], fetched: Fetched) -> list[Cid]:
        """Ask one node for all; what it does not give is returned. Errors: NodeError."""
        left: list[Cid] = []
        at = 0
        while at < len(cids):
            part = cids[at : at + source.batch]
            try:
                answers = await source.client.read_objects(part)
            except (CallFailed, BadAnswer) as error:
                if len(part) == 1:
                    raise
                # an endpoint with a smaller limit for batches, or none at all
                source.shrink_batch(len(part))
                log.info("%s: batches of %d from now on (%s)", source.name, source.batch, error)
                continue
            source.mark_healthy()
            source.batch_answered(len(part))
            at += len(part)
            for cid, answer in zip(part, answers, strict=True):
                if isinstance(answer, CallFailed):
                    if any(word in answer.message.lower() for word in _BUSY_WORDS):
                        raise answer
                    left.append(cid)
                    continue
                try:
                    verify(cid.multihash, answer)
                except HashMismatch:
                    source.record_wrong_object(cid, self._bad_object_cooldown_seconds)
                    left.append(cid)
                    left.extend(other for other in cids if other not in fetched.found and other not in left)
                    return left
                except BadCid:
                    left.append(cid)
                    continue
                fetched.found[cid] = answer
                metrics.OBJECT_BYTES.inc(len(answer))
        return left

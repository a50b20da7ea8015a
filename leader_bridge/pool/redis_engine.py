"""The queue on Redis: taskiq, one stream a class.

What the libraries do not do for us (taskiq 0.13, taskiq-redis 1.2):

* their reader looks for messages of dead workers only after it has read a new one, so what a killed worker held would
  wait until something else comes; it ends when Redis goes away or is emptied; and it locks out other readers for that
  look, though XAUTOCLAIM is atomic. `_Stream.listen` is ours.
* an acknowledged message stays in its stream. We remove it.
* messages are sent one by one. We send a chunk in one round trip.

Whether a job waits already is told by a key under its id. It goes with the job, and after a while in any case. What a
dead worker held is taken over within seconds (`redis_life`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from taskiq import AckableMessage, Context, TaskiqDepends, TaskiqMessage
from taskiq.acks import AcknowledgeType
from taskiq.receiver import Receiver
from taskiq_redis import RedisStreamBroker

from blockstore.background import in_background
from blockstore.store_clock import wall_ms
from leader_bridge import metrics
from leader_bridge.clock import monotonic
from leader_bridge.pool.engine import Again, Handle, QueueUnavailable, Waiting
from leader_bridge.pool.job import LIMITS, SHARES, Job
from leader_bridge.pool.redis_life import LIFE_SECONDS, Held, Life
from leader_bridge.pool.slots import Slots

log = logging.getLogger(__name__)

_GROUP: Final = "workers"
_TASK: Final = "job"
#: labels of a message that was read: its number in the stream, and the lapses of the reader's life before
_NUMBER: Final = "number"
_LAPSES: Final = "lapses"
#: a job is redelivered when its worker has not acknowledged it for so many times its limit, though it lives
_IDLE: Final = 1.5
#: how often a reader looks for jobs that living workers have held too long, in idle times
_LOOK: Final = 1 / 20
#: what Redis says of a stream that is gone, to who reads it and to who waits for it
_EMPTIED: Final = ("NOGROUP", "UNBLOCKED")
#: seconds that a reader waits for a message, and until Redis is tried again
_BLOCK_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 1.0
#: seconds after which a job that was enqueued may be enqueued again, whatever became of it
_KNOWN_SECONDS: Final = 3600
#: jobs that come back later, at once in one worker; what is more is left to the store
_MOST_LATER: Final = 10_000

#: taskiq passes what it knows of the message here
_CONTEXT: Final = TaskiqDepends(Context)

for _name in ("taskiq", "taskiq.receiver.receiver"):
    # a line a job at INFO
    logging.getLogger(_name).setLevel(logging.WARNING)


class _Stream(RedisStreamBroker):
    """One class: a stream with one group of readers. A message is read when there is a slot for it."""

    slots: Slots
    stop: asyncio.Event

    def __init__(self, url: str, queue: str, life: Life, **options: Any) -> None:
        super().__init__(url, **options)
        self.life = life
        self._queue = queue
        #: when to look for messages of the dead, and for those that were held for too long
        self._dead_at = self._idle_at = 0.0
        self._taken_over = metrics.POOL_TAKEN_OVER.labels(queue)

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        """The messages for this reader: those of dead workers, those that were held for too long, and new ones."""
        # taskiq cancels a read when it stops, but one that is just being answered goes on
        while not self.stop.is_set():
            await self.slots.take(self._queue)
            message: AckableMessage | None = None
            try:
                message = await self._read()
            finally:
                # also where nothing came for a while: others may need the slot
                if message is None:
                    self.give_back()
            if message is not None:
                yield message

    async def _read(self) -> AckableMessage | None:
        """One message, or none where nothing came for a while."""
        lapses = self.life.lapses
        found: list[tuple[bytes, dict[bytes, bytes]]] = []
        try:
            async with Redis(connection_pool=self.connection_pool) as redis:
                found = await self._next(redis)
        except ResponseError as error:
            if not any(word in str(error) for word in _EMPTIED):
                raise
            log.warning("the queue was emptied: the stream %s is made again", self.queue_name)
            await self._declare_again()
        except (RedisError, OSError) as error:
            log.warning("the queue is not read: %s", error)
            await asyncio.sleep(_RETRY_SECONDS)
        for number, fields in found:
            ack = self._ack_generator(number.decode(), self.queue_name)
            return AckableMessage(data=self._labelled(fields[b"data"], number, lapses), ack=ack)
        return None

    async def _next(self, redis: Redis) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """The next message, as (number, fields), or none. Errors: RedisError, OSError."""
        # what is found is followed by another look: a worker that was killed held several
        if monotonic() >= self._dead_at:
            found = await self.life.take_from_dead(redis, self.queue_name, self.consumer_group_name)
            self._taken_over.inc(len(found))
            self._dead_at = 0.0 if found else monotonic() + self.life.renew_seconds
            if found:
                return found
        if monotonic() >= self._idle_at:
            found = await self._claim_idle(redis)
            pause = max(_BLOCK_SECONDS, self.idle_timeout / 1000 * _LOOK)
            self._idle_at = 0.0 if found else monotonic() + pause
            if found:
                return found
        read: Any = await redis.xreadgroup(
            self.consumer_group_name,
            self.consumer_name,
            {self.queue_name: ">"},
            block=self.block,
            count=self.count,
        )
        return [one for _, messages in read or () for one in messages]

    async def _claim_idle(self, redis: Redis) -> list[tuple[bytes, dict[bytes, bytes]]]:
        claimed: Any = await redis.xautoclaim(
            self.queue_name,
            self.consumer_group_name,
            self.consumer_name,
            min_idle_time=self.idle_timeout,
            count=self.unacknowledged_batch_size,
        )
        # one that was removed meanwhile has no fields
        return [(number, fields) for number, fields in claimed[1] if fields]

    def _labelled(self, data: bytes, number: bytes, lapses: int) -> bytes:
        """A message with the labels of its reader; one that is none as it is."""
        try:
            message = self.formatter.loads(data)
        except ValueError:
            return data
        message.labels.update({_NUMBER: number.decode(), _LAPSES: lapses})
        return self.formatter.dumps(message).message

    def give_back(self) -> None:
        """A message is done with."""
        self.slots.give_back(self._queue)

    async def _declare_again(self) -> None:
        try:
            await self._declare_consumer_group()
        except (RedisError, OSError):
            await asyncio.sleep(_RETRY_SECONDS)

    def _ack_generator(self, id: str, queue_name: str) -> Callable[[], Awaitable[None]]:
        async def acknowledge() -> None:
            async with Redis(connection_pool=self.connection_pool) as redis, redis.pipeline(transaction=True) as pipe:
                pipe.xack(queue_name, self.consumer_group_name, id)
                pipe.xdel(queue_name, id)
                await pipe.execute()

        return acknowledge


class _Receiver(Receiver):
    """Gives the slot of each message back when it is done with."""

    broker: _Stream

    async def callback(self, message: bytes | AckableMessage, raise_err: bool = False) -> None:
        try:
            await super().callback(message, raise_err)
        finally:
            self.broker.give_back()


class RedisEngine:
    """As `engine.Engine`. `url`: redis://[user:password@]host:port/database. `job_seconds`: the limit of a job of class
    `watch`. `prefix` keeps the keys of several pools in one database apart. `life_seconds`: without a sign of life for
    so long, a worker is dead and others take what it held."""

    def __init__(
        self,
        url: str,
        *,
        job_seconds: float = 60.0,
        prefix: str = "follower:pool",
        life_seconds: float = LIFE_SECONDS,
    ) -> None:
        self._prefix = prefix
        name = uuid.uuid4().hex
        self._life = Life(f"{prefix}:alive:", name, life_seconds)
        self._streams = {
            queue: _Stream(
                url,
                queue,
                self._life,
                consumer_name=name,
                queue_name=f"{prefix}:{queue}",
                consumer_group_name=_GROUP,
                # from the beginning: what was enqueued before the first worker came is taken too
                consumer_id="0",
                xread_block=int(_BLOCK_SECONDS * 1000),
                # what a worker has no free slot for stays where others find it
                xread_count=1,
                idle_timeout=int(job_seconds * LIMITS[queue] * _IDLE * 1000),
                unacknowledged_lock_timeout=job_seconds,
                unacknowledged_batch_size=1,
            )
            for queue in SHARES
        }
        #: the messages of the jobs under way
        self._held: dict[str, Held] = {}
        self._later: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    def _redis(self) -> Redis:
        return Redis(connection_pool=self._streams["watch"].connection_pool)

    def _known(self, job: Job) -> str:
        return f"{self._prefix}:job:{job.id}"

    async def put(self, jobs: Sequence[Job]) -> int:
        jobs = list({job.id: job for job in jobs}.values())
        try:
            async with self._redis() as redis:
                known = await redis.mget([self._known(job) for job in jobs]) if jobs else []
                new = [job for job, value in zip(jobs, known, strict=True) if value is None]
                await self._send(redis, [(job, 0) for job in new])
        except (RedisError, OSError) as error:
            raise QueueUnavailable(f"the queue cannot be reached: {error}") from None
        return len(new)

    async def _send(self, redis: Redis, jobs: Sequence[tuple[Job, int]]) -> None:
        if not jobs:
            return
        now = wall_ms()
        async with redis.pipeline(transaction=True) as pipe:
            for job, tries in jobs:
                stream = self._streams[job.queue]
                message = TaskiqMessage(
                    task_id=job.id, task_name=_TASK, labels={}, args=[job.to_json(), tries, now], kwargs={}
                )
                pipe.xadd(stream.queue_name, {b"data": stream.formatter.dumps(message).message})
                pipe.set(self._known(job), b"1", ex=_KNOWN_SECONDS)
            await pipe.execute()

    async def run(self, handle: Handle, slots: Mapping[str, int], stop: asyncio.Event) -> None:
        # the sign of life is there before the first message is taken
        with contextlib.suppress(RedisError, OSError):
            async with self._redis() as redis:
                await self._life.renew(redis)
        living = in_background(
            self._life.renew_always(self._streams["watch"].connection_pool), "the renewal of this worker's life"
        )
        try:
            shared = Slots(slots)
            async with asyncio.TaskGroup() as group:
                for queue in slots:
                    self._streams[queue].slots = shared
                    self._streams[queue].stop = stop
                    group.create_task(self._receive(self._streams[queue], handle, shared.total, stop))
        finally:
            # what is to come back later waits in the queue instead
            self._stopping.set()
            await asyncio.gather(*self._later, return_exceptions=True)
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
            with contextlib.suppress(RedisError, OSError):
                async with self._redis() as redis:
                    await self._life.end(redis)

    async def still_holds(self, job: Job) -> bool:
        held = self._held.get(job.id)
        return held is None or await self._holds(job, held)

    async def _holds(self, job: Job, held: Held) -> bool:
        stream = self._streams[job.queue]
        try:
            async with self._redis() as redis:
                return await self._life.still_holds(redis, stream.queue_name, stream.consumer_group_name, held)
        except (RedisError, OSError):
            # nobody can tell; should two workers do it, they write the same rows
            return True

    async def _receive(self, stream: _Stream, handle: Handle, count: int, stop: asyncio.Event) -> None:
        async def job(raw: dict[str, Any], tries: int, sent: int, context: Any = _CONTEXT) -> None:
            await self._do(handle, raw, tries, sent, context)

        stream.is_worker_process = True
        stream.register_task(job, task_name=_TASK)
        while not stop.is_set():
            receiver = _Receiver(stream, max_async_tasks=count, validate_params=False, ack_type=AcknowledgeType.MANUAL)
            try:
                await receiver.listen(stop)
            except* (RedisError, OSError) as errors:
                log.warning("the queue cannot be reached: %s", errors.exceptions[0])
                await asyncio.sleep(_RETRY_SECONDS)

    async def _do(self, handle: Handle, raw: dict[str, Any], tries: int, sent: int, context: Context) -> None:
        try:
            job = Job.from_json(raw)
        except (ValueError, KeyError, TypeError) as error:
            log.warning("a message of the queue is left out: %s", error)
            await context.ack()
            return
        metrics.POOL_WAIT_SECONDS.labels(job.queue).observe(max(0, wall_ms() - sent) / 1000)
        held = Held(context.message.labels[_NUMBER], context.message.labels[_LAPSES])
        self._held[job.id] = held
        try:
            again = await handle(job, tries)
        finally:
            self._held.pop(job.id, None)
        if not await self._holds(job, held):
            # its message is another worker's
            return
        if again is None or len(self._later) >= _MOST_LATER:
            await self._settle(job, context)
            return
        back = asyncio.create_task(self._come_back(job, tries + again.is_try, again, held, context))
        self._later.add(back)
        back.add_done_callback(self._later.discard)

    async def _settle(self, job: Job, context: Context) -> None:
        try:
            async with self._redis() as redis:
                await redis.delete(self._known(job))
            await context.ack()
        except (RedisError, OSError) as error:
            # it comes again, and is found to be done
            log.warning("a job is not acknowledged: %s", error)

    async def _come_back(self, job: Job, tries: int, again: Again, held: Held, context: Context) -> None:
        """Enqueue a job anew after a while; only then is its message acknowledged, so that a kill loses nothing."""
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({stopping}, timeout=again.seconds)
        stopping.cancel()
        if not await self._holds(job, held):
            return
        try:
            async with self._redis() as redis:
                await self._send(redis, [(job, tries)])
            await context.ack()
        except (RedisError, OSError) as error:
            log.warning("a job is not enqueued again: %s", error)

    async def claim_turn(self, what: str, seconds: float) -> bool:
        try:
            async with self._redis() as redis:
                key = f"{self._prefix}:turn:{what}"
                return bool(await redis.set(key, b"1", nx=True, px=max(1, int(seconds * 1000))))
        except (RedisError, OSError) as error:
            raise QueueUnavailable(f"the queue cannot be reached: {error}") from None

    async def waiting(self) -> dict[str, Waiting]:
        found: dict[str, Waiting] = {}
        try:
            async with self._redis() as redis:
                for queue, stream in self._streams.items():
                    length = await redis.xlen(stream.queue_name)
                    groups = await redis.xinfo_groups(stream.queue_name) if length else []
                    taken = sum(group["pending"] for group in groups)
                    oldest = await self._oldest_seconds(redis, stream, groups) if length > taken else 0.0
                    found[queue] = Waiting(max(0, length - taken), taken, oldest)
                    metrics.POOL_WAITING.labels(queue).set(found[queue].waiting)
                    metrics.POOL_HELD.labels(queue).set(taken)
                    metrics.POOL_OLDEST_SECONDS.labels(queue).set(oldest)
        except (RedisError, OSError) as error:
            raise QueueUnavailable(f"the queue cannot be reached: {error}") from None
        return found

    async def _oldest_seconds(self, redis: Redis, stream: _Stream, groups: Sequence[Mapping[str, Any]]) -> float:
        """How long the first message that nobody has read waits. Errors: RedisError, OSError."""
        after = groups[0]["last-delivered-id"].decode() if groups else "0"
        first: Any = await redis.xrange(stream.queue_name, min=f"({after}", count=1)
        if not first:
            return 0.0
        # the number of a message begins with the time of Redis in milliseconds
        seconds, _ = await redis.time()
        return float(max(0, seconds - int(first[0][0].partition(b"-")[0]) / 1000))

    async def close(self) -> None:
        for stream in self._streams.values():
            await stream.shutdown()

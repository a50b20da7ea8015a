"""Which workers of a queue on Redis live, and who holds a message.

A worker that takes messages renews a key that Redis removes after `life_seconds`. When the key is gone, any other
worker takes what that one held. A worker that only stood still sees by its own clock that its key may be gone, and asks
Redis whether a message is still its own before it reports. Each decision is one script, so Redis makes it at once:
two workers never take one message, and none keeps what another one took.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import RedisError

from blockstore.store_clock import boottime_ms

log = logging.getLogger(__name__)

#: seconds without a renewal after which a worker counts as dead, and renewals in that time
LIFE_SECONDS: Final = 10.0
_RENEWALS: Final = 5

# KEYS: the stream. ARGV: the group, this worker, the prefix of the keys of the living. Returns one message of a dead
# worker, now this one's. Dead workers that hold nothing are forgotten.
_TAKE: Final = """
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local name, pending
  for at = 1, #row, 2 do
    if row[at] == 'name' then name = row[at + 1] end
    if row[at] == 'pending' then pending = row[at + 1] end
  end
  if name ~= ARGV[2] and redis.call('EXISTS', ARGV[3] .. name) == 0 then
    if pending == 0 then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], name)
    else
      local first = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, name)[1]
      return redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, first[1])
    end
  end
end
return {}
"""
# KEYS: the stream. ARGV: the group, this worker, a message. 1: the message is this worker's, as if read just now.
_KEEP: Final = """
local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)[1]
if not held or held[2] ~= ARGV[2] then return 0 end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'JUSTID')
return 1
"""


@dataclass(frozen=True, slots=True)
class Held:
    """A message that was read. `number`: its own in the stream. `lapses`: those of the worker before it read it."""

    number: str
    lapses: int


class Life:
    """The life of one worker. `prefix`: of the keys of the living; `name`: of this worker."""

    def __init__(self, prefix: str, name: str, life_seconds: float = LIFE_SECONDS) -> None:
        self._prefix = prefix
        self._name = name
        self.seconds = life_seconds
        self._certain_until = 0.0
        #: how often this worker may have been found dead so far
        self.lapses = 0

    @property
    def renew_seconds(self) -> float:
        """Seconds between two renewals, and between two looks for the dead."""
        return self.seconds / _RENEWALS

    async def renew(self, redis: Redis) -> None:
        """Errors: RedisError, OSError."""
        began = boottime_ms()
        await redis.set(self._prefix + self._name, b"1", px=int(self.seconds * 1000))
        if boottime_ms() >= self._certain_until:
            self.lapses += 1
        self._certain_until = began + self.seconds * 1000

    async def renew_always(self, pool: ConnectionPool) -> None:
        """Renew until cancelled, through whatever Redis does."""
        while True:
            with contextlib.suppress(RedisError, OSError):
                async with Redis(connection_pool=pool) as redis:
                    await self.renew(redis)
            await asyncio.sleep(self.renew_seconds)

    async def end(self, redis: Redis) -> None:
        """Say that this worker takes nothing more: what it still holds goes to others. Errors: RedisError, OSError."""
        self._certain_until = 0.0
        await redis.delete(self._prefix + self._name)

    async def take_from_dead(self, redis: Redis, stream: str, group: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """One message of a dead worker, as (number, fields), or none. Errors: RedisError, OSError."""
        take = redis.register_script(_TAKE)
        found: Any = await take(keys=[stream], args=[group, self._name, self._prefix])
        return [(number, dict(zip(flat[::2], flat[1::2], strict=True))) for number, flat in found]

    async def still_holds(self, redis: Redis, stream: str, group: str, message: Held) -> bool:
        """Whether a message that this worker read is still its own; if so, no other one takes it while this one lives.

        Asks Redis only if this worker may have been found dead since it read the message. Errors: RedisError, OSError.
        """
        if message.lapses == self.lapses and boottime_ms() < self._certain_until:
            return True
        await self.renew(redis)
        keep = redis.register_script(_KEEP)
        return bool(await keep(keys=[stream], args=[group, self._name, message.number]))

"""What a process takes on at once: a budget for each kind of thing, with a share for each client.

A request is *working* until it is answered, except while it *waits* for something that is still to come (a head, a
message on chain). A channel is *open* for as long as its client listens. These are separate budgets, so that who waits
or listens keeps no worker from others. `memory` is the bytes held for clients: partial bodies and frames, answers
being built, and what has not been sent yet.

A client is named by its address, "" where that is not known (a balancer that names no client): nobody's share is
charged then, and the process's caps hold alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from rpc.errors import ClientLimit, ServerBusy, limit_data

#: clients in a budget's table beyond which those that use nothing are taken out
_IDLE_CLIENTS: Final = 1024
#: when a client that was refused may ask again, where no quota says it
RETRY_AFTER_SECONDS: Final = 1


class Budget:
    """A number of things, or bytes, at once: `cap` for the process, `client_cap` for each client.

    `on_refusal` is called with the budget's name and the client, when something is refused.
    """

    __slots__ = ("_on_refusal", "_prune_at", "by_client", "cap", "client_cap", "name", "used", "what")

    def __init__(
        self, name: str, what: str, cap: int, client_cap: int, on_refusal: Callable[[str, str], object] | None = None
    ) -> None:
        self.name = name
        self.what = what
        self.cap = cap
        self.client_cap = client_cap
        self.used = 0
        #: what each client uses. Who uses nothing any more stays for a while: to take an entry out and put it back
        #: for each request costs more than the rest
        self.by_client: dict[str, int] = {}
        self._on_refusal = on_refusal
        self._prune_at = _IDLE_CLIENTS

    def take(self, client: str, amount: int = 1) -> None:
        """Use `amount` more. Errors: ClientLimit (the client's share is used up), ServerBusy (all is)."""
        if client:
            mine = self.by_client.get(client, 0) + amount
            if mine > self.client_cap:
                self._refuse(client)
                text = f"too many {self.what} from this client: at most {self.client_cap}; try again later"
                raise ClientLimit(text, self._data(f"{self.name}_per_client", self.client_cap))
            if self.used + amount <= self.cap:
                self.by_client[client] = mine
                self.used += amount
                return
        elif self.used + amount <= self.cap:
            self.used += amount
            return
        self._refuse(client)
        raise self.busy()

    def busy(self) -> ServerBusy:
        """What is refused because all of it is used."""
        return ServerBusy(f"too many {self.what} at once: try again later", self._data(self.name, self.cap))

    @staticmethod
    def _data(name: str, most: int) -> dict[str, Any]:
        return limit_data(name, most, retry_after_seconds=RETRY_AFTER_SECONDS)

    def retake(self, client: str) -> None:
        """Use one more, whatever the caps: for what was taken before and only lent."""
        self.used += 1
        if client:
            self.by_client[client] = self.by_client.get(client, 0) + 1

    def give(self, client: str, amount: int = 1) -> None:
        """Use `amount` less."""
        self.used -= amount
        if client and amount:
            self.by_client[client] -= amount
            if len(self.by_client) > self._prune_at:
                self.by_client = {one: used for one, used in self.by_client.items() if used}
                self._prune_at = max(_IDLE_CLIENTS, 2 * len(self.by_client))

    def _refuse(self, client: str) -> None:
        if self._on_refusal is not None:
            self._on_refusal(self.name, client)


class Lane:
    """Calls of one cost class: `parallel` run at once, others wait their turn for `wait_seconds` at most.

    `cap` and `client_cap` bound those that run and wait together; `per_request` is how many calls of one batch may be
    in the lane at once.
    """

    __slots__ = ("_queue", "_running", "calls", "parallel", "per_request", "wait_seconds")

    def __init__(self, calls: Budget, parallel: int, per_request: int, wait_seconds: float) -> None:
        self.calls = calls
        self.per_request = per_request
        self.wait_seconds = wait_seconds
        self.parallel = parallel
        #: places that are taken, or promised to who has waited
        self._running = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    def try_enter(self, client: str) -> bool:
        """Take a place where one is free. Errors: ClientLimit, ServerBusy."""
        if self._running >= self.parallel:
            return False
        self.calls.take(client)
        self._running += 1
        return True

    async def enter(self, client: str) -> None:
        """Wait for a place. Errors: ClientLimit, ServerBusy."""
        if self.try_enter(client):
            return
        self.calls.take(client)
        place = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            async with asyncio.timeout(self.wait_seconds):
                await place
        except BaseException as error:
            self.calls.give(client)
            if place.done() and not place.cancelled():
                # promised in the same moment: the next one gets it
                self._pass_on()
            if isinstance(error, TimeoutError):
                raise self.calls.busy() from None
            raise

    def leave(self, client: str) -> None:
        """Give the place back."""
        self.calls.give(client)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._running -= 1


@dataclass(slots=True)
class Admission:
    """The budgets of one process."""

    working: Budget
    waiting: Budget
    channels: Budget
    connections: Budget
    websockets: Budget
    memory: Budget
    #: the lane of each cost class that has one, by `Cost.value`
    lanes: dict[str, Lane] = field(default_factory=dict)

    def budgets(self) -> Iterator[Budget]:
        """All of them."""
        yield from (self.working, self.waiting, self.channels, self.connections, self.websockets, self.memory)
        for lane in self.lanes.values():
            yield lane.calls

    @contextlib.contextmanager
    def reserved(self, client: str, size: int) -> Iterator[None]:
        """Hold `size` bytes for a client within the block. Errors: ClientLimit, ServerBusy."""
        self.memory.take(client, size)
        try:
            yield
        finally:
            self.memory.give(client, size)

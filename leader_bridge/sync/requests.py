"""Requests on their way to sources: which source takes which, one in flight a source. After Harmony's request manager.

No clock and no socket: `assign` says what is to be sent, and the caller says what became of it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Generic, TypeVar

#: seconds that a source has for an answer
REQUEST_SECONDS: Final = 180.0
#: requests of one priority that wait
MOST_WAITING: Final = 1024
#: requests that are sent in one go, and the seconds between two goes
A_GO: Final = 16
GO_SECONDS: Final = 0.1

Work = TypeVar("Work")


class RequestError(Exception):
    """A request has no answer; the next one may."""


class Closed(RequestError):
    """The manager is closed."""


class TooManyRequests(RequestError):
    """Too many requests wait."""


class NoSources(RequestError):
    """There is no source at all, or none that the request may go to."""


class SourceRemoved(RequestError):
    """The source that had the request was removed."""


class TimedOut(RequestError):
    """The source did not answer in time."""


class Cancelled(RequestError):
    """The caller took the request back."""


class Lacks(RequestError):
    """A source says that it does not hold what it was asked for."""

    def __init__(self, source: str) -> None:
        super().__init__(f"{source} does not hold it")
        self.source = source


class NotHeldAnywhere(Exception):
    """Every source that may be asked says that it does not hold it: `sources`, with those that were not to be asked."""

    def __init__(self, sources: frozenset[str] = frozenset()) -> None:
        super().__init__(f"none of {len(sources)} sources holds it")
        self.sources = sources


class Priority(IntEnum):
    """Requests of the higher priority are sent first."""

    HIGH = 0
    LOW = 1


@dataclass(eq=False, slots=True)
class Ticket(Generic[Work]):
    """A request. `only`: sources that may take it (None: all); `never`: sources that may not.

    `done` is called once: with (source, answer, None), or with (source or "", None, error).
    """

    number: int
    work: Work
    done: Callable[[str, object, RequestError | None], None]
    priority: Priority = Priority.LOW
    only: frozenset[str] | None = None
    never: frozenset[str] = frozenset()
    #: the source that has it, and since when
    source: str = ""
    sent_at: float = 0.0
    is_over: bool = False

    def may_go_to(self, source: str) -> bool:
        """Whether the request may be sent to a source."""
        return source not in self.never and (self.only is None or source in self.only)


class Requests(Generic[Work]):
    """Matches waiting requests with free sources."""

    def __init__(self, *, seconds: float = REQUEST_SECONDS, most_waiting: int = MOST_WAITING) -> None:
        self._seconds = seconds
        self._most_waiting = most_waiting
        self._numbers = itertools.count(1)
        self._waiting: dict[Priority, deque[Ticket[Work]]] = {one: deque() for one in Priority}
        #: source -> its request in flight
        self._sources: dict[str, Ticket[Work] | None] = {}
        self._closed = False
        self._went_at: float | None = None
        self._gone = 0

    @property
    def sources(self) -> tuple[str, ...]:
        """All sources, in use or free."""
        return tuple(self._sources)

    @property
    def waiting(self) -> int:
        """Requests that no source has."""
        return sum(len(queue) for queue in self._waiting.values())

    @property
    def in_flight(self) -> int:
        """Requests that a source has."""
        return sum(ticket is not None for ticket in self._sources.values())

    def add_source(self, name: str) -> None:
        """A source that may be asked from now on. Twice is once."""
        self._sources.setdefault(name, None)

    def remove_source(self, name: str) -> None:
        """A source is gone: its request ends with SourceRemoved. With the last one, what waits ends with NoSources."""
        ticket = self._sources.pop(name, None)
        if ticket is not None:
            self._end(ticket, name, None, SourceRemoved(f"{name} was removed"))
        if not self._sources:
            for queue in self._waiting.values():
                while queue:
                    self._end(queue.popleft(), "", None, NoSources("there is no source"))

    def submit(
        self,
        work: Work,
        done: Callable[[str, object, RequestError | None], None],
        *,
        priority: Priority = Priority.LOW,
        only: frozenset[str] | None = None,
        never: frozenset[str] = frozenset(),
    ) -> Ticket[Work]:
        """Put a request in line. Errors: Closed, TooManyRequests, NoSources."""
        if self._closed:
            raise Closed("closed")
        ticket = Ticket(next(self._numbers), work, done, priority, only, never)
        if not any(ticket.may_go_to(name) for name in self._sources):
            raise NoSources("no source may take the request")
        queue = self._waiting[priority]
        if len(queue) >= self._most_waiting:
            raise TooManyRequests(f"{len(queue)} requests wait")
        queue.append(ticket)
        return ticket

    def assign(self, now: float, take: Callable[[str], bool] = lambda _: True) -> list[tuple[str, Ticket[Work]]]:
        """Requests to be sent now, to sources that have none in flight.

        `take`: whether a source may be asked now; one for which it says so is asked.
        """
        if self._went_at is None or now - self._went_at >= GO_SECONDS:
            self._went_at, self._gone = now, 0
        found: list[tuple[str, Ticket[Work]]] = []
        for queue in self._waiting.values():
            for ticket in list(queue):
                if self._gone >= A_GO:
                    return found
                source = next(
                    (
                        name
                        for name, busy in self._sources.items()
                        if busy is None and ticket.may_go_to(name) and take(name)
                    ),
                    None,
                )
                if source is None:
                    if not any(ticket.may_go_to(name) for name in self._sources):
                        queue.remove(ticket)
                        self._end(ticket, "", None, NoSources("no source may take the request"))
                    continue
                queue.remove(ticket)
                # who has just been asked is the last to be asked again
                del self._sources[source]
                self._sources[source] = ticket
                ticket.source, ticket.sent_at = source, now
                self._gone += 1
                found.append((source, ticket))
        return found

    def deliver(self, source: str, number: int, answer: object) -> bool:
        """An answer has come. One of an unknown or a stale request is ignored (False)."""
        ticket = self._taken(source, number)
        if ticket is None:
            return False
        self._end(ticket, source, answer, None)
        return True

    def fail(self, source: str, number: int, error: RequestError) -> bool:
        """A source did not answer well. Unknown and stale requests are ignored (False)."""
        ticket = self._taken(source, number)
        if ticket is None:
            return False
        self._end(ticket, source, None, error)
        return True

    def cancel(self, ticket: Ticket[Work]) -> None:
        """Take a request back: it ends with Cancelled. The source it was sent to is free when it answers or fails."""
        if ticket.is_over:
            return
        if not ticket.source:
            self._waiting[ticket.priority].remove(ticket)
        self._end(ticket, ticket.source, None, Cancelled("cancelled"))

    def expire(self, now: float) -> list[str]:
        """End the requests that have taken too long with TimedOut; their sources, which are free again."""
        late: list[str] = []
        for name, ticket in list(self._sources.items()):
            if ticket is not None and now - ticket.sent_at >= self._seconds:
                late.append(name)
                self._sources[name] = None
                self._end(ticket, name, None, TimedOut(f"{name} did not answer in {self._seconds:g} s"))
        return late

    def close(self) -> None:
        """End everything with Closed."""
        self._closed = True
        tickets = [ticket for queue in self._waiting.values() for ticket in queue]
        tickets += [ticket for ticket in self._sources.values() if ticket is not None]
        for queue in self._waiting.values():
            queue.clear()
        self._sources = dict.fromkeys(self._sources)
        for ticket in tickets:
            self._end(ticket, ticket.source, None, Closed("closed"))

    def _taken(self, source: str, number: int) -> Ticket[Work] | None:
        ticket = self._sources.get(source)
        if ticket is None or ticket.number != number:
            return None
        self._sources[source] = None
        return ticket if not ticket.is_over else None

    @staticmethod
    def _end(ticket: Ticket[Work], source: str, answer: object, error: RequestError | None) -> None:
        if not ticket.is_over:
            ticket.is_over = True
            ticket.done(source, answer, error)

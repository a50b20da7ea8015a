"""What sources gave, request by request, over several runs of a filling: what a run asked for that was stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.web_request import BaseRequest

from blockstore.cid import Cid
from rpc.server.ranges.page import RangePages
from rpc.server.ranges.wire import read_car


@dataclass(slots=True)
class Entry:
    """A request of a run to a source, and the objects that were given for it."""

    run: int
    source: int
    given: frozenset[Cid] = frozenset()


@dataclass(slots=True)
class Ledger:
    """`on_answer` is called with the number of answers of the run. `is_off`: nothing is noted."""

    entries: list[Entry] = field(default_factory=list)
    run: int = 0
    on_answer: Callable[[int], None] | None = None
    is_off: bool = False

    def watch(self, source: int, pages: RangePages) -> None:
        """Note what a follower gives from now on. Questions for a head are not noted."""
        answer = pages.answer

        async def noted(request: BaseRequest) -> web.Response:
            if self.is_off or (request.path == "/range" and not request.query_string):
                return await answer(request)
            entry = Entry(self.run, source)
            self.entries.append(entry)
            right = await answer(request)
            if right.status == 200:
                entry.given = frozenset(read_car(bytes(right.body)))  # type: ignore[arg-type]
                if self.on_answer is not None and entry.run == self.run:
                    self.on_answer(len(self.of_run(self.run)))
            return right

        pages.answer = noted  # type: ignore[method-assign]

    def of_run(self, run: int) -> list[Entry]:
        """The requests of a run, in their order."""
        return [entry for entry in self.entries if entry.run == run]

    def shared(self) -> frozenset[Cid]:
        """What was given for more than one request: the tipset below a range, what two tipsets have in common."""
        counts = Counter(cid for entry in self.entries for cid in entry.given)
        return frozenset(cid for cid, count in counts.items() if count > 1)

    def given(self) -> int:
        """Objects that were given, each as often as it was."""
        return sum(len(entry.given) for entry in self.entries)

    def repeated(self, shared: frozenset[Cid]) -> tuple[int, set[Cid]]:
        """(objects of the last requests before the ends of runs that were given again, others that were).

        `shared`: those that are given more than once also where no run ends early.
        """
        stored: set[Cid] = set()
        lost: set[Cid] = set()
        wrong: set[Cid] = set()
        again = 0
        for run in range(self.run + 1):
            entries = self.of_run(run)
            last = {entry.source: entry for entry in entries}
            given = {cid for entry in entries for cid in entry.given}
            wrong |= given & stored - shared
            again += len(given & lost)
            kept = {cid for entry in entries if last[entry.source] is not entry for cid in entry.given}
            stored |= kept
            lost = given - stored
        return again, wrong

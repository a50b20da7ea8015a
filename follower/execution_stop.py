"""Where it is kept that a machine executes nothing: a row of the FLEET table for each machine, by its host name.

It outlives the processes: whatever starts them again, nothing is executed before an operator has looked. `follower
resume` removes the row.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final

import orjson

from blockstore.cid import parse
from blockstore.errors import StoreError
from blockstore.store import FLEET, Batch, Store
from rpc.lookup.self_check import CheckedExecutor, Difference
from rpc.server.metrics import Metrics
from rpc.services import CheckResult

log = logging.getLogger(__name__)

#: partition of the FLEET table; row key: the machine's host name, value: the difference as JSON
_STOPS: Final = b"execution"
_MOST_MACHINES: Final = 1000
_LOOK_SECONDS: Final = 2.0


def this_machine() -> str:
    """The name under which this machine keeps its row."""
    return socket.gethostname()


async def stops(store: Store) -> dict[str, Difference]:
    """The machines that execute nothing, and why. Errors: StoreError."""
    rows = await store.scan(FLEET, _STOPS, limit=_MOST_MACHINES)
    return {key.decode(errors="replace"): _decode(value) for key, value in rows}


async def remove_stop(store: Store, machine: str) -> None:
    """Let a machine execute again. Errors: StoreError."""
    batch = Batch()
    batch.delete(FLEET, _STOPS, machine.encode())
    await store.write(batch)


def _encode(one: Difference) -> bytes:
    return orjson.dumps(
        {
            "epoch": one.epoch,
            "tipset": str(one.tipset),
            "executed": [str(cid) for cid in one.executed],
            "chain": [str(cid) for cid in one.chain],
            "found_at": one.found_at,
        }
    )


def _decode(value: bytes) -> Difference:
    found = orjson.loads(value)
    executed, chain = ((parse(state), parse(receipts)) for state, receipts in (found["executed"], found["chain"]))
    return Difference(found["epoch"], parse(found["tipset"]), executed, chain, found["found_at"])


class ExecutionStop:
    """Keeps one worker's executor and the row of its machine alike."""

    def __init__(self, store: Store, executor: CheckedExecutor, machine: str) -> None:
        self._store = store
        self._executor = executor
        self._key = machine.encode()
        #: the difference that the row is known to hold
        self._stored: Difference | None = None

    async def look(self) -> None:
        """Store what this worker has found, or take over what another has. Errors: StoreError."""
        found = self._executor.stopped
        if found is not None and self._stored is None:
            batch = Batch()
            batch.put(FLEET, _STOPS, self._key, _encode(found))
            await self._store.write(batch)
            self._stored = found
            return
        row = await self._store.row(FLEET, _STOPS, self._key)
        self._stored = None if row is None else _decode(row)
        if self._stored is not None:
            if self._executor.stopped is None:
                self._executor.stop(self._stored)
        elif found is not None:
            # the row was there and was removed; what is found while it is read is stored the next time
            self._executor.resume()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except StoreError as error:
                log.warning("whether messages may be executed here is not known: %s", error)
            await asyncio.sleep(_LOOK_SECONDS)

    async def check(self) -> CheckResult:
        """Health: whether messages are executed."""
        found = self._executor.stopped
        if found is None:
            return CheckResult(True, "messages are executed")
        return CheckResult(False, f"nothing is executed until an operator has looked: {found}")

    def register(self, metrics: Metrics) -> None:
        """Declare the metrics."""
        metrics.gauge(
            "follower_execution_stopped",
            "1 while nothing is executed here: a tipset gave another result than the chain has.",
            lambda: self._executor.stopped is not None,
        )
        metrics.counter(
            "follower_execution_differences",
            "Tipsets that gave another result here than their child's header has.",
            lambda: self._executor.differences,
        )

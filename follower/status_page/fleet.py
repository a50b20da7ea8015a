"""The fleet as the status page shows it: followers by the registry and their ready checks, bridges by their rows.

A follower is asked `/readyz?verbose`, as a balancer asks it. Nobody's clock is compared: how long a row has not been
renewed is counted here, between two looks.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from blockstore.bridge_rows import FILLING, RENEW_SECONDS, BridgeRow, read_bridges
from blockstore.store import Store
from loadbalancer.fleet import DRAINING, MISSED_RENEWALS, Member, read_fleet
from rpc.client.follower_http import read_at_most
from rpc.server.health import Health
from rpc.services import CheckResult, Head

#: followers that are asked; others are shown as registered
_MOST_ASKED: Final = 48
_ASK_SECONDS: Final = 1.5
_MOST_BYTES: Final = 8192
#: renewals that a bridge may miss until it counts as silent
_SILENT: Final = 3
#: milliseconds by which a row may be old that is seen for the first time, whatever the clocks say
_OLD_MS: Final = 120_000
#: checks that say "behind", not "not ready": those of freshness (`follower.readiness`, `follower.execution_stop`)
_FRESH: Final = frozenset({"node", "age", "lease", "execution"})
_LINE: Final = re.compile(r"^\[([+!])\] ([\w-]{1,40}): (.{0,300})$", re.MULTILINE)
#: what the check "head" says (`follower.head`)
_HEAD: Final = re.compile(r"head (\d{1,15}), entry (\d{1,15})")

READY: Final = "ready"
BEHIND: Final = "behind"
NOT_READY: Final = "not ready"
NO_ANSWER: Final = "no answer"
REGISTERED: Final = "registered"

LastHead = Callable[[], Awaitable[Head | None]]


@dataclass(slots=True)
class Standing:
    """How a follower stands. `reason`: why it is not ready; `height` and `seq`: its head, None where unknown."""

    state: str
    reason: str = ""
    height: int | None = None
    seq: int | None = None


def judge(checks: dict[str, CheckResult], draining: bool) -> tuple[str, str]:
    """(state, reason) by the results of a follower's checks."""
    failed = {name: result.text for name, result in checks.items() if not result.ok}
    reason = "; ".join(f"{name}: {text}" for name, text in failed.items())
    if draining or "draining" in failed:
        return DRAINING, ""
    if not failed:
        return READY, ""
    return (BEHIND if failed.keys() <= _FRESH else NOT_READY), reason


def read_readyz(text: str) -> Standing:
    """What the verbose answer of `/readyz` says."""
    checks = {name: CheckResult(sign == "+", said) for sign, name, said in _LINE.findall(text)}
    state, reason = judge(checks, False)
    head = _HEAD.search(checks["head"].text) if "head" in checks else None
    if head is None:
        return Standing(state, reason)
    return Standing(state, reason, int(head[1]), int(head[2]))


class Renewals:
    """For how many seconds each row has been the same, by this process' clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, float]] = {}

    def unchanged(self, rows: dict[str, object]) -> dict[str, float]:
        now = time.monotonic()
        seen = {
            name: old if (old := self._seen.get(name)) is not None and old[0] == row else (row, now)
            for name, row in rows.items()
        }
        self._seen = seen
        return {name: now - since for name, (_, since) in seen.items()}


class FleetView:
    """Looks at the fleet. `address`: the row of this process ("": it keeps none). `await close()` when done."""

    def __init__(self, store: Store, health: Health, last_head: LastHead, address: str, listen: str) -> None:
        self._store = store
        self._health = health
        self._last_head = last_head
        self._address = address
        self._listen = listen
        self._session: aiohttp.ClientSession | None = None
        self._asked: dict[str, Standing] = {}
        self._members = Renewals()
        self._bridge_rows = Renewals()

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def own_standing(self, checks: dict[str, CheckResult]) -> Standing:
        """How this process stands, by the results of its checks."""
        state, reason = judge(checks, self._health.draining)
        try:
            head = await self._last_head()
        except Exception:  # the checks say why there is none
            head = None
        if head is None:
            return Standing(state, reason)
        return Standing(state, reason, head.tipset.height, head.seq)

    async def followers(self, own: Standing, agent: str) -> list[dict[str, Any]]:
        """Every registered follower, this one among them. Errors: StoreError."""
        rows = await read_fleet(self._store)
        unchanged = self._members.unchanged({address: value for address, (_, value) in rows.items()})
        others = [member for address, (member, _) in sorted(rows.items()) if address != self._address]
        standings = await asyncio.gather(*(self._ask(member) for member in others[:_MOST_ASKED]))
        self._asked = dict(zip((member.address for member in others), standings, strict=False))
        found = [_follower(self._address or self._listen, own, agent, is_self=True)]
        for member in others:
            standing = self._asked.get(member.address, Standing(REGISTERED))
            if member.state == DRAINING and standing.state != NO_ANSWER:
                standing.state, standing.reason = DRAINING, ""
            row = _follower(member.address, standing, member.version)
            silent = unchanged[member.address]
            if silent > MISSED_RENEWALS * member.renew_seconds:
                row["reason"] = f"{row['reason']}; registration not renewed for {silent:.0f} s".lstrip("; ")
            found.append(row)
        return sorted(found, key=lambda row: str(row["address"]))

    async def _ask(self, member: Member) -> Standing:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_ASK_SECONDS), connector=aiohttp.TCPConnector(limit=16)
            )
        before = self._asked.get(member.address)
        try:
            async with self._session.get(f"http://{member.address}/readyz?verbose", allow_redirects=False) as response:
                text = (await read_at_most(response.content, _MOST_BYTES)).decode(errors="replace")
                standing = read_readyz(text) if response.status in (200, 503) else Standing(NOT_READY, "no follower")
        except TimeoutError:
            standing = Standing(NO_ANSWER, f"no answer within {_ASK_SECONDS:g} s")
        except aiohttp.ClientConnectorError:
            standing = Standing(NO_ANSWER, "refuses connections")
        except (aiohttp.ClientError, OSError, ValueError):
            standing = Standing(NO_ANSWER, "the connection broke")
        if standing.height is None and before is not None:
            standing.height, standing.seq = before.height, before.seq
        return standing

    async def bridges(self) -> list[BridgeStanding]:
        """Every bridge that has a row. Errors: StoreError."""
        rows = await read_bridges(self._store)
        unchanged = self._bridge_rows.unchanged({row.name: row.renewals for row in rows})
        now_ms = time.time() * 1000
        return [
            BridgeStanding(
                row,
                unchanged[row.name] > _SILENT * RENEW_SECONDS or abs(now_ms - row.written_ms) > _OLD_MS,
                unchanged[row.name],
            )
            for row in rows
        ]


@dataclass(frozen=True, slots=True)
class BridgeStanding:
    """A bridge's row, and whether it is renewed. `unchanged`: seconds since its last renewal that was seen."""

    row: BridgeRow
    is_silent: bool
    unchanged: float

    def report(self) -> dict[str, Any]:
        """For `/status.json`."""
        row = self.row
        state = "no sign" if self.is_silent else "leads" if row.leads else "stands by"
        if row.stopped and not self.is_silent:
            state = "filling" if row.stopped.startswith(FILLING) else "stopped"
        reason = f"its row is {self.unchanged:.0f} s old" if self.is_silent else row.stopped.removeprefix(FILLING)
        return {
            "name": row.name,
            "state": state,
            "reason": reason,
            "term": row.term or None,
            "height": None if row.height < 0 else row.height,
            "lag": None if row.height < 0 or row.node_height < 0 else max(0, row.node_height - row.height),
            "backfill_left": row.backfill_left,
            "policy": row.policy,
        }


def _follower(address: str, standing: Standing, version: str, *, is_self: bool = False) -> dict[str, Any]:
    return {
        "address": address,
        "state": standing.state,
        "reason": standing.reason[:300],
        "height": standing.height,
        "seq": standing.seq,
        "version": version,
        "self": is_self,
    }

"""Health answers: loops over the registered checks, in Lotus' and in Forest's form.

`/health/livez` and `/health/readyz` answer 200 or 503 with an empty body, as Lotus does; `/livez`, `/readyz`
and `/healthz` answer a line, or with `?verbose` a line a check, `[+]` or `[!]`, as Forest does.

`/readyz` is 200 where the server is whole and its head fresh. `/readyz?last-resort` is 200 also where the head is
behind or old.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from rpc.services import Check, CheckResult, Checks

log = logging.getLogger("follower.rpc")

#: seconds that a check may take
_CHECK_TIMEOUT_SECONDS: Final = 2.0


async def run_checks(checks: dict[str, Check]) -> dict[str, CheckResult]:
    """Every check's result, run together; one that fails or hangs is not ok."""

    async def one(name: str, check: Check) -> CheckResult:
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_SECONDS):
                return await check()
        except TimeoutError:
            return CheckResult(False, f"no answer within {_CHECK_TIMEOUT_SECONDS:g} s")
        except Exception:
            log.exception("health check %s failed", name)
            return CheckResult(False, "the check itself failed")

    results = await asyncio.gather(*(one(name, check) for name, check in checks.items()))
    return dict(zip(checks, results, strict=True))


class Health:
    """Answers the health paths of one server."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        #: set when the server is going to stop, or was drained by an operator: not ready, still alive
        self.draining = False

    async def whole(self) -> dict[str, CheckResult]:
        """What decides whether answers are right: live and ready, check by check."""
        return await run_checks(self._checks.live | self._checks.ready)

    async def fresh(self) -> dict[str, CheckResult]:
        """What decides whether another server is to be preferred, check by check."""
        return await run_checks(self._checks.fresh)

    async def answer(self, path: str, *, verbose: bool, last_resort: bool = False) -> tuple[int, str] | None:
        """(status, body) of a health path, or None for a path that is none.

        `last_resort`: a head that is behind or old does no harm.
        """
        kind = path.rpartition("/")[2]
        if path not in ("/livez", "/readyz", "/healthz", "/health/livez", "/health/readyz"):
            return None
        checks: dict[str, Check] = {}
        if kind in ("livez", "healthz"):
            checks |= self._checks.live
        if kind in ("readyz", "healthz"):
            checks |= self._checks.ready | self._checks.fresh
        results = await run_checks(checks)
        if kind != "livez" and self.draining:
            results["draining"] = CheckResult(False, "this server is out of service, or about to stop")
        excused = self._checks.fresh.keys() if last_resort else ()
        good = all(result.ok for name, result in results.items() if name not in excused)
        status = 200 if good else 503
        if path.startswith("/health/"):
            return status, ""
        lines = [f"[{'+' if r.ok else '!'}] {name}: {r.text}" for name, r in results.items() if verbose]
        lines.append(f"{kind} check {'passed' if good else 'failed'}")
        return status, "\n".join(lines) + "\n"

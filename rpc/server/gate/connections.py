"""The budget of connections, which new ones use up for a while too."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from rpc.admission import Budget
from rpc.errors import ConnectionsRefused
from rpc.server.gate.token_bucket import TokenBucket

#: addresses that are remembered
_ADDRESSES: Final = 8192


class ConnectionBudget(Budget):
    """As `Budget`; of one client, `per_minute` new ones in a minute (0: any number)."""

    __slots__ = ("_per_minute", "_rates")

    def __init__(
        self,
        name: str,
        what: str,
        cap: int,
        client_cap: int,
        on_refusal: Callable[[str, str], object] | None = None,
        *,
        per_minute: int = 0,
    ) -> None:
        super().__init__(name, what, cap, client_cap, on_refusal)
        self._per_minute = per_minute
        self._rates: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, client: str, amount: int = 1) -> None:
        """As `Budget.take`. Errors: ConnectionsRefused too."""
        if self._per_minute and client:
            rate = self._rates.get(client)
            if rate is None:
                rate = self._rates[client] = TokenBucket(self._per_minute / 60, self._per_minute)
                if len(self._rates) > _ADDRESSES:
                    self._rates.popitem(last=False)
            self._rates.move_to_end(client)
            wait = rate.wait_seconds(amount)
            if wait:
                self._refuse(client)
                raise ConnectionsRefused(self._per_minute, wait)
            super().take(client, amount)
            rate.take(amount)
            return
        super().take(client, amount)

"""The budget of connections, which new ones use up for a while too."""

from __future__ import annotations

from collections.abc import Callable

from rpc.admission import Budget
from rpc.errors import ConnectionsRefused
from rpc.server.gate.token_bucket import BucketsByAddress, MakeBucket, own_bucket


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
        make_bucket: MakeBucket = own_bucket,
    ) -> None:
        super().__init__(name, what, cap, client_cap, on_refusal)
        self._per_minute = per_minute
        self._rates = BucketsByAddress(
            lambda address: make_bucket(f"connections {address}", per_minute / 60, per_minute)
        )

    def take(self, client: str, amount: int = 1) -> None:
        """As `Budget.take`. Errors: ConnectionsRefused too."""
        if not self._per_minute or not client:
            super().take(client, amount)
            return
        rate = self._rates.of(client)
        wait = rate.wait_seconds(amount)
        if wait:
            self._refuse(client)
            raise ConnectionsRefused(self._per_minute, wait)
        super().take(client, amount)
        rate.take(amount)

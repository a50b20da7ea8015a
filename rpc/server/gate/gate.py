"""What is looked at before each call: the method, the rate, how far back it asks.

The names of the limits are lotus-gateway's, where it has them. Source: Lotus `gateway/node.go`, `gateway/proxy_v1.go`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

from rpc.context import Context
from rpc.errors import ConfidenceRefused, LookbackRefused, MethodRefused, RateRefused
from rpc.registry import Cost, Method
from rpc.server.gate.lookbacks import named_epochs
from rpc.server.gate.method_list import MethodList
from rpc.server.gate.tenants import Tenant, tenant_of
from rpc.server.gate.token_bucket import BucketsByAddress, MakeBucket, TokenBucket, own_bucket

#: tokens of a call, by its cost class
TOKENS: Final = {
    Cost.FREE: 1, Cost.CHAIN: 1, Cost.STATE: 2, Cost.WAIT: 3, Cost.SCAN: 3, Cost.EXECUTE: 3, Cost.HEAVY: 10,
}  # fmt: skip
#: methods that look for the execution of a message
_SEARCHES: Final = frozenset(
    {"StateSearchMsg", "StateWaitMsg", "StateSearchMsgLimited", "StateWaitMsgLimited", "StateGetReceipt"}
)
#: seconds of the rate that may be saved up
_BURST_SECONDS: Final = 2.0


class GatedCall(Protocol):
    """A method and its decoded parameters, which may be changed."""

    method: Method
    arguments: list[Any]


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Rates are in tokens a second, see `TOKENS`; 0 is no limit anywhere.

    `rate_limit`: of all callers of a process; `rate_limit_per_client`: of an address; `per_conn_rate_limit`: of a
    WebSocket connection. `api_max_lookback_seconds`: how old a tipset may be that is asked of.
    `api_wait_lookback_limit`: epochs that a search for a message may go back. `max_wait_confidence`: of StateWaitMsg.
    """

    rate_limit: float = 0
    rate_limit_per_client: float = 0
    per_conn_rate_limit: float = 0
    api_max_lookback_seconds: int = 0
    api_wait_lookback_limit: int = 0
    max_wait_confidence: int = 0
    methods: MethodList = field(default_factory=MethodList)


class Gate:
    """Looks at each call of a process. `on_refusal` is called with what refused, and the account.

    `make_bucket`: of the rates that processes may share; a connection's is this process's.
    """

    def __init__(
        self, settings: GateSettings, on_refusal: Callable[[str, str], object], make_bucket: MakeBucket = own_bucket
    ) -> None:
        self.settings = settings
        self._on_refusal = on_refusal
        self._all = _made(make_bucket, "all", settings.rate_limit) if settings.rate_limit else None
        self._by_address = BucketsByAddress(
            lambda address: _made(make_bucket, f"calls {address}", settings.rate_limit_per_client)
        )
        self._by_session: WeakKeyDictionary[Any, TokenBucket] = WeakKeyDictionary()

    def admit(self, ctx: Context, method: Method) -> None:
        """Take a call's tokens, before its parameters are decoded. Errors: MethodRefused, RateRefused."""
        tenant = tenant_of(ctx.permissions)
        if not self.settings.methods.allows(method) or (tenant is not None and not tenant.methods.allows(method)):
            self._on_refusal("method", ctx.account)
            raise MethodRefused(method.name)
        self._take(ctx, tenant, TOKENS[method.cost])

    async def check(self, ctx: Context, call: GatedCall, *, is_admitted: bool = False) -> None:
        """Look at a call's parameters. Errors: LookbackRefused, ConfidenceRefused; as `admit`, unless that was done."""
        if not is_admitted:
            self.admit(ctx, call.method)
        if self.settings.api_wait_lookback_limit or self.settings.max_wait_confidence:
            self._check_search(ctx, call)
        if self.settings.api_max_lookback_seconds:
            await self._check_lookback(ctx, call)

    # --- rates -----------------------------------------------------------------------------------------------

    def _take(self, ctx: Context, tenant: Tenant | None, amount: int) -> None:
        buckets = list(self._buckets(ctx, tenant))
        for name, whose, bucket in buckets:
            wait = bucket.wait_seconds(amount)
            if wait:
                self._on_refusal(name, ctx.account)
                ctx.retry_after = math.ceil(wait)
                raise RateRefused(name, whose, bucket.rate, wait)
        for _, _, bucket in buckets:
            bucket.take(amount)

    def _buckets(self, ctx: Context, tenant: Tenant | None) -> Iterator[tuple[str, str, TokenBucket]]:
        """(limit, whose it is, bucket) of each rate that holds for a call."""
        settings = self.settings
        if tenant is not None:
            if tenant.bucket is not None:
                yield "tokens_per_second", f"tenant {tenant.name}", tenant.bucket
        elif settings.rate_limit_per_client and ctx.account:
            yield "rate_limit_per_client", "an address", self._by_address.of(ctx.account)
        if settings.per_conn_rate_limit and ctx.session is not None:
            bucket = self._by_session.get(ctx.session)
            if bucket is None:
                bucket = self._by_session[ctx.session] = _made(own_bucket, "", settings.per_conn_rate_limit)
            yield "per_conn_rate_limit", "a connection", bucket
        if self._all is not None:
            yield "rate_limit", "all callers", self._all

    # --- how far back ----------------------------------------------------------------------------------------

    def _check_search(self, ctx: Context, call: GatedCall) -> None:
        """A search for a message goes no further back than the limit; a longer one, or an endless one, is cut to it.

        The forms of v0 that take no limit are endless. lotus-gateway cuts them as well: it asks its node by v1's.
        """
        if call.method.field not in _SEARCHES:
            return
        most, confidence = self.settings.api_wait_lookback_limit, self.settings.max_wait_confidence
        if most:
            ctx.search_limit = most
        for place, param in enumerate(call.method.params):
            value = call.arguments[place]
            if param.name == "limit" and most and (value < 0 or value > most):
                call.arguments[place] = most
            elif param.name == "confidence" and confidence and value > confidence:
                self._on_refusal("max_wait_confidence", ctx.account)
                raise ConfidenceRefused(confidence)

    async def _check_lookback(self, ctx: Context, call: GatedCall) -> None:
        head = (await ctx.head()).tipset
        most = self.settings.api_max_lookback_seconds // ctx.network.block_delay
        async for height in named_epochs(ctx, call):
            if height < head.height - most:
                self._on_refusal("api_max_lookback", ctx.account)
                raise LookbackRefused(self.settings.api_max_lookback_seconds, head.height - most)


def _made(make: MakeBucket, name: str, rate: float) -> TokenBucket:
    # the dearest call passes once in a while, however low the rate
    return make(name, rate, max(_BURST_SECONDS * rate, max(TOKENS.values())))

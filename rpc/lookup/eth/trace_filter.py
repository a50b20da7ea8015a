"""The filter of `trace_filter` as clients write it. Source: Lotus `node/impl/eth/trace.go`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from chain.errors import BadRequest
from rpc import eth_json
from rpc.lookup.eth.filter_values import OPTIONAL_TEXT, decode_one_or_more
from rpc.params import EthAddress, EthUint64, field_of, mismatch, param_of

_ADDRESS: Final = param_of("address", EthAddress)
TRACE_COUNT: Final = param_of("count", EthUint64)


@dataclass(frozen=True, slots=True)
class TraceFilter:
    """A filter as clients write it; None for what is left out."""

    low: str | None = None
    high: str | None = None
    senders: frozenset[str] = frozenset()
    receivers: frozenset[str] = frozenset()
    after: int = 0
    count: int | None = None

    def matches(self, trace: dict[str, Any]) -> bool:
        """Whether a trace's sender and receiver are wanted. Errors: BadRequest (no known kind of trace)."""
        action, result = trace.get("action"), trace.get("result")
        kind = trace.get("type")
        if kind not in ("call", "create"):
            raise BadRequest(f"invalid trace type: {kind}")
        if not isinstance(action, dict):
            raise BadRequest(f"invalid {kind} trace action")
        if kind == "call":
            receiver = action.get("to")
        elif not isinstance(result, dict):
            raise BadRequest("invalid create trace result")
        else:
            # a creation that failed has made nothing that could be looked for
            receiver = result.get("address")
        if self.senders and action.get("from") not in self.senders:
            return False
        return not self.receivers or receiver in self.receivers


class _FilterDecoder:
    go = "ethtypes.EthTraceFilterCriteria"

    def decode(self, value: Any) -> TraceFilter:
        """Errors: ValueError."""
        if value is None:
            return TraceFilter()
        if not isinstance(value, dict):
            raise mismatch(value, self.go)
        fields = {name.lower(): item for name, item in value.items()}
        after, count = fields.get("after"), fields.get("count")
        return TraceFilter(
            self._text(fields.get("fromblock"), "fromBlock"),
            self._text(fields.get("toblock"), "toBlock"),
            self._addresses(fields.get("fromaddress"), "fromAddress"),
            self._addresses(fields.get("toaddress"), "toAddress"),
            0 if after is None else TRACE_COUNT.decode(after),
            None if count is None else TRACE_COUNT.decode(count),
        )

    def _text(self, value: Any, name: str) -> str | None:
        with field_of("EthTraceFilterCriteria", name):
            text: str | None = OPTIONAL_TEXT.decode(value)
        return text

    def _addresses(self, value: Any, name: str) -> frozenset[str]:
        with field_of("EthTraceFilterCriteria", name):
            return frozenset(map(eth_json.data, decode_one_or_more(value, _ADDRESS.decode, "ethtypes.EthAddressList")))


TraceFilterParam = Annotated[TraceFilter, _FilterDecoder()]

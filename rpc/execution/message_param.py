"""A message as a parameter: Lotus' JSON of an unsigned message. Source: Lotus `chain/types/message.go`."""

from __future__ import annotations

from typing import Annotated, Any, Final

from chain.address import Address
from chain.message import Message
from rpc.params import BigInt, Int64, Uint64, field_of, mismatch, param_of

_ADDRESS: Final = param_of("address", Address).decode
_BIG: Final = param_of("amount", BigInt).decode
_UINT: Final = param_of("number", Uint64).decode
_INT: Final = param_of("number", Int64).decode
_BYTES: Final = param_of("data", bytes).decode


class _MessageDecoder:
    go = "*types.Message"

    def decode(self, value: Any) -> Message:
        """Errors: ValueError."""
        if not isinstance(value, dict):
            raise mismatch(value, "types.RawMessage")
        fields = {name.lower(): item for name, item in value.items()}

        def read(name: str, decoder: Any, zero: Any) -> Any:
            found = fields.get(name.lower())
            if found is None:
                return zero
            with field_of("RawMessage", name):
                return decoder(found)

        return Message(
            read("Version", _UINT, 0),
            read("To", _ADDRESS, Address()),
            read("From", _ADDRESS, Address()),
            read("Nonce", _UINT, 0),
            read("Value", _BIG, 0),
            read("GasLimit", _INT, 0),
            read("GasFeeCap", _BIG, 0),
            read("GasPremium", _BIG, 0),
            read("Method", _UINT, 0),
            read("Params", _BYTES, b""),
        )


MessageParam = Annotated[Message, _MessageDecoder()]

"""An Ethereum call as a Filecoin message. Source: Lotus `chain/types/ethtypes/eth_types.go` (`EthCall`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final

from chain.address import DELEGATED
from chain.eth.transaction import EAM, INVOKE_CONTRACT
from chain.eth.types import filecoin_address
from chain.ipld.dag_cbor import encode
from chain.message import Message
from rpc import eth_json
from rpc.errors import MethodError
from rpc.execution.call import BLOCK_GAS
from rpc.params import EthAddress, EthBytes, EthUint64, field_of, mismatch, param_of

_ADDRESS: Final = param_of("address", EthAddress).decode
_BYTES: Final = param_of("data", EthBytes).decode
_UINT: Final = param_of("gas", EthUint64).decode
_CREATE_EXTERNAL: Final = 4
_NOBODY: Final = bytes(20)
_HEX: Final = re.compile(r"[0-9a-fA-F]*")


@dataclass(frozen=True, slots=True)
class EthCall:
    """A call as clients give it. Amounts in attoFIL; gas and gas price do not count."""

    sender: bytes | None
    to: bytes | None
    value: int
    data: bytes

    def to_json(self) -> dict[str, str]:
        """As a node takes it."""
        out = {"value": hex(self.value), "data": eth_json.data(self.data)}
        for name, address in (("from", self.sender), ("to", self.to)):
            if address is not None:
                out[name] = eth_json.data(address)
        return out

    def message(self) -> Message:
        """The message. Errors: MethodError (a sender in the form of an actor ID)."""
        sender = filecoin_address(self.sender or _NOBODY)
        if sender[0] != DELEGATED:
            raise MethodError(f"expected a class 4 address, got: {sender[0]}")
        to, method = (EAM, _CREATE_EXTERNAL) if self.to is None else (filecoin_address(self.to), INVOKE_CONTRACT)
        params = encode(self.data) if self.data else b""
        return Message(0, to, sender, 0, self.value, BLOCK_GAS, 0, 0, method, params)


class _CallDecoder:
    go = "ethtypes.EthCall"

    def decode(self, value: Any) -> EthCall:
        """Errors: ValueError."""
        if value is None:
            return EthCall(None, None, 0, b"")
        if not isinstance(value, dict):
            raise mismatch(value, "ethtypes.EthCallDecode")
        fields = {name.lower(): item for name, item in value.items()}
        with field_of("EthCallDecode", "EthCallRaw"):
            sender, to = (None if fields.get(name) is None else _ADDRESS(fields[name]) for name in ("from", "to"))
            if fields.get("gas") is not None:
                _UINT(fields["gas"])
            _big(fields.get("gasprice"))
            data = fields.get("input")
            if data is None:
                data = fields.get("data")
            return EthCall(sender, to, _big(fields.get("value")), b"" if data is None else _BYTES(data))


def _big(value: Any) -> int:
    """ethtypes.EthBigInt: hex digits. Errors: ValueError."""
    if value is None:
        return 0
    if not isinstance(value, str):
        raise mismatch(value, "string")
    digits = value.replace("0x", "")
    if not _HEX.fullmatch(digits) or len(digits) > 64:
        raise ValueError(f"cannot parse {value[:80]!r} as a hex number")
    return int(digits or "0", 16)


EthCallParam = Annotated[EthCall, _CallDecoder()]

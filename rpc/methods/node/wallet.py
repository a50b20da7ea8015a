"""`WalletVerify`: whether an address signed something. Source: Lotus `node/impl/full/wallet.go`, `lib/sigs`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

from chain.address import Address
from chain.signature import verify_signature
from rpc.context import Context
from rpc.params import Integer, mismatch, param_of
from rpc.registry import Cache, Cost, method

_TYPE: Final = Integer("crypto.SigType", 0, 255)
_DATA: Final = param_of("Data", bytes)


class _Signature:
    """`{"Type": number, "Data": base64}`; null is no signature."""

    go = "*crypto.Signature"

    def decode(self, value: Any) -> tuple[int, bytes] | None:
        """(type, data). Errors: ValueError."""
        if value is None:
            return None
        if not isinstance(value, dict):
            raise mismatch(value, "crypto.Signature")
        fields = {name.lower(): item for name, item in value.items()}
        return _TYPE.decode(fields.get("type")), _DATA.decode(fields.get("data"))


Signature = Annotated[Any, _Signature()]


@method("Filecoin.WalletVerify", cost=Cost.CHAIN, answered="local", cache=Cache.HEAD)
async def wallet_verify(ctx: Context, address: Address, message: bytes, signature: Signature) -> bool:
    """Whether the key or delegated address signed the message. False for malformed input."""
    if signature is None or address.is_id or not address:
        return False
    kind, data = signature
    return await asyncio.to_thread(verify_signature, kind, data, address, message)

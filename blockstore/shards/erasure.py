"""Reed-Solomon by pyeclib (liberasurecode with ISA-L): k data and m parity shards, any k of which give the data back.

pyeclib is an optional extra; ADR 0172 says why it was chosen.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any, Final

from blockstore.errors import StoreError, StoreUnavailable

#: shards of data, and of parity, where nothing else is said: of 20 shards any 16 are enough
DATA_SHARDS: Final = 16
PARITY_SHARDS: Final = 4
#: in all. Codes of more shards get slow: their work grows with the product of both numbers
MOST_SHARDS: Final = 32
#: the most bytes that are cut at once: they and their shards are in memory together
MOST_BYTES: Final = 64 << 20
#: bytes of a shard beyond its share of the data: liberasurecode's header, and the filling of the last word
OVERHEAD_BYTES: Final = 160
#: of ISA-L's codes the one in which every k shards are enough; its Vandermonde matrices are not for all numbers
_CODE: Final = "isa_l_rs_cauchy"


class BadShards(StoreError):
    """Shards from which nothing can be put together."""


def check_numbers(data_shards: int, parity_shards: int) -> None:
    """Errors: ValueError, for numbers of shards that are not cut into."""
    if data_shards < 1 or parity_shards < 1 or data_shards + parity_shards > MOST_SHARDS:
        raise ValueError(
            f"{data_shards} + {parity_shards} shards: one of data and one of parity at least, {MOST_SHARDS} in all"
        )


def is_available() -> bool:
    """Whether the library is installed."""
    try:
        import pyeclib.ec_iface  # noqa: F401
    except ImportError:
        return False
    return True


@functools.lru_cache(maxsize=8)
def _coder(data_shards: int, parity_shards: int) -> Any:
    """Errors: StoreUnavailable (pyeclib is not installed, or lacks ISA-L)."""
    try:
        from pyeclib.ec_iface import ECDriver, ECDriverError
    except ImportError:
        raise StoreUnavailable(
            "shards need pyeclib, which is not installed: pip install 'lotus-follower[dispersal]'"
        ) from None
    try:
        return ECDriver(k=data_shards, m=parity_shards, ec_type=_CODE)
    except ECDriverError as error:
        raise StoreUnavailable(f"pyeclib cannot cut into shards here: {error}") from None


def cut(data: bytes, data_shards: int = DATA_SHARDS, parity_shards: int = PARITY_SHARDS) -> list[bytes]:
    """The shards of some data, those of data first, all of one length.

    Errors: ValueError (numbers, or too much or no data), StoreUnavailable (no library).
    """
    check_numbers(data_shards, parity_shards)
    if not 0 < len(data) <= MOST_BYTES:
        raise ValueError(f"{len(data)} bytes: from 1 to {MOST_BYTES} are cut at once")
    shards: list[bytes] = _coder(data_shards, parity_shards).encode(data)
    return shards


def join(shards: Collection[bytes], size: int, data_shards: int, parity_shards: int) -> bytes:
    """The data again, `size` bytes, from any `data_shards` different shards.

    Each must have been proven: the library trusts what a shard says of itself. Errors: BadShards, StoreUnavailable.
    """
    check_numbers(data_shards, parity_shards)
    if len(shards) < data_shards:
        raise BadShards(f"{len(shards)} shards, and {data_shards} are needed")
    coder = _coder(data_shards, parity_shards)
    from pyeclib.ec_iface import ECDriverError

    try:
        data: bytes = coder.decode(list(shards))
    except ECDriverError as error:
        raise BadShards(f"the shards do not fit together: {error}") from None
    if len(data) != size:
        raise BadShards(f"the shards hold {len(data)} bytes, not {size}")
    return data

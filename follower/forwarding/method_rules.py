"""What kind of call a forwarded method is: a write, a quick read, or a read that executes."""

from __future__ import annotations

import enum
from typing import Final


class Kind(enum.Enum):
    """The lane of a call."""

    WRITE = "write"  #: changes something at the node: never sent twice
    QUICK = "quick"  #: read from memory or a few objects
    EXECUTE = "execute"  #: runs a virtual machine, or reads much


#: beginnings of the names of writes, without their namespace
_WRITES: Final = ("MpoolPush", "MpoolBatchPush", "EthSendRawTransaction", "eth_sendRawTransaction", "ChainPutObj")

_QUICK: Final = frozenset(
    {
        "MpoolGetNonce", "MpoolPending", "MpoolSelect", "MpoolGetConfig", "MpoolSub",
        "F3GetCertificate", "F3GetLatestCertificate", "F3GetManifest", "F3GetProgress", "F3IsRunning",
        "EthGetTransactionCount", "EthGetTransactionByHash", "EthGetTransactionByHashLimited", "EthSyncing",
        "EthGetTransactionByBlockHashAndIndex", "ChainHead", "ChainGetTipSet",
        "MinerGetBaseInfo",
    }
)  # fmt: skip

#: whose answer depends on nothing but the parameters and the tipset named there, so that it may be kept
_FIXED: Final = frozenset(
    {
        "StateCall", "StateReplay", "StateCompute", "EthCall", "EthGetBlockByHash", "EthGetBlockReceiptsLimited",
        "EthGetTransactionByBlockHashAndIndex", "EthGetBalance", "EthGetCode", "EthGetStorageAt",
        "debug_traceCall", "trace_call",
    }
)  # fmt: skip


def kind_of(method: str) -> Kind:
    """The kind of a method, by its full name or alias."""
    name = method.rpartition(".")[2]
    if name.startswith(_WRITES):
        return Kind.WRITE
    return Kind.QUICK if name in _QUICK else Kind.EXECUTE


def is_fixed(method: str) -> bool:
    """Whether the same parameters and the same tipset give the same answer for ever."""
    return method.rpartition(".")[2] in _FIXED

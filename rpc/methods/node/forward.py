"""What only a full node can answer: execution, the mempool, what it knows beside the chain.

One table: a name, where its tipset key stands among the parameters (an empty key is replaced by the pinned
head's, so that the node answers for the head that this request sees), and the permission. Without a node
behind, each is a clear error with a code of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from rpc.context import Context
from rpc.known import known_methods
from rpc.lookup.forward import forward
from rpc.params import RawParams
from rpc.registry import V0, V1, Cost, Versions, method


@dataclass(frozen=True, slots=True)
class Forwarded:
    """One line of the table. `key` is the position of the tipset key, or None."""

    name: str
    key: int | None = None
    perm: str = "read"


FORWARDED: Final = (
    # execution
    Forwarded("Filecoin.StateCall", key=1),
    Forwarded("Filecoin.StateReplay", key=0),
    Forwarded("Filecoin.StateCompute", key=2),
    Forwarded("Filecoin.GasEstimateFeeCap", key=2),
    Forwarded("Filecoin.GasEstimateGasLimit", key=1),
    Forwarded("Filecoin.GasEstimateMessageGas", key=2),
    Forwarded("Filecoin.MinerGetBaseInfo", key=2),
    # the mempool
    Forwarded("Filecoin.MpoolGetNonce"),
    Forwarded("Filecoin.MpoolPending", key=0),
    Forwarded("Filecoin.MpoolSelect", key=0),
    Forwarded("Filecoin.MpoolGetConfig"),
    Forwarded("Filecoin.MpoolCheckMessages"),
    Forwarded("Filecoin.MpoolCheckPendingMessages"),
    Forwarded("Filecoin.MpoolPush", perm="write"),
    Forwarded("Filecoin.MpoolPushUntrusted", perm="write"),
    Forwarded("Filecoin.MpoolBatchPush", perm="write"),
    Forwarded("Filecoin.MpoolBatchPushUntrusted", perm="write"),
    # what the node knows beside the chain
    Forwarded("Filecoin.SyncState"),
    Forwarded("Filecoin.F3GetCertificate"),
    Forwarded("Filecoin.F3GetLatestCertificate"),
    Forwarded("Filecoin.F3GetECPowerTable", key=0),
    Forwarded("Filecoin.F3GetF3PowerTable", key=0),
    Forwarded("Filecoin.F3GetPowerTableByInstance"),
    Forwarded("Filecoin.F3GetManifest"),
    Forwarded("Filecoin.F3GetProgress"),
    Forwarded("Filecoin.F3IsRunning"),
)


def _handler(line: Forwarded) -> Callable[..., Awaitable[Any]]:
    async def handler(ctx: Context, params: RawParams) -> Any:
        return await forward(ctx, line.name, params, line.key)

    handler.__name__ = line.name.rpartition(".")[2]
    handler.__doc__ = "Answered by a full node. Errors: NeedsNode, and the node's own."
    return handler


def _declare() -> None:
    known = known_methods()
    for line in FORWARDED:
        versions = Versions(0)
        for version in (V0, V1):
            if line.name in known[version]:
                versions |= version
        if not versions:
            raise ValueError(f"{line.name} is no method of the node")
        method(line.name, versions=versions, perm=line.perm, cost=Cost.EXECUTE, answered="forwarded")(_handler(line))


_declare()

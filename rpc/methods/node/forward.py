"""Methods that only a full node can answer: execution, the mempool, F3.

One table: a name, the position of its tipset key, and the permission. The position is given where Lotus' method
takes an empty key for the head (`GetTipSetFromKey`): the pinned head's key replaces it, so that the node answers for
the head that this request sees. Where it does not, the node gets the key as it came. Without a node behind, each is
a clear error with a code of its own. Source: Lotus `node/impl/full`, `chain/stmgr/actors.go`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from rpc.context import Context
from rpc.known import known_methods
from rpc.lookup.forward import forward
from rpc.params import RawParams
from rpc.registry import V0, V1, Cache, Cost, Versions, method


@dataclass(frozen=True, slots=True)
class Forwarded:
    """One line of the table. `key` is the position of the tipset key, or None.

    `at_head`: only a node that holds the request's head may answer.
    """

    name: str
    key: int | None = None
    perm: str = "read"
    at_head: bool = True


FORWARDED: Final = (
    # execution
    # an empty key is no tipset there: the node refuses it
    Forwarded("Filecoin.MinerGetBaseInfo", at_head=False),
    # the mempool
    Forwarded("Filecoin.MpoolPending", key=0),
    Forwarded("Filecoin.MpoolSelect", key=0),
    Forwarded("Filecoin.MpoolGetConfig", at_head=False),
    Forwarded("Filecoin.MpoolCheckMessages"),
    Forwarded("Filecoin.MpoolCheckPendingMessages"),
    Forwarded("Filecoin.MpoolPush", perm="write", at_head=False),
    Forwarded("Filecoin.MpoolPushUntrusted", perm="write", at_head=False),
    Forwarded("Filecoin.MpoolBatchPush", perm="write", at_head=False),
    Forwarded("Filecoin.MpoolBatchPushUntrusted", perm="write", at_head=False),
    # F3
    Forwarded("Filecoin.F3GetCertificate", at_head=False),
    Forwarded("Filecoin.F3GetLatestCertificate", at_head=False),
    # a node refuses an empty key here, too
    Forwarded("Filecoin.F3GetECPowerTable", at_head=False),
    Forwarded("Filecoin.F3GetF3PowerTable", key=0),
    Forwarded("Filecoin.F3GetPowerTableByInstance", at_head=False),
    Forwarded("Filecoin.F3GetManifest", at_head=False),
    Forwarded("Filecoin.F3GetProgress", at_head=False),
    Forwarded("Filecoin.F3IsRunning", at_head=False),
)


def _handler(line: Forwarded) -> Callable[..., Awaitable[Any]]:
    async def handler(ctx: Context, params: RawParams) -> Any:
        return await forward(ctx, line.name, params, line.key, at_head=line.at_head)

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
        declare = method(
            line.name, versions=versions, perm=line.perm, cost=Cost.EXECUTE, answered="forwarded", cache=Cache.NEVER
        )
        declare(_handler(line))


_declare()

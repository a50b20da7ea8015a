"""Methods of lotus-gateway's lists that it refuses itself. Source: Lotus `gateway/proxy_v1.go`."""

from __future__ import annotations

from typing import Any

from rpc.context import Context
from rpc.errors import MethodError
from rpc.params import RawParams
from rpc.registry import Cache, Cost, method


@method("Filecoin.ChainPutObj", perm="admin", cost=Cost.FREE, answered="local", cache=Cache.NEVER)
async def chain_put_obj(ctx: Context, params: RawParams) -> Any:
    """Always the error "not supported", as lotus-gateway answers: clients write nothing into the store."""
    raise MethodError("not supported")

"""Answers recorded calls: for what a played node cannot compute (traces need a virtual machine).

A file holds a JSON line a call: `path`, `method`, `params`, then `result` or `error`. Methods that are answered
here anyway are left alone; those that a follower forwards to a full node, or has from one, are answered from the file.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import orjson

from devnode.recorded_chain import read_records
from rpc.context import Context
from rpc.errors import RpcError
from rpc.params import RawParams
from rpc.registry import V0, V1, V2, Cost, Registry, Versions

_PATHS: Final = {"/rpc/v0": V0, "/rpc/v1": V1, "/rpc/v2": V2}

Answers = dict[bytes, tuple[Any, dict[str, Any] | None]]


def with_answers(registry: Registry, files: Iterable[Path]) -> Registry:
    """A registry of all of `registry`'s methods, with recorded answers for those that it lacks or forwards.

    Errors: OSError, BadRequest (what is in a file is no JSON).
    """
    lacked: dict[tuple[Versions, str], Answers] = {}
    forwarded: dict[str, Answers] = {}
    for file in files:
        for record in read_records(file):
            version = _PATHS.get(record.get("path", ""))
            name = record.get("method", "")
            if version is None:
                continue
            method = registry.names(version).get(name)
            if method is None:
                answers = lacked.setdefault((version, name), {})
            elif method.answered in ("executed", "forwarded", "recorded"):
                answers = forwarded.setdefault(method.name, {})
            else:
                continue
            error = record.get("error")
            result = None if error else orjson.Fragment(orjson.dumps(record.get("result")))
            answers[_key(record.get("params"))] = (result, error)
    both = Registry()
    for method in registry:
        if method.name in forwarded:
            handler = _answering(method.name, forwarded[method.name])
            method = replace(method, handler=handler, params=(), raw=True, answered="recorded")
        both.add(method)
    for (version, name), answers in lacked.items():
        both.method(name, versions=version, cost=Cost.CHAIN, answered="recorded")(_answering(name, answers))
    return both


def _key(params: Any) -> bytes:
    return orjson.dumps(params or [], option=orjson.OPT_SORT_KEYS)


def _answering(name: str, answers: Answers) -> Callable[[Context, RawParams], Coroutine[Any, Any, Any]]:
    async def answer(ctx: Context, params: RawParams) -> Any:
        """What was recorded for these parameters. Errors: RpcError (the recorded one, or none was recorded)."""
        found = answers.get(_key(params))
        if found is None:
            raise RpcError(f"no call of {name} with these parameters is recorded")
        result, error = found
        if error is not None:
            raise RpcError(error.get("message", ""), error.get("data"), code=error.get("code", 1))
        return result

    return answer

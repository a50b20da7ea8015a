"""The calls of a load: read from a mix file, and put into requests.

A mix file has one JSON object a line, `{"path": "/rpc/v1", "method": …, "params": […]}`; `path` may be absent. A method
that stands in a tenth of the lines is a tenth of the load. Recordings (`rpc.jsonl.zst`) have the same form with the
answer beside it; lines whose answer was an error are left out.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import orjson
import zstandard

DEFAULT_PATH: Final = "/rpc/v1"
#: lines of a file that are read at most
MAX_CALLS: Final = 200_000
#: the name of the row in which all calls of a mix are asked in their order
WHOLE_MIX: Final = "mix"


class BadMix(Exception):
    """A mix cannot be used: no such file, a line that is no call, no call that is wanted."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `path` is the path of the API, as `/rpc/v1`; `body` the JSON-RPC request."""

    path: str
    method: str
    body: bytes

    @classmethod
    def of(cls, method: str, params: Any, path: str = DEFAULT_PATH) -> Call:
        """A call of these parameters, JSON values."""
        return cls(path, method, orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))


def read_mix(file: Path) -> list[Call]:
    """The calls of a file, in order. Errors: BadMix."""
    calls: list[Call] = []
    try:
        with closing(_opened(file)) as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                call = _call(line, f"{file}:{number}")
                if call is not None:
                    calls.append(call)
                if len(calls) == MAX_CALLS:
                    break
    except (OSError, zstandard.ZstdError) as error:
        raise BadMix(f"the mix {file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not calls:
        raise BadMix(f"the mix {file} holds no call")
    return calls


def _opened(file: Path) -> IO[bytes]:
    if file.suffix == ".zst":
        return io.BufferedReader(zstandard.open(file, "rb"))
    return file.open("rb")


def _call(line: bytes, place: str) -> Call | None:
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise BadMix(f"{place}: not JSON") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("method"), str):
        raise BadMix(f'{place}: not a call: {{"method": …, "params": …}} is')
    path = fields.get("path", DEFAULT_PATH)
    if not isinstance(path, str) or not re.fullmatch(r"/[!-~]*", path):
        raise BadMix(f"{place}: the path is not one of HTTP")
    if fields.get("error") is not None:
        return None
    return Call.of(fields["method"], fields.get("params", []), path)


def chosen(calls: list[Call], methods: str = "", exclude: str = "") -> list[Call]:
    """The calls whose method holds the regular expression `methods`, but not `exclude`. Errors: BadMix."""
    try:
        wanted, unwanted = re.compile(methods), re.compile(exclude)
    except re.error as error:
        raise BadMix(f"a regular expression that cannot be read: {error}") from None
    found = [call for call in calls if wanted.search(call.method) and not (exclude and unwanted.search(call.method))]
    if not found:
        raise BadMix("no call of the mix is chosen")
    return found


def by_row(calls: list[Call]) -> Iterator[tuple[str, list[Call]]]:
    """(name, calls) of each row of the report: the whole mix, then each method, the most frequent first."""
    groups: dict[str, list[Call]] = {}
    for call in calls:
        groups.setdefault(call.method, []).append(call)
    if len(groups) > 1:
        yield WHOLE_MIX, calls
    yield from sorted(groups.items(), key=lambda group: -len(group[1]))

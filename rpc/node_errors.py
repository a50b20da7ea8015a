"""What can go wrong when a full node is asked.

    NodeError
    ├── BadNodeInfo        the text does not say where a node is
    ├── NodeUnavailable    no connection, or it broke before the answer came
    │   ├── NodeNotReached no connection: the request has surely not been sent
    │   ├── NodeTimeout    the answer did not come in time
    │   ├── NodeBusy       not asked: as many calls as we allow are in flight, and no place came free
    │   └── RateLimited    the node asks to be asked later (`retry_after` seconds)
    ├── NodeRefused        the node does not take our token (401, 403)
    ├── BadAnswer          what came is not an answer to what was asked
    └── CallFailed         the node answered with an error (`code`, `message`, `data`)

No error made here holds a token: a node is named by its host and port.
"""

from __future__ import annotations

from typing import Any


class NodeError(Exception):
    """The root of what goes wrong with a full node."""


class BadNodeInfo(NodeError, ValueError):
    """The text does not say where a node is."""


class NodeUnavailable(NodeError):
    """No connection, or it broke before the answer came."""


class NodeNotReached(NodeUnavailable):
    """No connection could be made: the request has surely not been sent."""


class NodeTimeout(NodeUnavailable):
    """The answer did not come in time."""


class NodeBusy(NodeUnavailable):
    """The node was not asked: as many calls as we allow are in flight, and no place came free in time."""


class RateLimited(NodeUnavailable):
    """The node asks to be asked later."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NodeRefused(NodeError):
    """The node does not take the token that it was given, or wants one."""


class BadAnswer(NodeError):
    """What came is not an answer to what was asked."""


class CallFailed(NodeError):
    """The node answered a call with an error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{message} (code {code})")
        self.code = code
        self.message = message
        self.data = data

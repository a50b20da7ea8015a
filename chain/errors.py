"""Everything `chain` raises. `code` is the JSON-RPC code that a client sees (1: any error of a method).

ChainError
├── BadObject           bytes that are not what their schema says
├── BadAddress          not an address
├── NotHeld             the store does not hold what the answer needs: never an empty answer instead
├── NotFound            a look-up by CID or key that misses, in Lotus' words
├── NullRound           no tipset at that epoch (`data`: the epoch)
├── ActorNotFound       no such actor in this state
└── BadRequest          arguments that make no sense together
"""

from __future__ import annotations

from typing import ClassVar


class ChainError(Exception):
    """The root of everything raised by `chain`."""

    code: ClassVar[int] = 1

    @property
    def data(self) -> object:
        """The `data` member of the JSON-RPC error, or None for no such member."""
        return None


class BadObject(ChainError, ValueError):
    """Bytes that are not what their schema says."""


class BadAddress(ChainError, ValueError):
    """Not an address; the text is go-address' own."""


class NotHeld(ChainError):
    """The store does not hold what the answer needs. `what` names it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"not held: {what}")
        self.what = what


class NotFound(ChainError, LookupError):
    """A look-up by CID or key that misses."""


class NullRound(ChainError):
    """No tipset at that epoch."""

    code = 12

    def __init__(self, epoch: int) -> None:
        super().__init__(f"requested epoch was a null round ({epoch})")
        self.epoch = epoch

    @property
    def data(self) -> object:
        return self.epoch


class ActorNotFound(ChainError, LookupError):
    """No such actor in this state."""

    def __init__(self, text: str = "actor not found") -> None:
        super().__init__(text)


class BadRequest(ChainError, ValueError):
    """Arguments that make no sense together."""

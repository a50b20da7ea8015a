"""All errors that `chain` raises. `code`: the JSON-RPC error code that a client sees (1: an error of a method).

ChainError
├── BadObject           the bytes do not match their schema
├── BadAddress          not an address
├── NotHeld             the store does not hold what the answer needs; never replaced by an empty answer
│   └── Dropped         its policy does not keep it any more
├── NotFound            a look-up by CID or key found nothing; the text is Lotus'
├── NullRound           no tipset at that epoch (`data`: the epoch)
├── ActorNotFound       no such actor in this state
└── BadRequest          the arguments contradict each other
"""

from __future__ import annotations

from typing import ClassVar


class ChainError(Exception):
    """The base class of all errors of `chain`."""

    code: ClassVar[int] = 1

    @property
    def data(self) -> object:
        """The `data` member of the JSON-RPC error; None: the error has no such member."""
        return None


class BadObject(ChainError, ValueError):
    """The bytes do not match their schema."""


class BadAddress(ChainError, ValueError):
    """Not an address. The text is the one of go-address."""


class NotHeld(ChainError):
    """The store does not hold what the answer needs. `what` names it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"not held: {what}")
        self.what = what


class Dropped(NotHeld):
    """The store held it, and its policy does not keep it any more."""


class NotFound(ChainError, LookupError):
    """A look-up by CID or key found nothing."""


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
    """The arguments contradict each other."""

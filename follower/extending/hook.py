"""What a package's hook on tipsets is: a class that derives from `TipsetHook`. docs/extending.md is its page."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from chain.tipset import Tipset, TipsetKey
from follower.extending.chain import Chain
from rpc.lookup.head_changes import Cursor


@dataclass(frozen=True, slots=True)
class TipsetChange:
    """One tipset applied to the chain or reverted from it. `position`: the place behind it in the order of all
    changes, a text that a hook may keep with its own data."""

    tipset: Tipset
    reverted: bool
    position: str


class TipsetHook(ABC):
    """Called for each applied and each reverted tipset, in order. The entry point names the class; it is made once.

    A call that raises, or takes longer than `hook_seconds`, is made again until it succeeds: nothing is left out and
    nothing overtakes. A change that was handled is not told again, with one exception: when the process dies after the
    call and before the position is kept, the same change (the same `position`) is told once more. A hook that must
    not see it twice sets `keeps_position` and stores `change.position` in one transaction with its effect.
    """

    #: where a hook begins that never ran: behind the head, or with the oldest change that the head log still has
    begins_at: ClassVar[Literal["head", "oldest"]] = "head"
    #: whether `position` tells where to go on
    keeps_position: ClassVar[bool] = False

    async def position(self) -> str | None:
        """Asked at each start where `keeps_position` is set: the position of the last change that was handled."""
        return None

    @abstractmethod
    async def applied(self, chain: Chain, change: TipsetChange) -> None:
        """A tipset is on the chain from here on. `chain` reads the store."""

    @abstractmethod
    async def reverted(self, chain: Chain, change: TipsetChange) -> None:
        """A tipset is not on the chain any more. It was the newest one that is applied."""

    async def close(self) -> None:  # noqa: B027  (most hooks have nothing to close)
        """The process ends. Not called when it is killed."""


def position_text(cursor: Cursor) -> str:
    """A cursor as a text."""
    return f"{cursor.seq}.{cursor.step}.{cursor.height}.{cursor.key.hex()}"


def read_position(text: str) -> Cursor:
    """Errors: ValueError, for a text that is no position."""
    try:
        seq, step, height, key = text.split(".")
        return Cursor(int(seq), int(step), int(height), TipsetKey(bytes.fromhex(key)))
    except ValueError:
        raise ValueError(f"{text!r} is not the position of a change") from None

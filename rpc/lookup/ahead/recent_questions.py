"""Which questions came about the newest heads, so that only these are answered ahead at the next one."""

from __future__ import annotations

from enum import Enum
from typing import Final

from rpc.context import Context

#: heads after which a question that nobody asks is not answered ahead any more
_HEADS: Final = 3
_KEY: Final = "recent_questions"


class Question(Enum):
    """A question whose answer follows the head."""

    BLOCK = "block"  #: the newest block with the hashes of its transactions
    FULL_BLOCK = "full block"  #: the same with whole transactions
    FEES = "fees"  #: what the newest block's messages paid
    PREMIUM = "premium"  #: the premium that is suggested for the next block
    PREMIUM_SOON = "premium within 10"  #: the same for one of the next ten
    FINALITY = "finality"  #: the final and the safe block


class RecentQuestions:
    """When each kind of question was asked last, counted in heads. One a process."""

    def __init__(self) -> None:
        self._asked: dict[Question, int] = {}
        self._heads = 0
        #: the context that answers ahead: its own questions do not count
        self.running: Context | None = None

    def note(self, ctx: Context, question: Question) -> None:
        """A request has asked this."""
        if ctx is not self.running:
            self._asked[question] = self._heads

    def next_head(self) -> None:
        """A head has come."""
        self._heads += 1

    def is_wanted(self, question: Question) -> bool:
        """Whether it was asked under one of the newest heads."""
        return self._asked.get(question, -_HEADS - 1) >= self._heads - _HEADS


def recent_questions(ctx: Context) -> RecentQuestions:
    """The process's `RecentQuestions`."""
    found: RecentQuestions | None = ctx.caches.get(_KEY)
    if found is None:
        found = ctx.caches[_KEY] = RecentQuestions()
    return found


def note_question(ctx: Context, question: Question) -> None:
    """Note that a request asks this."""
    recent_questions(ctx).note(ctx, question)

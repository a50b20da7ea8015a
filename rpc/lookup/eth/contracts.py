"""Contracts among the actors of a state."""

from __future__ import annotations

from chain.actors.load import Loaded, States, WrongKind
from chain.state.state_tree import Actor


async def load_contract(states: States, actor: Actor | None) -> Loaded | None:
    """The state of a contract; None for any other actor. Errors: NotHeld (an unknown actors version), Missing."""
    if actor is None:
        return None
    try:
        name, _ = await states.kind_of(actor)
    except WrongKind:
        return None
    return await states.state_of(actor, "evm") if name == "evm" else None

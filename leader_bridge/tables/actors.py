"""Tables of actors: each that changed, and its state as JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from chain.actors.load import States, kind_of_code
from chain.actors.methods import BY_MANIFEST, OldActors, state_json
from chain.address import Address
from chain.errors import BadObject, NotHeld
from chain.ipld.dag_cbor import decode
from chain.state.state_tree import Actor
from leader_bridge.tables.executed import actor_name
from leader_bridge.tables.source import Change, TipsetView, held
from leader_bridge.tables.table import Row, Task, table

_UNKNOWN: Final = "<unknown>"
_ACCOUNT: Final = "account"


async def kind_of(view: TipsetView, states: States, actor: Actor) -> tuple[str, int] | None:
    """(manifest name, actors version); None for a code that is no built-in actor's."""
    with held(f"the state at epoch {view.height}"):
        return await kind_of_code(states.tree, actor.code, states.network_version)


async def _states(view: TipsetView, actors: Sequence[Actor]) -> list[bytes]:
    with held(f"the state at epoch {view.height}"):
        return await view.source.objects.get_many([actor.head for actor in actors])


async def _actors(view: TipsetView) -> AsyncIterator[list[Row]]:
    now, before = await view.states(), await view.previous_states()
    async for part in view.changes():
        there = [new for _, _, new in part if new is not None]
        raws = dict(zip((actor.head for actor in there), await _states(view, there), strict=True))
        rows: list[Row] = []
        for address, old, new in part:
            actor = new or old
            assert actor is not None
            kind = await kind_of(view, now if new is not None or before is None else before, actor)
            state = None if new is None or kind is None else _state_text(view, kind, new, raws[new.head], lax=True)
            rows.append(
                (
                    view.height,
                    view.source.address(address),
                    view.state_root,
                    _UNKNOWN if kind is None else actor_name(*kind),
                    str(actor.head),
                    actor.nonce,
                    str(actor.balance) if new is not None else "0",
                    state,
                    str(actor.code),
                )
            )
        yield rows


def _state_text(view: TipsetView, kind: tuple[str, int], actor: Actor, raw: bytes, *, lax: bool = False) -> str | None:
    """The JSON of a state. `lax`: None for a version that is not decoded, else NotHeld."""
    try:
        return view.source.text_of(state_json(*kind, actor.head, raw))
    except OldActors as error:
        if lax:
            return None
        raise NotHeld(str(error)) from None
    except BadObject as error:
        raise BadObject(f"the state of an actor at epoch {view.height}: {error}") from None


ACTORS: Final = Task(
    "actors",
    table(
        "actors",
        "Actors that differ from the parent tipset's state; of the genesis, all.",
        key="height id state_root",
        columns="""
height      bigint  Epoch of the tipset before whose messages the actor is so.
id          text    ID address.
state_root  text    CID of the state.
code        text    Code of the actor, e.g. fil/16/storageminer; <unknown>: none of the built-in ones.
head        text    CID of its own state.
nonce       bigint  Number of its next message.
balance     text    attoFIL; 0 for an actor that was removed.
state       jsonb?  Its state as Lotus writes it; null: removed, or of an actors version that is not decoded.
code_cid    text?   CID of its code.
""",
    ),
    _actors,
)


async def _actor_states(view: TipsetView) -> AsyncIterator[list[Row]]:
    now = await view.states()
    async for part in view.changes():
        there: list[tuple[Change, Actor]] = [(change, change[2]) for change in part if change[2] is not None]
        rows: list[Row] = []
        for ((address, _, _), actor), raw in zip(there, await _states(view, [one for _, one in there]), strict=True):
            kind = await kind_of(view, now, actor)
            if kind is None:
                continue
            text = _state_text(view, kind, actor, raw)
            robust = _robust(address, actor, kind, raw)
            rows.append((view.height, str(actor.head), str(actor.code), text, view.source.address(robust)))
        yield rows


def _robust(address: Address, actor: Actor, kind: tuple[str, int], raw: bytes) -> bytes:
    """The address that outlives a reorg, where the actor itself tells it: else its ID address."""
    if actor.delegated is not None:
        return actor.delegated
    if kind[0] == _ACCOUNT:
        state = BY_MANIFEST[_ACCOUNT].type("State", kind[1]).decode(decode(raw))
        return bytes(state["Address"])
    return address


ACTOR_STATES: Final = Task(
    "actor_states",
    table(
        "actor_states",
        "States of the actors that changed, as JSON.",
        key="height head code address",
        columns="""
height   bigint  Epoch of the tipset before whose messages the state is so.
head     text    CID of the state.
code     text    CID of the actor's code.
state    jsonb   The state as Lotus writes it.
address  text    Its delegated or key address where it has one, else its ID address.
""",
    ),
    _actor_states,
)

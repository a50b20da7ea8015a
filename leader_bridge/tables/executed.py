"""Tables of executed messages: receipts, decoded parameters, what gas was paid for.

Source of the gas amounts: Lotus `chain/vm/burn.go`; ref-fvm `executor/default.rs` (messages that are refused before
they run).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from chain.actors.load import States, kind_of_code
from chain.actors.methods import BY_MANIFEST, GoPanic, NoSuchMethod, OldActors, params_json
from chain.actors.returns import return_json
from chain.address import Address
from chain.errors import BadAddress, BadObject, NotHeld
from chain.message import Message, Receipt
from chain.state.state_tree import Actor
from leader_bridge.tables.source import TipsetView
from leader_bridge.tables.table import Row, Task, signed, table

_PART: Final = 256
#: from this network version on every message pays the base fee: before, a proof of a window did not
_BURNS_ALWAYS: Final = 13
#: the exit code of a message whose gas limit does not pay for its own bytes
_OUT_OF_GAS: Final = 7
_UNKNOWN: Final = "<unknown>"


class _Receivers:
    """The actors that a tipset's messages are sent to: those after the tipset, else before it."""

    def __init__(self, states: States, found: dict[bytes, Actor | None]) -> None:
        self._states = states
        self._found = found
        self._kinds: dict[bytes, tuple[str, int] | None] = {}

    async def kind(self, to: bytes) -> tuple[str, int] | None:
        """(manifest name, actors version); None for no actor, or an unknown code."""
        actor = self._found.get(to)
        if actor is None:
            return None
        if actor.code not in self._kinds:
            self._kinds[actor.code] = await kind_of_code(self._states.tree, actor.code, self._states.network_version)
        return self._kinds[actor.code]

    def code(self, to: bytes) -> str:
        """The text of the code's CID, for messages of errors."""
        actor = self._found.get(to)
        return "" if actor is None else str(actor.code)


async def _receivers(view: TipsetView) -> _Receivers:
    asked = list(dict.fromkeys(one.message.to for one in await view.messages()))
    addresses = [_checked(to) for to in asked]
    after = await view.child_states()
    found = dict(zip(asked, await after.tree.get_many(addresses), strict=True))
    gone = [to for to, actor in found.items() if actor is None]
    if gone:
        before = await view.states()
        found.update(zip(gone, await before.tree.get_many([_checked(to) for to in gone]), strict=True))
    return _Receivers(after, found)


def _checked(to: bytes) -> Address:
    try:
        return Address.checked(to)
    except BadAddress as error:
        raise BadObject(str(error)) from None


# --- receipts ------------------------------------------------------------------------------------------


async def _receipts(view: TipsetView) -> AsyncIterator[list[Row]]:
    executed = await view.parent()
    if executed is None or not await executed.messages():
        return
    receivers = await _receivers(executed)
    rows: list[Row] = []
    for index, (one, receipt) in enumerate(zip(await executed.messages(), await executed.receipts(), strict=True)):
        rows.append(
            (
                view.height,
                str(one.cid),
                view.state_root,
                index,
                receipt.exit_code,
                receipt.gas_used,
                receipt.return_ or None,
                await _parsed_return(view, receivers, one.message, receipt),
            )
        )
        if len(rows) >= _PART:
            yield rows
            rows = []
    if rows:
        yield rows


async def _parsed_return(view: TipsetView, receivers: _Receivers, message: Message, receipt: Receipt) -> str | None:
    if receipt.exit_code or not receipt.return_:
        return None
    kind = await receivers.kind(message.to)
    if kind is None:
        return None
    try:
        return view.source.text_of(return_json(*kind, message.method, receipt.return_))
    except (NoSuchMethod, OldActors, BadObject):
        # of a method that is no built-in actor's own, or bytes that are not of its type: the bytes say what it is
        return None


RECEIPTS: Final = Task(
    "receipts",
    table(
        "receipts",
        "What became of the messages of the parent tipset.",
        key="height message state_root",
        columns="""
height         bigint  Epoch of the tipset whose header has the receipts: the one after the message's.
message        text    CID of the message.
state_root     text    CID of the state after the message's tipset.
idx            bigint  Place of the message among those of its tipset.
exit_code      bigint  0: success.
gas_used       bigint  Gas that was used.
return         bytea?  What the method returned; null: nothing.
parsed_return  jsonb?  The same decoded; null where its type is not known, and for failed messages.
""",
    ),
    _receipts,
)


# --- parameters ----------------------------------------------------------------------------------------


async def _parsed(view: TipsetView) -> AsyncIterator[list[Row]]:
    if not await view.messages():
        return
    receivers = await _receivers(view)
    address = view.source.address
    rows: list[Row] = []
    for one, receipt in zip(await view.messages(), await view.receipts(), strict=True):
        if receipt.exit_code:
            continue
        message = one.message
        name, params = await _method(view, receivers, message)
        sent = (address(message.from_), address(message.to), message.value)
        rows.append((view.height, str(one.cid), *sent, name, params))
        if len(rows) >= _PART:
            yield rows
            rows = []
    if rows:
        yield rows


async def _method(view: TipsetView, receivers: _Receivers, message: Message) -> tuple[str, str | None]:
    """(method's name, parameters as JSON)."""
    if message.method == 0:
        return "Send", None
    kind = await receivers.kind(message.to)
    if kind is None:
        raise NotHeld(f"the receiver of a message at epoch {view.height}: {view.source.address(message.to)}")
    code = receivers.code(message.to)
    try:
        params: Any = params_json(*kind, message.method, message.params, code)
    except NoSuchMethod:
        # a method that a contract or a multisig takes and no table has: its number, and the bytes, as Lily has them
        return str(message.method), view.source.text_of(message.params)
    except (BadObject, GoPanic):
        params = None
    found = BY_MANIFEST[kind[0]].method(message.method, kind[1])
    assert found is not None
    is_empty = params is None or not message.params or found.params == "empty"
    return found.name, None if is_empty else view.source.text_of(params)


PARSED_MESSAGES: Final = Task(
    "parsed_messages",
    table(
        "parsed_messages",
        "Messages that succeeded, with the name of the method and its decoded parameters.",
        key="height cid",
        columns="""
height  bigint  Epoch of the message.
cid     text    CID of the message.
from    text    Address of the sender.
to      text    Address of the receiver.
value   numeric attoFIL that are sent.
method  text    Name of the method; its number where no actor of the chain names it.
params  jsonb?  The parameters in Lotus' JSON; null: none, or bytes that are not of the method's type.
""",
    ),
    _parsed,
    needs_child=True,
)


# --- gas -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GasOutputs:
    """Where the money for gas went: attoFIL, and units of gas. `miner_penalty` None: only the machine tells it."""

    base_fee_burn: int
    over_estimation_burn: int
    miner_penalty: int | None
    miner_tip: int
    refund: int
    gas_refund: int
    gas_burned: int


def gas_outputs(message: Message, receipt: Receipt, base_fee: int) -> GasOutputs:
    """Where the money for a message's gas went, from network version 13 on."""
    limit, used = message.gas_limit, receipt.gas_used
    if used == 0:
        # refused before it ran: nobody pays but the miner
        penalty = None if receipt.exit_code == _OUT_OF_GAS else base_fee * limit
        return GasOutputs(0, 0, penalty, 0, 0, 0, 0)
    paid = min(base_fee, message.gas_fee_cap)
    tip = min(message.gas_premium, message.gas_fee_cap - paid) * limit
    over = max(0, min(limit - used * 11 // 10, used))
    burned = (limit - used) * over // used
    missed = base_fee - paid
    base_fee_burn, over_burn = paid * used, paid * burned
    refund = limit * message.gas_fee_cap - base_fee_burn - tip - over_burn
    return GasOutputs(base_fee_burn, over_burn, missed * (used + burned), tip, refund, limit - used - burned, burned)


async def _gas(view: TipsetView) -> AsyncIterator[list[Row]]:
    if not await view.messages():
        return
    version = view.source.network.version_at(view.height)
    if version < _BURNS_ALWAYS:
        raise NotHeld(f"gas outputs of network version {version}: they are made from version {_BURNS_ALWAYS} on")
    receivers = await _receivers(view)
    address = view.source.address
    base_fee = view.tipset.parent_base_fee
    rows: list[Row] = []
    for one, receipt in zip(await view.messages(), await view.receipts(), strict=True):
        message = one.message
        kind = await receivers.kind(message.to)
        done = gas_outputs(message, receipt, base_fee)
        rows.append(
            (
                view.height,
                str(one.cid),
                view.state_root,
                address(message.from_),
                address(message.to),
                message.value,
                message.gas_fee_cap,
                message.gas_premium,
                message.gas_limit,
                len(one.raw),
                message.nonce,
                signed(message.method),
                _UNKNOWN if kind is None else actor_name(*kind),
                _UNKNOWN if kind is None else kind[0],
                receipt.exit_code,
                receipt.gas_used,
                base_fee,
                done.base_fee_burn,
                done.over_estimation_burn,
                done.miner_penalty,
                done.miner_tip,
                done.refund,
                done.gas_refund,
                done.gas_burned,
            )
        )
        if len(rows) >= _PART:
            yield rows
            rows = []
    if rows:
        yield rows


def actor_name(manifest: str, version: int) -> str:
    """An actor's code for people: "fil/16/storageminer"."""
    return f"fil/{version}/{manifest}"


GAS_OUTPUTS: Final = Task(
    "gas_outputs",
    table(
        "derived_gas_outputs",
        "Where the money for each message's gas went.",
        key="height cid state_root",
        columns="""
height                bigint   Epoch of the message.
cid                   text     CID of the message.
state_root            text     CID of the state before the message's tipset.
from                  text     Address of the sender.
to                    text     Address of the receiver.
value                 numeric  attoFIL that are sent.
gas_fee_cap           wide     The most that the sender pays, attoFIL for a unit of gas.
gas_premium           wide     What the miner is offered, attoFIL for a unit of gas.
gas_limit             bigint   The most gas that the message may use.
size_bytes            bigint   Size of the message on chain.
nonce                 bigint   Number of the message of its sender.
method                bigint   Number of the method; from 2^63 on less 2^64.
actor_name            text     Code of the receiver, e.g. fil/16/storageminer.
actor_family          text     Its kind, e.g. storageminer.
exit_code             bigint   0: success.
gas_used              bigint   Gas that was used; 0: the message was refused before it ran.
parent_base_fee       numeric  Base fee, attoFIL for a unit of gas.
base_fee_burn         numeric  attoFIL burnt for the gas that was used.
over_estimation_burn  numeric  attoFIL burnt for gas that the limit asked for in vain.
miner_penalty         numeric? attoFIL that the miner loses; null: only a machine tells (exit code 7, no gas used).
miner_tip             wide     attoFIL that the miner gets.
refund                wide     attoFIL that the sender gets back.
gas_refund            bigint   Units of gas that are not paid for.
gas_burned            bigint   Units of gas that are paid for in vain.
""",
    ),
    _gas,
    needs_child=True,
)

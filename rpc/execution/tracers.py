"""The tracers of the `debug_*` methods: which one a client wants, and what it makes of an execution.

Source: go-ethereum `eth/tracers/api.go`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from blockstore.cid import Cid
from chain.errors import BadObject, BadRequest, NotHeld
from chain.message import Message
from rpc.context import Context
from rpc.execution.call_frames import call_frame, in_levels
from rpc.execution.state_changes import called_actors, changes
from rpc.execution.state_json import PrestateOptions, prestate, state_difference
from rpc.executor import Applied
from rpc.json_wire import encoder
from rpc.lookup.eth.parity_traces import traces_of
from rpc.params import json_kind, mismatch

CALL: Final = "callTracer"
FLAT_CALL: Final = "flatCallTracer"
PRESTATE: Final = "prestateTracer"
NOOP: Final = "noopTracer"
_TRACERS: Final = (CALL, FLAT_CALL, PRESTATE, NOOP)
#: what changes the state or the block that a call runs on
_OVERRIDES: Final = ("stateOverrides", "blockOverrides", "txIndex")


@dataclass(frozen=True, slots=True)
class TracerOptions:
    """The tracer, and what its `tracerConfig` says."""

    tracer: str
    only_top_call: bool = False
    with_log: bool = False
    prestate: PrestateOptions = field(default_factory=PrestateOptions)

    @property
    def key(self) -> bytes:
        """The options as bytes, the same for the same options."""
        return repr(self).encode()


class _OptionsDecoder:
    go = "*tracers.TraceConfig"

    def decode(self, value: Any) -> dict[str, Any]:
        """Errors: ValueError."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise mismatch(value, "tracers.TraceConfig")
        return value


#: the options as a client gave them; `tracer_options` reads them
TraceOptions = Annotated[dict[str, Any], _OptionsDecoder()]


def tracer_options(given: dict[str, Any]) -> TracerOptions:
    """Errors: BadRequest (a tracer or an option that cannot be had)."""
    tracer = given.get("tracer")
    if not tracer:
        raise BadRequest(
            "the default tracer, which logs each opcode, cannot be had: Filecoin's virtual machine does not show single"
            f" instructions; name a tracer: {', '.join(_TRACERS)}"
        )
    if tracer not in _TRACERS:
        raise BadRequest(f"tracer {str(tracer)[:40]!r} cannot be had; there are {', '.join(_TRACERS)}")
    for name in _OVERRIDES:
        if given.get(name):
            raise BadRequest(f"option {name} cannot be had: calls run on the state after the block")
    config = given.get("tracerConfig")
    if config is None:
        config = {}
    if not isinstance(config, dict):
        raise BadRequest(f"tracerConfig is an object, not {json_kind(config)}")
    return TracerOptions(
        tracer,
        only_top_call=_flag(config, "onlyTopCall"),
        with_log=_flag(config, "withLog"),
        prestate=PrestateOptions(
            _flag(config, "diffMode"), not _flag(config, "disableCode"), not _flag(config, "disableStorage")
        ),
    )


def _flag(config: dict[str, Any], name: str) -> bool:
    value = config.get(name, False)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise BadRequest(f"option {name} is true or false, not {json_kind(value)}")
    return value


@dataclass(frozen=True, slots=True)
class Traced:
    """A message that was executed with its trace. `caller`: the Ethereum address of its sender; `before`, `after`: the
    roots of the states around it; `place`: where it is on chain, in the JSON of a flat trace."""

    caller: bytes
    message: Message
    applied: Applied
    before: Cid
    after: Cid
    epoch: int
    place: Mapping[str, Any] = field(default_factory=dict)


async def tracer_answer(ctx: Context, options: TracerOptions, traced: Traced) -> bytes:
    """The JSON that a tracer makes of an execution. Errors: NotHeld, LimitExceeded, Missing."""
    encode = encoder(ctx.network.address_prefix)
    try:
        if options.tracer == CALL:
            frame = await call_frame(
                traced.caller,
                traced.message,
                traced.applied,
                ctx.checkpoint,
                only_top=options.only_top_call,
                with_log=options.with_log,
            )
            return encode(in_levels(frame, encode))
        if options.tracer == FLAT_CALL:
            traces = await traces_of(traced.caller, traced.applied.trace, ctx.checkpoint)
            return encode([{**one, **traced.place} for one in traces])
    except BadObject as error:
        raise NotHeld(f"the calls of this message: {error}") from None
    called = await called_actors(traced.applied, ctx.checkpoint)
    found = changes(ctx, traced.before, traced.after, traced.epoch, called)
    show = state_difference if options.prestate.diff_mode else prestate
    return encode(await show(found, options.prestate))

"""The calls of an execution as an Ethereum client expects them, in Parity's form.

A call between actors is shown as an Ethereum client expects it: contracts are called and created, what the EVM does by
native calls of its own is left out or shown as the `delegatecall` that it is. Source: Lotus `node/impl/eth/trace.go`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from chain.actors.codes import known_code
from chain.address import Address, from_id
from chain.checkpoint import Checkpoint
from chain.errors import BadObject
from chain.eth.transaction import EAM, INVOKE_CONTRACT, cbor_bytes
from chain.eth.types import eth_address, own_eth_address
from chain.exit_codes import exit_code_text
from chain.ipld.dag_cbor import decode
from rpc import eth_json
from rpc.lookup.execution_trace import call_tree

_INIT: Final = from_id(1)
_EAM_ID: Final = 10
_EXEC, _EXEC4 = 2, 3
_CREATE, _CREATE2, _CREATE_EXTERNAL = 2, 3, 4
_CONSTRUCTOR: Final = 1
_RESURRECT: Final = 2
_GET_BYTECODE: Final = 3
_INVOKE_DELEGATE: Final = 6
#: methods below this are private to the EVM actor
_FIRST_PUBLIC: Final = 1024
_INSUFFICIENT_FUNDS, _OUT_OF_GAS, _FATAL = 6, 7, 10
_FIRST_ACTOR_CODE: Final = 16
_REVERTED: Final = 33
_EVM_ERRORS: Final = {
    33: "Reverted",
    34: "invalid instruction",
    35: "undefined instruction",
    36: "stack underflow",
    37: "stack overflow",
    38: "illegal memory access",
    39: "invalid jump destination",
    40: "self destruct failed",
}
#: multicodecs of payloads
_NONE, _CBOR, _RAW, _DAG_CBOR = 0x00, 0x51, 0x55, 0x71
_NATIVE_SELECTOR: Final = bytes.fromhex("868e10c4")
_WORD: Final = 32
#: stands for code that no contract can have
_NO_CODE: Final = "0xfe"
#: calls between two checkpoints
_STEP: Final = 64

_Trace = dict[str, Any]


@dataclass(slots=True)
class Environment:
    """Whose calls are looked at: its address, and how many of its calls were shown."""

    caller: bytes
    is_evm: bool = False
    subtraces: int = 0
    #: the contract whose bytecode was last asked for: a delegatecall runs it
    last_bytecode: bytes | None = None


@dataclass(frozen=True, slots=True)
class ShownCall:
    """A call that is shown: its trace, the machine's call that it is made of, the one whose calls stand below it (of a
    creation: the constructor's), and the shown call above."""

    trace: _Trace
    call: _Trace
    inner: _Trace
    above: ShownCall | None


async def traces_of(caller: bytes, trace: Sequence[bytes], checkpoint: Checkpoint) -> list[_Trace]:
    """The traces of a message and of the calls below it. `caller`: its sender's address; `trace`: as in `Applied`.

    Errors: BadObject.
    """
    top = await call_tree(trace, checkpoint)
    found: list[_Trace] = []
    for one in shown_calls(caller, top):
        found.append(one.trace)
        if len(found) % _STEP == 0:
            await checkpoint()
    return found


def shown_calls(caller: bytes, call: _Trace | None) -> Iterator[ShownCall]:
    """A message and the calls below it, which nest up to 1,025 deep; `subtraces` is known at the end. None: it called
    nothing.

    Errors: BadObject.
    """
    # of each level: whose calls they are, the call above, the calls left
    top = () if call is None else (call,)
    levels: list[tuple[Environment, ShownCall | None, Iterator[_Trace]]] = [(Environment(caller), None, iter(top))]
    while levels:
        env, above, calls = levels[-1]
        one = next(calls, None)
        if one is None:
            levels.pop()
            if above is not None:
                above.trace["subtraces"] = env.subtraces
            continue
        here = [] if above is None else [*above.trace["traceAddress"], env.subtraces]
        trace, inner = _trace_of(env, here, one)
        if trace is None or inner is None:
            continue
        env.subtraces += 1
        shown = ShownCall(trace, one, inner, above)
        yield shown
        actor = inner.get("InvokedActor")
        if actor is not None and inner["Subcalls"]:
            levels.append((Environment(address_of(actor), _is_evm(actor)), shown, iter(inner["Subcalls"])))


def _trace_of(env: Environment, address: list[int], call: _Trace) -> tuple[_Trace | None, _Trace | None]:
    """(the trace of a call, the call whose calls stand below it); None for what is not shown. Errors: BadObject."""
    if address and call["MsgRct"]["ExitCode"] in (_INSUFFICIENT_FUNDS, _FATAL):
        return None, None
    if call.get("InvokedActor") is None:
        return None, None
    message = call["Msg"]
    if message["Method"] == INVOKE_CONTRACT:
        return _contract_call(env, address, call), call
    if message["To"] == _INIT and message["Method"] in (_EXEC, _EXEC4):
        return _native_create(env, address, call)
    if message["To"] == EAM and message["Method"] in (_CREATE, _CREATE2, _CREATE_EXTERNAL):
        return _contract_create(env, address, call)
    if env.is_evm and 0 < message["Method"] < _FIRST_PUBLIC:
        return _private_call(env, address, call)
    return _native_call(env, address, call), call


# --- calls ---------------------------------------------------------------------------------------------------


def _call(env: Environment, address: list[int], call: _Trace, data: bytes, output: bytes) -> _Trace:
    message = call["Msg"]
    kind = "staticcall" if message["ReadOnly"] else "call"
    return _shown(
        "call",
        address,
        call,
        {
            "callType": kind,
            "from": eth_json.data(env.caller),
            "to": eth_json.data(address_of(call["InvokedActor"])),
            "gas": hex(message["GasLimit"]),
            "value": hex(int(message["Value"])),
            "input": eth_json.data(data),
        },
        {"gasUsed": _gas_used(call), "output": eth_json.data(output)},
    )


def _native_call(env: Environment, address: list[int], call: _Trace) -> _Trace:
    """Parameters and return value in the form in which Solidity code gives them to native actors."""
    message, returned = call["Msg"], call["MsgRct"]
    data = _NATIVE_SELECTOR + _abi(message["Method"], message["ParamsCodec"], message["Params"] or b"")
    return _call(
        env, address, call, data, _abi(returned["ExitCode"], returned["ReturnCodec"], returned["Return"] or b"")
    )


def _contract_call(env: Environment, address: list[int], call: _Trace) -> _Trace:
    message, returned = call["Msg"], call["MsgRct"]
    try:
        data = _payload(message["Params"], message["ParamsCodec"])
        output = _payload(returned["Return"], returned["ReturnCodec"])
    except BadObject:
        return _native_call(env, address, call)
    return _call(env, address, call, data, output)


def _private_call(env: Environment, address: list[int], call: _Trace) -> tuple[_Trace | None, _Trace | None]:
    """What the EVM actor does for itself: only a delegatecall is shown. Errors: BadObject."""
    message, returned = call["Msg"], call["MsgRct"]
    if message["Method"] == _GET_BYTECODE:
        env.last_bytecode = None if returned["ExitCode"] else address_of(call["InvokedActor"])
        return None, None
    if message["Method"] != _INVOKE_DELEGATE:
        return None, None
    if env.last_bytecode is None:
        raise BadObject("unknown bytecode for delegate call")
    if env.caller != address_of(call["InvokedActor"]):
        raise BadObject("a delegate call of another contract")
    params = decode(message["Params"] or b"")
    # the code's CID, the input, the caller, the value
    if not isinstance(params, list) or len(params) != 4 or type(params[1]) is not bytes:
        raise BadObject("the parameters of a delegate call")
    trace = _call(env, address, call, params[1], _payload(returned["Return"], returned["ReturnCodec"]))
    trace["action"] |= {"callType": "delegatecall", "to": eth_json.data(env.last_bytecode)}
    return trace, call


# --- creations -------------------------------------------------------------------------------------------------


def _native_create(env: Environment, address: list[int], call: _Trace) -> tuple[_Trace | None, _Trace | None]:
    """An actor made by the init actor. Errors: BadObject."""
    returned = call["MsgRct"]
    if call["Msg"]["ReadOnly"]:
        return None, None
    made = next((one for one in call["Subcalls"] or () if one["Msg"]["Method"] == _CONSTRUCTOR), None)
    if made is None:
        if not returned["ExitCode"]:
            raise BadObject("an actor was made without a call of its constructor")
        return None, None
    if call["Msg"]["Method"] == _EXEC4:
        raise BadObject("Exec4 called a constructor")
    created = None
    if not returned["ExitCode"]:
        fields = decode(returned["Return"] or b"")
        created = eth_address(Address(fields[0]))
    code = b"" if created is None else bytes.fromhex(_NO_CODE[2:])
    return _create(env, address, call, bytes.fromhex(_NO_CODE[2:]), created, code), made


def _contract_create(env: Environment, address: list[int], call: _Trace) -> tuple[_Trace | None, _Trace | None]:
    """A contract made by the address manager. Errors: BadObject."""
    message, returned = call["Msg"], call["MsgRct"]
    if message["ReadOnly"]:
        return None, None
    made = _constructor_of(call)
    if made is None:
        if not returned["ExitCode"]:
            raise BadObject("a contract was made without a call of its constructor")
        return None, None
    if message["Method"] == _CREATE_EXTERNAL:
        init = _payload(message["Params"], message["ParamsCodec"])
    else:
        fields = decode(message["Params"] or b"")
        if not isinstance(fields, list) or not fields or type(fields[0]) is not bytes:
            raise BadObject("the parameters of a contract's making")
        init = fields[0]
    created, code = None, b""
    if not returned["ExitCode"]:
        created = decode(returned["Return"] or b"")[2]
        code = bytes.fromhex(_NO_CODE[2:])
    elif returned["ExitCode"] == _REVERTED:
        try:
            code = _payload(made["MsgRct"]["Return"], made["MsgRct"]["ReturnCodec"])
        except BadObject:
            code = b""
    return _create(env, address, call, init, created, code), made


def _constructor_of(call: _Trace) -> _Trace | None:
    """The call of the constructor, or of the method that brings a destroyed contract back."""
    for one in call["Subcalls"] or ():
        if one["Msg"]["To"] == _INIT:
            found = next((sub for sub in one["Subcalls"] or () if sub["Msg"]["Method"] == _CONSTRUCTOR), None)
            if found is not None:
                return found  # type: ignore[no-any-return]
        elif one["Msg"]["Method"] == _RESURRECT:
            return one  # type: ignore[no-any-return]
    return None


def _create(
    env: Environment, address: list[int], call: _Trace, init: bytes, created: bytes | None, code: bytes
) -> _Trace:
    message = call["Msg"]
    result: _Trace = {"gasUsed": _gas_used(call)}
    result["address"] = None if created is None else eth_json.data(created)
    result["code"] = eth_json.data(code)
    return _shown(
        "create",
        address,
        call,
        {
            "from": eth_json.data(env.caller),
            "gas": hex(message["GasLimit"]),
            "value": hex(int(message["Value"])),
            "init": eth_json.data(init),
        },
        result,
    )


# --- parts -----------------------------------------------------------------------------------------------------


def _shown(kind: str, address: list[int], call: _Trace, action: _Trace, result: _Trace) -> _Trace:
    trace: _Trace = {"type": kind}
    error = _error_of(call)
    if error:
        trace["error"] = error
    return trace | {"subtraces": 0, "traceAddress": address, "action": action, "result": result}


def _error_of(call: _Trace) -> str:
    code = call["MsgRct"]["ExitCode"]
    actor = call.get("InvokedActor")
    if actor is not None and (_is_evm(actor) or actor["Id"] == _EAM_ID) and code in _EVM_ERRORS:
        return _EVM_ERRORS[code]
    return exit_error(code)


def exit_error(code: int) -> str:
    """What an exit code is called, of a message or of a call of no contract; empty for a success."""
    if not code:
        return ""
    if code == _OUT_OF_GAS:
        return "out of gas"
    return f"{'vm' if code < _FIRST_ACTOR_CODE else 'actor'} error: {exit_code_text(code)}"


def address_of(actor: _Trace) -> bytes:
    """The Ethereum address of an invoked actor."""
    delegated = actor["State"]["DelegatedAddress"]
    own = None if delegated is None else own_eth_address(delegated)
    return eth_address(from_id(actor["Id"])) if own is None else own


def _is_evm(actor: _Trace) -> bool:
    found = known_code(actor["State"]["Code"])
    return found is not None and found[0] == "evm"


def _gas_used(call: _Trace) -> str:
    return hex(call["GasUsed"])


def _abi(first: int, second: int, data: bytes) -> bytes:
    words = (first, second, 3 * _WORD, len(data))
    return b"".join(word.to_bytes(_WORD, "big") for word in words) + data + bytes(-len(data) % _WORD)


def _payload(data: bytes | None, codec: int) -> bytes:
    """The bytes that a payload holds. Errors: BadObject."""
    if codec == _NONE:
        return b""
    if codec == _RAW:
        return data or b""
    if codec in (_CBOR, _DAG_CBOR):
        return cbor_bytes(data or b"")[0]
    raise BadObject(f"unsupported codec: {codec}")

//! Execution traces as Python tuples, in the order in which things happened; Python makes the tree of them.

use cid::Cid;
use fvm::trace::{ExecutionEvent, IpldOperation};
use fvm_ipld_encoding::ipld_block::IpldBlock;
use fvm_shared::econ::TokenAmount;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

pub const TOO_LONG: &str = "the trace is longer than what is built here (setting execution_trace_entries)";

/// (name, total gas, compute gas, other gas), each rounded up as Lotus does.
pub fn events<'py>(py: Python<'py>, trace: Vec<ExecutionEvent>) -> PyResult<Bound<'py, PyList>> {
    let out = PyList::empty(py);
    for event in trace {
        match event {
            ExecutionEvent::GasCharge(charge) => out.append((
                "gas",
                charge.name.as_ref(),
                charge.total().round_up(),
                charge.compute_gas.round_up(),
                charge.other_gas.round_up(),
            ))?,
            ExecutionEvent::Call { from, to, method, params, value, gas_limit, read_only } => out.append((
                "call",
                from,
                PyBytes::new(py, &to.to_bytes()),
                method,
                block(py, params),
                attos(&value),
                gas_limit,
                read_only,
            ))?,
            ExecutionEvent::CallReturn(code, value) => out.append(("return", code.value(), block(py, value)))?,
            ExecutionEvent::CallError(error) => out.append(("error", error.1 as u32, error.0))?,
            ExecutionEvent::InvokeActor { id, state } => out.append((
                "actor",
                id,
                cid(py, &state.code),
                cid(py, &state.state),
                state.sequence,
                attos(&state.balance),
                state.delegated_address.map(|address| PyBytes::new(py, &address.to_bytes())),
            ))?,
            ExecutionEvent::Log(text) => out.append(("log", text))?,
            ExecutionEvent::Ipld { op, cid: link, size } => {
                out.append(("ipld", if op == IpldOperation::Get { "Get" } else { "Put" }, cid(py, &link), size))?
            }
            _ => {}
        }
    }
    Ok(out)
}

fn cid<'py>(py: Python<'py>, cid: &Cid) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &cid.to_bytes())
}

/// (codec, bytes), None for no block.
fn block<'py>(py: Python<'py>, block: Option<IpldBlock>) -> Option<(u64, Bound<'py, PyBytes>)> {
    block.map(|block| (block.codec, PyBytes::new(py, &block.data)))
}

/// AttoFIL as decimal text: Python reads integers of any size from it.
pub fn attos(amount: &TokenAmount) -> String {
    amount.atto().to_string()
}

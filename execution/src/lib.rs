//! Runs Filecoin messages with the reference virtual machine (`fvm`), for Python.
//!
//! As little as does the job: an engine, machines, applying messages, flushing. What Lotus makes of the results (retries,
//! gas search, JSON) is Python's. Objects and facts of the chain come from Python by call-back.

mod machine;
mod store;
mod trace;

use std::sync::Arc;

use fvm::engine::MultiEngine;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::store::Cache;

pyo3::create_exception!(
    lotus_follower_execution,
    NotHeld,
    pyo3::exceptions::PyException,
    "Something that the machine asked for is not held: an object (`args[0]` is its CID, bytes) or a fact (a text)."
);
pyo3::create_exception!(
    lotus_follower_execution,
    ExecutionError,
    pyo3::exceptions::PyException,
    "The machine could not run; no receipt was made."
);

/// Compiled code and cached objects, shared by all machines of a process.
#[pyclass(frozen)]
struct Engine {
    multi: Arc<MultiEngine>,
    cache: Arc<Cache>,
}

#[pymethods]
impl Engine {
    /// `threads`: messages that run at once. `cache_bytes`: memory for objects; an object over a sixteenth of it is not kept.
    #[new]
    fn new(threads: u32, cache_bytes: usize) -> PyResult<Self> {
        if threads == 0 {
            return Err(PyValueError::new_err("threads must be positive"));
        }
        Ok(Engine { multi: Arc::new(MultiEngine::new(threads)), cache: Arc::new(Cache::new(cache_bytes)) })
    }

    /// A machine on a state root. Compiles the actors' code where that has not been done: 13 to 17 s of CPU.
    ///
    /// `get(cid) -> bytes | None` reads an object; it is called from threads of the machine's own. `externs` has `chain_randomness(epoch)`,
    /// `beacon_randomness(epoch)`, `tipset_cid(epoch)` and `consensus_fault(h1, h2, extra)`. Amounts are attoFIL.
    /// Errors: NotHeld, ExecutionError (a network version or a state that the machine does not know).
    #[pyo3(signature = (get, externs, *, network_version, chain_id, epoch, timestamp, base_fee, supply, root, tracing))]
    #[allow(clippy::too_many_arguments)]
    fn machine(
        &self,
        py: Python<'_>,
        get: Py<PyAny>,
        externs: Py<PyAny>,
        network_version: u32,
        chain_id: u64,
        epoch: i64,
        timestamp: u64,
        base_fee: u128,
        supply: u128,
        root: &[u8],
        tracing: bool,
    ) -> PyResult<machine::Machine> {
        let place = machine::Place { network_version, chain_id, epoch, timestamp, base_fee, supply, tracing };
        machine::Machine::make(py, &self.multi, self.cache.clone(), get, externs, place, root)
    }

    /// (objects, bytes) of the cache.
    fn cached(&self) -> (usize, usize) {
        self.cache.size()
    }
}

#[pymodule]
fn lotus_follower_execution(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("NotHeld", module.py().get_type::<NotHeld>())?;
    module.add("ExecutionError", module.py().get_type::<ExecutionError>())?;
    module.add_class::<Engine>()?;
    module.add_class::<machine::Machine>()
}

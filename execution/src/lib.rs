//! Runs Filecoin messages with the reference virtual machine (`fvm`), for Python.
//!
//! As little as does the job: an engine, machines, applying messages, flushing. What Lotus makes of the results (retries,
//! gas search, JSON) is Python's. Objects and facts of the chain come from Python by call-back.

mod bounds;
mod calls;
mod lanes;
mod machine;
#[cfg(feature = "old-networks")]
mod old;
mod store;
mod trace;

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::FromRawFd;
use std::sync::{Arc, Mutex};

use fvm::engine::MultiEngine;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::bounds::{Bounds, Reserve};
use crate::calls::{Call, CallPlace, frame};
use crate::lanes::Lanes;
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
pyo3::create_exception!(
    lotus_follower_execution,
    Refused,
    pyo3::exceptions::PyException,
    "A message went beyond a bound (`args[0]` says which) and was ended."
);

/// Compiled code, cached objects and threads, shared by all machines of a process.
#[pyclass(frozen)]
struct Engine {
    multi: Arc<MultiEngine>,
    cache: Arc<Cache>,
    #[cfg(feature = "old-networks")]
    old: old::Engines,
    lanes: Lanes,
    bounds: Bounds,
    reserve: Arc<Reserve>,
    answers: Arc<Answers>,
}

/// the network versions that `fvm` 4 runs
const VERSIONS: std::ops::RangeInclusive<u32> = 21..=29;
/// those that are built in, and may make a machine
const FIRST_VERSION: u32 = if cfg!(feature = "old-networks") { 16 } else { *VERSIONS.start() };

/// Refuse a network version that is not built in.
fn check_version(version: u32, first: u32) -> PyResult<()> {
    let last = *VERSIONS.end();
    if (first..=last).contains(&version) {
        return Ok(());
    }
    Err(NotHeld::new_err(format!("execution at network version {version}: {first} to {last} are built in here")))
}

/// Answers of calls that have not been fetched: frames by the number of who asked.
#[derive(Default)]
struct Answers {
    frames: Mutex<HashMap<u64, Vec<u8>>>,
    /// written to when there is something to fetch
    bell: Mutex<Option<std::fs::File>>,
}

impl Answers {
    fn add(&self, asker: u64, frame: Vec<u8>) {
        let mut frames = self.frames.lock().expect("the lock of the answers");
        let is_first = frames.is_empty();
        frames.entry(asker).or_default().extend(frame);
        drop(frames);
        if is_first && let Some(bell) = self.bell.lock().expect("the lock of the bell").as_mut() {
            // a full pipe has rung already
            let _ = bell.write(&[0]);
        }
    }
}

#[pymethods]
impl Engine {
    /// `threads`: messages that run at once. `cache_bytes`: memory for objects; an object over a sixteenth of it is not kept.
    /// `message_bytes`: memory that one message which a client made up may take.
    #[new]
    #[pyo3(signature = (threads, cache_bytes, message_bytes = 256 << 20))]
    fn new(threads: u32, cache_bytes: usize, message_bytes: usize) -> PyResult<Self> {
        if threads == 0 {
            return Err(PyValueError::new_err("threads must be positive"));
        }
        Ok(Engine {
            multi: Arc::new(MultiEngine::new(threads)),
            cache: Arc::new(Cache::new(cache_bytes)),
            #[cfg(feature = "old-networks")]
            old: old::Engines::new(threads),
            lanes: Lanes::new(threads as usize)?,
            bounds: Bounds { bytes: message_bytes, ..Bounds::NONE },
            reserve: Arc::default(),
            answers: Arc::default(),
        })
    }

    /// A machine on a state root. Compiles the actors' code where that has not been done: 13 to 17 s of CPU.
    ///
    /// `get(cid) -> bytes | None` reads an object; it is called from threads of the machine's own. `externs` has `chain_randomness(epoch)`,
    /// `beacon_randomness(epoch)`, `tipset_cid(epoch)` and `consensus_fault(h1, h2, extra)`. Amounts are attoFIL.
    /// Errors: NotHeld (also a network version that is not built in), ExecutionError (a state that the machine does not know).
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
    ) -> PyResult<Py<PyAny>> {
        check_version(network_version, FIRST_VERSION)?;
        let place = machine::Place { network_version, chain_id, epoch, timestamp, base_fee, supply, tracing };
        let (cache, reserve, lanes) = (self.cache.clone(), self.reserve.clone(), self.lanes.clone());
        #[cfg(feature = "old-networks")]
        if !VERSIONS.contains(&network_version) {
            let made = old::OldMachine::make(py, &self.old, cache, lanes, get, externs, place, root)?;
            return Ok(Py::new(py, made)?.into_any());
        }
        let made =
            machine::Machine::make(py, &self.multi, cache, reserve, lanes, self.bounds, get, externs, place, root)?;
        Ok(Py::new(py, made)?.into_any())
    }

    /// Where calls run; arguments as of `machine`. The machines themselves are made when calls come. Errors: NotHeld (a network version
    /// before 21, or one that is not built in).
    #[pyo3(signature = (get, externs, *, network_version, chain_id, epoch, timestamp, base_fee, supply, root))]
    #[allow(clippy::too_many_arguments)]
    fn place(
        &self,
        get: Py<PyAny>,
        externs: Py<PyAny>,
        network_version: u32,
        chain_id: u64,
        epoch: i64,
        timestamp: u64,
        base_fee: u128,
        supply: u128,
        root: &[u8],
    ) -> PyResult<CallPlace> {
        check_version(network_version, *VERSIONS.start())?;
        let place = machine::Place { network_version, chain_id, epoch, timestamp, base_fee, supply, tracing: false };
        Ok(CallPlace::new(place, root.to_vec(), get, externs))
    }

    /// Run a message on the state of a place, and keep nothing of it. Its nonce is set to the sender's. Returns at once: the
    /// answer is a frame with `number`, for `answers`. `signature_bytes`: what a signature adds to its length on chain.
    /// `skips_sender_check`: any actor may send, even one that does not exist. `gas_cap`: as of `Machine.apply`.
    #[allow(clippy::too_many_arguments)]
    fn call(
        &self,
        asker: u64,
        number: u64,
        place: &CallPlace,
        message: &[u8],
        signature_bytes: usize,
        skips_sender_check: bool,
        gas_cap: u64,
    ) {
        let bounds = Bounds { gas: gas_cap, ..self.bounds };
        let call = Call { message: message.to_vec(), signature_bytes, skips_sender_check, bounds };
        let (multi, cache, reserve) = (self.multi.clone(), self.cache.clone(), self.reserve.clone());
        let (answers, place) = (self.answers.clone(), place.0.clone());
        self.lanes.submit(Box::new(move |machines| {
            let (outcome, heavy) = machines.run(&multi, &cache, &reserve, &place, &call);
            answers.add(asker, frame(number, outcome));
            heavy
        }));
    }

    /// Write a byte to this file descriptor, which is the engine's from now on, when there are answers to fetch.
    fn ring(&self, bell: i32) {
        // SAFETY: the caller gives the descriptor away
        let file = unsafe { std::fs::File::from_raw_fd(bell) };
        *self.answers.bell.lock().expect("the lock of the bell") = Some(file);
    }

    /// The answers since the last time: [(asker, frames)].
    fn answers<'py>(&self, py: Python<'py>) -> Vec<(u64, Bound<'py, PyBytes>)> {
        let frames = std::mem::take(&mut *self.answers.frames.lock().expect("the lock of the answers"));
        frames.into_iter().map(|(asker, frames)| (asker, PyBytes::new(py, &frames))).collect()
    }

    /// Keep an object that the store lacks.
    fn keep(&self, multihash: &[u8], data: &[u8]) {
        self.cache.put(multihash.to_vec(), data);
    }

    /// Of each message under way: (seconds, CPU seconds).
    fn running(&self) -> Vec<(f64, f64)> {
        self.lanes.running()
    }

    /// Messages that wait for a thread.
    fn waiting(&self) -> usize {
        self.lanes.waiting()
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
    module.add("Refused", module.py().get_type::<Refused>())?;
    module.add("FIRST_NETWORK_VERSION", FIRST_VERSION)?;
    module.add_class::<Engine>()?;
    module.add_class::<CallPlace>()?;
    module.add_class::<machine::Machine>()
}

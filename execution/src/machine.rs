//! One machine: messages applied one after the other on a state.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow};
use cid::Cid;
use fvm::engine::MultiEngine;
use fvm::executor::{ApplyKind, ApplyRet, DefaultExecutor, Executor};
use fvm::machine::{DefaultMachine, NetworkConfig};
use fvm_shared::bigint::BigInt;
use fvm_shared::chainid::ChainID;
use fvm_shared::econ::TokenAmount;
use fvm_shared::message::Message;
use fvm_shared::version::NetworkVersion;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::bounds::{BoundedMachine, Bounds, Reserve, Watch};
use crate::calls::Runner;
use crate::lanes::Lanes;
use crate::store::{Cache, Facts, Missing, Objects, SharedObjects};
use crate::{ExecutionError, NotHeld, Refused, trace};

/// Where and when a machine runs.
pub struct Place {
    pub network_version: u32,
    pub chain_id: u64,
    pub epoch: i64,
    pub timestamp: u64,
    pub base_fee: u128,
    pub supply: u128,
    pub tracing: bool,
}

/// A virtual machine over one state. Messages change it; nothing is written anywhere but by who calls `flush`.
#[pyclass(frozen)]
pub struct Machine {
    runner: Arc<Mutex<Runner>>,
    objects: Arc<Objects>,
    missing: Arc<Mutex<Option<Missing>>>,
    watch: Arc<Watch>,
    lanes: Lanes,
    bounds: Bounds,
}

impl Machine {
    #[allow(clippy::too_many_arguments)]
    pub fn make(
        py: Python<'_>,
        multi: &MultiEngine,
        cache: Arc<Cache>,
        reserve: Arc<Reserve>,
        lanes: Lanes,
        bounds: Bounds,
        get: Py<PyAny>,
        externs: Py<PyAny>,
        place: Place,
        root: &[u8],
    ) -> PyResult<Self> {
        let missing = Arc::default();
        let made = py.detach(|| guarded(|| runner(multi, cache, reserve, get, externs, &place, root, &missing)));
        match made {
            Ok((runner, objects, watch)) => {
                Ok(Machine { runner: Arc::new(Mutex::new(runner)), objects, missing, watch, lanes, bounds })
            }
            Err(error) => Err(fault(py, &missing, error)),
        }
    }
}

#[pymethods]
impl Machine {
    /// Apply a message (CBOR, unsigned). `length`: its bytes on chain. `gas_cap`: the most gas that it may use whatever its limit;
    /// with it go the engine's bounds, and `trace_entries`. Errors: NotHeld, Refused (it went beyond a bound), ExecutionError.
    ///
    /// A dict: exit_code, return (bytes), return_codec, gas_used, penalty, miner_tip, base_fee_burn,
    /// over_estimation_burn, refund, gas_refund, gas_burned, events_root (bytes or None),
    /// events [(emitter, [(flags, key, codec, value)])], failure (text or None), trace (see `trace.rs`).
    #[pyo3(signature = (message, implicit, length, gas_cap = None, trace_entries = u64::MAX))]
    fn apply<'py>(
        &self,
        py: Python<'py>,
        message: &[u8],
        implicit: bool,
        length: usize,
        gas_cap: Option<u64>,
        trace_entries: u64,
    ) -> PyResult<Bound<'py, PyDict>> {
        let bounds = gas_cap.map_or(Bounds::NONE, |gas| Bounds { gas, trace: trace_entries, ..self.bounds });
        let (runner, watch, message) = (self.runner.clone(), self.watch.clone(), message.to_vec());
        let work = move || {
            let done = guarded(|| {
                let message: Message = fvm_ipld_encoding::from_slice(&message).context("not a message")?;
                let kind = if implicit { ApplyKind::Implicit } else { ApplyKind::Explicit };
                watch.begin(bounds);
                runner.lock().map_err(|_| anyhow!("the machine has panicked"))?.execute_message(message, kind, length)
            });
            watch.finish();
            (done, watch.was_heavy())
        };
        let done = py.detach(|| self.lanes.wait(work)).map_err(|error| fault(py, &self.missing, error))?;
        let is_too_long = done.exec_trace.len() as u64 > trace_entries;
        if let Some(why) = self.watch.refusal().or(is_too_long.then(|| trace::TOO_LONG.to_string())) {
            return Err(Refused::new_err(why));
        }
        if let Some(error) = held_back(py, &self.missing) {
            return Err(error);
        }
        let failure = done.failure_info.as_ref().map(|failure| failure.to_string());
        report(py, done, failure)
    }

    /// The state root, and the objects written since the last flush: (root, [(multihash, bytes)]).
    fn flush<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyList>)> {
        let root = py
            .detach(|| guarded(|| self.runner.lock().map_err(|_| anyhow!("the machine has panicked"))?.flush()))
            .map_err(|error| fault(py, &self.missing, error))?;
        flushed(py, &root, &self.objects, &self.missing)
    }
}

/// What a flush returns: (root, [(multihash, bytes)]).
pub fn flushed<'py>(
    py: Python<'py>,
    root: &Cid,
    objects: &Objects,
    missing: &Mutex<Option<Missing>>,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyList>)> {
    if let Some(error) = held_back(py, missing) {
        return Err(error);
    }
    let out = PyList::empty(py);
    for (key, data) in objects.written.lock().expect("the lock of written objects").iter() {
        out.append((PyBytes::new(py, key), PyBytes::new(py, data)))?;
    }
    Ok((PyBytes::new(py, &root.to_bytes()), out))
}

/// A machine on a state, and what can be asked of it from outside.
#[allow(clippy::too_many_arguments)]
pub fn runner(
    multi: &MultiEngine,
    cache: Arc<Cache>,
    reserve: Arc<Reserve>,
    get: Py<PyAny>,
    externs: Py<PyAny>,
    place: &Place,
    root: &[u8],
    missing: &Arc<Mutex<Option<Missing>>>,
) -> Result<(Runner, Arc<Objects>, Arc<Watch>)> {
    let version = NetworkVersion::from(place.network_version);
    let mut config = NetworkConfig::new(version);
    config.chain_id(ChainID::from(place.chain_id));
    let mut context = config.for_epoch(place.epoch, place.timestamp, Cid::try_from(root)?);
    context.set_base_fee(TokenAmount::from_atto(BigInt::from(place.base_fee)));
    context.set_circulating_supply(TokenAmount::from_atto(BigInt::from(place.supply)));
    context.tracing = place.tracing;
    let objects = Arc::new(Objects::new(get, cache, missing.clone()));
    let facts = Facts { externs, missing: missing.clone() };
    let watch = Arc::new(Watch::new(reserve));
    let inner = DefaultMachine::new(&context, SharedObjects(objects.clone()), facts)?;
    let machine = BoundedMachine { inner, watch: watch.clone() };
    Ok((DefaultExecutor::new(multi.get(&config)?, machine)?, objects, watch))
}

/// A panic of the machine as an error.
pub fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text =
            panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
        Err(anyhow!("the machine panicked: {}", text.unwrap_or_default()))
    })
}

pub fn fault(py: Python<'_>, missing: &Mutex<Option<Missing>>, error: anyhow::Error) -> PyErr {
    held_back(py, missing).unwrap_or_else(|| ExecutionError::new_err(format!("{error:#}")))
}

/// What was not held, as an exception; it stays, for the state of this machine cannot be trusted any more.
pub fn held_back(py: Python<'_>, missing: &Mutex<Option<Missing>>) -> Option<PyErr> {
    match missing.lock().expect("the lock of what is missing").clone()? {
        Missing::Object(cid) => Some(NotHeld::new_err(PyBytes::new(py, &cid.to_bytes()).unbind())),
        Missing::Fact(text) => Some(NotHeld::new_err(text)),
    }
}

pub fn report<'py>(py: Python<'py>, done: ApplyRet, failure: Option<String>) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    out.set_item("exit_code", done.msg_receipt.exit_code.value())?;
    out.set_item("return", PyBytes::new(py, done.msg_receipt.return_data.bytes()))?;
    out.set_item("return_codec", done.return_codec)?;
    out.set_item("gas_used", done.msg_receipt.gas_used)?;
    out.set_item("penalty", trace::attos(&done.penalty))?;
    out.set_item("miner_tip", trace::attos(&done.miner_tip))?;
    out.set_item("base_fee_burn", trace::attos(&done.base_fee_burn))?;
    out.set_item("over_estimation_burn", trace::attos(&done.over_estimation_burn))?;
    out.set_item("refund", trace::attos(&done.refund))?;
    out.set_item("gas_refund", done.gas_refund)?;
    out.set_item("gas_burned", done.gas_burned)?;
    out.set_item("events_root", done.msg_receipt.events_root.map(|cid| PyBytes::new(py, &cid.to_bytes())))?;
    let events = PyList::empty(py);
    for stamped in done.events {
        let entries = PyList::empty(py);
        for entry in stamped.event.entries {
            entries.append((entry.flags.bits(), entry.key, entry.codec, PyBytes::new(py, &entry.value)))?;
        }
        events.append((stamped.emitter, entries))?;
    }
    out.set_item("events", events)?;
    out.set_item("failure", failure)?;
    out.set_item("trace", trace::events(py, done.exec_trace)?)?;
    Ok(out)
}

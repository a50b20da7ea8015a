//! Network versions 16 to 20, by the second and the third major version of `fvm` (feature `old-networks`).
//!
//! These machines know no bounds but gas, so a message that a client made up may not have more gas than its cap. What they return
//! takes the form of the fourth major version.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow};
use cid::Cid;
use fvm::executor::ApplyRet;
use fvm::gas::{Gas, GasCharge};
use fvm::kernel::SyscallError;
use fvm::trace::ExecutionEvent;
use fvm_ipld_encoding::ipld_block::IpldBlock;
use fvm_ipld_encoding::{DAG_CBOR, RawBytes, from_slice};
use fvm_shared::address::Address;
use fvm_shared::bigint::BigInt;
use fvm_shared::econ::TokenAmount;
use fvm_shared::error::{ErrorNumber, ExitCode};
use fvm_shared::event::{ActorEvent, Entry, Flags, StampedEvent};
use fvm_shared::message::Message;
use fvm_shared::receipt::Receipt;
use fvm_shared::state::ActorState;
use num_traits::FromPrimitive;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::lanes::Lanes;
use crate::machine::{Place, fault, flushed, guarded, held_back, report};
use crate::store::{Cache, Facts, Missing, Objects, SharedObjects};
use crate::{NotHeld, Refused};

/// A message's result, and the text of its failure.
type Done = (ApplyRet, Option<String>);

/// Compiled code of the old major versions.
pub struct Engines {
    two: fvm2::machine::MultiEngine,
    three: fvm3::engine::MultiEngine,
}

impl Engines {
    pub fn new(threads: u32) -> Self {
        Engines { two: fvm2::machine::MultiEngine::new(), three: fvm3::engine::MultiEngine::new(threads) }
    }
}

trait Runner: Send {
    fn apply(&mut self, message: &[u8], implicit: bool, length: usize) -> Result<Done>;
    fn flush(&mut self) -> Result<Cid>;
}

/// As `Machine`, of an old network version.
#[pyclass(frozen)]
pub struct OldMachine {
    runner: Arc<Mutex<Box<dyn Runner>>>,
    objects: Arc<Objects>,
    missing: Arc<Mutex<Option<Missing>>>,
    lanes: Lanes,
}

impl OldMachine {
    #[allow(clippy::too_many_arguments)]
    pub fn make(
        py: Python<'_>,
        engines: &Engines,
        cache: Arc<Cache>,
        lanes: Lanes,
        get: Py<PyAny>,
        externs: Py<PyAny>,
        place: Place,
        root: &[u8],
    ) -> PyResult<Self> {
        let missing: Arc<Mutex<Option<Missing>>> = Arc::default();
        let objects = Arc::new(Objects::new(get, cache, missing.clone()));
        let facts = Facts { externs, missing: missing.clone() };
        let store = SharedObjects(objects.clone());
        let made = py.detach(|| {
            guarded(|| {
                if place.network_version < 18 {
                    two(engines, store, facts, &place, root)
                } else {
                    three(engines, store, facts, &place, root)
                }
            })
        });
        match made {
            Ok(runner) => Ok(OldMachine { runner: Arc::new(Mutex::new(runner)), objects, missing, lanes }),
            Err(error) => Err(fault(py, &missing, error)),
        }
    }
}

#[pymethods]
impl OldMachine {
    /// As `Machine.apply`. Errors: also NotHeld, for a message with more gas than `gas_cap`.
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
        if let Some(cap) = gas_cap {
            let limit = from_slice::<Message>(message).map_or(u64::MAX, |message| message.gas_limit);
            if limit > cap {
                // no fault of the message: another executor may run it
                let what = format!("the execution of a message with more than {cap} gas before network version 21");
                return Err(NotHeld::new_err(what));
            }
        }
        let (runner, message) = (self.runner.clone(), message.to_vec());
        let work = move || {
            let lock = || runner.lock().map_err(|_| anyhow!("the machine has panicked"));
            (guarded(|| lock()?.apply(&message, implicit, length)), true)
        };
        let (done, failure) = py.detach(|| self.lanes.wait(work)).map_err(|error| fault(py, &self.missing, error))?;
        if let Some(error) = held_back(py, &self.missing) {
            return Err(error);
        }
        if done.exec_trace.len() as u64 > trace_entries {
            return Err(Refused::new_err(
                "the trace is longer than what is built here (setting execution_trace_entries)",
            ));
        }
        report(py, done, failure)
    }

    /// As `Machine.flush`.
    fn flush<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyList>)> {
        let root = py
            .detach(|| guarded(|| self.runner.lock().map_err(|_| anyhow!("the machine has panicked"))?.flush()))
            .map_err(|error| fault(py, &self.missing, error))?;
        flushed(py, &root, &self.objects, &self.missing)
    }
}

fn amount(atto: &BigInt) -> TokenAmount {
    TokenAmount::from_atto(atto.clone())
}

fn address(bytes: Vec<u8>) -> Address {
    // the chaos actor, as Lotus' filecoin-ffi has it: an address that this version does not know
    Address::from_bytes(&bytes).unwrap_or_else(|_| Address::new_id(98))
}

fn error_number(number: u32) -> ErrorNumber {
    ErrorNumber::from_u32(number).unwrap_or(ErrorNumber::AssertionFailed)
}

impl Facts {
    /// Consensus faults cost gas of their own there, which nothing here has shown to be right.
    fn refuse_fault<T>(&self) -> Result<T> {
        let text = "the verification of a consensus fault before network version 21".to_string();
        self.missing.lock().expect("the lock of what is missing").get_or_insert(Missing::Fact(text.clone()));
        Err(anyhow!(text))
    }
}

// --- the third major version: network versions 18 to 20 ------------------------------------------------------

type Machine3 = fvm3::machine::DefaultMachine<SharedObjects, Facts>;
type Executor3 = fvm3::executor::DefaultExecutor<fvm3::DefaultKernel<fvm3::call_manager::DefaultCallManager<Machine3>>>;

fn three(engines: &Engines, store: SharedObjects, facts: Facts, place: &Place, root: &[u8]) -> Result<Box<dyn Runner>> {
    use fvm_shared3::{chainid::ChainID, econ::TokenAmount, version::NetworkVersion};
    let version = NetworkVersion::try_from(place.network_version)
        .map_err(|_| anyhow!("network version {} is unknown", place.network_version))?;
    let mut config = fvm3::machine::NetworkConfig::new(version);
    config.chain_id(ChainID::from(place.chain_id));
    let mut context = config.for_epoch(place.epoch, place.timestamp, Cid::try_from(root)?);
    context.set_base_fee(TokenAmount::from_atto(place.base_fee));
    context.set_circulating_supply(TokenAmount::from_atto(place.supply));
    context.tracing = place.tracing;
    let machine = Machine3::new(&context, store, facts)?;
    Ok(Box::new(Executor3::new(engines.three.get(&config)?, machine)?))
}

impl Runner for Executor3 {
    fn apply(&mut self, message: &[u8], implicit: bool, length: usize) -> Result<Done> {
        use fvm3::executor::{ApplyKind, Executor};
        let kind = if implicit { ApplyKind::Implicit } else { ApplyKind::Explicit };
        let done = self.execute_message(from_slice(message).context("not a message")?, kind, length)?;
        let receipt = Receipt {
            exit_code: ExitCode::new(done.msg_receipt.exit_code.value()),
            return_data: done.msg_receipt.return_data,
            gas_used: done.msg_receipt.gas_used,
            events_root: done.msg_receipt.events_root,
        };
        let events = done.events.into_iter().map(|one| StampedEvent {
            emitter: one.emitter,
            event: ActorEvent::from(one.event.entries.into_iter().map(entry).collect::<Vec<_>>()),
        });
        let found = ApplyRet {
            msg_receipt: receipt,
            penalty: amount(done.penalty.atto()),
            miner_tip: amount(done.miner_tip.atto()),
            base_fee_burn: amount(done.base_fee_burn.atto()),
            over_estimation_burn: amount(done.over_estimation_burn.atto()),
            refund: amount(done.refund.atto()),
            gas_refund: done.gas_refund,
            gas_burned: done.gas_burned,
            failure_info: None,
            exec_trace: done.exec_trace.into_iter().filter_map(event3).collect(),
            events: events.collect(),
            return_codec: None,
        };
        Ok((found, done.failure_info.map(|failure| failure.to_string())))
    }

    fn flush(&mut self) -> Result<Cid> {
        fvm3::executor::Executor::flush(self)
    }
}

fn entry(one: fvm_shared3::event::Entry) -> Entry {
    Entry { flags: Flags::from_bits_retain(one.flags.bits()), key: one.key, codec: one.codec, value: one.value }
}

fn event3(event: fvm3::trace::ExecutionEvent) -> Option<ExecutionEvent> {
    use fvm3::trace::ExecutionEvent as Old;
    Some(match event {
        Old::GasCharge(charge) => ExecutionEvent::GasCharge(GasCharge {
            name: charge.name,
            compute_gas: Gas::from_milligas(charge.compute_gas.as_milligas()),
            other_gas: Gas::from_milligas(charge.other_gas.as_milligas()),
            elapsed: Default::default(),
        }),
        Old::Call { from, to, method, params, value, gas_limit, read_only } => ExecutionEvent::Call {
            from,
            to: address(to.to_bytes()),
            method,
            params,
            value: amount(value.atto()),
            gas_limit,
            read_only,
        },
        Old::CallReturn(code, value) => ExecutionEvent::CallReturn(ExitCode::new(code.value()), value),
        Old::CallError(error) => ExecutionEvent::CallError(SyscallError(error.0, error_number(error.1 as u32))),
        Old::InvokeActor { id, state } => ExecutionEvent::InvokeActor {
            id,
            state: ActorState {
                code: state.code,
                state: state.state,
                sequence: state.sequence,
                balance: amount(state.balance.atto()),
                delegated_address: state.delegated_address.and_then(|one| Address::from_bytes(&one.to_bytes()).ok()),
            },
        },
        _ => return None,
    })
}

impl fvm3::externs::Rand for Facts {
    fn get_chain_randomness(&self, epoch: i64) -> Result<[u8; 32]> {
        fvm::externs::Rand::get_chain_randomness(self, epoch)
    }

    fn get_beacon_randomness(&self, epoch: i64) -> Result<[u8; 32]> {
        fvm::externs::Rand::get_beacon_randomness(self, epoch)
    }
}

impl fvm3::externs::Chain for Facts {
    fn get_tipset_cid(&self, epoch: i64) -> Result<Cid> {
        fvm::externs::Chain::get_tipset_cid(self, epoch)
    }
}

impl fvm3::externs::Consensus for Facts {
    fn verify_consensus_fault(
        &self,
        _: &[u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<(Option<fvm_shared3::consensus::ConsensusFault>, i64)> {
        self.refuse_fault()
    }
}

impl fvm3::externs::Externs for Facts {}

// --- the second major version: network versions 16 and 17 ----------------------------------------------------

type Machine2 = fvm2::machine::DefaultMachine<SharedObjects, Facts>;
type Executor2 = fvm2::executor::DefaultExecutor<fvm2::DefaultKernel<fvm2::call_manager::DefaultCallManager<Machine2>>>;

fn two(engines: &Engines, store: SharedObjects, facts: Facts, place: &Place, root: &[u8]) -> Result<Box<dyn Runner>> {
    use fvm_shared2::{econ::TokenAmount, version::NetworkVersion};
    let version = NetworkVersion::try_from(place.network_version)
        .map_err(|_| anyhow!("network version {} is unknown", place.network_version))?;
    let config = fvm2::machine::NetworkConfig::new(version);
    let mut context = config.for_epoch(place.epoch, Cid::try_from(root)?);
    context.set_base_fee(TokenAmount::from_atto(place.base_fee));
    context.set_circulating_supply(TokenAmount::from_atto(place.supply));
    context.tracing = place.tracing;
    let machine = Machine2::new(&engines.two.get(&config)?, &context, store, facts)?;
    Ok(Box::new(Executor2::new(machine)))
}

impl Runner for Executor2 {
    fn apply(&mut self, message: &[u8], implicit: bool, length: usize) -> Result<Done> {
        use fvm2::executor::{ApplyKind, Executor};
        let kind = if implicit { ApplyKind::Implicit } else { ApplyKind::Explicit };
        let message: fvm_shared2::message::Message = from_slice(message).context("not a message")?;
        let gas_limit = message.gas_limit.try_into()?;
        let done = self.execute_message(message, kind, length)?;
        let receipt = Receipt {
            exit_code: ExitCode::new(done.msg_receipt.exit_code.value()),
            return_data: RawBytes::new(done.msg_receipt.return_data.into()),
            gas_used: done.msg_receipt.gas_used.try_into()?,
            events_root: None,
        };
        let found = ApplyRet {
            msg_receipt: receipt,
            penalty: amount(done.penalty.atto()),
            miner_tip: amount(done.miner_tip.atto()),
            base_fee_burn: amount(done.base_fee_burn.atto()),
            over_estimation_burn: amount(done.over_estimation_burn.atto()),
            refund: amount(done.refund.atto()),
            gas_refund: done.gas_refund.try_into()?,
            gas_burned: done.gas_burned.try_into()?,
            failure_info: None,
            exec_trace: done.exec_trace.into_iter().filter_map(|event| event2(event, gas_limit)).collect(),
            events: vec![],
            return_codec: None,
        };
        Ok((found, done.failure_info.map(|failure| failure.to_string())))
    }

    fn flush(&mut self) -> Result<Cid> {
        fvm2::executor::Executor::flush(self)
    }
}

fn event2(event: fvm2::trace::ExecutionEvent, gas_limit: u64) -> Option<ExecutionEvent> {
    use fvm2::trace::ExecutionEvent as Old;
    Some(match event {
        Old::GasCharge(charge) => ExecutionEvent::GasCharge(GasCharge {
            name: charge.name,
            // what is given back shows as nothing, as Lotus' filecoin-ffi has it
            compute_gas: Gas::from_milligas(charge.compute_gas.as_milligas().try_into().unwrap_or_default()),
            other_gas: Gas::from_milligas(charge.storage_gas.as_milligas().try_into().unwrap_or_default()),
            elapsed: Default::default(),
        }),
        Old::Call { from, to, method, params, value } => ExecutionEvent::Call {
            from,
            to: address(to.to_bytes()),
            method,
            params: block(params),
            value: amount(value.atto()),
            gas_limit,
            read_only: false,
        },
        Old::CallReturn(value) => ExecutionEvent::CallReturn(ExitCode::OK, block(value)),
        Old::CallAbort(code) => ExecutionEvent::CallReturn(ExitCode::new(code.value()), None),
        Old::CallError(error) => ExecutionEvent::CallError(SyscallError(error.0, error_number(error.1 as u32))),
        _ => return None,
    })
}

fn block(data: RawBytes) -> Option<IpldBlock> {
    if data.is_empty() { None } else { Some(IpldBlock { codec: DAG_CBOR, data: data.into() }) }
}

impl fvm2::externs::Rand for Facts {
    fn get_chain_randomness(&self, epoch: i64) -> Result<[u8; 32]> {
        fvm::externs::Rand::get_chain_randomness(self, epoch)
    }

    fn get_beacon_randomness(&self, epoch: i64) -> Result<[u8; 32]> {
        fvm::externs::Rand::get_beacon_randomness(self, epoch)
    }
}

impl fvm2::externs::Consensus for Facts {
    fn verify_consensus_fault(
        &self,
        _: &[u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<(Option<fvm_shared2::consensus::ConsensusFault>, i64)> {
        self.refuse_fault()
    }
}

impl fvm2::externs::Externs for Facts {}

//! Calls beside the chain: one message on a state, of which nothing is kept. Each thread keeps machines for the next call.
//!
//! A call runs inside a transaction of the state tree, which is taken back afterwards. So the machine, and the nodes of
//! the state tree that it has decoded, serve the next call on the same state.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow};
use fvm::call_manager::DefaultCallManager;
use fvm::engine::MultiEngine;
use fvm::executor::{ApplyKind, ApplyRet, DefaultExecutor, Executor};
use fvm::machine::Machine as _;
use fvm_ipld_encoding::{RawBytes, from_slice, to_vec};
use fvm_shared::address::Address;
use fvm_shared::econ::TokenAmount;
use fvm_shared::error::ExitCode;
use fvm_shared::message::Message;
use pyo3::prelude::*;

use crate::bounds::{BoundedMachine, Bounds, Reserve, Watch, WatchedKernel};
use crate::machine::{self, Place};
use crate::store::{Cache, Missing, Objects};

pub type Kernel = WatchedKernel<DefaultCallManager<BoundedMachine>>;
pub type Runner = DefaultExecutor<Kernel>;

/// Machines that a thread keeps. Estimates use two states with two base fees each.
const KEPT: usize = 6;
/// A machine is dropped when it has read or written so much: it keeps nodes and what was written.
const MOST_READ: usize = 64 << 20;
const MOST_WRITTEN: usize = 256;
/// The gas limit that Lotus gives to implicit messages.
const IMPLICIT_GAS: u64 = (1 << 62) - 1;

/// Where calls run, for many of them: a state and what belongs to it.
#[pyclass(frozen)]
pub struct CallPlace(pub Arc<PlaceInner>);

pub struct PlaceInner {
    id: u64,
    place: Place,
    root: Vec<u8>,
    get: Py<PyAny>,
    externs: Py<PyAny>,
}

impl CallPlace {
    pub fn new(place: Place, root: Vec<u8>, get: Py<PyAny>, externs: Py<PyAny>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        CallPlace(Arc::new(PlaceInner { id: NEXT.fetch_add(1, Relaxed), place, root, get, externs }))
    }
}

/// What is asked: a message (CBOR; its nonce does not count), the bytes that its signature adds on chain, and whether any actor
/// may send it, even one that does not exist.
pub struct Call {
    pub message: Vec<u8>,
    pub signature_bytes: usize,
    pub skips_sender_check: bool,
    pub bounds: Bounds,
}

/// What became of it.
pub enum Outcome {
    /// nonce that was used, result, whether any call in it ran out of gas
    Done(u64, Box<ApplyRet>, bool),
    NoSender,
    NotHeld(Missing),
    Refused(String),
    Failed(String),
}

/// The machines of a thread, by place, the one used last at the end.
#[derive(Default)]
pub struct Machines(Vec<(u64, Warm)>);

struct Warm {
    runner: Runner,
    watch: Arc<Watch>,
    objects: Arc<Objects>,
    missing: Arc<Mutex<Option<Missing>>>,
}

impl Machines {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Run a call. The second value: whether it was heavy.
    pub fn run(
        &mut self,
        multi: &MultiEngine,
        cache: &Arc<Cache>,
        reserve: &Arc<Reserve>,
        place: &PlaceInner,
        call: &Call,
    ) -> (Outcome, bool) {
        let kept = self.0.iter().position(|(id, _)| *id == place.id).map(|at| self.0.remove(at).1);
        let missing = kept.as_ref().map_or_else(Arc::default, |warm| warm.missing.clone());
        let found = machine::guarded(|| {
            let mut warm = match kept {
                Some(warm) => warm,
                None => Warm::new(multi, cache, reserve, place, &missing)?,
            };
            // a message that panics ends here too
            let outcome = machine::guarded(|| warm.run(call));
            warm.watch.finish();
            Ok((warm, outcome?))
        });
        let held_back = missing.lock().expect("the lock of what is missing").clone();
        if let Some(missing) = held_back {
            return (Outcome::NotHeld(missing), true);
        }
        match found {
            Err(error) => (Outcome::Failed(format!("{error:#}")), true),
            Ok((warm, outcome)) => {
                if let Some(why) = warm.watch.refusal() {
                    return (Outcome::Refused(why), true);
                }
                let heavy = warm.watch.was_heavy();
                if !heavy && !warm.is_full() {
                    self.0.push((place.id, warm));
                    if self.0.len() > KEPT {
                        self.0.remove(0);
                    }
                }
                (outcome, heavy)
            }
        }
    }
}

impl Warm {
    fn new(
        multi: &MultiEngine,
        cache: &Arc<Cache>,
        reserve: &Arc<Reserve>,
        place: &PlaceInner,
        missing: &Arc<Mutex<Option<Missing>>>,
    ) -> Result<Self> {
        let (get, externs) = Python::attach(|py| (place.get.clone_ref(py), place.externs.clone_ref(py)));
        let (runner, objects, watch) =
            machine::runner(multi, cache.clone(), reserve.clone(), get, externs, &place.place, &place.root, missing)?;
        Ok(Warm { runner, watch, objects, missing: missing.clone() })
    }

    /// Whether it keeps more than a machine should.
    fn is_full(&self) -> bool {
        self.objects.read.load(Relaxed) > MOST_READ || self.runner.blockstore().buffer_len() > MOST_WRITTEN
    }

    fn run(&mut self, call: &Call) -> Result<Outcome> {
        self.watch.begin(call.bounds);
        let mut message: Message = from_slice(&call.message).context("not a message")?;
        let tree = self.runner.state_tree_mut();
        // outside of the transaction: these stay known
        let actor = match tree.lookup_id(&message.from).map_err(|error| anyhow!("{error}"))? {
            Some(id) => tree.get_actor(id).map_err(|error| anyhow!("{error}"))?,
            None => None,
        };
        if let Some(id) = tree.lookup_id(&message.to).map_err(|error| anyhow!("{error}"))? {
            tree.get_actor(id).map_err(|error| anyhow!("{error}"))?;
        }
        if actor.is_none() && !call.skips_sender_check {
            return Ok(Outcome::NoSender);
        }
        message.sequence = actor.as_ref().map_or(0, |actor| actor.sequence);
        let kind = if actor.is_some() && call.skips_sender_check { ApplyKind::Implicit } else { ApplyKind::Explicit };
        tree.begin_transaction();
        let result = self.apply(actor.is_none(), message, kind, call.signature_bytes);
        self.runner.state_tree_mut().end_transaction(true).map_err(|error| anyhow!("{error}"))?;
        result
    }

    fn apply(&mut self, creates: bool, message: Message, kind: ApplyKind, signature_bytes: usize) -> Result<Outcome> {
        if creates {
            self.runner.execute_message(placeholder(message.from), ApplyKind::Implicit, 0)?;
        }
        let nonce = message.sequence;
        let length = to_vec(&message)?.len() + signature_bytes;
        let done = self.runner.execute_message(message, kind, length)?;
        let ran_out = self.watch.has_run_out() || done.msg_receipt.exit_code == ExitCode::SYS_OUT_OF_GAS;
        Ok(Outcome::Done(nonce, Box::new(done), ran_out))
    }
}

/// The message that makes an actor of an address: nothing, sent by the system actor.
fn placeholder(to: Address) -> Message {
    Message {
        version: 0,
        from: Address::new_id(0),
        to,
        sequence: 0,
        value: TokenAmount::default(),
        method_num: 0,
        params: RawBytes::default(),
        gas_limit: IMPLICIT_GAS,
        gas_fee_cap: TokenAmount::default(),
        gas_premium: TokenAmount::default(),
    }
}

/// The frame that answers a call: four bytes of length, then `[number, error, value]` (`follower/executor/wire.py`).
pub fn frame(number: u64, outcome: Outcome) -> Vec<u8> {
    let mut out = vec![0; 4];
    head(&mut out, 4, 3);
    head(&mut out, 0, number);
    match outcome {
        Outcome::Done(nonce, done, ran_out) => {
            out.push(NULL);
            head(&mut out, 4, 6);
            head(&mut out, 0, done.msg_receipt.exit_code.value().into());
            let returned = done.msg_receipt.return_data.bytes();
            head(&mut out, 2, returned.len() as u64);
            out.extend_from_slice(returned);
            head(&mut out, 0, done.msg_receipt.gas_used);
            match done.failure_info {
                None => out.push(NULL),
                Some(failure) => text(&mut out, &failure.to_string()),
            }
            out.push(if ran_out { TRUE } else { FALSE });
            head(&mut out, 0, nonce);
        }
        Outcome::NoSender => out.extend([NULL, NULL]),
        Outcome::NotHeld(missing) => {
            text(&mut out, "not held");
            text(
                &mut out,
                &match missing {
                    Missing::Object(cid) => format!("not held: an object that execution needs: {cid}"),
                    Missing::Fact(what) => format!("not held: {what}"),
                },
            );
        }
        Outcome::Refused(why) => {
            text(&mut out, "refused");
            text(&mut out, &why);
        }
        Outcome::Failed(why) => {
            text(&mut out, "cannot");
            text(&mut out, &format!("the virtual machine cannot run this: {why}"));
        }
    }
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;

fn text(out: &mut Vec<u8>, value: &str) {
    head(out, 3, value.len() as u64);
    out.extend_from_slice(value.as_bytes());
}

/// The head of a CBOR item. Source: RFC 8949, section 3.
fn head(out: &mut Vec<u8>, major: u8, value: u64) {
    let major = major << 5;
    if value < 24 {
        out.push(major | value as u8);
    } else if let Ok(value) = u8::try_from(value) {
        out.extend([major | 24, value]);
    } else if let Ok(value) = u16::try_from(value) {
        out.push(major | 25);
        out.extend(value.to_be_bytes());
    } else if let Ok(value) = u32::try_from(value) {
        out.push(major | 26);
        out.extend(value.to_be_bytes());
    } else {
        out.push(major | 27);
        out.extend(value.to_be_bytes());
    }
}

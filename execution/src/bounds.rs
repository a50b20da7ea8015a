//! Bounds that hold while a message runs: gas, memory, held blocks, events, the length of a trace.
//!
//! The machine counts gas and nothing else, and it cannot be interrupted. But each charge of gas goes through the kernel, and
//! each page of memory through the limiter. Both are ours. What goes beyond a bound ends the message with a fatal error, and
//! stays noted: the receipt that the machine makes of it is thrown away.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use anyhow::anyhow;
use fvm::DefaultKernel;
use fvm::call_manager::CallManager;
use fvm::kernel::filecoin::{DefaultFilecoinKernel, FilecoinKernel};
use fvm::kernel::prelude::*;
use fvm::kernel::{ExecutionError, Result};
use fvm::machine::limiter::MemoryLimiter;
use fvm::machine::{DefaultMachine, Machine, MachineContext, Manifest};
use fvm::state_tree::StateTree;
use fvm::syscalls::{Context, Linker};
use fvm_shared::consensus::ConsensusFault;
use fvm_shared::piece::PieceInfo;
use fvm_shared::sector::{
    AggregateSealVerifyProofAndInfos, RegisteredSealProof, ReplicaUpdateInfo, SealVerifyInfo, WindowPoStVerifyInfo,
};

use crate::store::{Facts, SharedObjects};

/// What one message may use at most. Gas and bytes; a trace has at least one entry for each system call.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub gas: u64,
    pub memory: usize,
    pub blocks: usize,
    pub events: usize,
    pub trace: u64,
}

impl Bounds {
    /// For messages of the chain: gas has bounded them already.
    pub const NONE: Bounds =
        Bounds { gas: u64::MAX, memory: usize::MAX, blocks: usize::MAX, events: usize::MAX, trace: u64::MAX };
}

/// What the message that runs has used, and why it was ended. One thread at a time uses it.
pub struct Watch {
    bounds: Mutex<Bounds>,
    gas_left: AtomicU64,
    spent: AtomicU64,
    memory: AtomicUsize,
    memory_limit: AtomicUsize,
    peak: AtomicUsize,
    blocks: AtomicUsize,
    events: AtomicUsize,
    system_calls: AtomicU64,
    ran_out: AtomicBool,
    ended: AtomicBool,
    refused: Mutex<Option<String>>,
}

impl Watch {
    pub fn new() -> Self {
        Watch {
            bounds: Mutex::new(Bounds::NONE),
            gas_left: AtomicU64::new(u64::MAX),
            spent: AtomicU64::new(0),
            memory: AtomicUsize::new(0),
            memory_limit: AtomicUsize::new(usize::MAX),
            peak: AtomicUsize::new(0),
            blocks: AtomicUsize::new(0),
            events: AtomicUsize::new(0),
            system_calls: AtomicU64::new(0),
            ran_out: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            refused: Mutex::new(None),
        }
    }

    /// Forget the last message.
    pub fn begin(&self, bounds: Bounds) {
        *self.bounds.lock().expect("the lock of bounds") = bounds;
        self.gas_left.store(bounds.gas.saturating_mul(1000), Relaxed);
        self.memory_limit.store(bounds.memory, Relaxed);
        for counter in [&self.memory, &self.peak, &self.blocks, &self.events] {
            counter.store(0, Relaxed);
        }
        self.spent.store(0, Relaxed);
        self.system_calls.store(0, Relaxed);
        self.ran_out.store(false, Relaxed);
        self.ended.store(false, Relaxed);
        *self.refused.lock().expect("the lock of the refusal") = None;
    }

    /// Why the message was ended, where a bound ended it.
    pub fn refusal(&self) -> Option<String> {
        self.refused.lock().expect("the lock of the refusal").clone()
    }

    /// Whether any call below the message, or the message itself, ran out of gas.
    pub fn has_run_out(&self) -> bool {
        self.ran_out.load(Relaxed)
    }

    /// Whether the message used so much that its thread should give memory back.
    pub fn was_heavy(&self) -> bool {
        const HEAVY_MILLIGAS: u64 = 1_000_000_000_000;
        self.spent.load(Relaxed) > HEAVY_MILLIGAS || self.peak.load(Relaxed) > 32 << 20
    }

    fn end(&self, why: String) -> ExecutionError {
        self.ended.store(true, Relaxed);
        let mut refused = self.refused.lock().expect("the lock of the refusal");
        let why = refused.get_or_insert(why).clone();
        ExecutionError::Fatal(anyhow!(why))
    }

    fn bounds(&self) -> Bounds {
        *self.bounds.lock().expect("the lock of bounds")
    }

    fn hold(&self, bytes: usize) -> Result<()> {
        let bound = self.bounds().blocks;
        if self.blocks.fetch_add(bytes, Relaxed) + bytes > bound {
            return Err(self.end(format!("the execution holds more than {bound} bytes in blocks")));
        }
        Ok(())
    }
}

/// Linear memory of the calls that are open.
pub struct Limiter {
    used: usize,
    limit: usize,
    watch: Arc<Watch>,
}

impl MemoryLimiter for Limiter {
    fn memory_used(&self) -> usize {
        self.used
    }

    fn grow_memory(&mut self, delta: usize) -> bool {
        let wanted = self.used.saturating_add(delta);
        if wanted > self.limit {
            return false;
        }
        let bound = self.watch.memory_limit.load(Relaxed);
        if wanted > bound {
            self.watch.end(format!("the execution takes more than {bound} bytes of memory"));
            return false;
        }
        self.used = wanted;
        self.watch.peak.fetch_max(wanted, Relaxed);
        true
    }

    fn with_stack_frame<T, G, F, R>(t: &mut T, g: G, f: F) -> R
    where
        G: Fn(&mut T) -> &mut Self,
        F: FnOnce(&mut T) -> R,
    {
        let before = g(t).used;
        let result = f(t);
        g(t).used = before;
        result
    }
}

type Inner = DefaultMachine<SharedObjects, Facts>;

/// The reference machine with our limiter.
pub struct BoundedMachine {
    pub inner: Inner,
    pub watch: Arc<Watch>,
}

impl Machine for BoundedMachine {
    type Blockstore = <Inner as Machine>::Blockstore;
    type Externs = Facts;
    type Limiter = Limiter;

    fn blockstore(&self) -> &Self::Blockstore {
        self.inner.blockstore()
    }

    fn context(&self) -> &MachineContext {
        self.inner.context()
    }

    fn externs(&self) -> &Self::Externs {
        self.inner.externs()
    }

    fn builtin_actors(&self) -> &Manifest {
        self.inner.builtin_actors()
    }

    fn state_tree(&self) -> &StateTree<Self::Blockstore> {
        self.inner.state_tree()
    }

    fn state_tree_mut(&mut self) -> &mut StateTree<Self::Blockstore> {
        self.inner.state_tree_mut()
    }

    fn flush(&mut self) -> Result<Cid> {
        self.inner.flush()
    }

    fn into_store(self) -> Self::Blockstore {
        self.inner.into_store()
    }

    fn machine_id(&self) -> &str {
        self.inner.machine_id()
    }

    fn new_limiter(&self) -> Self::Limiter {
        let limit = self.context().max_memory_bytes;
        Limiter { used: 0, limit: limit as usize, watch: self.watch.clone() }
    }
}

/// The reference kernel, watched.
#[allow(clippy::duplicated_attributes)]
#[derive(Delegate)]
#[delegate(ActorOps, target = "inner", where = "C: CallManager<Machine = BoundedMachine>")]
#[delegate(CryptoOps, target = "inner", where = "C: CallManager<Machine = BoundedMachine>")]
#[delegate(DebugOps, target = "inner", where = "C: CallManager<Machine = BoundedMachine>")]
#[delegate(MessageOps, target = "inner", where = "C: CallManager<Machine = BoundedMachine>")]
#[delegate(NetworkOps, target = "inner", where = "C: CallManager<Machine = BoundedMachine>")]
#[delegate(RandomnessOps, target = "inner", where = "C: CallManager<Machine = BoundedMachine>")]
#[delegate(SelfOps, target = "inner", where = "C: CallManager<Machine = BoundedMachine>")]
pub struct WatchedKernel<C> {
    inner: DefaultFilecoinKernel<C>,
    watch: Arc<Watch>,
    /// milligas: what the message had spent when this call began, and what the gas tracker said then
    spent_before: u64,
    tracker_before: u64,
    /// bytes of blocks that this call holds
    held: usize,
}

impl<C: CallManager<Machine = BoundedMachine>> WatchedKernel<C> {
    fn manager(&self) -> &C {
        &self.inner.0.call_manager
    }

    /// Bring `spent` up to date. Calls have trackers of their own, which start at zero.
    fn count(&self) -> u64 {
        let now = self.manager().gas_tracker().gas_used().as_milligas();
        let spent = self.spent_before + now.saturating_sub(self.tracker_before);
        self.watch.spent.store(spent, Relaxed);
        spent
    }

    fn hold(&mut self, bytes: usize) -> Result<()> {
        self.held += bytes;
        self.watch.hold(bytes)
    }
}

impl<C: CallManager<Machine = BoundedMachine>> Kernel for WatchedKernel<C> {
    type CallManager = C;
    type Limiter = Limiter;

    fn into_inner(self) -> (C, BlockRegistry) {
        self.count();
        self.watch.blocks.fetch_sub(self.held, Relaxed);
        self.inner.into_inner()
    }

    fn new(
        manager: C,
        blocks: BlockRegistry,
        caller: ActorID,
        actor_id: ActorID,
        method: MethodNum,
        value_received: TokenAmount,
        read_only: bool,
    ) -> Self {
        let watch = manager.machine().watch.clone();
        let spent_before = watch.spent.load(Relaxed);
        let tracker_before = manager.gas_tracker().gas_used().as_milligas();
        let inner = DefaultFilecoinKernel::new(manager, blocks, caller, actor_id, method, value_received, read_only);
        WatchedKernel { inner, watch, spent_before, tracker_before, held: 0 }
    }

    fn machine(&self) -> &BoundedMachine {
        self.inner.machine()
    }

    fn limiter_mut(&mut self) -> &mut Limiter {
        self.inner.limiter_mut()
    }

    /// The gas that code may use before it comes back here: at most what the bound leaves. Code that asks how much gas is
    /// left gets the true answer (`gas_left`).
    fn gas_available(&self) -> Gas {
        let left = self.watch.gas_left.load(Relaxed).saturating_sub(self.count());
        // one unit more than the bound: using it is going beyond
        self.inner.gas_available().min(Gas::from_milligas(left.saturating_add(1)))
    }

    fn charge_gas(&self, name: &str, compute: Gas) -> Result<GasTimer> {
        let watch = &*self.watch;
        if watch.ended.load(Relaxed) {
            return Err(ExecutionError::Fatal(anyhow!("the execution was ended")));
        }
        let charged = self.inner.charge_gas(name, compute);
        if self.count() > watch.gas_left.load(Relaxed) {
            let bound = watch.bounds().gas;
            return Err(watch.end(format!("the execution uses more than {bound} gas, which is the most allowed here")));
        }
        if name == "OnSyscall" && self.machine().context().tracing {
            let bound = watch.bounds().trace;
            if watch.system_calls.fetch_add(1, Relaxed) >= bound {
                return Err(watch
                    .end("the trace is longer than what is built here (setting execution_trace_entries)".to_string()));
            }
        }
        charged
    }
}

impl<C: CallManager<Machine = BoundedMachine>> IpldBlockOps for WatchedKernel<C> {
    fn block_open(&mut self, cid: &Cid) -> Result<(BlockId, BlockStat)> {
        let (id, stat) = self.inner.block_open(cid)?;
        self.hold(stat.size as usize)?;
        Ok((id, stat))
    }

    fn block_create(&mut self, codec: u64, data: &[u8]) -> Result<BlockId> {
        let id = self.inner.block_create(codec, data)?;
        self.hold(data.len())?;
        Ok(id)
    }

    fn block_link(&mut self, id: BlockId, hash_fun: u64, hash_len: u32) -> Result<Cid> {
        let cid = self.inner.block_link(id, hash_fun, hash_len)?;
        // what is written stays with the machine; `block_stat` would be charged for
        let size = self.inner.0.blocks.get(id)?.size() as usize;
        self.watch.hold(size)?;
        Ok(cid)
    }

    fn block_read(&self, id: BlockId, offset: u32, buf: &mut [u8]) -> Result<i32> {
        self.inner.block_read(id, offset, buf)
    }

    fn block_stat(&self, id: BlockId) -> Result<BlockStat> {
        self.inner.block_stat(id)
    }
}

impl<C: CallManager<Machine = BoundedMachine>> EventOps for WatchedKernel<C> {
    fn emit_event(&mut self, headers: &[fvm_shared::sys::EventEntry], keys: &[u8], values: &[u8]) -> Result<()> {
        const EVENT: usize = 100;
        self.inner.emit_event(headers, keys, values)?;
        let bytes = EVENT + EVENT * headers.len() + keys.len() + values.len();
        let bound = self.watch.bounds().events;
        if self.watch.events.fetch_add(bytes, Relaxed) + bytes > bound {
            return Err(self.watch.end(format!("the execution emits more than {bound} bytes of events")));
        }
        Ok(())
    }
}

impl<C: CallManager<Machine = BoundedMachine>> SendOps for WatchedKernel<C> {
    fn send(
        &mut self,
        recipient: &Address,
        method: MethodNum,
        params: BlockId,
        value: &TokenAmount,
        gas_limit: Option<Gas>,
        flags: SendFlags,
    ) -> Result<CallResult> {
        self.count();
        let inner: &mut DefaultKernel<C> = &mut self.inner.0;
        let sent = SendOps::<Self>::send(inner, recipient, method, params, value, gas_limit, flags);
        match &sent {
            Ok(result) if result.exit_code == ExitCode::SYS_OUT_OF_GAS => self.watch.ran_out.store(true, Relaxed),
            Err(ExecutionError::OutOfGas) => self.watch.ran_out.store(true, Relaxed),
            _ => {}
        }
        let sent = sent?;
        self.hold(sent.block_stat.size as usize)?;
        Ok(sent)
    }
}

impl<C: CallManager<Machine = BoundedMachine>> UpgradeOps for WatchedKernel<C> {
    fn upgrade_actor(&mut self, code: Cid, params: BlockId) -> Result<CallResult> {
        let inner: &mut DefaultKernel<C> = &mut self.inner.0;
        UpgradeOps::<Self>::upgrade_actor(inner, code, params)
    }
}

impl<C: CallManager<Machine = BoundedMachine>> FilecoinKernel for WatchedKernel<C> {
    fn compute_unsealed_sector_cid(&self, proof: RegisteredSealProof, pieces: &[PieceInfo]) -> Result<Cid> {
        self.inner.compute_unsealed_sector_cid(proof, pieces)
    }

    fn verify_post(&self, info: &WindowPoStVerifyInfo) -> Result<bool> {
        self.inner.verify_post(info)
    }

    fn verify_consensus_fault(&self, h1: &[u8], h2: &[u8], extra: &[u8]) -> Result<Option<ConsensusFault>> {
        self.inner.verify_consensus_fault(h1, h2, extra)
    }

    fn batch_verify_seals(&self, infos: &[SealVerifyInfo]) -> Result<Vec<bool>> {
        self.inner.batch_verify_seals(infos)
    }

    fn verify_aggregate_seals(&self, aggregate: &AggregateSealVerifyProofAndInfos) -> Result<bool> {
        self.inner.verify_aggregate_seals(aggregate)
    }

    fn verify_replica_update(&self, replica: &ReplicaUpdateInfo) -> Result<bool> {
        self.inner.verify_replica_update(replica)
    }

    fn total_fil_circ_supply(&self) -> Result<TokenAmount> {
        self.inner.total_fil_circ_supply()
    }
}

impl<C: CallManager<Machine = BoundedMachine>> SyscallHandler<WatchedKernel<C>> for WatchedKernel<C> {
    fn link_syscalls(linker: &mut Linker<WatchedKernel<C>>) -> anyhow::Result<()> {
        <DefaultFilecoinKernel<C> as SyscallHandler<WatchedKernel<C>>>::link_syscalls(linker)?;
        linker.link_syscall("gas", "available", gas_left)?;
        Ok(())
    }
}

/// The system call that tells code how much gas is left, whatever the bound.
fn gas_left<C: CallManager<Machine = BoundedMachine>>(context: Context<'_, WatchedKernel<C>>) -> Result<u64> {
    Ok(context.kernel.inner.gas_available().round_down())
}

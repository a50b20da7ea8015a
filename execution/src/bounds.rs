//! Bounds that hold while a message runs: gas, memory, held blocks, events, the length of a trace.
//!
//! The machine counts gas and nothing else, and it cannot be interrupted. But each charge of gas goes through the kernel, and
//! each page of memory through the limiter. Both are ours. What goes beyond a bound ends the message with a fatal error, and
//! stays noted: the receipt that the machine makes of it is thrown away.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};

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

/// What one message may use at most: gas, bytes, entries of its trace.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub gas: u64,
    pub bytes: usize,
    pub trace: u64,
}

impl Bounds {
    /// For messages of the chain: gas has bounded them already.
    pub const NONE: Bounds = Bounds { gas: u64::MAX, bytes: usize::MAX, trace: u64::MAX };
}

/// The right to take much memory, or to nest calls deep: one message of the process has it at a time, the others wait.
///
/// `fvm` has instances for one message of the greatest depth and for 20 calls of each other. It locks them to the first that
/// goes beyond. Who has this right never waits for those who have not, so nobody waits for ever.
#[derive(Default)]
pub struct Reserve {
    taken: Mutex<bool>,
    free: Condvar,
}

impl Reserve {
    fn take(&self) {
        let mut taken = self.taken.lock().expect("the lock of the reserve");
        while *taken {
            taken = self.free.wait(taken).expect("the lock of the reserve");
        }
        *taken = true;
    }

    fn give_back(&self) {
        *self.taken.lock().expect("the lock of the reserve") = false;
        self.free.notify_one();
    }
}

/// What a message may take without the reserve.
const SMALL_BYTES: usize = 48 << 20;
const SMALL_DEPTH: usize = 20;
/// What an instance of an actor touches of its memory before it asks for more.
const INSTANCE_BYTES: usize = 128 << 10;
/// Memory of an entry of a trace; each charge that comes through the kernel has about one more of the kernel's own.
const TRACE_BYTES: usize = 2 * 220;

/// What the message that runs has used, and why it was ended. One thread at a time uses it.
pub struct Watch {
    bounds: Mutex<Bounds>,
    reserve: Arc<Reserve>,
    has_reserve: AtomicBool,
    gas: AtomicU64,
    bytes_allowed: AtomicUsize,
    trace_allowed: AtomicU64,
    /// milligas
    spent: AtomicU64,
    bytes: AtomicUsize,
    peak: AtomicUsize,
    depth: AtomicUsize,
    charges: AtomicU64,
    ran_out: AtomicBool,
    ended: AtomicBool,
    refused: Mutex<Option<String>>,
}

impl Watch {
    pub fn new(reserve: Arc<Reserve>) -> Self {
        Watch {
            bounds: Mutex::new(Bounds::NONE),
            reserve,
            has_reserve: AtomicBool::new(false),
            gas: AtomicU64::new(u64::MAX),
            bytes_allowed: AtomicUsize::new(usize::MAX),
            trace_allowed: AtomicU64::new(u64::MAX),
            spent: AtomicU64::new(0),
            bytes: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            depth: AtomicUsize::new(0),
            charges: AtomicU64::new(0),
            ran_out: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            refused: Mutex::new(None),
        }
    }

    /// Forget the last message, and watch the next one; its end is said by `finish`.
    pub fn begin(&self, bounds: Bounds) {
        *self.bounds.lock().expect("the lock of bounds") = bounds;
        self.gas.store(bounds.gas.saturating_mul(1000), Relaxed);
        self.bytes_allowed.store(bounds.bytes, Relaxed);
        self.trace_allowed.store(bounds.trace, Relaxed);
        self.spent.store(0, Relaxed);
        self.charges.store(0, Relaxed);
        for counter in [&self.bytes, &self.peak, &self.depth] {
            counter.store(0, Relaxed);
        }
        self.ran_out.store(false, Relaxed);
        self.ended.store(false, Relaxed);
        *self.refused.lock().expect("the lock of the refusal") = None;
    }

    /// The message has ended, in whatever way.
    pub fn finish(&self) {
        if self.has_reserve.swap(false, Relaxed) {
            self.reserve.give_back();
        }
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
        const HEAVY_BYTES: usize = 16 << 20;
        self.spent.load(Relaxed) > HEAVY_MILLIGAS || self.peak.load(Relaxed) > HEAVY_BYTES
    }

    fn end(&self, why: String) -> ExecutionError {
        self.ended.store(true, Relaxed);
        let mut refused = self.refused.lock().expect("the lock of the refusal");
        let why = refused.get_or_insert(why).clone();
        ExecutionError::Fatal(anyhow!(why))
    }

    /// Wait for the reserve. Never under a lock of `fvm`'s: who has the reserve may wait for that.
    fn take_reserve(&self) {
        if !self.has_reserve.load(Relaxed) {
            self.reserve.take();
            self.has_reserve.store(true, Relaxed);
        }
    }

    /// Count bytes, without any consequence.
    fn count(&self, bytes: usize) -> usize {
        let now = self.bytes.fetch_add(bytes, Relaxed) + bytes;
        self.peak.fetch_max(now, Relaxed);
        now
    }

    fn hold(&self, bytes: usize) -> Result<()> {
        let now = self.count(bytes);
        let bound = self.bytes_allowed.load(Relaxed);
        if now > bound {
            return Err(self.end(format!("the execution takes more than {bound} bytes of memory")));
        }
        if now > SMALL_BYTES {
            self.take_reserve();
        }
        Ok(())
    }

    fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Relaxed);
    }
}

/// Linear memory of the calls that are open.
pub struct Limiter {
    used: usize,
    /// what is held of it
    grown: usize,
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
        self.used = wanted;
        true
    }

    /// The memory that an instance begins with is counted where the call begins (`WatchedKernel::new`): this is called under
    /// locks of `fvm`'s then, and little of that memory is touched.
    fn grow_instance_memory(&mut self, from: usize, to: usize) -> bool {
        let delta = to.saturating_sub(from);
        if !self.grow_memory(delta) {
            return false;
        }
        if from == 0 {
            return true;
        }
        self.grown += delta;
        self.watch.hold(delta).is_ok()
    }

    fn with_stack_frame<T, G, F, R>(t: &mut T, g: G, f: F) -> R
    where
        G: Fn(&mut T) -> &mut Self,
        F: FnOnce(&mut T) -> R,
    {
        let (used, grown) = (g(t).used, g(t).grown);
        let result = f(t);
        let limiter = g(t);
        limiter.used = used;
        limiter.watch.release(limiter.grown - grown);
        limiter.grown = grown;
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
        Limiter { used: 0, grown: 0, limit: limit as usize, watch: self.watch.clone() }
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
    /// bytes that end with this call: its blocks, and what its instance touches at once
    held: usize,
}

impl<C: CallManager<Machine = BoundedMachine>> WatchedKernel<C> {
    fn manager(&self) -> &C {
        &self.inner.0.call_manager
    }

    /// Bring `spent` up to date. Calls have trackers of their own, which start at zero.
    fn spent(&self) -> u64 {
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
        self.spent();
        self.watch.release(self.held);
        self.watch.depth.fetch_sub(1, Relaxed);
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
        watch.count(INSTANCE_BYTES);
        if watch.depth.fetch_add(1, Relaxed) >= SMALL_DEPTH {
            watch.take_reserve();
        }
        WatchedKernel { inner, watch, spent_before, tracker_before, held: INSTANCE_BYTES }
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
        let left = self.watch.gas.load(Relaxed).saturating_sub(self.spent());
        // one unit more than the bound: using it is going beyond
        self.inner.gas_available().min(Gas::from_milligas(left.saturating_add(1)))
    }

    fn charge_gas(&self, name: &str, compute: Gas) -> Result<GasTimer> {
        let watch = &*self.watch;
        if watch.ended.load(Relaxed) {
            return Err(ExecutionError::Fatal(anyhow!("the execution was ended")));
        }
        let charged = self.inner.charge_gas(name, compute);
        if self.spent() > watch.gas.load(Relaxed) {
            let bound = watch.bounds.lock().expect("the lock of bounds").gas;
            return Err(watch.end(format!("the execution uses more than {bound} gas, which is the most allowed here")));
        }
        if self.machine().context().tracing {
            // each charge is an entry
            watch.count(TRACE_BYTES);
            if watch.charges.fetch_add(1, Relaxed) >= watch.trace_allowed.load(Relaxed) {
                return Err(watch.end(crate::trace::TOO_LONG.to_string()));
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
        // what is written stays with the machine; `block_stat` would be a charge in the trace
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
        // events stay to the end, or until a call is taken back
        self.watch.hold(EVENT + EVENT * headers.len() + keys.len() + values.len())
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
        self.spent();
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

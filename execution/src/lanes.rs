//! Threads with the stack that the machine needs. Each runs one piece of work at a time.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use crate::calls::Machines;

/// what `fvm` asks for: calls nest up to 1,025 deep
const STACK_BYTES: usize = 64 << 20;
/// of the stack above the current frame of an idle thread, what is left alone
#[cfg(target_os = "linux")]
const STACK_KEPT: usize = 128 << 10;

/// A piece of work; true where it used so much memory that the thread should give some back.
pub type Work = Box<dyn FnOnce(&mut Machines) -> bool + Send>;

struct Shared {
    queue: Mutex<VecDeque<Work>>,
    filled: Condvar,
    running: Vec<Mutex<Option<Running>>>,
}

struct Running {
    began: Instant,
    #[cfg(target_os = "linux")]
    clock: libc::clockid_t,
    #[cfg(target_os = "linux")]
    used: f64,
}

/// The threads, and what waits for one. They end with the process.
#[derive(Clone)]
pub struct Lanes(Arc<Shared>);

impl Lanes {
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let running = (0..threads).map(|_| Mutex::new(None)).collect();
        let shared = Arc::new(Shared { queue: Mutex::default(), filled: Condvar::new(), running });
        for number in 0..threads {
            let shared = shared.clone();
            let builder = thread::Builder::new().name(format!("machine-{number}")).stack_size(STACK_BYTES);
            builder.spawn(move || work_on(&shared, number))?;
        }
        Ok(Lanes(shared))
    }

    pub fn submit(&self, work: Work) {
        self.0.queue.lock().expect("the lock of the queue").push_back(work);
        self.0.filled.notify_one();
    }

    /// Pieces of work that wait for a thread.
    pub fn waiting(&self) -> usize {
        self.0.queue.lock().expect("the lock of the queue").len()
    }

    /// The result of `work`, once a thread has done it.
    pub fn wait<T: Send + 'static>(&self, work: impl FnOnce() -> (T, bool) + Send + 'static) -> T {
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        self.submit(Box::new(move |_| {
            let (found, heavy) = work();
            let _ = send.send(found);
            heavy
        }));
        receive.recv().expect("a thread of the machine has ended")
    }

    /// Of each piece of work under way: seconds since it began, and CPU seconds that it has used (the same where no clock tells).
    pub fn running(&self) -> Vec<(f64, f64)> {
        let tell = |running: &Running| {
            let took = running.began.elapsed().as_secs_f64();
            #[cfg(target_os = "linux")]
            let used = cpu_seconds(running.clock) - running.used;
            #[cfg(not(target_os = "linux"))]
            let used = took;
            (took, used)
        };
        let lock = |one: &Mutex<Option<Running>>| one.lock().expect("the lock of what runs").as_ref().map(tell);
        self.0.running.iter().filter_map(lock).collect()
    }
}

fn work_on(shared: &Shared, number: usize) {
    let mut machines = Machines::default();
    let running = &shared.running[number];
    loop {
        let mut queue = shared.queue.lock().expect("the lock of the queue");
        let work = loop {
            match queue.pop_front() {
                Some(work) => break work,
                None => queue = shared.filled.wait(queue).expect("the lock of the queue"),
            }
        };
        drop(queue);
        *running.lock().expect("the lock of what runs") = Some(begun());
        let heavy = work(&mut machines);
        *running.lock().expect("the lock of what runs") = None;
        if heavy {
            machines.clear();
            give_back();
        }
    }
}

#[cfg(target_os = "linux")]
fn begun() -> Running {
    let mut clock = 0;
    // SAFETY: the thread is this one, so it lives
    unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) };
    Running { began: Instant::now(), clock, used: cpu_seconds(clock) }
}

#[cfg(not(target_os = "linux"))]
fn begun() -> Running {
    Running { began: Instant::now() }
}

#[cfg(target_os = "linux")]
fn cpu_seconds(clock: libc::clockid_t) -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours; threads of lanes never end, so the clock exists
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Give memory that is free back to the system: the stack that deep calls have touched, and the heap's.
#[cfg(target_os = "linux")]
fn give_back() {
    let here = &mut 0u8 as *mut u8 as usize;
    // SAFETY: the range is this thread's own stack, below what is in use, and page by page
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        if libc::pthread_getattr_np(libc::pthread_self(), &mut attributes) == 0 {
            let (mut low, mut size) = (std::ptr::null_mut(), 0);
            if libc::pthread_attr_getstack(&attributes, &mut low, &mut size) == 0 {
                let end = (here - STACK_KEPT) & !0xffff;
                if end > low as usize {
                    libc::madvise(low, end - low as usize, libc::MADV_DONTNEED);
                }
            }
            libc::pthread_attr_destroy(&mut attributes);
        }
        #[cfg(target_env = "gnu")]
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_os = "linux"))]
fn give_back() {}

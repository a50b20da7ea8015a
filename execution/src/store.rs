//! What the machine reads: objects through a cache and a call-back, facts of the chain by call-backs.
//!
//! The machine turns a missing object into a receipt with an exit code. That would be a wrong answer, so whatever
//! was not held is remembered here, and the caller looks after each message.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use anyhow::{Result, anyhow};
use cid::Cid;
use fvm::externs::{Chain, Consensus, Externs, Rand};
use fvm_ipld_blockstore::Blockstore;
use fvm_shared::address::Address;
use fvm_shared::consensus::{ConsensusFault, ConsensusFaultType};
use lru::LruCache;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Objects, and their bytes together.
type Held = (LruCache<Vec<u8>, Arc<[u8]>>, usize);

/// Immutable bytes by multihash, the least recently used dropped first.
pub struct Cache {
    limit: usize,
    held: Mutex<Held>,
}

impl Cache {
    pub fn new(limit: usize) -> Self {
        Cache { limit, held: Mutex::new((LruCache::unbounded(), 0)) }
    }

    pub fn size(&self) -> (usize, usize) {
        let held = self.held.lock().expect("the cache's lock");
        (held.0.len(), held.1)
    }

    fn get(&self, key: &[u8]) -> Option<Arc<[u8]>> {
        self.held.lock().expect("the cache's lock").0.get(key).cloned()
    }

    pub fn put(&self, key: Vec<u8>, data: &[u8]) {
        if data.len() > self.limit / 16 {
            return;
        }
        let mut held = self.held.lock().expect("the cache's lock");
        let size = key.len() + data.len();
        if held.0.put(key, Arc::from(data)).is_none() {
            held.1 += size;
        }
        while held.1 > self.limit {
            match held.0.pop_lru() {
                Some((key, data)) => held.1 -= key.len() + data.len(),
                None => break,
            }
        }
    }
}

/// What was asked for and is not held: the first of it.
#[derive(Clone)]
pub enum Missing {
    Object(Cid),
    Fact(String),
}

/// Objects of one machine: those it has written, then the cache, then the call-back.
pub struct Objects {
    pub get: Py<PyAny>,
    pub cache: Arc<Cache>,
    pub written: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    pub missing: Arc<Mutex<Option<Missing>>>,
    /// bytes that the machine has read
    pub read: AtomicUsize,
}

impl Objects {
    pub fn new(get: Py<PyAny>, cache: Arc<Cache>, missing: Arc<Mutex<Option<Missing>>>) -> Self {
        Objects { get, cache, written: Mutex::default(), missing, read: AtomicUsize::new(0) }
    }

    fn call_back(&self, cid: &Cid) -> Result<Option<Vec<u8>>> {
        Python::attach(|py| -> PyResult<Option<Vec<u8>>> {
            self.get.call1(py, (PyBytes::new(py, &cid.to_bytes()),))?.extract(py)
        })
        .map_err(|error| anyhow!("an object cannot be read: {error}"))
    }

    fn note(&self, missing: Missing) {
        self.missing.lock().expect("the lock of what is missing").get_or_insert(missing);
    }
}

/// The machine owns its store; this end of it stays readable from outside.
#[derive(Clone)]
pub struct SharedObjects(pub Arc<Objects>);

impl Blockstore for SharedObjects {
    fn get(&self, cid: &Cid) -> Result<Option<Vec<u8>>> {
        let key = cid.hash().to_bytes();
        if let Some(data) = self.0.written.lock().expect("the lock of written objects").get(&key) {
            return Ok(Some(data.clone()));
        }
        if let Some(data) = self.0.cache.get(&key) {
            self.0.read.fetch_add(data.len(), Relaxed);
            return Ok(Some(data.to_vec()));
        }
        match self.0.call_back(cid) {
            Ok(Some(data)) => {
                self.0.read.fetch_add(data.len(), Relaxed);
                self.0.cache.put(key, &data);
                Ok(Some(data))
            }
            Ok(None) => {
                self.0.note(Missing::Object(*cid));
                Ok(None)
            }
            Err(error) => {
                self.0.note(Missing::Fact(error.to_string()));
                Err(error)
            }
        }
    }

    fn put_keyed(&self, cid: &Cid, data: &[u8]) -> Result<()> {
        self.0.written.lock().expect("the lock of written objects").insert(cid.hash().to_bytes(), data.to_vec());
        Ok(())
    }
}

/// Facts of the chain, by call-backs.
pub struct Facts {
    pub externs: Py<PyAny>,
    pub missing: Arc<Mutex<Option<Missing>>>,
}

impl Facts {
    fn ask<T>(&self, name: &str, ask: impl FnOnce(Python<'_>) -> PyResult<T>) -> Result<T> {
        Python::attach(ask).map_err(|error| {
            let text = format!("{name}: {error}");
            self.missing.lock().expect("the lock of what is missing").get_or_insert(Missing::Fact(text.clone()));
            anyhow!(text)
        })
    }

    fn randomness(&self, name: &str, epoch: i64) -> Result<[u8; 32]> {
        let found: Vec<u8> = self.ask(name, |py| self.externs.call_method1(py, name, (epoch,))?.extract(py))?;
        found.try_into().map_err(|_| anyhow!("{name} is not 32 bytes"))
    }
}

impl Rand for Facts {
    fn get_chain_randomness(&self, epoch: i64) -> Result<[u8; 32]> {
        self.randomness("chain_randomness", epoch)
    }

    fn get_beacon_randomness(&self, epoch: i64) -> Result<[u8; 32]> {
        self.randomness("beacon_randomness", epoch)
    }
}

impl Chain for Facts {
    fn get_tipset_cid(&self, epoch: i64) -> Result<Cid> {
        let found: Vec<u8> =
            self.ask("tipset_cid", |py| self.externs.call_method1(py, "tipset_cid", (epoch,))?.extract(py))?;
        Ok(Cid::try_from(found)?)
    }
}

impl Consensus for Facts {
    fn verify_consensus_fault(&self, h1: &[u8], h2: &[u8], extra: &[u8]) -> Result<(Option<ConsensusFault>, i64)> {
        let found: Option<(Vec<u8>, i64, u8)> = self.ask("consensus_fault", |py| {
            let blocks = (PyBytes::new(py, h1), PyBytes::new(py, h2), PyBytes::new(py, extra));
            self.externs.call_method1(py, "consensus_fault", blocks)?.extract(py)
        })?;
        let fault = match found {
            None => None,
            Some((target, epoch, kind)) => Some(ConsensusFault {
                target: Address::from_bytes(&target)?,
                epoch,
                fault_type: match kind {
                    1 => ConsensusFaultType::DoubleForkMining,
                    2 => ConsensusFaultType::ParentGrinding,
                    3 => ConsensusFaultType::TimeOffsetMining,
                    other => return Err(anyhow!("unknown consensus fault {other}")),
                },
            }),
        };
        Ok((fault, 0))
    }
}

impl Externs for Facts {}

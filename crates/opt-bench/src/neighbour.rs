//! Busy neighbours: threads that compute for nothing on every core but one, so that what is measured has to share.

#![expect(unsafe_code, reason = "the system's calls for the cores of a thread")]

use std::hint::black_box;
use std::io::{Error, Result};
use std::mem::size_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Threads of normal priority that do not rest until this is dropped.
#[derive(Debug)]
pub(crate) struct Neighbours {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Neighbours {
    /// Starts one on each core that this thread may use but the first.
    ///
    /// # Errors
    ///
    /// A system other than Linux, one that does not tell the cores or refuses to bind a thread to one, or a single core.
    pub(crate) fn start() -> Result<Self> {
        let cores = cores()?;
        if cores.len() < 2 {
            return Err(Error::other("there is one core alone, and nothing beside"));
        }
        let mut neighbours = Self {
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
        };
        for core in &cores[1..] {
            let (stop, core) = (Arc::clone(&neighbours.stop), *core);
            let (bound, outcome) = std::sync::mpsc::channel();
            let work = move || {
                // The receiver waits for it.
                let _ = bound.send(bind(core));
                let mut n = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    n = black_box(n + 1);
                }
            };
            let thread = std::thread::Builder::new().name(format!("neighbour {core}"));
            neighbours.threads.push(thread.spawn(work)?);
            outcome.recv().map_err(Error::other)??;
        }
        Ok(neighbours)
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It cannot panic.
            let _ = thread.join();
        }
    }
}

/// The cores that this thread may use.
#[cfg(target_os = "linux")]
fn cores() -> Result<Vec<usize>> {
    // SAFETY: a set of cores is plain numbers, of which none is wrong.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the size is that of the set, which lives.
    let failed = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if failed != 0 {
        return Err(Error::last_os_error());
    }
    let all = 0..8 * size_of::<libc::cpu_set_t>();
    // SAFETY: the core is one of those that the set has room for.
    Ok(all
        .filter(|core| unsafe { libc::CPU_ISSET(*core, &set) })
        .collect())
}

/// Binds this thread to a core.
#[cfg(target_os = "linux")]
fn bind(core: usize) -> Result<()> {
    // SAFETY: a set of cores is plain numbers, of which none is wrong.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cores` found the core in such a set.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the size is that of the set, which lives.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
fn cores() -> Result<Vec<usize>> {
    Err(Error::other("threads are bound to cores on Linux alone"))
}

#[cfg(not(target_os = "linux"))]
fn bind(_core: usize) -> Result<()> {
    Err(Error::other("threads are bound to cores on Linux alone"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn every_core_but_one_has_a_neighbour_until_the_end() {
        let cores = cores().unwrap();
        if cores.len() < 2 {
            Neighbours::start().unwrap_err();
            return;
        }
        let neighbours = Neighbours::start().unwrap();
        assert_eq!(neighbours.threads.len(), cores.len() - 1);
        assert!(neighbours.threads.iter().all(|t| !t.is_finished()));
        let stop = Arc::clone(&neighbours.stop);
        drop(neighbours);
        // All threads have ended, and their share of it with them.
        assert_eq!(Arc::strong_count(&stop), 1);
        // This thread still has all its cores.
        assert_eq!(super::cores().unwrap(), cores);
    }

    #[test]
    fn a_core_that_is_not_there_is_refused() {
        let last = 8 * size_of::<libc::cpu_set_t>() - 1;
        if !cores().unwrap().contains(&last) {
            bind(last).unwrap_err();
        }
    }
}

//! Several threads on one run: each its images, or each its rows of every step.

#![expect(unsafe_code, reason = "threads that share a run's slices and arena")]

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::arena::Arena;
use crate::exec::{Part, run_step};
use crate::kernels::portable::ImageOrder;
use crate::plan::Plan;
use crate::{InferError, Result};

/// How often a thread looks before it sleeps (a worker, for the next run) or lets others run (within a run): about 20 µs.
const LOOKS: usize = 2_000;

/// The threads of a session: the caller's and helpers that sleep between runs.
#[derive(Debug)]
pub(crate) struct Crew {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    plan: Plan,
    /// One for each thread.
    arenas: Vec<Arena>,
    order: ImageOrder,
    job: UnsafeCell<Job>,
    /// Runs begun; a helper works when it moves.
    begun: AtomicUsize,
    /// Helpers that have ended their part of the run.
    ended: AtomicUsize,
    /// Steps ended by threads, counted together.
    arrived: AtomicUsize,
    /// The next image that nobody has taken.
    next: AtomicUsize,
    quit: AtomicBool,
}

/// One run.
#[derive(Debug, Clone, Copy)]
struct Job {
    images: *const u8,
    logits: *mut f32,
    count: usize,
    /// Whether threads share every step; else each takes whole images.
    by_rows: bool,
}

// SAFETY: `job` is written only while no helper is between `begun` and `ended`, and what its pointers lead to lives until all
// have ended: `Crew::run` returns no earlier.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Crew {
    pub(crate) fn new(plan: Plan, threads: usize, order: ImageOrder) -> Result<Self> {
        let shared = Arc::new(Shared {
            arenas: (0..threads)
                .map(|_| Arena::new(&plan))
                .collect::<Result<_>>()?,
            plan,
            order,
            job: UnsafeCell::new(Job {
                images: std::ptr::null(),
                logits: std::ptr::null_mut(),
                count: 0,
                by_rows: false,
            }),
            begun: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            arrived: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            quit: AtomicBool::new(false),
        });
        let mut crew = Self {
            shared,
            helpers: Vec::new(),
        };
        for index in 1..threads {
            let shared = Arc::clone(&crew.shared);
            let helper = std::thread::Builder::new()
                .name(format!("opt-infer {index}"))
                .spawn(move || help(&shared, index))
                .map_err(InferError::Spawn)?;
            crew.helpers.push(helper);
        }
        Ok(crew)
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    pub(crate) fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Runs `logits.len() / classes` images.
    pub(crate) fn run(&mut self, images: &[u8], logits: &mut [f32]) {
        let shared = &*self.shared;
        let threads = self.helpers.len() + 1;
        let count = logits.len() / shared.plan.classes;
        let job = Job {
            images: images.as_ptr(),
            logits: logits.as_mut_ptr(),
            count,
            by_rows: threads > 1 && count < threads,
        };
        shared.arrived.store(0, Ordering::Relaxed);
        shared.next.store(0, Ordering::Relaxed);
        shared.ended.store(0, Ordering::Relaxed);
        // SAFETY: `&mut self`, and no helper reads it before `begun` moves.
        unsafe { *shared.job.get() = job };
        shared.begun.fetch_add(1, Ordering::Release);
        for helper in &self.helpers {
            helper.thread().unpark();
        }
        shared.work(0, threads);
        let mut looks = 0;
        while shared.ended.load(Ordering::Acquire) != self.helpers.len() {
            look_again(&mut looks);
        }
    }

    /// Runs one step on one image, on this thread.
    pub(crate) fn run_step(&mut self, step: usize, image: &[u8], logits: &mut [f32]) {
        let shared = &*self.shared;
        // SAFETY: `&mut self`: no helper works, so that this thread has the arena for itself.
        unsafe {
            run_step(
                &shared.plan,
                &shared.plan.steps[step],
                &shared.arenas[0],
                (image, shared.order),
                logits,
                Part::WHOLE,
            );
        }
    }

    /// The codes of a node's value after a run of one image.
    pub(crate) fn codes(&mut self, node: usize) -> Option<Vec<u8>> {
        let place = &self.shared.plan.places[self.shared.plan.place_of[node]?];
        // SAFETY: `&mut self`: no helper works.
        let bytes = unsafe { self.shared.arenas[0].read(place) };
        Some(place.layout.codes(bytes))
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::Relaxed);
        self.shared.begun.fetch_add(1, Ordering::Release);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // A helper that panicked has ended the process.
            let _ = helper.join();
        }
    }
}

/// Ends the process if a panic passes: other threads may be using the caller's slices, so that it must not unwind past them.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn help(shared: &Shared, index: usize) {
    let _guard = AbortOnPanic;
    let mut seen = 0;
    loop {
        let mut looks = 0;
        while shared.begun.load(Ordering::Acquire) == seen {
            if looks < LOOKS {
                looks += 1;
                spin_loop();
            } else {
                std::thread::park();
            }
        }
        seen += 1;
        if shared.quit.load(Ordering::Relaxed) {
            return;
        }
        shared.work(index, shared.arenas.len());
        shared.ended.fetch_add(1, Ordering::Release);
    }
}

/// Waits a moment; after many of them it lets others run, since the thread waited for may have no core.
fn look_again(looks: &mut usize) {
    *looks += 1;
    if *looks < LOOKS {
        spin_loop();
    } else {
        std::thread::yield_now();
    }
}

impl Shared {
    /// A thread's part of the run.
    fn work(&self, index: usize, threads: usize) {
        let guard = (threads > 1).then(|| AbortOnPanic);
        self.work_unguarded(index, threads);
        // Ended in order: were it dropped, a run that a destructor begins while its thread unwinds would end the process.
        std::mem::forget(guard);
    }

    fn work_unguarded(&self, index: usize, threads: usize) {
        // SAFETY: written before `begun` moved, and not again before all have ended.
        let job = unsafe { *self.job.get() };
        let image_bytes: usize = self.plan.image.iter().product();
        let classes = self.plan.classes;
        // SAFETY: `Crew::run` made them of slices of `count` images and logits, and each image's logits are one thread's.
        let image = |n: usize| unsafe {
            std::slice::from_raw_parts(job.images.add(n * image_bytes), image_bytes)
        };
        // SAFETY: as above.
        let logits = |n: usize| unsafe {
            std::slice::from_raw_parts_mut(job.logits.add(n * classes), classes)
        };
        if !job.by_rows {
            loop {
                let n = self.next.fetch_add(1, Ordering::Relaxed);
                if n >= job.count {
                    return;
                }
                for step in &self.plan.steps {
                    let image = (image(n), self.order);
                    // SAFETY: the arena is this thread's alone.
                    unsafe {
                        let arena = &self.arenas[index];
                        run_step(&self.plan, step, arena, image, logits(n), Part::WHOLE);
                    }
                }
            }
        }
        let part = Part { index, of: threads };
        let mut ended = 0;
        for n in 0..job.count {
            for step in &self.plan.steps {
                // The logits have one row, which is the last part's.
                let logits = if step.target.is_none() && index + 1 == threads {
                    logits(n)
                } else {
                    &mut []
                };
                let image = (image(n), self.order);
                // SAFETY: threads have different rows, and none begins a step before all have ended the last.
                unsafe { run_step(&self.plan, step, &self.arenas[0], image, logits, part) };
                ended += threads;
                self.arrived.fetch_add(1, Ordering::AcqRel);
                let mut looks = 0;
                while self.arrived.load(Ordering::Acquire) < ended {
                    look_again(&mut looks);
                }
            }
        }
    }
}

//! Several threads on one run: each its images, or each its rows of every step.
//!
//! The caller never depends on a worker. It gives work only to workers that are awake, waits a bounded time for what it gave
//! away, and then does it itself: rows begin again in an arena that no worker has, an image that a worker holds is computed
//! once more. So a worker without a core costs a run at most [`Pace::timeout`] and the run itself. [`Pace`] sees to it that
//! this stays rare.
//!
//! Helpers touch the caller's slices only while [`Desk::hold`] says that they read an image or write logits, which takes a
//! moment; the caller waits for these moments, also when it unwinds.

#![expect(unsafe_code, reason = "threads that share a run's slices and arena")]

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use opt_core::interpret_quantized::Value;

use crate::arena::Arena;
use crate::exec::{Part, run_step};
use crate::kernels::float::numbers;
use crate::kernels::portable::{ImageOrder, Operand};
use crate::options::{Options, Sharing};
use crate::plan::{Plan, Step, Work};
use crate::{InferError, Result};

mod pace;
#[cfg(test)]
mod tests;

use pace::Pace;

/// Looks between two readings of the clock.
const LOOKS: usize = 64;

/// The least time that a worker stays awake without an order.
const STAY: Duration = Duration::from_micros(50);

/// The most time that a worker stays awake without an order.
const STAY_MOST: Duration = Duration::from_millis(2);

/// Looks for workers that are about to be idle, at the end of a run.
const LAST_LOOKS: usize = 64;

/// The arena of the caller, in which it works alone.
const OWN: usize = 0;

/// The arena of rows that are shared; it is also the first worker's for images of its own.
const ROWS: usize = 1;

/// The threads of a session: the caller's, and workers that sleep between runs.
#[derive(Debug)]
pub(crate) struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    pace: Pace,
    /// Whether every run is shared, with all workers.
    always: bool,
    /// How long the caller waits in a run, if that is not measured.
    timeout: Option<Duration>,
    /// The arena of the last image that was run alone in its run.
    last: usize,
}

/// What the caller knows of a worker.
#[derive(Debug)]
struct Worker {
    thread: JoinHandle<()>,
    /// Orders given.
    given: u64,
    /// Whether the last order was rows.
    has_rows: bool,
    /// Whether it was woken in this run.
    woken: bool,
    /// Whether it takes part in this step.
    is_member: bool,
}

#[derive(Debug)]
struct Shared {
    plan: Plan,
    /// One for each thread.
    arenas: Vec<Arena>,
    order: ImageOrder,
    /// Whether the rows of each step are shared.
    split: Vec<bool>,
    progress: Progress,
    /// The next image that nobody has taken.
    next: AtomicUsize,
    /// Nanoseconds that a worker stays awake without an order.
    stay: AtomicU64,
    quit: AtomicBool,
    /// One for each worker.
    desks: Vec<Desk>,
    #[cfg(test)]
    trouble: tests::Trouble,
}

/// How far workers may go with the steps of a shared image: `2·steps`, plus 1 if they are done after these; or [`STOP`].
#[derive(Debug, Default)]
#[repr(align(128))]
struct Progress(AtomicUsize);

/// Nobody waits for what workers do.
const STOP: usize = usize::MAX;

/// Stops workers that share rows, however that ends.
struct Stops<'a>(&'a Progress);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.0.store(STOP, Ordering::Release);
    }
}

/// Where a worker finds its orders and answers them.
#[derive(Debug)]
struct Desk {
    orders: Orders,
    answers: Answers,
}

/// Written by the caller.
#[derive(Debug)]
#[repr(align(128))]
struct Orders {
    /// Orders given.
    given: AtomicU64,
    task: UnsafeCell<Task>,
}

/// Written by the worker, except for `hold`.
#[derive(Debug)]
#[repr(align(128))]
struct Answers {
    /// Orders carried out.
    done: AtomicU64,
    /// Steps carried out of those whose rows are shared.
    steps: AtomicUsize,
    /// Whether it sleeps, or is about to.
    asleep: AtomicBool,
    /// Whether it has ended by a panic.
    gone: AtomicBool,
    /// What it does with images: one of the numbers below, or `COMPUTING` plus the image.
    hold: AtomicUsize,
}

/// It may take an image.
const FREE: usize = 0;
/// It takes an image and reads it.
const READING: usize = 1;
/// It writes an image's logits.
const WRITING: usize = 2;
/// It may take none: the caller has seen to the rest.
const CLOSED: usize = 3;
/// It computes an image in its own arena; the caller may take the image from it.
const COMPUTING: usize = 4;

/// What a worker is to do.
#[derive(Debug, Clone, Copy)]
enum Task {
    /// A part of each step that is shared, in the arena [`ROWS`], as far as [`Progress`] says.
    Rows { from: usize, part: Part },
    /// Images that nobody has taken, until there are none.
    Images {
        images: *const u8,
        logits: *mut f32,
        count: usize,
    },
}

// SAFETY: `task` is written only while its worker has no order. What its pointers lead to is used as `hold` says, and
// `ThreadPool::run_images` ends no earlier than every `hold` is `CLOSED`.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl ThreadPool {
    pub(crate) fn new(plan: Plan, options: &Options) -> Result<Self> {
        let threads = options.threads;
        let always = match options.sharing {
            Sharing::Measured => false,
            Sharing::Always => true,
        };
        let desk = || Desk {
            orders: Orders {
                given: AtomicU64::new(0),
                task: UnsafeCell::new(Task::Rows {
                    from: 0,
                    part: Part::WHOLE,
                }),
            },
            answers: Answers {
                done: AtomicU64::new(0),
                steps: AtomicUsize::new(0),
                asleep: AtomicBool::new(false),
                gone: AtomicBool::new(false),
                hold: AtomicUsize::new(CLOSED),
            },
        };
        let shared = Arc::new(Shared {
            arenas: (0..threads)
                .map(|_| Arena::new(&plan))
                .collect::<Result<_>>()?,
            split: plan.steps.iter().map(|s| is_split(&plan, s)).collect(),
            plan,
            order: options.order,
            progress: Progress::default(),
            next: AtomicUsize::new(0),
            stay: AtomicU64::new(nanos(STAY)),
            quit: AtomicBool::new(false),
            desks: (1..threads).map(|_| desk()).collect(),
            #[cfg(test)]
            trouble: tests::Trouble::default(),
        });
        let mut thread_pool = Self {
            shared,
            workers: Vec::new(),
            pace: Pace::default(),
            always,
            timeout: always.then_some(Duration::MAX),
            last: OWN,
        };
        for index in 1..threads {
            let shared = Arc::clone(&thread_pool.shared);
            let thread = std::thread::Builder::new()
                .name(format!("opt-infer {index}"))
                .spawn(move || help(&shared, index))
                .map_err(InferError::Spawn)?;
            thread_pool.workers.push(Worker {
                thread,
                given: 0,
                has_rows: false,
                woken: false,
                is_member: false,
            });
        }
        Ok(thread_pool)
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `logits.len() / classes` images.
    pub(crate) fn run(&mut self, images: &[u8], logits: &mut [f32]) {
        let count = logits.len() / self.shared.plan.numbers;
        if self.workers.is_empty() || count == 0 {
            self.run_alone(images, logits);
            return;
        }
        let started = Instant::now();
        if !self.always && !self.pace.may_share() {
            self.run_alone(images, logits);
            self.pace.ran_alone(started.elapsed(), count);
            return;
        }
        let threads = self.threads();
        let timeout = self.timeout.unwrap_or_else(|| self.pace.timeout(count));
        let stay = nanos(self.pace.stay().clamp(STAY, STAY_MOST));
        if self.shared.stay.load(Ordering::Relaxed) != stay {
            self.shared.stay.store(stay, Ordering::Relaxed);
        }
        for worker in &mut self.workers {
            worker.woken = false;
        }
        let orders = |workers: &[Worker]| workers.iter().map(|worker| worker.given).sum::<u64>();
        let given = orders(&self.workers);
        // Whether a worker slept at the beginning and what it was given then was done in time.
        let mut woke = false;
        if count >= threads {
            self.run_images(images, logits, timeout);
        } else {
            let mut in_time = true;
            let (bytes, classes) = (images.len() / count, self.shared.plan.numbers);
            let each = images
                .chunks_exact(bytes)
                .zip(logits.chunks_exact_mut(classes));
            for (image, logits) in each {
                if self.run_rows(image, logits, timeout) {
                    self.last = ROWS;
                } else {
                    self.run_alone(image, logits);
                    in_time = false;
                }
            }
            woke = in_time && self.workers.iter().any(|worker| worker.woken);
        }
        let took = started.elapsed();
        if orders(&self.workers) == given {
            self.pace.ran_alone(took, count);
        } else {
            self.pace.ran_shared(took, count, threads, woke);
        }
    }

    /// Runs images one after another on this thread, in its own arena.
    fn run_alone(&mut self, images: &[u8], logits: &mut [f32]) {
        self.last = OWN;
        let plan = &self.shared.plan;
        let each = images
            .chunks_exact(plan.image.iter().product())
            .zip(logits.chunks_exact_mut(plan.numbers));
        for (image, logits) in each {
            // SAFETY: `OWN` is this thread's.
            unsafe { self.shared.run_image(OWN, image, logits) };
        }
    }

    /// Whether rows that were given away and taken back may still be written.
    fn is_late_with_rows(&self) -> bool {
        let mut each = self.workers.iter().zip(&self.shared.desks);
        each.any(|(worker, desk)| {
            let late = worker.has_rows && worker.is_busy(desk);
            if late {
                worker.rouse(desk);
            }
            late
        })
    }

    /// Runs one image, its rows shared by all who are awake; false if a worker did not end in time, so that the logits are not
    /// written and the arena may still be in use.
    fn run_rows(&mut self, image: &[u8], logits: &mut [f32], mut timeout: Duration) -> bool {
        if self.is_late_with_rows() || self.workers[ROWS - 1].is_busy(&self.shared.desks[ROWS - 1])
        {
            return false;
        }
        let shared = &*self.shared;
        let last = shared.split.iter().rposition(|split| *split);
        let progress = &shared.progress.0;
        let _stops = Stops(&shared.progress);
        // The threads that share the steps from here.
        let mut of = 1;
        for (number, step) in shared.plan.steps.iter().enumerate() {
            let is_split = shared.split[number];
            if of == 1 && Some(number) <= last {
                of = share(&mut self.workers, shared, number, self.always);
            }
            let part = if is_split {
                Part { index: 0, of }
            } else {
                Part::WHOLE
            };
            let image = (image, shared.order);
            // SAFETY: no worker is late with rows, and the first has no image: only members use the arena, each its rows, and
            // none begins a step before all have ended the one before.
            unsafe {
                run_step(
                    &shared.plan,
                    step,
                    &shared.arenas[ROWS],
                    image,
                    logits,
                    part,
                )
            };
            if of == 1 {
                continue;
            }
            let mut others = self.workers.iter_mut().zip(&shared.desks);
            let is_last = Some(number) == last
                || is_split
                    && of <= shared.desks.len()
                    && others.any(|(h, desk)| !h.is_member && h.is_ready(desk, false));
            let next = 2 * (number + 1) + usize::from(is_last);
            if of == 2 {
                progress.store(next, Ordering::Release);
            }
            let members = || {
                let each = self.workers.iter().zip(&shared.desks);
                each.filter(|(worker, _)| worker.is_member)
            };
            let has_ended = |answers: &Answers| answers.steps.load(Ordering::Acquire) > number;
            if is_split && !members().all(|(h, desk)| h.wait(desk, &mut timeout, has_ended)) {
                return false;
            }
            if of > 2 {
                progress.store(next, Ordering::Release);
            }
            if is_last {
                of = 1;
                // Before they have another order; after the last step they have time to the end.
                let is_done = |worker: &Worker, desk, timeout: &mut _| {
                    worker.wait(desk, timeout, |answers| worker.is_done(answers))
                };
                if Some(number) != last
                    && !members().all(|(h, desk)| is_done(h, desk, &mut timeout))
                {
                    return false;
                }
            }
        }
        self.let_finish();
        true
    }

    /// Waits a moment for workers that have nothing left to do, so that the next run, which may begin at once, finds them idle.
    fn let_finish(&self) {
        let is_busy = |(worker, desk): (&Worker, &Desk)| worker.is_busy(desk);
        let mut spins = 0;
        while spins < LAST_LOOKS && self.workers.iter().zip(&self.shared.desks).any(is_busy) {
            spins += 1;
            spin_loop();
        }
    }

    /// Runs images, each on one thread.
    fn run_images(&mut self, images: &[u8], logits: &mut [f32], mut timeout: Duration) {
        self.last = OWN;
        let rows_are_late = self.is_late_with_rows();
        let shared = &*self.shared;
        let bytes = shared.plan.image.iter().product();
        let classes = shared.plan.numbers;
        let count = logits.len() / classes;
        let (images, logits) = (images.as_ptr(), logits.as_mut_ptr());
        let task = Task::Images {
            images,
            logits,
            count,
        };
        // SAFETY: `n` is below `count`, and it is this thread's: taken from `next`, or from a worker.
        let run_here = |n: usize| unsafe {
            let image = std::slice::from_raw_parts(images.add(n * bytes), bytes);
            let logits = std::slice::from_raw_parts_mut(logits.add(n * classes), classes);
            shared.run_image(OWN, image, logits);
        };
        shared.next.store(0, Ordering::Relaxed);
        let _closing = Closing(shared);
        loop {
            let desks = shared.desks.iter();
            for (index, (worker, desk)) in self.workers.iter_mut().zip(desks).enumerate() {
                if (index + 1 != ROWS || !rows_are_late) && worker.is_ready(desk, true) {
                    worker.give(desk, task);
                    worker.rouse(desk);
                }
            }
            let n = shared.next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                break;
            }
            run_here(n);
        }
        for Desk { answers, .. } in &shared.desks {
            let mut watch = Watch::default();
            loop {
                match answers.hold.load(Ordering::Acquire) {
                    CLOSED => break,
                    READING | WRITING => {}
                    FREE => {
                        answers.moves(FREE, CLOSED);
                    }
                    held => {
                        let late = watch.waited > timeout || answers.gone.load(Ordering::Acquire);
                        if late && answers.moves(held, CLOSED) {
                            run_here(held - COMPUTING);
                        }
                    }
                }
                watch.look();
            }
            timeout = timeout.saturating_sub(watch.waited);
        }
        self.let_finish();
    }

    /// Runs one step on one image, on this thread.
    pub(crate) fn run_step(&mut self, step: usize, image: &[u8], logits: &mut [f32]) {
        let shared = &*self.shared;
        self.last = OWN;
        // SAFETY: `OWN` is this thread's.
        unsafe {
            run_step(
                &shared.plan,
                &shared.plan.steps[step],
                &shared.arenas[OWN],
                (image, shared.order),
                logits,
                Part::WHOLE,
            );
        }
    }

    /// The value of a node after a run of one image, f32 or codes.
    pub(crate) fn value(&mut self, node: usize, is_float: bool) -> Option<Value> {
        let place = &self.shared.plan.places[self.shared.plan.place_of[node]?];
        // SAFETY: nobody writes: `OWN` is this thread's, and `ROWS` is the last only if every worker has ended its rows.
        let bytes = unsafe { self.shared.arenas[self.last].read(place) };
        let layout = &place.layout;
        Some(if is_float {
            Value::Float(numbers(Operand { layout, bytes }))
        } else {
            Value::Codes(layout.codes(bytes))
        })
    }
}

/// Gives a part of the steps from `from` to all who are awake; returns the number of threads that share them.
fn share(workers: &mut [Worker], shared: &Shared, from: usize, always: bool) -> usize {
    let mut of = 1;
    for (worker, desk) in workers.iter_mut().zip(&shared.desks) {
        worker.is_member = worker.is_ready(desk, always);
        of += usize::from(worker.is_member);
    }
    // No worker has rows, so that none reads it.
    shared.progress.0.store(2 * from, Ordering::Relaxed);
    let members = workers.iter_mut().zip(&shared.desks);
    for ((worker, desk), index) in members.filter(|(h, _)| h.is_member).zip(1..) {
        let part = Part { index, of };
        worker.give(desk, Task::Rows { from, part });
    }
    of
}

/// Whether the rows of a step are shared: never of what touches the caller's slices, so that no late worker does. Small steps
/// are, for their rows lie in the cache of the core that goes on with them.
fn is_split(plan: &Plan, step: &Step) -> bool {
    let height = step.target.map_or(1, |t| plan.places[t].layout.height);
    height > 1 && !matches!(step.work, Work::Input | Work::ToCaller(_))
}

impl Worker {
    /// Whether it works, or will as soon as it has a core.
    fn is_busy(&self, desk: &Desk) -> bool {
        !self.is_done(&desk.answers)
    }

    fn is_done(&self, answers: &Answers) -> bool {
        answers.done.load(Ordering::Acquire) == self.given
    }

    /// Whether it can have an order. One that sleeps can only if `always`; else it is woken for the next time.
    fn is_ready(&mut self, desk: &Desk, always: bool) -> bool {
        if self.is_busy(desk) || desk.answers.gone.load(Ordering::Relaxed) {
            return false;
        }
        let is_awake = !desk.answers.asleep.load(Ordering::Relaxed);
        if !is_awake && !always && !self.woken {
            self.woken = true;
            self.thread.thread().unpark();
        }
        is_awake || always
    }

    /// Gives an order to a worker that has none.
    fn give(&mut self, Desk { orders, answers }: &Desk, task: Task) {
        match task {
            Task::Rows { from, .. } => {
                self.has_rows = true;
                answers.steps.store(from, Ordering::Relaxed);
            }
            Task::Images { .. } => {
                self.has_rows = false;
                answers.hold.store(FREE, Ordering::Relaxed);
            }
        }
        self.given += 1;
        // SAFETY: its last order is done, see `is_ready`, so that it does not read the task.
        unsafe { *orders.task.get() = task };
        orders.given.store(self.given, Ordering::Release);
    }

    /// Wakes it if it fell asleep before it saw its order.
    fn rouse(&self, desk: &Desk) {
        // The order before this look, as the worker spins for orders after it has said that it sleeps: one sees the other.
        fence(Ordering::SeqCst);
        if desk.answers.asleep.load(Ordering::Relaxed) {
            self.thread.thread().unpark();
        }
    }

    /// Waits until `has_ended`, until the timeout; false if it has not.
    fn wait(
        &self,
        desk: &Desk,
        timeout: &mut Duration,
        has_ended: impl Fn(&Answers) -> bool,
    ) -> bool {
        let mut watch = Watch::default();
        while !has_ended(&desk.answers) {
            if watch.look() > *timeout || desk.answers.gone.load(Ordering::Relaxed) {
                return false;
            }
            if watch.spins.is_multiple_of(LOOKS) {
                self.rouse(desk);
            }
        }
        *timeout = timeout.saturating_sub(watch.waited);
        !desk.answers.gone.load(Ordering::Relaxed)
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker.thread.thread().unpark();
            // A worker catches its panics.
            let _ = worker.thread.join();
        }
    }
}

/// At the end of a batch, however it ends, sees to it that no worker touches the caller's slices any more.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        for Desk { answers, .. } in &self.0.desks {
            let mut watch = Watch::default();
            loop {
                let hold = answers.hold.load(Ordering::Acquire);
                match hold {
                    CLOSED => break,
                    READING | WRITING => {
                        watch.look();
                    }
                    free_or_held => {
                        answers.moves(free_or_held, CLOSED);
                    }
                }
            }
        }
    }
}

impl Answers {
    /// Changes `hold`, unless it is no longer `from`.
    fn moves(&self, from: usize, to: usize) -> bool {
        let order = (Ordering::AcqRel, Ordering::Relaxed);
        self.hold
            .compare_exchange(from, to, order.0, order.1)
            .is_ok()
    }
}

/// How long a thread has waited. Short waits are not measured.
#[derive(Debug, Default)]
struct Watch {
    spins: usize,
    since: Option<Instant>,
    waited: Duration,
}

impl Watch {
    /// Waits a moment and returns how long it has been.
    fn look(&mut self) -> Duration {
        self.spins += 1;
        if self.spins.is_multiple_of(LOOKS) {
            self.waited = self.since.get_or_insert_with(Instant::now).elapsed();
        }
        // The thread waited for may have no core but this one.
        if self.waited > STAY {
            std::thread::yield_now();
        } else {
            spin_loop();
        }
        self.waited
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn help(shared: &Shared, index: usize) {
    let Desk { orders, answers } = &shared.desks[index - 1];
    let mut logits = vec![0.0; shared.plan.numbers];
    let mut seen = 0;
    loop {
        let quits = || shared.quit.load(Ordering::Relaxed);
        shared.rest(answers, || {
            orders.given.load(Ordering::Acquire) != seen || quits()
        });
        if quits() {
            return;
        }
        seen += 1;
        // SAFETY: the caller wrote it before it gave the order, and writes no other before this one is done.
        let task = unsafe { *orders.task.get() };
        let mut held = None;
        let work = AssertUnwindSafe(|| match task {
            Task::Rows { from, part } => shared.help_with_rows(answers, from, part),
            Task::Images {
                images,
                logits: to,
                count,
            } => shared.help_with_images(index, (images, to, count), &mut logits, &mut held),
        });
        let panicked = catch_unwind(work).is_err();
        if panicked {
            answers.gone.store(true, Ordering::Release);
            // The image is the caller's, who will meet the same panic. If it has taken it already, nothing moves.
            let left = held.map_or(FREE, |n| COMPUTING + n);
            answers.moves(READING, left);
            answers.moves(WRITING, left);
        }
        answers.done.store(seen, Ordering::Release);
        if panicked {
            return;
        }
    }
}

impl Shared {
    /// Runs one image.
    ///
    /// # Safety
    ///
    /// The arena is this thread's alone.
    unsafe fn run_image(&self, arena: usize, image: &[u8], logits: &mut [f32]) {
        for step in &self.plan.steps {
            let image = (image, self.order);
            // SAFETY: the caller sees to it.
            unsafe {
                let arena = &self.arenas[arena];
                run_step(&self.plan, step, arena, image, logits, Part::WHOLE);
            }
        }
    }

    /// Waits until it is called; after a while it sleeps.
    fn rest(&self, answers: &Answers, is_called: impl Fn() -> bool) {
        let mut watch = Watch::default();
        while !is_called() {
            if watch.look() > Duration::from_nanos(self.stay.load(Ordering::Relaxed)) {
                answers.asleep.store(true, Ordering::Relaxed);
                // See `Worker::rouse`.
                fence(Ordering::SeqCst);
                if !is_called() {
                    std::thread::park();
                }
                answers.asleep.store(false, Ordering::Relaxed);
                watch = Watch::default();
            }
        }
    }

    fn help_with_rows(&self, answers: &Answers, from: usize, part: Part) {
        let progress = &self.progress.0;
        for (number, step) in self.plan.steps.iter().enumerate().skip(from) {
            if self.split[number] {
                #[cfg(test)]
                self.trouble.meet();
                let image = (&[][..], self.order);
                // SAFETY: see `ThreadPool::run_rows`, which runs what reads the image or writes logits.
                unsafe {
                    run_step(&self.plan, step, &self.arenas[ROWS], image, &mut [], part);
                }
                answers.steps.store(number + 1, Ordering::Release);
            }
            let next = 2 * (number + 1);
            self.rest(answers, || progress.load(Ordering::Acquire) >= next);
            if [next + 1, STOP].contains(&progress.load(Ordering::Relaxed)) {
                return;
            }
        }
    }

    fn help_with_images(
        &self,
        index: usize,
        (images, to, count): (*const u8, *mut f32, usize),
        logits: &mut [f32],
        held: &mut Option<usize>,
    ) {
        let answers = &self.desks[index - 1].answers;
        let bytes: usize = self.plan.image.iter().product();
        let is_input = |work: &Work| matches!(work, Work::Input);
        // From here to `COMPUTING` the caller does not return, nor from `WRITING` to `FREE`.
        while answers.moves(FREE, READING) {
            *held = None;
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                answers.hold.store(FREE, Ordering::Release);
                return;
            }
            *held = Some(n);
            // SAFETY: the image is one of `count`, and the caller's slices live, see above.
            let image = unsafe { std::slice::from_raw_parts(images.add(n * bytes), bytes) };
            let run = |inputs: bool, image: &[u8], logits: &mut [f32]| {
                let steps = self.plan.steps.iter();
                for step in steps.filter(|s| is_input(&s.work) == inputs) {
                    let image = (image, self.order);
                    // SAFETY: the arena is this thread's: the caller gives the first worker no images while its arena holds rows.
                    unsafe {
                        let arena = &self.arenas[index];
                        run_step(&self.plan, step, arena, image, logits, Part::WHOLE);
                    }
                }
            };
            run(true, image, &mut []);
            answers.hold.store(COMPUTING + n, Ordering::Release);
            #[cfg(test)]
            self.trouble.meet();
            run(false, &[], logits);
            if !answers.moves(COMPUTING + n, WRITING) {
                return;
            }
            // SAFETY: the image is this thread's until `FREE`, and the caller's slices live, see above.
            let to = unsafe {
                let first = to.add(n * logits.len());
                std::slice::from_raw_parts_mut(first, logits.len())
            };
            to.copy_from_slice(logits);
            answers.hold.store(FREE, Ordering::Release);
        }
    }
}

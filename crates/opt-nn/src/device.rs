//! The device as a run-time choice, and libtorch's threads.

use std::path::Path;

use tch::{Cuda, Device};

use crate::{NnError, Result};

/// Parses `auto`, `cpu`, `cuda` or `cuda:N` and checks that it is there. `auto` takes the first GPU, else the CPU.
///
/// # Errors
///
/// [`NnError::Device`] for another word, or where CUDA is asked for and cannot be had (says which part is missing).
pub fn parse(text: &str) -> Result<Device> {
    let fail = |problem: String| {
        Err(NnError::Device {
            device: text.to_owned(),
            problem,
        })
    };
    let index = match text {
        "cpu" => return Ok(Device::Cpu),
        "auto" if cuda_missing().is_some() => return Ok(Device::Cpu),
        "auto" | "cuda" => 0,
        _ => match text.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
            Some(index) => index,
            None => return fail("expected auto, cpu, cuda or cuda:N".to_owned()),
        },
    };
    let missing = cuda_missing();
    let count = usize::try_from(Cuda::device_count()).unwrap_or(0);
    gpu(index, missing, count).or_else(fail)
}

/// GPU `index` of `count`, unless CUDA is `missing`.
fn gpu(index: usize, missing: Option<String>, count: usize) -> std::result::Result<Device, String> {
    match missing {
        Some(missing) => Err(missing),
        None if index >= count => Err(format!("there are {count} GPUs, numbered from 0")),
        None => Ok(Device::Cuda(index)),
    }
}

/// The name that [`parse`] understands.
#[must_use]
pub fn name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}

/// Why CUDA cannot be used, or `None` if it can.
fn cuda_missing() -> Option<String> {
    load_cuda_library();
    if Cuda::is_available() {
        return None;
    }
    Some(if Path::new("/proc/driver/nvidia/version").exists() {
        "an NVIDIA driver is there, but libtorch is built for the CPU; run `cargo xtask setup --cuda`"
            .to_owned()
    } else {
        "no NVIDIA driver is loaded; use --device cpu".to_owned()
    })
}

/// libtorch finds CUDA only if `libtorch_cuda.so` was loaded before the first question about it; the linker drops a
/// library of which no symbol is used.
fn load_cuda_library() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        #[expect(unsafe_code, reason = "loading a shared library runs its initialisers")]
        // SAFETY: libtorch's own library, found by the rpath of this program; it registers itself and nothing else.
        let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) };
        if let Ok(library) = library {
            std::mem::forget(library);
        }
    });
}

/// Lets the C library keep the memory that libtorch gives back, and asks for huge pages: otherwise every large tensor of
/// every step is fetched from the kernel page by page, which costs a third of the time where layers are wide. Call it first
/// thing in `main`, before any thread is started. Does nothing where the C library is not glibc.
pub fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // glibc takes an int; what is larger than this comes from the kernel as ever.
        const KEPT: libc::c_int = libc::c_int::MAX;
        #[expect(unsafe_code, reason = "settings of the C library")]
        // SAFETY: called before any other thread exists, as the documentation demands; the two options only say when memory
        // goes back to the kernel, and the variable is read by libtorch at its first allocation.
        unsafe {
            // Where the first is refused, the second alone would make it worse.
            if libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT) == 1 {
                libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
            }
            if std::env::var_os("THP_MEM_ALLOC_ENABLE").is_none() {
                std::env::set_var("THP_MEM_ALLOC_ENABLE", "1");
            }
        }
    }
}

/// Sets the number of threads for libtorch's operators. Call it first thing in `main`:
/// threads that already ran an operator keep their count.
pub fn set_threads(threads: usize) {
    tch::set_num_threads(i32::try_from(threads.max(1)).unwrap_or(i32::MAX));
    bound::find_place();
}

/// Makes this the number that `OMP_NUM_THREADS` names, for this program and those that it starts. Call it first thing in
/// `main`, before any thread is started.
pub fn name_threads(threads: usize) {
    #[expect(unsafe_code, reason = "a variable of this process")]
    // SAFETY: called before any other thread exists, as the documentation demands.
    unsafe {
        std::env::set_var("OMP_NUM_THREADS", threads.to_string());
    }
}

/// The variables by which a user places the threads of OpenMP; where one is set, it holds.
pub const PLACING: [&str; 3] = ["OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"];

/// Starts this program again with each of libtorch's threads on a processor of its own, where there are as many threads as
/// processors; otherwise, and in the program that was started, it does nothing. Call it first thing in `main`, before any
/// thread is started.
///
/// Two threads that wait for each other make no progress while they share a processor, and where another program takes
/// one processor, Linux may put both on the other: it weighs a group of threads as much as the one of the other program.
/// Training beside one busy loop then fell from 2,900 to less than 200 images a second on two threads; bound, it does 850 to
/// 1,000. With fewer threads than processors nothing is bound: two such programs would choose the same processors.
///
/// # Errors
///
/// The program could not be started again. It can go on as it is.
pub fn bind_threads(threads: usize) -> std::io::Result<()> {
    let placed = PLACING.iter().any(|name| std::env::var_os(name).is_some());
    if placed || threads < 2 || bound::processors() != Some(threads) {
        return Ok(());
    }
    bound::start_again(threads)
}

/// Which processors threads run on.
#[cfg(target_os = "linux")]
mod bound {
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::sync::OnceLock;
    use std::thread::ThreadId;

    /// Set in a program that [`start_again`] started: the processors that it may run on, as `0,1`.
    const MARK: &str = "OPT_BOUND_THREADS";

    /// The main thread, and the processor that OpenMP chose for it.
    static PLACE: OnceLock<(ThreadId, libc::cpu_set_t)> = OnceLock::new();

    fn allowed() -> Option<libc::cpu_set_t> {
        #[expect(unsafe_code, reason = "a question to the kernel")]
        // SAFETY: a `cpu_set_t` of zeros is an empty set, and the call writes at most its size.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            (libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) == 0)
                .then_some(set)
        }
    }

    fn allow(set: &libc::cpu_set_t) {
        #[expect(unsafe_code, reason = "an order to the kernel")]
        // SAFETY: the set lives through the call. If it is refused, the thread stays where it may be.
        unsafe {
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set);
        }
    }

    fn count(set: &libc::cpu_set_t) -> usize {
        #[expect(unsafe_code, reason = "a macro of the C library")]
        // SAFETY: reads the set.
        let count = unsafe { libc::CPU_COUNT(set) };
        usize::try_from(count).unwrap_or(0)
    }

    /// How many processors this thread may run on.
    pub(super) fn processors() -> Option<usize> {
        Some(count(&allowed()?))
    }

    /// The processors of a set, as `0,1`.
    fn words(set: &libc::cpu_set_t) -> String {
        let numbers = 0..usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
        #[expect(unsafe_code, reason = "a macro of the C library")]
        // SAFETY: reads the set, below its size.
        let in_set = numbers.filter(|number| unsafe { libc::CPU_ISSET(*number, set) });
        let in_set: Vec<String> = in_set.map(|number| number.to_string()).collect();
        in_set.join(",")
    }

    /// The set that [`words`] wrote, if it is one.
    fn set(words: &str) -> Option<libc::cpu_set_t> {
        let size = usize::try_from(libc::CPU_SETSIZE).ok()?;
        #[expect(unsafe_code, reason = "a type and a macro of the C library")]
        // SAFETY: a `cpu_set_t` of zeros is an empty set, and the numbers are below its size.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            for word in words.split(',') {
                let number = word.parse().ok().filter(|number| *number < size)?;
                libc::CPU_SET(number, &mut set);
            }
            Some(set)
        }
    }

    pub(super) fn start_again(threads: usize) -> std::io::Result<()> {
        let allowed = allowed().ok_or_else(std::io::Error::last_os_error)?;
        let mut arguments = std::env::args_os();
        let mut again = Command::new(std::env::current_exe()?);
        if let Some(name) = arguments.next() {
            again.arg0(name);
        }
        again
            .args(arguments)
            .env("OMP_PROC_BIND", "true")
            .env("OMP_NUM_THREADS", threads.to_string())
            .env(MARK, words(&allowed));
        // Returns only if it fails.
        Err(again.exec())
    }

    /// OpenMP binds the main thread when it is loaded, before `main`. What that thread starts would be bound to the same
    /// processor, so it is let go again until [`in_place`].
    pub(super) fn find_place() {
        let Some(all) = std::env::var(MARK).ok().and_then(|words| set(&words)) else {
            return;
        };
        if let Some(place) = allowed().filter(|place| count(place) < count(&all)) {
            PLACE.get_or_init(|| (std::thread::current().id(), place));
            allow(&all);
        }
    }

    /// Keeps the main thread on its processor until this is dropped.
    #[derive(Debug)]
    pub(crate) struct InPlace(Option<libc::cpu_set_t>);

    /// Call it around operators that follow each other closely. A thread that is started meanwhile is bound too.
    pub(crate) fn in_place() -> InPlace {
        let Some((thread, place)) = PLACE.get() else {
            return InPlace(None);
        };
        if std::thread::current().id() != *thread {
            return InPlace(None);
        }
        let before = allowed();
        allow(place);
        InPlace(before)
    }

    impl Drop for InPlace {
        fn drop(&mut self) {
            if let Some(before) = &self.0 {
                allow(before);
            }
        }
    }
}

/// Elsewhere threads are left to the system.
#[cfg(not(target_os = "linux"))]
mod bound {
    #[derive(Debug)]
    pub(crate) struct InPlace;

    pub(super) fn processors() -> Option<usize> {
        None
    }

    pub(super) fn start_again(_threads: usize) -> std::io::Result<()> {
        Ok(())
    }

    pub(super) fn find_place() {}

    pub(crate) fn in_place() -> InPlace {
        InPlace
    }
}

pub(crate) use bound::in_place;

/// Fixes libtorch's own random numbers (nothing of this workspace draws any) and stops cuDNN from choosing its algorithms
/// by timing, which differs from run to run.
pub fn seed(seed: u64) {
    tch::manual_seed(i64::from_le_bytes(seed.to_le_bytes()));
    Cuda::cudnn_set_benchmark(false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_words() {
        assert_eq!(parse("cpu").unwrap(), Device::Cpu);
        parse("auto").unwrap();
        for word in ["gpu", "cuda:", "cuda:x", "cuda:-1", ""] {
            let message = parse(word).unwrap_err().to_string();
            assert!(
                message.contains("expected auto, cpu, cuda or cuda:N"),
                "{message}"
            );
        }
    }

    /// In processes of their own: the first one starts itself again, and there OpenMP has bound the main thread already.
    #[cfg(target_os = "linux")]
    #[test]
    fn threads_are_bound_only_while_operators_follow_each_other() {
        const CHILD: &str = "OPT_TEST_BOUND";
        let count = || std::thread::available_parallelism().unwrap().get();
        if let Some(threads) = std::env::var_os(CHILD) {
            let threads = threads.to_str().unwrap().parse().unwrap();
            bind_threads(threads).unwrap();
            let mut counts = Vec::new();
            // The second call is that of `bench train`.
            for _ in 0..2 {
                set_threads(threads);
                counts.push(count());
                let in_place = in_place();
                counts.push(count());
                drop(in_place);
                counts.push(count());
                let elsewhere = std::thread::spawn(move || {
                    let _in_place = super::in_place();
                    count()
                });
                counts.push(elsewhere.join().unwrap());
            }
            eprintln!("processors: {counts:?}.");
            return;
        }
        let all = count();
        for threads in [1, all, all + 1] {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child
                .args([
                    "device::tests::threads_are_bound_only_while_operators_follow_each_other",
                    "--exact",
                    "--nocapture",
                ])
                .env(CHILD, threads.to_string());
            for name in PLACING {
                child.env_remove(name);
            }
            let output = child.output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            let place = if threads == all { 1 } else { all };
            let expected = format!("processors: {:?}.", [all, place, all, all].repeat(2));
            assert!(text.contains(&expected), "{threads}: {text}");
        }
    }

    #[test]
    fn only_gpus_that_are_there_are_chosen() {
        assert_eq!(gpu(1, None, 2), Ok(Device::Cuda(1)));
        let message = gpu(2, None, 2).unwrap_err();
        assert_eq!(message, "there are 2 GPUs, numbered from 0");
        let missing = "no driver".to_owned();
        assert_eq!(gpu(0, Some(missing.clone()), 2), Err(missing));
    }
}

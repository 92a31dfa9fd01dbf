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
    if let Some(missing) = cuda_missing() {
        return fail(missing);
    }
    let count = usize::try_from(Cuda::device_count()).unwrap_or(0);
    if index >= count {
        return fail(format!("there are {count} GPUs, numbered from 0"));
    }
    Ok(Device::Cuda(index))
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

/// Sets the number of threads for libtorch's operators. Call it first thing in `main`: threads that already ran an
/// operator keep their count.
pub fn set_threads(threads: usize) {
    tch::set_num_threads(i32::try_from(threads.max(1)).unwrap_or(i32::MAX));
}

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
        if cuda_missing().is_some() {
            assert!(parse("cuda").is_err());
        }
    }
}

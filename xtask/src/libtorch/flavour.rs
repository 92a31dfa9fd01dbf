//! Which libtorch it is: its version, and the libraries that are brought.

use std::path::Path;

use crate::cache;

/// What tch 0.26 binds, exactly.
pub(crate) const VERSION: &str = "2.13.0";

/// The three wheels of the CPU's libraries, and what is kept of them.
pub(super) const CPU_DOWNLOAD: u64 = 540_000_000;
const CPU_KEPT: u64 = 486_000_000;
/// The same with the wheels of CUDA, roughly: pip takes the newest of some.
const CUDA_DOWNLOAD: u64 = 2_800_000_000;
const CUDA_KEPT: u64 = 5_000_000_000;

/// Which of libtorch's libraries are brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    Cpu,
    Cuda,
}

impl Flavour {
    pub(super) fn folder_name(self) -> String {
        match self {
            Self::Cpu => format!("libtorch-{VERSION}-cpu"),
            Self::Cuda => format!("libtorch-{VERSION}-cuda"),
        }
    }

    /// What is about to be brought, from where and how much: said before it starts.
    pub(super) fn announcement(self, folder: &Path) -> String {
        let (download, kept, with) = match self {
            Self::Cpu => (CPU_DOWNLOAD, CPU_KEPT, ""),
            Self::Cuda => (CUDA_DOWNLOAD, CUDA_KEPT, " with all CUDA libraries"),
        };
        format!(
            "libtorch {VERSION}{with} is not on this machine yet and is brought now, once for all clones of this user:\n\
             \u{20} about {} to download with pip, {} to keep in {}",
            cache::size(download),
            cache::size(kept),
            folder.display()
        )
    }

    /// The wheels and what is unpacked from them, side by side for a moment.
    pub(crate) fn bytes_needed(self) -> u64 {
        match self {
            Self::Cpu => 1_200_000_000,
            Self::Cuda => 9_000_000_000,
        }
    }
}

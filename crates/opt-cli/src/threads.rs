//! The number of threads and where they run, set before libtorch does anything.

use opt_experiment::machine::threads;
use opt_nn::device;

use crate::common::Common;

/// Sets them; for training each thread gets a processor of its own, for which the program may start itself again. `common` are the
/// flags of a command that trains.
pub(crate) fn set(common: Option<&Common>) {
    if let Some(common) = common {
        let threads = common.threads.map_or_else(threads, usize::from);
        if let Err(error) = device::bind_threads(threads) {
            eprintln!(
                "warning: threads are not bound to processors, which is slower beside other programs: {error}"
            );
        }
        device::name_threads(threads);
    }
    device::keep_memory();
    device::set_threads(threads());
}

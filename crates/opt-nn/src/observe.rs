//! Streams the values of chosen nodes, batch by batch: what calibration sees.

use opt_core::NodeId;

use crate::batch::Batch;
use crate::forward::{Mode, Precision, forward};
use crate::net::to_vec;
use crate::{Net, NnError, Result, device};

/// Runs every batch in f32 and shows `see` the values of each node of `nodes`, `[N, …]` in row-major order. Nothing is
/// stored.
///
/// # Errors
///
/// A batch that does not fit, or what `see` says.
pub fn observe(
    net: &Net,
    batches: impl Iterator<Item = Batch>,
    nodes: &[NodeId],
    mut see: impl FnMut(NodeId, &[f32]) -> Result<()>,
) -> Result<()> {
    let _in_place = device::in_place();
    let _no_grad = tch::no_grad_guard();
    for batch in batches {
        let bytes = batch.bytes(net.input(), net.device())?;
        let outputs = forward(net, &bytes, Mode::Evaluate, Precision::F32, nodes);
        for (&node, value) in nodes.iter().zip(&outputs.taps) {
            let values = to_vec(value).map_err(|e| NnError::torch("observing", &e))?;
            see(node, &values)?;
        }
    }
    Ok(())
}

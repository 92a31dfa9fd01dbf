//! Streams the values of chosen nodes, batch by batch: what calibration sees.

use opt_core::NodeId;
use opt_core::observe::{LookError, Observe, Observed};
use opt_core::shape::infer_shapes;

use crate::batch::Batch;
use crate::forward::{Mode, Precision, forward};
use crate::net::to_vec;
use crate::{Net, NnError, device};

/// In f32, with running statistics.
impl Observe for Net {
    type Error = NnError;

    fn observe(
        &self,
        batches: &mut dyn Iterator<Item = Vec<u8>>,
        points: &[NodeId],
        see: &mut dyn FnMut(&Observed<'_>) -> Result<(), LookError>,
    ) -> Result<(), NnError> {
        let _in_place = device::in_place();
        let _no_grad = tch::no_grad_guard();
        let shapes = infer_shapes(&self.to_model()?)?;
        let size: usize = self.input().shape.iter().product();
        for images in batches {
            let n = images.len() / size;
            let batch = Batch {
                images,
                labels: vec![0; n],
                indices: vec![0; n],
            };
            let bytes = batch.bytes(self.input(), self.device())?;
            let outputs = forward(self, &bytes, Mode::Evaluate, Precision::F32, points);
            for (&node, value) in points.iter().zip(&outputs.taps) {
                let values = to_vec(value).map_err(|e| NnError::torch("observing", &e))?;
                let observed = Observed {
                    node,
                    shape: &shapes[node],
                    values: &values,
                };
                see(&observed).map_err(|source| NnError::Method {
                    what: format!("looking at node `{}`", self.graph().nodes[node].name),
                    source,
                })?;
            }
        }
        Ok(())
    }
}

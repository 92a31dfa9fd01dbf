//! The seam through which values of a network are seen: calibration, statistics and reports look, whoever computes.

use std::error::Error;

use crate::interpret;
use crate::shape::infer_shapes;
use crate::{CoreError, Model, NodeId};

/// Values of one node on one batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observed<'a> {
    /// The node.
    pub node: NodeId,
    /// The shape of its value on one image: `[C, H, W]` or `[F]`.
    pub shape: &'a [usize],
    /// `[N, C, H, W]` or `[N, F]`, row-major.
    pub values: &'a [f32],
}

/// What a look may end in.
pub type LookError = Box<dyn Error + Send + Sync>;

/// Something that runs an f32 network and shows its values. Nothing is stored: a batch is gone when its values were shown.
pub trait Observe {
    /// What can go wrong while it runs; what the look says is wrapped.
    type Error;

    /// Runs every batch of whole images of bytes (`[N, C, H, W]`) and shows `see` the values of each of `points`, in order. A
    /// batch may be shown in parts, image after image.
    ///
    /// # Errors
    ///
    /// A batch that is not whole images, and what `see` says.
    fn observe(
        &self,
        batches: &mut dyn Iterator<Item = Vec<u8>>,
        points: &[NodeId],
        see: &mut dyn FnMut(&Observed<'_>) -> Result<(), LookError>,
    ) -> Result<(), Self::Error>;
}

/// What the reference interpreter's [`Observe`] can end in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObserveError {
    /// The network or a batch.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// The look.
    #[error("looking at node `{node}`")]
    Look {
        /// The node's name.
        node: String,
        /// What the look said.
        source: LookError,
    },
}

/// By the reference interpreter: exact and slow.
impl Observe for Model {
    type Error = ObserveError;

    fn observe(
        &self,
        batches: &mut dyn Iterator<Item = Vec<u8>>,
        points: &[NodeId],
        see: &mut dyn FnMut(&Observed<'_>) -> Result<(), LookError>,
    ) -> Result<(), ObserveError> {
        let shapes = infer_shapes(self)?;
        let size: usize = self.input.shape.iter().product();
        for batch in batches {
            if batch.is_empty() || !batch.len().is_multiple_of(size) {
                return Err(ObserveError::Core(CoreError::Length {
                    what: "a batch of whole images".to_owned(),
                    found: batch.len(),
                    expected: batch.len().next_multiple_of(size).max(size),
                }));
            }
            let images = batch.chunks_exact(size);
            let runs: Vec<Vec<Vec<f32>>> = images
                .map(|image| interpret::run(self, &self.input.normalize(image)))
                .collect::<Result<_, _>>()?;
            for &node in points {
                let values: Vec<f32> = runs.iter().flat_map(|run| &run[node]).copied().collect();
                let observed = Observed {
                    node,
                    shape: &shapes[node],
                    values: &values,
                };
                see(&observed).map_err(|source| ObserveError::Look {
                    node: self.graph.nodes[node].name.clone(),
                    source,
                })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Task, zoo};

    #[test]
    fn each_point_is_shown_for_each_batch() {
        let mut task = Task::cifar10();
        task.input.shape = [3, 8, 8];
        let model = zoo::build("source_net", &task, 1).unwrap();
        let image = |n: u8| vec![n; 192];
        let batches = [[image(1), image(2)].concat(), image(3)];
        let last = model.graph.output();
        let mut seen = Vec::new();
        let mut see = |o: &Observed<'_>| -> Result<(), LookError> {
            seen.push((o.node, o.shape.to_vec(), o.values.to_vec()));
            Ok(())
        };
        let points = [last, 0];
        model
            .observe(&mut batches.clone().into_iter(), &points, &mut see)
            .unwrap();
        let nodes: Vec<NodeId> = seen.iter().map(|s| s.0).collect();
        assert_eq!(nodes, [last, 0, last, 0]);
        assert_eq!(seen[0].1, [10]);
        assert_eq!(seen[1].2, model.input.normalize(&batches[0]));
        let third = interpret::run(&model, &model.input.normalize(&image(3))).unwrap();
        assert_eq!(seen[2].2, third[last]);
        // Half an image, and a look that has seen enough.
        let mut half = std::iter::once(vec![0; 100]);
        let error = model.observe(&mut half, &points, &mut |_| Ok(()));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("100 elements, expected 192"), "{error}");
        let error = model.observe(&mut batches.into_iter(), &points, &mut |_| Err("no".into()));
        let error = error.unwrap_err();
        assert_eq!(error.to_string(), "looking at node `fc`");
        assert_eq!(error.source().unwrap().to_string(), "no");
    }
}

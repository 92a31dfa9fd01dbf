//! The engine as an observer: calibration without libtorch, at the engine's speed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use opt_core::interpret_quantized::Value;
use opt_core::lower::{Placement, QuantSpec, ResidualAdd, lower};
use opt_core::observe::{LookError, Observe, Observed};
use opt_core::shape::infer_shapes;
use opt_core::{Model, NodeId};

use crate::{InferError, Options, Result, Session};

/// What a look ends in.
type Look = std::result::Result<(), LookError>;

/// Runs a folded f32 network on the engine and shows its values, one image at a time.
///
/// What is fused into one step has the value of its last node; the nodes within have none.
#[derive(Debug)]
pub struct Observer {
    session: Mutex<Session>,
    /// Where the engine keeps a node's value.
    at: BTreeMap<String, usize>,
    names: Vec<String>,
    shapes: Vec<Vec<usize>>,
}

impl Observer {
    /// Makes a folded network (`opt_core::lower::fold`) ready.
    ///
    /// # Errors
    ///
    /// A network that is not folded, and those of [`Session::new`].
    pub fn new(folded: &Model, options: &Options) -> Result<Self> {
        let names: Vec<String> = folded.graph.nodes.iter().map(|n| n.name.clone()).collect();
        let operators = folded.graph.nodes.iter().filter(|n| !n.inputs.is_empty());
        let float: BTreeSet<String> = operators.map(|n| n.name.clone()).collect();
        let spec = QuantSpec {
            // Every value that either kind of addition rounds is a step of its own.
            placement: Placement {
                adds: ResidualAdd::Explicit,
                float,
            },
            ..QuantSpec::default()
        };
        let network = lower(folded, &spec)?;
        let nodes = network.nodes.iter().enumerate();
        let at = nodes.filter(|(_, n)| n.op.is_float());
        let at = at.map(|(i, n)| (n.name.clone(), i)).collect();
        let options = Options {
            keep_codes: true,
            ..*options
        };
        Ok(Self {
            session: Mutex::new(Session::new(&network, &options)?),
            at,
            names,
            shapes: infer_shapes(folded)?,
        })
    }
}

impl Observe for Observer {
    type Error = InferError;

    fn observe(
        &self,
        batches: &mut dyn Iterator<Item = Vec<u8>>,
        points: &[NodeId],
        see: &mut dyn FnMut(&Observed<'_>) -> Look,
    ) -> Result<()> {
        let kept = points.iter().map(|&node| {
            let name = &self.names[node];
            let unseen = || InferError::Unseen { node: name.clone() };
            self.at.get(name).copied().ok_or_else(unseen)
        });
        let kept: Vec<usize> = kept.collect::<Result<_>>()?;
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let size = session.image_bytes();
        for batch in batches {
            if batch.is_empty() || !batch.len().is_multiple_of(size) {
                return Err(InferError::Length {
                    what: "a batch of whole images",
                    found: batch.len(),
                    expected: format!("a multiple of {size}"),
                });
            }
            for image in batch.chunks_exact(size) {
                session.run(image)?;
                for (&node, &at) in points.iter().zip(&kept) {
                    let Some(Value::Float(values)) = session.value(at) else {
                        continue;
                    };
                    let observed = Observed {
                        node,
                        shape: &self.shapes[node],
                        values: &values,
                    };
                    see(&observed).map_err(|source| InferError::Look {
                        node: self.names[node].clone(),
                        source,
                    })?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opt_core::lower::{fold, observed_nodes};
    use opt_core::{Task, zoo};

    /// The engine sees what the reference interpreter sees, at every point of a calibration.
    #[test]
    fn the_engine_sees_what_the_interpreter_sees() {
        let mut task = Task::cifar10();
        task.input.shape = [3, 16, 16];
        for network in ["source_net", "resnet20", "mobilenet_v2_32"] {
            let model = fold(&zoo::build(network, &task, 3).unwrap()).unwrap();
            let points = observed_nodes(&model, &BTreeSet::new()).unwrap();
            let bytes =
                |seed: u32| (0..768).map(move |i| u8::try_from((i * 31 + seed * 7) % 256).unwrap());
            let batches = [
                bytes(0).chain(bytes(1)).collect::<Vec<u8>>(),
                bytes(5).collect(),
            ];
            let mut expected: BTreeMap<NodeId, Vec<f32>> = BTreeMap::new();
            let mut see = |o: &Observed<'_>| -> Look {
                expected.entry(o.node).or_default().extend(o.values);
                Ok(())
            };
            model
                .observe(&mut batches.clone().into_iter(), &points, &mut see)
                .unwrap();
            let mut found: BTreeMap<NodeId, Vec<f32>> = BTreeMap::new();
            let mut see = |o: &Observed<'_>| -> Look {
                assert_eq!(o.shape.iter().product::<usize>(), o.values.len());
                found.entry(o.node).or_default().extend(o.values);
                Ok(())
            };
            let engine = Observer::new(&model, &Options::default()).unwrap();
            engine
                .observe(&mut batches.into_iter(), &points, &mut see)
                .unwrap();
            assert_eq!(
                found.keys().collect::<Vec<_>>(),
                expected.keys().collect::<Vec<_>>()
            );
            for (node, expected) in expected {
                let found = &found[&node];
                assert_eq!(found.len(), expected.len());
                let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                for (f, e) in found.iter().zip(&expected) {
                    assert!(
                        (f - e).abs() <= 1e-4 * largest.max(1.0),
                        "{network}: {f} and {e}"
                    );
                }
            }
        }
    }

    #[test]
    fn half_an_image_and_a_look_that_ends_are_errors() {
        let model = fold(&zoo::build("source_net", &Task::cifar10(), 3).unwrap()).unwrap();
        let points = observed_nodes(&model, &BTreeSet::new()).unwrap();
        let engine = Observer::new(&model, &Options::default()).unwrap();
        let mut half = std::iter::once(vec![0; 100]);
        let error = engine
            .observe(&mut half, &points, &mut |_| Ok(()))
            .unwrap_err();
        assert!(error.to_string().contains("whole images"), "{error}");
        let mut whole = std::iter::once(vec![0; 3072]);
        let error = engine.observe(&mut whole, &points, &mut |_| Err("no".into()));
        assert!(matches!(error, Err(InferError::Look { .. })));
    }
}

//! Calibration: the ranges of a network's values on some images, and the integer network that follows from them.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use opt_core::lower::{Placement, QuantSpec, ResidualAdd, fold, lower, observed_nodes};
use opt_core::observe::{LookError, Observe, Observed};
use opt_core::{Model, QModel};
use opt_infer::{Observer, Options};
use opt_quant::{MinMax, RangeMethod, RangeObserver, WeightBits, min_max_spec};

use crate::{CompressError, Result};

/// A folded model with the ranges that calibration saw.
#[derive(Debug, Clone)]
pub struct Calibrated {
    /// Ready for integers.
    pub folded: Model,
    /// The range of every node that is rounded, by name.
    pub ranges: BTreeMap<String, MinMax>,
    /// Nodes that stay f32, by name.
    pub float: BTreeSet<String>,
}

/// Folds `model` and watches it on batches of images on the CPU engine. Each batch is whole images of bytes,
/// `[N, C, H, W]`. Ranges go from the smallest to the largest value. Nodes of the names in `float` stay f32.
///
/// # Errors
///
/// A model without an integer form, no image or half of one, a value that is not finite (names the node).
pub fn calibrate(
    model: &Model,
    float: &BTreeSet<String>,
    batches: impl Iterator<Item = Vec<u8>>,
) -> Result<Calibrated> {
    let engine = |folded: &Model| Observer::new(folded, &Options::default());
    calibrate_with(model, float, RangeMethod::MinMax, batches, engine)
}

/// As [`calibrate`], with ranges found by `method`, and run by whatever `observer` makes of the folded model: libtorch, the reference interpreter
/// (`|folded| Ok(folded.clone())`).
///
/// # Errors
///
/// Those of [`calibrate`], and of the observer.
pub fn calibrate_with<O, E>(
    model: &Model,
    float: &BTreeSet<String>,
    method: RangeMethod,
    mut batches: impl Iterator<Item = Vec<u8>>,
    observer: impl FnOnce(&Model) -> Result<O, E>,
) -> Result<Calibrated>
where
    O: Observe,
    O::Error: Into<Box<dyn Error + Send + Sync>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let folded = fold(model)?;
    let nodes = observed_nodes(&folded, float)?;
    let observer = observer(&folded).map_err(|e| CompressError::Calibrate(e.into()))?;
    let mut observers: BTreeMap<String, Box<dyn RangeObserver>> = BTreeMap::new();
    let mut see = |seen: &Observed<'_>| -> Result<(), LookError> {
        let name = folded.graph.nodes[seen.node].name.clone();
        let observer = observers.entry(name).or_insert_with(|| method.observer());
        Ok(observer.observe(seen.values)?)
    };
    observer
        .observe(&mut batches, &nodes, &mut see)
        .map_err(|e| CompressError::Calibrate(e.into()))?;
    let found = |(name, observer): (String, Box<dyn RangeObserver>)| (name, observer.found());
    if observers.is_empty() && !nodes.is_empty() {
        return Err(CompressError::NoImages);
    }
    Ok(Calibrated {
        folded,
        ranges: observers.into_iter().map(found).collect(),
        float: float.clone(),
    })
}

impl Calibrated {
    /// Min-max scales and nearest codes, with additions of this kind.
    ///
    /// # Errors
    ///
    /// Those of the quantizers.
    pub fn spec(&self, adds: ResidualAdd, bits: WeightBits) -> Result<QuantSpec> {
        let widths = bits.by_name(&self.folded).into();
        let placement = self.placement(adds);
        Ok(min_max_spec(
            &self.folded,
            &placement,
            &self.ranges,
            &widths,
        )?)
    }

    /// The quantized network, with additions of this kind.
    ///
    /// # Errors
    ///
    /// Those of [`Self::spec`].
    pub fn lower(&self, adds: ResidualAdd, bits: WeightBits) -> Result<QModel> {
        Ok(lower(&self.folded, &self.spec(adds, bits)?)?)
    }

    /// Which values are rounded, with additions of this kind.
    #[must_use]
    pub fn placement(&self, adds: ResidualAdd) -> Placement {
        Placement {
            adds,
            float: self.float.clone(),
        }
    }

    /// The same calibration for weights that were trained on: `trained` is the network of the same graph, its
    /// BatchNormalization folded.
    ///
    /// # Errors
    ///
    /// Those of folding.
    pub fn with_weights(&self, trained: &Model) -> Result<Self> {
        Ok(Self {
            folded: fold(trained)?,
            ranges: self.ranges.clone(),
            float: self.float.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opt_core::{Task, interpret_quantized, zoo};

    fn images() -> Vec<Vec<u8>> {
        let image = |n: u32| (0..192).map(move |i| u8::try_from((i * 37 + n * 11) % 256).unwrap());
        vec![image(0).chain(image(1)).collect(), image(2).collect()]
    }

    fn model(network: &str) -> Model {
        let mut task = Task::cifar10();
        task.input.shape = [3, 8, 8];
        zoo::build(network, &task, 5).unwrap()
    }

    #[test]
    fn the_engine_and_the_interpreter_give_nearly_one_network() {
        for network in ["source_net", "resnet20"] {
            let model = model(network);
            let none = BTreeSet::new();
            let engine = calibrate(&model, &none, images().into_iter()).unwrap();
            let slow = |folded: &Model| Ok::<_, CompressError>(folded.clone());
            let slow = calibrate_with(
                &model,
                &none,
                RangeMethod::MinMax,
                images().into_iter(),
                slow,
            )
            .unwrap();
            assert_eq!(
                engine.ranges.keys().collect::<Vec<_>>(),
                slow.ranges.keys().collect::<Vec<_>>()
            );
            for (name, range) in &engine.ranges {
                let other = &slow.ranges[name];
                let close = |a: f32, b: f32| (a - b).abs() <= 1e-4 * b.abs().max(1.0);
                assert!(
                    close(range.min, other.min) && close(range.max, other.max),
                    "{name}"
                );
            }
            for adds in [ResidualAdd::Fused, ResidualAdd::Explicit] {
                let network = engine.lower(adds, WeightBits::hidden(8)).unwrap();
                let logits = interpret_quantized::run(&network, &images()[1]).unwrap();
                assert_eq!(logits.outputs.len(), 10);
            }
        }
    }

    #[test]
    fn no_image_is_an_error_that_says_so() {
        let model = model("source_net");
        let none = BTreeSet::new();
        let error = calibrate(&model, &none, std::iter::empty()).unwrap_err();
        assert!(matches!(error, CompressError::NoImages), "{error}");
        let slow = |folded: &Model| Ok::<_, CompressError>(folded.clone());
        let error = calibrate_with(&model, &none, RangeMethod::MinMax, std::iter::empty(), slow)
            .unwrap_err();
        assert!(error.to_string().contains("there was none"), "{error}");
    }

    #[test]
    fn a_value_that_is_not_finite_names_its_node() {
        let mut model = model("source_net");
        let weight = model.params.get_mut("conv2.weight").unwrap();
        *weight = weight.mapv(|_| f32::MAX).into_shared();
        let error = calibrate(&model, &BTreeSet::new(), images().into_iter()).unwrap_err();
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        assert!(text.starts_with("calibrating: looking at node `"), "{text}");
    }
}

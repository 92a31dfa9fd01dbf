//! Weights that pruning removed stay removed: through folding, calibration, training with fake quantization, quantizing,
//! packing and reading back.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};

use opt_compress::{calibrate, quantize_weights};
use opt_core::lower::{ResidualAdd, fold_batch_norms, lower};
use opt_core::mask::{Mask, Masks, apply_masks};
use opt_core::{InputSpec, Model, Preparation, Task, interpret, interpret_quantized, zoo};
use opt_nn::optimizer::OptimizerOptions;
use opt_nn::quantized::FakeQuant;
use opt_nn::schedule::Schedule;
use opt_nn::train::{Constraints, CrossEntropy, NoHooks, TrainOptions, train};
use opt_nn::{Batch, BatchSource, Net, Precision};
use opt_quant::{Granularity, WeightBits, WeightMethod};
use tch::Device;

/// Sixteen images of two classes: bright at the top or at the bottom.
struct Bars;

fn bars(epoch: usize) -> Batch {
    let mut images = Vec::new();
    for n in 0..16usize {
        let shade = u8::try_from((37 * n + 11 * epoch) % 90).unwrap();
        for row in 0..28 {
            let bright = (row < 14) == (n % 2 == 0);
            images.extend([shade + if bright { 140 } else { 20 }; 28]);
        }
    }
    Batch {
        images,
        labels: [0, 1].repeat(8),
        indices: (0..16).collect(),
    }
}

impl BatchSource for Bars {
    fn epoch(&self, epoch: usize) -> Box<dyn Iterator<Item = Batch> + '_> {
        Box::new((0..4).map(move |index| bars(4 * epoch + index)))
    }
    fn batches_per_epoch(&self) -> usize {
        4
    }
}

/// A network with shifts, the smaller half of its weights removed, and one filter of a layer with all of its weights.
fn pruned() -> (Model, Masks) {
    let task = Task {
        input: InputSpec {
            shape: [1, 28, 28],
            mean: vec![0.5],
            std: vec![0.25],
            preparation: Preparation::usual([1, 28, 28]),
        },
        labels: vec!["top".to_owned(), "bottom".to_owned()],
    };
    let mut model = zoo::build("airbench_4_6_8", &task, 3).unwrap();
    for (name, param) in &mut model.params {
        if name.ends_with("bias") && param.len() > 2 {
            for (i, v) in param.iter_mut().enumerate() {
                *v = 0.2 - 0.05 * (i % 8) as f32;
            }
        }
    }
    let mut masks = Masks::new();
    for (layer, name) in model.weight_names().into_iter().enumerate() {
        let weight = model.param(name).unwrap();
        let half = Mask::keep_largest(weight.mapv(f32::abs).view(), weight.len() / 2);
        let mut keep = half.keep().to_owned();
        if layer == 2 {
            keep.index_axis_mut(ndarray::Axis(0), 1).fill(false);
        }
        masks.insert(name.to_owned(), Mask::new(keep));
    }
    (apply_masks(&model, &masks).unwrap(), masks)
}

/// The names of weights with something else than zero where the mask removed it.
fn revived<T: PartialEq + Default + Copy>(
    masks: &Masks,
    weight: &str,
    values: impl IntoIterator<Item = T>,
) -> usize {
    let keep = masks[weight].keep();
    let removed = keep.iter().zip(values).filter(|(keep, _)| !**keep);
    removed.filter(|(_, v)| *v != T::default()).count()
}

#[test]
fn zeros_survive_calibration_training_packing_and_reading() {
    let (model, masks) = pruned();
    let calibrated = calibrate(&model, &BTreeSet::new(), std::iter::once(bars(0).images)).unwrap();
    for name in model.weight_names() {
        let folded = &calibrated.folded.params[name];
        assert_eq!(revived(&masks, name, folded.iter().copied()), 0, "{name}");
    }
    for bits in [WeightBits::hidden(8), WeightBits::hidden(3)] {
        let plain = fold_batch_norms(&model).unwrap();
        let spec = calibrated.spec(ResidualAdd::Fused, bits).unwrap();
        let widths = bits.by_name(&plain);
        let fake_quant =
            FakeQuant::new(&plain, &spec.placement, &spec.activations, widths).unwrap();
        let mut net = Net::new(&plain, Device::Cpu).unwrap();
        let options = TrainOptions {
            epochs: 2,
            lr: 0.002,
            schedule: Schedule::OneCycle {
                peak: 0.3,
                start: 0.2,
                end: 0.0,
            },
            optimizer: OptimizerOptions::default(),
            precision: Precision::F32,
        };
        let mut loss = CrossEntropy {
            label_smoothing: 0.0,
        };
        let constraints = Constraints {
            masks: Some(&masks),
            fake_quant: Some(&fake_quant),
            ..Constraints::default()
        };
        train(
            &mut net,
            &Bars,
            &mut loss,
            &options,
            constraints,
            &mut NoHooks,
        )
        .unwrap();
        let trained = net.to_model().unwrap();
        assert_ne!(trained.params, plain.params, "training did something");
        let trained = calibrated.with_weights(&trained).unwrap();
        for calibrated in [&calibrated, &trained] {
            for adds in [ResidualAdd::Fused, ResidualAdd::Explicit] {
                let spec = calibrated.spec(adds, bits).unwrap();
                let lowered = lower(&calibrated.folded, &spec).unwrap();
                let bytes = opt_artifact::write_qmodel(&lowered, &BTreeMap::default()).unwrap();
                let read = opt_artifact::read_qmodel(&bytes).unwrap();
                let read: Vec<_> = read.nodes.iter().filter_map(|n| n.op.weight()).collect();
                let names = calibrated.folded.weight_names();
                assert_eq!(read.len(), names.len());
                for ((weight, _), name) in read.into_iter().zip(names) {
                    assert_eq!(weight, &spec.weights[name]);
                    let codes = weight.codes.iter().copied();
                    assert_eq!(revived(&masks, name, codes), 0, "{name} {bits:?} {adds:?}");
                }
                // The filter without weights still gives its shift: the network is the one that was calibrated.
                if bits.hidden == 8 {
                    let image = &bars(0).images[..28 * 28];
                    let folded = &calibrated.folded;
                    let real = interpret::run(folded, &folded.input.normalize(image)).unwrap();
                    let real = &real[folded.graph.output()];
                    let size = real.iter().fold(0f32, |m, v| m.max(v.abs()));
                    let logits = interpret_quantized::run(&lowered, image).unwrap().outputs;
                    for (a, b) in real.iter().zip(&logits) {
                        // Seven layers of 8 bits; a lost shift changes the logits by their own size.
                        assert!((a - b).abs() < 0.1 * size, "{adds:?}: {real:?} {logits:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn zeros_survive_the_codings_that_keep_zero() {
    let (model, masks) = pruned();
    let methods = [
        WeightMethod::Affine { bits: 4 },
        WeightMethod::Symmetric {
            bits: 4,
            granularity: Granularity::PerChannel,
        },
        WeightMethod::Symmetric {
            bits: 2,
            granularity: Granularity::PerTensor,
        },
        WeightMethod::UniformLevelsKeepingZero { bits: 3 },
        WeightMethod::KMeans {
            levels: 8,
            pin_zero: true,
        },
    ];
    for method in methods {
        let coded = quantize_weights(&model, method).unwrap();
        let bytes =
            opt_artifact::write_model_with_codes(&coded.model, &coded.codes, &BTreeMap::default())
                .unwrap();
        let read = opt_artifact::read_model(&bytes).unwrap();
        for name in model.weight_names() {
            let values = read.params[name].iter().copied();
            assert_eq!(revived(&masks, name, values), 0, "{name} {method:?}");
        }
    }
}

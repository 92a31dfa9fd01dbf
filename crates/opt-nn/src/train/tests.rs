//! The loop learns, repeats itself, holds masks, rounds, and leaves its teacher alone.

use super::*;
use crate::Batch;
use crate::evaluate::evaluate;
use crate::optimizer::{AdamWOptions, Averaging, Rule, SgdOptions};
use crate::quantized::FakeQuant;
use opt_core::lower::{ResidualAdd, fold, fold_batch_norms, fuse};
use opt_core::mask::Mask;
use opt_core::{InputSpec, Model, QParams, Task, interpret, zoo};
use tch::Device;

/// Two classes of 28×28 images: bright at the top or at the bottom.
struct Bars;

impl Bars {
    fn batch(epoch: usize, index: usize) -> Batch {
        let mut images = Vec::new();
        let mut labels = Vec::new();
        for n in 0..16usize {
            let label = n % 2;
            let shade = u8::try_from((37 * (n + 16 * index) + 11 * epoch) % 90).unwrap();
            for row in 0..28 {
                let bright = (row < 14) == (label == 0);
                images.extend([shade + if bright { 140 } else { 20 }; 28]);
            }
            labels.push(i64::try_from(label).unwrap());
        }
        let indices = (0..16).collect();
        Batch {
            images,
            labels,
            indices,
        }
    }
}

impl BatchSource for Bars {
    fn epoch(&self, epoch: usize) -> Box<dyn Iterator<Item = Batch> + '_> {
        Box::new((0..4).map(move |index| Self::batch(epoch, index)))
    }
    fn batches_per_epoch(&self) -> usize {
        4
    }
}

fn model() -> Model {
    let task = Task {
        input: InputSpec {
            shape: [1, 28, 28],
            mean: vec![0.5],
            std: vec![0.25],
            preparation: opt_core::Preparation::usual([1, 28, 28]),
        },
        labels: vec!["top".to_owned(), "bottom".to_owned()],
    };
    zoo::build("airbench_4_4_4", &task, 3).unwrap()
}

fn options(precision: Precision) -> TrainOptions {
    TrainOptions {
        epochs: 3,
        lr: 0.05,
        schedule: Schedule::OneCycle {
            peak: 0.3,
            start: 0.2,
            end: 0.0,
        },
        optimizer: OptimizerOptions::default(),
        precision,
    }
}

fn run(
    model: &Model,
    precision: Precision,
    constraints: Constraints<'_>,
) -> (Net, Vec<EpochReport>) {
    let mut options = options(precision);
    if constraints.fake_quant.is_some() {
        options.lr = 0.001;
        options.epochs = 8;
    }
    let mut net = Net::new(model, Device::Cpu).unwrap();
    let mut loss = CrossEntropy {
        label_smoothing: 0.0,
    };
    let reports = train(
        &mut net,
        &Bars,
        &mut loss,
        &options,
        constraints,
        &mut NoHooks,
    )
    .unwrap();
    (net, reports)
}

#[test]
fn forward_equals_the_reference_interpreter() {
    let mut task = Task::cifar10();
    task.input.shape = [3, 28, 28];
    let images: Vec<u8> = (0..2 * 3 * 28 * 28usize)
        .map(|i| u8::try_from((i * 31 + i / 7) % 256).unwrap())
        .collect();
    for name in ["resnet20", "resnet20_b", "airbench_4_6_8", "source_net"] {
        let model = zoo::build(name, &task, 4).unwrap();
        let net = Net::new(&model, Device::Cpu).unwrap();
        let batch = Batch {
            images: images.clone(),
            labels: vec![0, 1],
            indices: vec![0, 1],
        };
        let bytes = batch.bytes(&task.input, Device::Cpu).unwrap();
        let taps: Vec<usize> = (0..model.graph.nodes.len()).collect();
        let _no_grad = tch::no_grad_guard();
        let outputs = forward(&net, &bytes, Mode::Evaluate, Precision::F32, &taps);
        for (n, image) in images.chunks_exact(3 * 28 * 28).enumerate() {
            let expected = interpret::run(&model, &task.input.normalize(image)).unwrap();
            for (id, expected) in expected.iter().enumerate() {
                let found = crate::net::to_vec(&outputs.taps[id]).unwrap();
                let found = &found[n * expected.len()..][..expected.len()];
                let size = expected.iter().fold(1f32, |m, v| m.max(v.abs()));
                for (a, b) in found.iter().zip(expected) {
                    // f32 sums of up to 6272 terms through 20 layers.
                    assert!((a - b).abs() < 1e-4 * size, "{name} node {id}: {a} {b}");
                }
            }
        }
    }
}

/// Values are overwritten where no gradient needs them; with every node tapped none is.
#[test]
fn overwriting_changes_no_gradient() {
    let mut task = Task::cifar10();
    task.input.shape = [3, 28, 28];
    for name in ["resnet20", "resnet20_b", "airbench_4_6_8", "source_net"] {
        for precision in [Precision::F32, Precision::Bf16] {
            let model = zoo::build(name, &task, 4).unwrap();
            let batch = Batch {
                images: (0..2 * 3 * 28 * 28usize)
                    .map(|i| u8::try_from((i * 31 + i / 7) % 256).unwrap())
                    .collect(),
                labels: vec![0, 1],
                indices: vec![0, 1],
            };
            let gradients = |taps: &[usize]| {
                let mut net = Net::new(&model, Device::Cpu).unwrap();
                let options = OptimizerOptions::default();
                let optimizer =
                    Optimizer::new(&mut net, Vec::new(), &options, &Masks::new()).unwrap();
                let bytes = batch.bytes(&task.input, Device::Cpu).unwrap();
                let outputs = forward(&net, &bytes, Mode::Train, precision, taps);
                let loss = outputs
                    .logits
                    .cross_entropy_for_logits(&batch.labels(10, Device::Cpu).unwrap());
                let parameters: Vec<&Tensor> =
                    optimizer.names().iter().map(|n| net.tensor(n)).collect();
                let gradients =
                    Tensor::f_run_backward(&[&loss], &parameters, false, false).unwrap();
                gradients
                    .iter()
                    .map(|g| crate::net::to_vec(g).unwrap())
                    .collect::<Vec<_>>()
            };
            let every: Vec<usize> = (0..model.graph.nodes.len()).collect();
            let (overwritten, kept) = (gradients(&[]), gradients(&every));
            assert!(overwritten == kept, "{name} {precision:?}");
            assert!(kept.iter().flatten().any(|g| *g != 0.0));
        }
    }
}

#[test]
fn training_learns_and_repeats_itself_to_the_bit() {
    for precision in [Precision::F32, Precision::Bf16] {
        let (net, reports) = run(&model(), precision, Constraints::default());
        assert!(reports[2].train_top1 > 90.0, "{reports:?}");
        assert!(reports[2].terms[0].1 < reports[0].terms[0].1);
        let evaluation = evaluate(&net, Bars.epoch(7)).unwrap();
        assert_eq!((evaluation.top1, evaluation.predictions.len()), (100.0, 64));
        let (again, _) = run(&model(), precision, Constraints::default());
        assert_eq!(net.to_model().unwrap(), again.to_model().unwrap());
    }
}

#[test]
fn masks_hold_through_the_loop() {
    let name = "blocks.1.conv1.weight";
    let shape = model().params[name].shape().to_vec();
    let keep = ndarray::ArrayD::from_shape_fn(shape, |i| (i[0] + i[1]) % 2 == 0);
    let masks = Masks::from([(name.to_owned(), Mask::new(keep.clone()))]);
    let constraints = Constraints {
        masks: Some(&masks),
        ..Constraints::default()
    };
    let (net, _) = run(&model(), Precision::F32, constraints);
    for (w, keep) in net.to_model().unwrap().params[name].iter().zip(&keep) {
        assert_eq!(*w != 0.0, *keep);
    }
}

/// A teacher's logits times their own mean: a loss that fails if the teacher is not there.
struct Match;
impl Loss for Match {
    fn loss(
        &mut self,
        _batch: &BatchInfo<'_>,
        student: &Outputs,
        teacher: Option<&Outputs>,
    ) -> std::result::Result<Vec<Term>, Box<dyn std::error::Error + Send + Sync>> {
        let teacher = teacher.ok_or("no teacher")?;
        let value = (&student.logits - &teacher.logits)
            .square()
            .mean(Kind::Float);
        Ok(vec![Term {
            name: "match",
            value,
        }])
    }
}

#[test]
fn the_teacher_keeps_every_byte_and_the_student_follows() {
    let (teacher, _) = run(&model(), Precision::F32, Constraints::default());
    let before = teacher.to_model().unwrap();
    let mut student = Net::new(&model(), Device::Cpu).unwrap();
    let constraints = Constraints {
        teacher: Some(&teacher),
        ..Constraints::default()
    };
    let options = options(Precision::F32);
    let reports = train(
        &mut student,
        &Bars,
        &mut Match,
        &options,
        constraints,
        &mut NoHooks,
    )
    .unwrap();
    assert_eq!(teacher.to_model().unwrap(), before);
    assert!(
        reports[2].terms[0].1 < 0.5 * reports[0].terms[0].1,
        "{reports:?}"
    );
    // Without a teacher the loss's own error arrives, with its place.
    let error = train(
        &mut student,
        &Bars,
        &mut Match,
        &options,
        Constraints::default(),
        &mut NoHooks,
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the loss of epoch 1, batch 1, counted from 1: no teacher"
    );
}

/// A projector: logits through a matrix of the loss's own.
struct Connected(Tensor);
impl Loss for Connected {
    fn parameters(&mut self) -> Vec<&mut Tensor> {
        vec![&mut self.0]
    }
    fn loss(
        &mut self,
        batch: &BatchInfo<'_>,
        student: &Outputs,
        _teacher: Option<&Outputs>,
    ) -> std::result::Result<Vec<Term>, Box<dyn std::error::Error + Send + Sync>> {
        let value = student
            .logits
            .matmul(&self.0)
            .cross_entropy_for_logits(batch.labels);
        Ok(vec![Term { name: "ce", value }])
    }
}

/// Prunes half of the linear layer before the second epoch, and counts what it sees.
#[derive(Default)]
struct Scheduled {
    steps: usize,
    gradients: usize,
}
impl Hooks for Scheduled {
    fn on_epoch(&mut self, epoch: usize, net: &Net) -> Result<Changes> {
        let shape = net.to_model()?.params["head.weight"].shape().to_vec();
        let keep = ndarray::ArrayD::from_shape_fn(shape, |i| i[1] % 2 == 0);
        let masks = Masks::from([("head.weight".to_owned(), Mask::new(keep))]);
        Ok(Changes {
            masks: (epoch == 1).then_some(masks),
            fake_quant: None,
        })
    }
    fn after_backward(&mut self, _net: &Net, names: &[String], gradients: &mut [Tensor]) {
        self.gradients = gradients.len() - names.len();
    }
    fn after_step(&mut self, net: &Net, optimizer: &mut Optimizer, progress: Progress) {
        self.steps += 1;
        assert!(optimizer.momentum().numel() > net.tensor("head.weight").numel());
        assert!(progress.train_top1 <= 100.0);
    }
}

#[test]
fn projectors_are_trained_and_schedules_take_effect() {
    let mut net = Net::new(&model(), Device::Cpu).unwrap();
    let start = Tensor::eye(2, (Kind::Float, Device::Cpu));
    let mut loss = Connected(start.copy());
    let mut hooks = Scheduled::default();
    let options = options(Precision::F32);
    train(
        &mut net,
        &Bars,
        &mut loss,
        &options,
        Constraints::default(),
        &mut hooks,
    )
    .unwrap();
    assert!((&loss.0 - start).abs().max().double_value(&[]) > 1e-4);
    assert_eq!((hooks.steps, hooks.gradients), (12, 1));
    for (i, w) in net.to_model().unwrap().params["head.weight"].indexed_iter() {
        assert_eq!(*w != 0.0, i[1] % 2 == 0, "{i:?}");
    }
}

#[test]
fn divergence_is_reported_where_it_happens() {
    let mut net = Net::new(&model(), Device::Cpu).unwrap();
    let options = TrainOptions {
        lr: 1e30,
        schedule: Schedule::Constant,
        ..options(Precision::F32)
    };
    let mut loss = CrossEntropy {
        label_smoothing: 0.0,
    };
    let error = train(
        &mut net,
        &Bars,
        &mut loss,
        &options,
        Constraints::default(),
        &mut NoHooks,
    )
    .unwrap_err();
    assert!(
        matches!(error, NnError::Diverged { epoch: 0, .. }),
        "{error}"
    );
}

#[test]
fn cross_entropy_follows_its_formula() {
    let rows = [[1f64, 2.0, 0.5], [0.0, -1.0, 3.0]];
    let labels = [0usize, 2];
    let net = Net::new(&model(), Device::Cpu).unwrap();
    for smoothing in [0.0, 0.2, 0.9] {
        let student = Outputs {
            logits: Tensor::from_slice(&rows.concat())
                .reshape([2, 3])
                .to_kind(Kind::Float),
            taps: Vec::new(),
        };
        let batch = BatchInfo {
            labels: &Tensor::from_slice(&[0i64, 2]),
            indices: &[0, 1],
            epoch: 0,
            index: 0,
            net: &net,
        };
        let mut loss = CrossEntropy {
            label_smoothing: smoothing,
        };
        let terms = loss.loss(&batch, &student, None).unwrap();
        assert_eq!((terms.len(), terms[0].name), (1, "ce"));
        let mut expected = 0.0;
        for (row, label) in rows.iter().zip(labels) {
            let log_sum = row.iter().map(|z| z.exp()).sum::<f64>().ln();
            for (class, z) in row.iter().enumerate() {
                let hot = f64::from(u8::from(class == label));
                let target = (1.0 - smoothing) * hot + smoothing / 3.0;
                expected -= target * (z - log_sum) / 2.0;
            }
        }
        let found = terms[0].value.double_value(&[]);
        // f32 against f64 on numbers below 4.
        assert!(
            (found - expected).abs() < 1e-6,
            "{smoothing}: {found} for {expected}"
        );
    }
}

/// Batches of 16 and of 8 images.
struct Uneven;
impl BatchSource for Uneven {
    fn epoch(&self, epoch: usize) -> Box<dyn Iterator<Item = Batch> + '_> {
        let mut second = Bars::batch(epoch, 1);
        second.images.truncate(8 * 28 * 28);
        second.labels.truncate(8);
        second.indices.truncate(8);
        Box::new([Bars::batch(epoch, 0), second].into_iter())
    }
    fn batches_per_epoch(&self) -> usize {
        2
    }
}

/// Cross-entropy and, if asked, half of it as a part of its own; remembers images, loss and right answers of every batch.
#[derive(Default)]
struct Parts {
    with_half: bool,
    seen: Vec<(f64, f64, f64)>,
}
impl Loss for Parts {
    fn loss(
        &mut self,
        batch: &BatchInfo<'_>,
        student: &Outputs,
        _teacher: Option<&Outputs>,
    ) -> std::result::Result<Vec<Term>, Box<dyn std::error::Error + Send + Sync>> {
        let value = student.logits.cross_entropy_for_logits(batch.labels);
        let right = student.logits.argmax(1, false).eq_tensor(batch.labels);
        let right = right.sum(Kind::Int64).int64_value(&[]) as f64;
        let images = batch.labels.numel() as f64;
        self.seen.push((images, value.double_value(&[]), right));
        let half = Term {
            name: "half",
            value: &value * 0.5,
        };
        let mut terms = vec![Term { name: "ce", value }];
        if self.with_half {
            terms.push(half);
        }
        Ok(terms)
    }
}

/// Remembers the first gradient of the linear layer, and all progress.
#[derive(Default)]
struct Remembers {
    gradient: Vec<f32>,
    progress: Vec<Progress>,
}
impl Hooks for Remembers {
    fn after_backward(&mut self, _net: &Net, names: &[String], gradients: &mut [Tensor]) {
        if self.gradient.is_empty() {
            let at = names.iter().position(|n| n == "head.weight").unwrap();
            self.gradient = crate::net::to_vec(&gradients[at]).unwrap();
        }
    }
    fn after_step(&mut self, _net: &Net, _optimizer: &mut Optimizer, progress: Progress) {
        self.progress.push(progress);
    }
}

#[test]
fn reports_and_progress_are_means_over_images_and_the_loss_is_the_sum_of_its_parts() {
    let options = options(Precision::F32);
    let mut gradients = Vec::new();
    for with_half in [false, true] {
        let mut net = Net::new(&model(), Device::Cpu).unwrap();
        let mut loss = Parts {
            with_half,
            ..Parts::default()
        };
        let mut hooks = Remembers::default();
        let none = Constraints::default();
        let reports = train(&mut net, &Uneven, &mut loss, &options, none, &mut hooks).unwrap();
        gradients.push(hooks.gradient);
        assert_eq!((reports.len(), loss.seen.len()), (3, 6));
        for (epoch, report) in reports.iter().enumerate() {
            let seen = &loss.seen[2 * epoch..][..2];
            let loss = seen.iter().map(|(n, loss, _)| n * loss).sum::<f64>() / 24.0;
            let top1 = 100.0 * seen.iter().map(|(_, _, right)| right).sum::<f64>() / 24.0;
            let names: Vec<&str> = report.terms.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(
                names,
                if with_half {
                    vec!["ce", "half"]
                } else {
                    vec!["ce"]
                }
            );
            for ((_, found), factor) in report.terms.iter().zip([1.0, 0.5]) {
                // f32 halves of f32 numbers.
                assert!(
                    (found - factor * loss).abs() < 1e-6,
                    "{report:?} for {loss}"
                );
            }
            assert!(
                (report.train_top1 - top1).abs() < 1e-9,
                "{report:?} for {top1}"
            );
            assert!(
                (report.images_per_second * report.seconds - 24.0).abs() < 1e-6,
                "{report:?}"
            );
            // The last of six steps is at 5/6: linearly down from the peak at 0.3.
            let at = (2.0 * epoch as f64 + 1.0) / 6.0;
            let factor = if at < 0.3 {
                0.2 + 0.8 * at / 0.3
            } else {
                1.0 - (at - 0.3) / 0.7
            };
            assert!((report.lr - 0.05 * factor).abs() < 1e-12, "{report:?}");
            let mut done = (0.0, 0.0);
            for (batch, (images, _, right)) in seen.iter().enumerate() {
                let progress = hooks.progress[2 * epoch + batch];
                assert_eq!(
                    (progress.epoch, progress.batch, progress.batches),
                    (epoch, batch + 1, 2)
                );
                done = (done.0 + images, done.1 + right);
                assert!(
                    (progress.train_top1 - 100.0 * done.1 / done.0).abs() < 1e-9,
                    "{progress:?}"
                );
                // So far cannot have taken longer than all.
                assert!(
                    progress.images_per_second * report.seconds >= done.0,
                    "{progress:?}"
                );
            }
        }
    }
    for (one, both) in gradients[0].iter().zip(&gradients[1]) {
        assert!(
            (1.5 * one - both).abs() <= 1e-6 * one.abs().max(1e-3),
            "{one} {both}"
        );
    }
}

/// Lookahead whose one step is the last of all, at the share 1 of the training: with a decay of 1 it ends where it began.
#[test]
fn the_last_step_is_the_whole_of_the_training() {
    let mut options = options(Precision::F32);
    options.optimizer.averaging = Averaging::Lookahead {
        every: 12,
        decay: 1.0,
    };
    let mut net = Net::new(&model(), Device::Cpu).unwrap();
    let mut loss = Parts::default();
    let none = Constraints::default();
    train(&mut net, &Bars, &mut loss, &options, none, &mut NoHooks).unwrap();
    assert_ne!(loss.seen[0].1, loss.seen[11].1);
    assert_eq!(
        net.to_model().unwrap().params["head.weight"],
        model().params["head.weight"]
    );
}

/// Fills a parameter with `value` after the last step of all, or its gradient before it.
struct Spoils {
    value: f64,
    name: &'static str,
    gradient: bool,
    steps: usize,
}
impl Hooks for Spoils {
    fn after_backward(&mut self, _net: &Net, names: &[String], gradients: &mut [Tensor]) {
        self.steps += 1;
        if self.gradient && self.steps == 12 {
            let at = names.iter().position(|n| n == self.name).unwrap();
            let _ = gradients[at].shallow_clone().fill_(self.value);
        }
    }
    fn after_step(&mut self, net: &Net, _optimizer: &mut Optimizer, progress: Progress) {
        if !self.gradient && (progress.epoch, progress.batch) == (2, progress.batches) {
            let _no_grad = tch::no_grad_guard();
            let _ = net.tensor(self.name).shallow_clone().fill_(self.value);
        }
    }
}

fn error_of(options: &TrainOptions, loss: &mut dyn Loss, hooks: &mut dyn Hooks) -> NnError {
    let mut net = Net::new(&model(), Device::Cpu).unwrap();
    let none = Constraints::default();
    train(&mut net, &Bars, loss, options, none, hooks).unwrap_err()
}

#[test]
fn an_epoch_that_leaves_a_number_that_is_not_finite_has_diverged() {
    let mut plain = CrossEntropy {
        label_smoothing: 0.0,
    };
    for (value, name, gradient, expected) in [
        // A gradient that nobody looks at any more.
        (
            f64::NAN,
            "head.weight",
            true,
            "`weights` holds NaN at the parameter `head.weight`",
        ),
        (
            f64::INFINITY,
            "blocks.0.norm1.bias",
            true,
            "`weights` holds -inf at the parameter `blocks.0.norm1.bias`",
        ),
        // Its variance is infinite: every value after it is the same, and every loss finite.
        (
            f64::INFINITY,
            "blocks.1.norm2.running_var",
            false,
            "`statistic.blocks.1.norm2.running_var` holds inf",
        ),
    ] {
        let options = options(Precision::F32);
        let mut hooks = Spoils {
            value,
            name,
            gradient,
            steps: 0,
        };
        let error = error_of(&options, &mut plain, &mut hooks);
        assert!(
            matches!(
                error,
                NnError::Diverged {
                    epoch: 2,
                    batch: 3,
                    ..
                }
            ),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
        assert!(
            text.contains("epoch 3, batch 4, counted from 1") && text.contains("learning rate"),
            "{text}"
        );
    }
}

/// A loss that is finite whatever the logits are.
struct Bounded;
impl Loss for Bounded {
    fn loss(
        &mut self,
        _batch: &BatchInfo<'_>,
        student: &Outputs,
        _teacher: Option<&Outputs>,
    ) -> std::result::Result<Vec<Term>, Box<dyn std::error::Error + Send + Sync>> {
        let value = student.logits.clamp(-1.0, 1.0).mean(Kind::Float);
        Ok(vec![Term {
            name: "mean",
            value,
        }])
    }
}

/// A network of finite numbers whose logits are infinite: its features are not negative, and some are above 2.
fn too_large() -> Model {
    let mut model = model();
    model.params.get_mut("head.weight").unwrap().fill(3e38);
    model
        .params
        .get_mut("blocks.2.norm2.bias")
        .unwrap()
        .fill(9.0);
    model
}

#[test]
fn a_logit_that_is_not_finite_ends_the_training_whatever_the_loss_is() {
    let mut net = Net::new(&too_large(), Device::Cpu).unwrap();
    let options = options(Precision::F32);
    let none = Constraints::default();
    let error = train(&mut net, &Bars, &mut Bounded, &options, none, &mut NoHooks).unwrap_err();
    assert!(
        matches!(
            error,
            NnError::Diverged {
                epoch: 0,
                batch: 0,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .starts_with("a logit is inf in epoch 1, batch 1"),
        "{error}"
    );
    // And it has no accuracy.
    let error = evaluate(&net, Bars.epoch(0)).unwrap_err();
    assert!(
        matches!(
            error,
            NnError::NoAnswer {
                image: 0,
                class: 0,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_teacher_that_has_diverged_is_named() {
    let teacher = Net::new(&too_large(), Device::Cpu).unwrap();
    let mut net = Net::new(&model(), Device::Cpu).unwrap();
    let options = options(Precision::F32);
    let taught = Constraints {
        teacher: Some(&teacher),
        ..Constraints::default()
    };
    let error = train(&mut net, &Bars, &mut Match, &options, taught, &mut NoHooks).unwrap_err();
    assert!(matches!(error, NnError::Teacher { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("the teacher's logits hold inf in epoch 1"),
        "{error}"
    );
}

#[test]
fn fake_quantization_trains_a_folded_network() {
    let (net, _) = run(&model(), Precision::F32, Constraints::default());
    let plain = fold_batch_norms(&net.to_model().unwrap()).unwrap();
    let folded = fold(&plain).unwrap();
    let activations = fuse(&folded, &ResidualAdd::Fused.into())
        .unwrap()
        .into_iter()
        .filter(|s| s.requantizes(&folded))
        .map(|s| {
            let name = folded.graph.nodes[s.value].name.clone();
            (name, QParams::new(0.05, 0, 0, 255).unwrap())
        })
        .collect();
    let bits = folded
        .weight_names()
        .into_iter()
        .map(|n| (n.to_owned(), 4))
        .collect();
    let fake_quant =
        FakeQuant::new(&plain, &ResidualAdd::Fused.into(), &activations, bits).unwrap();
    let constraints = Constraints {
        fake_quant: Some(&fake_quant),
        ..Constraints::default()
    };
    let (trained, reports) = run(&plain, Precision::F32, constraints);
    assert!(reports[7].train_top1 > 90.0, "{reports:?}");
    // Every layer was reached by a gradient.
    let after = trained.to_model().unwrap();
    for name in plain.weight_names() {
        assert_ne!(after.params[name], plain.params[name], "{name}");
    }
    // A network with normalisation is refused.
    assert!(
        FakeQuant::new(
            &model(),
            &ResidualAdd::Fused.into(),
            &activations,
            Default::default()
        )
        .is_err()
    );
}

#[test]
fn wrong_batches_are_named() {
    let net = Net::new(&model(), Device::Cpu).unwrap();
    let mut batch = Bars::batch(0, 0);
    batch.labels[3] = 2;
    let message = |batch: &Batch| {
        let bytes = batch.bytes(net.input(), Device::Cpu).err();
        let labels = batch.labels(net.classes(), Device::Cpu).err();
        bytes.or(labels).unwrap().to_string()
    };
    assert_eq!(message(&batch), "batch: label 2 of 2 classes");
    batch.images.pop();
    assert!(message(&batch).contains("12543 bytes for 16 images of 1×28×28"));
}

/// Keeps the state of every epoch, stops after `stop` epochs and goes on from `from`.
#[derive(Default)]
struct Interrupted {
    from: Option<TrainState>,
    stop: Option<usize>,
    kept: Option<TrainState>,
    prunes: bool,
}
impl Hooks for Interrupted {
    fn on_epoch(&mut self, epoch: usize, net: &Net) -> Result<Changes> {
        if self.prunes {
            Scheduled::default().on_epoch(epoch, net)
        } else {
            Ok(Changes::default())
        }
    }
    fn resume(&mut self) -> Result<Option<TrainState>> {
        Ok(self.from.take())
    }
    fn epoch_done(
        &mut self,
        _net: &Net,
        reports: &[EpochReport],
        state: &dyn Fn() -> Result<TrainState>,
    ) -> Result<()> {
        self.kept = Some(state()?);
        match self.stop {
            Some(stop) if stop == reports.len() => Err(NnError::Batch {
                problem: "stopped".to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

#[test]
fn a_resumed_training_ends_with_the_same_bytes() {
    let rules = [
        (Rule::Sgd(SgdOptions::default()), 0.05),
        (Rule::AdamW(AdamWOptions::default()), 0.005),
    ];
    let averages = [
        Averaging::None,
        Averaging::Ema { decay: 0.9 },
        Averaging::Lookahead {
            every: 3,
            decay: 0.7,
        },
    ];
    for ((rule, lr), averaging) in rules.iter().flat_map(|r| averages.map(|a| (*r, a))) {
        let options = TrainOptions {
            lr,
            optimizer: OptimizerOptions {
                rule,
                averaging,
                ..OptimizerOptions::default()
            },
            ..options(Precision::Bf16)
        };
        let run = |hooks: &mut Interrupted| {
            let mut net = Net::new(&model(), Device::Cpu).unwrap();
            // A projector is trained with the network and belongs to the state.
            let mut loss = Connected(Tensor::eye(2, (Kind::Float, Device::Cpu)));
            let none = Constraints::default();
            let done = train(&mut net, &Bars, &mut loss, &options, none, hooks);
            let projector = crate::net::to_vec(&loss.0).unwrap();
            done.map(|reports| (net.to_model().unwrap(), projector, reports))
        };
        for prunes in [false, true] {
            let hooks = |from, stop| Interrupted {
                from,
                stop,
                kept: None,
                prunes,
            };
            let (whole, projector, reports) = run(&mut hooks(None, None)).unwrap();
            for stop in 1..3 {
                let mut first = hooks(None, Some(stop));
                run(&mut first).unwrap_err();
                let (resumed, again, later) = run(&mut hooks(first.kept, None)).unwrap();
                assert_eq!(resumed, whole, "{rule:?} {averaging:?} after {stop}");
                assert_eq!(again, projector);
                let losses = |reports: &[EpochReport]| -> Vec<f64> {
                    reports.iter().map(|r| r.terms[0].1).collect()
                };
                assert_eq!(losses(&later), losses(&reports));
            }
        }
    }
}

//! The one training loop, open at an [`Loss`] and at [`Hooks`], and at no other place.

use std::time::Instant;

use opt_core::mask::Masks;
use tch::{Kind, Tensor};

use crate::batch::BatchSource;
use crate::evaluate::first_not_finite;
use crate::forward::{Mode, Outputs, Precision, forward, resolve_taps};
use crate::optimizer::{Optimizer, OptimizerOptions, OptimizerState};
use crate::quantized::FakeQuant;
use crate::schedule::Schedule;
use crate::{Net, NnError, Result, device};

/// A named part of the loss; the loss is the sum of all parts.
#[derive(Debug)]
pub struct Term {
    /// Its name in curves, such as `ce`.
    pub name: &'static str,
    /// A scalar that carries the gradient.
    pub value: Tensor,
}

/// What a loss may know about the batch.
#[derive(Debug)]
pub struct BatchInfo<'a> {
    /// `[N]`.
    pub labels: &'a Tensor,
    /// Which samples these are.
    pub indices: &'a [u32],
    /// Epoch, from 0.
    pub epoch: usize,
    /// Batch within the epoch, from 0.
    pub index: usize,
    /// The network that is trained, for losses that read its parameters.
    pub net: &'a Net,
}

/// What is minimised.
pub trait Loss {
    /// The nodes of student and teacher whose values [`Self::loss`] reads.
    fn taps(&self) -> Taps {
        Taps::default()
    }

    /// Tensors of its own that are trained with the network (projectors between features of different width). The loop
    /// replaces each by a view of its buffer and updates it; they are no part of the network.
    fn parameters(&mut self) -> Vec<&mut Tensor> {
        Vec::new()
    }

    /// The parts of the loss of one batch.
    ///
    /// # Errors
    ///
    /// Whatever the method says; the loop adds where it was.
    fn loss(
        &mut self,
        batch: &BatchInfo<'_>,
        student: &Outputs,
        teacher: Option<&Outputs>,
    ) -> std::result::Result<Vec<Term>, Box<dyn std::error::Error + Send + Sync>>;
}

/// Node names to tap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taps {
    /// In the network that is trained.
    pub student: Vec<String>,
    /// In the teacher.
    pub teacher: Vec<String>,
}

/// Cross-entropy with the labels.
///
/// ```text
/// L = -1/B Σ_i Σ_c t_ic · log softmax(z_i)_c        t = (1 - ε)·onehot(y) + ε/C
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CrossEntropy {
    /// ε.
    pub label_smoothing: f64,
}

impl Loss for CrossEntropy {
    fn loss(
        &mut self,
        batch: &BatchInfo<'_>,
        student: &Outputs,
        _teacher: Option<&Outputs>,
    ) -> std::result::Result<Vec<Term>, Box<dyn std::error::Error + Send + Sync>> {
        let value = student.logits.f_cross_entropy_loss(
            batch.labels,
            None::<Tensor>,
            tch::Reduction::Mean,
            -100,
            self.label_smoothing,
        )?;
        Ok(vec![Term { name: "ce", value }])
    }
}

/// What happened in one epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct EpochReport {
    /// From 0.
    pub epoch: usize,
    /// Mean of each part of the loss over the epoch's images.
    pub terms: Vec<(String, f64)>,
    /// Accuracy on the training images as they were augmented, in percent.
    pub train_top1: f64,
    /// The learning rate of the last step.
    pub lr: f64,
    /// Images per second, everything included.
    pub images_per_second: f64,
    /// Seconds.
    pub seconds: f64,
}

/// How far an epoch is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Batches done in it.
    pub batch: usize,
    /// Batches in it.
    pub batches: usize,
    /// Images per second in this epoch so far.
    pub images_per_second: f64,
    /// Accuracy on the augmented training images of this epoch so far, in percent.
    pub train_top1: f64,
}

/// What a schedule changes before an epoch. `None` leaves it as it is.
#[derive(Debug, Default)]
pub struct Changes {
    /// Masks to hold from now on.
    pub masks: Option<Masks>,
    /// Rounding from now on.
    pub fake_quant: Option<FakeQuant>,
}

/// Places where a method or an observer joins the loop. Every one does nothing by default.
pub trait Hooks {
    /// Before an epoch: schedules of sparsity and bits (a loss has its own of temperature: it sees the epoch).
    ///
    /// # Errors
    ///
    /// Ends the training.
    fn on_epoch(&mut self, _epoch: usize, _net: &Net) -> Result<Changes> {
        Ok(Changes::default())
    }
    /// Between backward and update: penalties, movement. Gradients are in the order of `names`, then of the loss's
    /// own parameters.
    fn after_backward(&mut self, _net: &Net, _names: &[String], _gradients: &mut [Tensor]) {}
    /// After an update; masks are held by the loop itself.
    fn after_step(&mut self, _net: &Net, _optimizer: &mut Optimizer, _progress: Progress) {}
    /// Before the first epoch: a state that [`Self::epoch_done`] kept, to go on from there. Then [`Self::on_epoch`] is
    /// called next for the first epoch that is still to come; masks are part of the state, and a schedule of rounding must
    /// give there what holds from that epoch on.
    ///
    /// # Errors
    ///
    /// Ends the training.
    fn resume(&mut self) -> Result<Option<TrainState>> {
        Ok(None)
    }
    /// After an epoch. `reports` holds this epoch's and all before it; `state` copies what is needed to go on from here
    /// exactly.
    ///
    /// # Errors
    ///
    /// Ends the training.
    fn epoch_done(
        &mut self,
        _net: &Net,
        _reports: &[EpochReport],
        _state: &dyn Fn() -> Result<TrainState>,
    ) -> Result<()> {
        Ok(())
    }
}

/// No hooks.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHooks;
impl Hooks for NoHooks {}

/// A training between two epochs: with it, a later process ends with the same bytes as one that was never stopped.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrainState {
    /// The epochs that are done.
    pub reports: Vec<EpochReport>,
    /// Parameters, moments, masks, averages, running statistics.
    pub optimizer: OptimizerState,
}

/// The knobs of the loop.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// Passes over the data.
    pub epochs: usize,
    /// Peak learning rate, for a loss that is a mean over the batch.
    pub lr: f64,
    /// How it moves.
    pub schedule: Schedule,
    /// The update rule and what goes with it.
    pub optimizer: OptimizerOptions,
    /// The arithmetic of Conv and Gemm.
    pub precision: Precision,
}

/// What is trained, beside the network's own parameters.
#[derive(Debug, Clone, Copy, Default)]
pub struct Constraints<'a> {
    /// Elements that stay zero.
    pub masks: Option<&'a Masks>,
    /// Rounds where the integer network rounds; the network must be folded.
    pub fake_quant: Option<&'a FakeQuant>,
    /// Taught by this network: run in evaluation mode, without gradient, on the same images.
    pub teacher: Option<&'a Net>,
}

/// Trains `net`.
///
/// # Errors
///
/// A batch that does not fit, a tap that does not exist, a loss's error, a state of another training,
/// [`NnError::Teacher`]; or [`NnError::Diverged`] at the first loss or logit that is not finite, and after an epoch that left
/// such a number in a parameter, a running statistic, an average or a moment.
pub fn train(
    net: &mut Net,
    data: &dyn BatchSource,
    loss: &mut dyn Loss,
    options: &TrainOptions,
    constraints: Constraints<'_>,
    hooks: &mut dyn Hooks,
) -> Result<Vec<EpochReport>> {
    let no_masks = Masks::new();
    let mut optimizer = Optimizer::new(
        net,
        loss.parameters(),
        &options.optimizer,
        constraints.masks.unwrap_or(&no_masks),
    )?;
    let mut fake_quant = constraints.fake_quant.cloned();
    let taps = loss.taps();
    let student_taps = resolve_taps(net, &taps.student)?;
    let teacher_taps = match constraints.teacher {
        Some(teacher) => resolve_taps(teacher, &taps.teacher)?,
        None => Vec::new(),
    };
    let batches = data.batches_per_epoch();
    let total = (options.epochs * batches).max(1) as f64;
    let mut reports = Vec::new();
    if let Some(state) = hooks.resume()? {
        optimizer.restore(net, &state.optimizer)?;
        reports = state.reports;
    }
    for epoch in reports.len()..options.epochs {
        let changes = hooks.on_epoch(epoch, net)?;
        if let Some(masks) = &changes.masks {
            optimizer.set_masks(net, masks)?;
        }
        fake_quant = changes.fake_quant.or(fake_quant);
        let started = Instant::now();
        let mut lr = 0.0;
        let mut meter = Meter::default();
        let epoch_batches = data.epoch(epoch);
        // Not before: who makes the batches may have started a thread.
        let in_place = device::in_place();
        for (index, batch) in epoch_batches.enumerate() {
            let bytes = batch.bytes(net.input(), net.device())?;
            let labels = batch.labels(net.classes(), net.device())?;
            let teacher = constraints.teacher.map(|teacher| {
                let _no_grad = tch::no_grad_guard();
                forward(
                    teacher,
                    &bytes,
                    Mode::Evaluate,
                    options.precision,
                    &teacher_taps,
                )
            });
            let student = match &fake_quant {
                Some(fake_quant) => {
                    fake_quant.forward(net, &bytes, options.precision, &student_taps)?
                }
                None => forward(net, &bytes, Mode::Train, options.precision, &student_taps),
            };
            let info = BatchInfo {
                labels: &labels,
                indices: &batch.indices,
                epoch,
                index,
                net,
            };
            let terms = loss
                .loss(&info, &student, teacher.as_ref())
                .map_err(|source| NnError::Method {
                    what: format!(
                        "the loss of epoch {}, batch {}, counted from 1",
                        epoch + 1,
                        index + 1
                    ),
                    source,
                })?;
            let total_loss = sum(&terms);
            let seen = meter.add(&terms, &total_loss, &student.logits, &labels);
            if !seen.loss.is_finite() || !seen.finite_logits {
                return Err(no_step(&seen, &student, teacher.as_ref(), epoch, index)?);
            }
            let mut gradients = {
                let own = loss.parameters();
                let of_net = optimizer.names().iter().map(|n| net.tensor(n));
                let parameters: Vec<&Tensor> =
                    of_net.chain(own.iter().map(|tensor| &**tensor)).collect();
                Tensor::f_run_backward(&[&total_loss], &parameters, false, false)
                    .map_err(|e| NnError::torch("computing gradients", &e))?
            };
            hooks.after_backward(net, optimizer.names(), &mut gradients);
            let done = (epoch * batches + index) as f64;
            lr = options.lr * options.schedule.factor(done / total);
            optimizer.step(net, lr, (done + 1.0) / total, &gradients);
            let progress = Progress {
                epoch,
                batch: index + 1,
                batches,
                images_per_second: meter.images / started.elapsed().as_secs_f64().max(1e-9),
                train_top1: 100.0 * meter.correct / meter.images.max(1.0),
            };
            hooks.after_step(net, &mut optimizer, progress);
        }
        drop(in_place);
        // The last step is followed by no loss that could tell.
        if let Some(what) = optimizer.not_finite(net)? {
            return Err(NnError::Diverged {
                what,
                epoch,
                batch: batches.saturating_sub(1),
            });
        }
        let seconds = started.elapsed().as_secs_f64();
        reports.push(meter.report(epoch, lr, seconds));
        let state = || {
            Ok(TrainState {
                reports: reports.clone(),
                optimizer: optimizer.state(net)?,
            })
        };
        hooks.epoch_done(net, &reports, &state)?;
    }
    optimizer.finish(net);
    Ok(reports)
}

/// Why a batch whose loss or logits are not finite cannot be learnt from.
fn no_step(
    seen: &Seen,
    student: &Outputs,
    teacher: Option<&Outputs>,
    epoch: usize,
    batch: usize,
) -> Result<NnError> {
    let first = |outputs: &Outputs| -> Result<Option<f32>> {
        Ok(first_not_finite(&outputs.logits)?.map(|(_, _, logit)| logit))
    };
    if let Some(logit) = first(student)? {
        let what = format!("a logit is {logit}");
        return Ok(NnError::Diverged { what, epoch, batch });
    }
    if let Some(logit) = teacher.map(first).transpose()?.flatten() {
        return Ok(NnError::Teacher {
            logit,
            epoch,
            batch,
        });
    }
    let what = format!("the loss is {}", seen.loss);
    Ok(NnError::Diverged { what, epoch, batch })
}

fn sum(terms: &[Term]) -> Tensor {
    let mut total = Tensor::zeros([], (Kind::Float, tch::Device::Cpu));
    for (i, term) in terms.iter().enumerate() {
        total = if i == 0 {
            term.value.shallow_clone()
        } else {
            total + &term.value
        };
    }
    total
}

/// Sums over an epoch.
#[derive(Default)]
struct Meter {
    images: f64,
    correct: f64,
    terms: Vec<(&'static str, f64)>,
}

/// What a batch gave.
struct Seen {
    loss: f64,
    finite_logits: bool,
}

impl Meter {
    /// Adds a batch.
    fn add(&mut self, terms: &[Term], total: &Tensor, logits: &Tensor, labels: &Tensor) -> Seen {
        let images = labels.size()[0];
        let hits = logits.argmax(-1, false).eq_tensor(labels).sum(Kind::Int64);
        // Both in one number: each that is read waits for the device.
        let finite = logits.isfinite().all().to_kind(Kind::Int64);
        let both = (finite * (images + 1) + hits).int64_value(&[]);
        let n = images as f64;
        self.images += n;
        self.correct += (both % (images + 1)) as f64;
        for term in terms {
            let value = term.value.double_value(&[]) * n;
            match self.terms.iter_mut().find(|(name, _)| *name == term.name) {
                Some((_, sum)) => *sum += value,
                None => self.terms.push((term.name, value)),
            }
        }
        Seen {
            loss: total.double_value(&[]),
            finite_logits: both > images,
        }
    }

    fn report(self, epoch: usize, lr: f64, seconds: f64) -> EpochReport {
        let images = self.images.max(1.0);
        EpochReport {
            epoch,
            terms: self
                .terms
                .into_iter()
                .map(|(name, sum)| (name.to_owned(), sum / images))
                .collect(),
            train_top1: 100.0 * self.correct / images,
            lr,
            images_per_second: self.images / seconds.max(1e-9),
            seconds,
        }
    }
}

#[cfg(test)]
mod tests;

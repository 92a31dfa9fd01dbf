//! Hinton's distillation: softened teacher probabilities and hard labels.

use tch::{Kind, Reduction, Tensor};

use crate::{DistillError, Result};

#[cfg(test)]
mod tests;

/// A label that no data set has: libtorch's own default, -100, would skip such labels in silence.
const IGNORE_NO_LABEL: i64 = i64::MIN;

/// The settings of [`kd_loss`].
///
/// The default is the usual one for images of 32×32: T = 4, nine parts teacher, one part labels. A quantized student
/// wants a lower temperature, 1 or 2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kd {
    /// T: what both models' logits are divided by; the higher, the softer the targets.
    pub temperature: f64,
    /// The weight of the distillation term.
    pub w_kd: f64,
    /// The weight of the cross-entropy with the labels.
    pub w_ce: f64,
    /// How much of each label is spread evenly over all classes, in the cross-entropy only.
    pub label_smoothing: f64,
}

impl Default for Kd {
    fn default() -> Self {
        Self {
            temperature: 4.0,
            w_kd: 0.9,
            w_ce: 0.1,
            label_smoothing: 0.0,
        }
    }
}

impl Kd {
    /// The weight of the whole loss: what a cross-entropy without a teacher is multiplied with to weigh as much.
    ///
    /// ```text
    /// W = w_ce + w_kd · T²
    /// ```
    ///
    /// T² keeps the gradient of the teacher's term nearly independent of T, but at T > 1 the loss as a whole still asks for
    /// longer steps than a cross-entropy at the same learning rate: a gain may come from that alone.
    ///
    /// ```
    /// use opt_distill::Kd;
    ///
    /// assert!((Kd::default().total_weight() - 14.5).abs() < 1e-12); // 0.1 + 0.9 · 4²
    /// ```
    #[must_use]
    pub fn total_weight(&self) -> f64 {
        self.w_ce + self.w_kd * self.temperature * self.temperature
    }
}

/// The terms of a distillation loss, each a scalar tensor.
#[derive(Debug)]
pub struct Terms {
    /// `w_ce · ce + w_kd · kd`: what to differentiate.
    pub total: Tensor,
    /// The cross-entropy with the labels, not weighted.
    pub ce: Tensor,
    /// The distillation term, with T², not weighted.
    pub kd: Tensor,
}

/// Computes the distillation loss of a batch.
///
/// ```text
/// p_t = softmax(z_t / T)      p_s = softmax(z_s / T)
/// kd  = T² / B · Σ_i Σ_c p_t · (log p_t − log p_s)        KL(teacher ‖ student), mean over the batch
/// ce  = cross_entropy(z_s, labels)                        at T = 1
/// total = w_ce · ce + w_kd · kd
/// ```
///
/// The gradient of `kd` is `T/B · (p_s − p_t)`; T² keeps its size nearly independent of T. It is computed in f32 (in f64
/// if the student's logits are f64), also where logits are half precision. The teacher's logits are detached.
/// Logits that are not finite give a loss that is not finite, without an error: testing for them would stall a GPU.
///
/// ```
/// use opt_distill::{Kd, kd_loss};
/// use tch::Tensor;
///
/// let logits = Tensor::from_slice2(&[[2.0f32, 0.0, -1.0], [0.0, 1.0, 3.0]]);
/// let labels = Tensor::from_slice(&[0i64, 2]);
/// let terms = kd_loss(&logits, &logits, &labels, &Kd::default())?;
/// assert_eq!(terms.kd.double_value(&[]), 0.0); // a student that is its teacher
/// assert!(terms.ce.double_value(&[]) > 0.0);
/// # Ok::<(), opt_distill::DistillError>(())
/// ```
///
/// # Shapes
///
/// `student_logits`, `teacher_logits`: `[B, C]`, any floating-point type; `labels`: `[B]`, i64 in `0..C`.
///
/// # Errors
///
/// [`DistillError::Shape`], [`DistillError::ElementType`], [`DistillError::Setting`]; [`DistillError::Torch`] if a label is
/// no class or the tensors are on different devices.
///
/// # References
///
/// Geoffrey Hinton, Oriol Vinyals, Jeff Dean, Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531.
pub fn kd_loss(
    student_logits: &Tensor,
    teacher_logits: &Tensor,
    labels: &Tensor,
    settings: &Kd,
) -> Result<Terms> {
    let Kd {
        temperature,
        w_kd,
        w_ce,
        label_smoothing,
    } = *settings;
    let finite_weight = "a finite number that is not negative";
    let weight_fits = |w: f64| w.is_finite() && w >= 0.0;
    check_setting("w_kd", w_kd, weight_fits(w_kd), finite_weight)?;
    check_setting("w_ce", w_ce, weight_fits(w_ce), finite_weight)?;
    check_setting(
        "label_smoothing",
        label_smoothing,
        (0.0..1.0).contains(&label_smoothing),
        "at least 0 and below 1",
    )?;
    let (batch, _) = check_logits(student_logits, teacher_logits)?;
    check_labels(labels, batch)?;

    let kd = kl_divergence(student_logits, teacher_logits, temperature)?
        .f_mul_scalar(temperature * temperature)?;
    let ce = student_logits
        .f_to_kind(compute_kind(student_logits)?)?
        .f_cross_entropy_loss::<Tensor>(
            labels,
            None,
            Reduction::Mean,
            IGNORE_NO_LABEL,
            label_smoothing,
        )?;
    let total = ce.f_mul_scalar(w_ce)?.f_add(&kd.f_mul_scalar(w_kd)?)?;
    Ok(Terms { total, ce, kd })
}

/// Computes the mean divergence of the student from the teacher, without T².
///
/// ```text
/// KL(teacher ‖ student) = 1/B · Σ_i Σ_c p_t · (log p_t − log p_s)
/// ```
///
/// # Shapes
///
/// Both `[B, C]`; the result is a scalar.
///
/// # Errors
///
/// As [`kd_loss`].
pub fn kl_divergence(
    student_logits: &Tensor,
    teacher_logits: &Tensor,
    temperature: f64,
) -> Result<Tensor> {
    let soft = soften(student_logits, teacher_logits, temperature)?;
    // `Reduction` has no mean over the batch; its `Mean` divides by the classes as well.
    let sum = (soft.log_p_student).f_kl_div(&soft.log_p_teacher, Reduction::Sum, true)?;
    Ok(sum.f_div_scalar(soft.batch)?)
}

/// Computes the mean cross-entropy of the student's output with the teacher's.
///
/// ```text
/// 1/n · Σ_i CE(y_i, softmax(f(x_i; W)))        y_i = softmax(teacher(x_i) / T),  CE(y, p) = −Σ_c y_c log p_c
/// ```
///
/// It equals [`kl_divergence`] plus the teacher's entropy, which the student cannot change: the gradients are the same,
/// but a perfect student's loss is not zero. No T² is applied.
///
/// # Shapes
///
/// Both `[n, C]`; the result is a scalar.
///
/// # Errors
///
/// As [`kd_loss`].
pub fn teacher_cross_entropy(
    student_logits: &Tensor,
    teacher_logits: &Tensor,
    temperature: f64,
) -> Result<Tensor> {
    let soft = soften(student_logits, teacher_logits, temperature)?;
    let sum = (soft.log_p_teacher.f_exp()?)
        .f_mul(&soft.log_p_student)?
        .f_sum(None)?;
    Ok(sum.f_neg()?.f_div_scalar(soft.batch)?)
}

struct Soft {
    log_p_student: Tensor,
    log_p_teacher: Tensor,
    batch: i64,
}

fn soften(student_logits: &Tensor, teacher_logits: &Tensor, temperature: f64) -> Result<Soft> {
    check_setting(
        "temperature",
        temperature,
        temperature.is_finite() && temperature > 0.0,
        "a finite number above 0",
    )?;
    let (batch, kind) = check_logits(student_logits, teacher_logits)?;
    let log_p = |logits: &Tensor| -> Result<Tensor> {
        Ok(logits
            .f_to_kind(kind)?
            .f_div_scalar(temperature)?
            .f_log_softmax(1, kind)?)
    };
    Ok(Soft {
        log_p_student: log_p(student_logits)?,
        log_p_teacher: log_p(&teacher_logits.f_detach()?)?,
        batch,
    })
}

/// Checks the logits and returns the batch size and the type to compute in.
fn check_logits(student_logits: &Tensor, teacher_logits: &Tensor) -> Result<(i64, Kind)> {
    let kind = compute_kind(student_logits)?;
    if !is_float(teacher_logits.kind()) {
        return Err(DistillError::ElementType {
            what: "teacher logits",
            found: teacher_logits.kind(),
            expected: "floating point",
        });
    }
    let shape = student_logits.size();
    let &[batch, classes] = &shape[..] else {
        return Err(DistillError::Shape {
            what: "student logits",
            found: shape,
            expected: "[batch, classes]".to_owned(),
        });
    };
    if batch == 0 || classes == 0 {
        return Err(DistillError::Shape {
            what: "student logits",
            found: shape,
            expected: "at least one image and one class".to_owned(),
        });
    }
    if teacher_logits.size() != shape {
        return Err(DistillError::Shape {
            what: "teacher logits",
            found: teacher_logits.size(),
            expected: format!("{shape:?} like the student's; both must have the same classes"),
        });
    }
    Ok((batch, kind))
}

fn check_labels(labels: &Tensor, batch: i64) -> Result<()> {
    if labels.size() != [batch] {
        return Err(DistillError::Shape {
            what: "labels",
            found: labels.size(),
            expected: format!("[{batch}], one for each row of the logits"),
        });
    }
    if labels.kind() != Kind::Int64 {
        return Err(DistillError::ElementType {
            what: "labels",
            found: labels.kind(),
            expected: "Int64",
        });
    }
    Ok(())
}

fn check_setting(name: &'static str, value: f64, fits: bool, expected: &'static str) -> Result<()> {
    if fits {
        return Ok(());
    }
    Err(DistillError::Setting {
        name,
        value,
        expected,
    })
}

fn compute_kind(student_logits: &Tensor) -> Result<Kind> {
    match student_logits.kind() {
        Kind::Double => Ok(Kind::Double),
        kind if is_float(kind) => Ok(Kind::Float),
        found => Err(DistillError::ElementType {
            what: "student logits",
            found,
            expected: "floating point",
        }),
    }
}

fn is_float(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double
    )
}

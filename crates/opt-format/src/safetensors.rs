//! safetensors checkpoints: parameters by PyTorch name.

use std::collections::BTreeMap;

use ndarray::{ArcArray, IxDyn};
use opt_artifact::container::{Container, Stored, parse, serialize};
use opt_core::{CoreError, Model, ParamRole, Params};
use safetensors::Dtype;

use crate::{FormatError, Result};

/// What importing had to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportReport {
    /// What every name began with and lost, such as `module._orig_mod.`; empty if nothing.
    pub stripped: String,
    /// Parameters that were left as they were, because the head is new, in the order of their names.
    pub kept: Vec<String>,
    /// Tensors that carry no parameter (`num_batches_tracked`), in the order of their names.
    pub ignored: Vec<String>,
    /// Parameters that were not f32, in the order of their names.
    pub converted: Vec<Converted>,
}

/// A parameter that was not f32.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// Its name.
    pub param: String,
    /// Its type in the file.
    pub from: String,
}

/// What becomes of the classifier: the last layer with a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Head {
    /// It is in the checkpoint like every other layer.
    #[default]
    Imported,
    /// It stays as the model has it, whatever the checkpoint has in its place: for other classes.
    New,
}

/// Puts the parameters of a checkpoint into a model of the same names and shapes.
///
/// F32, F16 and BF16 are taken exactly, F64 is rounded to f32. Every parameter of the model must be in the file and every
/// tensor of the file in the model, except that the counters `num_batches_tracked` are dropped, and the prefixes that
/// wrappers put before every name: `module.` (`DataParallel`), `_orig_mod.` (`torch.compile`), `model.` and `state_dict.`, in any
/// order and number. With [`Head::New`] the classifier stays as it is.
///
/// ```
/// use opt_format::{Head, export_safetensors, import_safetensors};
/// use std::collections::BTreeMap;
///
/// let build = |seed| opt_core::zoo::build("airbench_4_4_4", &opt_core::Task::cifar10(), seed);
/// let trained = build(1)?;
/// let checkpoint = export_safetensors(&trained, &BTreeMap::new())?;
/// let (imported, report) = import_safetensors(&checkpoint, &build(2)?, Head::Imported)?;
/// assert_eq!(imported, trained);
/// assert!(report.converted.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`FormatError::Container`] for other bytes; [`FormatError::Mismatch`] lists what is missing, unexpected, of another
/// shape or type, or not finite; [`FormatError::Core`] if the result is unsound.
pub fn import_safetensors(bytes: &[u8], into: &Model, head: Head) -> Result<(Model, ImportReport)> {
    let mut tensors = parse(bytes)?.tensors;
    let mut report = ImportReport {
        stripped: common_prefix(&tensors, into),
        ..ImportReport::default()
    };
    if !report.stripped.is_empty() {
        let strip =
            |(name, stored): (String, _)| (name[report.stripped.len()..].to_owned(), stored);
        tensors = tensors.into_iter().map(strip).collect();
    }
    let classifier = classifier(into);
    let mut model = into.clone();
    let mut missing = Vec::new();
    let mut wrong = Vec::new();
    // The names of those, and whether it is their shapes alone.
    let (mut unfit, mut reshaped) = (Vec::new(), true);
    let mut params = Params::new();
    for (name, old) in &into.params {
        if head == Head::New && classifier.contains(&name.as_str()) {
            tensors.remove(name);
            params.insert(name.clone(), old.clone());
            report.kept.push(name.clone());
            continue;
        }
        let Some(stored) = tensors.remove(name) else {
            missing.push(name.clone());
            continue;
        };
        match to_f32(&stored, old.shape()) {
            Ok(values) => {
                let tensor = ArcArray::from_shape_vec(IxDyn(old.shape()), values);
                let tensor = tensor.map_err(|_| CoreError::ParamShape {
                    param: name.clone(),
                    found: stored.shape.clone(),
                    expected: old.shape().to_vec(),
                })?;
                params.insert(name.clone(), tensor);
                if stored.dtype != Dtype::F32 {
                    report.converted.push(Converted {
                        param: name.clone(),
                        from: stored.dtype.to_string(),
                    });
                }
            }
            Err(problem) => {
                reshaped &= stored.shape != old.shape();
                unfit.push(name.as_str());
                wrong.push(format!("{name} ({problem})"));
            }
        }
    }
    let is_counter = |name: &String| name.rsplit('.').next() == Some("num_batches_tracked");
    let (ignored, unexpected): (Vec<_>, Vec<_>) = tensors.into_keys().partition(is_counter);
    report.ignored = ignored;
    if !(missing.is_empty() && unexpected.is_empty() && wrong.is_empty()) {
        let lacking = missing.iter().map(String::as_str).chain(unfit);
        let new_head = reshaped
            && unexpected.is_empty()
            && lacking.into_iter().all(|name| classifier.contains(&name));
        return Err(FormatError::Mismatch {
            missing,
            unexpected,
            wrong,
            new_head,
        });
    }
    model.params = params;
    model.validate()?;
    Ok((model, report))
}

/// Writes the parameters of a model as a plain f32 checkpoint; the same model and metadata give the same bytes.
///
/// # Errors
///
/// [`FormatError::Core`] for an unsound model.
pub fn export_safetensors(model: &Model, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    model.validate()?;
    let tensors = model.params.iter().map(|(name, t)| {
        let stored = Stored {
            dtype: Dtype::F32,
            shape: t.shape().to_vec(),
            bytes: t.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        (name.clone(), stored)
    });
    Ok(serialize(&Container {
        metadata: metadata.clone(),
        tensors: tensors.collect(),
    })?)
}

/// What wrappers put before every name.
const PREFIXES: [&str; 4] = ["module.", "_orig_mod.", "model.", "state_dict."];

/// The prefixes that all names have and the network's own do not, one after another.
fn common_prefix(tensors: &BTreeMap<String, Stored<'_>>, into: &Model) -> String {
    let mut common = String::new();
    while !tensors.is_empty()
        && !tensors
            .keys()
            .all(|n| into.params.contains_key(&n[common.len()..]))
    {
        let next = PREFIXES.into_iter().find(|prefix| {
            let stripped = |name: &String| name[common.len()..].starts_with(prefix);
            tensors.keys().all(stripped) && !into.params.keys().all(|n| n.starts_with(prefix))
        });
        match next {
            Some(prefix) => common += prefix,
            None => break,
        }
    }
    common
}

/// The parameters of the last layer with a weight: the one that gives the logits.
fn classifier(model: &Model) -> Vec<&str> {
    let layers = model.param_refs().filter(|p| p.role == ParamRole::Weight);
    let last = layers.last().map(|p| p.node);
    let of_last = model.param_refs().filter(|p| Some(p.node) == last);
    of_last.map(|p| p.name).collect()
}

fn to_f32(stored: &Stored<'_>, expected: &[usize]) -> std::result::Result<Vec<f32>, String> {
    let Stored {
        dtype,
        shape,
        bytes,
    } = stored;
    if shape != expected {
        return Err(format!("shape {shape:?}, expected {expected:?}"));
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounding to f32 is what is asked for"
    )]
    let values: Vec<f32> = match dtype {
        Dtype::F32 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        Dtype::F64 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f64::from_le_bytes(*b) as f32)
            .collect(),
        Dtype::F16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| from_f16(u16::from_le_bytes(*b)))
            .collect(),
        Dtype::BF16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| from_bf16(u16::from_le_bytes(*b)))
            .collect(),
        other => return Err(format!("type {other}, expected F32, F16, BF16 or F64")),
    };
    match values.iter().position(|v| !v.is_finite()) {
        Some(i) => Err(format!(
            "element {i} is {}, expected a finite number",
            values[i]
        )),
        None => Ok(values),
    }
}

/// bfloat16 is the upper half of an f32.
fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// IEEE binary16: 1 bit of sign, 5 of exponent with bias 15, 10 of mantissa; exact in f32.
fn from_f16(bits: u16) -> f32 {
    let (exponent, mantissa) = (bits >> 10 & 31, f32::from(bits & 1023));
    let magnitude = match exponent {
        0 => mantissa * 2f32.powi(-24),
        31 if mantissa == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        e => (1024.0 + mantissa) * 2f32.powi(i32::from(e) - 25),
    };
    if bits >> 15 == 1 {
        -magnitude
    } else {
        magnitude
    }
}

#[cfg(test)]
mod tests;

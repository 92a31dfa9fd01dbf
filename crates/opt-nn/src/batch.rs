//! What a network is fed: bytes with labels.

use opt_core::InputSpec;
use tch::{Device, Kind, Tensor};

use crate::{NnError, Result};

/// Images as bytes, with labels and the samples' numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// `[N, C, H, W]`.
    pub images: Vec<u8>,
    /// `[N]`.
    pub labels: Vec<i64>,
    /// `[N]`: which samples of the dataset these are.
    pub indices: Vec<u32>,
}

/// Where batches come from. The bytes of an epoch depend on nothing but the epoch's number.
pub trait BatchSource {
    /// The batches of one epoch, in order.
    fn epoch(&self, epoch: usize) -> Box<dyn Iterator<Item = Batch> + '_>;
    /// How many there are.
    fn batches_per_epoch(&self) -> usize;
}

impl Batch {
    /// The image bytes as a `[N, C, H, W]` tensor of bytes whose memory is `[N, H, W, C]`.
    ///
    /// # Errors
    ///
    /// [`NnError::Batch`] if the bytes are not N images of the model's shape.
    pub fn bytes(&self, input: &InputSpec, device: Device) -> Result<Tensor> {
        let [c, h, w] = input.shape;
        let n = self.labels.len();
        if self.images.len() != n * c * h * w {
            let problem = format!("{} bytes for {n} images of {c}×{h}×{w}", self.images.len());
            return Err(NnError::Batch { problem });
        }
        let shape = [n as i64, c as i64, h as i64, w as i64];
        let bytes = Tensor::from_slice(&self.images).reshape(shape);
        Ok(channels_last(&bytes).to_device(device))
    }

    /// The labels as a tensor.
    ///
    /// # Errors
    ///
    /// [`NnError::Batch`] for a label that is none of so many classes.
    pub fn labels(&self, classes: usize, device: Device) -> Result<Tensor> {
        let classes = classes as i64;
        if let Some(label) = self.labels.iter().find(|l| !(0..classes).contains(*l)) {
            let problem = format!("label {label} of {classes} classes");
            return Err(NnError::Batch { problem });
        }
        Ok(Tensor::from_slice(&self.labels).to_device(device))
    }
}

/// The same `[N, C, H, W]` values with `[N, H, W, C]` memory: convolutions follow their input's layout, and this one
/// is the faster on every CPU measured.
pub(crate) fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// `(byte/255 - mean)/std` in f32, computed as `(byte - 255·mean)·(1/(255·std))`.
pub fn normalize(bytes: &Tensor, input: &InputSpec) -> Tensor {
    let row = |f: &dyn Fn(usize) -> f32| {
        let values: Vec<f32> = (0..input.shape[0]).map(f).collect();
        Tensor::from_slice(&values)
            .reshape([1, -1, 1, 1])
            .to_device(bytes.device())
    };
    let shift = row(&|c| 255.0 * input.mean[c]);
    let factor = row(&|c| 1.0 / (255.0 * input.std[c]));
    (bytes.to_kind(Kind::Float) - shift) * factor
}

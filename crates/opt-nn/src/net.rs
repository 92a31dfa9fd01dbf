//! A model's tensors on a device.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::Array;
use opt_core::shape::infer_shapes;
use opt_core::{Graph, InputSpec, Model, ParamRole};
use tch::{Device, Kind, Tensor};

use crate::{NnError, Result};

/// A [`Model`] whose parameters are libtorch tensors: f32 master copies, in the model's names.
#[derive(Debug)]
pub struct Net {
    graph: Graph,
    input: InputSpec,
    classes: usize,
    tensors: BTreeMap<String, Tensor>,
    device: Device,
}

impl Net {
    /// Copies a model's parameters to `device`.
    ///
    /// # Errors
    ///
    /// Those of [`Model::validate`]: afterwards, every operator fits.
    pub fn new(model: &Model, device: Device) -> Result<Self> {
        model.validate()?;
        let mut tensors = BTreeMap::new();
        for (name, param) in &model.params {
            let shape: Vec<i64> = param.shape().iter().map(|d| *d as i64).collect();
            let values: Vec<f32> = param.iter().copied().collect();
            let tensor = Tensor::f_from_slice(&values)
                .and_then(|t| t.f_reshape(shape))
                .and_then(|t| t.f_to_device(device))
                .map_err(|e| NnError::torch(&format!("copying parameter `{name}`"), &e))?;
            tensors.insert(name.clone(), tensor);
        }
        Ok(Self {
            graph: model.graph.clone(),
            input: model.input.clone(),
            classes: infer_shapes(model)?[model.graph.output()].iter().product(),
            tensors,
            device,
        })
    }

    /// Copies the parameters back into a model.
    ///
    /// # Errors
    ///
    /// [`NnError::Torch`] if a tensor cannot be read.
    pub fn to_model(&self) -> Result<Model> {
        let mut params = opt_core::Params::new();
        for (name, tensor) in &self.tensors {
            let array = to_array(tensor, name)?;
            params.insert(name.clone(), array.into_shared());
        }
        Ok(Model {
            graph: self.graph.clone(),
            params,
            input: self.input.clone(),
        })
    }

    /// The operations.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The input.
    #[must_use]
    pub fn input(&self) -> &InputSpec {
        &self.input
    }

    /// How many numbers the first output has: one for each class.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Where the tensors are.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// A parameter's tensor. The graph was validated, so each name that it holds is there.
    pub fn tensor(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    /// The trainable parameters in graph order, each once.
    #[must_use]
    pub fn trainable(&self) -> Vec<(String, ParamRole)> {
        self.params(ParamRole::is_trainable)
    }

    /// The names of the running statistics in graph order, each once.
    #[must_use]
    pub fn statistics(&self) -> Vec<String> {
        let statistics = self.params(|role| !role.is_trainable());
        statistics.into_iter().map(|(name, _)| name).collect()
    }

    fn params(&self, wanted: impl Fn(ParamRole) -> bool) -> Vec<(String, ParamRole)> {
        let mut seen = BTreeSet::new();
        let all = self.graph.nodes.iter().flat_map(|node| node.op.params());
        all.filter(|(name, role)| wanted(*role) && seen.insert(*name))
            .map(|(name, role)| (name.to_owned(), role))
            .collect()
    }

    pub(crate) fn replace(&mut self, name: &str, tensor: Tensor) {
        self.tensors.insert(name.to_owned(), tensor);
    }
}

/// Copies a tensor into an f32 array.
pub(crate) fn to_array(tensor: &Tensor, name: &str) -> Result<ndarray::ArrayD<f32>> {
    let what = format!("reading `{name}`");
    let shape: Vec<usize> = tensor
        .size()
        .iter()
        .map(|d| usize::try_from(*d).unwrap_or(0))
        .collect();
    let values = to_vec(tensor).map_err(|e| NnError::torch(&what, &e))?;
    Array::from_shape_vec(shape, values).map_err(|e| NnError::Torch {
        what,
        message: e.to_string(),
    })
}

/// Copies a tensor's values in row-major order.
pub(crate) fn to_vec(tensor: &Tensor) -> std::result::Result<Vec<f32>, tch::TchError> {
    let flat = tensor
        .f_detach()?
        .f_to_device(Device::Cpu)?
        .f_to_kind(Kind::Float)?
        .f_contiguous()?
        .f_view([-1])?;
    let mut values = vec![0f32; flat.numel()];
    flat.f_copy_data(&mut values, flat.numel())?;
    Ok(values)
}

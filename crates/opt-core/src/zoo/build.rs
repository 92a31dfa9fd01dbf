//! Puts layers with seeded weights together, with PyTorch's names.

use ndarray::{Array, IxDyn};
use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::op::{Op, Window};
use crate::{Graph, Model, NodeId, Params, Task};

/// A model under construction. Every tensor draws from a stream of its own, so that a layer's start does not depend on
/// the layers before it.
pub(super) struct Builder {
    graph: Graph,
    params: Params,
    task: Task,
    seed: u64,
}

impl Builder {
    pub(super) fn new(task: &Task, seed: u64) -> Self {
        Self {
            graph: Graph::new(),
            params: Params::new(),
            task: task.clone(),
            seed,
        }
    }

    pub(super) fn finish(mut self) -> Model {
        if let [output] = self.graph.outputs.as_mut_slice() {
            output.labels = self.task.labels;
        }
        Model {
            graph: self.graph,
            params: self.params,
            input: self.task.input,
        }
    }

    pub(super) fn push(&mut self, name: &str, op: Op, inputs: &[NodeId]) -> NodeId {
        self.graph.push(name, op, inputs)
    }

    /// Uniform in ±bound, drawn in 24-bit steps so that every platform gets the same bytes.
    fn uniform(&mut self, name: &str, shape: &[usize], bound: f32) {
        // FNV-1a turns the name into the stream's number.
        let stream = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(stream);
        let draw = |_: IxDyn| {
            let steps = rng.random::<u32>() >> 8;
            (steps as f32 / 8_388_608.0 - 1.0) * bound
        };
        let values = Array::from_shape_fn(IxDyn(shape), draw);
        self.params.insert(name.to_owned(), values.into_shared());
    }

    fn constant(&mut self, name: String, len: usize, value: f32) -> String {
        let values = Array::from_elem(IxDyn(&[len]), value).into_shared();
        self.params.insert(name.clone(), values);
        name
    }

    /// A convolution. Without a bias (one that a BatchNormalization follows) it starts as He et al. (2015,
    /// arXiv:1502.01852) say for ReLU, uniform with variance `2/fan_in`; with a bias as PyTorch's default does, uniform in
    /// `±1/sqrt(fan_in)` for both.
    pub(super) fn conv(
        &mut self,
        name: &str,
        input: NodeId,
        channels: [usize; 2],
        window: Window,
        bias: bool,
    ) -> NodeId {
        self.grouped_conv(name, input, channels, window, bias, 1)
    }

    /// A convolution of each channel by itself, without a bias, started as [`Self::conv`] is.
    pub(super) fn depthwise(
        &mut self,
        name: &str,
        input: NodeId,
        channels: usize,
        window: Window,
    ) -> NodeId {
        self.grouped_conv(name, input, [channels; 2], window, false, channels)
    }

    fn grouped_conv(
        &mut self,
        name: &str,
        input: NodeId,
        channels: [usize; 2],
        window: Window,
        bias: bool,
        group: usize,
    ) -> NodeId {
        let [n_in, n_out] = [channels[0] / group, channels[1]];
        let fan_in = (n_in * window.area()) as f32;
        let bound = if bias {
            (1.0 / fan_in).sqrt()
        } else {
            (6.0 / fan_in).sqrt()
        };
        let weight = format!("{name}.weight");
        let [kh, kw] = window.kernel;
        self.uniform(&weight, &[n_out, n_in, kh, kw], bound);
        let bias = bias.then(|| {
            let name = format!("{name}.bias");
            self.uniform(&name, &[n_out], bound);
            name
        });
        let op = Op::Conv {
            weight,
            bias,
            window,
            group,
        };
        self.push(name, op, &[input])
    }

    /// A linear layer with bias, uniform in `±1/sqrt(fan_in)` as PyTorch's default is.
    pub(super) fn linear(
        &mut self,
        name: &str,
        input: NodeId,
        n_in: usize,
        n_out: usize,
    ) -> NodeId {
        let bound = (1.0 / n_in as f32).sqrt();
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        self.uniform(&weight, &[n_out, n_in], bound);
        self.uniform(&bias, &[n_out], bound);
        let op = Op::Gemm {
            weight,
            bias: Some(bias),
        };
        self.push(name, op, &[input])
    }

    /// A BatchNormalization with γ = 1 (trained or, with `scale = false`, fixed) and β = 0.
    pub(super) fn batch_norm(
        &mut self,
        name: &str,
        input: NodeId,
        channels: usize,
        scale: bool,
    ) -> NodeId {
        let scale = scale.then(|| self.constant(format!("{name}.weight"), channels, 1.0));
        let op = Op::BatchNormalization {
            scale,
            bias: self.constant(format!("{name}.bias"), channels, 0.0),
            mean: self.constant(format!("{name}.running_mean"), channels, 0.0),
            var: self.constant(format!("{name}.running_var"), channels, 1.0),
            epsilon: 1e-5,
            momentum: 0.1,
        };
        self.push(name, op, &[input])
    }
}

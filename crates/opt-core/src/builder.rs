//! A network of one's own: puts layers with seeded weights together, with PyTorch's names for parameters.

use ndarray::{Array, IxDyn};
use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::op::{Op, Window};
use crate::shape::{MAX_ELEMENTS, fits, infer_shapes};
use crate::{CoreError, Graph, Model, NodeId, Output, Params, Result, Task};

/// A model under construction. Node 0 is the image; every method appends a node and returns its index. Every tensor draws from
/// a stream of its own, named as it is, so that a layer's start does not depend on the layers before it.
///
/// ```
/// use opt_core::op::Window;
/// use opt_core::{Builder, Op, Task, Unary};
///
/// let mut b = Builder::new(&Task::cifar10(), 0);
/// let x = b.conv("stem", 0, [3, 16], Window::square(3, 1, 1), false);
/// let x = b.batch_norm("norm", x, 16, true);
/// let x = b.push("swish", Op::Unary(Unary::HardSwish), &[x]);
/// let x = b.push("pool", Op::GlobalAveragePool, &[x]);
/// let x = b.push("flatten", Op::Flatten, &[x]);
/// b.linear("fc", x, 16, 10);
/// let model = b.finish()?;
/// assert_eq!(model.params["stem.weight"].shape(), [16, 3, 3, 3]);
/// # Ok::<(), opt_core::CoreError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Builder {
    graph: Graph,
    params: Params,
    task: Task,
    seed: u64,
    /// The first parameter that was too large to be made.
    problem: Option<CoreError>,
}

impl Builder {
    /// A network for this task, its weights drawn from this seed.
    #[must_use]
    pub fn new(task: &Task, seed: u64) -> Self {
        Self {
            graph: Graph::new(),
            params: Params::new(),
            task: task.clone(),
            seed,
            problem: None,
        }
    }

    /// The model. Its output is the last node, labelled with the task's classes, unless [`Self::outputs`] named others.
    ///
    /// # Errors
    ///
    /// Those of [`Model::validate`]: names the first node whose operands, window or channels do not fit. A parameter of more
    /// than [`MAX_ELEMENTS`](crate::shape::MAX_ELEMENTS) numbers.
    pub fn finish(mut self) -> Result<Model> {
        if let Some(problem) = self.problem.take() {
            return Err(problem);
        }
        let model = self.into_model();
        model.graph.validate()?;
        infer_shapes(&model)?;
        model.validate()?;
        Ok(model)
    }

    /// The model of a network that is known to be sound.
    pub(crate) fn into_model(mut self) -> Model {
        if let [output] = self.graph.outputs.as_mut_slice()
            && output.labels.is_empty()
        {
            output.labels = self.task.labels;
        }
        Model {
            graph: self.graph,
            params: self.params,
            input: self.task.input,
        }
    }

    /// Appends an operator without parameters of its own, or one whose parameters [`Self::param`] has set.
    pub fn push(&mut self, name: &str, op: Op, inputs: &[NodeId]) -> NodeId {
        self.graph.push(name, op, inputs)
    }

    /// Sets a parameter of an operator that [`Self::push`] appends.
    pub fn param(&mut self, name: &str, values: impl Into<crate::Tensor>) {
        self.params.insert(name.to_owned(), values.into());
    }

    /// Names the network's results; call it last. A single one without labels gets those of the task.
    pub fn outputs(&mut self, outputs: Vec<Output>) {
        self.graph.outputs = outputs;
    }

    /// Uniform in ±bound, drawn in 24-bit steps so that every platform gets the same bytes.
    fn uniform(&mut self, name: &str, shape: &[usize], bound: f32) {
        if !self.is_made(name, shape) {
            return;
        }
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

    /// Whether a parameter can be made; if it is too large, [`Self::finish`] says so.
    fn is_made(&mut self, name: &str, shape: &[usize]) -> bool {
        let is_made = shape.contains(&0) || fits(shape);
        if !is_made {
            self.problem.get_or_insert_with(|| CoreError::Graph {
                node: name.to_owned(),
                problem: format!(
                    "its shape is {shape:?}, expected at most {MAX_ELEMENTS} elements"
                ),
            });
        }
        is_made
    }

    fn constant(&mut self, name: String, len: usize, value: f32) -> String {
        if self.is_made(&name, &[len]) {
            let values = Array::from_elem(IxDyn(&[len]), value).into_shared();
            self.params.insert(name.clone(), values);
        }
        name
    }

    /// A convolution from `channels[0]` to `channels[1]`. Without a bias (one that a BatchNormalization follows) it starts as He et al. (2015,
    /// arXiv:1502.01852) say for ReLU, uniform with variance `2/fan_in`; with a bias as PyTorch's default does, uniform in
    /// `±1/sqrt(fan_in)` for both.
    pub fn conv(
        &mut self,
        name: &str,
        input: NodeId,
        channels: [usize; 2],
        window: Window,
        bias: bool,
    ) -> NodeId {
        self.grouped_conv(name, input, channels, window, bias, 1)
    }

    /// A convolution of each of `channels` by itself, without a bias, started as [`Self::conv`] is.
    pub fn depthwise(
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
        let [kh, kw] = window.kernel;
        // No group has no channels: `finish` names the layer.
        let [n_in, n_out] = [channels[0].checked_div(group).unwrap_or(0), channels[1]];
        let fan_in = n_in.saturating_mul(kh).saturating_mul(kw) as f32;
        let bound = if bias {
            (1.0 / fan_in).sqrt()
        } else {
            (6.0 / fan_in).sqrt()
        };
        let weight = format!("{name}.weight");
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

    /// A linear layer with bias from `n_in` numbers to `n_out`, uniform in `±1/sqrt(fan_in)` as PyTorch's default is.
    pub fn linear(&mut self, name: &str, input: NodeId, n_in: usize, n_out: usize) -> NodeId {
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
    pub fn batch_norm(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Unary;

    #[test]
    fn a_network_that_does_not_fit_is_named() {
        let mut b = Builder::new(&Task::cifar10(), 0);
        let x = b.conv("stem", 0, [4, 8], Window::square(3, 1, 1), true);
        b.linear("fc", x, 8, 10);
        let error = b.finish().unwrap_err().to_string();
        assert!(error.contains("stem"), "{error}");
    }

    #[test]
    fn what_cannot_be_built_is_an_error_of_finish() {
        type Build = fn(&mut Builder);
        let cases: [(Build, &str); 9] = [
            (
                |b| _ = b.conv("a", 99, [3, 4], Window::square(3, 1, 1), true),
                "node `a`",
            ),
            (
                |b| _ = b.conv("a", 1, [3, 4], Window::square(3, 1, 1), true),
                "node `a`",
            ),
            (|b| _ = b.batch_norm("a", usize::MAX, 3, true), "node `a`"),
            (
                |b| {
                    let x = b.conv("a", 0, [3, 4], Window::square(3, 1, 1), true);
                    b.conv("a", x, [4, 4], Window::square(3, 1, 1), true);
                },
                "node `a`",
            ),
            (
                |b| _ = b.depthwise("a", 0, 0, Window::square(3, 1, 1)),
                "node `a` (Conv)",
            ),
            (
                |b| _ = b.linear("a", 0, usize::MAX, 10),
                "node `a.weight`: its shape is [10, 18446744073709551615], expected at most",
            ),
            (
                |b| _ = b.linear("a", 0, 1 << 15, 1 << 15),
                "node `a.weight`: its shape is [32768, 32768], expected at most",
            ),
            (
                |b| _ = b.conv("a", 0, [3, 4], Window::square(usize::MAX, 1, 1), true),
                "node `a.weight`",
            ),
            (
                |b| _ = b.batch_norm("a", 0, usize::MAX, true),
                "node `a.weight`",
            ),
        ];
        for (build, expected) in cases {
            let mut b = Builder::new(&Task::cifar10(), 0);
            build(&mut b);
            let error = b.finish().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn two_outputs_need_no_labels() {
        let mut b = Builder::new(&Task::cifar10(), 0);
        let x = b.conv("stem", 0, [3, 8], Window::square(3, 1, 1), true);
        let a = b.push("relu", Op::Unary(Unary::Relu), &[x]);
        let pool = b.push("pool", Op::GlobalAveragePool, &[a]);
        b.outputs(vec![Output::of(a), Output::of(pool)]);
        let model = b.finish().unwrap();
        assert_eq!(model.graph.outputs.len(), 2);
        assert!(model.graph.outputs.iter().all(|o| o.labels.is_empty()));
    }

    #[test]
    fn parameters_of_ones_own_are_the_models() {
        let mut b = Builder::new(&Task::cifar10(), 0);
        b.param("w", Array::from_elem(IxDyn(&[10, 3072]), 0.5));
        let x = b.push("flatten", Op::Flatten, &[0]);
        let op = Op::Gemm {
            weight: "w".to_owned(),
            bias: None,
        };
        b.push("fc", op, &[x]);
        let model = b.finish().unwrap();
        assert_eq!(model.graph.outputs[0].labels.len(), 10);
        assert_eq!(model.params["w"][[9, 1]], 0.5);
    }
}

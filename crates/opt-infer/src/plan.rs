//! From a network to flat steps: where each value lies, what each step reads and writes, packed weights.
//!
//! Nothing is decided while a network runs: shapes, offsets, kernels and multipliers are in the plan.

use std::collections::HashMap;

use opt_core::op::{Binary, Unary, Window};
use opt_core::qmodel::{Activation, QModel, QNode, QOp};
use opt_core::{Op, Params};

use crate::conv::{Conv, Products, Requant, Residual};
use crate::float::{Affine, FloatConv};
use crate::kernels::portable::{Mean, Sum};
use crate::layout::{GROUP, LANES, Layout};
use crate::options::{Limits, Options};
use crate::{InferError, Kernels, Result};

/// Bytes behind each value: a kernel may read a whole vector at its last pixel.
const SLACK: usize = 64;

/// Where values begin: on a line of the cache.
pub(crate) const ALIGN: usize = 64;

/// A value in the arena.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Buffer {
    pub(crate) layout: Layout,
    /// Its first byte in the arena.
    pub(crate) offset: usize,
}

impl Buffer {
    /// Its bytes and those behind it that may be read.
    pub(crate) fn len(&self) -> usize {
        self.layout.bytes() + SLACK
    }
}

/// What a step computes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Work {
    Input,
    Conv(Box<Conv>),
    Gemm {
        products: Products,
        origin: usize,
        requant: Requant,
    },
    /// Results that something reads, as a value.
    Logits {
        products: Products,
        origin: usize,
        scales: Vec<f32>,
    },
    Add(Sum),
    MaxPool(Window),
    Mean(Mean, Option<Window>),
    Slice {
        start: [usize; 3],
        step: [usize; 3],
    },
    Pad {
        begin: [usize; 3],
        zero: u8,
    },
    Clamp {
        lo: u8,
        hi: u8,
    },
    Flatten,
    Table(Box<[u8; 256]>),
    /// To codes of this meaning.
    Quantize(Activation),
    /// From codes of this meaning.
    Dequantize(Activation),
    /// On f32 values.
    Float(FloatWork),
    /// For the caller: such a step has no target.
    ToCaller(ToCaller),
}

/// What a step computes of f32 values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum FloatWork {
    Conv(Box<FloatConv>),
    Unary(Unary),
    Binary(Binary),
    Affine(Affine),
    MaxPool(Window),
    Mean(Option<Window>),
    Slice { start: [usize; 3], step: [usize; 3] },
    Pad { begin: [usize; 3] },
    Flatten,
}

/// What a step writes where the caller has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ToCaller {
    /// Results that nothing else reads.
    Logits {
        products: Products,
        origin: usize,
        scales: Vec<f32>,
        /// Where they begin among the outputs of an image.
        first_output: usize,
    },
    /// A value.
    Value {
        /// Where it begins among the outputs of an image.
        first_output: usize,
    },
}

/// One operation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    /// The node whose value it computes.
    pub(crate) node: usize,
    pub(crate) work: Work,
    /// The places that it reads.
    pub(crate) sources: Vec<usize>,
    /// The place that it writes; what goes to the caller has none.
    pub(crate) target: Option<usize>,
}

/// A network made ready.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) kernels: Kernels,
    pub(crate) places: Vec<Buffer>,
    /// Where each node's value lies; results that go to the caller at once have no place.
    pub(crate) place_of: Vec<Option<usize>>,
    pub(crate) steps: Vec<Step>,
    /// Bytes of the arena.
    pub(crate) arena: usize,
    pub(crate) image: [usize; 3],
    /// Numbers of all outputs of an image.
    pub(crate) numbers: usize,
}

impl Plan {
    /// Plans a network that [`QModel::validate`] gave `shapes` for. With `options.keep_codes`, every value is computed and
    /// keeps its place to the end of a run; else a value that no output follows from is left out.
    ///
    /// # Errors
    ///
    /// [`InferError::Memory`] and [`InferError::Work`].
    pub(crate) fn new(
        model: &QModel,
        shapes: &[Vec<usize>],
        kernels: Kernels,
        options: &Options,
    ) -> Result<Self> {
        let keep = options.keep_codes;
        let mut plan = Self {
            kernels,
            places: Vec::new(),
            place_of: Vec::with_capacity(model.nodes.len()),
            steps: Vec::with_capacity(model.nodes.len()),
            arena: 0,
            image: model.input.shape,
            numbers: 0,
        };
        let readers = readers(model);
        let borders = borders(model, &readers);
        let is_used = is_used(model, keep);
        let last_reads = last_reads(model, &readers, &is_used);
        // The node that computed what lies in a node's place.
        let mut roots: Vec<usize> = Vec::with_capacity(model.nodes.len());
        // Places whose value is no longer read.
        let mut free: HashMap<Layout, Vec<usize>> = HashMap::new();
        let mut is_free: Vec<bool> = Vec::new();
        let mut need = Need::default();
        // Where each output begins among the numbers of an image.
        let mut first_output: HashMap<usize, usize> = HashMap::new();
        for output in &model.outputs {
            first_output.insert(output.node, plan.numbers);
            plan.numbers += shapes[output.node].iter().product::<usize>();
        }
        for (id, node) in model.nodes.iter().enumerate() {
            let sources: Vec<usize> = node
                .inputs
                .iter()
                .filter_map(|i| plan.place_of[*i])
                .collect();
            if stays_in_place(model, &readers, shapes, id) {
                roots.push(roots[node.inputs[0]]);
                plan.place_of.push(sources.first().copied());
                continue;
            }
            roots.push(id);
            if !is_used[id] {
                plan.place_of.push(None);
                continue;
            }
            let at_once = matches!(node.op, QOp::Logits { .. })
                && readers[id].is_empty()
                && first_output.contains_key(&id);
            let target = (!at_once).then(|| {
                let layout = match &node.activation {
                    Some(y) => {
                        let multiple = if id == 0 { GROUP } else { LANES };
                        Layout::new(&shapes[id], multiple, borders[id], &y.zero_points)
                    }
                    None => Layout::float(&shapes[id]),
                };
                let place = match free.get_mut(&layout).and_then(Vec::pop) {
                    Some(at) => at,
                    None => plan.add_place(layout),
                };
                is_free.resize(plan.places.len(), false);
                is_free[place] = false;
                place
            });
            plan.place_of.push(target);
            let input = sources.first().map(|place| &plan.places[*place].layout);
            need.add(&node.op, input, &shapes[id], &model.params);
            need.check(plan.arena, options.threads, &options.limits)?;
            let first = first_output.get(&id).copied();
            let work = plan.work(model, node, &sources, target, first);
            if !keep {
                for input in &node.inputs {
                    if let Some(place) = plan.place_of[*input]
                        && last_reads[roots[*input]] == id
                        && !std::mem::replace(&mut is_free[place], true)
                    {
                        let layout = plan.places[place].layout.clone();
                        free.entry(layout).or_default().push(place);
                    }
                }
            }
            plan.steps.push(Step {
                node: id,
                work,
                sources,
                target,
            });
            if let (Some(place), Some(first_output)) = (target, first) {
                plan.steps.push(Step {
                    node: id,
                    work: Work::ToCaller(ToCaller::Value { first_output }),
                    sources: vec![place],
                    target: None,
                });
            }
        }
        Ok(plan)
    }

    fn add_place(&mut self, layout: Layout) -> usize {
        let bytes = layout.saturating_bytes().saturating_add(SLACK);
        let end = self.arena.saturating_add(bytes);
        let place = Buffer {
            layout,
            offset: self.arena,
        };
        self.arena = end.checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
        self.places.push(place);
        self.places.len() - 1
    }

    fn work(
        &self,
        model: &QModel,
        node: &QNode,
        sources: &[usize],
        target: Option<usize>,
        first_output: Option<usize>,
    ) -> Work {
        // What a validated network has: codes are read where codes are expected.
        let none = Activation::new(1.0, 0);
        let meaning = |i: usize| {
            let input = node.inputs.get(i);
            let of = input.and_then(|n| model.nodes[*n].activation.as_ref());
            of.unwrap_or(&none)
        };
        let y = node.activation.as_ref().unwrap_or(&none);
        let layout = |place: usize| &self.places[place].layout;
        match &node.op {
            QOp::Input => Work::Input,
            QOp::Conv {
                weight,
                bias,
                window,
                group,
            } => {
                let residual = sources.get(1).map(|place| {
                    let residual = Residual {
                        scale: meaning(1).scale / y.scale,
                        zero: meaning(1).zero(0),
                        origin: 0,
                        row: 0,
                        stride: 0,
                    };
                    (layout(*place), residual)
                });
                Work::Conv(Box::new(Conv::new(
                    (weight, bias),
                    window,
                    *group,
                    (layout(sources[0]), meaning(0)),
                    Requant::new(meaning(0), weight, y),
                    residual,
                    layout(target.unwrap_or_default()),
                )))
            }
            QOp::Gemm { weight, bias } => {
                let x = layout(sources[0]);
                Work::Gemm {
                    products: Products::new(weight, bias, [x.height, x.width], 1, x, meaning(0)),
                    origin: x.origin(),
                    requant: Requant::new(meaning(0), weight, y),
                }
            }
            QOp::Logits { weight, bias } => {
                let x = layout(sources[0]);
                let products = Products::new(weight, bias, [x.height, x.width], 1, x, meaning(0));
                let scales = weight.scales.iter().map(|s| meaning(0).scale * s).collect();
                let origin = x.origin();
                match (target, first_output) {
                    (None, Some(first_output)) => Work::ToCaller(ToCaller::Logits {
                        products,
                        origin,
                        scales,
                        first_output,
                    }),
                    (Some(_), _) | (None, None) => Work::Logits {
                        products,
                        origin,
                        scales,
                    },
                }
            }
            QOp::Add => Work::Add(Sum {
                zeros: [meaning(0).zero(0), meaning(1).zero(0)],
                scales: [meaning(0).scale / y.scale, meaning(1).scale / y.scale],
                zero: y.zero_points[0],
                lo: y.lo,
                hi: y.hi,
            }),
            QOp::Table { table, .. } => Work::Table(table.clone()),
            QOp::MaxPool(window) => Work::MaxPool(*window),
            QOp::AveragePool(window) => Work::Mean(mean(meaning(0), y), Some(*window)),
            QOp::GlobalAveragePool => Work::Mean(mean(meaning(0), y), None),
            QOp::Flatten => Work::Flatten,
            QOp::Slice { start, step, .. } => Work::Slice {
                start: three(start, 0),
                step: three(step, 1),
            },
            QOp::Pad { begin, .. } => Work::Pad {
                begin: three(begin, 0),
                zero: y.zero_points[0],
            },
            QOp::Clamp => Work::Clamp { lo: y.lo, hi: y.hi },
            QOp::Quantize => Work::Quantize(y.clone()),
            QOp::Dequantize => Work::Dequantize(meaning(0).clone()),
            QOp::Float(op) => float_work(op, &model.params),
        }
    }
}

/// What an operator on f32 values computes.
fn float_work(op: &Op, params: &Params) -> Work {
    let conv = |weight: &str, bias: &Option<String>, window, group| {
        let bias = bias.as_deref();
        FloatWork::Conv(Box::new(FloatConv::new(
            params, weight, bias, window, group,
        )))
    };
    Work::Float(match op {
        // A validated network has none behind its first node.
        Op::Input => return Work::Input,
        Op::Conv {
            weight,
            bias,
            window,
            group,
        } => conv(weight, bias, *window, *group),
        Op::Gemm { weight, bias } => conv(weight, bias, Window::square(1, 1, 0), 1),
        Op::BatchNormalization {
            scale,
            bias,
            mean,
            var,
            epsilon,
            ..
        } => {
            let names = [scale.as_deref(), Some(bias), Some(mean), Some(var)];
            FloatWork::Affine(Affine::new(params, names, *epsilon))
        }
        Op::Unary(function) => FloatWork::Unary(*function),
        Op::Binary(function) => FloatWork::Binary(*function),
        Op::MaxPool(window) => FloatWork::MaxPool(*window),
        Op::AveragePool(window) => FloatWork::Mean(Some(*window)),
        Op::GlobalAveragePool => FloatWork::Mean(None),
        Op::Flatten => FloatWork::Flatten,
        Op::Slice { start, step, .. } => FloatWork::Slice {
            start: three(start, 0),
            step: three(step, 1),
        },
        Op::Pad { begin, .. } => FloatWork::Pad {
            begin: three(begin, 0),
        },
    })
}

/// What a network asks for, beside its arena.
#[derive(Debug, Default)]
struct Need {
    /// Bytes of packed weights.
    packed: usize,
    /// Products and comparisons for one image.
    operations: u64,
}

impl Need {
    /// Adds an operator that reads `x` and gives a value of shape `y`.
    fn add(&mut self, op: &QOp, x: Option<&Layout>, y: &[usize], params: &Params) {
        let product = |factors: &[usize]| -> u64 {
            let factors = factors.iter().map(|n| *n as u64);
            factors.fold(1, u64::saturating_mul)
        };
        let elements = product(y);
        let whole = x.map_or(0, |x| product(&[x.channels, x.height, x.width]));
        let channels = x.map_or(0, |x| x.channels);
        let operations = match op {
            QOp::Conv { window, group, .. } => {
                let packed = Products::size(y[0], channels, window.kernel, *group);
                self.packed = self.packed.saturating_add(packed.bytes);
                // Every output channel of a pixel at once, with those that only fill vectors.
                product(&[packed.products, y[1..].iter().product()])
            }
            QOp::Gemm { .. } | QOp::Logits { .. } => {
                let kernel = x.map_or([1, 1], |x| [x.height, x.width]);
                let packed = Products::size(y[0], channels, kernel, 1);
                self.packed = self.packed.saturating_add(packed.bytes);
                packed.products as u64
            }
            QOp::MaxPool(window)
            | QOp::AveragePool(window)
            | QOp::Float(Op::MaxPool(window) | Op::AveragePool(window)) => {
                elements.saturating_mul(product(&window.kernel))
            }
            QOp::GlobalAveragePool | QOp::Float(Op::GlobalAveragePool) => whole,
            QOp::Float(Op::Conv { weight, .. } | Op::Gemm { weight, .. }) => {
                let weights = params.get(weight).map_or(0, |w| w.len());
                let bytes = weights.saturating_add(y[0]).saturating_mul(4);
                self.packed = self.packed.saturating_add(bytes);
                product(&[weights, y[1..].iter().product()])
            }
            QOp::Float(Op::BatchNormalization { .. }) => {
                self.packed = self.packed.saturating_add(y[0].saturating_mul(8));
                elements
            }
            QOp::Input
            | QOp::Add
            | QOp::Table { .. }
            | QOp::Flatten
            | QOp::Slice { .. }
            | QOp::Pad { .. }
            | QOp::Clamp
            | QOp::Quantize
            | QOp::Dequantize
            | QOp::Float(
                Op::Input
                | Op::Unary(_)
                | Op::Binary(_)
                | Op::Flatten
                | Op::Slice { .. }
                | Op::Pad { .. },
            ) => elements,
        };
        self.operations = self.operations.saturating_add(operations);
    }

    /// Refuses what is more than the limits, so far.
    fn check(&self, arena: usize, threads: usize, limits: &Limits) -> Result<()> {
        let bytes = arena.saturating_mul(threads).saturating_add(self.packed);
        if bytes > limits.bytes {
            return Err(InferError::Memory {
                bytes,
                threads,
                limit: limits.bytes,
            });
        }
        if self.operations > limits.operations {
            return Err(InferError::Work {
                operations: self.operations,
                limit: limits.operations,
            });
        }
        Ok(())
    }
}

fn mean(x: &Activation, y: &Activation) -> Mean {
    Mean {
        x_zero: x.zero(0),
        x_scale: x.scale,
        y_scale: y.scale,
        zero: y.zero_points[0],
        lo: y.lo,
        hi: y.hi,
    }
}

/// Numbers of a vector's one axis as those of channels, rows and columns.
fn three(axes: &[usize], rest: usize) -> [usize; 3] {
    std::array::from_fn(|i| axes.get(i).copied().unwrap_or(rest))
}

/// Which nodes read each node.
fn readers(model: &QModel) -> Vec<Vec<usize>> {
    let mut readers = vec![Vec::new(); model.nodes.len()];
    for (id, node) in model.nodes.iter().enumerate() {
        for input in &node.inputs {
            readers[*input].push(id);
        }
    }
    readers
}

/// The widest padding of the convolutions that read each node.
fn borders(model: &QModel, readers: &[Vec<usize>]) -> Vec<[usize; 4]> {
    let of = |id: usize| {
        let mut border = [0; 4];
        for reader in &readers[id] {
            let QNode { op, inputs, .. } = &model.nodes[*reader];
            if let QOp::Conv { window, .. } = op
                && inputs[0] == id
            {
                border = std::array::from_fn(|side| window.pads[side].max(border[side]));
            }
        }
        border
    };
    (0..model.nodes.len()).map(of).collect()
}

/// Whether the node's value is its input's, byte by byte: a vector that is read as it lies, by layers that pack their weights
/// accordingly.
fn stays_in_place(
    model: &QModel,
    readers: &[Vec<usize>],
    shapes: &[Vec<usize>],
    id: usize,
) -> bool {
    let node = &model.nodes[id];
    let dense = |reader: &usize| {
        let op = &model.nodes[*reader].op;
        matches!(op, QOp::Gemm { .. } | QOp::Logits { .. })
    };
    let pixel = |shape: &[usize]| matches!(shape, [_] | [_, 1, 1]);
    node.op == QOp::Flatten && (pixel(&shapes[node.inputs[0]]) || readers[id].iter().all(dense))
}

/// Whether each node is computed: the outputs, what they follow from, and with `all` every value.
fn is_used(model: &QModel, all: bool) -> Vec<bool> {
    let mut used = vec![all; model.nodes.len()];
    for output in &model.outputs {
        used[output.node] = true;
    }
    for (id, node) in model.nodes.iter().enumerate().rev() {
        if used[id] {
            for input in &node.inputs {
                used[*input] = true;
            }
        }
    }
    // The image is always taken.
    if let Some(image) = used.first_mut() {
        *image = true;
    }
    used
}

/// The last computed node that reads each node's value, in its own place or through a Flatten.
fn last_reads(model: &QModel, readers: &[Vec<usize>], is_used: &[bool]) -> Vec<usize> {
    let mut last = vec![0; model.nodes.len()];
    for id in (0..model.nodes.len()).rev() {
        let through = |reader: &usize| {
            if model.nodes[*reader].op == QOp::Flatten {
                last[*reader].max(*reader)
            } else {
                *reader
            }
        };
        let computed = readers[id].iter().filter(|reader| is_used[**reader]);
        last[id] = computed.map(through).max().unwrap_or(0);
    }
    last
}

//! From a network to flat steps: where each value lies, what each step reads and writes, packed weights.
//!
//! Nothing is decided while a network runs: shapes, offsets, kernels and multipliers are in the plan.

use std::collections::HashMap;

use opt_core::op::Window;
use opt_core::qmodel::{QEdge, QModel, QNode, QOp};

use crate::conv::{Conv, Products, Requant, Residual};
use crate::kernels::portable::{Mean, Sum};
use crate::layout::{GROUP, LANES, Layout};
use crate::session::{Limits, Options};
use crate::{InferError, Kernels, Result};

/// Bytes behind each value: a kernel may read a whole vector at its last pixel.
const SLACK: usize = 64;

/// Where values begin: on a line of the cache.
pub(crate) const ALIGN: usize = 64;

/// A value in the arena.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    pub(crate) layout: Layout,
    /// Its first byte in the arena.
    pub(crate) offset: usize,
}

impl Place {
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
}

/// One operation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    /// The node whose value it computes.
    pub(crate) node: usize,
    pub(crate) work: Work,
    /// The places that it reads.
    pub(crate) sources: Vec<usize>,
    /// The place that it writes; the logits have none.
    pub(crate) target: Option<usize>,
}

/// A network made ready.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) kernels: Kernels,
    pub(crate) places: Vec<Place>,
    /// Where each node's value lies; the logits have no place.
    pub(crate) place_of: Vec<Option<usize>>,
    pub(crate) steps: Vec<Step>,
    /// Bytes of the arena.
    pub(crate) arena: usize,
    pub(crate) image: [usize; 3],
    pub(crate) classes: usize,
}

impl Plan {
    /// Plans a network that [`QModel::validate`] gave `shapes` for. With `options.keep_codes`, every value is computed and
    /// keeps its place to the end of a run; else a value that the logits do not follow from is left out.
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
            classes: model.input.labels.len(),
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
            let target = node.edge.as_ref().map(|edge| {
                let multiple = if id == 0 { GROUP } else { LANES };
                let zero = &edge.zero_points;
                let layout = Layout::new(&shapes[id], multiple, borders[id], zero);
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
            need.add(&node.op, input, &shapes[id]);
            need.check(plan.arena, options.threads, &options.limits)?;
            let work = plan.work(model, node, &sources, target);
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
        }
        Ok(plan)
    }

    fn add_place(&mut self, layout: Layout) -> usize {
        let bytes = layout.saturating_bytes().saturating_add(SLACK);
        let end = self.arena.saturating_add(bytes);
        let place = Place {
            layout,
            offset: self.arena,
        };
        self.arena = end.checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
        self.places.push(place);
        self.places.len() - 1
    }

    fn work(&self, model: &QModel, node: &QNode, sources: &[usize], target: Option<usize>) -> Work {
        // What a validated network has: every operand but the logits is codes.
        let none = QEdge {
            scale: 1.0,
            zero_points: vec![0],
        };
        let edge = |i: usize| {
            let input = node
                .inputs
                .get(i)
                .and_then(|n| model.nodes[*n].edge.as_ref());
            input.unwrap_or(&none)
        };
        let y_edge = node.edge.as_ref().unwrap_or(&none);
        let layout = |place: usize| &self.places[place].layout;
        match &node.op {
            QOp::Input => Work::Input,
            QOp::Conv {
                weight,
                bias,
                window,
                group,
                lo,
                hi,
            } => {
                let residual = sources.get(1).map(|place| {
                    let residual = Residual {
                        scale: edge(1).scale / y_edge.scale,
                        zero: edge(1).zero(0),
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
                    (layout(sources[0]), edge(0)),
                    Requant::new(edge(0), weight, y_edge, *lo, *hi),
                    residual,
                    layout(target.unwrap_or_default()),
                )))
            }
            QOp::Gemm {
                weight,
                bias,
                lo,
                hi,
            } => {
                let x = layout(sources[0]);
                Work::Gemm {
                    products: Products::new(weight, bias, [x.height, x.width], 1, x, edge(0)),
                    origin: x.origin(),
                    requant: Requant::new(edge(0), weight, y_edge, *lo, *hi),
                }
            }
            QOp::Logits { weight, bias } => {
                let x = layout(sources[0]);
                let scales = weight.scales.iter().map(|s| edge(0).scale * s);
                Work::Logits {
                    products: Products::new(weight, bias, [x.height, x.width], 1, x, edge(0)),
                    origin: x.origin(),
                    scales: scales.collect(),
                }
            }
            QOp::Add { lo, hi } => Work::Add(Sum {
                zeros: [edge(0).zero(0), edge(1).zero(0)],
                scales: [edge(0).scale / y_edge.scale, edge(1).scale / y_edge.scale],
                zero: y_edge.zero_points[0],
                lo: *lo,
                hi: *hi,
            }),
            QOp::MaxPool(window) => Work::MaxPool(*window),
            QOp::AveragePool(window) => Work::Mean(mean(edge(0), y_edge), Some(*window)),
            QOp::GlobalAveragePool => Work::Mean(mean(edge(0), y_edge), None),
            QOp::Flatten => Work::Flatten,
            QOp::Slice { start, step, .. } => Work::Slice {
                start: three(start, 0),
                step: three(step, 1),
            },
            QOp::Pad { begin, .. } => Work::Pad {
                begin: three(begin, 0),
                zero: y_edge.zero_points[0],
            },
            QOp::Clamp { lo, hi } => Work::Clamp { lo: *lo, hi: *hi },
        }
    }
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
    fn add(&mut self, op: &QOp, x: Option<&Layout>, y: &[usize]) {
        let product = |factors: &[usize]| -> u64 {
            let factors = factors.iter().map(|n| *n as u64);
            factors.fold(1, u64::saturating_mul)
        };
        let elements = product(y);
        let operations = match (op, x) {
            (QOp::Conv { window, group, .. }, Some(x)) => {
                let out = y[0];
                let packed = Products::size(out, x.channels, window.kernel, *group);
                self.packed = self.packed.saturating_add(packed.bytes);
                // Every output channel of a pixel at once, with those that only fill vectors.
                product(&[packed.products, y[1..].iter().product()])
            }
            (QOp::Gemm { .. } | QOp::Logits { .. }, Some(x)) => {
                let packed = Products::size(y[0], x.channels, [x.height, x.width], 1);
                self.packed = self.packed.saturating_add(packed.bytes);
                packed.products as u64
            }
            (QOp::MaxPool(window) | QOp::AveragePool(window), _) => {
                elements.saturating_mul(product(&window.kernel))
            }
            (QOp::GlobalAveragePool, Some(x)) => product(&[x.channels, x.height, x.width]),
            (
                QOp::Input
                | QOp::Conv { .. }
                | QOp::Gemm { .. }
                | QOp::Logits { .. }
                | QOp::GlobalAveragePool
                | QOp::Add { .. }
                | QOp::Flatten
                | QOp::Slice { .. }
                | QOp::Pad { .. }
                | QOp::Clamp { .. },
                _,
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

fn mean(x: &QEdge, y: &QEdge) -> Mean {
    Mean {
        x_zero: x.zero(0),
        x_scale: x.scale,
        y_scale: y.scale,
        zero: y.zero_points[0],
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

/// Whether each node is computed: the logits, what they follow from, and with `all` every value that has codes.
fn is_used(model: &QModel, all: bool) -> Vec<bool> {
    let mut used: Vec<bool> = (model.nodes.iter())
        .map(|node| all && node.edge.is_some())
        .collect();
    for (id, node) in model.nodes.iter().enumerate().rev() {
        used[id] |= id + 1 == model.nodes.len();
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
        let through = |reader: &usize| match model.nodes[*reader].op {
            QOp::Flatten => last[*reader].max(*reader),
            _ => *reader,
        };
        let computed = readers[id].iter().filter(|reader| is_used[**reader]);
        last[id] = computed.map(through).max().unwrap_or(0);
    }
    last
}

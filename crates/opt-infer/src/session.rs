//! A network ready to run: what a program calls.

use std::path::Path;

use opt_core::interpret_quantized::Value;
use opt_core::{InputSpec, Op, QModel, QOp};

use crate::plan::{Plan, ToCaller, Work};
use crate::thread_pool::ThreadPool;
use crate::{InferError, Kernels, Result};

pub use crate::options::{Limits, Options, Sharing};

/// The most threads of a session.
pub const MAX_THREADS: usize = 256;

/// A network ready to run.
#[derive(Debug)]
pub struct Session {
    thread_pool: ThreadPool,
    steps: Vec<StepInfo>,
    input: InputSpec,
    outputs: Vec<OutputInfo>,
    numbers: Vec<f32>,
    /// For each node, whether its value is f32; none unless values are kept.
    kept: Option<Vec<bool>>,
}

/// A result of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputInfo {
    /// The node whose value it is.
    pub name: String,
    /// Its shape, in the order in which its numbers come.
    pub shape: Vec<usize>,
    /// The classes that the numbers stand for; empty where they stand for none.
    pub labels: Vec<String>,
}

/// A step that a session takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepInfo {
    /// The node whose value it computes.
    pub name: String,
    /// Its operator.
    pub op: &'static str,
    /// The shape of the value.
    pub shape: Vec<usize>,
    /// Multiply-accumulates on one image, as they are counted for the float network.
    pub macs: u64,
}

impl Session {
    /// Makes `model` ready.
    ///
    /// # Errors
    ///
    /// [`InferError::Model`] for a network that is not sound, [`InferError::Kernels`] for kernels that this CPU cannot run,
    /// [`InferError::Threads`] for none or more than [`MAX_THREADS`], [`InferError::Memory`] and [`InferError::Work`] for a
    /// network that asks for more than [`Options::limits`], [`InferError::Allocation`] and [`InferError::Spawn`] for what the
    /// system does not give.
    pub fn new(model: &QModel, options: &Options) -> Result<Self> {
        if !(1..=MAX_THREADS).contains(&options.threads) {
            return Err(InferError::Threads {
                threads: options.threads,
                most: MAX_THREADS,
            });
        }
        let kernels = options.kernels.unwrap_or_else(Kernels::best);
        if !kernels.available() {
            return Err(InferError::Kernels {
                kernels,
                needs: kernels.needs(),
            });
        }
        let shapes = model.validate()?;
        let plan = Plan::new(model, &shapes, kernels, options)?;
        let step = |work: &Work, node: usize| {
            let (name, op) = (&model.nodes[node].name, &model.nodes[node].op);
            // A convolution takes its weights at every position.
            let pixels: usize = shapes[node].iter().skip(1).product();
            let float = |name: &str| model.params.get(name).map_or(0, |w| w.len());
            let weights = match (work, op) {
                (Work::ToCaller(ToCaller::Value { .. }), _) => 0,
                (_, QOp::Float(Op::Conv { weight, .. } | Op::Gemm { weight, .. })) => float(weight),
                (_, op) => op.weight().map_or(0, |(w, _)| w.codes.len()),
            };
            StepInfo {
                name: name.clone(),
                op: if matches!(work, Work::ToCaller(ToCaller::Value { .. })) {
                    "Output"
                } else {
                    op.name()
                },
                shape: shapes[node].clone(),
                macs: (pixels * weights) as u64,
            }
        };
        Ok(Self {
            steps: plan.steps.iter().map(|s| step(&s.work, s.node)).collect(),
            thread_pool: ThreadPool::new(plan, options)?,
            input: model.input.clone(),
            outputs: (model.outputs.iter())
                .map(|output| OutputInfo {
                    name: model.nodes[output.node].name.clone(),
                    shape: shapes[output.node].clone(),
                    labels: output.labels.clone(),
                })
                .collect(),
            numbers: Vec::new(),
            kept: options
                .keep_codes
                .then(|| model.nodes.iter().map(|n| n.op.is_float()).collect()),
        })
    }

    /// Reads a `.opt` file and makes its network ready.
    ///
    /// # Errors
    ///
    /// [`InferError::Artifact`] for a file that cannot be read, with its path; those of [`Self::new`].
    pub fn load(path: &Path, options: &Options) -> Result<Self> {
        Self::new(&opt_artifact::load_qmodel(path)?, options)
    }

    /// Channels, height and width of an image.
    #[must_use]
    pub fn image_shape(&self) -> [usize; 3] {
        self.thread_pool.plan().image
    }

    /// What the network is fed, with the description of how an image file becomes that: the crate `opt-image` follows it.
    #[must_use]
    pub fn input(&self) -> &InputSpec {
        &self.input
    }

    /// Bytes of an image.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        self.thread_pool.plan().image.iter().product()
    }

    /// The results, in the order in which their numbers come.
    #[must_use]
    pub fn outputs(&self) -> &[OutputInfo] {
        &self.outputs
    }

    /// The classes of the first output, in the order of its numbers; none if they stand for none.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        self.outputs.first().map_or(&[], |o| &o.labels)
    }

    /// Numbers of all outputs of an image.
    fn numbers(&self) -> usize {
        self.thread_pool.plan().numbers
    }

    /// The kernels in use.
    #[must_use]
    pub fn kernels(&self) -> Kernels {
        self.thread_pool.plan().kernels
    }

    /// The threads in use.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.thread_pool.threads()
    }

    /// The steps, in the order in which they are taken. What the logits do not follow from is no step, unless its codes are
    /// kept.
    #[must_use]
    pub fn steps(&self) -> &[StepInfo] {
        &self.steps
    }

    /// The results of one image. Several images are for [`Self::run_batch`].
    ///
    /// # Shapes
    ///
    /// `[C, H, W]` bytes, or `[H, W, C]` with [`ImageOrder::Hwc`](crate::ImageOrder::Hwc); all outputs one after another, as [`Self::outputs`] lists them. A
    /// classifier has one, with a number for each label.
    ///
    /// # Errors
    ///
    /// [`InferError::Length`] for bytes that are not exactly one image.
    pub fn run(&mut self, image: &[u8]) -> Result<&[f32]> {
        self.run_batch(image, 1)
    }

    /// The results of `count` images, one image after another.
    ///
    /// # Shapes
    ///
    /// `[N, C, H, W]` bytes, or `[N, H, W, C]` with [`ImageOrder::Hwc`](crate::ImageOrder::Hwc); for each image what [`Self::run`] gives.
    ///
    /// # Errors
    ///
    /// [`InferError::Length`] for bytes that are not so many images.
    pub fn run_batch(&mut self, images: &[u8], count: usize) -> Result<&[f32]> {
        self.check_images(images, count)?;
        // At most as many as the caller has bytes, and more than a number for each.
        self.numbers
            .resize(count.saturating_mul(self.numbers()), 0.0);
        self.thread_pool.run(images, &mut self.numbers);
        Ok(&self.numbers)
    }

    /// Writes the results of as many images as there is room for into `logits`; allocates nothing but where outputs are f32 values.
    ///
    /// # Shapes
    ///
    /// As [`Self::run_batch`].
    ///
    /// # Errors
    ///
    /// [`InferError::Length`] for room that is not for whole images, or bytes that are not so many.
    pub fn run_into(&mut self, images: &[u8], logits: &mut [f32]) -> Result<()> {
        let numbers = self.numbers();
        if !logits.len().is_multiple_of(numbers) {
            return Err(InferError::Length {
                what: "room for logits",
                found: logits.len(),
                expected: format!("a multiple of the {numbers} numbers of an image"),
            });
        }
        self.check_images(images, logits.len() / numbers)?;
        self.thread_pool.run(images, logits);
        Ok(())
    }

    fn check_images(&self, images: &[u8], count: usize) -> Result<()> {
        let [channels, height, width] = self.image_shape();
        let bytes = self.image_bytes();
        if Some(images.len()) == bytes.checked_mul(count) {
            return Ok(());
        }
        let size = format!("{height} × {width} pixels of {channels} channels");
        Err(InferError::Length {
            what: if count == 1 { "an image" } else { "images" },
            found: images.len(),
            expected: match count {
                1 => format!("{bytes}: {size}; several images are for `run_batch`"),
                count => format!("{count} times {bytes}: {size}"),
            },
        })
    }

    /// Takes one step on one image (its bytes as for [`Self::run`]), on the caller's thread: to measure what each takes. The steps before it must have been
    /// taken on the same image.
    ///
    /// # Errors
    ///
    /// [`InferError::Length`] for bytes that are not one image or room for another number of logits, [`InferError::Step`].
    pub fn run_step(&mut self, step: usize, image: &[u8], logits: &mut [f32]) -> Result<()> {
        let checks = [
            ("an image", image.len(), self.image_bytes()),
            ("room for logits", logits.len(), self.numbers()),
        ];
        for (what, found, expected) in checks {
            if found != expected {
                return Err(InferError::Length {
                    what,
                    found,
                    expected: expected.to_string(),
                });
            }
        }
        if step >= self.steps.len() {
            return Err(InferError::Step {
                step,
                steps: self.steps.len(),
            });
        }
        self.thread_pool.run_step(step, image, logits);
        Ok(())
    }

    /// A node's value, `[C, H, W]`, after a run of one image; `None` for logits that went to the caller at once, and without
    /// [`Options::keep_codes`].
    pub fn value(&mut self, node: usize) -> Option<Value> {
        let is_float = *self.kept.as_ref()?.get(node)?;
        self.thread_pool.value(node, is_float)
    }

    /// The codes of a node's value, as [`Self::value`]; `None` for f32 values.
    pub fn codes(&mut self, node: usize) -> Option<Vec<u8>> {
        match self.value(node)? {
            Value::Codes(codes) => Some(codes),
            Value::Float(_) => None,
        }
    }
}

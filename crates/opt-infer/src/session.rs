//! A network ready to run: what a program calls.

use std::path::Path;

use opt_core::QModel;

use crate::crew::Crew;
use crate::kernels::portable::ImageOrder;
use crate::plan::{Plan, Work};
use crate::{InferError, Kernels, Result};

/// The most threads of a session.
pub const MAX_THREADS: usize = 256;

/// How a network runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Threads. Several share the images of a batch, or the rows of one image.
    pub threads: usize,
    /// The kernels; `None` takes the fastest that this CPU can run.
    pub kernels: Option<Kernels>,
    /// The order of an image's bytes.
    pub order: ImageOrder,
    /// Whether every value keeps its place, so that [`Session::codes`] can give it: for tests, at the price of memory.
    pub keep_codes: bool,
}

impl Default for Options {
    /// One thread, the fastest kernels, images as files are decoded.
    fn default() -> Self {
        Self {
            threads: 1,
            kernels: None,
            order: ImageOrder::Hwc,
            keep_codes: false,
        }
    }
}

/// A network ready to run.
#[derive(Debug)]
pub struct Session {
    crew: Crew,
    steps: Vec<StepInfo>,
    labels: Vec<String>,
    logits: Vec<f32>,
    keeps_codes: bool,
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
    /// [`InferError::Threads`] for none or more than [`MAX_THREADS`], [`InferError::Memory`] for a network that is too large.
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
        let plan = Plan::new(model, kernels, options.keep_codes)?;
        let shapes = model.validate()?;
        let step = |work: &Work, node: usize| {
            let (name, op) = (&model.nodes[node].name, &model.nodes[node].op);
            let pixels: usize = match work {
                Work::Conv { .. } => shapes[node][1..].iter().product(),
                _ => 1,
            };
            let weights = op.weight().map_or(0, |(w, _)| w.codes.len());
            StepInfo {
                name: name.clone(),
                op: op.name(),
                shape: shapes[node].clone(),
                macs: (pixels * weights) as u64,
            }
        };
        Ok(Self {
            steps: plan.steps.iter().map(|s| step(&s.work, s.node)).collect(),
            crew: Crew::new(plan, options.threads, options.order)?,
            labels: model.input.labels.clone(),
            logits: Vec::new(),
            keeps_codes: options.keep_codes,
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

    /// Height, width and channels of an image.
    #[must_use]
    pub fn image_shape(&self) -> [usize; 3] {
        let [channels, height, width] = self.crew.plan().image;
        [height, width, channels]
    }

    /// Bytes of an image.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        self.crew.plan().image.iter().product()
    }

    /// The classes, in the order of the logits.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The kernels in use.
    #[must_use]
    pub fn kernels(&self) -> Kernels {
        self.crew.plan().kernels
    }

    /// The threads in use.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.crew.threads()
    }

    /// The steps, in the order in which they are taken.
    #[must_use]
    pub fn steps(&self) -> &[StepInfo] {
        &self.steps
    }

    /// The logits of one image or several, one after another.
    ///
    /// # Errors
    ///
    /// [`InferError::Length`] for bytes that are not whole images.
    pub fn run(&mut self, images: &[u8]) -> Result<&[f32]> {
        let mut logits = std::mem::take(&mut self.logits);
        let count = images.len() / self.image_bytes();
        logits.resize(count * self.labels.len(), 0.0);
        self.run_into(images, &mut logits)?;
        self.logits = logits;
        Ok(&self.logits)
    }

    /// Writes the logits of one image or several into `logits`; allocates nothing.
    ///
    /// # Errors
    ///
    /// [`InferError::Length`] for bytes that are not whole images, or room for another number of logits.
    pub fn run_into(&mut self, images: &[u8], logits: &mut [f32]) -> Result<()> {
        let bytes = self.image_bytes();
        if !images.len().is_multiple_of(bytes) {
            return Err(InferError::Length {
                what: "images",
                found: images.len(),
                expected: format!("a multiple of the {bytes} bytes of an image"),
            });
        }
        let expected = images.len() / bytes * self.labels.len();
        if logits.len() != expected {
            return Err(InferError::Length {
                what: "room for logits",
                found: logits.len(),
                expected: expected.to_string(),
            });
        }
        self.crew.run(images, logits);
        Ok(())
    }

    /// Takes one step on one image, on the caller's thread: to measure what each takes. The steps before it must have been
    /// taken on the same image.
    ///
    /// # Errors
    ///
    /// [`InferError::Length`] for bytes that are not one image or room for another number of logits, [`InferError::Step`].
    pub fn run_step(&mut self, step: usize, image: &[u8], logits: &mut [f32]) -> Result<()> {
        let checks = [
            ("an image", image.len(), self.image_bytes()),
            ("room for logits", logits.len(), self.labels.len()),
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
        self.crew.run_step(step, image, logits);
        Ok(())
    }

    /// The codes of a node's value, `[C, H, W]`, after a run of one image; `None` for the logits, and without
    /// [`Options::keep_codes`].
    pub fn codes(&mut self, node: usize) -> Option<Vec<u8>> {
        if !self.keeps_codes || node >= self.crew.plan().place_of.len() {
            return None;
        }
        self.crew.codes(node)
    }
}

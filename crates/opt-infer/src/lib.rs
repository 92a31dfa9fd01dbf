//! The CPU engine: runs the quantized network of a `.opt` file, without libtorch, and gives the codes that
//! `opt_core::interpret_quantized` defines, every one of them. What the file leaves in f32 it computes in f32.
//!
//! ```no_run
//! use opt_infer::{Options, Session};
//!
//! let mut session = Session::load("net.opt".as_ref(), &Options::default())?;
//! let image = vec![128; session.image_bytes()]; // planes, C×H×W, as `opt-image` makes them of a file
//! let logits = session.run(&image)?;
//! let (class, _) = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
//! println!("{}", session.labels()[class]);
//! # Ok::<(), opt_infer::InferError>(())
//! ```
//!
//! In reading order: [`session`] and `options` (what a program calls, and what it chooses), `plan` (from a network to steps), `layout`,
//! `conv` and `float` (how values and weights lie in memory), [`kernels`] (the sets for different CPUs), `exec` and `thread_pool` (one thread
//! and several), `observer` (values for calibration).
//!
//! # What this crate does not do
//!
//! It folds and fuses nothing: `opt_core::lower` has done that. It has no second arithmetic: a set of kernels that gave
//! another code than the interpreter would be a defect, and tests compare them. It trains nothing and reads no file but
//! through `opt-artifact`.

mod arena;
mod conv;
pub mod error;
mod exec;
mod float;
pub mod kernels;
mod layout;
mod observer;
mod options;
mod plan;
mod selftest;
pub mod session;
mod thread_pool;

pub use error::InferError;
pub use kernels::Kernels;
pub use kernels::portable::ImageOrder;
pub use observer::Observer;
pub use options::{Limits, Options, Sharing};
pub use selftest::{first_difference, self_test};
pub use session::{OutputInfo, Session, StepInfo};

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, InferError>;

/// The example of README.md is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

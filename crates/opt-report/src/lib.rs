//! What a run leaves behind and what readers see of it: result lines, their summary, plots, the report as a page, as
//! Markdown and as a table for a terminal. It reads files and needs no libtorch, so that a word in a table is changed in
//! seconds.
//!
//! | file | holds |
//! |---|---|
//! | `line.rs`, `layers.rs`, `correct.rs`, `run_info.rs` | what the files of a run hold, line by line |
//! | `lines.rs` | how they are appended, read after a crash, and written at once |
//! | `summary.rs`, `comparison.rs`, `pairing.rs` | spread over seeds, differences to the baseline, methods against each other |
//! | `plots/` | `scatter.rs`, `sparsity.rs` and `curves.rs` draw; `canvas.rs` and `axis.rs` are what they draw with; `png.rs` makes pixels |
//! | `words.rs`, `ranking.rs`, `contests.rs` | numbers and verdicts in words |
//! | `html.rs` with `html/`, `markdown.rs`, `terminal.rs` | the three forms of the report |
//! | `write.rs`, `join.rs` | writes all of it into a folder; makes one folder of the parts of a run |
//!
//! # What this crate does not do
//!
//! It runs nothing and judges nothing by itself: `opt-stats` does.

mod comparison;
mod contests;
mod correct;
mod error;
mod figures;
mod html;
mod join;
mod layers;
mod line;
mod lines;
mod markdown;
mod pairing;
pub mod plots;
mod ranking;
mod run_info;
#[cfg(any(test, feature = "sample"))]
#[doc(hidden)]
pub mod sample;
mod summary;
mod terminal;
mod words;
mod write;

pub use comparison::{Alike, Comparison, Contender, Contest, Taught};
pub use correct::Correct;
pub use error::{ReportError, Result};
pub use figures::{Figure, figures};
pub use html::html;
pub use join::join;
pub use layers::{Layer, LayerLine};
pub use line::{Arm, CurvePoint, ResultLine};
pub use lines::{Lines, append_line, read_lines, write_atomic};
pub use markdown::markdown;
pub use run_info::{
    Cpu, DataSource, DatasetInfo, NotRun, RecipeText, RunInfo, SCHEMA, Shard, Versions, dirty_tree,
    notice, notices,
};
pub use summary::{Original, Runs, Summary, SummaryRow, best_within, summarize};
pub use terminal::terminal_table;
pub use words::{headline, named_percent};
pub use write::{rewrite_report, write_report};

/// The example of README.md is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

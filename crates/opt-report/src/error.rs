//! What may fail in reading results and writing reports.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// What may fail in reading results and writing reports.
#[derive(Debug, Error)]
pub enum ReportError {
    /// A file or folder cannot be read or written.
    #[error("{action} {}", path.display())]
    Io {
        /// What was being done, for example `reading`.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A folder without `run.json`.
    #[error("reading {}; name the folder of a run, which has this file", path.display())]
    NoRun {
        /// The file that is missing.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// A `run.json` of another program.
    #[error("reading {}: not the conditions of a run", path.display())]
    NotConditions {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A line of another program.
    #[error(
        "reading {}: line {line} is not a result of this program ({problem}); remove the line, or name another folder",
        path.display()
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: serde_json::Error,
    },
    /// Folders that are not the parts of one run.
    #[error("joining the parts of a run: {}: {problem}", dir.display())]
    Join {
        /// The folder.
        dir: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A value that JSON cannot express.
    #[error("turning {what} into JSON")]
    Json {
        /// What the value is.
        what: String,
        /// Why it failed.
        source: serde_json::Error,
    },
    /// The page's template.
    #[error("filling the template of the report")]
    Template(#[from] minijinja::Error),
    /// A plot that is no picture.
    #[error("turning a plot into PNG: {problem}")]
    Picture {
        /// What is wrong with it.
        problem: String,
    },
}

/// The crate's result.
pub type Result<T, E = ReportError> = std::result::Result<T, E>;

/// Names what was being done with which path.
pub(crate) fn io_error(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> ReportError {
    let path = path.into();
    move |source| ReportError::Io {
        action,
        path,
        source,
    }
}

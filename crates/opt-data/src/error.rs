//! The crate's error type.

use std::io;
use std::path::PathBuf;

/// Reports what went wrong with a data file, a download or a split, where, and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// An operation on a file or folder failed.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as in "could not … FILE".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// A file that the CIFAR-10 layout requires is absent.
    #[error(
        "{} is missing: expected a folder with data_batch_1.bin to data_batch_5.bin and test_batch.bin \
         (the CIFAR-10 binary version); point to such a folder, or fetch it with `cargo xtask data` (outside this workspace: `opt-data cifar10`)",
        path.display()
    )]
    MissingFile {
        /// The absent file.
        path: PathBuf,
    },
    /// A file has another length than its layout prescribes.
    #[error(
        "{} has the wrong size: {} at byte {found}, expected {records} records of {record_bytes} bytes = {expected} bytes; \
         fetch the file again",
        path.display(),
        if found < expected { "it ends" } else { "it goes on to end" }
    )]
    WrongSize {
        /// The offending file.
        path: PathBuf,
        /// Its length in bytes.
        found: u64,
        /// The length that the layout prescribes.
        expected: u64,
        /// The number of records that the layout prescribes.
        records: usize,
        /// The length of a record in bytes.
        record_bytes: usize,
    },
    /// A record's label byte is not a class.
    #[error(
        "{}: record {record} at byte {offset} has label {label}, expected 0 to 9; \
         the file is corrupt or not in the CIFAR-10 binary layout",
        path.display()
    )]
    BadLabel {
        /// The offending file.
        path: PathBuf,
        /// The record's index in the file.
        record: usize,
        /// The label's byte offset in the file.
        offset: u64,
        /// The byte found.
        label: u8,
    },
    /// A text file of a data folder does not hold what it should.
    #[error("{}, line {line}: found {found:?}, expected {expected}", path.display())]
    BadText {
        /// The offending file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What stands there.
        found: String,
        /// What should stand there.
        expected: &'static str,
    },
    /// A file's content differs from what its folder's `SHA256SUMS` recorded.
    #[error(
        "{} has SHA-256 {found}, but SHA256SUMS beside it recorded {expected}: the file changed after it was verified; \
         delete the folder and fetch the data again",
        path.display()
    )]
    ChangedFile {
        /// The offending file.
        path: PathBuf,
        /// The hash of its present content.
        found: String,
        /// The recorded hash.
        expected: String,
    },
    /// A part of a split was to be larger than the set.
    #[error("cannot split {first} images off the set {name}, which has {len}: lower the number")]
    SplitTooLarge {
        /// The set's name.
        name: String,
        /// The size asked for.
        first: usize,
        /// The set's size.
        len: usize,
    },
    /// The host cannot be reached at all: no network, no such host, or nothing listens there.
    #[error(
        "no connection to {url}: {reason}; check the network, or give a folder that has the data"
    )]
    NoNetwork {
        /// The address asked for.
        url: String,
        /// What the attempt met.
        reason: String,
    },
    /// The server answered with an error status.
    #[error(
        "{url} answered with HTTP status {status} after {attempts} attempt(s), expected 200 or 206; check the address or try again later"
    )]
    HttpStatus {
        /// The address asked for.
        url: String,
        /// The status of the last answer.
        status: u16,
        /// How often it was asked.
        attempts: u32,
    },
    /// The transfer broke off more often than is tolerated.
    #[error(
        "the download of {url} broke off {attempts} time(s), the last time after {done} bytes: {reason}; \
         what has arrived is kept, run the same command again to go on from there"
    )]
    Interrupted {
        /// The address asked for.
        url: String,
        /// How often it was tried.
        attempts: u32,
        /// How many bytes are on disk.
        done: u64,
        /// What the last attempt met.
        reason: String,
    },
    /// What arrived is not the file that was asked for.
    #[error(
        "{url} gave the wrong content: {found}, expected {expected}; \
         it was deleted, try again or name another address or a folder that has the data"
    )]
    WrongContent {
        /// The address or archive file.
        url: String,
        /// What arrived.
        found: String,
        /// What should have arrived.
        expected: String,
    },
    /// Another process holds the partial file of the same download.
    #[error("{} is being written by another download: wait for it to end, then run the same command again", path.display())]
    Busy {
        /// The partial file.
        path: PathBuf,
    },
    /// An archive cannot be read or holds something unexpected.
    #[error("cannot unpack {}: {reason}; delete it and fetch it again", path.display())]
    BadArchive {
        /// The archive.
        path: PathBuf,
        /// What was found and what was expected.
        reason: String,
    },
}

impl DataError {
    /// Returns a closure for `map_err` that says what was being done to which path.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

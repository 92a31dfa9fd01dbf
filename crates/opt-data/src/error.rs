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
    /// A file that a layout requires is absent.
    #[error(
        "{} is missing: expected a folder with {expected} (the {layout} binary version); point to such a folder, \
         or fetch it with `cargo xtask data {set}` (outside this workspace: `opt-data {set}`)",
        path.display()
    )]
    MissingFile {
        /// The absent file.
        path: PathBuf,
        /// The files that the layout has.
        expected: &'static str,
        /// The layout, such as `CIFAR-10`.
        layout: &'static str,
        /// The set's name on a command line, such as `cifar10`.
        set: &'static str,
    },
    /// A folder holds none of the layouts that are known.
    #[error(
        "{}: {found}, expected a folder with data_batch_1.bin to test_batch.bin (CIFAR-10), with train.bin and test.bin \
         (CIFAR-100), or with train/CLASS/*.png or .jpg and test/CLASS/* (images of your own)",
        path.display()
    )]
    UnknownFolder {
        /// The folder.
        path: PathBuf,
        /// What is there in its place.
        found: &'static str,
    },
    /// The class folders of an image folder are not what they should be.
    #[error("{}: {found}, expected {expected}", path.display())]
    BadFolder {
        /// The offending folder.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// An image file cannot be decoded, or not prepared as asked.
    #[error(transparent)]
    Image(#[from] opt_image::ImageError),
    /// Several image files cannot be decoded.
    #[error(
        "{}: {count} of {images} images cannot be used: {}{}",
        path.display(),
        named.join("; "),
        if named.len() < *count { format!("; and {} more", count - named.len()) } else { String::new() }
    )]
    BadImages {
        /// The folder of all images.
        path: PathBuf,
        /// How many are broken.
        count: usize,
        /// How many images there are.
        images: usize,
        /// What is wrong with the first of them, training images first, in the order of their names.
        named: Vec<String>,
    },
    /// Another version of a set that is known.
    #[error(
        "{} is the {found}, expected the binary version; fetch it with `cargo xtask data {set}` (outside this workspace: \
         `opt-data {set}`) and point to that",
        path.display()
    )]
    OtherVersion {
        /// The folder.
        path: PathBuf,
        /// What it is, such as "Python version of CIFAR-10".
        found: &'static str,
        /// The set's name on a command line, such as `cifar10`.
        set: &'static str,
    },
    /// The decoded images would not fit.
    #[error(
        "{}: {images} images of 3×{height}×{width} take {bytes} bytes in memory, expected at most {limit}; \
         choose a smaller image size or fewer images",
        path.display()
    )]
    TooLarge {
        /// The image folder.
        path: PathBuf,
        /// The number of images.
        images: usize,
        /// Their rows after resizing.
        height: usize,
        /// Their columns after resizing.
        width: usize,
        /// What they take.
        bytes: u128,
        /// The limit.
        limit: u64,
    },
    /// A side of images is impossible.
    #[error("the image size is {size}, expected {expected}")]
    BadImageSize {
        /// The side asked for.
        size: usize,
        /// What is possible.
        expected: String,
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
        "{}: record {record} has {what} {label} at byte {offset}, expected 0 to {last}; \
         the file is corrupt or not in the {layout} binary layout",
        path.display()
    )]
    BadLabel {
        /// The offending file.
        path: PathBuf,
        /// The record's index in the file.
        record: usize,
        /// The label's byte offset in the file.
        offset: u64,
        /// Which label it is, such as `label` or `coarse label`.
        what: &'static str,
        /// The byte found.
        label: u8,
        /// The largest value that the layout has.
        last: u8,
        /// The layout, such as `CIFAR-10`.
        layout: &'static str,
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
        expected: String,
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

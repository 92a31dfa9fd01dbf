//! What the CIFAR layouts share: files of labelled 32×32 records, their class names and their recorded hashes.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::dataset::to_hex;
use crate::{DataError, Dataset, Splits};

/// The file beside the data that records where it came from and what its files hash to.
pub(crate) const SUMS: &str = "SHA256SUMS";
/// The red, green and blue planes.
pub(crate) const IMAGE_BYTES: usize = 3 * 32 * 32;

/// Describes one of the layouts: label bytes and three planes to a record, records without gaps to a file.
#[derive(Debug)]
pub(crate) struct Layout {
    /// What it is called in messages, such as `CIFAR-10`.
    pub(crate) title: &'static str,
    /// What it is called in results and on command lines, such as `cifar10`.
    pub(crate) set: &'static str,
    /// The folder that the official archive unpacks to.
    pub(crate) folder: &'static str,
    /// The data files, the test file last.
    pub(crate) files: &'static [&'static str],
    /// How many times the images of the test file each file holds.
    pub(crate) shares: &'static [usize],
    /// The data files in words.
    pub(crate) files_in_words: &'static str,
    /// The label bytes of a record with the number of their values; the last one is the class.
    pub(crate) labels: &'static [(&'static str, u8)],
    /// The file of class names, one a line.
    pub(crate) names: &'static str,
    /// The official names of the classes.
    pub(crate) classes: &'static [&'static str],
    /// Further text files of the official archive.
    pub(crate) texts: &'static [&'static str],
    /// The name of the official archive.
    pub(crate) archive: &'static str,
    /// The archive's length in bytes.
    pub(crate) archive_bytes: u64,
    /// The archive's published MD5.
    pub(crate) archive_md5: &'static str,
}

impl Layout {
    pub(crate) fn record_bytes(&self) -> usize {
        self.labels.len() + IMAGE_BYTES
    }

    /// What a set of this origin is called in results.
    pub(crate) fn set_name(&self, origin: Origin) -> &'static str {
        match origin {
            Origin::Official | Origin::Unrecorded => self.set,
            Origin::Jpeg75 => "cifar10-jpeg75",
            Origin::Synthetic => "synthetic",
        }
    }
}

/// Says which images a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// The original images: unpacked by this crate from an archive with the official checksum, and unchanged since.
    Official,
    /// The copy of CIFAR-10 re-encoded as JPEG, recognised by its hashes; harder than the original.
    Jpeg75,
    /// The synthetic set, generated or read back.
    Synthetic,
    /// Images that are not known by their hashes.
    Unrecorded,
}

impl Origin {
    /// Returns the words that say which images these are.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Official => "from the official archive, verified",
            Self::Jpeg75 => {
                "CIFAR-10 re-encoded as JPEG, quality 75: harder than the original, compare only with itself"
            }
            Self::Synthetic => "the synthetic set, not real images",
            Self::Unrecorded => "in the right layout, with file hashes that are not known",
        }
    }

    /// The word that stands for it in the first line of `SHA256SUMS`; only what hashes cannot tell has one.
    fn tag(self) -> Option<&'static str> {
        match self {
            Self::Official => Some("official"),
            Self::Synthetic => Some("synthetic"),
            Self::Jpeg75 | Self::Unrecorded => None,
        }
    }
}

/// Holds what [`cifar10::load`](crate::cifar10::load) or [`cifar100::load`](crate::cifar100::load) found.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The images.
    pub splits: Splits,
    /// Which images they are.
    pub origin: Origin,
    /// The folder with the files themselves.
    pub dir: PathBuf,
    /// The SHA-256, in hex, of each data file, in the order of the layout's `FILES`.
    pub sha256: Vec<String>,
}

/// Recognises the versions of CIFAR that this crate does not read, in `dir` or as a folder in it; only those of `asked`, as in
/// [`Layout::set`], if there is one.
pub(crate) fn other_version(dir: &Path, asked: Option<&str>) -> Option<DataError> {
    // The folder that the official archive unpacks to, and files that only it has.
    let versions: [(_, &[_], _, _); 4] = [
        (
            "cifar-10-batches-py",
            &["data_batch_1", "batches.meta"],
            "Python version of CIFAR-10",
            "cifar10",
        ),
        (
            "cifar-10-batches-mat",
            &["data_batch_1.mat"],
            "MATLAB version of CIFAR-10",
            "cifar10",
        ),
        (
            "cifar-100-python",
            &["train", "meta"],
            "Python version of CIFAR-100",
            "cifar100",
        ),
        (
            "cifar-100-matlab",
            &["train.mat", "meta.mat"],
            "MATLAB version of CIFAR-100",
            "cifar100",
        ),
    ];
    versions
        .into_iter()
        .filter(|(_, _, _, set)| asked.is_none_or(|asked| asked == *set))
        .find_map(|(folder, files, found, set)| {
            let inner = dir.join(folder);
            let named = dir.file_name().is_some_and(|name| name == folder);
            let path = if inner.is_dir() {
                inner
            } else if named || files.iter().all(|file| dir.join(file).is_file()) {
                dir.to_path_buf()
            } else {
                return None;
            };
            Some(DataError::OtherVersion { path, found, set })
        })
}

/// Reads the files of `dir`, or of the layout's folder in it: `records` images in the test file.
pub(crate) fn load(layout: &Layout, dir: &Path, records: usize) -> Result<Loaded, DataError> {
    let nested = dir.join(layout.folder);
    let dir = if nested.is_dir() {
        nested
    } else {
        dir.to_path_buf()
    };
    let classes = read_classes(layout, &dir)?;

    let (test_file, train_files) = layout.shares.split_last().expect("a layout has files");
    let n_train = train_files.iter().sum::<usize>() * records;
    let buffer = |n| std::iter::repeat_n(0, n * IMAGE_BYTES).collect::<Arc<[u8]>>();
    let (mut train_images, mut test_images) = (buffer(n_train), buffer(test_file * records));
    let unshared = "nothing else has this buffer yet";
    let mut rest = Arc::get_mut(&mut train_images).expect(unshared);
    let mut slots = Vec::new();
    for share in train_files {
        let (slot, after) = rest.split_at_mut(share * records * IMAGE_BYTES);
        slots.push(slot);
        rest = after;
    }
    slots.push(Arc::get_mut(&mut test_images).expect(unshared));
    let files: Vec<(String, Vec<u16>)> = layout
        .files
        .iter()
        .zip(slots)
        .collect::<Vec<_>>()
        .into_par_iter()
        .map(|(name, images)| read_file(layout, &dir.join(name), images))
        // The first error in the order of files, whichever thread met one first.
        .collect::<Vec<_>>()
        .into_iter()
        .collect::<Result<_, _>>()?;
    let (sha256, mut labels): (Vec<String>, Vec<Vec<u16>>) = files.into_iter().unzip();
    let test_labels = labels.pop().expect("a layout has files");

    let origin = read_sums(layout, &dir, &sha256)?.unwrap_or(Origin::Unrecorded);
    let set = |images: Arc<[u8]>, labels: Vec<u16>| Dataset {
        name: layout.set_name(origin).into(),
        images,
        labels: labels.into(),
        channels: 3,
        height: 32,
        width: 32,
        classes: classes.clone(),
    };
    let splits = Splits {
        train: set(train_images, labels.concat()),
        test: set(test_images, test_labels),
    };
    Ok(Loaded {
        splits,
        origin,
        dir,
        sha256,
    })
}

/// Reads one file, copies its pixels to `images` and returns the file's hash and its labels.
fn read_file(
    layout: &Layout,
    path: &Path,
    images: &mut [u8],
) -> Result<(String, Vec<u16>), DataError> {
    let (records, record_bytes) = (images.len() / IMAGE_BYTES, layout.record_bytes());
    let wrong_size = |found| DataError::WrongSize {
        path: path.to_path_buf(),
        found,
        expected: (records * record_bytes) as u64,
        records,
        record_bytes,
    };
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => path
            .parent()
            .and_then(|dir| other_version(dir, Some(layout.set)))
            .unwrap_or_else(|| DataError::MissingFile {
                path: path.to_path_buf(),
                expected: layout.files_in_words,
                layout: layout.title,
                set: layout.set,
            }),
        _ => DataError::io("read", path)(error),
    })?;
    // Before reading: a wrong file may be larger than the memory.
    if metadata.is_file() && metadata.len() != (records * record_bytes) as u64 {
        return Err(wrong_size(metadata.len()));
    }
    let bytes = fs::read(path).map_err(DataError::io("read", path))?;
    if bytes.len() != records * record_bytes {
        return Err(wrong_size(bytes.len() as u64));
    }
    let mut labels = Vec::with_capacity(records);
    for (record, (bytes, image)) in bytes
        .chunks_exact(record_bytes)
        .zip(images.chunks_exact_mut(IMAGE_BYTES))
        .enumerate()
    {
        let (head, pixels) = bytes.split_at(layout.labels.len());
        for (at, (&label, &(what, values))) in head.iter().zip(layout.labels).enumerate() {
            if label >= values {
                return Err(DataError::BadLabel {
                    path: path.to_path_buf(),
                    record,
                    offset: (record * record_bytes + at) as u64,
                    what,
                    label,
                    last: values - 1,
                    layout: layout.title,
                });
            }
        }
        labels.extend(head.last().map(|&class| u16::from(class)));
        image.copy_from_slice(pixels);
    }
    Ok((to_hex(&Sha256::digest(&bytes)), labels))
}

/// Reads a small optional text file; `None` where it does not exist.
fn read_text(path: &Path) -> Result<Option<String>, DataError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DataError::io("read", path)(error)),
    }
}

fn read_classes(layout: &Layout, dir: &Path) -> Result<Vec<String>, DataError> {
    let path = dir.join(layout.names);
    let Some(text) = read_text(&path)? else {
        return Ok(layout
            .classes
            .iter()
            .map(|&name| String::from(name))
            .collect());
    };
    let names: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(String::from)
        .collect();
    if names.len() == layout.classes.len() {
        return Ok(names);
    }
    Err(DataError::BadText {
        path,
        line: text.lines().count(),
        found: format!("the end after {} class names", names.len()),
        expected: format!("{} class names, one a line", layout.classes.len()),
    })
}

/// Checks the hashes against `SHA256SUMS`, if there is one, and returns the origin that it records.
fn read_sums(layout: &Layout, dir: &Path, sha256: &[String]) -> Result<Option<Origin>, DataError> {
    let path = dir.join(SUMS);
    let Some(text) = read_text(&path)? else {
        return Ok(None);
    };
    let mut recorded = vec![None; sha256.len()];
    for (index, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.starts_with('#') && !line.is_empty())
    {
        let entry = line.split_once("  ").filter(|(hash, _)| hash.len() == 64);
        let Some((hash, name)) = entry else {
            return Err(DataError::BadText {
                path,
                line: index + 1,
                found: line.into(),
                expected: "a SHA-256 in hex, two spaces and a file name; delete SHA256SUMS to do without it".into(),
            });
        };
        if let Some(file) = layout.files.iter().position(|file| *file == name) {
            recorded[file] = Some(hash);
        }
    }
    for ((file, found), expected) in layout.files.iter().zip(sha256).zip(&recorded) {
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(DataError::ChangedFile {
                path: dir.join(file),
                found: found.clone(),
                expected: expected.into(),
            });
        }
    }
    let complete = recorded.iter().all(Option::is_some);
    let tag = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("# origin: "))
        .map(str::trim);
    Ok([Origin::Official, Origin::Synthetic]
        .into_iter()
        .find(|origin| complete && tag.is_some() && origin.tag() == tag))
}

/// Records in `SHA256SUMS` (the format of `sha256sum`) what the files of `dir` hash to and where they came from.
pub(crate) fn write_sums(
    layout: &Layout,
    dir: &Path,
    origin: Origin,
    sha256: &[String],
) -> Result<(), DataError> {
    let path = dir.join(SUMS);
    let mut text = origin
        .tag()
        .map(|tag| format!("# origin: {tag}\n"))
        .unwrap_or_default();
    for (hash, name) in sha256.iter().zip(layout.files) {
        text += &format!("{hash}  {name}\n");
    }
    fs::write(&path, text).map_err(DataError::io("write", path))
}

//! Images of one's own: a folder of PNG and JPEG files for each class, decoded, resized and cropped.

use std::ffi::OsStr;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use image::{ImageFormat, ImageReader};
use rayon::prelude::*;

use crate::random::{Domain, shuffle, stream};
use crate::resize::resize_crop;
use crate::{DataError, Dataset, Splits};

/// The largest side that images can be given.
pub const MAX_SIZE: usize = 4096;

/// The longest image file.
const MAX_FILE: u64 = 256 << 20;

/// Says how a folder is read.
#[derive(Debug, Clone)]
pub struct Options {
    /// The side of the square that every image becomes, in pixels.
    pub size: usize,
    /// The seed of the split where the folder has no test images.
    pub split_seed: u64,
    /// The most bytes that the decoded images may take.
    pub max_bytes: u64,
}

impl Default for Options {
    /// 32 pixels, seed 0, 8 GiB.
    fn default() -> Self {
        Self {
            size: 32,
            split_seed: 0,
            max_bytes: 8 << 30,
        }
    }
}

/// Holds what [`load`] found.
#[derive(Debug, Clone)]
pub struct LoadedImages {
    /// The images.
    pub splits: Splits,
    /// How training and test images were told apart.
    pub split: String,
    /// What was there and was not used, a clause each.
    pub notes: Vec<String>,
}

/// Returns the length that the shorter side is resized to before the centre is cropped.
///
/// ```text
/// size < 128:  size          size ≥ 128:  size · 256 / 224, rounded
/// ```
///
/// Large images lose their border, as is customary for `ImageNet`; small ones keep all they have.
///
/// ```
/// use opt_data::image_folder::resized_side;
///
/// assert_eq!([32, 127, 128, 224].map(resized_side), [32, 127, 146, 256]);
/// ```
pub fn resized_side(size: usize) -> usize {
    if size < 128 {
        size
    } else {
        (size * 256 + 112) / 224
    }
}

/// Says whether a folder holds other folders, which classes could be.
pub fn has_folders(dir: &Path) -> bool {
    entries(dir).is_ok_and(|entries| entries.iter().any(|entry| entry.path.is_dir()))
}

/// Reads `dir/train/CLASS/*` and `dir/test/CLASS/*`, with `val` in place of an absent `test`.
///
/// Where there is no test folder, `split_seed` puts a tenth of each class, rounded and at least one image, aside for
/// testing; where there is no training folder either, the classes are the folders in `dir` itself. A folder `train`,
/// `test` or `val` that holds no folders is a class like any other.
///
/// Classes are numbered in the order of their names, and images lie in the order of classes and file names. PNG and JPEG
/// files are known by `.png`, `.jpg` and `.jpeg` in any case and decoded by their content. Colours are converted to 8-bit
/// RGB without colour management; transparency and a stored rotation are ignored. The shorter side is resized to
/// [`resized_side`] pixels with an antialiased triangle filter, and the centre is cropped. The bytes do not depend on the
/// number of threads.
///
/// Hidden files are ignored; other files and deeper folders are counted in the notes.
///
/// # Errors
///
/// If a file cannot be decoded, a class has no images, fewer than two classes exist, training and test images have
/// different classes, or the images would take more than `max_bytes`, N·3·size² for N images of both parts.
pub fn load(dir: &Path, options: &Options) -> Result<LoadedImages, DataError> {
    let size = options.size;
    if !(1..=MAX_SIZE).contains(&size) {
        return Err(DataError::BadImageSize {
            size,
            expected: format!("1 to {MAX_SIZE}"),
        });
    }
    let Found {
        classes,
        train,
        test,
        split,
        notes,
    } = find(dir, options.split_seed)?;
    let images = train.files.len() + test.files.len();
    let bytes = images as u128 * 3 * (size as u128).pow(2);
    if bytes > u128::from(options.max_bytes) {
        return Err(DataError::TooLarge {
            path: dir.to_path_buf(),
            images,
            size,
            bytes,
            limit: options.max_bytes,
        });
    }
    let name = set_name(dir, size);
    let set = |part: Part| {
        Ok(Dataset {
            name: name.clone(),
            images: decode_all(&part.files, size)?,
            labels: part.labels.into(),
            channels: 3,
            height: size,
            width: size,
            classes: classes.clone(),
        })
    };
    Ok(LoadedImages {
        splits: Splits {
            train: set(train)?,
            test: set(test)?,
        },
        split,
        notes,
    })
}

/// The folder's name and the images' side: images of another size are another set.
fn set_name(dir: &Path, size: usize) -> String {
    let full = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    let name = full.file_name().unwrap_or(OsStr::new("images"));
    format!("{}-{size}", name.to_string_lossy())
}

/// The files of one part with their classes.
#[derive(Debug, Default)]
struct Part {
    files: Vec<PathBuf>,
    labels: Vec<u16>,
}

#[derive(Debug)]
struct Found {
    classes: Vec<String>,
    train: Part,
    test: Part,
    split: String,
    notes: Vec<String>,
}

/// Lists what is to be decoded.
fn find(dir: &Path, seed: u64) -> Result<Found, DataError> {
    let holds_classes = |name: &str| has_folders(&dir.join(name));
    let test_name = ["test", "val"].into_iter().find(|name| holds_classes(name));
    let (root, train_name) = if holds_classes("train") {
        (dir.join("train"), "train")
    } else if let Some(test_name) = test_name {
        return Err(DataError::BadFolder {
            path: dir.join("train"),
            found: format!("no folders of training images, but there is {test_name}"),
            expected: "a folder of images for each class".into(),
        });
    } else {
        (dir.to_path_buf(), "the folder")
    };
    let mut passed_over = Vec::new();
    let train = read_classes(&root, &mut passed_over)?;
    let mut notes = Vec::new();
    if train_name == "train" {
        let used = |entry: &Entry| entry.name == "train" || Some(entry.name.as_str()) == test_name;
        let unused: Vec<String> = entries(dir)?
            .into_iter()
            .filter(|entry| entry.path.is_dir() && !used(entry))
            .map(|entry| entry.name)
            .collect();
        if !unused.is_empty() {
            notes.push(format!("not used, beside train: {}", unused.join(", ")));
        }
    }
    let mut parts = [Part::default(), Part::default()];
    let classes: Vec<String> = train.iter().map(|class| class.name.clone()).collect();
    let split = if let Some(test_name) = test_name {
        let test = read_classes(&dir.join(test_name), &mut passed_over)?;
        same_classes(dir, &train, &test, test_name)?;
        for (part, classes) in parts.iter_mut().zip([train, test]) {
            for (label, class) in (0..).zip(classes) {
                part.labels.extend(class.files.iter().map(|_| label));
                part.files.extend(class.files);
            }
        }
        format!("folders train and {test_name}")
    } else {
        for (label, class) in (0u16..).zip(train) {
            let for_test = split_class(&class, seed, label)?;
            for (file, for_test) in class.files.into_iter().zip(for_test) {
                let part = &mut parts[usize::from(for_test)];
                part.files.push(file);
                part.labels.push(label);
            }
        }
        format!(
            "a tenth of each class in {train_name}, chosen by seed {seed}, is for testing: there is no folder test or val that holds a folder of images for each class"
        )
    };
    if let Some(first) = passed_over.first() {
        notes.push(format!(
            "{} {} no PNG or JPEG and passed over, the first {}",
            passed_over.len(),
            if passed_over.len() == 1 {
                "entry is"
            } else {
                "entries are"
            },
            first.strip_prefix(dir).unwrap_or(first).display()
        ));
    }
    let [train, test] = parts;
    Ok(Found {
        classes,
        train,
        test,
        split,
        notes,
    })
}

/// Says for each image of a class whether it is for testing.
fn split_class(class: &Class, seed: u64, label: u16) -> Result<Vec<bool>, DataError> {
    let n = class.files.len();
    if n < 2 {
        return Err(DataError::BadFolder {
            path: class.path.clone(),
            found: format!("{n} image"),
            expected: "at least 2 images of each class, one for testing; or folders train and test"
                .into(),
        });
    }
    let mut order: Vec<u32> = (0..).take(n).collect();
    shuffle(
        &mut stream(Domain::FolderSplit, seed, u64::from(label), 0),
        &mut order,
    );
    let mut for_test = vec![false; n];
    for &index in &order[..((n + 5) / 10).max(1)] {
        for_test[index as usize] = true;
    }
    Ok(for_test)
}

fn same_classes(
    dir: &Path,
    train: &[Class],
    test: &[Class],
    test_name: &str,
) -> Result<(), DataError> {
    let lacks = |classes: &[Class], name: &str| classes.iter().all(|class| class.name != name);
    for (name, classes, others) in [("train", train, test), (test_name, test, train)] {
        if let Some(class) = classes.iter().find(|class| lacks(others, &class.name)) {
            return Err(DataError::BadFolder {
                path: dir.to_path_buf(),
                found: format!("the class {} in {name} only", class.name),
                expected: format!("the same class folders in train and {test_name}"),
            });
        }
    }
    Ok(())
}

/// A class with its files in the order of their names.
#[derive(Debug)]
struct Class {
    name: String,
    path: PathBuf,
    files: Vec<PathBuf>,
}

/// Lists the classes of a part in the order of their names, and adds what is no image to `passed_over`.
fn read_classes(root: &Path, passed_over: &mut Vec<PathBuf>) -> Result<Vec<Class>, DataError> {
    let mut classes = Vec::new();
    for Entry { name, path } in entries(root)? {
        if !path.is_dir() {
            passed_over.push(path);
            continue;
        }
        let (files, others): (Vec<PathBuf>, Vec<PathBuf>) = entries(&path)?
            .into_iter()
            .map(|entry| entry.path)
            .partition(|path| is_image(path) && !path.is_dir());
        passed_over.extend(others);
        if files.is_empty() {
            return Err(DataError::BadFolder {
                path,
                found: "no PNG or JPEG file".into(),
                expected: "the images of the class; delete the folder if there are none".into(),
            });
        }
        classes.push(Class { name, path, files });
    }
    if !(2..=usize::from(u16::MAX)).contains(&classes.len()) {
        return Err(DataError::BadFolder {
            path: root.to_path_buf(),
            found: format!("{} folders of images", classes.len()),
            expected: format!("one for each class, 2 to {}", u16::MAX),
        });
    }
    Ok(classes)
}

/// A file or folder with its name in Unicode.
#[derive(Debug)]
struct Entry {
    name: String,
    path: PathBuf,
}

/// Lists a folder in the order of names, without hidden files.
fn entries(dir: &Path) -> Result<Vec<Entry>, DataError> {
    let mut found = fs::read_dir(dir)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(DataError::io("read the folder", dir))?;
    found.sort_by_key(fs::DirEntry::file_name);
    Ok(found
        .iter()
        .map(|entry| Entry {
            name: entry.file_name().to_string_lossy().into_owned(),
            path: entry.path(),
        })
        .filter(|entry| !entry.name.starts_with('.'))
        .collect())
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    ["png", "jpg", "jpeg"]
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known))
}

/// Decodes the files in parallel.
fn decode_all(files: &[PathBuf], size: usize) -> Result<Arc<[u8]>, DataError> {
    let mut images: Arc<[u8]> = std::iter::repeat_n(0, files.len() * 3 * size * size).collect();
    // Files after a broken one need not be decoded, those before it must: the first one is reported.
    let first_broken = AtomicUsize::new(usize::MAX);
    let mut broken: Vec<(usize, DataError)> = Arc::get_mut(&mut images)
        .expect("nothing else has this buffer yet")
        .par_chunks_exact_mut(3 * size * size)
        .zip(files)
        .enumerate()
        .filter(|(index, _)| *index < first_broken.load(Relaxed))
        .filter_map(|(index, (image, file))| {
            let error = decode(file, size, image).err()?;
            first_broken.fetch_min(index, Relaxed);
            Some((index, error))
        })
        .collect();
    broken.sort_by_key(|(index, _)| *index);
    match broken.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(images),
    }
}

/// Decodes one file into 3×size×size bytes.
fn decode(path: &Path, size: usize, output: &mut [u8]) -> Result<(), DataError> {
    let bad = |reason: String| DataError::BadImage {
        path: path.to_path_buf(),
        reason,
    };
    let metadata = fs::metadata(path).map_err(DataError::io("read", path))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(bad(format!("no file of at most {MAX_FILE} bytes")));
    }
    let bytes = fs::read(path).map_err(DataError::io("read", path))?;
    let reader = ImageReader::new(Cursor::new(&bytes))
        .with_guessed_format()
        .map_err(DataError::io("read", path))?;
    if reader.format() == Some(ImageFormat::Jpeg) && !jpeg_is_whole(&bytes) {
        return Err(bad("the JPEG data break off".into()));
    }
    let decoded = reader
        .decode()
        .map_err(|error| bad(error.to_string()))?
        .into_rgb8();
    let shape = [decoded.height() as usize, decoded.width() as usize];
    if shape.contains(&0) {
        return Err(bad("it has no pixels".into()));
    }
    resize_crop(&decoded, shape, resized_side(size), size, output);
    Ok(())
}

/// Says whether the markers lead to the end of the image: the decoder makes up what is absent and does not say so.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const STUFFED: u8 = 0x00;
    const FILL: u8 = 0xff;
    let mut at = 2;
    while let Some(&[first, marker]) = bytes.get(at..at + 2) {
        match (first, marker) {
            (0xff, 0xd9) => return true,
            // Markers without content, and what only looks like one.
            (0xff, STUFFED | 0x01 | 0xd0..=0xd8) => at += 2,
            (0xff, FILL) => at += 1,
            (0xff, _) => {
                let Some(&[high, low]) = bytes.get(at + 2..at + 4) else {
                    return false;
                };
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
            }
            // Compressed data.
            _ => at += 1,
        }
    }
    false
}

#[cfg(test)]
mod tests;

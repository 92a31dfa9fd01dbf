//! Images of one's own: a folder of PNG and JPEG files for each class, decoded, resized and cropped.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use opt_core::Preparation;
use opt_image::ImageError;
use rayon::prelude::*;

use crate::random::{Domain, shuffle, stream};
use crate::{DataError, Dataset, Splits};

/// The largest side that images can be given.
pub const MAX_SIZE: usize = 4096;

/// The most broken images that an error names.
const MAX_NAMED: usize = 10;

/// Says how a folder is read.
#[derive(Debug, Clone)]
pub struct Options {
    /// The rows and columns that every image becomes, in pixels.
    pub size: [usize; 2],
    /// How it becomes them.
    pub preparation: Preparation,
    /// The seed of the split where the folder has no test images.
    pub split_seed: u64,
    /// The most bytes that the decoded images may take.
    pub max_bytes: u64,
}

impl Options {
    /// Squares of this side, prepared as is usual for it.
    pub fn of_side(side: usize) -> Self {
        Self {
            size: [side; 2],
            preparation: Preparation::usual([3, side, side]),
            split_seed: 0,
            max_bytes: 8 << 30,
        }
    }
}

impl Default for Options {
    /// 32 pixels, the usual preparation, seed 0, 8 GiB.
    fn default() -> Self {
        Self::of_side(32)
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

/// Says whether a folder holds other folders, which classes could be.
pub fn has_folders(dir: &Path) -> bool {
    entries(dir).is_ok_and(|entries| entries.iter().any(|entry| entry.path.is_dir()))
}

/// Says whether a folder holds image files itself.
pub(crate) fn holds_images(dir: &Path) -> bool {
    entries(dir).is_ok_and(|entries| entries.iter().any(|entry| is_image(&entry.path)))
}

/// Reads `dir/train/CLASS/*` and `dir/test/CLASS/*`, with `val` or `valid` in place of an absent `test`.
///
/// Where there is none of these, `split_seed` puts a tenth of each class, rounded and at least one image, aside for
/// testing; where there is no training folder either, the classes are the folders in `dir` itself. A single folder `train`,
/// `test` or `val` that holds images and no folders is a class like any other, if there are others.
///
/// Classes are numbered in the order of their names, and images lie in the order of classes and file names. PNG and JPEG
/// files are known by `.png`, `.jpg` and `.jpeg` in any case and decoded by their content, as [`opt_image::load`] does by
/// the options' [`Preparation`]. The bytes do not depend on the number of threads.
///
/// Hidden files are ignored; other files and deeper folders are counted in the notes.
///
/// # Errors
///
/// If files cannot be decoded (up to ten are named), a class has no images, fewer than two classes exist, training and test
/// images have different classes, folders are named or nested otherwise than expected, or the images would take more than
/// `max_bytes`, N·3·H·W for N images of both parts.
pub fn load(dir: &Path, options: &Options) -> Result<LoadedImages, DataError> {
    let [height, width] = options.size;
    if let Some(&size) = (options.size.iter()).find(|side| !(1..=MAX_SIZE).contains(*side)) {
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
    let bytes = images as u128 * 3 * height as u128 * width as u128;
    if bytes > u128::from(options.max_bytes) {
        return Err(DataError::TooLarge {
            path: dir.to_path_buf(),
            images,
            height,
            width,
            bytes,
            limit: options.max_bytes,
        });
    }
    let name = set_name(dir, options.size);
    let [train_images, test_images] = decode_all(dir, [&train.files, &test.files], options)?;
    let set = |images, part: Part| Dataset {
        name: name.clone(),
        images,
        labels: part.labels.into(),
        channels: 3,
        height,
        width,
        classes: classes.clone(),
    };
    Ok(LoadedImages {
        splits: Splits {
            train: set(train_images, train),
            test: set(test_images, test),
        },
        split,
        notes,
    })
}

/// The folder's name and the images' side: images of another size are another set.
fn set_name(dir: &Path, [height, width]: [usize; 2]) -> String {
    let full = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    let name = full.file_name().unwrap_or(OsStr::new("images"));
    let name = name.to_string_lossy();
    if height == width {
        format!("{name}-{width}")
    } else {
        format!("{name}-{height}x{width}")
    }
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

/// The names of folders that hold parts, in the order in which they are taken for test images.
const PARTS: [(&str, &[&str]); 4] = [
    ("train", &["train", "training"]),
    ("test", &["test", "testing"]),
    ("val", &["val", "validation"]),
    ("valid", &["valid"]),
];

/// The name that a part's folder should have.
fn part_of(name: &str) -> Option<&'static str> {
    let lower = name.to_lowercase();
    let mut parts = PARTS.iter();
    let (part, _) = parts.find(|(_, names)| names.contains(&lower.as_str()))?;
    Some(part)
}

const EXPECTED: &str =
    "train/CLASS/*.png or .jpg and test/CLASS/*, or CLASS/* without parts: a folder for each class";

/// Says which folder holds the training images and which the test images, both by name; none where `dir` holds the classes.
fn find_parts(dir: &Path) -> Result<Option<(&'static str, Option<&'static str>)>, DataError> {
    let bad = |path: PathBuf, found: String, expected: String| {
        Err(DataError::BadFolder {
            path,
            found,
            expected,
        })
    };
    let folders: Vec<String> = entries(dir)?
        .into_iter()
        .filter(|entry| entry.path.is_dir())
        .map(|entry| entry.name)
        .collect();
    let holds_classes = |name: &str| has_folders(&dir.join(name));
    let mut for_test = PARTS[1..].iter().map(|(part, _)| *part);
    let test = for_test.find(|part| holds_classes(part));
    // A part under a name that is not quite its own, with nothing under the right one.
    for name in folders.iter().filter(|name| holds_classes(name)) {
        let Some(part) = part_of(name).filter(|part| part != name) else {
            continue;
        };
        let is_there = match part {
            "train" | "test" => holds_classes(part),
            _ => test.is_some(),
        };
        if !is_there {
            return bad(
                dir.join(name),
                format!("the folder {name}"),
                format!("the name {part}, in small letters: rename it"),
            );
        }
    }
    if holds_classes("train") {
        return Ok(Some(("train", test)));
    }
    if let Some(test) = test {
        return bad(
            dir.join("train"),
            format!("no folders of training images, but there is {test}"),
            "a folder of images for each class".into(),
        );
    }
    let flat: Vec<&str> = (folders.iter().map(String::as_str))
        .filter(|name| part_of(name).is_some())
        .collect();
    let classes = folders.len() - flat.len();
    if flat.len() > 1 || (flat.len() == 1 && classes == 0) {
        return bad(
            dir.to_path_buf(),
            format!(
                "images directly in {}, which are no classes",
                flat.join(" and ")
            ),
            format!("{EXPECTED}; sort them into class folders"),
        );
    }
    if let [only] = folders.as_slice()
        && holds_classes(only)
    {
        return bad(
            dir.to_path_buf(),
            format!("one folder, {only}, with folders in it"),
            format!(
                "{EXPECTED}; name the inner folder: {}",
                dir.join(only).display()
            ),
        );
    }
    Ok(None)
}

/// Lists what is to be decoded.
fn find(dir: &Path, seed: u64) -> Result<Found, DataError> {
    let (root, train_name, test_name) = match find_parts(dir)? {
        Some((train, test)) => (dir.join(train), train, test),
        None => (dir.to_path_buf(), "the folder", None),
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
        if let Some(name @ ("val" | "valid")) = test_name {
            notes.push(format!(
                "the test images are those of {name}: there is no folder test with a folder of images for each class"
            ));
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
            "a tenth of each class in {train_name}, chosen by seed {seed}, is for testing: there is no folder test, val or valid that holds a folder of images for each class"
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
        let before = passed_over.len();
        passed_over.extend(others);
        if files.is_empty() {
            return Err(no_images(&name, path, &passed_over[before..]));
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

/// Says what a class folder without images holds in their place.
fn no_images(name: &str, path: PathBuf, others: &[PathBuf]) -> DataError {
    let folders: Vec<String> = (others.iter().filter(|other| other.is_dir()))
        .filter_map(|other| Some(other.file_name()?.to_string_lossy().into_owned()))
        .collect();
    let holds_parts = folders.iter().any(|folder| part_of(folder).is_some());
    let files = others.iter().find(|other| !other.is_dir());
    let (found, expected) = match (folders.as_slice(), files) {
        ([], None) => (
            "an empty folder".into(),
            "the images of a class; delete the folder if it is none".into(),
        ),
        ([], Some(file)) => (
            format!(
                "no PNG or JPEG file, but {}{}",
                file.file_name().unwrap_or_default().to_string_lossy(),
                if others.len() > 1 { " and others" } else { "" }
            ),
            "the images of a class as .png, .jpg or .jpeg; convert them, or move the folder away if it is no class".into(),
        ),
        (folders, _) if holds_parts => (
            format!("no images, but {}", folders.join(", ")),
            format!("{EXPECTED}; name this inner folder: {}", path.display()),
        ),
        (folders, _) => (
            format!("no images, but the folders {}", first_few(folders)),
            format!("the images of the class {name} directly in it: the folders lie one level too deep, move them up"),
        ),
    };
    DataError::BadFolder {
        path,
        found,
        expected,
    }
}

/// The first names of a list, with how many follow.
fn first_few(names: &[String]) -> String {
    const SHOWN: usize = 3;
    match names.len().saturating_sub(SHOWN) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..SHOWN].join(", ")),
    }
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

/// Decodes the files of both parts in parallel; all are tried, so that what is wrong is known at once.
fn decode_all(
    dir: &Path,
    parts: [&[PathBuf]; 2],
    options: &Options,
) -> Result<[Arc<[u8]>; 2], DataError> {
    let shape = [3, options.size[0], options.size[1]];
    let bytes: usize = shape.iter().product();
    let mut broken = Vec::new();
    let decoded = parts.map(|files| {
        let mut images: Arc<[u8]> = std::iter::repeat_n(0, files.len() * bytes).collect();
        let errors: Vec<ImageError> = Arc::get_mut(&mut images)
            .expect("nothing else has this buffer yet")
            .par_chunks_exact_mut(bytes)
            .zip(files)
            .filter_map(
                |(image, file)| match opt_image::load(file, shape, &options.preparation) {
                    Ok(planes) => {
                        image.copy_from_slice(&planes);
                        None
                    }
                    Err(error) => Some(error),
                },
            )
            .collect();
        broken.extend(errors);
        images
    });
    if broken.len() < 2 {
        return match broken.pop() {
            Some(error) => Err(error.into()),
            None => Ok(decoded),
        };
    }
    Err(DataError::BadImages {
        path: dir.to_path_buf(),
        count: broken.len(),
        images: parts.iter().map(|files| files.len()).sum(),
        named: (broken.iter().take(MAX_NAMED))
            .map(ToString::to_string)
            .collect(),
    })
}

#[cfg(test)]
mod tests;

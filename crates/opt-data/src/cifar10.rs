//! The official CIFAR-10 binary layout: reading with checks, recognising, writing.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::dataset::to_hex;
use crate::records::{self, Layout, write_sums};
use crate::{DataError, Loaded, Origin, Splits};

/// The folder that the official archive unpacks to.
pub const FOLDER: &str = "cifar-10-batches-bin";
/// The data files, the training batches first, the test batch last.
pub const FILES: [&str; 6] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
    "test_batch.bin",
];
/// The official names of the classes.
pub const CLASSES: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];
/// The number of images in each file.
pub const RECORDS_PER_FILE: usize = 10_000;

/// The file of class names, one a line.
pub(crate) const META: &str = "batches.meta.txt";

/// A label byte, then the red, green and blue planes.
pub(crate) const LAYOUT: Layout = Layout {
    title: "CIFAR-10",
    set: "cifar10",
    folder: FOLDER,
    files: &FILES,
    shares: &[1; 6],
    files_in_words: "data_batch_1.bin to data_batch_5.bin and test_batch.bin",
    labels: &[("label", 10)],
    names: META,
    classes: &CLASSES,
    texts: &["readme.html"],
    archive: "cifar-10-binary.tar.gz",
    archive_bytes: 170_052_171,
    archive_md5: "c32a1d4ab5d03f1284b67883e8d87530",
};

/// SHA-256 of the files of the copy whose images were re-encoded as JPEG (quality 75, 4:2:0).
const JPEG75: [&str; 6] = [
    "f1b918517265c80cb8798ec5e467368f1da26171d65c340e0b889029ab7f3569",
    "78f3d66f2c2f9696f93771e863fe2a06873978f5f91e00781e6eb24ca4c27dd6",
    "eba60a6d73ae0abe09c84b58d5dd790a6f606a13418ac13858ed11f0657afcdf",
    "379845eef038b76e9f761866a52d010c28a21c85c39675fa90d13b4a4d6c7700",
    "042945a7b6c85f5182fd8b26e3e710a2d5147e9d90512d1a3b4312081e40bd5b",
    "8fe8808f4a190cc012a929ed5eb5bc95ef74cdce8f4d4d5d4eaa8b748857fe07",
];

/// Reads the ten thousand images of each file of `dir`, or of the folder `cifar-10-batches-bin` in it.
///
/// The class names come from `batches.meta.txt` where it exists. Where a `SHA256SUMS` lies beside the files, they must
/// still have the hashes it lists.
///
/// # Errors
///
/// If a file is missing, has the wrong size, a label above 9, or is not what `SHA256SUMS` recorded.
pub fn load(dir: &Path) -> Result<Loaded, DataError> {
    load_records(dir, RECORDS_PER_FILE)
}

/// [`load`] for files of `records` images.
pub(crate) fn load_records(dir: &Path, records: usize) -> Result<Loaded, DataError> {
    let mut loaded = records::load(&LAYOUT, dir, records)?;
    if loaded.sha256 == JPEG75 {
        loaded.origin = Origin::Jpeg75;
        let name = LAYOUT.set_name(Origin::Jpeg75);
        loaded.splits.train.name = name.into();
        loaded.splits.test.name = name.into();
    }
    Ok(loaded)
}

/// Writes a set to the new folder `dir` in the layout that [`load`] reads, with class names and hashes.
///
/// # Errors
///
/// If `dir` exists already or cannot be written.
///
/// # Panics
///
/// If the images are not 3×32×32, the labels not below 10, the class names not 10, or the training images not five
/// times the test images, which the layout requires.
pub fn write(dir: &Path, splits: &Splits, origin: Origin) -> Result<(), DataError> {
    let Splits { train, test } = splits;
    assert_eq!(
        train.len(),
        5 * test.len(),
        "the layout has five training files and a test file of equal length"
    );
    for set in [train, test] {
        assert_eq!(
            [set.channels, set.height, set.width],
            [3, 32, 32],
            "the layout holds images of 3×32×32"
        );
        assert_eq!(
            set.classes.len(),
            CLASSES.len(),
            "the layout has 10 classes"
        );
        assert!(
            set.labels.iter().all(|&label| label < 10),
            "the layout has labels 0 to 9"
        );
    }
    fs::create_dir(dir).map_err(DataError::io("create the folder", dir))?;
    let records = test.len();
    let mut sha256 = Vec::with_capacity(FILES.len());
    for (file, name) in FILES.iter().enumerate() {
        let (set, first) = if file < 5 {
            (train, file * records)
        } else {
            (test, 0)
        };
        let mut bytes = Vec::with_capacity(records * LAYOUT.record_bytes());
        for index in first..first + records {
            let label = set.labels[index];
            bytes.push(u8::try_from(label).expect("labels are below 10"));
            bytes.extend_from_slice(set.image(index));
        }
        sha256.push(to_hex(&Sha256::digest(&bytes)));
        let path = dir.join(name);
        fs::write(&path, bytes).map_err(DataError::io("write", path))?;
    }
    let meta = dir.join(META);
    fs::write(&meta, train.classes.join("\n") + "\n").map_err(DataError::io("write", meta))?;
    write_sums(&LAYOUT, dir, origin, &sha256)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;
    use crate::records::SUMS;
    use crate::synthetic::synthetic;

    /// Writes a folder of 20-record files that is recognised as nothing in particular.
    pub(crate) fn write_small(dir: &Path) -> Splits {
        let splits = synthetic(3, 100, 20);
        write(dir, &splits, Origin::Unrecorded).unwrap();
        splits
    }

    fn small() -> (TempDir, PathBuf, Splits) {
        let root = TempDir::new().unwrap();
        let dir = root.path().join(FOLDER);
        let splits = write_small(&dir);
        (root, dir, splits)
    }

    #[test]
    fn reads_back_what_was_written_from_the_folder_or_the_one_above() {
        let (root, dir, splits) = small();
        for given in [root.path(), &dir] {
            let loaded = load_records(given, 20).unwrap();
            assert_eq!(loaded.splits.train.sha256(), splits.train.sha256());
            assert_eq!(loaded.splits.test.sha256(), splits.test.sha256());
            assert_eq!(loaded.dir, dir);
            assert_eq!(
                (loaded.origin, loaded.splits.test.name.as_str()),
                (Origin::Unrecorded, "cifar10")
            );
        }
    }

    #[test]
    fn the_layout_is_label_then_planes() {
        let (_root, dir, _) = small();
        let mut bytes = vec![0; 20 * 3073];
        // Record 1: label 9; red at (0, 0), green at (0, 1), blue at (31, 31).
        let record = &mut bytes[3073..2 * 3073];
        (record[0], record[1], record[1 + 1024 + 1], record[3072]) = (9, 10, 20, 30);
        fs::write(dir.join("test_batch.bin"), bytes).unwrap();
        fs::remove_file(dir.join(SUMS)).unwrap();
        let test = load_records(&dir, 20).unwrap().splits.test;
        assert_eq!(test.labels[1], 9);
        let image = test.image(1);
        assert_eq!(
            (image[0], image[1024 + 1], image[2 * 1024 + 31 * 32 + 31]),
            (10, 20, 30)
        );
        assert_eq!(image.iter().filter(|&&byte| byte != 0).count(), 3);
    }

    #[test]
    fn errors_name_file_offset_and_expectation() {
        struct Case {
            breakage: fn(&Path),
            message: &'static [&'static str],
        }
        fn resize(path: &Path, len: u64) {
            fs::OpenOptions::new()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(len)
                .unwrap();
        }
        fn poke(path: &Path, offset: usize, byte: u8) {
            let mut bytes = fs::read(path).unwrap();
            bytes[offset] = byte;
            fs::write(path, bytes).unwrap();
        }
        let cases = [
            // A training file is absent.
            Case {
                breakage: |d| fs::remove_file(d.join(FILES[2])).unwrap(),
                message: &["data_batch_3.bin is missing"],
            },
            // The last byte is absent.
            Case {
                breakage: |d| resize(&d.join(FILES[4]), 61_459),
                message: &[
                    "data_batch_5.bin",
                    "ends at byte 61459",
                    "20 records of 3073 bytes = 61460",
                ],
            },
            // One byte too many.
            Case {
                breakage: |d| resize(&d.join(FILES[5]), 61_461),
                message: &["test_batch.bin", "at byte 61461", "61460"],
            },
            // Nothing at all.
            Case {
                breakage: |d| resize(&d.join(FILES[0]), 0),
                message: &["data_batch_1.bin", "ends at byte 0"],
            },
            // The label of record 7.
            Case {
                breakage: |d| poke(&d.join(FILES[1]), 7 * 3073, 10),
                message: &[
                    "data_batch_2.bin",
                    "record 7",
                    "byte 21511",
                    "label 10",
                    "0 to 9",
                ],
            },
            // A pixel differs from what was recorded.
            Case {
                breakage: |d| poke(&d.join(FILES[1]), 5, 1),
                message: &["data_batch_2.bin", "SHA256SUMS", "changed"],
            },
            // A folder in a file's place.
            Case {
                breakage: |d| {
                    fs::remove_file(d.join(FILES[0])).unwrap();
                    fs::create_dir(d.join(FILES[0])).unwrap();
                },
                message: &["could not read", "data_batch_1.bin"],
            },
            // A class name is absent.
            Case {
                breakage: |d| fs::write(d.join(META), "a\nb\n").unwrap(),
                message: &[META, "2 class names", "10"],
            },
            // The list of hashes is something else.
            Case {
                breakage: |d| fs::write(d.join(SUMS), "#\n<html>\n").unwrap(),
                message: &[SUMS, "line 2", "<html>"],
            },
        ];
        for Case { breakage, message } in cases {
            let (_root, dir, _) = small();
            breakage(&dir);
            let found = load_records(&dir, 20).unwrap_err().to_string();
            assert!(
                message.iter().all(|part| found.contains(part)),
                "{found:?} lacks one of {message:?}"
            );
        }
        // No folder at all.
        let found = load(Path::new("/nonexistent/cifar"))
            .unwrap_err()
            .to_string();
        assert!(
            found.contains("/nonexistent/cifar/data_batch_1.bin is missing"),
            "{found}"
        );
    }

    #[test]
    fn small_files_are_refused_where_official_ones_are_due() {
        let (_root, dir, _) = small();
        assert!(matches!(
            load(&dir),
            Err(DataError::WrongSize {
                expected: 30_730_000,
                found: 61_460,
                ..
            })
        ));
    }

    #[test]
    fn the_origin_is_what_the_sums_record() {
        let (_root, dir, splits) = small();
        for origin in [Origin::Official, Origin::Synthetic, Origin::Unrecorded] {
            write_sums(
                &LAYOUT,
                &dir,
                origin,
                &load_records(&dir, 20).unwrap().sha256,
            )
            .unwrap();
            let loaded = load_records(&dir, 20).unwrap();
            assert_eq!(
                (loaded.origin, loaded.splits.train.name.as_str()),
                (origin, LAYOUT.set_name(origin))
            );
        }
        // A record that does not cover all files vouches for nothing.
        fs::write(dir.join(SUMS), "# origin: official\n").unwrap();
        assert_eq!(load_records(&dir, 20).unwrap().origin, Origin::Unrecorded);
        // Class names default to the official ones.
        fs::remove_file(dir.join(META)).unwrap();
        assert_eq!(
            load_records(&dir, 20).unwrap().splits.train.classes,
            CLASSES
        );
        assert_ne!(splits.train.classes, CLASSES);
    }

    #[test]
    fn writing_never_touches_an_existing_folder() {
        let (_root, dir, splits) = small();
        let message = write(&dir, &splits, Origin::Synthetic)
            .unwrap_err()
            .to_string();
        assert!(message.contains("could not create the folder"), "{message}");
    }
}

//! The official CIFAR-100 binary layout: reading with checks.

use std::path::Path;

use crate::cifar10::RECORDS_PER_FILE;
use crate::records::{self, Layout};
use crate::{DataError, Loaded};

/// The folder that the official archive unpacks to.
pub const FOLDER: &str = "cifar-100-binary";
/// The data files: 50,000 training images and 10,000 test images.
pub const FILES: [&str; 2] = ["train.bin", "test.bin"];
/// The official names of the classes, the fine labels.
#[rustfmt::skip] // ten to a row
pub const CLASSES: [&str; 100] = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
    "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard",
    "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
    "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
];

/// A coarse label byte, a fine label byte, then the red, green and blue planes.
pub(crate) const LAYOUT: Layout = Layout {
    title: "CIFAR-100",
    set: "cifar100",
    folder: FOLDER,
    files: &FILES,
    shares: &[5, 1],
    files_in_words: "train.bin and test.bin",
    labels: &[("coarse label", 20), ("fine label", 100)],
    names: "fine_label_names.txt",
    classes: &CLASSES,
    texts: &["coarse_label_names.txt", "readme.html"],
    archive: "cifar-100-binary.tar.gz",
    archive_bytes: 168_513_733,
    archive_md5: "03b5dce01913d631647c71ecec9e9cb8",
};

/// Reads the 50,000 training and 10,000 test images of `dir`, or of the folder `cifar-100-binary` in it.
///
/// The classes are the fine labels, named by `fine_label_names.txt` where it exists; the coarse labels are checked and
/// not kept. Where a `SHA256SUMS` lies beside the files, they must still have the hashes it lists.
///
/// # Errors
///
/// If a file is missing, has the wrong size, a coarse label above 19, a fine label above 99, or is not what `SHA256SUMS`
/// recorded.
///
/// # References
///
/// Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
/// <https://www.cs.toronto.edu/~kriz/cifar.html>.
pub fn load(dir: &Path) -> Result<Loaded, DataError> {
    records::load(&LAYOUT, dir, RECORDS_PER_FILE)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;
    use crate::Origin;
    use crate::records::{IMAGE_BYTES, SUMS, write_sums};

    const RECORD: usize = 2 + IMAGE_BYTES;

    /// Writes a folder of 100 training and 20 test records: image `i` of a file has coarse label `i mod 20`, fine label
    /// `99 - i`, and pixels `i`.
    pub(crate) fn write_small(dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        for (name, n) in [("train.bin", 100), ("test.bin", 20u8)] {
            let bytes: Vec<u8> = (0..n)
                .flat_map(|i| [[i % 20, 99 - i].as_slice(), &[i; IMAGE_BYTES]].concat())
                .collect();
            fs::write(dir.join(name), bytes).unwrap();
        }
    }

    fn small() -> (TempDir, PathBuf) {
        let root = TempDir::new().unwrap();
        let dir = root.path().join(FOLDER);
        write_small(&dir);
        (root, dir)
    }

    fn read(dir: &Path) -> Result<Loaded, DataError> {
        records::load(&LAYOUT, dir, 20)
    }

    #[test]
    fn classes_are_the_fine_labels() {
        let (root, dir) = small();
        for given in [root.path(), &dir] {
            let loaded = read(given).unwrap();
            let (train, test) = (&loaded.splits.train, &loaded.splits.test);
            assert_eq!((train.len(), test.len()), (100, 20));
            assert_eq!(*train.labels, (0..100).rev().collect::<Vec<u16>>());
            assert_eq!((test.labels[0], test.labels[19]), (99, 80));
            assert_eq!(train.image(7), [7; IMAGE_BYTES]);
            assert_eq!(
                (test.name.as_str(), loaded.origin, loaded.dir),
                ("cifar100", Origin::Unrecorded, dir.clone())
            );
        }
    }

    #[test]
    fn the_layout_is_coarse_fine_then_planes() {
        let (_root, dir) = small();
        let mut bytes = vec![0; 20 * RECORD];
        // Record 1: coarse 19, fine 98; red at (0, 0), green at (0, 1), blue at (31, 31).
        let record = &mut bytes[RECORD..2 * RECORD];
        (record[0], record[1], record[2], record[2 + 1024 + 1]) = (19, 98, 10, 20);
        record[RECORD - 1] = 30;
        fs::write(dir.join("test.bin"), bytes).unwrap();
        let test = read(&dir).unwrap().splits.test;
        assert_eq!((test.labels[0], test.labels[1]), (0, 98));
        let image = test.image(1);
        assert_eq!((image[0], image[1025], image[3071]), (10, 20, 30));
        assert_eq!(image.iter().filter(|&&byte| byte != 0).count(), 3);
    }

    #[test]
    fn class_names_are_official_sorted_and_replaced_by_the_file() {
        assert!(CLASSES.is_sorted());
        let (_root, dir) = small();
        assert_eq!(read(&dir).unwrap().splits.train.classes, CLASSES);
        let names: Vec<String> = (0..100).map(|i| format!("c{i}")).collect();
        fs::write(dir.join("fine_label_names.txt"), names.join("\n") + "\n\n").unwrap();
        assert_eq!(read(&dir).unwrap().splits.test.classes, names);
    }

    #[test]
    fn errors_name_file_offset_and_expectation() {
        struct Case {
            breakage: fn(&Path),
            message: &'static [&'static str],
        }
        fn poke(path: &Path, offset: usize, byte: u8) {
            let mut bytes = fs::read(path).unwrap();
            bytes[offset] = byte;
            fs::write(path, bytes).unwrap();
        }
        let cases = [
            // The training file is absent.
            Case {
                breakage: |d| fs::remove_file(d.join("train.bin")).unwrap(),
                message: &[
                    "train.bin is missing",
                    "test.bin (the CIFAR-100 binary version)",
                    "cargo xtask data cifar100",
                ],
            },
            // One byte is absent.
            Case {
                breakage: |d| fs::write(d.join("test.bin"), [0; 61_479]).unwrap(),
                message: &[
                    "test.bin",
                    "ends at byte 61479",
                    "20 records of 3074 bytes = 61480",
                ],
            },
            // Records with one label byte: CIFAR-10's layout.
            Case {
                breakage: |d| fs::write(d.join("train.bin"), vec![0; 307_300]).unwrap(),
                message: &["train.bin", "307300", "100 records of 3074 bytes = 307400"],
            },
            // The coarse label of record 2.
            Case {
                breakage: |d| poke(&d.join("test.bin"), 2 * 3074, 20),
                message: &[
                    "test.bin",
                    "record 2",
                    "coarse label 20 at byte 6148",
                    "0 to 19",
                    "CIFAR-100",
                ],
            },
            // The fine label of record 7.
            Case {
                breakage: |d| poke(&d.join("train.bin"), 7 * 3074 + 1, 100),
                message: &[
                    "train.bin",
                    "record 7",
                    "fine label 100 at byte 21519",
                    "0 to 99",
                ],
            },
            // A class name is absent.
            Case {
                breakage: |d| fs::write(d.join("fine_label_names.txt"), "a\nb\n").unwrap(),
                message: &["fine_label_names.txt", "2 class names", "100 class names"],
            },
            // A pixel differs from what was recorded.
            Case {
                breakage: |d| {
                    let sums = read(d).unwrap().sha256;
                    write_sums(&LAYOUT, d, Origin::Official, &sums).unwrap();
                    poke(&d.join("train.bin"), 5, 1);
                },
                message: &["train.bin", SUMS, "changed"],
            },
        ];
        for Case { breakage, message } in cases {
            let (_root, dir) = small();
            breakage(&dir);
            let found = read(&dir).unwrap_err().to_string();
            assert!(
                message.iter().all(|part| found.contains(part)),
                "{found:?} lacks one of {message:?}"
            );
        }
        // Small files where the official ones are due.
        let (_root, dir) = small();
        let found = load(&dir).unwrap_err().to_string();
        assert!(found.contains("50000 records"), "{found}");
    }

    #[test]
    fn the_sums_say_whether_the_images_are_official() {
        let (_root, dir) = small();
        let sums = read(&dir).unwrap().sha256;
        write_sums(&LAYOUT, &dir, Origin::Official, &sums).unwrap();
        let loaded = read(&dir).unwrap();
        assert_eq!(loaded.origin, Origin::Official);
        assert_eq!(loaded.splits.train.name, "cifar100");
    }
}

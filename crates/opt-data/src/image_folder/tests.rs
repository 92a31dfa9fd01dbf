//! Folders that the tests write themselves, whole and broken.

use image::{DynamicImage, GrayImage, ImageBuffer, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn png(path: &Path, width: u32, height: u32, colour: [u8; 3]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(width, height, Rgb(colour))
        .save_with_format(path, ImageFormat::Png)
        .unwrap();
}

fn touch(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, b"x").unwrap();
}

/// Two classes of two training images and one test image.
fn small() -> TempDir {
    let root = TempDir::new().unwrap();
    for (class, red) in [("dog", 200), ("cat", 100)] {
        for (file, green) in [("train/b", 2), ("train/a", 1), ("test/c", 3)] {
            let (part, name) = file.split_once('/').unwrap();
            let path = root.path().join(part).join(class).join(name);
            png(&path.with_extension("png"), 4, 6, [red, green, 0]);
        }
    }
    root
}

fn options(side: usize) -> Options {
    Options::of_side(side)
}

fn read(dir: &Path) -> Result<LoadedImages, DataError> {
    load(dir, &options(2))
}

#[test]
fn classes_and_files_are_in_the_order_of_their_names() {
    let root = small();
    let LoadedImages {
        splits,
        split,
        notes,
    } = read(root.path()).unwrap();
    let Splits { train, test } = splits;
    assert_eq!(train.classes, ["cat", "dog"]);
    assert_eq!(*train.labels, [0, 0, 1, 1]);
    assert_eq!(*test.labels, [0, 1]);
    assert_eq!([train.channels, train.height, train.width], [3, 2, 2]);
    // Red says the class, green the file.
    let colours: Vec<(u8, u8)> = (0..4)
        .map(|i| (train.image(i)[0], train.image(i)[4]))
        .collect();
    assert_eq!(colours, [(100, 1), (100, 2), (200, 1), (200, 2)]);
    assert_eq!((test.image(1)[0], test.image(1)[4]), (200, 3));
    assert_eq!((split.as_str(), notes.len()), ("folders train and test", 0));
    let name = root.path().file_name().unwrap().to_string_lossy();
    assert_eq!(train.name, format!("{name}-2"));
    // The same on one thread.
    let one = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    let again = one.install(|| read(root.path()).unwrap());
    assert_eq!(again.splits.train.sha256(), train.sha256());
}

#[test]
fn every_kind_of_file_becomes_rgb() {
    let root = small();
    let dir = root.path().join("train/ape");
    png(&root.path().join("test/ape/x.png"), 1, 1, [0; 3]);
    fs::create_dir_all(&dir).unwrap();
    let save = |name: &str, image: DynamicImage, format| {
        image.save_with_format(dir.join(name), format).unwrap();
    };
    let grey = GrayImage::from_pixel(3, 3, [70].into());
    let deep = ImageBuffer::from_pixel(3, 3, Rgb([0xffffu16, 0x8080, 0]));
    let clear = RgbaImage::from_pixel(3, 3, Rgba([10, 20, 30, 0]));
    save("0.PNG", grey.clone().into(), ImageFormat::Png);
    save("1.png", deep.into(), ImageFormat::Png);
    save("2.Png", clear.into(), ImageFormat::Png);
    save("3.JPG", grey.clone().into(), ImageFormat::Jpeg);
    save(
        "4.jpeg",
        RgbImage::from_pixel(3, 3, Rgb([10, 200, 60])).into(),
        ImageFormat::Jpeg,
    );
    // A PNG under another name is decoded as what it is.
    save("5.jpg", grey.into(), ImageFormat::Png);
    let train = read(root.path()).unwrap().splits.train;
    let expected: [[u8; 3]; 6] = [
        [70; 3],
        [255, 128, 0],
        [10, 20, 30],
        [70; 3],
        [10, 200, 60],
        [70; 3],
    ];
    for (index, expected) in expected.iter().enumerate() {
        let image = train.image(index);
        for (channel, &value) in expected.iter().enumerate() {
            // JPEG rounds colours to what its tables hold.
            let tolerance = if matches!(index, 3 | 4) { 3 } else { 0 };
            assert!(
                image[4 * channel].abs_diff(value) <= tolerance,
                "file {index}, channel {channel}: {} for {value}",
                image[4 * channel]
            );
        }
    }
}

#[test]
fn the_centre_of_a_large_image_is_kept() {
    let root = small();
    // 8 columns, 2 rows: the shorter side stays, columns 3 and 4 are the centre.
    let image = RgbImage::from_fn(8, 2, |x, y| Rgb([u8::try_from(x * 10 + y).unwrap(), 0, 0]));
    image.save(root.path().join("train/cat/a.png")).unwrap();
    let train = read(root.path()).unwrap().splits.train;
    assert_eq!(train.image(0)[..4], [30, 40, 31, 41]);
    // At 128 the shorter side becomes 146: 9 pixels of each border go.
    let image = RgbImage::from_fn(146, 146, |x, _| Rgb([u8::try_from(x).unwrap(), 0, 0]));
    image.save(root.path().join("train/cat/a.png")).unwrap();
    let train = load(root.path(), &options(128)).unwrap().splits.train;
    assert_eq!((train.image(0)[0], train.image(0)[127]), (9, 136));
}

#[test]
fn what_is_no_image_is_counted_and_hidden_files_are_not() {
    let root = small();
    for name in [
        "train/cat/Thumbs.db",
        "train/readme.txt",
        "test/dog/deep/x.png",
        "train/.DS_Store",
        "train/cat/._a.png",
        "test/.hidden/x.png",
    ] {
        touch(&root.path().join(name));
    }
    png(&root.path().join("val/cat/x.png"), 1, 1, [0; 3]);
    let notes = read(root.path()).unwrap().notes;
    assert_eq!(notes.len(), 2);
    assert!(notes[0].contains("val"), "{notes:?}");
    assert!(
        notes[1].starts_with("3 entries") && notes[1].ends_with("the first train/cat/Thumbs.db"),
        "{notes:?}"
    );
}

#[test]
fn images_beside_train_that_are_not_used_are_named() {
    let root = small();
    fs::remove_dir_all(root.path().join("test")).unwrap();
    // As competitions hand them out: without classes.
    png(&root.path().join("test/1.png"), 1, 1, [0; 3]);
    png(&root.path().join("more/cat/x.png"), 1, 1, [0; 3]);
    let loaded = read(root.path()).unwrap();
    assert_eq!(loaded.splits.test.len(), 2);
    assert_eq!(loaded.notes, ["not used, beside train: more, test"]);
    assert!(
        loaded
            .split
            .ends_with("holds a folder of images for each class")
    );
}

#[test]
fn val_or_valid_stands_in_for_test_and_is_named() {
    for name in ["val", "valid"] {
        let root = small();
        fs::rename(root.path().join("test"), root.path().join(name)).unwrap();
        let loaded = read(root.path()).unwrap();
        assert_eq!(loaded.splits.test.len(), 2);
        assert_eq!(loaded.split, format!("folders train and {name}"));
        let expected = format!("the test images are those of {name}: there is no folder test");
        assert!(loaded.notes[0].starts_with(&expected), "{:?}", loaded.notes);
    }
    // Beside test they are not used, and said not to be.
    let root = small();
    for name in ["valid", "validation"] {
        png(&root.path().join(name).join("cat/x.png"), 1, 1, [0; 3]);
    }
    let loaded = read(root.path()).unwrap();
    assert_eq!(loaded.split, "folders train and test");
    assert_eq!(loaded.notes, ["not used, beside train: valid, validation"]);
}

#[test]
fn folders_of_another_shape_are_recognised() {
    fn image(dir: &Path, path: &str) {
        png(&dir.join(path), 1, 1, [0; 3]);
    }
    struct Case {
        files: &'static [&'static str],
        message: &'static [&'static str],
    }
    let cases = [
        // Parts without classes: never two classes called train and test.
        Case {
            files: &["train/0.png", "train/1.png", "test/0.png", "test/1.png"],
            message: &[
                "images directly in test and train",
                "no classes",
                "train/CLASS/*.png",
            ],
        },
        Case {
            files: &["train/0.png", "val/0.png", "more/0.png"],
            message: &["images directly in train and val", "train/CLASS/*.png"],
        },
        Case {
            files: &["Training/0.png", "Testing/0.png"],
            message: &["images directly in Testing and Training"],
        },
        Case {
            files: &["train/0.png", "train/1.png"],
            message: &["images directly in train,", "train/CLASS/*.png"],
        },
        // Another spelling.
        Case {
            files: &[
                "Train/a/0.png",
                "Train/b/0.png",
                "test/a/0.png",
                "test/b/0.png",
            ],
            message: &["the folder Train,", "the name train, in small letters"],
        },
        Case {
            files: &[
                "train/a/0.png",
                "train/b/0.png",
                "TEST/a/0.png",
                "TEST/b/0.png",
            ],
            message: &["the folder TEST,", "the name test"],
        },
        Case {
            files: &[
                "train/a/0.png",
                "train/b/0.png",
                "validation/a/0.png",
                "validation/b/0.png",
            ],
            message: &["the folder validation,", "the name val"],
        },
        // One folder too many: around everything, around the classes, around the images.
        Case {
            files: &["set/train/a/0.png", "set/train/b/0.png", "set/test/a/0.png"],
            message: &[
                "one folder, set, with folders in it",
                "name the inner folder: ",
                "/set",
            ],
        },
        Case {
            files: &["train/train/a/0.png", "train/train/b/0.png", "test/a/0.png"],
            message: &[
                "train/train: no images, but the folders a, b",
                "one level too deep",
            ],
        },
        Case {
            files: &["a/deep/0.png", "b/deep/0.png"],
            message: &["a: no images, but the folders deep", "one level too deep"],
        },
        Case {
            files: &["data/train/a/0.png", "docs/0.png"],
            message: &["data: no images, but train", "name this inner folder: "],
        },
    ];
    for Case { files, message } in cases {
        let root = TempDir::new().unwrap();
        for file in files {
            image(root.path(), file);
        }
        let found = read(root.path()).unwrap_err().to_string();
        assert!(
            message.iter().all(|part| found.contains(part)),
            "{found:?} lacks one of {message:?}"
        );
    }
}

#[test]
fn many_broken_images_are_counted_and_ten_are_named() {
    let root = small();
    for i in 0..12 {
        touch(&root.path().join(format!("train/dog/x{i:02}.png")));
    }
    touch(&root.path().join("test/cat/y.jpg"));
    let found = read(root.path()).unwrap_err().to_string();
    assert!(found.contains("13 of 19 images cannot be used"), "{found}");
    for i in 0..12 {
        let named = found.contains(&format!("train/dog/x{i:02}.png"));
        assert_eq!(named, i < 10, "{found}");
    }
    assert!(found.ends_with("; and 3 more"), "{found}");
}

#[test]
fn without_a_test_folder_a_tenth_of_each_class_is_for_testing() {
    struct Case {
        images: u8,
        test: usize,
    }
    let cases = [
        // At least one.
        Case { images: 2, test: 1 },
        Case {
            images: 14,
            test: 1,
        },
        // Rounded, halves up.
        Case {
            images: 15,
            test: 2,
        },
        Case {
            images: 24,
            test: 2,
        },
    ];
    // In the folder itself, or in its `train`; a class may be called train.
    for (under, second) in [("", "train"), ("train", "b")] {
        for Case { images, test } in cases.iter() {
            let root = TempDir::new().unwrap();
            for class in ["a", second] {
                for i in 0..*images {
                    let path = root.path().join(under).join(class);
                    png(&path.join(format!("{i:02}.png")), 1, 1, [i, 0, 0]);
                }
            }
            let loaded = read(root.path()).unwrap();
            let Splits {
                train,
                test: tested,
            } = loaded.splits;
            assert_eq!(train.classes, ["a", second]);
            for class in [0, 1] {
                let of = |set: &Dataset| -> Vec<u8> {
                    (0..set.len())
                        .filter(|&i| set.labels[i] == class)
                        .map(|i| set.image(i)[0])
                        .collect()
                };
                let (kept, taken) = (of(&train), of(&tested));
                assert_eq!(taken.len(), *test, "{images} images");
                assert!(kept.is_sorted() && taken.is_sorted());
                let mut all = [kept, taken].concat();
                all.sort_unstable();
                assert_eq!(all, (0..*images).collect::<Vec<_>>());
            }
            assert!(loaded.split.contains("a tenth") && loaded.split.contains("seed 0"));
        }
    }
}

proptest! {
    #[test]
    fn every_image_is_in_exactly_one_part(n in 2usize..200, seed: u64, label in 0u16..1000) {
        let class = Class {
            name: "a".into(),
            path: "a".into(),
            files: (0..n).map(|i| format!("{i}.png").into()).collect(),
        };
        let for_test = split_class(&class, seed, label).unwrap();
        prop_assert_eq!(for_test.len(), n);
        let count = for_test.iter().filter(|&&t| t).count();
        prop_assert!(count >= 1 && count.abs_diff(n / 10) <= 1);
        prop_assert_eq!(&for_test, &split_class(&class, seed, label).unwrap());
    }
}

#[test]
fn the_split_depends_on_seed_and_class() {
    let class = Class {
        name: "a".into(),
        path: "a".into(),
        files: vec![PathBuf::new(); 100],
    };
    let split = |seed, label| split_class(&class, seed, label).unwrap();
    assert_ne!(split(0, 0), split(1, 0));
    assert_ne!(split(0, 0), split(0, 1));
}

#[test]
fn errors_name_the_place_and_what_is_expected() {
    struct Case {
        breakage: fn(&Path),
        message: &'static [&'static str],
    }
    fn cut(path: &Path, keep: fn(usize) -> usize) {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..keep(bytes.len())]).unwrap();
    }
    fn jpeg(path: &Path) {
        RgbImage::from_fn(64, 64, |x, y| {
            Rgb([x * 4, y * 4, x * y % 256].map(|v| u8::try_from(v).unwrap()))
        })
        .save_with_format(path, ImageFormat::Jpeg)
        .unwrap();
    }
    let cases = [
        // No image at all.
        Case {
            breakage: |d| touch(&d.join("train/cat/a.png")),
            message: &["train/cat/a.png: not a readable image", "PNG or JPEG"],
        },
        // An empty file.
        Case {
            breakage: |d| fs::write(d.join("test/dog/c.png"), []).unwrap(),
            message: &["test/dog/c.png: not a readable image"],
        },
        // A PNG that ends early.
        Case {
            breakage: |d| cut(&d.join("train/dog/b.png"), |len| len / 2),
            message: &["train/dog/b.png: not a readable image"],
        },
        // A JPEG that ends early, within the compressed data.
        Case {
            breakage: |d| {
                jpeg(&d.join("train/dog/b.jpg"));
                cut(&d.join("train/dog/b.jpg"), |len| len * 3 / 4);
            },
            message: &["train/dog/b.jpg: not a readable image", "break off"],
        },
        // A JPEG that lacks its last byte.
        Case {
            breakage: |d| {
                jpeg(&d.join("train/dog/b.jpg"));
                cut(&d.join("train/dog/b.jpg"), |len| len - 1);
            },
            message: &["train/dog/b.jpg", "break off"],
        },
        // A format that is not supported under a name that is.
        Case {
            breakage: |d| {
                fs::write(d.join("train/dog/b.png"), b"GIF89a\x01\0\x01\0\0\0\0;").unwrap()
            },
            message: &["train/dog/b.png: not a readable image"],
        },
        // Several broken files, in the order of their names.
        Case {
            breakage: |d| {
                for name in ["train/dog/b.png", "test/cat/c.png", "train/cat/b.png"] {
                    touch(&d.join(name));
                }
            },
            message: &[
                "3 of 6 images cannot be used: ",
                "train/cat/b.png: not",
                "; ",
                "test/cat/c.png: not",
            ],
        },
        // A link that leads nowhere.
        Case {
            breakage: |d| {
                std::os::unix::fs::symlink("/nonexistent", d.join("train/cat/z.png")).unwrap()
            },
            message: &["could not read", "train/cat/z.png"],
        },
        // A class without images, and with other files only.
        Case {
            breakage: |d| fs::create_dir(d.join("train/eel")).unwrap(),
            message: &["train/eel: an empty folder", "delete the folder"],
        },
        Case {
            breakage: |d| touch(&d.join("train/eel/a.webp")),
            message: &["train/eel: no PNG or JPEG file, but a.webp", "convert them"],
        },
        // A class in one part only.
        Case {
            breakage: |d| png(&d.join("train/eel/a.png"), 1, 1, [0; 3]),
            message: &["the class eel in train only", "train and test"],
        },
        Case {
            breakage: |d| png(&d.join("test/eel/a.png"), 1, 1, [0; 3]),
            message: &["the class eel in test only"],
        },
        // One class.
        Case {
            breakage: |d| {
                fs::remove_dir_all(d.join("train/cat")).unwrap();
                fs::remove_dir_all(d.join("test/cat")).unwrap();
            },
            message: &["train: 1 folders of images", "2 to 65535"],
        },
        // No training images.
        Case {
            breakage: |d| fs::remove_dir_all(d.join("train")).unwrap(),
            message: &["train: no folders of training images", "there is test"],
        },
        // Nothing to test on, and a class of a single image.
        Case {
            breakage: |d| {
                fs::remove_dir_all(d.join("test")).unwrap();
                fs::remove_file(d.join("train/dog/a.png")).unwrap();
            },
            message: &["train/dog: 1 image", "at least 2"],
        },
    ];
    for Case { breakage, message } in cases {
        let root = small();
        breakage(root.path());
        let found = read(root.path()).unwrap_err().to_string();
        assert!(
            message.iter().all(|part| found.contains(part)),
            "{found:?} lacks one of {message:?}"
        );
    }
}

#[test]
fn sizes_are_checked_before_anything_is_decoded() {
    let root = small();
    touch(&root.path().join("train/cat/a.png"));
    let too_large = Options {
        max_bytes: 179_999,
        ..options(100)
    };
    let found = load(root.path(), &too_large).unwrap_err().to_string();
    for part in ["6 images of 3×100×100", "180000 bytes", "at most 179999"] {
        assert!(found.contains(part), "{found}");
    }
    // One byte more and it is the broken file that is reported.
    let enough = Options {
        max_bytes: 180_000,
        ..too_large
    };
    assert!(matches!(
        load(root.path(), &enough),
        Err(DataError::Image(_))
    ));
    for size in [0, MAX_SIZE + 1, usize::MAX] {
        let found = load(root.path(), &options(size)).unwrap_err().to_string();
        assert!(found.contains("expected 1 to 4096"), "{found}");
    }
}

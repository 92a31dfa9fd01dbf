//! Decides where the images come from: a folder, the download, or the synthetic set.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::cifar10::{self, FOLDER};
use crate::download::{Archive, DownloadOptions, Progress, fetch_records};
use crate::image_folder::{self, LoadedImages, has_folders};
use crate::records::{self, Layout, other_version};
use crate::synthetic::{TEST_IMAGES, TRAIN_IMAGES, synthetic};
use crate::{DataError, Loaded, Origin, Splits, cifar100};

/// The environment variable that names a folder of images in any of the layouts.
pub const DIR_VARIABLE: &str = "OPT_DATA_DIR";

/// Says which data is wanted; parses from `auto`, `cifar100`, `synthetic` or a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// What [`resolve`] finds first.
    Auto,
    /// CIFAR-100.
    Cifar100,
    /// The synthetic set.
    Synthetic,
    /// Whatever is in this folder.
    Dir(PathBuf),
}

impl FromStr for Request {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "cifar100" => Self::Cifar100,
            "synthetic" => Self::Synthetic,
            dir => Self::Dir(dir.into()),
        })
    }
}

/// Says where [`resolve`] looks.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder named in the environment.
    pub env_dir: Option<PathBuf>,
    /// The folder that holds `cifar-10-batches-bin` and `cifar-100-binary` or receives them, usually `data`.
    pub data_dir: PathBuf,
    /// What is downloaded for CIFAR-10.
    pub archive: Archive,
    /// What is downloaded for CIFAR-100.
    pub cifar100_archive: Archive,
    /// How patiently.
    pub download: DownloadOptions,
    /// How image folders are read.
    pub image_folder: image_folder::Options,
    /// The synthetic set's seed.
    pub synthetic_seed: u64,
    /// The synthetic set's number of training images.
    pub synthetic_train: usize,
    /// The synthetic set's number of test images.
    pub synthetic_test: usize,
}

impl Options {
    /// Returns the usual places: `$OPT_DATA_DIR`, `root/data`, the official archives.
    pub fn new(root: &Path) -> Self {
        Self {
            env_dir: env::var_os(DIR_VARIABLE)
                .filter(|dir| !dir.is_empty())
                .map(PathBuf::from),
            data_dir: root.join("data"),
            archive: Archive::cifar10(),
            cifar100_archive: Archive::cifar100(),
            download: DownloadOptions::default(),
            image_folder: image_folder::Options::default(),
            synthetic_seed: 1,
            synthetic_train: TRAIN_IMAGES,
            synthetic_test: TEST_IMAGES,
        }
    }
}

impl Options {
    /// The folder named in the environment, if it holds CIFAR-100; one that was named for another set is passed over.
    pub fn named_cifar100(&self) -> Option<&Path> {
        self.env_dir.as_deref().filter(|dir| {
            dir.join(cifar100::FOLDER).is_dir() || recognise(dir).ok() == Some(Kind::Cifar100)
        })
    }
}

/// Says how the images of a folder are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The CIFAR-10 binary version, and the synthetic set, which imitates it.
    Cifar10,
    /// The CIFAR-100 binary version.
    Cifar100,
    /// A folder of image files for each class.
    ImageFolder,
}

/// Holds the images and where they came from.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The images.
    pub splits: Splits,
    /// What they were read as.
    pub kind: Kind,
    /// Which images they are.
    pub origin: Origin,
    /// The folder they were read from; `None` for generated ones.
    pub dir: Option<PathBuf>,
    /// What every reader of the results must be told, such as that these are not the images that were wanted.
    pub notice: Option<String>,
    /// How training and test images were told apart; `None` where the set itself says.
    pub split: Option<String>,
}

/// Recognises what a folder holds by the names in it.
///
/// The first that is there decides: a file of the CIFAR-10 layout or its folder `cifar-10-batches-bin`; `train.bin`,
/// `test.bin` or the folder `cifar-100-binary`; any other folders, which are taken for classes or their `train`, `test`
/// and `val`.
///
/// # Errors
///
/// If there is no such folder, or nothing of this in it.
pub fn recognise(dir: &Path) -> Result<Kind, DataError> {
    let unknown = |found| DataError::UnknownFolder {
        path: dir.to_path_buf(),
        found,
    };
    if !dir.is_dir() {
        return Err(unknown("no such folder"));
    }
    let holds = |layout: &Layout| {
        let mut names = layout.files.iter().chain([&layout.folder, &layout.names]);
        // A link that leads nowhere exists too: it is broken, not absent.
        names.any(|name| fs::symlink_metadata(dir.join(name)).is_ok())
    };
    if holds(&cifar10::LAYOUT) {
        Ok(Kind::Cifar10)
    } else if holds(&cifar100::LAYOUT) {
        Ok(Kind::Cifar100)
    } else if let Some(other) = other_version(dir, None) {
        Err(other)
    } else if has_folders(dir) {
        Ok(Kind::ImageFolder)
    } else if image_folder::holds_images(dir) {
        Err(unknown("images, but no folders of them"))
    } else {
        Err(unknown("no images that are known"))
    }
}

/// Finds the images that were asked for.
///
/// [`Request::Auto`] takes the first of: the folder named in the environment; `cifar-10-batches-bin` in the data folder;
/// the download into the data folder; and, only if the network cannot be reached, the synthetic set with a notice.
/// [`Request::Cifar100`] takes the first of: the folder named in the environment, if it holds CIFAR-100;
/// `cifar-100-binary` in the data folder; the download. A folder is read as what [`recognise`] takes it for.
///
/// # Errors
///
/// If the chosen source is broken: that never leads to another source.
pub fn resolve(
    request: &Request,
    options: &Options,
    progress: Progress<'_>,
) -> Result<Resolved, DataError> {
    resolve_records(request, options, cifar10::RECORDS_PER_FILE, progress)
}

/// [`resolve`] for CIFAR sets of `records` test images.
fn resolve_records(
    request: &Request,
    options: &Options,
    records: usize,
    progress: Progress<'_>,
) -> Result<Resolved, DataError> {
    let read_as = |kind, dir: &Path| match kind {
        Kind::Cifar10 => Ok(from_records(kind, cifar10::load_records(dir, records)?)),
        Kind::Cifar100 => {
            let loaded = records::load(&cifar100::LAYOUT, dir, records)?;
            Ok(from_records(kind, loaded))
        }
        Kind::ImageFolder => {
            let loaded = image_folder::load(dir, &options.image_folder)?;
            Ok(from_images(loaded, dir))
        }
    };
    let read = |dir: &Path| read_as(recognise(dir)?, dir);
    let generate = |notice| Resolved {
        splits: synthetic(
            options.synthetic_seed,
            options.synthetic_train,
            options.synthetic_test,
        ),
        kind: Kind::Cifar10,
        origin: Origin::Synthetic,
        dir: None,
        notice,
        split: None,
    };
    let mut fetch = |layout, archive| {
        let (to, download) = (&options.data_dir, &options.download);
        fetch_records(layout, archive, to, records, download, &mut *progress)
    };
    match request {
        Request::Synthetic => Ok(generate(None)),
        Request::Dir(dir) => read(dir),
        Request::Cifar100 => {
            if let Some(dir) = options.named_cifar100() {
                return read_as(Kind::Cifar100, dir);
            }
            let folder = options.data_dir.join(cifar100::FOLDER);
            if fs::symlink_metadata(&folder).is_err() {
                fetch(&cifar100::LAYOUT, &options.cifar100_archive)?;
            }
            read_as(Kind::Cifar100, &folder)
        }
        Request::Auto => {
            if let Some(dir) = &options.env_dir {
                return read(dir);
            }
            let folder = options.data_dir.join(FOLDER);
            // A link that leads nowhere exists too: it is broken, not absent.
            if fs::symlink_metadata(&folder).is_ok() {
                return read_as(Kind::Cifar10, &folder);
            }
            match fetch(&cifar10::LAYOUT, &options.archive) {
                Ok(folder) => read_as(Kind::Cifar10, &folder),
                Err(DataError::NoNetwork { url, reason }) => Ok(generate(Some(format!(
                    "NOT REAL IMAGES: no connection to {url} ({reason}) and no CIFAR-10 in the data folder, so this run uses \
                     the synthetic set; its accuracies say nothing about CIFAR-10. To use real images, fetch them with \
                     `cargo xtask data`, name a folder with --data, or set {DIR_VARIABLE}"
                )))),
                Err(error) => Err(error),
            }
        }
    }
}

fn from_records(kind: Kind, loaded: Loaded) -> Resolved {
    let Loaded {
        splits,
        origin,
        dir,
        sha256: _,
    } = loaded;
    let notice = match origin {
        Origin::Jpeg75 | Origin::Synthetic => Some(format!("the images are {}", origin.describe())),
        Origin::Official | Origin::Unrecorded => None,
    };
    Resolved {
        splits,
        kind,
        origin,
        dir: Some(dir),
        notice,
        split: None,
    }
}

fn from_images(loaded: LoadedImages, dir: &Path) -> Resolved {
    let LoadedImages {
        splits,
        split,
        notes,
    } = loaded;
    Resolved {
        splits,
        kind: Kind::ImageFolder,
        origin: Origin::Unrecorded,
        dir: Some(dir.to_path_buf()),
        notice: (!notes.is_empty()).then(|| notes.join("; ")),
        split: Some(split),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tempfile::TempDir;

    use super::*;
    use crate::cifar10::tests::write_small;
    use crate::download::tests::{Server, archive, quick, small_archive};

    /// Options without environment and without network.
    fn offline(root: &Path) -> Options {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        Options {
            env_dir: None,
            archive: archive(&format!("http://127.0.0.1:{port}/x"), b"x"),
            cifar100_archive: archive(&format!("http://127.0.0.1:{port}/x"), b"x"),
            download: quick(),
            synthetic_train: 50,
            synthetic_test: 10,
            ..Options::new(root)
        }
    }

    fn run(request: &Request, options: &Options) -> Result<Resolved, DataError> {
        resolve_records(request, options, 20, &mut |_, _| {})
    }

    #[test]
    fn requests_parse() {
        for (text, request) in [
            ("auto", Request::Auto),
            ("synthetic", Request::Synthetic),
            ("cifar100", Request::Cifar100),
            ("some/dir", Request::Dir("some/dir".into())),
            ("./auto", Request::Dir("./auto".into())),
        ] {
            assert_eq!(text.parse(), Ok(request));
        }
    }

    #[test]
    fn auto_prefers_the_environment_then_the_data_folder() {
        let root = TempDir::new().unwrap();
        let (named, found) = (
            root.path().join("named"),
            root.path().join("data").join(FOLDER),
        );
        fs::create_dir(root.path().join("data")).unwrap();
        write_small(&named);
        write_small(&found);
        let mut options = offline(root.path());
        assert_eq!(run(&Request::Auto, &options).unwrap().dir, Some(found));
        options.env_dir = Some(named.clone());
        let resolved = run(&Request::Auto, &options).unwrap();
        assert_eq!((resolved.dir, resolved.notice), (Some(named.clone()), None));
        // A named folder is used as it is.
        assert_eq!(
            run(&Request::Dir(named.clone()), &options).unwrap().dir,
            Some(named)
        );
    }

    #[test]
    fn a_broken_folder_is_an_error_and_no_reason_to_look_further() {
        let root = TempDir::new().unwrap();
        let found = root.path().join("data").join(FOLDER);
        fs::create_dir_all(&found).unwrap();
        let mut options = offline(root.path());
        assert!(matches!(
            run(&Request::Auto, &options),
            Err(DataError::MissingFile { .. })
        ));
        // A link that leads nowhere.
        fs::remove_dir(&found).unwrap();
        std::os::unix::fs::symlink("/nonexistent", &found).unwrap();
        assert!(matches!(
            run(&Request::Auto, &options),
            Err(DataError::MissingFile { .. })
        ));
        options.env_dir = Some(root.path().join("nothing"));
        assert!(matches!(
            run(&Request::Auto, &options),
            Err(DataError::UnknownFolder { .. })
        ));
    }

    #[test]
    fn auto_downloads_once() {
        let root = TempDir::new().unwrap();
        let content = small_archive();
        let server = Server::good(&content);
        let options = Options {
            archive: archive(&server.url, &content),
            ..offline(root.path())
        };
        let first = run(&Request::Auto, &options).unwrap();
        assert_eq!((first.origin, first.notice), (Origin::Unrecorded, None));
        // The second time there is no server.
        let second = run(&Request::Auto, &offline(root.path())).unwrap();
        assert_eq!(second.splits.train.sha256(), first.splits.train.sha256());
    }

    #[test]
    fn folders_are_recognised_by_the_names_in_them() {
        struct Case {
            folders: &'static [&'static str],
            files: &'static [&'static str],
            expected: Option<Kind>,
        }
        let cases = [
            // A broken CIFAR-10 folder is still one.
            Case {
                folders: &[],
                files: &["data_batch_3.bin"],
                expected: Some(Kind::Cifar10),
            },
            Case {
                folders: &["cifar-10-batches-bin", "cifar-100-binary"],
                files: &[],
                expected: Some(Kind::Cifar10),
            },
            Case {
                folders: &["cifar-100-binary"],
                files: &["README.md"],
                expected: Some(Kind::Cifar100),
            },
            Case {
                folders: &[],
                files: &["test.bin"],
                expected: Some(Kind::Cifar100),
            },
            Case {
                folders: &["train"],
                files: &[],
                expected: Some(Kind::ImageFolder),
            },
            Case {
                folders: &["cat", "dog"],
                files: &["labels.csv"],
                expected: Some(Kind::ImageFolder),
            },
            // Hidden folders are no classes.
            Case {
                folders: &[".git"],
                files: &["a.png"],
                expected: None,
            },
            Case {
                folders: &[],
                files: &[],
                expected: None,
            },
        ];
        for Case {
            folders,
            files,
            expected,
        } in cases
        {
            let root = TempDir::new().unwrap();
            for name in folders {
                fs::create_dir(root.path().join(name)).unwrap();
            }
            for name in files {
                fs::write(root.path().join(name), []).unwrap();
            }
            assert_eq!(
                recognise(root.path()).ok(),
                expected,
                "{folders:?} {files:?}"
            );
        }
        let message = recognise(Path::new("/nonexistent"))
            .unwrap_err()
            .to_string();
        for part in ["/nonexistent: no such folder", "train.bin", "train/CLASS"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn other_versions_of_cifar_are_called_by_their_names() {
        for (files, expected) in [
            // As the archive unpacks, from outside and from inside, renamed.
            (
                &["cifar-10-batches-py/data_batch_1"][..],
                "cifar-10-batches-py is the Python version of CIFAR-10",
            ),
            (
                &["data_batch_1", "batches.meta"],
                "is the Python version of CIFAR-10",
            ),
            (
                &["cifar-100-python/train"],
                "cifar-100-python is the Python version of CIFAR-100",
            ),
            (
                &["train", "test", "meta"],
                "is the Python version of CIFAR-100",
            ),
            (&["data_batch_1.mat"], "is the MATLAB version of CIFAR-10"),
        ] {
            let root = TempDir::new().unwrap();
            for file in files {
                let path = root.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, b"x").unwrap();
            }
            let found = recognise(root.path()).unwrap_err().to_string();
            for part in [
                expected,
                "expected the binary version",
                "cargo xtask data cifar10",
            ] {
                assert!(found.contains(part), "{found}");
            }
            // Asked for by its name it is no missing file either; asked for the other set, it is.
            let ten = cifar10::load(root.path()).unwrap_err().to_string();
            let hundred = cifar100::load(root.path()).unwrap_err().to_string();
            let (asked, other) = match expected.ends_with("CIFAR-100") {
                true => (hundred, ten),
                false => (ten, hundred),
            };
            assert!(asked.contains(expected), "{asked}");
            assert!(!other.contains("version of"), "{other}");
        }
        // Images beside, but no folders of them.
        let root = TempDir::new().unwrap();
        fs::write(root.path().join("a.png"), b"x").unwrap();
        let found = recognise(root.path()).unwrap_err().to_string();
        assert!(found.contains("images, but no folders of them"), "{found}");
    }

    #[test]
    fn cifar100_comes_from_the_environment_the_data_folder_or_the_download() {
        let root = TempDir::new().unwrap();
        let found = root.path().join("data").join(cifar100::FOLDER);
        let content = crate::download::tests::small_cifar100_archive();
        let server = Server::good(&content);
        let mut options = Options {
            cifar100_archive: archive(&server.url, &content),
            ..offline(root.path())
        };
        let first = run(&Request::Cifar100, &options).unwrap();
        assert_eq!(
            (&first.dir, first.kind),
            (&Some(found.clone()), Kind::Cifar100)
        );
        assert_eq!(first.splits.train.classes.len(), 100);
        // The second time there is no server, and the environment names something else.
        options = offline(root.path());
        let named = root.path().join("named");
        write_small(&named);
        options.env_dir = Some(named.clone());
        let second = run(&Request::Cifar100, &options).unwrap();
        assert_eq!(second.splits.train.sha256(), first.splits.train.sha256());
        // In the environment it comes first, and by its folder it is found without a name.
        fs::remove_dir_all(&named).unwrap();
        cifar100::tests::write_small(&named);
        let third = run(&Request::Cifar100, &options).unwrap();
        assert_eq!(third.dir, Some(named.clone()));
        assert_eq!(
            run(&Request::Dir(named), &options).unwrap().kind,
            Kind::Cifar100
        );
    }

    #[test]
    fn cifar100_is_never_replaced() {
        let root = TempDir::new().unwrap();
        let mut options = offline(root.path());
        assert!(matches!(
            run(&Request::Cifar100, &options),
            Err(DataError::NoNetwork { .. })
        ));
        // A broken folder that was named.
        options.env_dir = Some(root.path().to_path_buf());
        fs::create_dir(root.path().join(cifar100::FOLDER)).unwrap();
        let message = run(&Request::Cifar100, &options).unwrap_err().to_string();
        assert!(message.contains("train.bin is missing"), "{message}");
    }

    #[test]
    fn only_a_missing_network_leads_to_the_synthetic_set_and_loudly() {
        let root = TempDir::new().unwrap();
        let resolved = run(&Request::Auto, &offline(root.path())).unwrap();
        assert_eq!(
            (resolved.origin, resolved.splits.train.name.as_str()),
            (Origin::Synthetic, "synthetic")
        );
        assert_eq!(resolved.splits.train.len(), 50);
        let notice = resolved.notice.unwrap();
        assert!(
            notice.contains("NOT REAL IMAGES") && notice.contains("127.0.0.1"),
            "{notice}"
        );
        // Asked for by name it needs no notice.
        assert_eq!(
            run(&Request::Synthetic, &offline(root.path()))
                .unwrap()
                .notice,
            None
        );
        // A server with the wrong content is an error.
        let server = Server::good(b"y");
        let options = Options {
            archive: archive(&server.url, b"x"),
            ..offline(root.path())
        };
        assert!(matches!(
            run(&Request::Auto, &options),
            Err(DataError::WrongContent { .. })
        ));
    }
}

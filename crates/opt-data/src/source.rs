//! Decides where the images come from: a folder, the download, or the synthetic set.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::cifar10::{self, FOLDER, Origin};
use crate::download::{Archive, DownloadOptions, Progress, fetch_records};
use crate::synthetic::{TEST_IMAGES, TRAIN_IMAGES, synthetic};
use crate::{DataError, Splits};

/// The environment variable that names a folder in the CIFAR-10 layout.
pub const DIR_VARIABLE: &str = "OPT_DATA_DIR";

/// Says which data is wanted; parses from `auto`, `synthetic` or a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// What [`resolve`] finds first.
    Auto,
    /// The synthetic set.
    Synthetic,
    /// CIFAR-10 from this folder.
    Dir(PathBuf),
}

impl FromStr for Request {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
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
    /// The folder that holds `cifar-10-batches-bin` or receives it, usually `data`.
    pub data_dir: PathBuf,
    /// What is downloaded.
    pub archive: Archive,
    /// How patiently.
    pub download: DownloadOptions,
    /// The synthetic set's seed.
    pub synthetic_seed: u64,
    /// The synthetic set's number of training images.
    pub synthetic_train: usize,
    /// The synthetic set's number of test images.
    pub synthetic_test: usize,
}

impl Options {
    /// Returns the usual places: `$OPT_DATA_DIR`, `root/data`, the official archive.
    pub fn new(root: &Path) -> Self {
        Self {
            env_dir: env::var_os(DIR_VARIABLE)
                .filter(|dir| !dir.is_empty())
                .map(PathBuf::from),
            data_dir: root.join("data"),
            archive: Archive::cifar10(),
            download: DownloadOptions::default(),
            synthetic_seed: 1,
            synthetic_train: TRAIN_IMAGES,
            synthetic_test: TEST_IMAGES,
        }
    }
}

/// Holds the images and where they came from.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The images.
    pub splits: Splits,
    /// Which images they are.
    pub origin: Origin,
    /// The folder they were read from; `None` for generated ones.
    pub dir: Option<PathBuf>,
    /// What every reader of the results must be told, such as that these are not the images that were wanted.
    pub notice: Option<String>,
}

/// Finds the images that were asked for.
///
/// [`Request::Auto`] takes the first of: the folder named in the environment; `cifar-10-batches-bin` in the data folder;
/// the download into the data folder; and, only if the network cannot be reached, the synthetic set with a notice.
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

fn resolve_records(
    request: &Request,
    options: &Options,
    records: usize,
    progress: Progress<'_>,
) -> Result<Resolved, DataError> {
    let read = |dir: &Path| {
        let cifar10::Loaded {
            splits,
            origin,
            dir,
            sha256: _,
        } = cifar10::load_records(dir, records)?;
        let notice = match origin {
            Origin::Jpeg75 | Origin::Synthetic => {
                Some(format!("the images are {}", origin.describe()))
            }
            Origin::Official | Origin::Unrecorded => None,
        };
        Ok(Resolved {
            splits,
            origin,
            dir: Some(dir),
            notice,
        })
    };
    let generate = |notice| Resolved {
        splits: synthetic(
            options.synthetic_seed,
            options.synthetic_train,
            options.synthetic_test,
        ),
        origin: Origin::Synthetic,
        dir: None,
        notice,
    };
    match request {
        Request::Synthetic => Ok(generate(None)),
        Request::Dir(dir) => read(dir),
        Request::Auto => {
            if let Some(dir) = &options.env_dir {
                return read(dir);
            }
            let folder = options.data_dir.join(FOLDER);
            // A link that leads nowhere exists too: it is broken, not absent.
            if fs::symlink_metadata(&folder).is_ok() {
                return read(&folder);
            }
            match fetch_records(
                &options.archive,
                &options.data_dir,
                records,
                &options.download,
                progress,
            ) {
                Ok(folder) => read(&folder),
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
            Err(DataError::MissingFile { .. })
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

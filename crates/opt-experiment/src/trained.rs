//! Phases of training, kept in the user's cache folder under what they follow from: a finished one is not repeated, a
//! stopped one goes on after its last whole epoch.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use opt_core::Model;
use opt_nn::optimizer::OptimizerState;
use opt_nn::train::{EpochReport, TrainState};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::cache;
use crate::folder::sweep;
use crate::identity::{self, Identity};

/// The place of one phase in the cache: `trained/vFORMAT/HASH/` with `identity.txt` (what it follows from),
/// `state.safetensors` while it runs and `model.safetensors` when it is done, both with their key, their epochs and a
/// checksum. Held by one process at a time. Places of other formats are left alone.
#[derive(Debug)]
pub struct CacheEntry {
    folder: PathBuf,
    /// The identity's hash.
    key: String,
    _lock: File,
}

/// A finished phase.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// The trained network.
    pub model: Model,
    /// Its epochs.
    pub reports: Vec<EpochReport>,
}

/// An epoch as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct StoredEpoch {
    epoch: usize,
    terms: Vec<(String, f64)>,
    train_top1: f64,
    lr: f64,
    images_per_second: f64,
    seconds: f64,
}

impl CacheEntry {
    /// Opens the place of a phase; waits while another process trains the same.
    ///
    /// # Errors
    ///
    /// The cache folder cannot be written.
    pub fn open(identity: &Identity) -> Result<Self> {
        Self::open_in(&cache::folder()?, identity)
    }

    fn open_in(cache: &Path, identity: &Identity) -> Result<Self> {
        let key = identity.hash();
        let format = format!("v{}", identity::FORMAT);
        let folder = cache.join("trained").join(format).join(&key);
        let open = || -> Result<File> {
            fs::create_dir_all(&folder)?;
            let lock = File::create(folder.join("lock"))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    eprintln!("  another run is training the same network; waiting for its result");
                    lock.lock()?;
                }
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
            sweep(&folder);
            let text = folder.join("identity.txt");
            // For people; what a file belongs to, it says itself.
            if fs::read(&text).ok().as_deref() != Some(identity.text().as_bytes()) {
                opt_artifact::save(&text, identity.text().as_bytes())?;
            }
            Ok(lock)
        };
        let lock = open().with_context(|| {
            format!(
                "keeping trained networks in {}; name another folder in OPT_CACHE_DIR",
                folder.display()
            )
        })?;
        Ok(Self {
            folder,
            key,
            _lock: lock,
        })
    }

    /// The finished phase, if it is there. A damaged one is reported and counts as missing.
    #[must_use]
    pub fn finished(&self) -> Option<Finished> {
        let path = self.folder.join("model.safetensors");
        if !path.exists() {
            return None;
        }
        let read = || -> Result<Finished> {
            let bytes = opt_artifact::load(&path)?;
            let provenance = opt_artifact::inspect(&bytes)?.provenance;
            self.check_key(provenance.get(KEY))?;
            let epochs = provenance
                .get(EPOCHS)
                .context("it does not say what its epochs were")?;
            Ok(Finished {
                model: opt_artifact::read_model(&bytes)?,
                reports: from_stored(serde_json::from_str(epochs)?),
            })
        };
        let finished = self.sound(&path, read())?;
        // A process that was killed in between has left its state.
        let _ = fs::remove_file(self.folder.join("state.safetensors"));
        Some(finished)
    }

    /// When the phase was finished.
    ///
    /// # Errors
    ///
    /// It is not, or its file has no time.
    pub fn since(&self) -> Result<SystemTime> {
        let path = self.folder.join("model.safetensors");
        fs::metadata(&path)
            .and_then(|file| file.modified())
            .with_context(|| format!("reading the time of {}", path.display()))
    }

    /// Keeps the result of a finished phase and drops its state.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn finish(&self, model: &Model, reports: &[EpochReport]) -> Result<()> {
        let epochs = serde_json::to_string(&to_stored(reports))?;
        let provenance = opt_artifact::Provenance::from([
            (KEY.to_owned(), self.key.clone()),
            (EPOCHS.to_owned(), epochs),
        ]);
        let bytes = opt_artifact::write_model(model, &provenance)?;
        opt_artifact::save(&self.folder.join("model.safetensors"), &bytes)?;
        let state = self.folder.join("state.safetensors");
        if state.exists() {
            fs::remove_file(&state).with_context(|| format!("removing {}", state.display()))?;
        }
        Ok(())
    }

    /// The state after the last whole epoch, if the phase was stopped. A damaged one is reported and counts as missing.
    #[must_use]
    pub fn state(&self) -> Option<TrainState> {
        let path = self.folder.join("state.safetensors");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => return self.sound(&path, Err(error.into())),
        };
        self.sound(&path, self.decode(&bytes))
    }

    /// Keeps the state after an epoch in place of the one before.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn keep(&self, state: &TrainState) -> Result<()> {
        let path = self.folder.join("state.safetensors");
        Ok(opt_artifact::save(&path, &self.encode(state)?)?)
    }

    /// A file that lies here and belongs elsewhere was copied, or is of an older version.
    fn check_key(&self, found: Option<&String>) -> Result<()> {
        match found {
            Some(key) if *key == self.key => Ok(()),
            Some(key) => bail!("it belongs to the phase {key}"),
            None => bail!("it does not say which phase it belongs to"),
        }
    }

    fn encode(&self, state: &TrainState) -> Result<Vec<u8>> {
        let bytes: Vec<(String, Vec<u8>)> = state
            .optimizer
            .buffers
            .iter()
            .map(|(name, values)| {
                let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                (name.clone(), bytes)
            })
            .collect();
        let views = bytes
            .iter()
            .map(|(name, bytes)| {
                let view = TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes)?;
                Ok((name.clone(), view))
            })
            .collect::<Result<Vec<_>>>()?;
        let steps = state.optimizer.steps.to_string();
        let epochs = serde_json::to_string(&to_stored(&state.reports))?;
        let metadata = HashMap::from([
            (
                "checksum".to_owned(),
                checksum(&self.key, &steps, &epochs, &bytes),
            ),
            (KEY.to_owned(), self.key.clone()),
            ("steps".to_owned(), steps),
            (EPOCHS.to_owned(), epochs),
        ]);
        Ok(safetensors::serialize(views, Some(metadata))?)
    }

    fn decode(&self, bytes: &[u8]) -> Result<TrainState> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let Some(metadata) = header.metadata() else {
            bail!("it has no metadata");
        };
        let text = |name: &str| {
            let found = metadata.get(name);
            found.with_context(|| format!("its metadata has no `{name}`"))
        };
        self.check_key(metadata.get(KEY))?;
        let mut tensors: Vec<(String, Vec<u8>)> = SafeTensors::deserialize(bytes)?
            .iter()
            .map(|(name, view)| (name.to_owned(), view.data().to_vec()))
            .collect();
        tensors.sort();
        let (steps, epochs) = (text("steps")?, text(EPOCHS)?);
        ensure!(
            *text("checksum")? == checksum(&self.key, steps, epochs, &tensors),
            "its content does not have its checksum"
        );
        if let Some((name, _)) = tensors.iter().find(|(_, bytes)| bytes.len() % 4 != 0) {
            bail!("`{name}` is not of 32-bit floats");
        }
        let buffers = tensors
            .into_iter()
            .map(|(name, bytes)| {
                let values = bytes
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect();
                (name, values)
            })
            .collect();
        Ok(TrainState {
            reports: from_stored(serde_json::from_str(epochs)?),
            optimizer: OptimizerState {
                steps: steps.parse()?,
                buffers,
            },
        })
    }

    fn sound<T>(&self, path: &Path, read: Result<T>) -> Option<T> {
        read.inspect_err(|error| {
            eprintln!(
                "  {} cannot be used ({error:#}); this phase is trained again",
                path.display()
            );
        })
        .ok()
    }
}

/// Where a file's metadata has the key of its phase.
const KEY: &str = "phase";

/// Where a file's metadata has the epochs.
const EPOCHS: &str = "epochs";

/// Over everything that a state holds; `tensors` are in the order of their names.
fn checksum(key: &str, steps: &str, epochs: &str, tensors: &[(String, Vec<u8>)]) -> String {
    let mut content = format!("{key}\n{steps}\n{epochs}\n").into_bytes();
    for (name, bytes) in tensors {
        content.extend(format!("{name} {}\n", bytes.len()).into_bytes());
        content.extend(bytes);
    }
    identity::hash(&content)
}

fn to_stored(reports: &[EpochReport]) -> Vec<StoredEpoch> {
    reports
        .iter()
        .map(|r| StoredEpoch {
            epoch: r.epoch,
            terms: r.terms.clone(),
            train_top1: r.train_top1,
            lr: r.lr,
            images_per_second: r.images_per_second,
            seconds: r.seconds,
        })
        .collect()
}

fn from_stored(stored: Vec<StoredEpoch>) -> Vec<EpochReport> {
    stored
        .into_iter()
        .map(|r| EpochReport {
            epoch: r.epoch,
            terms: r.terms,
            train_top1: r.train_top1,
            lr: r.lr,
            images_per_second: r.images_per_second,
            seconds: r.seconds,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use opt_core::{Task, zoo};

    fn reports() -> Vec<EpochReport> {
        vec![EpochReport {
            epoch: 0,
            // Thirds and a subnormal: numbers that a sloppy text form would change.
            terms: vec![("ce".to_owned(), 1.0 / 3.0), ("kd".to_owned(), 5e-324)],
            train_top1: 100.0 / 7.0,
            lr: 0.1,
            images_per_second: 1234.5,
            seconds: 6.7,
        }]
    }

    fn state() -> TrainState {
        TrainState {
            reports: reports(),
            optimizer: OptimizerState {
                steps: u64::MAX,
                buffers: [
                    ("weights".to_owned(), vec![1.0, -0.0, f32::MIN_POSITIVE]),
                    ("statistic.a".to_owned(), vec![]),
                ]
                .into(),
            },
        }
    }

    #[test]
    fn a_stopped_phase_is_found_and_a_finished_one_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::default().with("seed", 1);
        let model = zoo::build("airbench_1_1_1", &Task::cifar10(), 0).unwrap();
        {
            let entry = CacheEntry::open_in(dir.path(), &identity).unwrap();
            assert!(entry.finished().is_none() && entry.state().is_none());
            entry.keep(&state()).unwrap();
        }
        let entry = CacheEntry::open_in(dir.path(), &identity).unwrap();
        assert_eq!(entry.state().unwrap(), state());
        assert!(entry.finished().is_none());
        entry.finish(&model, &reports()).unwrap();
        assert!(entry.state().is_none());
        let finished = entry.finished().unwrap();
        assert_eq!((finished.model, finished.reports), (model, reports()));
        // Another identity has a place of its own.
        let other = CacheEntry::open_in(dir.path(), &identity.with("seed", 2)).unwrap();
        assert!(other.finished().is_none() && other.state().is_none());
    }

    #[test]
    fn a_file_of_another_phase_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let at =
            |seed: u64| CacheEntry::open_in(dir.path(), &Identity::default().with("seed", seed));
        let (one, other) = (at(1).unwrap(), at(2).unwrap());
        let model = zoo::build("airbench_1_1_1", &Task::cifar10(), 0).unwrap();
        let copy = |name: &str| {
            fs::copy(one.folder.join(name), other.folder.join(name)).unwrap();
        };
        one.keep(&state()).unwrap();
        copy("state.safetensors");
        assert!(one.state().is_some() && other.state().is_none());
        one.finish(&model, &reports()).unwrap();
        copy("model.safetensors");
        assert!(one.finished().is_some() && other.finished().is_none());
        // The text beside it does not make it right, and is set right when the place is opened again.
        copy("identity.txt");
        drop(other);
        let other = at(2).unwrap();
        assert!(other.finished().is_none());
        let text = fs::read_to_string(other.folder.join("identity.txt")).unwrap();
        assert!(text.ends_with("seed: 2\n"), "{text}");
    }

    #[test]
    fn what_an_older_version_kept_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::default();
        let model = zoo::build("airbench_1_1_1", &Task::cifar10(), 0).unwrap();
        // The first version: no folder of the format, and no key in the file.
        let old = dir.path().join("trained").join(identity.hash());
        fs::create_dir_all(&old).unwrap();
        let epochs = serde_json::to_string(&to_stored(&reports())).unwrap();
        let provenance = opt_artifact::Provenance::from([(EPOCHS.to_owned(), epochs)]);
        let bytes = opt_artifact::write_model(&model, &provenance).unwrap();
        fs::write(old.join("model.safetensors"), &bytes).unwrap();
        fs::write(old.join("identity.txt"), "old").unwrap();
        let entry = CacheEntry::open_in(dir.path(), &identity).unwrap();
        assert!(entry.finished().is_none());
        assert_eq!(fs::read(old.join("model.safetensors")).unwrap(), bytes);
        assert_eq!(fs::read_dir(&old).unwrap().count(), 2);
        // Moved to where the new ones are.
        fs::write(entry.folder.join("model.safetensors"), &bytes).unwrap();
        assert!(entry.finished().is_none());
        entry.finish(&model, &reports()).unwrap();
        assert!(entry.finished().is_some());
    }

    #[test]
    fn of_two_runs_at_once_the_second_gets_the_result_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let first = CacheEntry::open_in(&path, &Identity::default()).unwrap();
        let second = std::thread::spawn(move || {
            let entry = CacheEntry::open_in(&path, &Identity::default()).unwrap();
            entry.finished()
        });
        let model = zoo::build("airbench_1_1_1", &Task::cifar10(), 0).unwrap();
        first.finish(&model, &reports()).unwrap();
        drop(first);
        assert_eq!(second.join().unwrap().unwrap().model, model);
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_named_with_the_mend() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("file");
        fs::write(&cache, "").unwrap();
        let error = CacheEntry::open_in(&cache, &Identity::default()).unwrap_err();
        let error = format!("{error:#}");
        let place = cache.join("trained").display().to_string();
        assert!(
            error.contains(&place) && error.contains("OPT_CACHE_DIR"),
            "{error}"
        );
    }

    #[test]
    fn damaged_files_count_as_missing() {
        let dir = tempfile::tempdir().unwrap();
        let entry = CacheEntry::open_in(dir.path(), &Identity::default()).unwrap();
        entry.keep(&state()).unwrap();
        let path = entry.folder.join("state.safetensors");
        let whole = fs::read(&path).unwrap();
        for cut in [0, 7, 40, whole.len() - 1] {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(entry.state().is_none(), "cut to {cut} bytes");
        }
        // One bit of one number.
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(&path, &flipped).unwrap();
        assert!(entry.state().is_none());
        fs::write(&path, &whole).unwrap();
        assert_eq!(entry.state().unwrap(), state());

        let model = zoo::build("airbench_1_1_1", &Task::cifar10(), 0).unwrap();
        entry.finish(&model, &reports()).unwrap();
        let path = entry.folder.join("model.safetensors");
        let mut whole = fs::read(&path).unwrap();
        *whole.last_mut().unwrap() ^= 1;
        fs::write(&path, &whole).unwrap();
        assert!(entry.finished().is_none());
    }
}

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

/// The place of one phase in the cache: `trained/HASH/` with `identity.txt` (what it follows from), `state.safetensors`
/// while it runs and `model.safetensors` when it is done, both with their epochs and a checksum. Held by one process at a
/// time.
#[derive(Debug)]
pub struct Slot {
    folder: PathBuf,
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

impl Slot {
    /// Opens the place of a phase; waits while another process trains the same.
    ///
    /// # Errors
    ///
    /// The cache folder cannot be written.
    pub fn open(identity: &Identity) -> Result<Self> {
        Self::open_in(&cache::folder()?, identity)
    }

    fn open_in(cache: &Path, identity: &Identity) -> Result<Self> {
        let folder = cache.join("trained").join(identity.hash());
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
            if !text.exists() {
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
        let provenance = opt_artifact::Provenance::from([(EPOCHS.to_owned(), epochs)]);
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
        self.sound(&path, decode(&bytes))
    }

    /// Keeps the state after an epoch in place of the one before.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn keep(&self, state: &TrainState) -> Result<()> {
        let path = self.folder.join("state.safetensors");
        Ok(opt_artifact::save(&path, &encode(state)?)?)
    }

    fn sound<T>(&self, path: &Path, read: Result<T>) -> Option<T> {
        read.inspect_err(|error| {
            eprintln!(
                "  {} is damaged ({error:#}); this phase is trained again",
                path.display()
            );
        })
        .ok()
    }
}

fn encode(state: &TrainState) -> Result<Vec<u8>> {
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
        ("checksum".to_owned(), checksum(&steps, &epochs, &bytes)),
        ("steps".to_owned(), steps),
        (EPOCHS.to_owned(), epochs),
    ]);
    Ok(safetensors::serialize(views, Some(metadata))?)
}

fn decode(bytes: &[u8]) -> Result<TrainState> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let Some(metadata) = header.metadata() else {
        bail!("it has no metadata");
    };
    let text = |name: &str| {
        let found = metadata.get(name);
        found.with_context(|| format!("its metadata has no `{name}`"))
    };
    let mut tensors: Vec<(String, Vec<u8>)> = SafeTensors::deserialize(bytes)?
        .iter()
        .map(|(name, view)| (name.to_owned(), view.data().to_vec()))
        .collect();
    tensors.sort();
    let (steps, epochs) = (text("steps")?, text(EPOCHS)?);
    ensure!(
        *text("checksum")? == checksum(steps, epochs, &tensors),
        "its content does not have its checksum"
    );
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

/// The key of the epochs in a file's metadata.
const EPOCHS: &str = "epochs";

/// Over everything that a state holds; `tensors` are in the order of their names.
fn checksum(steps: &str, epochs: &str, tensors: &[(String, Vec<u8>)]) -> String {
    let mut content = format!("{steps}\n{epochs}\n").into_bytes();
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
    use opt_core::{InputSpec, zoo};

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
        let model = zoo::build("airbench_1_1_1", &InputSpec::cifar10(), 0).unwrap();
        {
            let slot = Slot::open_in(dir.path(), &identity).unwrap();
            assert!(slot.finished().is_none() && slot.state().is_none());
            slot.keep(&state()).unwrap();
        }
        let slot = Slot::open_in(dir.path(), &identity).unwrap();
        assert_eq!(slot.state().unwrap(), state());
        assert!(slot.finished().is_none());
        slot.finish(&model, &reports()).unwrap();
        assert!(slot.state().is_none());
        let finished = slot.finished().unwrap();
        assert_eq!((finished.model, finished.reports), (model, reports()));
        // Another identity has a place of its own.
        let other = Slot::open_in(dir.path(), &identity.with("seed", 2)).unwrap();
        assert!(other.finished().is_none() && other.state().is_none());
    }

    #[test]
    fn damaged_files_count_as_missing() {
        let dir = tempfile::tempdir().unwrap();
        let slot = Slot::open_in(dir.path(), &Identity::default()).unwrap();
        slot.keep(&state()).unwrap();
        let path = slot.folder.join("state.safetensors");
        let whole = fs::read(&path).unwrap();
        for cut in [0, 7, 40, whole.len() - 1] {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(slot.state().is_none(), "cut to {cut} bytes");
        }
        // One bit of one number.
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(&path, &flipped).unwrap();
        assert!(slot.state().is_none());
        fs::write(&path, &whole).unwrap();
        assert_eq!(slot.state().unwrap(), state());

        let model = zoo::build("airbench_1_1_1", &InputSpec::cifar10(), 0).unwrap();
        slot.finish(&model, &reports()).unwrap();
        let path = slot.folder.join("model.safetensors");
        let mut whole = fs::read(&path).unwrap();
        *whole.last_mut().unwrap() ^= 1;
        fs::write(&path, &whole).unwrap();
        assert!(slot.finished().is_none());
    }
}

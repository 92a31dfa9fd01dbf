//! The folder of a run: held by one process at a time, and what an earlier, stopped run left in it.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use opt_report::{
    Correct, CurvePoint, DatasetInfo, LayerLine, ResultLine, RunInfo, append_line, read_lines,
    write_atomic,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::identity;
use crate::run::Request;

/// A run's folder. `results.jsonl` and `curves.jsonl` grow line by line; what a later run no longer has leaves them at its
/// end for `superseded.jsonl`.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Lines of earlier runs by their key.
    known: BTreeMap<String, ResultLine>,
    curves: Vec<CurvePoint>,
    layers: Vec<LayerLine>,
    correct: Vec<Correct>,
    _lock: File,
}

/// A variant's answer to every test image, beside the model's file under `answers/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// The key of its line.
    pub key: String,
    /// A hash of the model's file, by [`crate::identity::hash`].
    pub file: String,
    /// The class for each test image, in order.
    pub answers: Vec<i64>,
}

impl Folder {
    /// Makes the folder and holds it until the process ends.
    ///
    /// # Errors
    ///
    /// Another run is at work in it, or it cannot be written.
    pub fn lock(path: &Path) -> Result<Self> {
        let open = || -> Result<File> {
            fs::create_dir_all(path.join("models"))?;
            let mut file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path.join(".lock"))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    file.read_to_string(&mut holder)?;
                    bail!(
                        "{} is in use by another run (process {}); wait for it, or name another folder with --out",
                        path.display(),
                        holder.trim()
                    );
                }
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())?;
            for folder in ["", "models", "answers"] {
                sweep(&path.join(folder));
            }
            Ok(file)
        };
        let lock = open().with_context(|| format!("taking the folder {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            known: BTreeMap::new(),
            curves: Vec::new(),
            layers: Vec::new(),
            correct: Vec::new(),
            _lock: lock,
        })
    }

    /// Reads what an earlier run left. `None` if this is the first.
    ///
    /// # Errors
    ///
    /// Results of another profile, recipe or data: nothing is touched.
    pub fn earlier(&mut self, request: &Request, data: &DatasetInfo) -> Result<Option<RunInfo>> {
        let at = |name: &str| self.path.join(name);
        let text = match fs::read(at("run.json")) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("reading {}", at("run.json").display()));
            }
            text => text.ok(),
        };
        let Some(text) = text else {
            ensure!(
                !at("results.jsonl").exists() && !at("curves.jsonl").exists(),
                "{} holds results without a run.json; name another folder with --out, or move this one away",
                self.path.display()
            );
            return Ok(None);
        };
        let info: RunInfo = serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is not a run of this program; name another folder with --out, or move this one away",
                at("run.json").display()
            )
        })?;
        let names = |recipes: &[opt_report::RecipeText]| -> Vec<String> {
            recipes.iter().map(|r| r.name.clone()).collect()
        };
        let part = |shard: &Option<opt_report::Shard>| match shard {
            Some(shard) => format!("{} of {}", shard.part, shard.of),
            None => "the whole".to_owned(),
        };
        for (what, found, expected) in [
            ("part", &part(&info.shard), &part(&request.shard)),
            ("profile", &info.profile, &request.profile),
            (
                "recipe",
                &names(&info.recipes).join(", "),
                &names(&request.recipes).join(", "),
            ),
            ("data", &info.dataset.name, &data.name),
            ("split of the data", &info.dataset.split, &data.split),
            ("images", &info.dataset.hash, &data.hash),
        ] {
            ensure!(
                found == expected,
                "{} already holds results of another run: its {what} is `{found}`, now it would be `{expected}`; name \
                 another folder with --out, or move this one away",
                self.path.display()
            );
        }
        let dropped = info
            .experiments
            .iter()
            .find(|e| !request.experiments.contains(e));
        if let Some(experiment) = dropped {
            bail!(
                "{} also holds results of the experiment `{experiment}`, which this run would push aside; name another \
                 folder with --out, or run `all` (what is done is not done again)",
                self.path.display()
            );
        }
        // Of two lines with one key, that of `results.jsonl` stays.
        for lines in [
            read_lines::<ResultLine>(&at("superseded.jsonl"))?,
            read_lines(&at("results.jsonl"))?,
        ] {
            if let Some(torn) = lines.torn {
                eprintln!("  {torn}");
            }
            let keyed = lines.values.into_iter().filter(|l| !l.key.is_empty());
            self.known.extend(keyed.map(|l| (l.key.clone(), l)));
        }
        let curves = read_lines(&at("curves.jsonl"))?;
        if let Some(torn) = curves.torn {
            eprintln!("  {torn}");
        }
        self.curves = curves.values;
        self.layers = read_lines(&at("layers.jsonl"))?.values;
        self.correct = read_lines(&at("correct.jsonl"))?.values;
        eprintln!(
            "going on in {}, which has {} measured variants",
            self.path.display(),
            self.known.len()
        );
        Ok(Some(info))
    }

    /// The line with this key and the variant's answers, if its files are there.
    #[must_use]
    pub fn known(&self, key: &str) -> Option<(ResultLine, Vec<i64>)> {
        let line = self.known.get(key)?;
        let model = fs::read(self.path.join(&line.file)).ok()?;
        let answers = fs::read(self.path.join(answers_file(line))).ok()?;
        let answers: Answers = serde_json::from_slice(&answers).ok()?;
        let sound = answers.key == key
            && answers.file == identity::hash(&model)
            && answers.answers.len() as u64 == line.n_test;
        if !sound {
            // Another recipe may have been measured under this name since.
            eprintln!(
                "  {} is not the file that was measured; it is written and measured again",
                self.path.join(&line.file).display()
            );
        }
        sound.then(|| (line.clone(), answers.answers))
    }

    /// Writes a line and the answers it stands for.
    ///
    /// # Errors
    ///
    /// A file cannot be read or written.
    pub fn add_line(&self, line: &ResultLine, answers: Vec<i64>) -> Result<()> {
        let model = fs::read(self.path.join(&line.file))
            .with_context(|| format!("reading {} back", line.file))?;
        let answers = Answers {
            key: line.key.clone(),
            file: identity::hash(&model),
            answers,
        };
        let text = serde_json::to_vec(&answers)?;
        write_atomic(&self.path.join(answers_file(line)), &text)?;
        Ok(append_line(&self.path.join("results.jsonl"), line)?)
    }

    /// Writes the points of a phase that are not there yet.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn add_curve(&self, points: &[CurvePoint]) -> Result<()> {
        for point in points.iter().filter(|p| !self.curves.contains(p)) {
            append_line(&self.path.join("curves.jsonl"), point)?;
        }
        Ok(())
    }

    /// Writes the layers of a variant if they are not there yet.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn add_layers(&self, line: &LayerLine) -> Result<()> {
        if self.layers.contains(line) {
            return Ok(());
        }
        Ok(append_line(&self.path.join("layers.jsonl"), line)?)
    }

    /// Writes which images a variant has right if that is not there yet.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn add_correct(&self, line: &Correct) -> Result<()> {
        if self.correct.contains(line) {
            return Ok(());
        }
        Ok(append_line(&self.path.join("correct.jsonl"), line)?)
    }

    /// Ends a run: `results.jsonl`, `curves.jsonl`, `layers.jsonl` and `correct.jsonl` hold its lines in its order; what else
    /// the first three held goes to `superseded.jsonl`, `superseded-curves.jsonl` and `superseded-layers.jsonl`.
    ///
    /// # Errors
    ///
    /// A file cannot be read or written.
    pub fn tidy(
        &self,
        lines: &[ResultLine],
        curves: &[CurvePoint],
        layers: &[LayerLine],
        correct: &[Correct],
    ) -> Result<()> {
        write_lines(&self.path.join("correct.jsonl"), correct)?;
        let lines = self.keep_only("results.jsonl", "superseded.jsonl", lines)?;
        self.keep_only("curves.jsonl", "superseded-curves.jsonl", curves)?;
        self.keep_only("layers.jsonl", "superseded-layers.jsonl", layers)?;
        if lines > 0 {
            eprintln!(
                "{lines} lines of {} belong to no variant of this run any more; they are in superseded.jsonl now",
                self.path.join("results.jsonl").display()
            );
        }
        Ok(())
    }

    /// Makes `name` hold `values`, appends what else it held to `rest`, and returns how much that was.
    fn keep_only<T>(&self, name: &str, rest: &str, values: &[T]) -> Result<usize>
    where
        T: Serialize + DeserializeOwned + PartialEq,
    {
        let (name, rest) = (self.path.join(name), self.path.join(rest));
        let written = read_lines::<T>(&name)?.values;
        if written == values {
            return Ok(0);
        }
        // What an earlier process had moved before it was stopped is there already.
        let moved = read_lines::<T>(&rest)?.values;
        let left: Vec<&T> = written.iter().filter(|v| !values.contains(v)).collect();
        for value in left.iter().filter(|v| !moved.contains(v)) {
            append_line(&rest, value)?;
        }
        write_lines(&name, values)?;
        Ok(left.len())
    }
}

fn write_lines<T: Serialize>(path: &Path, values: &[T]) -> Result<()> {
    let mut text = Vec::new();
    for value in values {
        serde_json::to_writer(&mut text, value)?;
        text.push(b'\n');
    }
    Ok(write_atomic(path, &text)?)
}

/// Removes what a process that was killed while it wrote has left in a folder.
pub(crate) fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") {
            // It is in nobody's way if it stays.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// `answers/…json` beside `models/…`.
fn answers_file(line: &ResultLine) -> PathBuf {
    let file = Path::new(&line.file);
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".json");
    Path::new("answers").join(name)
}

#[cfg(test)]
mod tests {
    use opt_report::sample::{sample_curves, sample_layers, sample_lines};

    use super::*;

    fn folder(path: &Path) -> Folder {
        let mut folder = Folder::lock(path).unwrap();
        let lines = read_lines::<ResultLine>(&path.join("results.jsonl")).unwrap();
        folder.known = lines
            .values
            .into_iter()
            .map(|l| (l.key.clone(), l))
            .collect();
        folder
    }

    fn line(key: &str) -> ResultLine {
        let mut line = sample_lines()[0].clone();
        (line.key, line.n_test) = (key.to_owned(), 3);
        line.file = format!("models/{key}.safetensors");
        line
    }

    #[test]
    fn a_line_is_known_while_its_files_are_those_that_were_measured() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let line = line("a");
        let model = path.join(&line.file);
        {
            let folder = folder(path);
            fs::write(&model, b"model").unwrap();
            folder.add_line(&line, vec![1, 2, 3]).unwrap();
        }
        let known = |key: &str| folder(path).known(key);
        assert_eq!(known("a"), Some((line.clone(), vec![1, 2, 3])));
        assert_eq!(known("b"), None);
        // Another model of the same size under the same name.
        fs::write(&model, b"modem").unwrap();
        assert_eq!(known("a"), None);
        fs::write(&model, b"model").unwrap();
        assert!(known("a").is_some());
        // Answers for fewer images, and none.
        let answers = path.join(answers_file(&line));
        let text = fs::read_to_string(&answers).unwrap();
        fs::write(&answers, text.replace("[1,2,3]", "[1,2]")).unwrap();
        assert_eq!(known("a"), None);
        fs::remove_file(&answers).unwrap();
        assert_eq!(known("a"), None);
    }

    #[test]
    fn the_end_orders_lines_and_moves_others_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let folder = folder(path);
        let [a, b, c] = ["a", "b", "c"].map(line);
        for line in [&c, &b, &a] {
            append_line(&path.join("results.jsonl"), line).unwrap();
        }
        let curves = sample_curves();
        for point in &curves {
            append_line(&path.join("curves.jsonl"), point).unwrap();
        }
        let read = |name: &str| read_lines::<ResultLine>(&path.join(name)).unwrap().values;
        let now = [a.clone(), b.clone()];
        // A, then B, then A again: the layers of A are there already, and the report takes the last of a name.
        let layers = sample_layers();
        for line in [&layers[0], &layers[1]] {
            folder.add_layers(line).unwrap();
        }
        folder.tidy(&now, &curves[1..], &layers[..1], &[]).unwrap();
        let kept = read_lines::<LayerLine>(&path.join("layers.jsonl")).unwrap();
        assert_eq!(kept.values, layers[..1]);
        assert_eq!(read("results.jsonl"), now);
        assert_eq!(read("superseded.jsonl"), vec![c.clone()]);
        let moved = read_lines::<CurvePoint>(&path.join("superseded-curves.jsonl")).unwrap();
        assert_eq!(moved.values, curves[..1]);
        // A process that was stopped between the two writes does it again, and nothing is doubled.
        append_line(&path.join("results.jsonl"), &c).unwrap();
        folder.tidy(&now, &curves[1..], &layers[..1], &[]).unwrap();
        assert_eq!(read("superseded.jsonl"), [c]);
    }

    #[test]
    fn what_a_killed_process_was_writing_is_swept_away() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".run.json.1-0.tmp"), b"").unwrap();
        fs::write(dir.path().join("kept.tmp"), b"").unwrap();
        let _folder = Folder::lock(dir.path()).unwrap();
        assert!(!dir.path().join(".run.json.1-0.tmp").exists());
        assert!(dir.path().join("kept.tmp").exists());
    }
}

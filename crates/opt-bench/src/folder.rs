//! The folder of a run: held by one process at a time, and what an earlier, stopped run left in it.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::results::{
    CurvePoint, DatasetInfo, ResultLine, RunInfo, append_line, read_lines, write_atomic,
};
use crate::run::Request;

/// A run's folder. `results.jsonl` and `curves.jsonl` grow line by line; what a later run no longer has leaves them at its
/// end for `superseded.jsonl`.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Lines of earlier runs by their key.
    known: BTreeMap<String, ResultLine>,
    curves: Vec<CurvePoint>,
    _lock: File,
}

/// A variant's answer to every test image, beside the model's file under `answers/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// The key of its line.
    pub key: String,
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
        let open = || -> Result<Option<File>> {
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
            Ok(Some(file))
        };
        let lock = open().with_context(|| format!("taking the folder {}", path.display()))?;
        let lock = lock.context("no lock")?;
        Ok(Self {
            path: path.to_owned(),
            known: BTreeMap::new(),
            curves: Vec::new(),
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
        let Ok(text) = fs::read(at("run.json")) else {
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
        let names = |recipes: &[crate::results::RecipeText]| -> Vec<String> {
            recipes.iter().map(|r| r.name.clone()).collect()
        };
        for (what, found, expected) in [
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
        for lines in [
            read_lines::<ResultLine>(&at("results.jsonl"))?,
            read_lines(&at("superseded.jsonl"))?,
        ] {
            if let Some(torn) = lines.torn {
                eprintln!("  {torn}");
            }
            let keyed = lines.values.into_iter().filter(|l| !l.key.is_empty());
            self.known.extend(keyed.map(|l| (l.key.clone(), l)));
        }
        self.curves = read_lines(&at("curves.jsonl"))?.values;
        eprintln!(
            "going on in {}: {} variants are measured already",
            self.path.display(),
            self.known.len()
        );
        Ok(Some(info))
    }

    /// The line with this key and the variant's answers, if its files are there.
    #[must_use]
    pub fn known(&self, key: &str) -> Option<(ResultLine, Vec<i64>)> {
        let line = self.known.get(key)?;
        let model = fs::metadata(self.path.join(&line.file)).ok()?;
        let answers = fs::read(self.path.join(answers_file(line))).ok()?;
        let answers: Answers = serde_json::from_slice(&answers).ok()?;
        let sound = model.len() == line.bytes && answers.key == key;
        sound.then(|| (line.clone(), answers.answers))
    }

    /// Writes a line and the answers it stands for.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn add_line(&mut self, line: &ResultLine, answers: &Answers) -> Result<()> {
        let text = serde_json::to_vec(answers)?;
        write_atomic(&self.path.join(answers_file(line)), &text)?;
        append_line(&self.path.join("results.jsonl"), line)
    }

    /// Writes the points of a phase that are not there yet.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn add_curve(&mut self, points: &[CurvePoint]) -> Result<()> {
        for point in points.iter().filter(|p| !self.curves.contains(p)) {
            append_line(&self.path.join("curves.jsonl"), point)?;
        }
        Ok(())
    }

    /// Ends a run: `results.jsonl` and `curves.jsonl` hold its lines in its order; other lines go to `superseded.jsonl`.
    ///
    /// # Errors
    ///
    /// A file cannot be read or written.
    pub fn tidy(&self, lines: &[ResultLine], curves: &[CurvePoint]) -> Result<()> {
        let at = |name: &str| self.path.join(name);
        let written = read_lines::<ResultLine>(&at("results.jsonl"))?.values;
        if written != lines {
            for line in written.iter().filter(|line| !lines.contains(line)) {
                append_line(&at("superseded.jsonl"), line)?;
            }
            write_lines(&at("results.jsonl"), lines)?;
        }
        if read_lines::<CurvePoint>(&at("curves.jsonl"))?.values != curves {
            write_lines(&at("curves.jsonl"), curves)?;
        }
        Ok(())
    }
}

fn write_lines<T: Serialize>(path: &Path, values: &[T]) -> Result<()> {
    let mut text = Vec::new();
    for value in values {
        serde_json::to_writer(&mut text, value)?;
        text.push(b'\n');
    }
    write_atomic(path, &text)
}

/// `answers/…json` beside `models/…`.
fn answers_file(line: &ResultLine) -> PathBuf {
    let file = Path::new(&line.file);
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".json");
    Path::new("answers").join(name)
}

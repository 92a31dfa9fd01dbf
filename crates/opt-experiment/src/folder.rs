//! The folder of a run: held by one process at a time, and what an earlier, stopped run left in it.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use opt_report::{
    Correct, CurvePoint, DataSource, DatasetInfo, LayerLine, RecipeText, ResultLine, RunInfo,
    Shard, append_line, read_lines, write_atomic,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::identity;

/// What is asked of a run, before anything is trained.
#[derive(Debug, Clone)]
pub struct Request {
    /// The folder; may hold results of the same profile and data.
    pub out: PathBuf,
    /// The profile's name, or `train`.
    pub profile: String,
    /// The experiments.
    pub experiments: Vec<String>,
    /// The recipes with all defaults filled in.
    pub recipes: Vec<RecipeText>,
    /// The arithmetic of training: `bf16 NHWC`.
    pub precision: String,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// The part of a run that this is, if it is one.
    pub shard: Option<Shard>,
    /// The repository, for the commit.
    pub root: PathBuf,
}

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
    /// If it had more or fewer images of the same data, what follows from their number leaves the files at once, so that no
    /// report mixes the two.
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
        // Synthetic images are made in the number that is taken of other ones; the first are the same.
        let before = info.dataset.clone();
        let other_number = counts(&before) != counts(data);
        let made_anew = other_number && data.source == DataSource::Synthetic;
        let names = |recipes: &[RecipeText]| -> Vec<String> {
            recipes.iter().map(|r| r.name.clone()).collect()
        };
        let part = |shard: &Option<Shard>| match shard {
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
            ("data", &before.name, &data.name),
            (
                "data's source",
                &format!("{:?}", before.source),
                &format!("{:?}", data.source),
            ),
            ("split of the data", &uncounted(&before), &uncounted(data)),
            (
                "images",
                if made_anew { &data.hash } else { &before.hash },
                &data.hash,
            ),
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
        if other_number {
            self.make_way(&before, data)?;
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

    /// Empties the files of what follows from another number of images, and says what is done again.
    fn make_way(&self, before: &DatasetInfo, now: &DatasetInfo) -> Result<()> {
        let trained = before.n_train != now.n_train;
        let again = match (trained, before.n_test != now.n_test) {
            (true, true) => "everything is trained, calibrated and measured again",
            (true, false) => "what was trained or calibrated on them is done again",
            (false, _) => "trained networks stay, and every variant is measured again",
        };
        eprintln!(
            "{} training and {} test images in place of {} and {}: {again}; the lines of before are in superseded.jsonl",
            now.n_train, now.n_test, before.n_train, before.n_test
        );
        self.keep_only::<ResultLine>("results.jsonl", "superseded.jsonl", &[])?;
        if self.path.join("correct.jsonl").exists() {
            write_lines::<Correct>(&self.path.join("correct.jsonl"), &[])?;
        }
        // These know nothing of test images.
        if trained {
            self.keep_only::<CurvePoint>("curves.jsonl", "superseded-curves.jsonl", &[])?;
            self.keep_only::<LayerLine>("layers.jsonl", "superseded-layers.jsonl", &[])?;
        }
        Ok(())
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

    /// Makes `name` hold `values`, appends what else it held to `rest`, and returns how much that was. What has come back
    /// from `rest` leaves it.
    fn keep_only<T>(&self, name: &str, rest: &str, values: &[T]) -> Result<usize>
    where
        T: Serialize + DeserializeOwned + PartialEq,
    {
        let (name, rest) = (self.path.join(name), self.path.join(rest));
        let written = read_lines::<T>(&name)?.values;
        // What an earlier process had moved before it was stopped is there already.
        let moved = read_lines::<T>(&rest)?.values;
        let left: Vec<&T> = written.iter().filter(|v| !values.contains(v)).collect();
        for value in left.iter().filter(|v| !moved.contains(v)) {
            append_line(&rest, value)?;
        }
        if written != values {
            write_lines(&name, values)?;
        }
        if moved.iter().any(|v| values.contains(v)) {
            let mut still = read_lines::<T>(&rest)?.values;
            still.retain(|v| !values.contains(v));
            write_lines(&rest, &still)?;
        }
        Ok(left.len())
    }
}

fn counts(data: &DatasetInfo) -> (u64, u64) {
    (data.n_train, data.n_test)
}

/// How the data is split, without the numbers of images.
fn uncounted(data: &DatasetInfo) -> String {
    let DatasetInfo {
        n_train, n_test, ..
    } = data;
    let split = data.split.replacen(&format!("{n_train} "), "", 1);
    split.replacen(&format!("{n_test} "), "", 1)
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
    use crate::data::{Data, Limits};
    use crate::experiment::{recipe_stages, run_stages};
    use crate::recipe::Recipe;
    use crate::run::Run;

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
    fn another_number_of_images_repeats_what_follows_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("run");
        let start = |data: &str, train, test, holdout| {
            let limits = Limits {
                train: Some(train),
                test: Some(test),
                holdout,
                ..Limits::default()
            };
            let data = Data::load(data, dir.path(), limits).unwrap();
            let request = Request {
                out: out.clone(),
                profile: "train".to_owned(),
                experiments: vec!["train".to_owned()],
                recipes: Vec::new(),
                precision: String::new(),
                seeds: vec![3],
                shard: None,
                root: dir.path().to_owned(),
            };
            Run::start(request, data, tch::Device::Cpu)
        };
        let read = |name: &str| read_lines::<ResultLine>(&out.join(name)).unwrap().values;
        let count = |name: &str| fs::read_to_string(out.join(name)).unwrap().lines().count();
        // A network as it is, which no training image touches, and one that is calibrated on all of them.
        let text = "name = \"r\"\nmodel = \"airbench_2_2_2\"\n[train]\nepochs = 0\nlr = 0.1\n\
                    [quantize]\ncalibration_images = 1000\n";
        let recipe: Recipe = toml::from_str(text).unwrap();
        let stages = recipe_stages(&recipe).unwrap();
        let run = |train, test| {
            let mut run = start("synthetic", train, test, false).unwrap();
            // Nothing of before is in a report while this run goes on.
            let begun = [
                read("results.jsonl").len(),
                count_or_none(&out.join("correct.jsonl")),
            ];
            run_stages(&mut run, &stages, None).unwrap();
            run.finish().unwrap();
            assert_eq!(read("results.jsonl"), run.lines);
            assert_eq!((count("correct.jsonl"), count("layers.jsonl")), (2, 2));
            (begun, run.lines.clone())
        };
        let (_, first) = run(30, 10);
        // More training images: only the calibrated network is another.
        let (begun, more) = run(40, 10);
        assert_eq!(begun, [0, 0]);
        assert_eq!(more[0], first[0]);
        assert_ne!(more[1].key, first[1].key);
        assert_eq!(read("superseded.jsonl"), first[1..]);
        // Fewer test images: all lines are others.
        let (begun, fewer) = run(40, 8);
        assert_eq!(begun, [0, 0]);
        assert!(fewer.iter().all(|line| line.n_test == 8));
        let before = [&first[1..], &more].concat();
        assert_eq!(read("superseded.jsonl"), before);
        // The same again, and back to the first, whose files have been written over since.
        assert_eq!(run(40, 8), ([2, 2], fewer.clone()));
        let (_, back) = run(30, 10);
        let keys = |lines: &[ResultLine]| lines.iter().map(|l| l.key.clone()).collect::<Vec<_>>();
        assert_eq!(keys(&back), keys(&first));
        // Other data of the same name, and another split, are refused, and nothing is touched.
        let info = out.join("run.json");
        let sound = fs::read_to_string(&info).unwrap();
        let refused = |holdout: bool, expected: &str| {
            let error = start("synthetic", 20, 10, holdout).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(read("results.jsonl"), back);
        };
        refused(
            true,
            "its split of the data is `training images; test images",
        );
        fs::write(&info, sound.replace("\"synthetic\"", "\"official\"")).unwrap();
        refused(false, "its data is `official`");
        fs::write(
            &info,
            sound.replace("\"source\": \"synthetic\"", "\"source\": \"own\""),
        )
        .unwrap();
        refused(false, "its data's source is `Own`");
        fs::write(&info, &sound).unwrap();
        assert!(start("synthetic", 20, 10, false).is_ok());
    }

    fn count_or_none(path: &Path) -> usize {
        fs::read_to_string(path).map_or(0, |text| text.lines().count())
    }

    #[test]
    fn of_real_images_the_hash_is_of_all_and_must_stay() {
        let dir = tempfile::tempdir().unwrap();
        let info = opt_report::sample::sample_run();
        let request = Request {
            out: dir.path().to_owned(),
            profile: info.profile.clone(),
            experiments: info.experiments.clone(),
            recipes: info.recipes.clone(),
            precision: String::new(),
            seeds: vec![0],
            shard: None,
            root: dir.path().to_owned(),
        };
        let mut before = info;
        before.dataset = DatasetInfo {
            source: DataSource::Own,
            hash: "sha256:1".to_owned(),
            n_train: 500,
            n_test: 50,
            split: "500 training images; 50 test images, looked at once".to_owned(),
            ..before.dataset
        };
        let text = serde_json::to_vec(&before).unwrap();
        let fewer = DatasetInfo {
            n_train: 50,
            split: "50 training images; 50 test images, looked at once".to_owned(),
            ..before.dataset.clone()
        };
        let other = DatasetInfo {
            hash: "sha256:2".to_owned(),
            ..fewer.clone()
        };
        let mut folder = Folder::lock(dir.path()).unwrap();
        fs::write(dir.path().join("run.json"), text).unwrap();
        for point in sample_curves() {
            append_line(&dir.path().join("curves.jsonl"), &point).unwrap();
        }
        let error = folder.earlier(&request, &other).unwrap_err().to_string();
        assert!(error.contains("its images is `sha256:1`"), "{error}");
        assert!(!dir.path().join("superseded-curves.jsonl").exists());
        // The curves of other trainings go; with other test images alone they stay.
        let same_trainings = DatasetInfo {
            n_test: 20,
            split: before.dataset.split.replace("50 test", "20 test"),
            ..before.dataset
        };
        assert!(folder.earlier(&request, &same_trainings).unwrap().is_some());
        assert_eq!(folder.curves, sample_curves());
        assert!(folder.earlier(&request, &fewer).unwrap().is_some());
        assert_eq!(folder.curves, []);
        let moved = read_lines::<CurvePoint>(&dir.path().join("superseded-curves.jsonl"));
        assert_eq!(moved.unwrap().values, sample_curves());
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

//! Joins the parts of a run that was divided among machines: what results is the folder of one run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::io_error;
use crate::{
    Correct, CurvePoint, LayerLine, NotRun, ReportError, Result, ResultLine, RunInfo, Shard,
    read_lines, rewrite_report, write_atomic,
};

/// One part: its folder and its conditions.
#[derive(Debug)]
struct Part {
    dir: PathBuf,
    info: RunInfo,
    shard: Shard,
    lines: Vec<ResultLine>,
}

/// Writes into `out` the run whose parts are in `dirs`: its lines in the order of an undivided run, models, answers and the
/// report. A line that several parts have, since others are compared with it, is there once.
///
/// # Errors
///
/// A folder that holds no part, parts of different runs, a part that is missing, twice, or not finished, a line that two
/// parts have and measured differently; `out` holds a run already. Nothing is written then.
pub fn join(dirs: &[PathBuf], out: &Path) -> Result<Vec<PathBuf>> {
    let mut parts = dirs
        .iter()
        .map(|dir| Part::read(dir))
        .collect::<Result<Vec<_>>>()?;
    parts.sort_by_key(|part| part.shard.part);
    check(&parts)?;
    if out.join("run.json").exists() {
        return Err(problem(
            out,
            "it holds a run already; name another folder with --out",
        ));
    }
    let place: BTreeMap<&str, usize> = parts
        .iter()
        .flat_map(|part| part.shard.files.iter().map(String::as_str).zip(0..))
        .collect();
    let mut lines: BTreeMap<usize, (&ResultLine, &Path)> = BTreeMap::new();
    for part in &parts {
        for line in &part.lines {
            let Some(&at) = place.get(stem(&line.file)) else {
                let found = format!("its line `{}` is none of this run", line.file);
                return Err(problem(&part.dir, &found));
            };
            let (first, other) = lines.entry(at).or_insert((line, &part.dir));
            if first.top1.to_bits() != line.top1.to_bits() || first.bytes != line.bytes {
                let found = format!(
                    "`{}` has {:.2} % here and {:.2} % in {}: the machines round differently; run what several parts need on \
                     one kind of machine, or share OPT_CACHE_DIR",
                    line.file,
                    line.top1,
                    first.top1,
                    other.display()
                );
                return Err(problem(&part.dir, &found));
            }
        }
    }
    let lines: Vec<ResultLine> = lines.into_values().map(|(line, _)| line.clone()).collect();
    let at = |experiment: &str, model: &str, variant: &str, seed: u64| {
        let key = (experiment, model, variant, seed);
        let mut keys = lines
            .iter()
            .map(|l| (&*l.experiment, &*l.model, &*l.variant, l.seed));
        keys.position(|known| known == key)
    };
    let curves: Vec<CurvePoint> = merged(&parts, "curves.jsonl", |p: &CurvePoint| {
        at(&p.experiment, &p.model, &p.variant, p.seed)
    })?;
    let layers: Vec<LayerLine> = merged(&parts, "layers.jsonl", |l: &LayerLine| {
        at(&l.experiment, &l.model, &l.variant, l.seed)
    })?;
    let correct: Vec<Correct> = merged(&parts, "correct.jsonl", |c: &Correct| {
        at(&c.experiment, &c.model, &c.variant, c.seed)
    })?;
    write_lines(out, "results.jsonl", &lines)?;
    write_lines(out, "curves.jsonl", &curves)?;
    write_lines(out, "layers.jsonl", &layers)?;
    write_lines(out, "correct.jsonl", &correct)?;
    for part in &parts {
        copy(&part.dir, out)?;
    }
    let mut text = serde_json::to_vec_pretty(&conditions(&parts)).map_err(|source| {
        let what = "run.json".to_owned();
        ReportError::Json { what, source }
    })?;
    text.push(b'\n');
    write_atomic(&out.join("run.json"), &text)?;
    rewrite_report(out)
}

impl Part {
    fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("run.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(source) => return Err(ReportError::NoRun { path, source }),
        };
        let info: RunInfo = serde_json::from_slice(&text)
            .map_err(|source| ReportError::NotConditions { path, source })?;
        let Some(shard) = info.shard.clone() else {
            return Err(problem(
                dir,
                "it is a run of its own, not a part of one (--shard I/N)",
            ));
        };
        if info.finished.is_none() {
            let found = format!("part {} is not finished; run its command again", shard.part);
            return Err(problem(dir, &found));
        }
        let lines = whole_lines(dir, "results.jsonl")?;
        Ok(Self {
            dir: dir.to_owned(),
            info,
            shard,
            lines,
        })
    }

    /// What all parts of one run have alike, with its name.
    fn alike(&self) -> [(&'static str, String); 6] {
        let info = &self.info;
        let recipes = info
            .recipes
            .iter()
            .map(|r| format!("{}\n{}", r.name, r.text));
        [
            ("profile", info.profile.clone()),
            ("recipe", recipes.collect::<Vec<_>>().join("\n")),
            (
                "images",
                format!("{} {}", info.dataset.name, info.dataset.hash),
            ),
            ("split of the data", info.dataset.split.clone()),
            (
                "seeds and experiments",
                format!("{:?} {:?}", info.seeds, info.experiments),
            ),
            (
                "division",
                format!("{} {:?}", self.shard.of, self.shard.files),
            ),
        ]
    }
}

/// Checks that these are all the parts of one run.
fn check(parts: &[Part]) -> Result<()> {
    let [first, rest @ ..] = parts else {
        return Err(problem(Path::new("."), "name the folders of all parts"));
    };
    for part in rest {
        let alike = first.alike().into_iter().zip(part.alike());
        if let Some(((what, _), _)) = alike.into_iter().find(|(a, b)| a != b) {
            let found = format!("its {what} is another than in {}", first.dir.display());
            return Err(problem(&part.dir, &found));
        }
    }
    let of = first.shard.of;
    let numbers: Vec<usize> = parts.iter().map(|part| part.shard.part).collect();
    if numbers != (1..=of).collect::<Vec<_>>() {
        let found =
            format!("the run has the parts 1 to {of}, here are {numbers:?}; name each once");
        return Err(problem(&first.dir, &found));
    }
    let lines = parts.iter().flat_map(|part| &part.lines);
    let mut there: BTreeSet<&str> = lines.map(|line| stem(&line.file)).collect();
    // What diverged is named by the part that tried it.
    let left_out = parts.iter().flat_map(|part| &part.info.not_run);
    there.extend(left_out.filter_map(|n| n.file.as_deref()));
    let mut files = first.shard.files.iter();
    match files.find(|file| !there.contains(file.as_str())) {
        Some(file) => {
            let found = format!("no part has `{file}`; run the command of each part again");
            Err(problem(&first.dir, &found))
        }
        None => Ok(()),
    }
}

/// The conditions of the whole: those of the first part, with what others add.
fn conditions(parts: &[Part]) -> RunInfo {
    let mut whole = parts[0].info.clone();
    whole.shard = None;
    let infos = || parts.iter().map(|part| &part.info);
    whole.started = infos().map(|i| i.started.clone()).min().unwrap_or_default();
    whole.finished = infos().filter_map(|i| i.finished.clone()).max();
    whole.resumed = infos().flat_map(|i| i.resumed.clone()).collect();
    whole.dirty = infos().filter_map(|i| i.dirty).max();
    let mut notes: Vec<String> = Vec::new();
    let mut not_run: Vec<NotRun> = Vec::new();
    for info in infos() {
        for note in &info.notes {
            if !notes.contains(note) {
                notes.push(note.clone());
            }
        }
        for left_out in &info.not_run {
            if !not_run.contains(left_out) {
                not_run.push(left_out.clone());
            }
        }
    }
    notes.push(format!(
        "Joined from {} parts that ran each on its own: {}.",
        parts.len(),
        infos()
            .map(|i| format!(
                "{} with {} threads at {}",
                i.cpu.model,
                i.threads,
                short(&i.commit)
            ))
            .collect::<Vec<_>>()
            .join("; ")
    ));
    whole.notes = notes;
    whole.not_run = not_run;
    whole
}

fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

/// The lines of a file in all parts: those of one place once, from the first part that has it, in the order of places.
/// Lines without a place are left out.
fn merged<T: DeserializeOwned>(
    parts: &[Part],
    name: &str,
    place: impl Fn(&T) -> Option<usize>,
) -> Result<Vec<T>> {
    let mut first_of: BTreeMap<usize, usize> = BTreeMap::new();
    let mut lines: Vec<(usize, T)> = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        for line in whole_lines::<T>(&part.dir, name)? {
            let Some(at) = place(&line) else {
                continue;
            };
            if *first_of.entry(at).or_insert(i) == i {
                lines.push((at, line));
            }
        }
    }
    lines.sort_by_key(|(at, _)| *at);
    Ok(lines.into_iter().map(|(_, line)| line).collect())
}

/// The lines of a file of a finished part: none is cut off.
fn whole_lines<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<Vec<T>> {
    let lines = read_lines(&dir.join(name))?;
    match lines.torn {
        Some(torn) => Err(problem(dir, &format!("{torn}; run its command again"))),
        None => Ok(lines.values),
    }
}

fn write_lines<T: Serialize>(out: &Path, name: &str, lines: &[T]) -> Result<()> {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, line).map_err(|source| {
            let what = format!("a line of {name}");
            ReportError::Json { what, source }
        })?;
        text.push(b'\n');
    }
    write_atomic(&out.join(name), &text)
}

/// Copies models, answers and studies that are not there yet.
fn copy(from: &Path, out: &Path) -> Result<()> {
    for folder in ["models", "answers", ""] {
        let source = from.join(folder);
        if !source.is_dir() {
            continue;
        }
        let target = out.join(folder);
        fs::create_dir_all(&target).map_err(io_error("creating", &target))?;
        for entry in fs::read_dir(&source).map_err(io_error("reading", &source))? {
            let entry = entry.map_err(io_error("reading", &source))?.path();
            let name = entry.file_name().unwrap_or_default();
            let is_study = entry.extension().is_some_and(|e| e == "json") && name != "run.json";
            let to = target.join(name);
            if entry.is_file() && (!folder.is_empty() || is_study) && !to.exists() {
                fs::copy(&entry, &to).map_err(io_error("copying", &entry))?;
            }
        }
    }
    Ok(())
}

/// A model's file without its folder and kind.
fn stem(file: &str) -> &str {
    let name = file.strip_prefix("models/").unwrap_or(file);
    let kinds = [".safetensors", ".opt"];
    kinds
        .iter()
        .find_map(|kind| name.strip_suffix(kind))
        .unwrap_or(name)
}

fn problem(dir: &Path, problem: &str) -> ReportError {
    ReportError::Join {
        dir: dir.to_owned(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::append_line;
    use crate::sample::{sample_curves, sample_layers, sample_lines, sample_run};

    /// The sample's lines, each with a file of its own.
    fn sample() -> Vec<ResultLine> {
        let lines = sample_lines().into_iter().enumerate();
        let named = lines.map(|(i, line)| ResultLine {
            file: format!("models/{i}-s{}.opt", line.seed),
            ..line
        });
        named.collect()
    }

    /// The sample's run in two parts: every other line in each, the baselines in both.
    fn parts(folder: &Path) -> Vec<PathBuf> {
        let lines = sample();
        let files: Vec<String> = lines.iter().map(|l| stem(&l.file).to_owned()).collect();
        (1..=2)
            .map(|part| {
                let dir = folder.join(format!("part {part}"));
                fs::create_dir_all(dir.join("models")).unwrap();
                let of = 2;
                let files = files.clone();
                let shard = Some(Shard { part, of, files });
                let mut info = RunInfo {
                    shard,
                    ..sample_run()
                };
                info.notes.push(format!("of part {part}"));
                let own =
                    |i: usize, line: &ResultLine| line.baseline.is_none() || i % 2 + 1 == part;
                let lines: Vec<ResultLine> = lines
                    .iter()
                    .enumerate()
                    .filter(|(i, line)| own(*i, line))
                    .map(|(_, line)| line.clone())
                    .collect();
                for line in &lines {
                    append_line(&dir.join("results.jsonl"), line).unwrap();
                    fs::write(dir.join("models").join(stem(&line.file)), "model").unwrap();
                }
                let has = |e: &str, v: &str, m: &str, s: u64| {
                    lines
                        .iter()
                        .any(|l| l.experiment == e && l.variant == v && l.model == m && l.seed == s)
                };
                for point in sample_curves() {
                    if has(&point.experiment, &point.variant, &point.model, point.seed) {
                        append_line(&dir.join("curves.jsonl"), &point).unwrap();
                    }
                }
                for layer in sample_layers() {
                    if has(&layer.experiment, &layer.variant, &layer.model, layer.seed) {
                        append_line(&dir.join("layers.jsonl"), &layer).unwrap();
                    }
                }
                fs::write(dir.join("likelihood-x-s0.json"), "{}").unwrap();
                fs::write(dir.join("run.json"), serde_json::to_vec(&info).unwrap()).unwrap();
                dir
            })
            .collect()
    }

    #[test]
    fn two_parts_give_the_report_of_one_run() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("joined");
        let mut parts = parts(folder.path());
        parts.reverse();
        join(&parts, &out).unwrap();
        let lines = read_lines::<ResultLine>(&out.join("results.jsonl"))
            .unwrap()
            .values;
        assert_eq!(lines, sample());
        let curves = read_lines::<CurvePoint>(&out.join("curves.jsonl"))
            .unwrap()
            .values;
        let known = |c: &CurvePoint| {
            lines.iter().any(|l| {
                (&l.experiment, &l.variant, &l.model, l.seed)
                    == (&c.experiment, &c.variant, &c.model, c.seed)
            })
        };
        let expected: Vec<CurvePoint> = sample_curves().into_iter().filter(known).collect();
        let key = |c: &CurvePoint| {
            format!(
                "{} {} {} {} {}",
                c.variant, c.model, c.seed, c.phase, c.epoch
            )
        };
        let sorted = |points: &[CurvePoint]| {
            let mut keys: Vec<String> = points.iter().map(key).collect();
            keys.sort_unstable();
            keys
        };
        assert_eq!(sorted(&curves), sorted(&expected));
        let info: RunInfo =
            serde_json::from_slice(&fs::read(out.join("run.json")).unwrap()).unwrap();
        assert_eq!(info.shard, None);
        let notes = info.notes.join("\n");
        assert!(
            notes.contains("of part 1\n") && notes.contains("of part 2\n"),
            "{notes}"
        );
        assert!(notes.contains("Joined from 2 parts"), "{notes}");
        for file in ["report.html", "likelihood-x-s0.json"] {
            assert!(out.join(file).exists(), "{file}");
        }
        assert_eq!(
            fs::read_dir(out.join("models")).unwrap().count(),
            lines.len()
        );
    }

    #[test]
    fn parts_that_do_not_belong_together_are_named() {
        type Change = fn(&mut RunInfo);
        let changes: [(Change, &str); 6] = [
            (|i| i.shard = None, "not a part of one"),
            (|i| i.finished = None, "part 2 is not finished"),
            (|i| i.profile = "full".to_owned(), "its profile is another"),
            (|i| i.dataset.hash = "x".to_owned(), "its images is another"),
            (|i| i.recipes[0].text += "#", "its recipe is another"),
            (
                |i| i.shard.as_mut().unwrap().part = 1,
                "the run has the parts 1 to 2, here are [1, 1]",
            ),
        ];
        for (change, expected) in changes {
            let folder = tempfile::tempdir().unwrap();
            let parts = parts(folder.path());
            let path = parts[1].join("run.json");
            let mut info: RunInfo = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            change(&mut info);
            fs::write(&path, serde_json::to_vec(&info).unwrap()).unwrap();
            let out = folder.path().join("out");
            let error = join(&parts, &out).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!out.exists(), "{expected}");
        }
        let folder = tempfile::tempdir().unwrap();
        let parts = parts(folder.path());
        let error = join(&parts[..1], &folder.path().join("out"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("here are [1]"), "{error}");
        let error = join(&parts, &parts[0]).unwrap_err().to_string();
        assert!(error.contains("holds a run already"), "{error}");
        // A machine that rounds otherwise.
        let path = parts[1].join("results.jsonl");
        let mut lines = read_lines::<ResultLine>(&path).unwrap().values;
        lines[0].top1 += 0.01;
        write_lines(&parts[1], "results.jsonl", &lines).unwrap();
        let error = join(&parts, &folder.path().join("out"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("round differently"), "{error}");
    }

    #[test]
    fn a_line_is_missing_only_where_its_training_diverged() {
        let folder = tempfile::tempdir().unwrap();
        let parts = parts(folder.path());
        let path = parts[1].join("results.jsonl");
        let mut lines = read_lines::<ResultLine>(&path).unwrap().values;
        let own = lines.iter().rposition(|line| line.baseline.is_some());
        let line = lines.remove(own.unwrap());
        write_lines(&parts[1], "results.jsonl", &lines).unwrap();
        // The sample's run has left something out, which is no reason for this line.
        let out = folder.path().join("out");
        let error = join(&parts, &out).unwrap_err().to_string();
        let expected = format!("no part has `{}`", stem(&line.file));
        assert!(error.contains(&expected), "{error}");
        assert!(!out.exists());
        let path = parts[1].join("run.json");
        let mut info: RunInfo = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        info.not_run.push(NotRun {
            what: line.variant.clone(),
            why: "diverged at epoch 1".to_owned(),
            file: Some(stem(&line.file).to_owned()),
        });
        fs::write(&path, serde_json::to_vec(&info).unwrap()).unwrap();
        join(&parts, &out).unwrap();
        let lines = read_lines::<ResultLine>(&out.join("results.jsonl")).unwrap();
        assert_eq!(lines.values.len(), sample().len() - 1);
    }

    #[test]
    fn a_line_that_is_cut_off_is_an_error() {
        for name in ["results.jsonl", "curves.jsonl", "layers.jsonl"] {
            let folder = tempfile::tempdir().unwrap();
            let parts = parts(folder.path());
            let part = parts.iter().find(|p| p.join(name).exists()).unwrap();
            let text = fs::read(part.join(name)).unwrap();
            fs::write(part.join(name), &text[..text.len() - 9]).unwrap();
            let out = folder.path().join("out");
            let error = join(&parts, &out).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("cut off"), "{error}");
            assert!(!out.exists());
        }
    }
}

//! The conditions of a run: what was asked, with which program, data and machine, and what did not run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of the layout of `run.json`, `results.jsonl`, `curves.jsonl` and `summary.json`.
pub const SCHEMA: u32 = 1;

/// The content of `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The version of the layout: [`SCHEMA`].
    pub schema: u32,
    /// What makes this run worth less than it looks: that no commit holds the program that ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// When the run began, RFC 3339 in UTC.
    pub started: String,
    /// When the run was taken up again after it had been stopped, or with a changed recipe, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resumed: Vec<String>,
    /// When the run ended, RFC 3339 in UTC; `None` while it runs or if it was broken off.
    #[serde(default)]
    pub finished: Option<String>,
    /// The command line that repeats the run.
    pub command: String,
    /// The profile: `smoke`, `quick`, `full`.
    pub profile: String,
    /// The experiments that were asked for.
    pub experiments: Vec<String>,
    /// The recipes with all defaults filled in.
    #[serde(default)]
    pub recipes: Vec<RecipeText>,
    /// The commit of the program; empty if unknown. It ends in `-dirty` if the working tree differed from it.
    #[serde(default)]
    pub commit: String,
    /// Whether the working tree differed from the commit; `None` if unknown.
    #[serde(default)]
    pub dirty: Option<bool>,
    /// The versions of what computed the numbers.
    pub versions: Versions,
    /// The processor.
    pub cpu: Cpu,
    /// Variables of the environment that change results and were set: by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// Threads used for training.
    pub threads: usize,
    /// Where it ran: `cpu`, `cuda:0`.
    pub device: String,
    /// The arithmetic of training: `bf16 NHWC`, `f32 NHWC`. Accuracy is never measured in bf16.
    pub precision: String,
    /// The data.
    pub dataset: DatasetInfo,
    /// The seeds, one run of every variant each.
    pub seeds: Vec<u64>,
    /// The part of a run that this is, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// What was asked for or would belong here, and did not run.
    #[serde(default)]
    pub not_run: Vec<NotRun>,
    /// What the experiments found beyond their result lines, in a sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A part of a run: other parts are in other folders, and [`join`](crate::join) makes one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// The part, from 1.
    pub part: usize,
    /// How many there are.
    pub of: usize,
    /// What all parts have together, in order: the files of models, without folder and kind.
    pub files: Vec<String>,
}

/// A recipe as it was run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeText {
    /// Its name, as in a result line.
    pub name: String,
    /// Its TOML.
    pub text: String,
}

/// Something that did not run, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotRun {
    /// What did not run.
    pub what: String,
    /// Why.
    pub why: String,
    /// Of a variant whose training diverged: its file in [`Shard::files`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// Versions of what computed the numbers; empty where unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Versions {
    /// This program.
    pub opt: String,
    /// The compiler.
    pub rustc: String,
    /// The Rust binding of libtorch.
    pub tch: String,
    /// Libtorch itself.
    pub libtorch: String,
}

/// The processor of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cpu {
    /// Its name.
    pub model: String,
    /// Those of its features that decide the arithmetic used, in the kernel's spelling.
    pub features: Vec<String>,
    /// Logical cores that this process may use.
    pub cores: usize,
}

/// The data of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetInfo {
    /// Its name, as in a result line.
    pub name: String,
    /// What kind of data it is.
    pub source: DataSource,
    /// A hash over all its files, with the name of the algorithm: `sha256:…`.
    pub hash: String,
    /// What a reader must know before comparing its numbers with published ones.
    #[serde(default)]
    pub notice: Option<String>,
    /// Training images.
    pub n_train: u64,
    /// Test images.
    pub n_test: u64,
    /// How it was split, for example `all 50,000 training images, last epoch reported`.
    pub split: String,
}

/// Whether accuracies on the data can be compared with published ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataSource {
    /// The published files, verified by their checksum.
    Official,
    /// Real images that are not verified to be the published files.
    Unofficial,
    /// A folder of images of the user's own.
    Own,
    /// Images made by this program.
    Synthetic,
}

/// Says what a reader must know before comparing accuracies on the data with others; `None` for the published files
/// without a remark.
///
/// Every report prints it where it cannot be overlooked.
pub fn notice(dataset: &DatasetInfo) -> Option<String> {
    let (kind, otherwise) = match dataset.source {
        DataSource::Synthetic => (
            "synthetic data",
            Some(
                "the images were made by this program; accuracies show that everything works and say nothing about \
                 real images",
            ),
        ),
        DataSource::Unofficial => (
            "unofficial data",
            Some("the images are not verified to be the published files"),
        ),
        DataSource::Official | DataSource::Own => ("note on the data", None),
    };
    let text = dataset.notice.as_deref().or(otherwise)?;
    Some(format!("{kind} ({}): {text}", dataset.name))
}

/// Says that a run was made by a program that no commit holds; `None` if the working tree was clean, or nothing is known.
///
/// Every report prints it where it cannot be overlooked.
pub fn dirty_tree(commit: &str, dirty: Option<bool>) -> Option<String> {
    let commit = match commit.trim_end_matches("-dirty") {
        "" => "the last commit",
        commit => commit.get(..12).unwrap_or(commit),
    };
    (dirty == Some(true)).then(|| {
        format!(
            "uncommitted changes: the working tree differed from {commit}, so that no commit holds the program that made \
             these numbers; run it again from a clean tree before you pass them on"
        )
    })
}

/// What a reader must know before anything else: about the data, and about the program.
pub fn notices(run: &RunInfo) -> Vec<String> {
    let program = dirty_tree(&run.commit, run.dirty);
    notice(&run.dataset).into_iter().chain(program).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::sample_run;

    #[test]
    fn data_that_is_not_the_published_files_is_said_with_and_without_a_text() {
        let said = |source, text: Option<&str>| {
            notice(&DatasetInfo {
                source,
                notice: text.map(str::to_owned),
                ..sample_run().dataset
            })
        };
        let cases = [
            (DataSource::Official, None, None),
            (
                DataSource::Official,
                Some("a remark"),
                Some("note on the data (cifar10): a remark"),
            ),
            (DataSource::Own, None, None),
            // Not verified is all that is known: they may be the published images.
            (
                DataSource::Unofficial,
                None,
                Some(
                    "unofficial data (cifar10): the images are not verified to be the published files",
                ),
            ),
            (
                DataSource::Synthetic,
                Some("shapes"),
                Some("synthetic data (cifar10): shapes"),
            ),
        ];
        for (source, text, expected) in cases {
            assert_eq!(said(source, text).as_deref(), expected);
        }
        assert!(
            said(DataSource::Synthetic, None)
                .unwrap()
                .contains("nothing about real images")
        );
    }

    #[test]
    fn a_dirty_tree_is_said_beside_the_data() {
        let mut run = sample_run();
        run.dataset.notice = Some("a remark".to_owned());
        for (commit, named) in [
            ("0123456789abcdef", "from 0123456789ab,"),
            ("0123456789abcdef-dirty", "from 0123456789ab,"),
            ("", "from the last commit,"),
        ] {
            run.commit = commit.to_owned();
            run.dirty = Some(true);
            let [data, program] = &notices(&run)[..] else {
                panic!("{:?}", notices(&run));
            };
            assert!(data.contains("a remark"));
            assert!(program.starts_with("uncommitted changes:") && program.contains(named));
        }
        for dirty in [Some(false), None] {
            run.dirty = dirty;
            assert_eq!(notices(&run).len(), 1);
        }
    }
}

//! The conditions of a run: what was asked, with which program, data and machine, and what did not run.

use std::collections::BTreeMap;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

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
    /// Variables of the environment that change results and were set: [`crate::machine::SETTINGS`].
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
    /// What was asked for or would belong here, and did not run.
    #[serde(default)]
    pub not_run: Vec<NotRun>,
    /// What the experiments found beyond their result lines, in a sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
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

/// Names the processor and those of its features that decide the arithmetic used.
pub fn cpu() -> Cpu {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Cpu {
        model: cpu_model(&text).unwrap_or("unknown").to_owned(),
        features: cpu_features()
            .into_iter()
            .filter(|(_, present)| *present)
            .map(|(name, _)| name.to_owned())
            .collect(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
    }
}

fn cpu_model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<(&'static str, bool)> {
    vec![
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512_vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512_bf16", is_x86_feature_detected!("avx512bf16")),
        ("avx_vnni", is_x86_feature_detected!("avxvnni")),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<(&'static str, bool)> {
    Vec::new()
}

/// Writes a time as RFC 3339 in UTC with whole seconds; times before 1970 read as its first second.
///
/// ```text
/// 2024-02-29T23:59:59Z
/// ```
///
/// # References
///
/// Howard Hinnant, *chrono-Compatible Low-Level Date Algorithms*, 2013 (`civil_from_days`).
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March, so that the leap day is the last day of its year, in eras of 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::sample_run;

    #[test]
    fn times_at_the_edges_of_the_calendar() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            // The leap day of a century that has one, and the second before the next day.
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            // A century without a leap day.
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

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

    #[test]
    fn the_model_of_a_processor() {
        let cases = [
            (
                "processor\t: 0\nmodel name\t: AMD EPYC 9R14\nflags\t: fpu\n",
                Some("AMD EPYC 9R14"),
            ),
            // Other architectures have no such line.
            ("processor\t: 0\nBogoMIPS\t: 50\n", None),
            ("", None),
        ];
        for (text, model) in cases {
            assert_eq!(cpu_model(text), model);
        }
        assert!(cpu().cores >= 1);
    }
}

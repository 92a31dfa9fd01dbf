//! The arrows between crates, held against what `cargo metadata` says.
//!
//! An arrow that is not here is a design change: it travels alone, with its line in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

use crate::workspace;

/// What one crate may depend on, in its code, its build script and its tests.
struct Arrow {
    name: &'static str,
    /// Of this workspace.
    may_use: &'static [&'static str],
    /// Of this workspace besides, in tests, examples and benches only.
    tests_may_use: &'static [&'static str],
    /// Anywhere in its tree.
    may_reach_libtorch: bool,
}

const fn arrow(
    name: &'static str,
    may_use: &'static [&'static str],
    may_reach_libtorch: bool,
) -> Arrow {
    Arrow {
        name,
        may_use,
        tests_may_use: &[],
        may_reach_libtorch,
    }
}

const WITH_LIBTORCH: bool = true;
const NO_LIBTORCH: bool = false;

const ARROWS: &[Arrow] = &[
    arrow("opt-core", &[], NO_LIBTORCH),
    arrow("opt-image", &["opt-core"], NO_LIBTORCH),
    arrow("opt-data", &["opt-core", "opt-image"], NO_LIBTORCH),
    arrow("opt-prune", &["opt-core"], NO_LIBTORCH),
    arrow("opt-quant", &["opt-core"], NO_LIBTORCH),
    arrow("opt-stats", &[], NO_LIBTORCH),
    arrow("opt-report", &["opt-core", "opt-stats"], NO_LIBTORCH),
    arrow("opt-distill", &[], WITH_LIBTORCH),
    arrow("opt-nn", &["opt-core"], WITH_LIBTORCH),
    arrow("opt-artifact", &["opt-core"], NO_LIBTORCH),
    arrow("opt-format", &["opt-core", "opt-artifact"], NO_LIBTORCH),
    Arrow {
        // The engine itself reads no image files.
        tests_may_use: &["opt-image"],
        ..arrow("opt-infer", &["opt-core", "opt-artifact"], NO_LIBTORCH)
    },
    arrow(
        "opt-compress",
        &["opt-core", "opt-prune", "opt-quant", "opt-infer"],
        NO_LIBTORCH,
    ),
    Arrow {
        // How images of one's own are prepared is compared with what the engine's example does.
        tests_may_use: &["opt-image"],
        ..arrow(
            "opt-experiment",
            &[
                "opt-core",
                "opt-data",
                "opt-prune",
                "opt-quant",
                "opt-distill",
                "opt-nn",
                "opt-artifact",
                "opt-format",
                "opt-infer",
                "opt-compress",
                "opt-stats",
                "opt-report",
            ],
            WITH_LIBTORCH,
        )
    },
    arrow(
        "opt-bench",
        &[
            "opt-experiment",
            "opt-core",
            "opt-data",
            "opt-quant",
            "opt-nn",
            "opt-artifact",
            "opt-format",
            "opt-infer",
            "opt-stats",
            "opt-report",
        ],
        WITH_LIBTORCH,
    ),
    // Without its feature `libtorch`, which is not on by itself.
    Arrow {
        tests_may_use: &[
            "opt-artifact",
            "opt-compress",
            "opt-data",
            "opt-format",
            "opt-infer",
        ],
        ..arrow(
            "opt-cli",
            &[
                "opt-bench",
                "opt-experiment",
                "opt-core",
                "opt-nn",
                "opt-report",
            ],
            NO_LIBTORCH,
        )
    },
    arrow("xtask", &[], NO_LIBTORCH),
];

/// What is seen of a crate of this workspace.
#[derive(Debug)]
struct Seen {
    name: String,
    /// In its code and its build script.
    uses: Vec<String>,
    /// In its tests, examples and benches.
    tests_use: Vec<String>,
    /// The shortest way to a crate that links libtorch, both ends included.
    way_to_libtorch: Option<Vec<String>>,
}

/// One sentence for each arrow that is not in the table.
fn offences(table: &[Arrow], seen: &[Seen]) -> Vec<String> {
    let mut offences = Vec::new();
    for member in seen {
        let Some(allowed) = table.iter().find(|arrow| arrow.name == member.name) else {
            offences.push(format!("{} is not in the table of arrows", member.name));
            continue;
        };
        for used in &member.uses {
            if !allowed.may_use.contains(&used.as_str()) {
                offences.push(format!("{} depends on {used}", member.name));
            }
        }
        for used in &member.tests_use {
            let of_both = [allowed.may_use, allowed.tests_may_use];
            if !of_both.iter().any(|may| may.contains(&used.as_str())) {
                offences.push(format!("tests of {} depend on {used}", member.name));
            }
        }
        if let Some(way) = &member.way_to_libtorch
            && !allowed.may_reach_libtorch
        {
            offences.push(format!(
                "{} reaches libtorch: {}",
                member.name,
                way.join(" -> ")
            ));
        }
    }
    offences
}

/// Every crate of the workspace, as cargo resolves it.
fn look(metadata: &Metadata) -> Vec<Seen> {
    let members = metadata.workspace_packages();
    let names: BTreeSet<&str> = members.iter().map(|member| member.name.as_str()).collect();
    members
        .iter()
        .map(|member| {
            let used = |in_tests: bool| -> Vec<String> {
                let of_kind = member.dependencies.iter().filter(|dependency| {
                    (dependency.kind == DependencyKind::Development) == in_tests
                });
                let used: BTreeSet<&str> = of_kind
                    .map(|dependency| dependency.name.as_str())
                    .filter(|name| names.contains(name))
                    .collect();
                used.into_iter().map(str::to_owned).collect()
            };
            Seen {
                name: member.name.to_string(),
                uses: used(false),
                tests_use: used(true),
                way_to_libtorch: way_to(metadata, &member.id, true, is_libtorch),
            }
        })
        .collect()
}

fn is_libtorch(package: &Package) -> bool {
    ["tch", "torch-sys"].contains(&package.name.as_str())
}

/// Compiles or links what is not Rust.
fn is_foreign(package: &Package) -> bool {
    let tools = ["bindgen", "cc", "cmake", "pkg-config", "pyo3"];
    is_libtorch(package) || package.links.is_some() || tools.contains(&package.name.as_str())
}

/// The shortest way to a crate that `is` what is looked for. Development dependencies count for the crate itself only, and
/// only if asked.
fn way_to(
    metadata: &Metadata,
    start: &PackageId,
    development: bool,
    is: fn(&Package) -> bool,
) -> Option<Vec<String>> {
    let nodes: BTreeMap<&PackageId, _> = metadata
        .resolve
        .iter()
        .flat_map(|resolve| &resolve.nodes)
        .map(|node| (&node.id, node))
        .collect();
    let mut came_from: BTreeMap<&PackageId, Option<&PackageId>> = BTreeMap::from([(start, None)]);
    let mut queue = VecDeque::from([start]);
    while let Some(id) = queue.pop_front() {
        if is(&metadata[id]) {
            let mut way = vec![metadata[id].name.to_string()];
            let mut at = id;
            while let Some(Some(before)) = came_from.get(at) {
                way.push(metadata[*before].name.to_string());
                at = before;
            }
            way.reverse();
            return Some(way);
        }
        for dependency in nodes.get(id).into_iter().flat_map(|node| &node.deps) {
            let counts = (development && id == start)
                || dependency
                    .dep_kinds
                    .iter()
                    .any(|kind| kind.kind != DependencyKind::Development);
            if counts && !came_from.contains_key(&dependency.pkg) {
                came_from.insert(&dependency.pkg, Some(id));
                queue.push_back(&dependency.pkg);
            }
        }
    }
    None
}

fn metadata() -> Result<Metadata> {
    MetadataCommand::new()
        .manifest_path(workspace::root().join("Cargo.toml"))
        .other_options([
            "--filter-platform".into(),
            "x86_64-unknown-linux-gnu".into(),
        ])
        .exec()
        .context("asking cargo for the crates and what they depend on")
}

/// A program that only infers, and what prepares its pictures.
#[test]
fn the_engine_is_rust_alone() -> Result<()> {
    let metadata = metadata()?;
    let id = |name: &str| {
        let named = |package: &&Package| package.name.as_str() == name;
        let package = metadata.packages.iter().find(named);
        Ok::<_, anyhow::Error>(&package.with_context(|| format!("no crate {name}"))?.id)
    };
    for name in ["opt-infer", "opt-image"] {
        let way = way_to(&metadata, id(name)?, false, is_foreign);
        assert!(
            way.is_none(),
            "{name} reaches what is not Rust: {}",
            way.unwrap_or_default().join(" -> ")
        );
    }
    // The look itself.
    let way = way_to(&metadata, id("opt-nn")?, false, is_foreign);
    let way = way.context("opt-nn reaches nothing but Rust")?;
    assert_eq!(way[0], "opt-nn");
    Ok(())
}

#[test]
fn crates_keep_to_the_arrows() -> Result<()> {
    let metadata = metadata()?;
    let seen = look(&metadata);
    let offences = offences(ARROWS, &seen);
    assert!(offences.is_empty(), "{}", offences.join("\n"));
    // The look itself: what must be there is seen.
    let member = |name: &str| {
        let found = seen.iter().find(|member| member.name == name);
        found.with_context(|| format!("no crate {name}"))
    };
    assert_eq!(member("opt-prune")?.uses, ["opt-core"]);
    let engine = member("opt-infer")?;
    assert_eq!(engine.uses, ["opt-artifact", "opt-core"]);
    assert!(engine.tests_use.contains(&"opt-image".to_owned()));
    let way = member("opt-nn")?.way_to_libtorch.as_deref();
    let [first, .., last] = way.context("opt-nn does not reach libtorch")? else {
        bail!("opt-nn is not libtorch");
    };
    assert_eq!(first, "opt-nn");
    assert!(["tch", "torch-sys"].contains(&last.as_str()));
    assert!(member("opt-experiment")?.uses.len() > 5);
    Ok(())
}

#[test]
fn each_wrong_arrow_is_named() {
    struct Case {
        name: &'static str,
        uses: &'static [&'static str],
        tests_use: &'static [&'static str],
        way: Option<&'static [&'static str]>,
        expected: &'static [&'static str],
    }
    let cases = [
        Case {
            name: "opt-prune",
            uses: &["opt-core"],
            tests_use: &[],
            way: None,
            expected: &[],
        },
        // Siblings never meet.
        Case {
            name: "opt-prune",
            uses: &["opt-core", "opt-quant"],
            tests_use: &[],
            way: None,
            expected: &["opt-prune depends on opt-quant"],
        },
        // Nor does the core look up.
        Case {
            name: "opt-core",
            uses: &["opt-nn", "xtask"],
            tests_use: &[],
            way: None,
            expected: &["opt-core depends on opt-nn", "opt-core depends on xtask"],
        },
        // What only tests may use.
        Case {
            name: "opt-infer",
            uses: &["opt-core"],
            tests_use: &["opt-core", "opt-image"],
            way: None,
            expected: &[],
        },
        Case {
            name: "opt-infer",
            uses: &["opt-image"],
            tests_use: &["opt-nn"],
            way: None,
            expected: &[
                "opt-infer depends on opt-image",
                "tests of opt-infer depend on opt-nn",
            ],
        },
        // By way of somebody else's crate.
        Case {
            name: "opt-data",
            uses: &[],
            tests_use: &[],
            way: Some(&["opt-data", "vision", "tch"]),
            expected: &["opt-data reaches libtorch: opt-data -> vision -> tch"],
        },
        Case {
            name: "opt-nn",
            uses: &["opt-core"],
            tests_use: &[],
            way: Some(&["opt-nn", "tch"]),
            expected: &[],
        },
        Case {
            name: "xtask",
            uses: &["opt-core"],
            tests_use: &[],
            way: Some(&["xtask", "torch-sys"]),
            expected: &[
                "xtask depends on opt-core",
                "xtask reaches libtorch: xtask -> torch-sys",
            ],
        },
        Case {
            name: "opt-new",
            uses: &[],
            tests_use: &[],
            way: None,
            expected: &["opt-new is not in the table of arrows"],
        },
    ];
    for case in cases {
        let strings = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        let seen = Seen {
            name: case.name.into(),
            uses: strings(case.uses),
            tests_use: strings(case.tests_use),
            way_to_libtorch: case.way.map(strings),
        };
        assert_eq!(offences(ARROWS, &[seen]), case.expected, "{}", case.name);
    }
}

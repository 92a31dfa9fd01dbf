//! The arrows between the files of a crate: none leads back to where it began.
//!
//! A file uses another where code that is not for tests names it, or a name that it hands on. What a file says of its children in `mod`
//! and `pub use` is no use, so that a parent may hold what its children share. `lib.rs` is a table of contents and no file in this
//! sense; a crate's `Result` stands for its `error.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::workspace;

/// Crates that still have circles.
const EXCEPTIONS: &[&str] = &[];

/// The names from the crate's root to a module or to what it defines: `kernels`, `float`.
type Names = Vec<String>;

/// The modules of a crate, each with the others that it uses.
type Arrows = BTreeMap<Names, BTreeSet<Names>>;

/// What one file says of others.
#[derive(Debug, Default)]
struct File {
    /// Paths in its code, as they are written.
    uses: Vec<Names>,
    /// Paths that it hands on, in `pub use`.
    hands_on: Vec<Names>,
    /// Those of them whose name it needs itself.
    needs: Vec<Names>,
    /// Its children, but for those of tests.
    children: BTreeSet<String>,
}

/// A source without comments and without what only tests compile. It relies on rustfmt: an item ends with a line that is indented as
/// its first.
fn code(source: &str) -> String {
    let mut code = String::new();
    // How the item that is left out is indented.
    let mut left_out = None;
    for line in source.lines() {
        let line = line.split("//").next().unwrap_or_default().trim_end();
        let indent = line.len() - line.trim_start().len();
        if line.trim() == "#[cfg(test)]" {
            left_out = Some(indent);
        } else if left_out.is_none() {
            code.push_str(line);
            code.push('\n');
        } else if left_out == Some(indent) && line.ends_with(['}', ';', ',']) {
            left_out = None;
        }
    }
    code
}

/// Words, `::`, and every other character by itself.
fn tokens(code: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

/// Adds the paths that begin with `path` and go on with `tokens`, several where a `use` has braces; returns what follows.
fn read_paths<'a, 'b>(
    mut path: Names,
    mut tokens: &'a [&'b str],
    paths: &mut Vec<Names>,
) -> &'a [&'b str] {
    while let [first, rest @ ..] = tokens {
        tokens = rest;
        if *first == "{" {
            while let [next, rest @ ..] = tokens {
                match *next {
                    "}" => return rest,
                    "," => tokens = rest,
                    _ => tokens = read_paths(path.clone(), tokens, paths),
                }
            }
            return tokens;
        }
        path.push((*first).to_owned());
        match tokens {
            ["::", rest @ ..] => tokens = rest,
            // Another name for the same.
            ["as", _, rest @ ..] => {
                tokens = rest;
                break;
            }
            _ => break,
        }
    }
    paths.push(path);
    tokens
}

/// What follows the words of a `pub use`, if `tokens` begin with one.
fn after_pub_use<'a, 'b>(tokens: &'a [&'b str]) -> Option<&'a [&'b str]> {
    match tokens {
        ["pub", "use", path @ ..] | ["pub", "(", _, ")", "use", path @ ..] => Some(path),
        _ => None,
    }
}

/// Reads what a source says of other files.
fn read(source: &str) -> File {
    let code = code(source);
    let tokens = tokens(&code);
    let mut rest = tokens.as_slice();
    let mut file = File::default();
    // Outside `mod` and `pub use`.
    let mut words = BTreeSet::new();
    while let [first, after @ ..] = rest {
        rest = if let Some(path) = after_pub_use(rest) {
            read_paths(Names::new(), path, &mut file.hands_on)
        } else if let ["mod", name, ";", after @ ..] = rest {
            file.children.insert((*name).to_owned());
            after
        } else if *first != "::" && after.first() == Some(&"::") {
            read_paths(Names::new(), rest, &mut file.uses)
        } else {
            words.insert(*first);
            after
        };
    }
    let is_needed = |path: &&Names| {
        path.last()
            .is_some_and(|name| words.contains(name.as_str()))
    };
    file.needs = file.hands_on.iter().filter(is_needed).cloned().collect();
    file
}

/// The files of a crate below its `root`, by the modules that they are.
fn read_crate(root: &Path) -> Result<BTreeMap<Names, File>> {
    let read_file = |path: &Path| -> Result<File> {
        let source = fs::read_to_string(path);
        Ok(read(
            &source.with_context(|| format!("reading {}", path.display()))?,
        ))
    };
    let mut files = BTreeMap::from([(Names::new(), read_file(root)?)]);
    let mut new = vec![Names::new()];
    while let Some(parent) = new.pop() {
        for child in files[&parent].children.clone() {
            let name = [parent.as_slice(), &[child]].concat();
            let path = root.with_file_name(name.join("/")).with_extension("rs");
            files.insert(name.clone(), read_file(&path)?);
            new.push(name);
        }
    }
    Ok(files)
}

/// The module that a path leads to from module `from`; none outside this crate, and none for its root.
fn module(files: &BTreeMap<Names, File>, from: &[String], path: &[String]) -> Option<Names> {
    let mut at = from.to_vec();
    let mut rest = path.iter().map(String::as_str).peekable();
    match *rest.peek()? {
        "crate" => at.clear(),
        "self" | "super" => {}
        child if files[from].children.contains(child) => {}
        _ => return None,
    }
    for name in rest {
        let file = &files[&at];
        let is_it = |path: &&Names| path.last().is_some_and(|last| last == name);
        if name == "super" {
            at.pop();
        } else if file.children.contains(name) {
            at.push(name.to_owned());
        } else if let Some(handed) = file.hands_on.iter().find(is_it) {
            return module(files, &at, handed);
        } else if at.is_empty() && name == "Result" {
            at.push("error".to_owned());
            return files.contains_key(&at).then_some(at);
        } else if !["crate", "self"].contains(&name) {
            break;
        }
    }
    (!at.is_empty()).then_some(at)
}

/// What the modules of a crate use.
fn arrows(files: &BTreeMap<Names, File>) -> Arrows {
    let of = |(from, file): (&Names, &File)| {
        let to = |path: &Names| module(files, from, path);
        let handed = file.hands_on.iter().filter_map(to);
        let used = file.uses.iter().chain(&file.needs).filter_map(to);
        let mut all: BTreeSet<Names> = handed
            .filter(|to| !to.starts_with(from))
            .chain(used)
            .collect();
        all.remove(from);
        (from.clone(), all)
    };
    files
        .iter()
        .filter(|(name, _)| !name.is_empty())
        .map(of)
        .collect()
}

/// Every arrow that is part of a circle.
fn circles(arrows: &Arrows) -> Vec<String> {
    let leads = |from: &Names, to: &Names| {
        let mut seen = BTreeSet::from([from]);
        let mut new = vec![from];
        while let Some(at) = new.pop() {
            let next = arrows.get(at).into_iter().flatten();
            new.extend(next.filter(|next| seen.insert(next)));
        }
        seen.contains(to)
    };
    let mut found = Vec::new();
    for (from, all) in arrows {
        for to in all.iter().filter(|to| leads(to, from)) {
            found.push(format!("{} -> {}", from.join("::"), to.join("::")));
        }
    }
    found
}

#[test]
fn no_circle_between_the_files_of_a_crate() -> Result<()> {
    let members = cargo_metadata::MetadataCommand::new()
        .manifest_path(workspace::root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("asking cargo for the crates")?;
    let mut bad = Vec::new();
    for package in &members.packages {
        let name = package.name.as_str();
        let is_root = |path: &&Path| {
            ["src/lib.rs", "src/main.rs"]
                .iter()
                .any(|end| path.ends_with(end))
        };
        let mut targets = package
            .targets
            .iter()
            .map(|target| target.src_path.as_std_path());
        let root = targets
            .find(is_root)
            .with_context(|| format!("{name} has no root"))?;
        let files = read_crate(root)?;
        for arrow in circles(&arrows(&files)) {
            let line = format!("{name}: {arrow}");
            if EXCEPTIONS.contains(&name) {
                eprintln!("{line}");
            } else {
                bad.push(line);
            }
        }
    }
    assert!(
        bad.is_empty(),
        "files use each other in circles:\n{}",
        bad.join("\n")
    );
    Ok(())
}

#[test]
fn each_circle_is_named() {
    struct Case {
        files: &'static [(&'static str, &'static str)],
        expected: &'static [&'static str],
    }
    let cases = [
        Case {
            files: &[
                ("", "mod a;\nmod b;"),
                ("a", "use crate::b::B;"),
                ("b", "pub struct B;"),
            ],
            expected: &[],
        },
        Case {
            files: &[
                ("", "mod a;\nmod b;"),
                ("a", "use crate::b::{self, B as Bee};"),
                ("b", "fn f() { crate::a::g() }"),
            ],
            expected: &["a -> b", "b -> a"],
        },
        // Three, by way of a name that the root hands on.
        Case {
            files: &[
                ("", "mod a;\nmod b;\nmod c;\npub use c::{C, other::D};"),
                ("a", "use std::fmt;\nuse super::{b::B, fmt::X};"),
                ("b", "use crate::{C, Missing};"),
                ("c", "use crate::a::*;"),
            ],
            expected: &["a -> b", "b -> c", "c -> a"],
        },
        // Results are errors.
        Case {
            files: &[
                ("", "mod error;\nmod a;\npub type Result<T> = X<T>;"),
                ("error", "use crate::a::A;"),
                ("a", "fn f() -> crate::Result<()> {}"),
            ],
            expected: &["a -> error", "error -> a"],
        },
        // Tests and comments may say what they like.
        Case {
            files: &[
                ("", "mod a;\nmod b;"),
                ("a", "use crate::b::B; // See crate::a."),
                (
                    "b",
                    "//! [`crate::a`]\n#[cfg(test)]\nmod tests {\n    use crate::a::f;\n}\nfn g() {}",
                ),
            ],
            expected: &[],
        },
        // A parent only hands on what its child makes of the parent's types.
        Case {
            files: &[
                ("", "mod a;"),
                ("a", "mod b;\npub use b::f;\npub struct A;"),
                ("a::b", "use super::A;"),
            ],
            expected: &[],
        },
        // It needs what it hands on.
        Case {
            files: &[
                ("", "mod a;"),
                ("a", "mod b;\npub(crate) use b::B;\nstruct A(B);"),
                ("a::b", "use super::f;"),
            ],
            expected: &["a -> a::b", "a::b -> a"],
        },
        // It needs what it does not hand on.
        Case {
            files: &[
                ("", "mod a;"),
                ("a", "mod b;\nfn f() { b::g() }"),
                ("a::b", "use crate::a::A;"),
            ],
            expected: &["a -> a::b", "a::b -> a"],
        },
    ];
    for case in cases {
        let names = |path: &str| {
            path.split("::")
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let files = case
            .files
            .iter()
            .map(|(path, source)| (names(path), read(source)))
            .collect();
        assert_eq!(circles(&arrows(&files)), case.expected, "{:?}", case.files);
    }
}

//! Where a run comes from: its command line and the state of the repository.

use std::path::{Component, Path};
use std::process::Command;

/// The command as a person would type it. Folders and files that only this machine has are named for what they are:
/// results are made to be passed on.
pub(super) fn command_line(args: impl Iterator<Item = String>) -> String {
    let mut command = "cargo xtask".to_owned();
    let mut option = String::new();
    for arg in args {
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name.to_owned(), value),
            _ => (option.clone(), arg.as_str()),
        };
        let path = Path::new(value);
        let outside = path.is_absolute() || path.components().any(|c| c == Component::ParentDir);
        let shown = match name.as_str() {
            _ if !outside => value,
            "--data" | "--out" => "DIR",
            "--weights" => "FILE",
            _ => path.file_name().and_then(|n| n.to_str()).unwrap_or("FILE"),
        };
        if arg.contains('=') && name.starts_with("--") {
            command += &format!(" {name}={shown}");
        } else {
            command += &format!(" {shown}");
        }
        option = arg;
    }
    command
}

/// The commit of a repository, empty if unknown, and whether its working tree differs.
pub(super) fn git_state(root: &Path) -> (String, Option<bool>) {
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root).args(args).output();
        let output = output.ok().filter(|o| o.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"]).unwrap_or_default();
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).map(|s| !s.is_empty());
    (commit, dirty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_no_folder_of_this_machine() {
        let cases = [
            (
                "experiment all --data /somewhere/cifar --out /tmp/x --seeds 2",
                "cargo xtask experiment all --data DIR --out DIR --seeds 2",
            ),
            (
                "train recipes/a.toml --weights=/home/me/w.safetensors --data=synthetic",
                "cargo xtask train recipes/a.toml --weights=FILE --data=synthetic",
            ),
            (
                "experiment all --profile /home/me/p.toml --data ../cifar",
                "cargo xtask experiment all --profile p.toml --data DIR",
            ),
            (
                "train ../recipes/a.toml --data data",
                "cargo xtask train a.toml --data data",
            ),
            (
                "experiment prune --data data --out results",
                "cargo xtask experiment prune --data data --out results",
            ),
        ];
        for (args, expect) in cases {
            assert_eq!(command_line(args.split(' ').map(str::to_owned)), expect);
        }
    }
}

//! The user's cache folder: what `cargo clean` and a second clone must not lose.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// `$XDG_CACHE_HOME/opt-rs`, or `~/.cache/opt-rs`.
pub(crate) fn folder() -> Result<PathBuf> {
    choose(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"))
        .context("no cache folder: neither XDG_CACHE_HOME nor HOME is set to an absolute path; export XDG_CACHE_HOME")
}

/// The XDG rule: a relative path counts as unset.
fn choose(cache_home: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |value: OsString| Some(PathBuf::from(value)).filter(|path| path.is_absolute());
    cache_home
        .and_then(absolute)
        .or_else(|| home.and_then(absolute).map(|home| home.join(".cache")))
        .map(|cache| cache.join("opt-rs"))
}

/// Holds `name` for this process until the file is dropped; waits, and says so, while another set-up holds it.
pub(crate) fn lock(folder: &Path, name: &str) -> Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let path = folder.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("waiting for another set-up that holds {}", path.display());
            file.lock()
                .with_context(|| format!("locking {}", path.display()))?;
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("locking {}", path.display()));
        }
    }
    Ok(file)
}

/// Free bytes where `path` is or will be; `None` where `df` cannot tell.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|folder| folder.exists())?;
    let output = Command::new("df").arg("-Pk").arg(existing).output().ok()?;
    parse_df(&String::from_utf8_lossy(&output.stdout))
}

/// The fourth column of the second line of `df -Pk`, in kibibytes.
fn parse_df(text: &str) -> Option<u64> {
    let column = text.lines().nth(1)?.split_whitespace().nth(3)?;
    column.parse::<u64>().ok()?.checked_mul(1024)
}

/// A size for people: `439 MB`, `4.5 GB`.
pub(crate) fn size(bytes: u64) -> String {
    let megabytes = bytes / 1_000_000;
    if megabytes < 1000 {
        format!("{megabytes} MB")
    } else {
        format!("{}.{} GB", megabytes / 1000, megabytes % 1000 / 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_folder_follows_xdg() {
        struct Case {
            cache_home: Option<&'static str>,
            home: Option<&'static str>,
            expected: Option<&'static str>,
        }
        let cases = [
            Case {
                cache_home: Some("/c"),
                home: Some("/h"),
                expected: Some("/c/opt-rs"),
            },
            Case {
                cache_home: None,
                home: Some("/h"),
                expected: Some("/h/.cache/opt-rs"),
            },
            // Empty and relative values count as unset.
            Case {
                cache_home: Some(""),
                home: Some("/h"),
                expected: Some("/h/.cache/opt-rs"),
            },
            Case {
                cache_home: Some("c"),
                home: Some("/h"),
                expected: Some("/h/.cache/opt-rs"),
            },
            Case {
                cache_home: None,
                home: None,
                expected: None,
            },
        ];
        for Case {
            cache_home,
            home,
            expected,
        } in cases
        {
            let chosen = choose(cache_home.map(OsString::from), home.map(OsString::from));
            assert_eq!(
                chosen,
                expected.map(PathBuf::from),
                "{cache_home:?} {home:?}"
            );
        }
    }

    #[test]
    fn df_is_read_by_its_posix_columns() {
        let text = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda 10 4 6 40% /a folder\n";
        assert_eq!(parse_df(text), Some(6 * 1024));
        assert_eq!(parse_df("Filesystem\n"), None);
        assert_eq!(parse_df("head\na b c none\n"), None);
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(size(0), "0 MB");
        assert_eq!(size(999_999_999), "999 MB");
        assert_eq!(size(4_560_000_000), "4.5 GB");
    }

    #[test]
    fn a_held_lock_keeps_a_second_one_out() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path(), "x").unwrap();
        let second = File::open(folder.path().join("x.lock")).unwrap();
        assert!(matches!(second.try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        second.try_lock().unwrap();
    }
}

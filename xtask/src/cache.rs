//! The user's cache folder: what `cargo clean` and a second clone must not lose.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The folder that `OPT_CACHE_DIR` names, else `$XDG_CACHE_HOME/opt-rs`, else `~/.cache/opt-rs`: the folder that experiments
/// keep trained networks in.
pub(crate) fn folder() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name);
    choose(absolute(variable("OPT_CACHE_DIR"))?, variable("XDG_CACHE_HOME"), variable("HOME"))
        .context("no cache folder: none of OPT_CACHE_DIR, XDG_CACHE_HOME and HOME is set to an absolute path; export OPT_CACHE_DIR")
}

/// The folder of our own variable: nobody has exported it to have another one used in silence.
fn absolute(own: Option<OsString>) -> Result<Option<OsString>> {
    if let Some(relative) = own
        .as_ref()
        .filter(|own| !own.is_empty() && Path::new(own).is_relative())
    {
        bail!(
            "OPT_CACHE_DIR is `{}`, expected a path from the root: a relative one is another folder wherever a command starts",
            relative.display()
        );
    }
    Ok(own)
}

/// The XDG rule: a relative path counts as unset, and so does an empty one.
fn choose(
    own: Option<OsString>,
    cache_home: Option<OsString>,
    home: Option<OsString>,
) -> Option<PathBuf> {
    let absolute = |value: OsString| Some(PathBuf::from(value)).filter(|path| path.is_absolute());
    own.and_then(absolute).or_else(|| {
        cache_home
            .and_then(absolute)
            .or_else(|| home.and_then(absolute).map(|home| home.join(".cache")))
            .map(|cache| cache.join("opt-rs"))
    })
}

/// The bytes of the files in a folder and in those below it; 0 where there is none.
pub(crate) fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => bytes_in(&entry.path()),
        Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |meta| meta.len()),
        _ => 0,
    };
    entries.map(bytes).sum()
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
    fn a_relative_folder_of_our_own_is_refused() {
        let own = |text: &str| Some(OsString::from(text));
        for sound in [None, own(""), own("/o")] {
            assert_eq!(absolute(sound.clone()).unwrap(), sound);
        }
        let error = absolute(own("o/p")).unwrap_err().to_string();
        assert!(error.contains("OPT_CACHE_DIR is `o/p`"), "{error}");
    }

    #[test]
    fn the_cache_folder_follows_its_own_variable_and_then_xdg() {
        struct Case {
            own: Option<&'static str>,
            cache_home: Option<&'static str>,
            home: Option<&'static str>,
            expected: Option<&'static str>,
        }
        let cases = [
            // The own variable names the folder itself.
            Case {
                own: Some("/o"),
                cache_home: Some("/c"),
                home: Some("/h"),
                expected: Some("/o"),
            },
            Case {
                own: None,
                cache_home: Some("/c"),
                home: Some("/h"),
                expected: Some("/c/opt-rs"),
            },
            Case {
                own: None,
                cache_home: None,
                home: Some("/h"),
                expected: Some("/h/.cache/opt-rs"),
            },
            // Empty and relative values count as unset.
            Case {
                own: Some(""),
                cache_home: Some(""),
                home: Some("/h"),
                expected: Some("/h/.cache/opt-rs"),
            },
            Case {
                own: None,
                cache_home: Some("c"),
                home: Some("/h"),
                expected: Some("/h/.cache/opt-rs"),
            },
            Case {
                own: None,
                cache_home: None,
                home: None,
                expected: None,
            },
        ];
        for Case {
            own,
            cache_home,
            home,
            expected,
        } in cases
        {
            let chosen = choose(
                own.map(OsString::from),
                cache_home.map(OsString::from),
                home.map(OsString::from),
            );
            assert_eq!(
                chosen,
                expected.map(PathBuf::from),
                "{own:?} {cache_home:?} {home:?}"
            );
        }
    }

    #[test]
    fn bytes_are_those_of_all_files_below() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), [0; 5]).unwrap();
        fs::create_dir(folder.path().join("b")).unwrap();
        fs::write(folder.path().join("b/c"), [0; 7]).unwrap();
        assert_eq!(bytes_in(folder.path()), 12);
        assert_eq!(bytes_in(&folder.path().join("none")), 0);
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

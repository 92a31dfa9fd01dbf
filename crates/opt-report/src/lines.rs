//! Files that survive a crash: JSON lines that are appended durably, and whole files that appear at once.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::error::io_error;
use crate::{ReportError, Result};

/// What a file of JSON lines held.
#[derive(Debug, Clone, PartialEq)]
pub struct Lines<T> {
    /// The values in the order of the file.
    pub values: Vec<T>,
    /// A warning, if the last line was cut off by a crash and left out.
    pub torn: Option<String>,
}

/// Appends `value` as one JSON line and waits until it is on the disk.
///
/// Creates the file and its folder if they are missing. A last line that an earlier crash cut off is removed first, so
/// that it never grows into the new one.
///
/// # Errors
///
/// The file cannot be written, or `value` cannot be expressed as JSON.
pub fn append_line<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut line = serde_json::to_vec(value).map_err(|source| ReportError::Json {
        what: format!("a line of {}", path.display()),
        source,
    })?;
    line.push(b'\n');
    let mut write = || -> std::io::Result<()> {
        let folder = folder_of(path);
        fs::create_dir_all(folder)?;
        let is_new = !path.exists();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let whole = content
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |i| i + 1);
        let tail = &content[whole..];
        if serde_json::from_slice::<IgnoredAny>(tail).is_ok() {
            line.insert(0, b'\n');
        } else {
            file.set_len(whole as u64)?;
        }
        file.seek(SeekFrom::End(0))?;
        file.write_all(&line)?;
        file.sync_all()?;
        if is_new {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(io_error("appending a line to", path))
}

/// Reads a file of JSON lines; a file that does not exist has none.
///
/// # Errors
///
/// The file cannot be read, or a line other than an unfinished last one is not a `T`.
pub fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Lines<T>> {
    let content = match fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(io_error("reading", path)(error)),
    };
    let mut values = Vec::new();
    let mut torn = None;
    for (number, line) in content.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let finished = line.ends_with(b"\n");
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(line) {
            Ok(value) => values.push(value),
            Err(_) if !finished => {
                torn = Some(format!(
                    "{}: line {} is cut off after {} bytes and was left out",
                    path.display(),
                    number + 1,
                    line.len()
                ));
            }
            Err(problem) => {
                return Err(ReportError::Line {
                    path: path.to_owned(),
                    line: number + 1,
                    problem,
                });
            }
        }
    }
    Ok(Lines { values, torn })
}

/// Writes a whole file to a temporary one beside it and renames that, so that no reader ever sees half a file. Creates the
/// folder if it is missing; when it returns, the bytes and the name are on the disk.
///
/// # Errors
///
/// The file cannot be written or renamed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = folder_of(path);
    fs::create_dir_all(folder).map_err(io_error("creating", folder))?;
    let write = || -> std::io::Result<()> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".").suffix(".tmp");
        // As any other file, not for its owner alone.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(io_error("writing", path))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines.jsonl");
        fs::write(&path, content).unwrap();
        (folder, path)
    }

    #[test]
    fn appended_lines_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/results.jsonl");
        append_line(&path, &1).unwrap();
        append_line(&path, &2).unwrap();
        let lines = read_lines::<u32>(&path).unwrap();
        assert_eq!(lines.values, [1, 2]);
        assert_eq!(lines.torn, None);
    }

    #[test]
    fn a_missing_file_has_no_lines() {
        let lines = read_lines::<u32>(Path::new("no/such/file.jsonl")).unwrap();
        assert!(lines.values.is_empty() && lines.torn.is_none());
    }

    #[test]
    fn last_lines() {
        struct Case {
            content: &'static [u8],
            values: &'static [&'static str],
            torn: bool,
            appended: &'static [u8],
        }
        let cases = [
            // A line that ended in the middle of a write, and of a character.
            Case {
                content: b"\"a\"\n\"b\xc3",
                values: &["a"],
                torn: true,
                appended: b"\"a\"\n\"z\"\n",
            },
            // Only the line's end is missing: the value is whole.
            Case {
                content: b"\"a\"\n\"b\"",
                values: &["a", "b"],
                torn: false,
                appended: b"\"a\"\n\"b\"\n\"z\"\n",
            },
            // Nothing but a torn line.
            Case {
                content: b"\"a",
                values: &[],
                torn: true,
                appended: b"\"z\"\n",
            },
            // Empty lines are not values.
            Case {
                content: b"\n\"a\"\n\n",
                values: &["a"],
                torn: false,
                appended: b"\n\"a\"\n\n\"z\"\n",
            },
        ];
        for case in cases {
            let (_folder, path) = file(case.content);
            let lines = read_lines::<String>(&path).unwrap();
            assert_eq!(lines.values, case.values);
            assert_eq!(lines.torn.is_some(), case.torn);
            append_line(&path, &"z").unwrap();
            assert_eq!(fs::read(&path).unwrap(), case.appended);
        }
    }

    #[test]
    fn a_broken_line_in_the_middle_is_an_error_with_its_number() {
        let (_folder, path) = file(b"1\nx\n3\n");
        let error = format!("{:#}", read_lines::<u32>(&path).unwrap_err());
        assert!(
            error.contains("lines.jsonl: line 2 is not a result"),
            "{error}"
        );
    }

    #[test]
    fn an_atomic_write_replaces_and_leaves_nothing_beside() {
        let (folder, path) = file(b"old");
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

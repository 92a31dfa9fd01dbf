//! Files by path: written whole or not at all, and errors that name the path.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use opt_core::{Model, QModel};

use crate::{ArtifactError, Golden, Result, read_model, read_qmodel, read_qmodel_with_golden};

/// Writes `bytes` to a temporary file in the same folder and renames it, so that no reader ever sees half a file.
///
/// When it returns, the bytes and the name are on the disk.
///
/// # Errors
///
/// [`ArtifactError::Io`] with the path.
pub fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let io = |source| ArtifactError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    };
    let name = path.file_name().ok_or_else(|| {
        io(std::io::Error::other(
            "the path does not end in a file name",
        ))
    })?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    temporary.push(format!(".{}-{count}.tmp", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let written = File::create(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        });
    written.map_err(|source| {
        // What failed may have left nothing to remove; the first error is the one to report.
        let _ = fs::remove_file(&temporary);
        io(source)
    })
}

/// Reads a file.
///
/// # Errors
///
/// [`ArtifactError::Io`] with the path.
pub fn load(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| ArtifactError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

/// Reads a model from a file.
///
/// # Errors
///
/// Those of [`load`] and [`read_model`], with the path.
pub fn load_model(path: &Path) -> Result<Model> {
    read_model(&load(path)?).map_err(|e| in_file(path, e))
}

/// Reads an integer model from a file.
///
/// # Errors
///
/// Those of [`load`] and [`read_qmodel`], with the path.
pub fn load_qmodel(path: &Path) -> Result<QModel> {
    read_qmodel(&load(path)?).map_err(|e| in_file(path, e))
}

/// Reads an integer model from a file, with the images to check a program with if there are any.
///
/// # Errors
///
/// Those of [`load`] and [`read_qmodel_with_golden`], with the path.
pub fn load_qmodel_with_golden(path: &Path) -> Result<(QModel, Option<Golden>)> {
    read_qmodel_with_golden(&load(path)?).map_err(|e| in_file(path, e))
}

fn in_file(path: &Path, source: ArtifactError) -> ArtifactError {
    ArtifactError::InFile {
        path: path.to_owned(),
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Provenance, write_model};
    use opt_core::{Task, zoo};

    #[test]
    fn files_are_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.opt");
        save(&path, b"old and longer than a model's first bytes").unwrap();
        let model = zoo::build("airbench_2_2_2", &Task::cifar10(), 0).unwrap();
        save(&path, &write_model(&model, &Provenance::new()).unwrap()).unwrap();
        assert_eq!(load_model(&path).unwrap(), model);
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn errors_name_the_path_and_leave_no_litter() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("no/net.opt");
        let message = load_model(&missing).unwrap_err().to_string();
        assert!(
            message.starts_with("cannot read") && message.contains("no/net.opt"),
            "{message}"
        );
        let message = save(&missing, b"").unwrap_err().to_string();
        assert!(
            message.starts_with("cannot write") && message.contains("no/net.opt"),
            "{message}"
        );
        // A folder is in the way of the rename.
        let taken = folder.path().join("taken");
        fs::create_dir(&taken).unwrap();
        save(&taken, b"x").unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let empty = folder.path().join("empty.opt");
        save(&empty, b"").unwrap();
        for message in [
            load_model(&empty).unwrap_err().to_string(),
            load_qmodel(&empty).unwrap_err().to_string(),
            load_qmodel_with_golden(&empty).unwrap_err().to_string(),
        ] {
            assert!(
                message.contains("empty.opt: not a safetensors container: 0 bytes"),
                "{message}"
            );
        }
        save(Path::new(".."), b"").unwrap_err();
    }
}

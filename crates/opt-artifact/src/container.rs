//! The bytes of a file: a safetensors container of named tensors and named strings, and a checksum over both.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorView};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::tensor_error;
use crate::{ArtifactError, Provenance, Result};

const FORMAT: &str = "opt";

/// The version that is written.
const VERSION: &str = VERSIONS[2];

/// The versions that are read. The first does not say how images are prepared: [`crate::metadata_json`] knows what was done then.
/// The first two have one output, whose labels are the input's: [`crate::graph_json`].
const VERSIONS: [&str; 3] = ["1", "2", "3"];

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A [`opt_core::Model`], some of its parameters perhaps as codes.
    Model,
    /// A [`opt_core::QModel`].
    QModel,
}

impl Kind {
    /// The word in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::QModel => "qmodel",
        }
    }
}

/// The facts about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// What it holds.
    pub kind: Kind,
    /// The SHA-256 of its content, in hexadecimal: the identity of the model whatever the file is called.
    pub sha256: String,
    /// Where it comes from.
    pub provenance: Provenance,
}

/// Reads the facts about a file and verifies its checksum, without building the model.
///
/// # Errors
///
/// As [`crate::read_model`], for everything but the model itself.
pub fn inspect(bytes: &[u8]) -> Result<Info> {
    let container = read(bytes)?;
    let found = container.text("kind")?;
    let kind = [Kind::Model, Kind::QModel]
        .into_iter()
        .find(|kind| kind.name() == found)
        .ok_or_else(|| ArtifactError::Kind {
            found: found.to_owned(),
            expected: "model` or `qmodel",
        })?;
    Ok(Info {
        kind,
        sha256: container.text("sha256")?.to_owned(),
        provenance: container.json("provenance")?,
    })
}

/// A tensor as it lies in the file: little-endian, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored<'a> {
    /// The type of an element.
    pub dtype: Dtype,
    /// The shape; `[]` for one number.
    pub shape: Vec<usize>,
    /// As many bytes as the type and the shape need.
    pub bytes: Cow<'a, [u8]>,
}

impl Stored<'_> {
    pub(crate) fn f32s(&self) -> Vec<f32> {
        let (numbers, _) = self.bytes.as_chunks();
        numbers.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    pub(crate) fn i32s(&self) -> Vec<i32> {
        let (numbers, _) = self.bytes.as_chunks();
        numbers.iter().map(|b| i32::from_le_bytes(*b)).collect()
    }
}

/// The content of a safetensors file, whoever wrote it.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Container<'a> {
    /// What `__metadata__` holds.
    pub metadata: BTreeMap<String, String>,
    /// The tensors by name.
    pub tensors: BTreeMap<String, Stored<'a>>,
}

impl<'a> Container<'a> {
    /// An empty file of this kind.
    pub(crate) fn new(kind: Kind) -> Self {
        let metadata = [
            ("format", FORMAT),
            ("version", VERSION),
            ("kind", kind.name()),
        ];
        Self {
            metadata: metadata.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            tensors: BTreeMap::new(),
        }
    }

    pub(crate) fn set_json(&mut self, key: &'static str, value: &impl Serialize) -> Result<()> {
        let text =
            serde_json::to_string(value).map_err(|source| ArtifactError::Json { key, source })?;
        self.metadata.insert(key.to_owned(), text);
        Ok(())
    }

    pub(crate) fn insert(
        &mut self,
        name: String,
        dtype: Dtype,
        shape: &[usize],
        bytes: Vec<u8>,
    ) -> Result<()> {
        let stored = Stored {
            dtype,
            shape: shape.to_vec(),
            bytes: bytes.into(),
        };
        match self.tensors.insert(name.clone(), stored) {
            None if name != "__metadata__" => Ok(()),
            _ => Err(tensor_error(
                &name,
                "the name is taken in the file; rename the node or parameter",
            )),
        }
    }

    pub(crate) fn insert_f32s(
        &mut self,
        name: String,
        shape: &[usize],
        values: &[f32],
    ) -> Result<()> {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.insert(name, Dtype::F32, shape, bytes)
    }

    pub(crate) fn expect_kind(&self, expected: Kind) -> Result<()> {
        let found = self.text("kind")?;
        if found == expected.name() {
            return Ok(());
        }
        Err(ArtifactError::Kind {
            found: found.to_owned(),
            expected: expected.name(),
        })
    }

    /// Whether the file says how images are prepared.
    pub(crate) fn has_preparation(&self) -> Result<bool> {
        Ok(self.text("version")? != VERSIONS[0])
    }

    /// Whether the graph has its outputs, with their labels.
    pub(crate) fn has_outputs(&self) -> Result<bool> {
        let version = self.text("version")?;
        Ok(version != VERSIONS[0] && version != VERSIONS[1])
    }

    pub(crate) fn text(&self, key: &'static str) -> Result<&str> {
        let text = self.metadata.get(key);
        text.map(String::as_str)
            .ok_or(ArtifactError::MissingKey { key })
    }

    pub(crate) fn json<T: DeserializeOwned>(&self, key: &'static str) -> Result<T> {
        serde_json::from_str(self.text(key)?).map_err(|source| ArtifactError::Json { key, source })
    }

    /// Removes and returns a tensor that must be there.
    pub(crate) fn take(&mut self, name: &str, dtype: Dtype) -> Result<Stored<'a>> {
        match self.tensors.remove(name) {
            Some(stored) if stored.dtype == dtype => Ok(stored),
            Some(stored) => Err(tensor_error(
                name,
                format!("type {}, expected {dtype}", stored.dtype),
            )),
            None => Err(tensor_error(name, "the file has no tensor of this name")),
        }
    }

    /// Refuses tensors that nobody took.
    pub(crate) fn expect_empty(&self) -> Result<()> {
        match self.tensors.keys().next() {
            None => Ok(()),
            Some(name) => Err(tensor_error(name, "nothing in the graph reads this tensor")),
        }
    }

    /// SHA-256 over all metadata but itself and all tensors, in the order of their names. Every part is preceded by its
    /// length, so that no two contents give the same stream.
    fn digest(&self) -> String {
        let mut sha = Sha256::new();
        let mut part = |bytes: &[u8]| {
            sha.update((bytes.len() as u64).to_le_bytes());
            sha.update(bytes);
        };
        for (key, value) in self.metadata.iter().filter(|(key, _)| *key != "sha256") {
            part(key.as_bytes());
            part(value.as_bytes());
        }
        part(&[]);
        for (name, stored) in &self.tensors {
            part(name.as_bytes());
            part(stored.dtype.to_string().as_bytes());
            let shape = stored.shape.iter().flat_map(|d| (*d as u64).to_le_bytes());
            part(&shape.collect::<Vec<u8>>());
            part(&stored.bytes);
        }
        sha.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// The bytes of the file, with its checksum. Equal content gives equal bytes.
pub(crate) fn write(mut content: Container<'_>) -> Result<Vec<u8>> {
    let sha256 = content.digest();
    content.metadata.insert("sha256".to_owned(), sha256);
    serialize(&content)
}

/// The bytes of a safetensors file; equal content gives equal bytes.
///
/// # Errors
///
/// [`ArtifactError::Container`] for a tensor whose bytes do not fit its type and shape.
pub fn serialize(content: &Container<'_>) -> Result<Vec<u8>> {
    let problem = |e: &dyn std::fmt::Display| ArtifactError::Container {
        problem: e.to_string(),
    };
    let views = content
        .tensors
        .iter()
        .map(|(name, t)| Ok((name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes)?)))
        .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|e| problem(&e))?;
    let plain = safetensors::serialize(views, None).map_err(|e| problem(&e))?;
    if content.metadata.is_empty() {
        return Ok(plain);
    }
    // The library takes metadata as a hash map, whose order differs from run to run, so they are put in here.
    let (header, data) = split(&plain)?;
    let metadata = serde_json::to_string(&content.metadata).map_err(|e| problem(&e))?;
    let tensors = std::str::from_utf8(&header[1..]).map_err(|e| problem(&e))?;
    let comma = if content.tensors.is_empty() { "" } else { "," };
    let mut header = format!("{{\"__metadata__\":{metadata}{comma}{}", tensors.trim_end());
    header.extend(std::iter::repeat_n(
        ' ',
        header.len().next_multiple_of(8) - header.len(),
    ));
    let length = (header.len() as u64).to_le_bytes();
    Ok([&length, header.as_bytes(), data].concat())
}

/// Reads a safetensors file, whoever wrote it; the tensors stay where they are.
///
/// ```
/// use opt_artifact::container::{Container, parse, serialize};
///
/// let content = Container { metadata: [("a".into(), "b".into())].into(), ..Container::default() };
/// assert_eq!(parse(&serialize(&content)?)?, content);
/// # Ok::<(), opt_artifact::ArtifactError>(())
/// ```
///
/// # Errors
///
/// [`ArtifactError::OtherFile`] for bytes that are known to be something else; [`ArtifactError::Container`] for other bytes, or
/// fewer or more of them than the header says.
pub fn parse(bytes: &[u8]) -> Result<Container<'_>> {
    // Only what is no container is looked at: its first bytes are a length, and a length may look like anything.
    parse_container(bytes).map_err(|error| other_file(bytes).unwrap_or(error))
}

fn parse_container(bytes: &[u8]) -> Result<Container<'_>> {
    let problem = |problem: String| ArtifactError::Container { problem };
    let (header, data) = split(bytes)?;
    // Not `SafeTensors::deserialize`: it adds offsets from the file without a check for overflow.
    let parsed: Metadata =
        serde_json::from_slice(header).map_err(|e| problem(format!("its header: {e}")))?;
    if parsed.data_len() != data.len() {
        return Err(problem(format!(
            "{} bytes of tensors, expected {}",
            data.len(),
            parsed.data_len()
        )));
    }
    let metadata: BTreeMap<String, String> = parsed
        .metadata()
        .iter()
        .flat_map(HashMap::iter)
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let tensors = parsed
        .tensors()
        .into_iter()
        .map(|(name, info)| {
            let stored = Stored {
                dtype: info.dtype,
                shape: info.shape.clone(),
                bytes: data[info.data_offsets.0..info.data_offsets.1].into(),
            };
            (name, stored)
        })
        .collect();
    Ok(Container { metadata, tensors })
}

/// Recognises what is often found in the place of a checkpoint.
fn other_file(bytes: &[u8]) -> Option<ArtifactError> {
    const CONVERT: &str = "load it in Python and save its tensors with `safetensors.torch.save_file(state_dict, FILE)`";
    const FETCH: &str = "run `git lfs pull`, or fetch the file itself";
    const RAW: &str = "what was downloaded is a page about the file or a login; fetch the file itself (on Hugging Face the address \
                       with `resolve` in place of `blob`)";
    const PART: &str = "such as the index of a checkpoint in parts; give the .safetensors file itself, in one part";
    let start = &bytes[..bytes.len().min(512)];
    // A container that was cut: eight bytes of length, then its header.
    if start.get(5..9) == Some(b"\0\0\0{") {
        return None;
    }
    let text = start.trim_ascii_start();
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let tag = text[..text.len().min(9)].to_ascii_lowercase();
    let (what, advice) = match start {
        [b'P', b'K', 3, 4, ..] => (
            "a zip archive, as PyTorch writes .pth and .pt checkpoints",
            CONVERT,
        ),
        [0x80, 2..=5, ..] => (
            "a pickle, as PyTorch wrote .pth and .pt checkpoints before version 1.6",
            CONVERT,
        ),
        [0x89, b'H', b'D', b'F', ..] => ("an HDF5 file, as Keras writes", CONVERT),
        [0x1f, 0x8b, ..] => ("a gzip archive", "unpack it"),
        _ if start.starts_with(b"version https://git-lfs") => ("a pointer of git-lfs", FETCH),
        _ if tag.starts_with(b"<!doctype") || tag.starts_with(b"<html") => ("an HTML page", RAW),
        _ if tag.starts_with(b"<?xml") => ("an XML text, such as a server's error", RAW),
        _ if tag.starts_with(b"{") => ("a JSON text", PART),
        _ => return None,
    };
    Some(ArtifactError::OtherFile { what, advice })
}

/// Reads the content and verifies format, version and checksum.
pub(crate) fn read(bytes: &[u8]) -> Result<Container<'_>> {
    let container = parse(bytes)?;
    let found = |key| container.metadata.get(key).map(String::as_str);
    if found("format") != Some(FORMAT) {
        return Err(ArtifactError::Format {
            found: found("format").map_or("is not given".to_owned(), |f| format!("`{f}`")),
        });
    }
    if !found("version").is_some_and(|version| VERSIONS.contains(&version)) {
        return Err(ArtifactError::Version {
            found: found("version").unwrap_or_default().to_owned(),
        });
    }
    let (found, expected) = (container.text("sha256")?, container.digest());
    if found != expected {
        return Err(ArtifactError::Checksum {
            found: found.to_owned(),
            expected,
        });
    }
    Ok(container)
}

/// Header and tensor data.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let parts = bytes.split_first_chunk().and_then(|(length, rest)| {
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        rest.split_at_checked(length)
    });
    parts.ok_or_else(|| ArtifactError::Container {
        problem: format!(
            "{} bytes, expected a length of 8 bytes and a header of that length",
            bytes.len()
        ),
    })
}

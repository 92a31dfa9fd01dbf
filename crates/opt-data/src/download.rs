//! Download of an archive with resume, checksum and bounded retries, and careful unpacking.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use flate2::read::GzDecoder;
use md5::{Digest, Md5};
use ureq::Body;
use ureq::http::header::{ACCEPT_ENCODING, CONTENT_RANGE, RANGE};
use ureq::http::{HeaderMap, Response, StatusCode};

use crate::DataError;
use crate::dataset::to_hex;
use crate::records::{self, Layout};
use crate::{Origin, cifar10, cifar100};

/// Names a file to fetch and how to know that it is the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// The address, `http` or `https`.
    pub url: String,
    /// The length in bytes.
    pub bytes: u64,
    /// The MD5 in lower-case hex.
    pub md5: String,
}

impl Archive {
    /// Returns the binary version of CIFAR-10 at its official address, with the checksum published beside it.
    ///
    /// # References
    ///
    /// Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
    /// <https://www.cs.toronto.edu/~kriz/cifar.html>.
    pub fn cifar10() -> Self {
        Self::official(&cifar10::LAYOUT)
    }

    /// Returns the binary version of CIFAR-100 at its official address, with the checksum published beside it.
    ///
    /// # References
    ///
    /// As [`Archive::cifar10`].
    pub fn cifar100() -> Self {
        Self::official(&cifar100::LAYOUT)
    }

    pub(crate) fn official(layout: &Layout) -> Self {
        Self {
            url: format!("https://www.cs.toronto.edu/~kriz/{}", layout.archive),
            bytes: layout.archive_bytes,
            md5: layout.archive_md5.into(),
        }
    }
}

/// Says how patient a download is.
#[derive(Debug, Clone)]
pub struct DownloadOptions {
    /// The longest wait for the host's address; together with `connect_timeout` the time after which a missing network
    /// is known.
    pub resolve_timeout: Duration,
    /// The longest wait for a connection.
    pub connect_timeout: Duration,
    /// The longest silence of a connected server.
    pub read_timeout: Duration,
    /// How many requests are made before giving up.
    pub max_attempts: u32,
    /// The wait before the second request; it doubles each time, up to 16 times this.
    pub backoff: Duration,
}

impl Default for DownloadOptions {
    fn default() -> Self {
        Self {
            resolve_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_millis(2500),
            read_timeout: Duration::from_secs(20),
            max_attempts: 8,
            backoff: Duration::from_millis(500),
        }
    }
}

/// Is told how many bytes are on disk and how many the file has.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Fetches an archive to `file`, unless the right content is there already.
///
/// What arrives goes to `file` with `.part` appended, is kept when the transfer breaks off and continued by the next
/// attempt or call, and is renamed to `file` only when length and checksum are right. Lengths that the server states
/// decide nothing; the archive's own do.
///
/// # Errors
///
/// [`DataError::NoNetwork`] if the host cannot be reached, before anything was received; [`DataError::HttpStatus`] for a
/// refusal; [`DataError::Interrupted`] if all attempts broke off; [`DataError::WrongContent`] if what arrived is
/// something else (it is deleted); [`DataError::Busy`] if another process is at it.
pub fn download(
    archive: &Archive,
    file: &Path,
    options: &DownloadOptions,
    progress: Progress<'_>,
) -> Result<(), DataError> {
    if fs::metadata(file).is_ok_and(|metadata| metadata.len() == archive.bytes)
        && md5_of(file)? == archive.md5
    {
        progress(archive.bytes, archive.bytes);
        return Ok(());
    }
    let part = with_suffix(file, ".part");
    if let Some(folder) = part.parent() {
        fs::create_dir_all(folder).map_err(DataError::io("create the folder", folder))?;
    }
    let mut output = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&part)
        .map_err(DataError::io("open", &part))?;
    match output.try_lock() {
        // Some file systems know no locks; they get no protection from a second process, but the checksum still.
        Ok(()) | Err(TryLockError::Error(_)) => {}
        Err(TryLockError::WouldBlock) => return Err(DataError::Busy { path: part }),
    }
    if let Err(error) = fetch(archive, &part, &mut output, options, progress) {
        if output.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            // An empty file is no start worth keeping; it may be gone already.
            drop(fs::remove_file(&part));
        }
        return Err(error);
    }
    output.sync_all().map_err(DataError::io("write", &part))?;
    fs::rename(&part, file).map_err(DataError::io("move into place", &part))
}

/// Appends to the path's file name.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    name.into()
}

/// Fills `output` until it has the archive's length and checksum.
fn fetch(
    archive: &Archive,
    part: &Path,
    output: &mut File,
    options: &DownloadOptions,
    progress: Progress<'_>,
) -> Result<(), DataError> {
    let url = &archive.url;
    let agent = agent(options);
    let length = |output: &File| {
        let length = output.metadata().map(|metadata| metadata.len());
        length.map_err(DataError::io("read", part))
    };
    let interrupted = |attempts, done, reason| DataError::Interrupted {
        url: url.clone(),
        attempts,
        done,
        reason,
    };
    let truncate = |output: &mut File| output.set_len(0).map_err(DataError::io("write", part));
    let mut reached = false;
    // What was on disk at the start or came over several connections may be a mixture; a fresh start clears that up once.
    let mut mixed = false;
    let mut restarted = false;
    let mut attempts = 0;
    loop {
        let done = length(output)?;
        if done == archive.bytes {
            let found = md5_of(part)?;
            if found == archive.md5 {
                progress(done, archive.bytes);
                return Ok(());
            }
            truncate(output)?;
            if !mixed && attempts > 0 || restarted {
                return wrong_content(archive, part, format!("MD5 {found}"));
            }
            restarted = true;
            mixed = false;
            continue;
        }
        if done > archive.bytes {
            truncate(output)?;
            continue;
        }
        if attempts > 0 {
            sleep(options.backoff * 2u32.pow((attempts - 1).min(4)));
        }
        attempts += 1;
        let last = attempts >= options.max_attempts;
        mixed |= done > 0;

        let reason = match ask(&agent, url, done) {
            Err(error) if !reached && is_unreachable(&error) => {
                return Err(DataError::NoNetwork {
                    url: url.clone(),
                    reason: error.to_string(),
                });
            }
            Err(
                error @ (ureq::Error::BadUri(_)
                | ureq::Error::Http(_)
                | ureq::Error::TooManyRedirects),
            ) => {
                // Asking again cannot fix these.
                return Err(interrupted(attempts, done, error.to_string()));
            }
            Err(error) => error.to_string(),
            Ok(mut response) => {
                reached = true;
                let start = match answer(&response, done, last) {
                    Answer::From(start) => start,
                    Answer::AskWithoutRange => {
                        truncate(output)?;
                        mixed = false;
                        continue;
                    }
                    Answer::AskAgain => continue,
                    Answer::Refusal => {
                        return Err(DataError::HttpStatus {
                            url: url.clone(),
                            status: response.status().as_u16(),
                            attempts,
                        });
                    }
                };
                if start == 0 {
                    truncate(output)?;
                    mixed = false;
                }
                let declared = response.body().content_length();
                let body = response.body_mut().with_config().limit(u64::MAX).reader();
                let (received, end) = receive(body, output, start, archive.bytes, part, progress)?;
                if start + received == archive.bytes {
                    continue;
                }
                match end {
                    Some(error) => error.to_string(),
                    // A complete answer that is too short is another file, such as a page of a portal.
                    None if declared == Some(received) => {
                        return wrong_content(archive, part, format!("{} bytes", start + received));
                    }
                    None => "the server closed the connection".into(),
                }
            }
        };
        if last {
            return Err(interrupted(attempts, length(output)?, reason));
        }
    }
}

/// What gives up on a host that keeps silent.
fn agent(options: &DownloadOptions) -> ureq::Agent {
    ureq::Agent::new_with_config(
        ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_resolve(Some(options.resolve_timeout))
            .timeout_connect(Some(options.connect_timeout))
            .timeout_recv_response(Some(options.read_timeout))
            .timeout_per_read(Some(options.read_timeout))
            .build(),
    )
}

/// Asks for what follows `done` bytes.
fn ask(agent: &ureq::Agent, url: &str, done: u64) -> Result<Response<Body>, ureq::Error> {
    let mut request = agent.get(url).header(ACCEPT_ENCODING, "identity");
    if done > 0 {
        request = request.header(RANGE, format!("bytes={done}-"));
    }
    request.call()
}

/// What a server's answer is good for.
enum Answer {
    /// Its body is the archive from this byte.
    From(u64),
    /// What is on disk is nothing that the server goes on with.
    AskWithoutRange,
    AskAgain,
    Refusal,
}

/// Judges the answer to a request for what follows `done` bytes, the `last` one or not.
fn answer(response: &Response<Body>, done: u64, last: bool) -> Answer {
    let status = response.status();
    match status {
        StatusCode::PARTIAL_CONTENT if range_start(response.headers()) == Some(done) => {
            Answer::From(done)
        }
        // The server ignores the range, or answers another one than was asked for.
        StatusCode::OK => Answer::From(0),
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if done > 0 && !last => {
            Answer::AskWithoutRange
        }
        _ => {
            let passing = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            if passing && !last {
                Answer::AskAgain
            } else {
                Answer::Refusal
            }
        }
    }
}

/// Appends the body to `output` until it ends, breaks off or the file is complete; returns the bytes and the break.
fn receive(
    mut body: impl Read,
    output: &mut File,
    start: u64,
    total: u64,
    part: &Path,
    progress: Progress<'_>,
) -> Result<(u64, Option<io::Error>), DataError> {
    output
        .seek(SeekFrom::Start(start))
        .map_err(DataError::io("write", part))?;
    let mut buffer = vec![0; 64 * 1024];
    let mut received = 0;
    while start + received < total {
        progress(start + received, total);
        let room = usize::try_from(total - start - received)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        match body.read(&mut buffer[..room]) {
            Ok(0) => return Ok((received, None)),
            Ok(n) => {
                output
                    .write_all(&buffer[..n])
                    .map_err(DataError::io("write", part))?;
                received += n as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Ok((received, Some(error))),
        }
    }
    Ok((received, None))
}

/// Deletes the partial file and reports what was found in place of the archive.
fn wrong_content(archive: &Archive, part: &Path, found: String) -> Result<(), DataError> {
    fs::remove_file(part).map_err(DataError::io("delete", part))?;
    Err(DataError::WrongContent {
        url: archive.url.clone(),
        found,
        expected: format!("{} bytes with MD5 {}", archive.bytes, archive.md5),
    })
}

/// Says whether an error means that the host was never reached.
fn is_unreachable(error: &ureq::Error) -> bool {
    use ureq::Timeout::{Connect, Resolve};
    match error {
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_)
        | ureq::Error::Timeout(Resolve | Connect) => true,
        ureq::Error::Io(error) => !matches!(
            error.kind(),
            // The server was there and hung up.
            ErrorKind::UnexpectedEof
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
        ),
        _ => false,
    }
}

/// Reads the first position of `Content-Range: bytes FIRST-LAST/LENGTH`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    value
        .trim()
        .strip_prefix("bytes ")?
        .split_once('-')?
        .0
        .trim()
        .parse()
        .ok()
}

fn md5_of(path: &Path) -> Result<String, DataError> {
    let mut file = File::open(path).map_err(DataError::io("read", path))?;
    let mut hasher = Md5::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file
            .read(&mut buffer)
            .map_err(DataError::io("read", path))?
        {
            0 => return Ok(to_hex(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// The longest text file that an archive may hold.
const MAX_TEXT: u64 = 64 * 1024;

/// Unpacks the CIFAR-10 archive `file` to the new folder `to/cifar-10-batches-bin` and returns that folder.
///
/// Only regular files with the expected names and plausible sizes are accepted, and only whole: they are unpacked in a
/// folder beside it that is renamed at the end.
///
/// # Errors
///
/// If the archive is damaged or holds anything else, or the folder exists or cannot be written.
pub fn extract(file: &Path, to: &Path) -> Result<PathBuf, DataError> {
    let folder = to.join(cifar10::FOLDER);
    unpack_to(&cifar10::LAYOUT, file, &folder, |_| Ok(()))?;
    Ok(folder)
}

/// [`extract`] with a last step, `finish`, on the unpacked folder before it appears under its name.
fn unpack_to(
    layout: &Layout,
    file: &Path,
    folder: &Path,
    finish: impl FnOnce(&Path) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let staging = with_suffix(folder, &format!(".{}.part", std::process::id()));
    let result = fs::create_dir_all(&staging)
        .map_err(DataError::io("create the folder", &staging))
        .and_then(|()| unpack(layout, file, &staging))
        .and_then(|()| finish(&staging))
        .and_then(|()| {
            fs::rename(&staging, folder).map_err(DataError::io("create the folder", folder))
        });
    if result.is_err() {
        // The first error is the one worth reporting.
        drop(fs::remove_dir_all(&staging));
    }
    result
}

fn unpack(layout: &Layout, file: &Path, staging: &Path) -> Result<(), DataError> {
    let bad = |reason: String| DataError::BadArchive {
        path: file.to_path_buf(),
        reason,
    };
    let broken = |error: io::Error| bad(error.to_string());
    let input = File::open(file).map_err(DataError::io("read", file))?;
    let mut archive = tar::Archive::new(GzDecoder::new(io::BufReader::new(input)));
    let folder = layout.folder;
    let mut missing = layout.files.to_vec();
    let mut seen: Vec<String> = Vec::new();
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let plain = name.strip_prefix("./").unwrap_or(&name);
        if entry.header().entry_type().is_dir() && plain.trim_end_matches('/') == folder {
            continue;
        }
        let known = plain
            .strip_prefix(folder)
            .and_then(|rest| rest.strip_prefix('/'));
        let data = known.and_then(|known| layout.files.iter().position(|file| *file == known));
        let limit = match (known, data) {
            (_, Some(data)) => {
                (layout.shares[data] * cifar10::RECORDS_PER_FILE * layout.record_bytes()) as u64
            }
            (Some(known), _) if known == layout.names || layout.texts.contains(&known) => MAX_TEXT,
            _ => {
                return Err(bad(format!(
                    "it holds {name:?}, expected only the files of {folder}"
                )));
            }
        };
        let known = known.unwrap_or_default();
        if !entry.header().entry_type().is_file() {
            return Err(bad(format!("{name:?} is not a regular file")));
        }
        if seen.iter().any(|seen| seen == known) {
            return Err(bad(format!("it holds {name:?} twice")));
        }
        if entry.size() > limit {
            return Err(bad(format!(
                "{name:?} has {} bytes, expected at most {limit}",
                entry.size()
            )));
        }
        seen.push(known.to_string());
        missing.retain(|file| *file != known);
        let path = staging.join(known);
        let mut output = File::create(&path).map_err(DataError::io("write", &path))?;
        let expected = entry.size();
        if io::copy(&mut entry, &mut output).map_err(broken)? != expected {
            return Err(bad(format!("it ends within {name:?}")));
        }
    }
    match missing.first() {
        Some(name) => Err(bad(format!("it lacks {folder}/{name}"))),
        None => Ok(()),
    }
}

/// Fetches CIFAR-10 to `to/cifar-10-batches-bin` and returns that folder: downloads, verifies, unpacks, reads all of it
/// once, records the hashes, and deletes the archive.
///
/// # Errors
///
/// As [`download`], [`extract`] and [`cifar10::load`].
pub fn fetch_cifar10(
    archive: &Archive,
    to: &Path,
    options: &DownloadOptions,
    progress: Progress<'_>,
) -> Result<PathBuf, DataError> {
    let records = cifar10::RECORDS_PER_FILE;
    fetch_records(&cifar10::LAYOUT, archive, to, records, options, progress)
}

/// Fetches CIFAR-100 to `to/cifar-100-binary` like [`fetch_cifar10`].
///
/// # Errors
///
/// As [`fetch_cifar10`].
pub fn fetch_cifar100(
    archive: &Archive,
    to: &Path,
    options: &DownloadOptions,
    progress: Progress<'_>,
) -> Result<PathBuf, DataError> {
    let records = cifar10::RECORDS_PER_FILE;
    fetch_records(&cifar100::LAYOUT, archive, to, records, options, progress)
}

pub(crate) fn fetch_records(
    layout: &Layout,
    archive: &Archive,
    to: &Path,
    records: usize,
    options: &DownloadOptions,
    progress: Progress<'_>,
) -> Result<PathBuf, DataError> {
    let file = to.join(layout.archive);
    download(archive, &file, options, progress)?;
    let folder = unpack_records(layout, archive, &file, to, records)?;
    fs::remove_file(&file).map_err(DataError::io("delete", file))?;
    Ok(folder)
}

/// Unpacks an archive that is already here like [`fetch_cifar10`], without deleting it.
///
/// # Errors
///
/// [`DataError::BadArchive`] if `file` is not the archive; as [`extract`] and [`cifar10::load`].
pub fn unpack_cifar10(archive: &Archive, file: &Path, to: &Path) -> Result<PathBuf, DataError> {
    unpack_verified(&cifar10::LAYOUT, archive, file, to)
}

/// Unpacks an archive that is already here like [`fetch_cifar100`], without deleting it.
///
/// # Errors
///
/// As [`unpack_cifar10`].
pub fn unpack_cifar100(archive: &Archive, file: &Path, to: &Path) -> Result<PathBuf, DataError> {
    unpack_verified(&cifar100::LAYOUT, archive, file, to)
}

fn unpack_verified(
    layout: &Layout,
    archive: &Archive,
    file: &Path,
    to: &Path,
) -> Result<PathBuf, DataError> {
    let found = md5_of(file)?;
    if found != archive.md5 {
        return Err(DataError::BadArchive {
            path: file.to_path_buf(),
            reason: format!("it has MD5 {found}, expected {}", archive.md5),
        });
    }
    fs::create_dir_all(to).map_err(DataError::io("create the folder", to))?;
    unpack_records(layout, archive, file, to, cifar10::RECORDS_PER_FILE)
}

fn unpack_records(
    layout: &Layout,
    archive: &Archive,
    file: &Path,
    to: &Path,
    records: usize,
) -> Result<PathBuf, DataError> {
    let folder = to.join(layout.folder);
    let origin = if archive.md5 == layout.archive_md5 {
        Origin::Official
    } else {
        Origin::Unrecorded
    };
    unpack_to(layout, file, &folder, |staging| {
        let loaded = records::load(layout, staging, records)?;
        records::write_sums(layout, staging, origin, &loaded.sha256)
    })?;
    Ok(folder)
}

#[cfg(test)]
pub(crate) mod tests;

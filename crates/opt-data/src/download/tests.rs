//! Downloads from a local server that misbehaves, and archives that should not be unpacked.

use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::*;
use crate::cifar10::tests::write_small;
use crate::cifar10::{FILES, FOLDER, META};

/// What the server does with one request, given the start of the range asked for.
#[derive(Clone, Copy)]
enum Answer {
    /// Serves what was asked for, whole.
    Good,
    /// Serves `n` bytes of what was asked for and hangs up.
    BreakAfter(usize),
    /// States a length that is off by this much, serves all there is and hangs up.
    Lie(isize),
    /// Serves everything from the first byte on, whatever the range.
    IgnoreRange,
    /// Serves another range than was asked for.
    WrongRange,
    /// Serves as many, but other, bytes.
    WrongBytes,
    /// Serves a short page in place of the file.
    Page,
    /// Serves everything without stating a length.
    NoLength,
    /// Answers with this status.
    Status(u16),
    /// Hangs up without an answer.
    HangUp,
    /// Answers nothing and stays.
    Silence,
}

/// Serves `content` on a local port, one answer per request, the last one for all further requests.
pub(crate) struct Server {
    pub(crate) url: String,
    /// The ranges asked for.
    requests: Arc<Mutex<Vec<usize>>>,
}

impl Server {
    pub(crate) fn good(content: &[u8]) -> Self {
        Self::new(content, &[Answer::Good])
    }

    fn new(content: &[u8], answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/archive.tar.gz", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (content, answers, log) = (content.to_vec(), answers.to_vec(), requests.clone());
        thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let start = read_request(&mut connection);
                let answer = {
                    let mut log = log.lock().unwrap();
                    log.push(start);
                    answers[(log.len() - 1).min(answers.len() - 1)]
                };
                let content = content.clone();
                thread::spawn(move || {
                    // A client that has enough may hang up first.
                    drop(serve(&mut connection, &content, start, answer));
                });
            }
        });
        Self { url, requests }
    }

    fn archive(&self, content: &[u8]) -> Archive {
        archive(&self.url, content)
    }

    fn requests(&self) -> Vec<usize> {
        self.requests.lock().unwrap().clone()
    }
}

pub(crate) fn archive(url: &str, content: &[u8]) -> Archive {
    Archive {
        url: url.into(),
        bytes: content.len() as u64,
        md5: to_hex(&Md5::digest(content)),
    }
}

/// Reads the request's head and returns the start of the range asked for.
fn read_request(connection: &mut TcpStream) -> usize {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && connection.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let range = head
        .lines()
        .find_map(|line| line.strip_prefix("range: bytes="));
    range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap())
}

fn serve(
    connection: &mut TcpStream,
    content: &[u8],
    start: usize,
    answer: Answer,
) -> io::Result<()> {
    let total = content.len();
    let body = content.get(start..).unwrap_or_default();
    let status = |start| {
        if start == 0 {
            "200 OK"
        } else {
            "206 Partial Content"
        }
    };
    let head = |status: &str, start: usize, length: usize| {
        let range = format!("bytes {start}-{}/{total}", total - 1);
        format!(
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\ncontent-range: {range}\r\nconnection: close\r\n\r\n"
        )
    };
    let mut send = |head: String, body: &[u8]| {
        connection.write_all(head.as_bytes())?;
        connection.write_all(body)
    };
    match answer {
        Answer::Good if start >= total => send(head("416 Range Not Satisfiable", 0, 0), &[]),
        Answer::Good => send(head(status(start), start, body.len()), body),
        Answer::BreakAfter(n) => send(
            head(status(start), start, body.len()),
            &body[..n.min(body.len())],
        ),
        Answer::Lie(by) => send(
            head(status(start), start, body.len().saturating_add_signed(by)),
            body,
        ),
        Answer::IgnoreRange => send(head("200 OK", 0, total), content),
        Answer::WrongRange => send(head("206 Partial Content", 1, total - 1), &content[1..]),
        Answer::WrongBytes => send(head(status(start), start, body.len()), &vec![7; body.len()]),
        Answer::Page => send(head("200 OK", 0, 9), b"<html> hi"),
        Answer::NoLength => send(
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".into(),
            content,
        ),
        Answer::Status(code) => send(head(&format!("{code} Status"), 0, 4), b"nope"),
        Answer::HangUp => Ok(()),
        Answer::Silence => {
            sleep(Duration::from_millis(600));
            Ok(())
        }
    }
}

/// Impatient, so that the tests are quick.
pub(crate) fn quick() -> DownloadOptions {
    DownloadOptions {
        read_timeout: Duration::from_millis(150),
        max_attempts: 4,
        backoff: Duration::from_millis(1),
        ..DownloadOptions::default()
    }
}

fn content() -> Vec<u8> {
    (0..200_000u32)
        .map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[2])
        .collect()
}

#[test]
fn succeeds_in_spite_of_the_server() {
    struct Case {
        answers: &'static [Answer],
        /// What is on disk before.
        part: fn(&mut Vec<u8>),
        /// The starts of the ranges asked for.
        requests: &'static [usize],
    }
    const NOTHING: fn(&mut Vec<u8>) = |part| part.clear();
    const HALF: fn(&mut Vec<u8>) = |part| part.truncate(100_000);
    let cases = [
        // All well.
        Case {
            answers: &[Answer::Good],
            part: NOTHING,
            requests: &[0],
        },
        // Two breaks: goes on from where it stood.
        Case {
            answers: &[
                Answer::BreakAfter(70_000),
                Answer::BreakAfter(30_000),
                Answer::Good,
            ],
            part: NOTHING,
            requests: &[0, 70_000, 100_000],
        },
        // A part of an earlier call.
        Case {
            answers: &[Answer::Good],
            part: HALF,
            requests: &[100_000],
        },
        // The whole file was there but not yet renamed: nothing to ask for.
        Case {
            answers: &[],
            part: |_| {},
            requests: &[],
        },
        // The part is longer than the file.
        Case {
            answers: &[Answer::Good],
            part: |part| part.extend([1, 2, 3]),
            requests: &[0],
        },
        // The part is as long but wrong.
        Case {
            answers: &[Answer::Good],
            part: |part| part.fill(0),
            requests: &[0],
        },
        // The part is the start of another file: the checksum tells, and one fresh start fixes it.
        Case {
            answers: &[Answer::Good],
            part: |part| {
                part.truncate(100_000);
                part.fill(0);
            },
            requests: &[100_000, 0],
        },
        // The range is ignored.
        Case {
            answers: &[Answer::IgnoreRange],
            part: HALF,
            requests: &[100_000],
        },
        // Another range is served.
        Case {
            answers: &[Answer::WrongRange, Answer::Good],
            part: HALF,
            requests: &[100_000, 0],
        },
        // The server knows a shorter file than the part and refuses the range.
        Case {
            answers: &[Answer::Status(416), Answer::Good],
            part: HALF,
            requests: &[100_000, 0],
        },
        // The stated length is too long, but all bytes came.
        Case {
            answers: &[Answer::Lie(500)],
            part: NOTHING,
            requests: &[0],
        },
        // No length is stated.
        Case {
            answers: &[Answer::NoLength],
            part: NOTHING,
            requests: &[0],
        },
        // Passing trouble of the server.
        Case {
            answers: &[Answer::Status(500), Answer::Status(503), Answer::Good],
            part: NOTHING,
            requests: &[0, 0, 0],
        },
        // Too many requests.
        Case {
            answers: &[Answer::Status(429), Answer::Good],
            part: NOTHING,
            requests: &[0, 0],
        },
        // Hangs up before answering; that is no missing network.
        Case {
            answers: &[Answer::HangUp, Answer::Good],
            part: NOTHING,
            requests: &[0, 0],
        },
        // Falls silent.
        Case {
            answers: &[Answer::Silence, Answer::Good],
            part: NOTHING,
            requests: &[0, 0],
        },
    ];
    let content = content();
    for (
        index,
        Case {
            answers,
            part,
            requests,
        },
    ) in cases.iter().enumerate()
    {
        let server = Server::new(&content, answers);
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("new/archive");
        let mut before = content.clone();
        part(&mut before);
        fs::create_dir(folder.path().join("new")).unwrap();
        if !before.is_empty() {
            fs::write(with_suffix(&file, ".part"), before).unwrap();
        }
        let mut reports = Vec::new();
        let result = download(
            &server.archive(&content),
            &file,
            &quick(),
            &mut |done, total| reports.push((done, total)),
        );
        assert!(result.is_ok(), "case {index}: {result:?}");
        assert_eq!(fs::read(&file).unwrap(), content, "case {index}");
        assert!(!with_suffix(&file, ".part").exists(), "case {index}");
        assert_eq!(server.requests(), *requests, "case {index}");
        assert_eq!(reports.last(), Some(&(200_000, 200_000)), "case {index}");
    }
}

#[test]
fn fails_with_the_reason_and_keeps_no_bad_file() {
    struct Case {
        answers: &'static [Answer],
        requests: usize,
        message: &'static [&'static str],
        /// The length of the partial file that is left to go on from.
        kept: Option<u64>,
    }
    let cases = [
        // The right length and the wrong bytes.
        Case {
            answers: &[Answer::WrongBytes],
            requests: 1,
            message: &["wrong content: MD5", "deleted", "try again"],
            kept: None,
        },
        // Half right, half wrong: a fresh start is tried once.
        Case {
            answers: &[Answer::BreakAfter(9), Answer::WrongBytes],
            requests: 3,
            message: &["wrong content: MD5", "deleted"],
            kept: None,
        },
        // Half right, half wrong over and over: once is enough.
        Case {
            answers: &[
                Answer::BreakAfter(9),
                Answer::WrongBytes,
                Answer::BreakAfter(9),
                Answer::WrongBytes,
            ],
            requests: 4,
            message: &["wrong content: MD5", "deleted"],
            kept: None,
        },
        // A complete answer that is too short.
        Case {
            answers: &[Answer::Page],
            requests: 1,
            message: &["wrong content: 9 bytes", "expected 200000 bytes"],
            kept: None,
        },
        // The stated length is too short and the server keeps to it.
        Case {
            answers: &[Answer::Lie(-500)],
            requests: 1,
            message: &["wrong content: 199500 bytes"],
            kept: None,
        },
        // There is no such file.
        Case {
            answers: &[Answer::Status(404)],
            requests: 1,
            message: &["HTTP status 404", "after 1 attempt"],
            kept: None,
        },
        // The server's trouble lasts.
        Case {
            answers: &[Answer::Status(500)],
            requests: 4,
            message: &["HTTP status 500", "after 4 attempt"],
            kept: None,
        },
        // Always the same break.
        Case {
            answers: &[Answer::BreakAfter(10)],
            requests: 4,
            message: &[
                "broke off 4 time(s)",
                "after 40 bytes",
                "same command again",
            ],
            kept: Some(40),
        },
        // Never an answer.
        Case {
            answers: &[Answer::HangUp],
            requests: 4,
            message: &["broke off 4 time(s)", "after 0 bytes"],
            kept: None,
        },
    ];
    let content = content();
    for (
        index,
        Case {
            answers,
            requests,
            message,
            kept,
        },
    ) in cases.iter().enumerate()
    {
        let server = Server::new(&content, answers);
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("archive");
        let error =
            download(&server.archive(&content), &file, &quick(), &mut |_, _| {}).unwrap_err();
        let found = error.to_string();
        assert!(
            message.iter().all(|part| found.contains(part)),
            "case {index}: {found:?} lacks one of {message:?}"
        );
        assert!(found.contains(&server.url), "case {index}: {found:?}");
        assert!(!file.exists(), "case {index}");
        assert_eq!(server.requests().len(), *requests, "case {index}");
        let left = fs::metadata(with_suffix(&file, ".part"))
            .ok()
            .map(|metadata| metadata.len());
        assert_eq!(left, *kept, "case {index}");
    }
}

#[test]
fn a_file_that_is_there_is_checked_and_not_fetched_again() {
    let content = content();
    let server = Server::good(&content);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("archive");
    fs::write(&file, &content).unwrap();
    download(&server.archive(&content), &file, &quick(), &mut |_, _| {}).unwrap();
    assert_eq!(server.requests(), []);
    // A damaged one is replaced.
    fs::write(&file, vec![0; content.len()]).unwrap();
    download(&server.archive(&content), &file, &quick(), &mut |_, _| {}).unwrap();
    assert_eq!(fs::read(&file).unwrap(), content);
}

#[test]
fn a_missing_network_is_told_apart() {
    let folder = TempDir::new().unwrap();
    // A port that was free a moment ago: nothing listens there.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for url in [
        format!("http://127.0.0.1:{port}/x"),
        "http://no-such-host.invalid/x".into(),
    ] {
        let error = download(
            &archive(&url, b"x"),
            &folder.path().join("x"),
            &quick(),
            &mut |_, _| {},
        )
        .unwrap_err();
        assert!(matches!(error, DataError::NoNetwork { .. }), "{error:?}");
        assert!(error.to_string().contains(&url), "{error}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    // A malformed address is not a missing network.
    let error = download(
        &archive("no address", b"x"),
        &folder.path().join("x"),
        &quick(),
        &mut |_, _| {},
    )
    .unwrap_err();
    assert!(
        matches!(error, DataError::Interrupted { attempts: 1, .. }),
        "{error:?}"
    );
}

#[test]
fn two_downloads_do_not_mix() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("archive");
    let other = File::create(with_suffix(&file, ".part")).unwrap();
    other.lock().unwrap();
    let server = Server::good(b"x");
    let error = download(&server.archive(b"x"), &file, &quick(), &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, DataError::Busy { .. }), "{error:?}");
}

/// Packs (path, content) as tar.gz; a path that ends in `@` becomes a symbolic link.
fn pack(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        let path = match path.strip_suffix('@') {
            Some(path) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_link_name("/etc/passwd").unwrap();
                path
            }
            None if path.ends_with('/') => {
                header.set_entry_type(tar::EntryType::Directory);
                *path
            }
            None => *path,
        };
        // Written directly: `set_path` refuses the malicious ones.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

/// Packs a folder of 20-record files as the official archive is packed.
pub(crate) fn small_archive() -> Vec<u8> {
    let root = TempDir::new().unwrap();
    write_small(&root.path().join(FOLDER));
    let mut names = FILES.to_vec();
    names.push(META);
    pack_folder(root.path(), FOLDER, &names)
}

/// Packs 100 training and 20 test records as the official archive of CIFAR-100 is packed.
pub(crate) fn small_cifar100_archive() -> Vec<u8> {
    let root = TempDir::new().unwrap();
    let dir = root.path().join(cifar100::FOLDER);
    cifar100::tests::write_small(&dir);
    for (name, n) in [
        ("coarse_label_names.txt", 20),
        ("fine_label_names.txt", 100),
    ] {
        fs::write(dir.join(name), "name\n".repeat(n)).unwrap();
    }
    let names = [
        "train.bin",
        "test.bin",
        "coarse_label_names.txt",
        "fine_label_names.txt",
    ];
    pack_folder(root.path(), cifar100::FOLDER, &names)
}

fn pack_folder(root: &Path, folder: &str, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names
        .iter()
        .map(|name| format!("{folder}/{name}"))
        .collect();
    let contents: Vec<Vec<u8>> = names
        .iter()
        .map(|name| fs::read(root.join(name)).unwrap())
        .collect();
    let folder = format!("{folder}/");
    let mut entries: Vec<(&str, &[u8])> = vec![(&folder, &[])];
    entries.extend(
        names
            .iter()
            .map(String::as_str)
            .zip(contents.iter().map(Vec::as_slice)),
    );
    pack(&entries)
}

#[test]
fn fetches_unpacks_and_records() {
    let content = small_archive();
    let server = Server::good(&content);
    let root = TempDir::new().unwrap();
    let folder = fetch_records(
        &cifar10::LAYOUT,
        &server.archive(&content),
        root.path(),
        20,
        &quick(),
        &mut |_, _| {},
    )
    .unwrap();
    assert_eq!(folder, root.path().join(FOLDER));
    // The archive is gone, the hashes are recorded.
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    assert!(folder.join(records::SUMS).exists());
    let loaded = cifar10::load_records(root.path(), 20).unwrap();
    assert_eq!(
        loaded.splits.train.sha256(),
        crate::synthetic::synthetic(3, 100, 20).train.sha256()
    );
    // Only the official checksum makes the images the official ones.
    assert_eq!(loaded.origin, Origin::Unrecorded);
    // An existing folder is never replaced.
    assert!(
        fetch_records(
            &cifar10::LAYOUT,
            &server.archive(&content),
            root.path(),
            20,
            &quick(),
            &mut |_, _| {}
        )
        .is_err()
    );
}

#[test]
fn a_good_archive_of_bad_files_leaves_nothing() {
    // The official size is demanded, the files have 20 records.
    let content = small_archive();
    let root = TempDir::new().unwrap();
    let file = root.path().join("archive.tar.gz");
    fs::write(&file, &content).unwrap();
    let error = unpack_cifar10(&archive("unused", &content), &file, root.path()).unwrap_err();
    assert!(matches!(error, DataError::WrongSize { .. }), "{error:?}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    let error = unpack_cifar10(&Archive::cifar10(), &file, root.path())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("expected c32a1d4ab5d03f1284b67883e8d87530"),
        "{error}"
    );
}

#[test]
fn strange_archives_are_refused() {
    let data = format!("{FOLDER}/{}", FILES[0]);
    let meta = format!("{FOLDER}/{META}");
    let good = small_archive();
    let long = vec![b'x'; 70_000];
    struct Case<'a> {
        bytes: Vec<u8>,
        message: &'a str,
    }
    let cases = [
        // A path that leaves the folder.
        Case {
            bytes: pack(&[("../evil", b"x")]),
            message: "\"../evil\"",
        },
        Case {
            bytes: pack(&[("cifar-10-batches-bin/../../evil", b"x")]),
            message: "expected only the files",
        },
        // An absolute path.
        Case {
            bytes: pack(&[("/tmp/evil", b"x")]),
            message: "\"/tmp/evil\"",
        },
        // A link in a file's place.
        Case {
            bytes: pack(&[(&format!("{data}@"), b"")]),
            message: "not a regular file",
        },
        // A folder in a file's place.
        Case {
            bytes: pack(&[(&format!("{data}/"), b"")]),
            message: "expected only the files",
        },
        // A file twice.
        Case {
            bytes: pack(&[(&data, b"x"), (&data, b"y")]),
            message: "twice",
        },
        // A text that is too long.
        Case {
            bytes: pack(&[(&meta, &long)]),
            message: "70000 bytes, expected at most 65536",
        },
        // Files that are absent.
        Case {
            bytes: pack(&[(&data, b"x")]),
            message: "lacks cifar-10-batches-bin/data_batch_2.bin",
        },
        // Not an archive.
        Case {
            bytes: b"<html>".to_vec(),
            message: "cannot unpack",
        },
        // Cut in the middle.
        Case {
            bytes: good[..good.len() / 2].to_vec(),
            message: "cannot unpack",
        },
        // Nothing.
        Case {
            bytes: vec![],
            message: "cannot unpack",
        },
    ];
    for (index, Case { bytes, message }) in cases.iter().enumerate() {
        let root = TempDir::new().unwrap();
        let file = root.path().join("archive.tar.gz");
        fs::write(&file, bytes).unwrap();
        let error = extract(&file, root.path()).unwrap_err();
        assert!(
            matches!(error, DataError::BadArchive { .. }),
            "case {index}: {error:?}"
        );
        let found = error.to_string();
        assert!(found.contains(message), "case {index}: {found}");
        assert!(
            found.contains("archive.tar.gz") && found.contains("fetch it again"),
            "case {index}: {found}"
        );
        // Neither the folder nor a part of it is left.
        assert_eq!(
            fs::read_dir(root.path()).unwrap().count(),
            1,
            "case {index}"
        );
    }
}

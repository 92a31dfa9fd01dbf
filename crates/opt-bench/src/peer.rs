//! A peer as a process that answers: one line of JSON for each line of JSON.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// How peers are brought, for errors.
const MEND: &str =
    "run `cargo xtask setup --peers`, or name a Python that has them with --python PATH";

/// Lines of a peer's standard error that an error repeats.
const LAST_WORDS: usize = 30;

/// Finds the Python of the peers: the one named, else the environment variable's.
///
/// # Errors
///
/// Neither is there; the message says how to fix it.
pub(crate) fn find_python(named: Option<&Path>, variable: Option<OsString>) -> Result<PathBuf> {
    named
        .map(Path::to_owned)
        .or_else(|| variable.filter(|v| !v.is_empty()).map(PathBuf::from))
        .with_context(|| format!("there is no Python with the programs to compare with; {MEND}"))
}

/// A Python that will run `script` with the protocol before it, on this many threads.
pub(crate) fn python(path: &Path, script: &str, threads: usize) -> Command {
    let mut command = Command::new(path);
    command
        .arg("-c")
        .arg(format!(
            "{}\n{script}",
            include_str!("../peers/protocol.py")
        ))
        // A file `torch.py` where the user happens to be is not PyTorch.
        .env("PYTHONSAFEPATH", "1")
        .env("OMP_NUM_THREADS", threads.to_string())
        .env("MKL_NUM_THREADS", threads.to_string());
    command
}

/// A running peer; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    name: String,
    child: Child,
    input: ChildStdin,
    answers: Receiver<std::io::Result<String>>,
    last_words: Option<JoinHandle<VecDeque<String>>>,
}

impl Peer {
    /// Starts a peer.
    ///
    /// # Errors
    ///
    /// There is no such program.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("the peer `{name}` cannot be started; {MEND}"))?;
        let (Some(input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            bail!("the peer `{name}` has no standard input, output and error");
        };
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let last_words = std::thread::spawn(move || {
            let mut last = VecDeque::new();
            for line in BufReader::new(errors).split(b'\n').map_while(Result::ok) {
                if last.len() == LAST_WORDS {
                    last.pop_front();
                }
                last.push_back(String::from_utf8_lossy(&line).into_owned());
            }
            last
        });
        Ok(Self {
            name,
            child,
            input,
            answers,
            last_words: Some(last_words),
        })
    }

    /// The process.
    #[must_use]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks, and waits at most `limit` for the answer.
    ///
    /// A peer that has not answered in time is no longer of use: its answer would be taken for that of the next request.
    ///
    /// # Errors
    ///
    /// The peer reports one, ends (its exit report is shown), says something that is no answer, or takes too long.
    pub(crate) fn ask<T: DeserializeOwned>(
        &mut self,
        request: &Value,
        limit: Duration,
    ) -> Result<T> {
        let what = request["do"].as_str().unwrap_or("a request").to_owned();
        let mut line = request.to_string();
        line.push('\n');
        // A peer that has ended is found out by its silence, with its exit report.
        let _ = self
            .input
            .write_all(line.as_bytes())
            .and_then(|()| self.input.flush());
        let answer = match self.answers.recv_timeout(limit) {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => bail!("reading what the peer `{}` answered: {error}", self.name),
            Err(RecvTimeoutError::Timeout) => bail!(
                "the peer `{}` did not answer `{what}` within {} s",
                self.name,
                limit.as_secs()
            ),
            Err(RecvTimeoutError::Disconnected) => bail!("{}", self.exit_report(&what)),
        };
        let not_one = || {
            format!(
                "the peer `{}` answered `{what}` with `{answer}`, which is not the JSON expected",
                self.name
            )
        };
        let mut reply: serde_json::Map<String, Value> =
            serde_json::from_str(&answer).with_context(not_one)?;
        if let Some(error) = reply.get("error") {
            let text = error.as_str().unwrap_or_default().trim_end();
            bail!("the peer `{}` failed at `{what}`:\n{text}", self.name);
        }
        let value = reply.remove("ok").with_context(not_one)?;
        serde_json::from_value(value).with_context(not_one)
    }

    /// How the peer ended.
    fn exit_report(&mut self, what: &str) -> String {
        // Its output is closed; it may have closed that and live on.
        let _ = self.child.kill();
        let status = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let words = self.last_words.take().and_then(|t| t.join().ok());
        let words = Vec::from(words.unwrap_or_default()).join("\n");
        let name = &self.name;
        let mut text = format!(
            "the peer `{name}` ended ({status}) before it answered `{what}`; it said:\n{words}"
        );
        if words.contains("ModuleNotFoundError") {
            text += &format!("\nsomething that the comparison needs is not installed: {MEND}");
        }
        text
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::process::Memory;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Peer {
        Peer::start(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn the_python_named_wins_and_none_is_an_error_with_its_mend() {
        let variable = || Some(OsString::from("/b"));
        let named = Some(Path::new("/a"));
        assert_eq!(find_python(named, variable()).unwrap(), Path::new("/a"));
        assert_eq!(find_python(None, variable()).unwrap(), Path::new("/b"));
        for missing in [None, Some(OsString::new())] {
            let error = find_python(None, missing).unwrap_err().to_string();
            assert!(error.contains("cargo xtask setup --peers"), "{error}");
        }
    }

    #[test]
    fn a_python_that_is_not_there_names_itself_and_the_mend() {
        let error = Peer::start(&mut python(Path::new("/nowhere/python"), "", 1)).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("`/nowhere/python` cannot be started")
                && error.contains("cargo xtask setup --peers"),
            "{error}"
        );
    }

    #[test]
    fn answers_and_what_is_none() {
        struct Case {
            script: &'static str,
            expected: Result<u32, &'static str>,
        }
        let cases = [
            Case {
                script: r#"read x; echo '{"ok": 7}'; read x"#,
                expected: Ok(7),
            },
            // The peer's own error, whole.
            Case {
                script: r#"read x; printf '%s\n' '{"error": "first\nsecond\n"}'; read x"#,
                expected: Err("failed at `count`:\nfirst\nsecond"),
            },
            // No JSON, another JSON, and a value of another type.
            Case {
                script: "read x; echo garbage; read x",
                expected: Err("answered `count` with `garbage`"),
            },
            Case {
                script: "read x; echo '{}'; read x",
                expected: Err("which is not the JSON expected"),
            },
            Case {
                script: r#"read x; echo '{"ok": "seven"}'; read x"#,
                expected: Err("which is not the JSON expected"),
            },
            // Dies at once, and in the middle of an answer; what it said is shown.
            Case {
                script: "echo 'out of luck' >&2; exit 3",
                expected: Err("(exit status: 3) before it answered `count`; it said:\nout of luck"),
            },
            Case {
                script: "read x; kill -9 $$",
                expected: Err("(signal: 9 (SIGKILL)) before it answered `count`"),
            },
            // A module that is missing, with the fix.
            Case {
                script: "echo \"ModuleNotFoundError: No module named 'torch'\" >&2; exit 1",
                expected: Err("not installed: run `cargo xtask setup --peers`"),
            },
        ];
        for Case { script, expected } in cases {
            let answer = shell(script).ask::<u32>(&json!({"do": "count"}), TIMEOUT);
            match (answer, expected) {
                (Ok(answer), Ok(expected)) => assert_eq!(answer, expected),
                (Err(error), Err(expected)) => {
                    let error = format!("{error:#}");
                    assert!(error.contains(expected), "{script}: {error}");
                }
                (answer, expected) => panic!("{script}: {answer:?} for {expected:?}"),
            }
        }
    }

    #[test]
    fn a_peer_that_does_not_answer_is_given_up() {
        let mut peer = shell("read x; exec sleep 600");
        let error = peer.ask::<u32>(&json!({"do": "wait"}), Duration::from_millis(50));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("did not answer `wait` within"), "{error}");
    }

    #[test]
    fn only_the_last_words_are_kept() {
        let mut peer =
            shell("i=0; while [ $i -lt 100 ]; do echo line-$i >&2; i=$((i+1)); done; exit 1");
        let error = peer.ask::<u32>(&json!({"do": "x"}), TIMEOUT).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("line-99") && error.contains("line-70") && !error.contains("line-69"),
            "{error}"
        );
    }

    #[test]
    #[ignore = "needs python3; `cargo xtask test` runs it where there is one"]
    fn the_protocol_in_python() {
        let script = "def double(n):\n    print('no answer')\n    os.system('echo nor this')\n    return 2 * n\n\n\
            serve({'double': double, 'memory': memory})\n";
        let mut peer = Peer::start(&mut python(Path::new("python3"), script, 1)).unwrap();
        // What the script and its children print goes elsewhere.
        let double = json!({"do": "double", "n": 21});
        assert_eq!(peer.ask::<u32>(&double, TIMEOUT).unwrap(), 42);
        // An error is answered with its traceback, and the peer lives on.
        let error = peer.ask::<u32>(&json!({"do": "double"}), TIMEOUT);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("TypeError"), "{error}");
        let unknown = peer.ask::<u32>(&json!({"do": "nothing"}), TIMEOUT);
        assert!(unknown.unwrap_err().to_string().contains("KeyError"));
        if cfg!(target_os = "linux") {
            let memory: Option<Memory> = peer.ask(&json!({"do": "memory"}), TIMEOUT).unwrap();
            let Memory { now, peak } = memory.unwrap();
            assert!(1024 < now && now <= peak, "{now} {peak}");
        }
    }
}

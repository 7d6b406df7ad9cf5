//! Where results go: standard output, and files that are whole or not there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use nanomoe::{Error, Result};

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// To be told on standard error.
    Error(Error),
    /// The command found what it was to look for, and has said so: exit code 1.
    Found,
    /// The time allowed is over, and has been said so: exit code 3.
    OutOfTime,
    /// Ctrl-C, and what was made until then has been shown: exit code 130.
    Interrupted,
    /// Nobody reads standard output any more: no reason to complain.
    ClosedPipe,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::Error(Error::io("standard output", error)),
        }
    }
}

/// What a command gives.
pub type Done = std::result::Result<(), Failure>;

/// Whether to write colours: a terminal, and nobody set `NO_COLOR`.
pub fn colors() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Says a line on standard error. Nobody may be reading it, which is no reason to stop.
pub fn tell(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes `bytes` to `path` so that the file is never seen in part: into a new file beside it, then renamed. A link is
/// followed; what is there and is no regular file (a pipe, a terminal, `/dev/null`) is written to and stays what it is.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    if path.file_name().is_none() {
        return Err(Error::Usage(format!("{} is not the name of a file", path.display())));
    }
    let written = match fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(bytes))
        }
        Ok(_) => fs::canonicalize(path).and_then(|target| replace(&target, bytes)),
        Err(_) => follow(path).and_then(|target| replace(&target, bytes)),
    };
    written.map_err(|error| Error::io(path, error))
}

/// Where a link that leads to nothing yet leads; `path` itself if it is no link.
fn follow(path: &Path) -> io::Result<PathBuf> {
    // As many as Linux follows.
    const MOST_LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many links"))
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut partial = path.file_name().unwrap_or_default().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(partial);
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&partial, path)).inspect_err(|_| {
        let _ = fs::remove_file(&partial);
    })
}

/// A number of bytes for people: `1.5 MB`.
pub fn bytes_text(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// A count with its thousands apart: `11,606,272`.
pub fn count_text(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

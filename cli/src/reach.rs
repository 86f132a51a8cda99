//! The way to a broker, and how its refusals read.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use npfs::{Error, Namespace};

/// The names at `socket`, or this user's; then a broker is started if none runs.
pub(crate) fn any(socket: Option<&Path>) -> anyhow::Result<Namespace> {
    match socket {
        Some(path) => connect(path),
        None => Namespace::open().map_err(no_broker),
    }
}

/// As [`any`], but only looks: no broker is started to be asked what it knows.
pub(crate) fn running(socket: Option<&Path>) -> anyhow::Result<Namespace> {
    connect(&place(socket))
}

/// Where the broker listens.
pub(crate) fn place(socket: Option<&Path>) -> PathBuf {
    socket.map_or_else(npfs::default_socket, Path::to_owned)
}

fn connect(path: &Path) -> anyhow::Result<Namespace> {
    Namespace::connect(path).map_err(no_broker)
}

/// The usual reason gets the remedy instead of the system's words.
fn no_broker(error: Error) -> anyhow::Error {
    match &error {
        Error::NoBroker {
            path,
            source: Some(source),
        } if nobody_listens(source.kind()) => {
            anyhow!("no broker at {path} (start one with: npfs broker)")
        }
        _ => error.into(),
    }
}

fn nobody_listens(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

/// An error about one pipe says which.
pub(crate) fn about(name: &str, error: Error) -> anyhow::Error {
    match error {
        Error::Name(_)
        | Error::NoSuchPipe
        | Error::InstancesExhausted
        | Error::NoListener
        | Error::AccessDenied
        | Error::InvalidMode
        | Error::InvalidParameter(_)
        | Error::TimedOut => anyhow!("{error}: {}", printable(name)),
        other => other.into(),
    }
}

/// Names are other people's choice: control characters would reach the terminal.
pub(crate) fn printable(text: &str) -> String {
    let escaped = text.chars().map(|letter| match letter {
        letter if letter.is_control() => letter.escape_default().to_string(),
        letter => letter.to_string(),
    });
    escaped.collect()
}

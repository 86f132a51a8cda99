//! What the parent and its workers say to each other: JSON over a socket, descriptors beside it.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::sys;
use crate::transport::{Kind, Role, Ticket};
use crate::workloads::{Outcome, Pace};

/// From the parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// First of all; the descriptor is the probe's cache lines, the socket the broker's.
    Hello {
        role: Role,
        cpu: usize,
        clock: Clock,
        socket: PathBuf,
    },
    /// Open this (answered by `Ready`), and after `Go` do that, between two probes of the lines,
    /// which hold `lines` now. One CPU cannot probe.
    Run {
        lines: Option<u64>,
        kind: Kind,
        ticket: Ticket,
        task: Task,
        pace: Pace,
    },
    /// Start.
    Go,
    /// Hold so many connections of this pipe, none of which carries anything, instead of those held now. The server
    /// answers `Ready` twice: when it has made its ends, and when all are connected; the client once. `reads`: a read
    /// pends on each of their ends.
    Hold {
        count: u32,
        name: String,
        reads: bool,
    },
}

/// What to do with a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Task {
    RoundTrip,
    OneWay,
    /// Open and close, against listen and disconnect.
    Connect,
    /// Many connections, all answered by one thread.
    Serve,
    /// Both sleep in a read; at `Go` the client's second thread sends what wakes them.
    Idle,
}

/// Round trips of the probe right before and right after a run, in tenths of a nanosecond.
pub(crate) type Probes = [u64; 2];

/// To the parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Ready,
    Done(Outcome, Option<Probes>),
    Failed(String),
}

/// One end of the control socket.
#[derive(Debug)]
pub(crate) struct Control(UnixStream);

/// A frame longer than this is not ours: histograms take some 100 KB.
const MAX_FRAME: u32 = 16 << 20;

const MARK: u8 = b'n';

impl Control {
    pub(crate) fn new(socket: UnixStream) -> Control {
        Control(socket)
    }

    /// Sends a frame: a byte that carries the descriptors, the length, the JSON.
    pub(crate) fn send(&self, frame: &impl Serialize, fds: &[OwnedFd]) -> io::Result<()> {
        let body = serde_json::to_vec(frame)?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        sys::send_fds(&self.0, MARK, &fds)?;
        (&self.0).write_all(&length.to_le_bytes())?;
        (&self.0).write_all(&body)
    }

    /// Receives a frame; blocks. `UnexpectedEof` once the other end has gone.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<(T, Vec<OwnedFd>)> {
        let (mark, fds) = sys::recv_fds(&self.0)?;
        let mut length = [0; 4];
        (&self.0).read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if mark != MARK || length > MAX_FRAME {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; length as usize];
        (&self.0).read_exact(&mut body)?;
        Ok((serde_json::from_slice(&body)?, fds))
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

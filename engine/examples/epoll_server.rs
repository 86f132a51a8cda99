//! `event_server` as one writes it without npfs: unix sockets and epoll(7), one thread.
//!
//! ```text
//! cargo run --release -p npfs --example epoll_server -- /tmp/echo.sock
//! ```

use std::{
    collections::HashMap,
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
};

use rustix::event::epoll;

/// Bytes that one read takes at most.
const ROOM: usize = 4096;
/// The listener's token.
const LISTENER: u64 = 0;

/// A client, and what it has not taken yet.
struct Peer {
    stream: UnixStream,
    unsent: Vec<u8>,
}

impl Peer {
    /// Reads what is there and sends it back. `false`: the client has gone.
    fn go_on(&mut self, room: &mut [u8]) -> bool {
        loop {
            while !self.unsent.is_empty() {
                match self.stream.write(&self.unsent) {
                    Ok(count) => drop(self.unsent.drain(..count)),
                    Err(error) => return error.kind() == ErrorKind::WouldBlock,
                }
            }
            match self.stream.read(room) {
                Ok(0) => return false,
                Ok(count) => match self.stream.write(&room[..count]) {
                    Ok(sent) => self.unsent.extend_from_slice(&room[sent..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.unsent.extend_from_slice(&room[..count]);
                    }
                    Err(_) => return false,
                },
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }
}

/// Serves until `is_over` says so, which is asked after each batch with the number of sockets that are left, the listening
/// one among them, and of those that have been.
#[allow(unreachable_pub, reason = "the benchmark includes this file, too")]
pub fn serve(path: &Path, is_over: impl Fn(usize, u64) -> bool) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let watch = |socket: rustix::fd::BorrowedFd<'_>, token| {
        let data = epoll::EventData::new_u64(token);
        // Edges: whoever is told goes on until nothing is left.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&poll, socket, data, flags)
    };
    watch(listener.as_fd(), LISTENER)?;
    let mut peers: HashMap<u64, Peer> = HashMap::new();
    let mut next = LISTENER + 1;
    let mut events = Vec::with_capacity(64);
    let mut room = vec![0; ROOM];
    while !is_over(peers.len() + 1, next) {
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        for event in &events {
            let token = event.data.u64();
            if token == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    watch(stream.as_fd(), next)?;
                    let unsent = Vec::new();
                    peers.insert(next, Peer { stream, unsent });
                    next += 1;
                }
            } else if let Some(peer) = peers.get_mut(&token)
                && !peer.go_on(&mut room)
            {
                peers.remove(&token);
            }
        }
    }
    Ok(())
}

#[allow(dead_code, reason = "the benchmark includes this file for `serve`")]
fn main() -> io::Result<()> {
    let path = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "echo.sock".to_owned());
    println!("serving {path}");
    serve(Path::new(&path), |_, _| false)
}

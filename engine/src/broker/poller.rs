//! What a worker sleeps on: readiness of descriptors, edge-triggered, over io_uring or epoll.
//!
//! One poll request a descriptor stays in the ring and reports every edge; whoever is told reads until nothing is
//! left. Which of the two it is is found by trying (io_uring may be absent, or forbidden by seccomp or sysctl).

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    time::Duration,
};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::sys;

/// How a broker waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoKind {
    /// io_uring if it works here, else epoll. The environment variable `NPFS_BROKER_IO` (`uring`, `epoll`) decides first.
    #[default]
    Probe,
    /// io_uring, or an error.
    Uring,
    /// epoll.
    Epoll,
}

impl IoKind {
    fn decide(self) -> IoKind {
        match (self, std::env::var("NPFS_BROKER_IO").as_deref()) {
            (IoKind::Probe, Ok("uring")) => IoKind::Uring,
            (IoKind::Probe, Ok("epoll")) => IoKind::Epoll,
            (kind, _) => kind,
        }
    }
}

/// The sleep of one worker.
#[derive(Debug)]
pub(super) enum Poller {
    Uring(Box<Uring>),
    Epoll(Epoll),
}

impl Poller {
    pub(super) fn new(kind: IoKind) -> io::Result<Poller> {
        match kind.decide() {
            IoKind::Epoll => Epoll::new().map(Poller::Epoll),
            IoKind::Uring => Uring::new().map(|ring| Poller::Uring(Box::new(ring))),
            IoKind::Probe => match Uring::new() {
                Ok(ring) => Ok(Poller::Uring(Box::new(ring))),
                Err(error) => {
                    tracing::info!("no io_uring here ({error}), epoll instead");
                    Epoll::new().map(Poller::Epoll)
                }
            },
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Poller::Uring(_) => "io_uring",
            Poller::Epoll(_) => "epoll",
        }
    }

    /// Watches for input. The descriptor stays open until `remove`.
    pub(super) fn add(&mut self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        match self {
            Poller::Uring(ring) => ring.add(fd, key),
            Poller::Epoll(epoll) => epoll.add(fd, key),
        }
    }

    /// Reports `key` once, when there is room for output.
    pub(super) fn once_writable(&mut self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        match self {
            Poller::Uring(ring) => ring.push(
                opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), POLL_OUT)
                    .build()
                    .user_data(key),
            ),
            Poller::Epoll(epoll) => epoll.once_writable(fd, key),
        }
    }

    /// Watches no longer: neither input (`key`) nor room.
    pub(super) fn remove(&mut self, fd: BorrowedFd<'_>, key: u64) {
        match self {
            Poller::Uring(ring) => ring.remove(key),
            Poller::Epoll(epoll) => epoll.remove(fd),
        }
    }

    /// Sleeps until something is ready, and says what: keys, some perhaps in vain.
    pub(super) fn wait(
        &mut self,
        timeout: Option<Duration>,
        ready: &mut Vec<u64>,
    ) -> io::Result<()> {
        match self {
            Poller::Uring(ring) => ring.wait(timeout, ready),
            Poller::Epoll(epoll) => epoll.wait(timeout, ready),
        }
    }
}

const POLL_IN: u32 = (libc::POLLIN | libc::POLLRDHUP) as u32;
const POLL_OUT: u32 = libc::POLLOUT as u32;
const ENTRIES: u32 = 256;
/// `user_data` of requests whose completion says nothing.
const NOBODY: u64 = u64::MAX;

pub(super) struct Uring {
    ring: IoUring,
    /// What is watched, to watch it again when a poll request ends by itself.
    watched: HashMap<u64, RawFd>,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").finish_non_exhaustive()
    }
}

impl Uring {
    fn new() -> io::Result<Uring> {
        // Single issuer with deferred work (6.1): completions come when this thread asks, without interrupting it.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(ENTRIES)
            .or_else(|_| IoUring::new(ENTRIES))?;
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [opcode::PollAdd::CODE, opcode::PollRemove::CODE];
        if !ring.params().is_feature_ext_arg() || needed.iter().any(|op| !probe.is_supported(*op)) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "its kernel is too old for timed waits",
            ));
        }
        Ok(Uring {
            ring,
            watched: HashMap::new(),
        })
    }

    fn add(&mut self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        self.watched.insert(key, fd.as_raw_fd());
        self.watch(fd.as_raw_fd(), key)
    }

    fn watch(&mut self, fd: RawFd, key: u64) -> io::Result<()> {
        let poll = opcode::PollAdd::new(types::Fd(fd), POLL_IN).multi(true);
        self.push(poll.build().user_data(key))
    }

    fn remove(&mut self, key: u64) {
        self.watched.remove(&key);
        let remove = opcode::PollRemove::new(key).build().user_data(NOBODY);
        // If the ring is broken, the worker hears of it from its next wait.
        let _ = self.push(remove);
        let _ = self.ring.submit();
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: poll requests refer to no memory. Their descriptors are open when they are submitted; one that
            // was closed since is an error completion.
            match unsafe { self.ring.submission().push(&entry) } {
                Ok(()) => return Ok(()),
                Err(_full) => {
                    self.ring.submit()?;
                }
            }
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<u64>) -> io::Result<()> {
        let waited = match timeout {
            None => self.ring.submit_and_wait(1),
            Some(timeout) => {
                let time = types::Timespec::from(timeout);
                let args = types::SubmitArgs::new().timespec(&time);
                self.ring.submitter().submit_with_args(1, &args)
            }
        };
        match waited.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) => {}
            Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY), _)) => {}
            Err((_, error)) => return Err(error),
        }
        let mut ended = Vec::new();
        for entry in self.ring.completion() {
            let key = entry.user_data();
            if key == NOBODY {
                continue;
            }
            // Also when it failed: whoever reads the descriptor then finds out why.
            ready.push(key);
            if !cqueue::more(entry.flags()) {
                ended.push((key, entry.result()));
            }
        }
        for (key, result) in ended {
            if result == -libc::ECANCELED {
                continue;
            }
            // One-shot requests for room have keys of their own, which are not watched.
            if let Some(&fd) = self.watched.get(&key) {
                self.watch(fd, key)?;
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Epoll {
    fd: OwnedFd,
    /// Duplicates for the writable events: an epoll set holds a descriptor once.
    writers: HashMap<u64, OwnedFd>,
}

impl Epoll {
    fn new() -> io::Result<Epoll> {
        Ok(Epoll {
            fd: sys::epoll()?,
            writers: HashMap::new(),
        })
    }

    fn add(&mut self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        let events = libc::EPOLLIN | libc::EPOLLRDHUP;
        sys::epoll_add(self.fd.as_fd(), fd, events, key)
    }

    fn once_writable(&mut self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        let twin = fd.try_clone_to_owned()?;
        let events = libc::EPOLLOUT | libc::EPOLLONESHOT;
        sys::epoll_add(self.fd.as_fd(), twin.as_fd(), events, key)?;
        self.writers.insert(key, twin);
        Ok(())
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) {
        sys::epoll_remove(self.fd.as_fd(), fd);
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<u64>) -> io::Result<()> {
        // Rounded up: a loop that wakes up early would turn for a millisecond.
        let milliseconds = timeout.map_or(-1, |timeout| {
            i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
        });
        let before = ready.len();
        sys::epoll_wait(self.fd.as_fd(), milliseconds, ready)?;
        for key in &ready[before..] {
            if let Some(twin) = self.writers.remove(key) {
                sys::epoll_remove(self.fd.as_fd(), twin.as_fd());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> Vec<Poller> {
        let kinds = [IoKind::Uring, IoKind::Epoll];
        kinds
            .into_iter()
            .filter_map(|kind| Poller::new(kind).ok())
            .collect()
    }

    #[test]
    fn input_is_reported_once_an_edge_and_not_after_removal() {
        for mut poller in both() {
            let name = poller.name();
            let (a, b) = sys::pair().expect("socketpair");
            poller.add(a.as_fd(), 7).expect("add");
            let mut ready = Vec::new();
            let brief = Some(Duration::from_millis(20));
            poller.wait(brief, &mut ready).expect("wait");
            assert_eq!(ready, [], "{name}");
            for _ in 0..3 {
                sys::send(b.as_fd(), b"x", None, true).expect("send");
                ready.clear();
                poller.wait(None, &mut ready).expect("wait");
                assert_eq!(ready, [7], "{name}");
                sys::receive(a.as_fd(), &mut [0; 8], false).expect("receive");
            }
            poller.remove(a.as_fd(), 7);
            sys::send(b.as_fd(), b"x", None, true).expect("send");
            ready.clear();
            poller.wait(brief, &mut ready).expect("wait");
            ready.retain(|&key| key == 7);
            // The removal itself may be reported once; what follows may not.
            ready.clear();
            poller.wait(brief, &mut ready).expect("wait");
            assert_eq!(ready, [], "{name}");
        }
    }

    #[test]
    fn room_for_output_is_reported_once() {
        for mut poller in both() {
            let (a, _b) = sys::pair().expect("socketpair");
            poller.once_writable(a.as_fd(), 9).expect("watch");
            let mut ready = Vec::new();
            poller.wait(None, &mut ready).expect("wait");
            assert_eq!(ready, [9]);
            ready.clear();
            let brief = Some(Duration::from_millis(20));
            poller.wait(brief, &mut ready).expect("wait");
            assert_eq!(ready, []);
        }
    }
}

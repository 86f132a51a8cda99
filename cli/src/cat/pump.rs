//! Two copies at once: standard input to the pipe, and the pipe to standard output.
//!
//! The first has a thread of its own, which may hang in standard input for ever and is then left behind. The second is
//! the main thread's, which also decides when it is over; the rule stands in `npfs cat --help`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::mem;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use npfs::{Cancel, Client, Deadline, Error, Read, Server, State};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// An end of a pipe, either.
#[derive(Debug)]
pub(super) enum End {
    Server(Server),
    Client(Client),
}

/// Which copies there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Standard input to the pipe.
    In,
    /// The pipe to standard output.
    Out,
    Both,
}

/// An end and what is copied over it.
#[derive(Debug)]
pub(super) struct Pump {
    end: Arc<End>,
    way: Way,
    lines: bool,
    linger: Duration,
    shared: Arc<Shared>,
}

/// What the two threads tell each other.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<Progress>,
    changed: Condvar,
    /// Ends what the main thread waits for at the pipe.
    wake: Cancel,
}

#[derive(Debug, Default)]
struct Progress {
    /// Clients so far; of a client, 0.
    client: u64,
    input: Input,
    /// Something could not be sent to the last client: it had closed.
    lost: bool,
    /// The main thread knows how the input has ended.
    noticed: bool,
}

/// How far standard input is.
#[derive(Debug, Default)]
enum Input {
    /// What was read from it has been written to the pipe, except perhaps half a line.
    #[default]
    Idle,
    /// The pipe is being written to.
    Sending,
    /// It has ended, and the other end has read everything or has gone.
    Done,
    Failed(anyhow::Error),
}

/// Why a copy is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Nothing is left to do here.
    Here,
    /// The other end has closed.
    There,
}

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// How often an end that does not read looks whether the other one is still there.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How often the main thread looks what the other one makes of the rest of its input.
const SOON: Duration = Duration::from_millis(10);

impl Pump {
    /// `linger`: how long to read on after standard input has ended, while nothing comes.
    pub(super) fn new(end: End, way: Way, lines: bool, linger: Duration) -> Pump {
        Pump {
            end: Arc::new(end),
            way,
            lines,
            linger,
            shared: Arc::default(),
        }
    }

    /// One connection.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        self.start_input();
        match self.copy()? {
            Ended::Here => Ok(()),
            Ended::There => self.settle(),
        }
    }

    /// One client, or one after the other.
    pub(super) fn serve(&self, keep: bool) -> anyhow::Result<()> {
        let End::Server(server) = &*self.end else {
            return self.run();
        };
        self.connect(server)?;
        if !keep {
            return self.run();
        }
        self.start_input();
        while self.copy()? == Ended::There {
            match server.disconnect() {
                Ok(()) | Err(Error::Disconnected) => {}
                Err(error) => return Err(error.into()),
            }
            if self.connect(server)? == Ended::Here {
                break;
            }
        }
        Ok(())
    }

    /// Waits for the next client; `Ended::Here`: there is nothing to do for it.
    fn connect(&self, server: &Server) -> anyhow::Result<Ended> {
        loop {
            if self.input_is_done()? && self.way == Way::In {
                return Ok(Ended::Here);
            }
            match server.connect_with(&self.shared.wake, Deadline::NEVER) {
                // A client that has come and gone may have left something to read.
                Ok(()) | Err(Error::Closing) => break,
                Err(Error::Cancelled) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut state = self.shared.lock();
        state.client += 1;
        state.lost = false;
        self.shared.changed.notify_all();
        Ok(Ended::There)
    }

    /// What could not be sent to the end that has closed is a failure.
    fn settle(&self) -> anyhow::Result<()> {
        let mut state = self.shared.lock();
        loop {
            if state.lost {
                bail!("the other end closed before everything was sent");
            }
            let more = match state.take_failure()? {
                Input::Sending => true, // a write to a closed end ends by itself
                Input::Idle => self.way != Way::Out && is_readable(&io::stdin()),
                Input::Done | Input::Failed(_) => false,
            };
            if !more {
                return Ok(());
            }
            // Not for long: what was to be read may turn out to be half a line.
            let changed = self.shared.changed.wait_timeout(state, SOON);
            (state, _) = changed.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn copy(&self) -> anyhow::Result<Ended> {
        match self.way {
            Way::In => self.watch(),
            Way::Out | Way::Both => self.receive(),
        }
    }

    /// The pipe to standard output.
    fn receive(&self) -> anyhow::Result<Ended> {
        let mut out = io::stdout().lock();
        let mut buf = vec![0; CHUNK];
        loop {
            let deadline = if self.input_is_done()? {
                Deadline::after(self.linger)
            } else {
                Deadline::NEVER
            };
            let read = match self.end.read(&mut buf, &self.shared.wake, deadline) {
                Ok(read) => read,
                Err(Error::Cancelled) => continue,
                Err(Error::TimedOut) => return Ok(Ended::Here),
                Err(error) if has_gone(&error) => return Ok(Ended::There),
                Err(error) => return Err(error.into()),
            };
            let mut written = out.write_all(&buf[..read.count()]);
            // The rest of a long message comes with the next reads.
            if self.lines && matches!(read, Read::Whole(_)) {
                written = written.and_then(|()| out.write_all(b"\n"));
            }
            match written.and_then(|()| out.flush()) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Ended::Here),
                Err(error) => return Err(error).context("standard output"),
            }
        }
    }

    /// Nothing to read, and so nothing that would say that the other end has closed.
    fn watch(&self) -> anyhow::Result<Ended> {
        loop {
            if self.input_is_done()? {
                return Ok(Ended::Here);
            }
            if !self.end.is_connected() {
                return Ok(Ended::There);
            }
            let state = self.shared.lock();
            if !matches!(state.input, Input::Done | Input::Failed(_)) {
                drop(self.shared.changed.wait_timeout(state, LOOK_AGAIN));
            }
        }
    }

    fn input_is_done(&self) -> anyhow::Result<bool> {
        let mut state = self.shared.lock();
        let done = matches!(state.take_failure()?, Input::Done);
        state.noticed |= done;
        Ok(done)
    }

    fn start_input(&self) {
        if self.way == Way::Out {
            return;
        }
        let shared = self.shared.clone();
        // Weak: an end that the main thread has done with closes, wherever this thread hangs.
        let end = Arc::downgrade(&self.end);
        let lines = self.lines;
        thread::spawn(move || {
            let input = match shared.send(&end, lines) {
                Ok(()) => Input::Done,
                Err(error) => Input::Failed(error),
            };
            shared.finish(input);
        });
    }
}

impl Shared {
    /// Standard input to the pipe.
    fn send(&self, end: &Weak<End>, lines: bool) -> anyhow::Result<()> {
        // Not std's buffer: nobody can look whether that one holds another line.
        let stdin = io::stdin().as_fd().try_clone_to_owned();
        let stdin = File::from(stdin.context("standard input")?);
        let mut stdin = BufReader::with_capacity(CHUNK, stdin);
        let mut chunk = Vec::new();
        while next(&mut stdin, lines, &mut chunk).context("standard input")? {
            loop {
                let Some(end) = end.upgrade() else {
                    return Ok(());
                };
                let client = self.tell(Input::Sending);
                match end.write(&chunk) {
                    Ok(_) => break,
                    // Taken in part; the next client could make nothing of the rest.
                    Err(Error::Broken) => {
                        self.lose();
                        break;
                    }
                    Err(error) if has_gone(&error) => {
                        self.lose();
                        drop(end);
                        self.wait_for_another(client);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if !stdin.buffer().contains(&b'\n') {
                self.tell(Input::Idle);
            }
        }
        if let Some(end) = end.upgrade() {
            // It fails if the other end has closed, which is not for this thread to judge.
            let _ = end.flush();
        }
        Ok(())
    }

    /// Says how far it is; the answer is which client is served.
    fn tell(&self, input: Input) -> u64 {
        let mut state = self.lock();
        state.input = input;
        self.changed.notify_all();
        state.client
    }

    fn lose(&self) {
        let mut state = self.lock();
        state.lost = true;
        state.input = Input::Idle;
        self.changed.notify_all();
    }

    fn wait_for_another(&self, client: u64) {
        let mut state = self.lock();
        while state.client == client {
            state = self.wait(state);
        }
    }

    /// Says so until it is heard: the main thread may be about to wait at the pipe.
    fn finish(&self, input: Input) {
        self.tell(input);
        while !self.lock().noticed && !self.wake.cancel() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, Progress>) -> MutexGuard<'a, Progress> {
        let changed = self.changed.wait(state);
        changed.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    /// How far the input is, unless it has failed.
    fn take_failure(&mut self) -> anyhow::Result<&Input> {
        if matches!(self.input, Input::Failed(_))
            && let Input::Failed(error) = mem::replace(&mut self.input, Input::Done)
        {
            return Err(error);
        }
        Ok(&self.input)
    }
}

/// The next piece of standard input; `false`: it has ended. A line comes without its newline.
fn next(stdin: &mut impl BufRead, lines: bool, chunk: &mut Vec<u8>) -> io::Result<bool> {
    chunk.clear();
    if lines {
        let any = stdin.read_until(b'\n', chunk)? > 0;
        if chunk.last() == Some(&b'\n') {
            chunk.pop();
        }
        return Ok(any);
    }
    chunk.resize(CHUNK, 0);
    loop {
        match stdin.read(chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(count) => {
                chunk.truncate(count);
                return Ok(count > 0);
            }
        }
    }
}

/// Whether a read would not wait: something is there, or nothing will ever be.
fn is_readable(stdin: &impl AsFd) -> bool {
    let mut asked = [PollFd::new(stdin, PollFlags::IN)];
    matches!(poll(&mut asked, Some(&Timespec::default())), Ok(1..))
}

/// Whether the other end has closed.
fn has_gone(error: &Error) -> bool {
    matches!(
        error,
        Error::Broken | Error::Closing | Error::Disconnected | Error::NotConnected
    )
}

impl End {
    fn read(&self, buf: &mut [u8], wake: &Cancel, deadline: Deadline) -> npfs::Result<Read> {
        match self {
            End::Server(server) => server.read_with(buf, wake, deadline),
            End::Client(client) => client.read_with(buf, wake, deadline),
        }
    }

    fn write(&self, data: &[u8]) -> npfs::Result<usize> {
        match self {
            End::Server(server) => server.write(data),
            End::Client(client) => client.write(data),
        }
    }

    fn flush(&self) -> npfs::Result<()> {
        match self {
            End::Server(server) => server.flush(),
            End::Client(client) => client.flush(),
        }
    }

    fn is_connected(&self) -> bool {
        let state = match self {
            End::Server(server) => server.state(),
            End::Client(client) => client.state(),
        };
        state == State::Connected
    }
}

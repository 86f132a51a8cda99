//! A second process that holds one end and obeys commands.

use crate::cmd::{Cmd, Packet, Reply};
use crate::driver::Driver;
use crate::sys::{self, Seen};
use std::io::{BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long an answer may take. Commands do not block, so a longer silence is a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running child. Dropping it kills and reaps it, stopped or not.
pub struct Child {
    process: std::process::Child,
    socket: BufReader<UnixStream>,
}

impl Child {
    /// Starts `exe` (see [`crate::child_exe!`]) with a descriptor of the link's memory. It attaches once it is told its
    /// index, by [`Child::attach`].
    ///
    /// # Panics
    /// If the process cannot be made.
    pub fn spawn(exe: &str, link: OwnedFd) -> Child {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        ours.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // The socket is the child's stdin and the memory its stdout: descriptors that a process inherits by number.
        let process = Command::new(exe)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(link))
            .spawn()
            .expect("the child binary runs");
        Child {
            process,
            socket: BufReader::new(ours),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Tells it its index in the link; it joins before this returns.
    ///
    /// # Panics
    /// If it cannot.
    pub fn attach(&mut self, process: u8) {
        self.socket
            .get_mut()
            .write_all(&[process])
            .expect("the child reads");
        assert_eq!(self.receive(), Some(Reply::Flag(true)));
    }

    /// Sends a command and does not wait for its answer.
    pub fn send(&mut self, cmd: &Cmd) {
        // A child that has been killed reads no more: the answer will be missing, and that tells.
        let _ = cmd.encode().send(self.socket.get_mut());
    }

    /// The next answer; `None` if the child has gone.
    ///
    /// # Panics
    /// If nothing comes for a minute.
    pub fn receive(&mut self) -> Option<Reply> {
        match Packet::receive(&mut self.socket) {
            Ok(packet) => Some(Reply::decode(packet)),
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                panic!("the child did not answer for {PATIENCE:?}")
            }
            Err(_) => None,
        }
    }

    /// Waits until it has stopped or ended, without reaping it.
    pub fn watch(&self, limit: Duration) -> Seen {
        sys::watch(self.pid(), limit)
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it cannot be sent.
    pub fn signal(&self, signal: i32) {
        sys::signal(self.pid(), signal).expect("our own child");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The whole life of the child binary.
///
/// # Panics
/// If it was not started by [`Child::spawn`].
pub fn main() {
    sys::die_with_parent();
    let socket = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .expect("a socket");
    let memory = std::io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .expect("the link's memory");
    let mut output = UnixStream::from(socket);
    let mut input = BufReader::new(output.try_clone().expect("a duplicate"));
    let mut index = [0];
    std::io::Read::read_exact(&mut input, &mut index).expect("the index comes first");
    let mut driver = Driver::attach(memory, index[0]);
    Reply::Flag(true)
        .encode()
        .send(&mut output)
        .expect("the parent listens");
    // End of file: the parent has gone, or wants no more.
    while let Ok(packet) = Packet::receive(&mut input) {
        let reply = driver.execute(Cmd::decode(packet));
        if reply.encode().send(&mut output).is_err() {
            break;
        }
    }
    // Threads may still be blocked in calls; they end with the process.
    std::process::exit(0);
}

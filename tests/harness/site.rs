//! A broker in the test's own process, with a socket for others.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use npfs::broker::StartError;
use npfs::{
    Broker, BrokerOptions, Client, ClientOptions, Namespace, PipeType, ReadMode, Server,
    ServerOptions,
};

use crate::Actor;

/// A running broker and its folder, both gone when it is dropped.
pub struct Site {
    broker: Option<Broker>,
    /// Of the socket.
    pub folder: PathBuf,
    /// Where it is reached.
    pub socket: String,
}

impl Site {
    /// One with these options.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(options: &mut BrokerOptions) -> Site {
        let folder = folder();
        let socket = folder.join("broker.sock");
        let broker = options.socket(&socket).start().expect("a broker");
        Site {
            broker: Some(broker),
            folder,
            socket: socket.display().to_string(),
        }
    }

    /// The broker.
    ///
    /// # Panics
    /// While there is none.
    pub fn broker(&self) -> &Broker {
        self.broker.as_ref().expect("it has not been stopped")
    }

    /// The broker goes; its clients hear of that as of its death.
    pub fn stop(&mut self) {
        self.broker.take();
    }

    /// The next one comes.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&mut self) {
        let begin = Instant::now();
        loop {
            match BrokerOptions::new().workers(2).socket(&self.socket).start() {
                Ok(broker) => {
                    self.broker = Some(broker);
                    return;
                }
                // A child that another test is about to start has the lock until its exec.
                Err(StartError::AlreadyServed { .. }) if begin.elapsed().as_secs() < 5 => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("no broker: {error}"),
            }
        }
    }

    /// This process as a client.
    ///
    /// # Panics
    /// If it is refused.
    pub fn namespace(&self) -> Namespace {
        Namespace::connect(&self.socket).expect("a broker")
    }

    /// Another process as a client; `exe` is [`crate::child_exe!`].
    pub fn actor(&self, exe: &str) -> Actor {
        Actor::spawn(exe, &self.socket, None)
    }

    /// Nothing of anybody is left in the broker.
    pub fn is_clean(&self) {
        eventually("the broker is empty", || self.broker().is_empty());
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.broker.take();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A server end of a message pipe.
///
/// # Panics
/// If it cannot be made.
pub fn serve(namespace: &Namespace, name: &str) -> Server {
    let mut options = ServerOptions::new();
    options.pipe_type(PipeType::Message);
    options.create(namespace, name).expect("create")
}

/// A client end that reads messages; it waits for an instance for ten seconds.
///
/// # Panics
/// If there is none.
pub fn open(namespace: &Namespace, name: &str) -> Client {
    let mut options = ClientOptions::new();
    options
        .read_mode(ReadMode::Message)
        .wait(Some(Duration::from_secs(10)));
    options.open(namespace, name).expect("open")
}

/// A folder of this test's own, which does not exist yet.
pub fn folder() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("npfs-test-{}-{count}", std::process::id()))
}

/// Until it holds, for ten seconds.
///
/// # Panics
/// With `what`, if it does not.
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

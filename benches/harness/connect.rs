//! One cycle: the client opens, waits until the server has cut it off, and closes; the server listens, and disconnects.
//!
//! Over a socket: connect, read the end of the stream, close, against accept and close. So both sides sleep once in each
//! cycle, there as here.

use std::fs;
use std::io::{self, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use npfs::{Client, ClientOptions, Error, Namespace, Server};

use crate::ours;
use crate::transport::Ticket;
use crate::workloads::{Pace, Trips, cycles};

/// Connections that carry nothing.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    name: String,
    servers: Vec<Server>,
    clients: Vec<Client>,
}

/// Pipes that a worker holds while others are measured.
pub(crate) trait Held: Default {
    /// Whether these are the ones that were asked for.
    fn is(&self, name: &str, count: usize) -> bool;
    /// The server's ends, listening.
    fn create(namespace: &Namespace, name: &str, count: u32) -> Result<Self>;
    /// Until a client is on each of them.
    fn connect(&self) -> Result<()>;
    /// The client's ends.
    fn open(namespace: &Namespace, name: &str, count: u32) -> Result<Self>;
    /// Whatever they do from then on; nothing, unless it is said.
    fn begin(&self) -> Result<()> {
        Ok(())
    }
}

impl Held for Crowd {
    fn is(&self, name: &str, count: usize) -> bool {
        self.name == name && self.servers.len().max(self.clients.len()) == count
    }

    fn create(namespace: &Namespace, name: &str, count: u32) -> Result<Self> {
        let ticket = ticket(name);
        let servers = (0..count).map(|_| ours::create(namespace, &ticket));
        Ok(Crowd {
            name: name.to_owned(),
            servers: servers.collect::<Result<_>>()?,
            clients: Vec::new(),
        })
    }

    fn connect(&self) -> Result<()> {
        for server in &self.servers {
            server.connect().context("connect")?;
        }
        Ok(())
    }

    fn open(namespace: &Namespace, name: &str, count: u32) -> Result<Self> {
        let ticket = ticket(name);
        let clients = (0..count).map(|_| ours::dial(namespace, &ticket));
        Ok(Crowd {
            name: name.to_owned(),
            servers: Vec::new(),
            clients: clients.collect::<Result<_>>()?,
        })
    }
}

pub(crate) fn ticket(name: &str) -> Ticket {
    Ticket {
        name: name.to_owned(),
        quota: crate::transport::DEFAULT_QUOTA,
        ..Ticket::default()
    }
}

/// The server of a pipe, until a client says that it is the last.
pub(crate) fn serve(server: &Server) -> Result<()> {
    loop {
        match server.connect() {
            // A client that closed before this was reached is one more cycle.
            Ok(()) | Err(Error::Closing) => {}
            Err(error) => return Err(error).context("connect"),
        }
        // In memory, and empty until the end.
        if server.try_read(&mut [0]).is_ok() {
            return server.write(&[1]).map(drop).context("last write");
        }
        server.disconnect().context("disconnect")?;
    }
}

/// Its client.
pub(crate) fn open(namespace: &Namespace, ticket: &Ticket, pace: &Pace) -> Result<Trips> {
    // The first finds the server ready.
    drop(ours::dial(namespace, ticket)?);
    let mut options = ClientOptions::new();
    options.wait(Some(std::time::Duration::from_secs(5)));
    let trips = cycles(pace, || {
        let client = options.open(namespace, &ticket.name).context("open")?;
        match client.read(&mut [0]) {
            Err(Error::Disconnected) => Ok(()),
            other => bail!("a disconnect was due, and not {other:?}"),
        }
    })?;
    // The server may cut this one off before it sees the byte, too.
    loop {
        let client = options.open(namespace, &ticket.name).context("last open")?;
        let _ = client.write(&[1]);
        if client.read(&mut [0]).is_ok() {
            return Ok(trips);
        }
    }
}

/// The same over a socket. The end is said at a second one, to a thread of its own.
pub(crate) struct Listener<'a> {
    path: &'a str,
    cycles: UnixListener,
    end: UnixListener,
}

impl Listener<'_> {
    /// Both are there when this returns.
    pub(crate) fn bind(path: &str) -> Result<Listener<'_>> {
        Ok(Listener {
            path,
            cycles: UnixListener::bind(path).context("bind")?,
            end: UnixListener::bind(format!("{path}.end")).context("bind")?,
        })
    }

    /// Until the client says that it was the last.
    pub(crate) fn serve(&self) -> Result<()> {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| -> io::Result<()> {
                self.end.accept()?;
                over.store(true, Ordering::SeqCst);
                UnixStream::connect(self.path).map(drop)
            });
            while !over.load(Ordering::SeqCst) {
                drop(self.cycles.accept().context("accept")?);
            }
            match waiter.join() {
                Ok(done) => done.context("end"),
                Err(_) => bail!("the waiter panicked"),
            }
        })
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        for path in [self.path, &format!("{}.end", self.path)] {
            let _ = fs::remove_file(path);
        }
    }
}

/// Its client.
pub(crate) fn open_socket(path: &str, pace: &Pace) -> Result<Trips> {
    let trips = cycles(pace, || {
        let mut stream = UnixStream::connect(path).context("connect")?;
        ensure!(stream.read(&mut [0])? == 0, "an end was due");
        Ok(())
    })?;
    UnixStream::connect(format!("{path}.end")).context("end")?;
    Ok(trips)
}

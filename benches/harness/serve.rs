//! A server for many clients on one thread, against the same over epoll(7) and unix sockets: the examples of the engine.
//!
//! The client sends one message on each connection, then takes the answer on each. So the server finds many that are ready.

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use npfs::{Client, Namespace, PipeType, ServerOptions};

use crate::ours;
use crate::sys;
use crate::transport::Ticket;
use crate::workloads::{Flow, Outcome, Pace};

#[path = "../../engine/examples/epoll_server.rs"]
mod epoll_server;
#[path = "../../engine/examples/event_server.rs"]
mod event_server;

/// Connections.
pub(crate) const CLIENTS: usize = 64;

/// CPU time of this process while all clients are there: from when the last has come until the first goes.
#[derive(Default)]
struct Used {
    from: Cell<Option<Duration>>,
    to: Cell<Option<Duration>>,
}

impl Used {
    /// Told after each batch. `true`: all of the clients have gone.
    fn note(&self, left: usize, been: u64) -> bool {
        if been <= CLIENTS as u64 {
            return false;
        }
        if self.from.get().is_none() {
            self.from.set(Some(sys::cpu_time()));
        }
        if left <= CLIENTS && self.to.get().is_none() {
            self.to.set(Some(sys::cpu_time()));
        }
        left <= 1
    }

    fn outcome(&self) -> Result<Outcome> {
        let span = self.from.get().zip(self.to.get());
        let (from, to) = span.context("its clients never were there at once")?;
        Ok(Outcome::Used(u64::try_from((to - from).as_nanos())?))
    }
}

/// The server over pipes.
pub(crate) fn pipes(namespace: &Namespace, ticket: &Ticket) -> Result<Outcome> {
    let mut options = ServerOptions::new();
    options.pipe_type(PipeType::Message);
    options.in_quota(ticket.quota).out_quota(ticket.quota);
    let used = Used::default();
    let is_over = |left, been| used.note(left, been);
    event_server::serve(namespace, &ticket.name, options, is_over).context("serve")?;
    used.outcome()
}

/// And over sockets.
pub(crate) fn sockets(ticket: &Ticket) -> Result<Outcome> {
    let path = Path::new(&ticket.name);
    let used = Used::default();
    let served = epoll_server::serve(path, |left, been| used.note(left, been));
    let _ = std::fs::remove_file(path);
    served.context("serve")?;
    used.outcome()
}

/// Its clients.
pub(crate) fn ask_pipes(namespace: &Namespace, ticket: &Ticket, pace: &Pace) -> Result<Outcome> {
    let dial = || ours::dial(namespace, ticket);
    ask(
        pace,
        dial,
        |client: &mut Client, message| {
            ensure!(
                Client::write(client, message)? == message.len(),
                "a short write"
            );
            Ok(())
        },
        |client, buf| {
            let mut got = 0;
            while got < buf.len() {
                got += Client::read(client, &mut buf[got..])?.count();
            }
            Ok(())
        },
    )
}

/// The same over sockets.
pub(crate) fn ask_sockets(ticket: &Ticket, pace: &Pace) -> Result<Outcome> {
    let patience = Instant::now() + Duration::from_secs(5);
    let dial = || loop {
        match UnixStream::connect(&ticket.name) {
            Err(_) if Instant::now() < patience => thread::sleep(Duration::from_micros(200)),
            other => return other.context("connect"),
        }
    };
    ask(
        pace,
        dial,
        |stream, message| stream.write_all(message).context("write"),
        |stream, buf| stream.read_exact(buf).context("read"),
    )
}

fn ask<C>(
    pace: &Pace,
    dial: impl Fn() -> Result<C>,
    send: impl Fn(&mut C, &[u8]) -> Result<()>,
    take: impl Fn(&mut C, &mut [u8]) -> Result<()>,
) -> Result<Outcome> {
    let mut clients: Vec<C> = (0..CLIENTS).map(|_| dial()).collect::<Result<_>>()?;
    let clock = pace.clock;
    let mut buf = vec![0; pace.size];
    let mut number = 0_u64;
    let mut round = || -> Result<()> {
        number += 1;
        let mut message = vec![0; pace.size];
        message[..8].copy_from_slice(&number.to_le_bytes());
        for client in &mut clients {
            send(client, &message)?;
        }
        for client in &mut clients {
            take(client, &mut buf)?;
            ensure!(buf == message, "another answer");
        }
        Ok(())
    };
    let mut until = clock.now() + clock.ticks_in(pace.warm);
    while clock.now() < until {
        round()?;
    }
    let begin = clock.now();
    until = begin + clock.ticks_in(pace.run);
    let mut rounds = 0;
    let end = loop {
        round()?;
        rounds += 1;
        let now = clock.now();
        if now >= until {
            break now;
        }
    };
    let flow = Flow {
        messages: rounds * CLIENTS as u64,
        nanos: clock.tenths(end - begin) / 10,
        used: None,
    };
    // With those of the warm-up: the server's CPU time counts them, too.
    Ok(Outcome::Asked(flow, number * CLIENTS as u64))
}

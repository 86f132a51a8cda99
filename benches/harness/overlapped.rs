//! npfs's native layer: reads that pend, and a completion port that is waited on.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use npfs::nt::{
    Attributes, Buffer, Control, CreatePipe, Event, Handle, InfoClass, Io, Nt, Port, StatusBlock,
    Waitable, units,
};
use npfs::{Deadline, Mask, Namespace, NtStatus};

use crate::connect::{self, Held};
use crate::transport::{Role, Rx, Ticket, Tx};

/// How long the other end may take to make its own.
const PATIENCE: Duration = Duration::from_secs(5);

fn refused(what: &str, status: NtStatus) -> anyhow::Error {
    anyhow!("{what}: {status}")
}

fn path(name: &str) -> Vec<u16> {
    units(&format!(r"\??\pipe\{name}"))
}

/// A server end, listening.
fn create(nt: &Nt, ticket: &Ticket) -> Result<Handle> {
    let with = CreatePipe {
        in_quota: ticket.quota,
        out_quota: ticket.quota,
        ..CreatePipe::default()
    };
    let made = nt.create_named_pipe(&Attributes::named(&path(&ticket.name)), &with);
    made.map(|(handle, _)| handle)
        .map_err(|status| refused("create", status))
}

/// Until a client is there.
fn listen(nt: &Nt, server: Handle) -> Result<()> {
    let (event, none) = (Event::new(), Buffer::new(0));
    let io = Io::with_event(event.clone());
    match nt.fs_control_file(server, &io, Control::LISTEN, &[], &none) {
        NtStatus::PIPE_CONNECTED => Ok(()),
        NtStatus::PENDING => {
            let waited = nt.wait(&[Waitable::Event(event)], Deadline::after(PATIENCE));
            waited.map(drop).map_err(|status| refused("listen", status))
        }
        status => Err(refused("listen", status)),
    }
}

/// A client end that reads messages; the server may still be about to make the pipe.
fn open(nt: &Nt, name: &str) -> Result<Handle> {
    let patience = Instant::now() + PATIENCE;
    let path = path(name);
    let access = Mask::GENERIC_READ | Mask::GENERIC_WRITE | Mask::SYNCHRONIZE;
    loop {
        match nt.open_file(&Attributes::named(&path), access, 1, 0) {
            Ok((client, _)) => {
                let modes = [1_u32, 0].map(u32::to_le_bytes).concat();
                let block = StatusBlock::default();
                let set = nt.set_information_file(client, &block, InfoClass::PIPE, &modes);
                if set != NtStatus::SUCCESS {
                    return Err(refused("read mode", set));
                }
                return Ok(client);
            }
            Err(NtStatus::OBJECT_NAME_NOT_FOUND | NtStatus::PIPE_NOT_AVAILABLE)
                if Instant::now() < patience =>
            {
                thread::sleep(Duration::from_micros(200));
            }
            Err(status) => return Err(refused("open", status)),
        }
    }
}

/// One end of a pipe: what it sends, and what it receives.
pub(crate) fn ends(
    namespace: &Namespace,
    ticket: &Ticket,
    role: Role,
) -> Result<(Sends, Receives)> {
    let nt = Nt::new(namespace.clone());
    let end = match role {
        Role::Server => {
            let server = create(&nt, ticket)?;
            listen(&nt, server)?;
            server
        }
        Role::Client => open(&nt, &ticket.name)?,
    };
    let port = Port::new();
    nt.set_completion_port(end, &port, 1)
        .map_err(|status| refused("completion port", status))?;
    let sends = Sends {
        nt: nt.clone(),
        end,
        io: Io::with_event(Event::new()),
    };
    let receives = Receives {
        nt,
        end,
        io: Io {
            context: 1,
            ..Io::default()
        },
        waits_for: [Waitable::Port(port.clone())],
        port,
        buffer: Buffer::new(0),
    };
    Ok((sends, receives))
}

pub(crate) struct Sends {
    nt: Nt,
    end: Handle,
    io: Io,
}

impl Tx for Sends {
    fn send(&mut self, message: &[u8]) -> Result<()> {
        match self.nt.write_file(self.end, &self.io, message) {
            NtStatus::SUCCESS => Ok(()),
            NtStatus::PENDING => {
                let event = self.io.event.clone().context("made with one")?;
                let waited = self.nt.wait(&[Waitable::Event(event)], Deadline::NEVER);
                waited.map(drop).map_err(|status| refused("write", status))
            }
            status => Err(refused("write", status)),
        }
    }
}

pub(crate) struct Receives {
    nt: Nt,
    end: Handle,
    io: Io,
    port: Port,
    waits_for: [Waitable; 1],
    buffer: Buffer,
}

impl Rx for Receives {
    fn recv(&mut self, buf: &mut [u8]) -> Result<usize> {
        if self.buffer.len() != buf.len() {
            self.buffer = Buffer::new(buf.len());
        }
        match self.nt.read_file(self.end, &self.io, &self.buffer) {
            NtStatus::SUCCESS | NtStatus::PENDING => {}
            status => return Err(refused("read", status)),
        }
        loop {
            if let Some(packet) = self.port.take() {
                if packet.status != NtStatus::SUCCESS {
                    bail!(refused("read", packet.status));
                }
                self.buffer.copy_to(&mut buf[..packet.information]);
                return Ok(packet.information);
            }
            self.nt
                .wait(&self.waits_for, Deadline::NEVER)
                .map_err(|status| refused("wait", status))?;
        }
    }
}

/// Connected pipes, with a read pending on each end.
#[derive(Default)]
pub(crate) struct Reading {
    name: String,
    ends: Vec<Handle>,
    /// The table whose handles these are.
    nt: Option<Nt>,
}

impl Reading {
    fn of(
        namespace: &Namespace,
        name: &str,
        count: u32,
        end: impl Fn(&Nt) -> Result<Handle>,
    ) -> Result<Reading> {
        let nt = Nt::new(namespace.clone());
        let ends: Result<Vec<Handle>> = (0..count).map(|_| end(&nt)).collect();
        Ok(Reading {
            name: name.to_owned(),
            ends: ends?,
            nt: Some(nt),
        })
    }
}

impl Held for Reading {
    fn is(&self, name: &str, count: usize) -> bool {
        self.name == name && self.ends.len() == count
    }

    fn create(namespace: &Namespace, name: &str, count: u32) -> Result<Reading> {
        let ticket = connect::ticket(name);
        Reading::of(namespace, name, count, |nt| create(nt, &ticket))
    }

    fn open(namespace: &Namespace, name: &str, count: u32) -> Result<Reading> {
        Reading::of(namespace, name, count, |nt| open(nt, name))
    }

    fn connect(&self) -> Result<()> {
        let Some(nt) = &self.nt else { return Ok(()) };
        self.ends.iter().try_for_each(|end| listen(nt, *end))
    }

    /// A read on each, which nothing ever answers.
    fn begin(&self) -> Result<()> {
        let Some(nt) = &self.nt else { return Ok(()) };
        for end in &self.ends {
            let io = Io {
                context: 0,
                ..Io::default()
            };
            match nt.read_file(*end, &io, &Buffer::new(64)) {
                NtStatus::PENDING => {}
                status => return Err(refused("read", status)),
            }
        }
        Ok(())
    }
}

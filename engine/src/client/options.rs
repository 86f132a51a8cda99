//! How ends are made: `ServerOptions` for NtCreateNamedPipeFile, `ClientOptions` for NtCreateFile.

use std::time::Duration;

use npfs_ringbuf::{CompletionMode, Deadline, PipeType, ReadMode};

use super::{
    cancel::Cancel,
    channel::Answer,
    end::{Client, Server},
    gift::ClientEnd,
    namespace::Namespace,
};
use crate::{
    Error, Name, Result,
    npfs::{Create, Direction, Disposition, Wanted},
    security::{Mask, SecurityDescriptor},
    wire::Request,
};

/// How a server end is made. Setters may be chained, and the options used again, as std's `OpenOptions`.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    pipe_type: PipeType,
    read_mode: Option<ReadMode>,
    completion: CompletionMode,
    direction: Direction,
    access: Option<Mask>,
    first: bool,
    max_instances: u32,
    in_quota: u32,
    out_quota: u32,
    default_timeout: Duration,
    security: Option<SecurityDescriptor>,
    apart: bool,
}

/// Bytes of each direction unless said otherwise.
pub(crate) const DEFAULT_QUOTA: u32 = 64 << 10;
/// NP-LIM-02.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(50);
/// NP-LIM-01.
const UNLIMITED: u32 = u32::MAX;

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions::new()
    }
}

impl ServerOptions {
    /// A byte pipe, both ways, quotas of 64 KiB, any number of instances.
    #[must_use]
    pub fn new() -> ServerOptions {
        ServerOptions {
            pipe_type: PipeType::Byte,
            read_mode: None,
            completion: CompletionMode::Queue,
            direction: Direction::Duplex,
            access: None,
            first: false,
            max_instances: UNLIMITED,
            in_quota: DEFAULT_QUOTA,
            out_quota: DEFAULT_QUOTA,
            default_timeout: DEFAULT_TIMEOUT,
            security: None,
            apart: false,
        }
    }

    /// Bytes or messages. A further instance gets what the first one has fixed (NP-CREATE-24).
    pub fn pipe_type(&mut self, pipe_type: PipeType) -> &mut ServerOptions {
        self.pipe_type = pipe_type;
        self
    }

    /// How the server end reads; unless said, messages from a message pipe and bytes from a byte pipe.
    pub fn read_mode(&mut self, read: ReadMode) -> &mut ServerOptions {
        self.read_mode = Some(read);
        self
    }

    /// Whether the server end's calls may pend (PIPE_WAIT) or answer at once (PIPE_NOWAIT).
    pub fn completion_mode(&mut self, completion: CompletionMode) -> &mut ServerOptions {
        self.completion = completion;
        self
    }

    /// Which way data goes (PIPE_ACCESS_INBOUND, OUTBOUND, DUPLEX).
    pub fn direction(&mut self, direction: Direction) -> &mut ServerOptions {
        self.direction = direction;
        self
    }

    /// What the handle asks for; unless said, what Win32 asks for by the direction (NP-SEC-08). Without any data access
    /// it reserves the name, and nobody can open it before it listens (NP-OBJ-06).
    pub fn access(&mut self, access: Mask) -> &mut ServerOptions {
        self.access = Some(access);
        self
    }

    /// Fails if the pipe exists (FILE_FLAG_FIRST_PIPE_INSTANCE): nobody else can have taken the name before.
    pub fn first_instance(&mut self, first: bool) -> &mut ServerOptions {
        self.first = first;
        self
    }

    /// How many instances there may be; of the first instance, for the pipe's life. Not 0.
    pub fn max_instances(&mut self, most: u32) -> &mut ServerOptions {
        self.max_instances = most;
        self
    }

    /// Client to server, bytes: how much may be written and not read before a write waits. Enforced to the byte
    /// (NP-LIM-04).
    pub fn in_quota(&mut self, bytes: u32) -> &mut ServerOptions {
        self.in_quota = bytes;
        self
    }

    /// Server to client, bytes.
    pub fn out_quota(&mut self, bytes: u32) -> &mut ServerOptions {
        self.out_quota = bytes;
        self
    }

    /// How long waiting for an instance takes at most unless its caller says otherwise; 50 ms unless said, and for zero
    /// (NP-LIM-02).
    pub fn default_timeout(&mut self, timeout: Duration) -> &mut ServerOptions {
        self.default_timeout = timeout;
        self
    }

    /// Who may do what with the pipe; unless said, its creator everything and everybody else read (NP-SEC-04).
    pub fn security(&mut self, security: SecurityDescriptor) -> &mut ServerOptions {
        self.security = Some(security);
        self
    }

    /// Keeps each connection of this end in memory of its own, so that its ends can always be given to another user's process
    /// ([`Server::give_to_user`], [`Client::give_to_user`](crate::Client::give_to_user)). Without it all connections of two processes are in one mapping, and only one that is the
    /// first and only one there can be given so; with it each costs a mapping, which counts for this process's user.
    pub fn apart(&mut self, apart: bool) -> &mut ServerOptions {
        self.apart = apart;
        self
    }

    /// Makes the server end. Clients can open it at once (NP-OBJ-05).
    ///
    /// # Errors
    /// [`Error::Name`]; [`Error::AccessDenied`]: the pipe exists and this may not add to it (NP-CREATE-20, 22, 23);
    /// [`Error::InstancesExhausted`]; [`Error::InvalidMode`]: messages from a byte pipe (NP-CREATE-06);
    /// [`Error::InvalidParameter`]; [`Error::NoBroker`].
    pub fn create(&self, namespace: &Namespace, name: &str) -> Result<Server> {
        self.create_named(namespace, Name::parse(name)?)
    }

    /// As [`ServerOptions::create`], for names that are not text.
    ///
    /// # Errors
    /// As [`ServerOptions::create`].
    pub fn create_named(&self, namespace: &Namespace, name: Name) -> Result<Server> {
        if self.pipe_type == PipeType::Byte && self.read_mode == Some(ReadMode::Message) {
            return Err(Error::InvalidMode);
        }
        if let Some(security) = &self.security
            && security.to_bytes().is_err()
        {
            return Err(Error::InvalidParameter(
                "the security descriptor is too long",
            ));
        }
        let access = self.access.unwrap_or(match self.direction {
            Direction::Inbound => Mask::FILE_GENERIC_READ,
            Direction::Outbound => Mask::FILE_GENERIC_WRITE,
            // The bit that would be FILE_APPEND_DATA is asked for by the broker alone.
            Direction::Duplex => {
                (Mask::FILE_GENERIC_READ | Mask::FILE_GENERIC_WRITE)
                    - Mask::FILE_CREATE_PIPE_INSTANCE
            }
        });
        let create = Create {
            name: Some(name),
            access: access | Mask::SYNCHRONIZE,
            direction: self.direction,
            disposition: if self.first {
                Disposition::Create
            } else {
                Disposition::OpenIf
            },
            pipe_type: self.pipe_type,
            max_instances: self.max_instances,
            in_quota: self.in_quota,
            out_quota: self.out_quota,
            default_timeout: Some(match self.default_timeout {
                Duration::ZERO => DEFAULT_TIMEOUT, // NP-LIM-02
                timeout => timeout,
            }),
            security: self.security.clone(),
            apart: self.apart,
        };
        let end = namespace.create(&create)?;
        let of_type = match end.pipe_type {
            PipeType::Byte => ReadMode::Byte,
            PipeType::Message => ReadMode::Message,
        };
        end.set_modes(self.read_mode.unwrap_or(of_type), self.completion)?;
        Ok(Server::new(end))
    }
}

/// How a client end is made.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    read: bool,
    write: bool,
    access: Option<Mask>,
    read_mode: ReadMode,
    completion: CompletionMode,
    wait: Option<Option<Duration>>,
    apart: bool,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions::new()
    }
}

impl ClientOptions {
    /// To read and to write; reading bytes, as NT has every client begin (NP-OBJ-10).
    #[must_use]
    pub fn new() -> ClientOptions {
        ClientOptions {
            read: true,
            write: true,
            access: None,
            read_mode: ReadMode::Byte,
            completion: CompletionMode::Queue,
            wait: None,
            apart: false,
        }
    }

    /// Whether it reads (GENERIC_READ).
    pub fn read(&mut self, read: bool) -> &mut ClientOptions {
        self.read = read;
        self
    }

    /// Whether it writes (GENERIC_WRITE).
    pub fn write(&mut self, write: bool) -> &mut ClientOptions {
        self.write = write;
        self
    }

    /// What the handle asks for, instead of `read` and `write`. An open without any data access takes an instance all
    /// the same (NP-OPEN-07).
    pub fn access(&mut self, access: Mask) -> &mut ClientOptions {
        self.access = Some(access);
        self
    }

    /// How it reads.
    pub fn read_mode(&mut self, read: ReadMode) -> &mut ClientOptions {
        self.read_mode = read;
        self
    }

    /// Whether its calls may pend.
    pub fn completion_mode(&mut self, completion: CompletionMode) -> &mut ClientOptions {
        self.completion = completion;
        self
    }

    /// If every instance is busy, waits for one: for so long at most, or for the pipe's default time. Opening never
    /// waits otherwise (NP-OPEN-12).
    pub fn wait(&mut self, timeout: Option<Duration>) -> &mut ClientOptions {
        self.wait = Some(timeout);
        self
    }

    /// Keeps the connection in memory of its own, so that its ends can always be given to another user's process, as
    /// [`ServerOptions::apart`] does for all of a server end's. Its mapping counts for this process's user.
    pub fn apart(&mut self, apart: bool) -> &mut ClientOptions {
        self.apart = apart;
        self
    }

    /// Opens the pipe: the instance that has been listening longest (NP-OPEN-09).
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::NoSuchPipe`], [`Error::AccessDenied`], [`Error::NoListener`],
    /// [`Error::TimedOut`] (after [`ClientOptions::wait`]), [`Error::InvalidMode`] (the pipe carries bytes),
    /// [`Error::NoBroker`].
    pub fn open(&self, namespace: &Namespace, name: &str) -> Result<Client> {
        self.open_named(namespace, &Name::parse(name)?)
    }

    /// As [`ClientOptions::open`], for names that are not text.
    ///
    /// # Errors
    /// As [`ClientOptions::open`].
    pub fn open_named(&self, namespace: &Namespace, name: &Name) -> Result<Client> {
        let deadline = match self.wait {
            Some(Some(timeout)) => Deadline::after(timeout),
            _ => Deadline::NEVER,
        };
        loop {
            match self.open_now(namespace, name) {
                Err(Error::NoListener) if self.wait.is_some() => {}
                other => return other,
            }
            // A wait reserves nothing: another client may be quicker (NP-OPEN-12).
            let timeout = self.wait.flatten().and_then(|_| deadline.remaining());
            namespace.wait_for(name, timeout, &Cancel::new())?;
        }
    }

    fn open_now(&self, namespace: &Namespace, name: &Name) -> Result<Client> {
        let mut access = self.access.unwrap_or_else(|| {
            let mut access = Mask::FILE_READ_ATTRIBUTES | Mask::SYNCHRONIZE; // NP-OPEN-11
            access.set(Mask::GENERIC_READ, self.read);
            access.set(Mask::GENERIC_WRITE, self.write);
            access
        });
        access |= Mask::SYNCHRONIZE;
        let answer = namespace.ask(|channel, tag| {
            let wanted = Wanted {
                apart: self.apart,
                ..Wanted::access(access)
            };
            channel.ask(tag, &Request::Open(tag, name.clone(), wanted))
        });
        let (
            channel,
            Answer::Opened {
                end,
                granted,
                conn,
                server,
            },
        ) = answer?
        else {
            return Err(Error::Protocol("no client end"));
        };
        let client = Client::new(ClientEnd::new(*conn, channel, end, granted, server));
        if (self.read_mode, self.completion) != (ReadMode::Byte, CompletionMode::Queue) {
            match client.set_modes(self.read_mode, self.completion) {
                // The server has gone already: its open has succeeded, and the next call says so.
                Err(Error::Disconnected | Error::Closing | Error::Broken) => {}
                other => other?,
            }
        }
        Ok(client)
    }
}

//! The named-pipe file system, pure: a request goes in, completions come out.
//!
//! One [`Shard`] holds the names whose keys fall to it, their instances and whoever waits for an instance. It has no
//! descriptor and no clock: the time comes in with the requests that need it, connections are made and unmade by the
//! [`Wires`] that is passed in, and the [`Completion`]s are for the caller to send, in their order, before the next
//! request of the same shard is handled.
//!
//! ```text
//!                      open                 client closes
//!   listening ──────────────────► connected ─────────────► closing
//!       ▲   ◄── create                │                       │
//!       │ listen                      │ disconnect            │ disconnect
//!       └────────── disconnected ◄────┴───────────────────────┘
//! ```
//!
//! A pipe lives while it has an instance, and an instance while its server end is open (NP-OBJ-01, 07). A client end
//! that was cut off by a disconnect stays an open end of its old connection until it is closed (NP-OBJ-09).

mod ends;
mod instance;
mod pipe;
mod shard;
#[cfg(test)]
mod tests;

use std::time::Duration;

use npfs_ringbuf::{Access, CompletionMode, End, PipeType, ReadMode};

pub use instance::State;
pub use pipe::{EndInfo, InstanceInfo, PipeInfo, SecurityParts};
pub use shard::Shard;

use crate::{
    name::Name,
    security::{Mask, SecurityDescriptor, Token},
    status::NtStatus,
};

/// A session of a client process with the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// What a client calls one of its requests; 0 is for those that want no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u64);

/// An open end, within its shard. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndId(pub u64);

/// Nanoseconds of a clock that never goes back.
pub type Moment = u64;

/// As a distance between moments.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The session.
    pub client: ClientId,
    /// Its request.
    pub tag: Tag,
    /// What the kernel says of the process.
    pub token: &'a Token,
}

/// What may happen if the pipe exists, or does not (create dispositions OPEN, CREATE and OPEN_IF).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// A further instance only.
    Open,
    /// A first instance only.
    Create,
    /// Either.
    OpenIf,
}

/// Which way a pipe carries data (NamedPipeConfiguration; NP-CREATE-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Client to server.
    Inbound,
    /// Server to client.
    Outbound,
    /// Both.
    Duplex,
}

impl Direction {
    /// What an end may do at most.
    #[must_use]
    pub fn access(self, end: End) -> Access {
        let towards_end = match self {
            Direction::Duplex => return Access::DUPLEX,
            Direction::Inbound => End::Server,
            Direction::Outbound => End::Client,
        };
        if end == towards_end {
            Access::READ
        } else {
            Access::WRITE
        }
    }
}

/// NtCreateNamedPipeFile (section 4 of the specification).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// Its name; `None`: a fresh pipe without one (NP-NAME-11).
    pub name: Option<Name>,
    /// DesiredAccess.
    pub access: Mask,
    /// From ShareAccess.
    pub direction: Direction,
    /// CreateDisposition.
    pub disposition: Disposition,
    /// Of the first instance: the pipe's.
    pub pipe_type: PipeType,
    /// Of the first instance: the pipe's. Not 0.
    pub max_instances: u32,
    /// Client to server, bytes.
    pub in_quota: u32,
    /// Server to client, bytes.
    pub out_quota: u32,
    /// Of the first instance: how long a wait for an instance takes by default.
    pub default_timeout: Option<Duration>,
    /// Of the first instance; `None`: the default of NP-SEC-04.
    pub security: Option<SecurityDescriptor>,
    /// Each of its connections has memory of its own, so that its ends can be given to processes of any user.
    pub apart: bool,
}

bitflags::bitflags! {
    /// What a client lets the server do in its name: SECURITY_QUALITY_OF_SERVICE, given with its open (NP-IMP-03).
    ///
    /// The low two bits are the level: 0 anonymous, 1 identification, 2 impersonation, 3 delegation.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Quality: u32 {
        /// The bits of the level.
        const LEVEL = 3;
        /// The identity is that of the open, and not that of each write (NP-IMP-04).
        const STATIC = 4;
        /// Only what is enabled goes with it.
        const EFFECTIVE_ONLY = 8;

        const _ = !0;
    }
}

impl Quality {
    /// Of whom nobody knows: level anonymous, which is no bit.
    pub const NOBODY: Quality = Quality::empty();
}

impl Default for Quality {
    /// Impersonation, dynamic, effective only (NP-IMP-03).
    fn default() -> Quality {
        Quality::from_bits_retain(2) | Quality::EFFECTIVE_ONLY
    }
}

/// What an open asks for (section 5 of the specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// DesiredAccess.
    pub access: Mask,
    /// What the server may do in the client's name.
    pub quality: Quality,
    /// The connection has memory of its own, so that its ends can be given to processes of any user.
    pub apart: bool,
}

impl Wanted {
    /// These rights, and nothing out of the ordinary.
    #[must_use]
    pub fn access(access: Mask) -> Wanted {
        Wanted {
            access,
            quality: Quality::default(),
            apart: false,
        }
    }
}

/// How long to wait for an instance (NP-WAIT-06).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// The pipe's own.
    Default,
    /// So long from now.
    After(Duration),
    /// As long as it takes.
    Never,
}

/// How an end reads, and whether its calls may pend.
pub type Modes = (ReadMode, CompletionMode);

/// A connection about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The session of the server end.
    pub server: ClientId,
    /// The server end.
    pub server_end: EndId,
    /// The session of the client end.
    pub client: ClientId,
    /// Bytes or messages.
    pub pipe_type: PipeType,
    /// Client to server, bytes.
    pub in_quota: u32,
    /// Server to client, bytes.
    pub out_quota: u32,
    /// What the server end may do.
    pub server_access: Access,
    /// What the client end may do.
    pub client_access: Access,
    /// How the server end begins, if several sessions have it. One that has it alone sets that itself.
    pub server_modes: Option<Modes>,
    /// In memory that no other connection is in, since its ends may come to processes of any user; and the end that wants
    /// it so.
    pub apart: Option<End>,
}

/// Makes and unmakes connections in shared memory. Called under the shard's lock: never waits.
pub trait Wires {
    /// A connection.
    type Conn: Clone;

    /// Makes one.
    ///
    /// # Errors
    /// The status that the open answers.
    fn connect(&mut self, plan: &Plan) -> Result<Self::Conn, NtStatus>;

    /// One end of it was closed.
    fn close(&mut self, conn: &Self::Conn, end: End);

    /// The server cuts the client off, and leaves the connection.
    fn disconnect(&mut self, conn: &Self::Conn);

    /// A further session has one end of it, too.
    ///
    /// # Errors
    /// What the session is told.
    fn join(&mut self, conn: &Self::Conn, end: End, session: ClientId) -> Result<(), NtStatus>;

    /// One end of it may come to processes of any user: no other connection is in its memory, now or later.
    ///
    /// # Errors
    /// SHARING_VIOLATION: others are.
    fn set_apart(&mut self, conn: &Self::Conn) -> Result<(), NtStatus>;

    /// A session has one end of it no more; others still do.
    fn leave(&mut self, conn: &Self::Conn, end: End, session: ClientId);

    /// One end of it stays open for whoever will take it, or no longer for that reason.
    fn keep(&mut self, conn: &Self::Conn, end: End, keep: bool);
}

/// An end that was given away, for its further holder.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken<C> {
    /// The end, under the number that its other holders know it by.
    pub end: EndId,
    /// Which end it is.
    pub side: End,
    /// The pipe's.
    pub pipe_type: PipeType,
    /// What goes with it.
    pub granted: Mask,
    /// Of a server end.
    pub modes: Modes,
    /// Of a server end: it waits for a client.
    pub listening: bool,
    /// Its connection.
    pub conn: Option<C>,
}

/// What became of a request, or what a session has to hear without having asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Completion<C> {
    /// The answer to a request; success carries nothing.
    Done(ClientId, Tag, Result<(), NtStatus>),
    /// A server end was made; `first`: so was the pipe (FILE_CREATED, else FILE_OPENED).
    Created {
        /// Who asked.
        client: ClientId,
        /// The request.
        tag: Tag,
        /// The server end.
        end: EndId,
        /// The type of the pipe, which may be another than was asked for (NP-CREATE-24).
        pipe_type: PipeType,
        /// The pipe was made.
        first: bool,
        /// What was granted.
        granted: Mask,
    },
    /// A client end was made.
    Opened {
        /// Who asked.
        client: ClientId,
        /// The request.
        tag: Tag,
        /// The client end.
        end: EndId,
        /// What was granted.
        granted: Mask,
        /// Its connection.
        conn: C,
        /// The session of the server end.
        server: ClientId,
    },
    /// A client has opened this instance. `listener` is the pended listen that this answers too, if one does.
    Connected {
        /// The session of the server end.
        server: ClientId,
        /// The server end.
        end: EndId,
        /// A pended listen of it.
        listener: Option<Tag>,
        /// The connection.
        conn: C,
        /// The session of the client end.
        client: ClientId,
        /// What it lets the server do in its name.
        quality: Quality,
    },
    /// An end that was given away has a further holder, or one of its holders has asked how it is.
    Taken {
        /// Who asked.
        client: ClientId,
        /// The request.
        tag: Tag,
        /// The end.
        taken: Box<Taken<C>>,
        /// The session at the other end, and what it lets the server do in its name; `None`: as the giver has said.
        peer: Option<(ClientId, Quality)>,
    },
}

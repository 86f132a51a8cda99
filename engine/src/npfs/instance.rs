//! One server end and the connection that it carries (NPFS: CCB).

use std::sync::Arc;

use npfs_ringbuf::Access;

use super::{ClientId, EndId, Modes, Tag, pipe::Fixed};
use crate::security::Mask;

/// NamedPipeState of an instance, as its server end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Nobody can open it until it listens.
    Disconnected,
    /// The next open may take it.
    Listening,
    /// A client has it.
    Connected,
    /// A client had it and has closed.
    Closing,
}

/// As an end of a connection sees it.
impl From<npfs_ringbuf::State> for State {
    fn from(state: npfs_ringbuf::State) -> State {
        match state {
            npfs_ringbuf::State::Connected => State::Connected,
            npfs_ringbuf::State::Closing => State::Closing,
            npfs_ringbuf::State::Disconnected => State::Disconnected,
        }
    }
}

impl State {
    /// As `NamedPipeState` (section 1.3).
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            State::Disconnected => 1,
            State::Listening => 2,
            State::Connected => 3,
            State::Closing => 4,
        }
    }

    /// From `NamedPipeState`.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<State> {
        match number {
            1 => Some(State::Disconnected),
            2 => Some(State::Listening),
            3 => Some(State::Connected),
            4 => Some(State::Closing),
            _ => None,
        }
    }

    /// In lower case, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            State::Disconnected => "disconnected",
            State::Listening => "listening",
            State::Connected => "connected",
            State::Closing => "closing",
        }
    }
}

/// An instance; its id is that of its server end. Ten thousand connected ones are the broker's larger part: what a
/// connection needs, or a pended listen, stands in one place only.
#[derive(Debug)]
pub(super) struct Instance<C> {
    pub(super) pipe: Arc<Fixed>,
    pub(super) owner: ClientId,
    pub(super) access: Access,
    /// What its handle was granted.
    pub(super) granted: Mask,
    pub(super) in_quota: u32,
    pub(super) out_quota: u32,
    /// Its connections have memory of their own.
    pub(super) apart: bool,
    pub(super) link: Wire<C>,
}

/// What a server end has to do with a connection.
#[derive(Debug)]
pub(super) enum Wire<C> {
    Disconnected,
    Listening {
        /// Its place in the line (NP-OPEN-09).
        since: u64,
        /// Pended listens, oldest first (NP-LISTEN-08).
        listens: Vec<(ClientId, Tag)>,
    },
    /// The client end has the connection, until it closes.
    Connected {
        client: EndId,
        who: ClientId,
    },
    /// The client end has closed.
    Closing {
        conn: C,
    },
}

impl<C> Instance<C> {
    pub(super) fn state(&self) -> State {
        match self.link {
            Wire::Disconnected => State::Disconnected,
            Wire::Listening { .. } => State::Listening,
            Wire::Connected { .. } => State::Connected,
            Wire::Closing { .. } => State::Closing,
        }
    }

    /// Its pended listens, if it listens.
    pub(super) fn listens(&mut self) -> Option<&mut Vec<(ClientId, Tag)>> {
        match &mut self.link {
            Wire::Listening { listens, .. } => Some(listens),
            _ => None,
        }
    }
}

/// A client end. It stays when the server disconnects or closes, until it is closed itself.
#[derive(Debug)]
pub(super) struct Client<C> {
    pub(super) conn: C,
    /// The server end, while both are of one connection.
    pub(super) server: Option<EndId>,
    /// The server has disconnected; if it has closed, `server` is `None` as well.
    pub(super) cut_off: bool,
    /// What its handle was granted.
    pub(super) granted: Mask,
    /// What it lets the server do in its name: the bits of a `Quality`.
    pub(super) quality: u8,
    pub(super) pipe: Arc<Fixed>,
}

/// An end that several sessions have, or that is kept open until somebody takes it.
#[derive(Debug)]
pub(super) struct Shared {
    /// The sessions that have it, and how often each: made, or taken, and not closed. Never 0.
    pub(super) holders: Vec<(ClientId, u32)>,
    /// How many may still come.
    pub(super) kept: usize,
    /// Of a server end.
    pub(super) modes: Modes,
}

impl Shared {
    pub(super) fn sessions(&self) -> impl Iterator<Item = ClientId> {
        self.holders.iter().map(|(session, _)| *session)
    }

    /// `false`: it would be one more than a link has room for.
    pub(super) fn add(&mut self, session: ClientId) -> bool {
        let full = self.holders.len() >= MOST_HOLDERS;
        let known = self.holders.iter_mut().find(|(other, _)| *other == session);
        match known {
            Some((_, count)) => *count = count.saturating_add(1),
            None if full => return false,
            None => self.holders.push((session, 1)),
        }
        true
    }

    /// `true`: the session has it no more.
    pub(super) fn remove(&mut self, session: ClientId) -> bool {
        let at = self.holders.iter().position(|(other, _)| *other == session);
        let Some(at) = at else { return true };
        self.holders[at].1 -= 1;
        if self.holders[at].1 == 0 {
            self.holders.remove(at);
            return true;
        }
        false
    }
}

/// Sessions that may have one end: a link has room for eight processes, of which one may be the other end's alone.
const MOST_HOLDERS: usize = 6;

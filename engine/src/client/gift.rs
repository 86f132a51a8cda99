//! Ends that several processes have: how one is given, and how it is taken.
//!
//! NtDuplicateObject into another process, in two halves. The giver asks the broker for a token and tells it to the
//! other process in whatever way it likes; that one takes the end by it, once, within five seconds. Until then the broker
//! keeps the end open, so that the giver may close it, exit, or execute another program. From then on both have the same
//! end: what one reads the other does not, and it closes when the last of them has closed it (NP-CLOSE-01).

use std::{
    env, fmt,
    process::Command,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use npfs_ringbuf::Conn;

use super::{channel::Channel, namespace::Namespace};
use crate::{
    Error, Result,
    npfs::{EndId, Modes, Quality},
    security::Mask,
    sys,
    wire::{Peer, Request, Words},
};

use super::channel::Answer;

/// What an end that was given away is taken by: 32 hexadecimal digits, as text. Whoever of the user that it was given to reads
/// it first can take the end.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EndToken(pub(super) [u64; 2]);

impl EndToken {
    /// Puts it into the environment of a program that is about to be started, as `NPFS_END_` and `name`. A process that
    /// executes another program itself should have nothing pending on the end: it would take what comes.
    pub fn pass_to(&self, command: &mut Command, name: &str) {
        command.env(variable(name), self.to_string());
    }

    /// What [`EndToken::pass_to`] has put into this program's environment. `None`: nothing, or no token.
    #[must_use]
    pub fn from_env(name: &str) -> Option<EndToken> {
        env::var(variable(name)).ok()?.parse().ok()
    }
}

fn variable(name: &str) -> String {
    format!("NPFS_END_{name}")
}

/// Not whole: it is a secret.
impl fmt::Debug for EndToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndToken({:04x}...)", self.0[0] >> 48)
    }
}

impl fmt::Display for EndToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0[0], self.0[1])
    }
}

impl FromStr for EndToken {
    type Err = Error;

    /// # Errors
    /// [`Error::Token`]: not 32 hexadecimal digits.
    fn from_str(text: &str) -> Result<EndToken> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let half = |at: usize| {
            let half = text.get(at..at + 16).filter(|_| digits);
            half.and_then(|half| u64::from_str_radix(half, 16).ok())
        };
        match (half(0), half(16)) {
            (Some(high), Some(low)) => Ok(EndToken([high, low])),
            _ => Err(Error::Token),
        }
    }
}

/// How an end is given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Giving {
    /// The rights that go with it.
    pub(crate) access: Mask,
    /// Of the file object.
    pub(crate) options: u32,
    /// Whose process is to have it: the number of a user, or this one's own.
    pub(crate) to: Option<u32>,
}

impl Giving {
    /// With all rights.
    pub(super) fn whole(to: Option<u32>) -> Giving {
        Giving {
            access: Mask::all(),
            options: 0,
            to,
        }
    }
}

/// Asks the broker for the token of an end, which counts as shared by then. `unshare`: the broker has said no, so nobody else has the end
/// for that. Without an answer from it somebody may.
pub(super) fn give(
    channel: &Arc<Channel>,
    end: EndId,
    giving: Giving,
    modes: Modes,
    words: Words,
    unshare: impl FnOnce(),
) -> Result<EndToken> {
    let tag = channel.next_tag();
    let request = Request::Give(tag, end, giving.access, modes, giving.to, words);
    match channel.ask(tag, &request) {
        Ok(Answer::Given(token)) => Ok(token),
        Ok(_) => Err(Error::Protocol("no token")),
        Err(error) => {
            if !matches!(error, Error::NoBroker { .. } | Error::Protocol(_)) {
                unshare();
            }
            Err(error)
        }
    }
}

/// Takes what was given away, whichever end it is.
pub(crate) fn take(namespace: &Namespace, token: EndToken) -> Result<Answer> {
    let answer = namespace.ask(|channel, tag| channel.ask(tag, &Request::Take(tag, token.0)));
    match answer {
        Ok((_, answer)) => Ok(answer),
        Err(Error::Status(crate::NtStatus::INVALID_HANDLE)) => Err(Error::Token),
        Err(error) => Err(error),
    }
}

/// A client end as a process has it. Closed when it is dropped.
#[derive(Debug)]
pub(crate) struct ClientEnd {
    pub(crate) conn: Arc<Conn>,
    pub(crate) channel: Arc<Channel>,
    pub(crate) end: EndId,
    pub(crate) granted: Mask,
    pub(crate) server: Peer,
    /// Who has opened it, if that was another process (NP-ATTR-08).
    origin: Option<Box<Peer>>,
    closed: AtomicBool,
    /// As a server end's.
    shared: AtomicU32,
}

impl ClientEnd {
    pub(crate) fn new(
        conn: Conn,
        channel: Arc<Channel>,
        end: EndId,
        granted: Mask,
        server: Peer,
    ) -> ClientEnd {
        ClientEnd {
            conn: Arc::new(conn),
            channel,
            end,
            granted,
            server,
            origin: None,
            closed: AtomicBool::new(false),
            shared: AtomicU32::new(0),
        }
    }

    /// Other processes may have it from now on.
    pub(super) fn share(&self) {
        self.shared.fetch_add(1, Ordering::SeqCst);
    }

    /// The same, and another process has opened it.
    pub(super) fn came_from(&mut self, origin: Peer) {
        self.share();
        self.origin = Some(Box::new(origin));
    }

    /// Who has opened it.
    pub(crate) fn origin(&self) -> Peer {
        self.origin
            .as_deref()
            .copied()
            .unwrap_or_else(sys::own_identity)
    }

    pub(crate) fn give(&self, giving: Giving) -> Result<EndToken> {
        self.share();
        // A connected end's modes are in its connection.
        let modes = (self.conn.read_mode(), self.conn.completion_mode());
        let words = Words {
            options: giving.options,
            origin: self.origin(),
            peer: self.server,
            quality: Quality::default(),
        };
        give(&self.channel, self.end, giving, modes, words, || {
            self.shared.fetch_sub(1, Ordering::SeqCst);
        })
    }

    /// Whether closing it leaves what pends on it alone, since others may have it.
    pub(crate) fn may_be_anothers(&self) -> bool {
        self.shared.load(Ordering::SeqCst) != 0
    }

    pub(crate) fn close(&self) {
        // A child of fork(2) has its parent's ends, and not even the memory.
        if !self.closed.swap(true, Ordering::SeqCst) && !self.channel.is_inherited() {
            self.channel
                .close_end(&self.conn, self.end, self.may_be_anothers());
        }
    }
}

impl Drop for ClientEnd {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_its_text() {
        let token = EndToken([0x0123_4567_89ab_cdef, 7]);
        let text = token.to_string();
        assert_eq!(text, "0123456789abcdef0000000000000007");
        assert_eq!(text.parse::<EndToken>().expect("a token"), token);
        assert!(!format!("{token:?}").contains("cdef"), "a secret");
        let odd = ["", "7", &text[1..], "+123456789abcdef0000000000000007"];
        for odd in odd
            .into_iter()
            .chain(["\u{e9}12345678901234567890123456789"])
        {
            assert!(
                matches!(odd.parse::<EndToken>(), Err(Error::Token)),
                "{odd}"
            );
        }
    }
}

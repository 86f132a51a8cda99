//! Links that an earlier broker made: their books went with it, and the processes on them see to them.
//!
//! A process that has lost its broker says, by a link's token, that it goes on with that link. Once both have said so,
//! each hears when the other goes; one whose other half does not come in time hears that it has gone already. Pure: no
//! descriptor, no clock.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::npfs::ClientId;

pub(super) type LinkToken = [u64; 2];

/// Who is to be told of which link.
pub(super) type Lost = Vec<(ClientId, LinkToken)>;

#[derive(Debug, Default)]
pub(super) struct Orphans {
    links: HashMap<LinkToken, Orphan>,
    of: HashMap<ClientId, HashSet<LinkToken>>,
    /// Those whose second process has not come yet, by the time at which it is too late.
    alone: BTreeSet<(u64, LinkToken)>,
}

#[derive(Debug)]
struct Orphan {
    first: Side,
    second: Option<Side>,
    until: u64,
}

/// One process of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) session: ClientId,
    /// Its index in the link.
    pub(super) index: u8,
    pub(super) pid: u32,
}

impl Side {
    /// The same process, whose session before has not ended yet.
    fn is_again(self, other: Side) -> bool {
        (self.index, self.pid) == (other.index, other.pid)
    }
}

/// What became of a rejoin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejoined {
    Yes,
    /// Two processes are on the link already, or one of that index is: as far as this one knows, the other has gone.
    Alone,
    /// This session has as many as it may.
    TooMany,
}

impl Orphans {
    /// Whether no link is known.
    pub(super) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// A process goes on with a link; the other has until then to say the same. A third is not believed: what it says of
    /// a link that it is not on would change what the two hear of each other.
    pub(super) fn rejoin(
        &mut self,
        me: Side,
        token: LinkToken,
        until: u64,
        most: usize,
    ) -> Rejoined {
        if self.of.get(&me.session).map_or(0, HashSet::len) >= most {
            return Rejoined::TooMany;
        }
        match self.links.get_mut(&token) {
            None => {
                let orphan = Orphan {
                    first: me,
                    second: None,
                    until,
                };
                self.links.insert(token, orphan);
                self.alone.insert((until, token));
            }
            Some(orphan) => {
                let sides = [Some(&mut orphan.first), orphan.second.as_mut()];
                let again = sides.into_iter().flatten().find(|side| side.is_again(me));
                if let Some(before) = again {
                    let before = std::mem::replace(before, me);
                    self.forget(before.session, token);
                } else if orphan.second.is_none() && orphan.first.index != me.index {
                    orphan.second = Some(me);
                    self.alone.remove(&(orphan.until, token));
                } else {
                    return Rejoined::Alone;
                }
            }
        }
        self.of.entry(me.session).or_default().insert(token);
        Rejoined::Yes
    }

    /// The session has ended.
    pub(super) fn leave(&mut self, session: ClientId) -> Lost {
        let tokens = self.of.remove(&session).unwrap_or_default();
        let mut lost = Lost::new();
        for token in tokens {
            let Some(orphan) = self.links.remove(&token) else {
                continue;
            };
            self.alone.remove(&(orphan.until, token));
            let sides = [Some(orphan.first), orphan.second];
            for other in sides.into_iter().flatten() {
                if other.session != session {
                    self.forget(other.session, token);
                    lost.push((other.session, token));
                }
            }
        }
        lost
    }

    /// Those whose other half has not come by now.
    pub(super) fn expire(&mut self, now: u64) -> Lost {
        let mut lost = Lost::new();
        while let Some(&(until, token)) = self.alone.first().filter(|(until, _)| *until <= now) {
            self.alone.remove(&(until, token));
            if let Some(orphan) = self.links.remove(&token) {
                self.forget(orphan.first.session, token);
                lost.push((orphan.first.session, token));
            }
        }
        lost
    }

    /// When the next one is late.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.alone.first().map(|&(until, _)| until)
    }

    fn forget(&mut self, session: ClientId, token: LinkToken) {
        if let Some(tokens) = self.of.get_mut(&session) {
            tokens.remove(&token);
            if tokens.is_empty() {
                self.of.remove(&session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: LinkToken = [1, 2];
    const OTHER: LinkToken = [3, 4];
    const A: ClientId = ClientId(1);
    const B: ClientId = ClientId(2);
    const C: ClientId = ClientId(3);

    fn side(session: ClientId, index: u8) -> Side {
        let pid = u32::try_from(session.0).expect("small");
        Side {
            session,
            index,
            pid,
        }
    }

    fn rejoin(orphans: &mut Orphans, session: ClientId, token: LinkToken, index: u8) -> Rejoined {
        orphans.rejoin(side(session, index), token, 100, 8)
    }

    #[test]
    fn each_hears_when_the_other_goes() {
        let mut orphans = Orphans::default();
        rejoin(&mut orphans, A, LINK, 0);
        rejoin(&mut orphans, B, LINK, 1);
        rejoin(&mut orphans, B, OTHER, 0);
        rejoin(&mut orphans, C, OTHER, 1);
        assert_eq!(orphans.expire(1000), []);
        assert_eq!(orphans.next_deadline(), None);
        let mut lost = orphans.leave(B);
        lost.sort_unstable();
        assert_eq!(lost, [(A, LINK), (C, OTHER)]);
        assert!(orphans.is_empty() && orphans.of.is_empty());
    }

    #[test]
    fn who_stays_alone_hears_that_the_other_has_gone() {
        let mut orphans = Orphans::default();
        rejoin(&mut orphans, A, LINK, 0);
        assert_eq!(orphans.next_deadline(), Some(100));
        assert_eq!(orphans.expire(99), []);
        assert_eq!(orphans.expire(100), [(A, LINK)]);
        assert!(orphans.is_empty() && orphans.of.is_empty());
        assert_eq!(orphans.leave(A), []);
    }

    #[test]
    fn a_third_changes_nothing() {
        let mut orphans = Orphans::default();
        rejoin(&mut orphans, A, LINK, 0);
        // The same index twice: one of the two lies, and who came first is believed.
        assert_eq!(rejoin(&mut orphans, C, LINK, 0), Rejoined::Alone);
        assert_eq!(rejoin(&mut orphans, B, LINK, 1), Rejoined::Yes);
        assert_eq!(rejoin(&mut orphans, C, LINK, 2), Rejoined::Alone);
        assert_eq!(orphans.leave(C), []);
        assert_eq!(orphans.leave(A), [(B, LINK)]);
    }

    #[test]
    fn a_process_may_come_again_before_its_session_has_ended() {
        let mut orphans = Orphans::default();
        rejoin(&mut orphans, A, LINK, 0);
        rejoin(&mut orphans, B, LINK, 1);
        let again = Side {
            session: C,
            ..side(B, 1)
        };
        assert_eq!(orphans.rejoin(again, LINK, 100, 8), Rejoined::Yes);
        assert_eq!(orphans.leave(B), []);
        assert_eq!(orphans.leave(C), [(A, LINK)]);
        assert!(orphans.is_empty() && orphans.of.is_empty());
    }

    #[test]
    fn one_session_has_only_so_many() {
        let mut orphans = Orphans::default();
        assert_eq!(orphans.rejoin(side(A, 0), LINK, 100, 1), Rejoined::Yes);
        assert_eq!(orphans.rejoin(side(A, 0), OTHER, 100, 1), Rejoined::TooMany);
        assert_eq!(orphans.leave(A), []);
        assert!(orphans.is_empty());
    }
}

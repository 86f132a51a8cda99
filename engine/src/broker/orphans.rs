//! Links that an earlier broker made: their books went with it, and the processes on them see to them.
//!
//! A process that has lost its broker says, by a link's token, that it goes on with that link. Each that has said so hears
//! when another goes, and which of them have not come in time. Pure: no descriptor, no clock.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::npfs::ClientId;

pub(super) type LinkToken = [u64; 2];

/// Who is to be told of which link, and that who has gone from it: a bit for each index. Of everybody else ([`ALL`]) it is
/// never known whether they have exited.
pub(super) type Lost = Vec<(ClientId, LinkToken, u8)>;

/// Everybody else.
pub(super) const ALL: u8 = u8::MAX;

#[derive(Debug, Default)]
pub(super) struct Orphans {
    links: HashMap<LinkToken, Orphan>,
    of: HashMap<ClientId, HashSet<LinkToken>>,
    /// Links whose processes may still come, by the time at which it is too late.
    open: BTreeSet<(u64, LinkToken)>,
}

#[derive(Debug)]
struct Orphan {
    /// Those that have come, at most one of each index.
    sides: Vec<Side>,
    until: u64,
}

impl Orphan {
    /// The bits of those that have come.
    fn present(&self) -> u8 {
        self.sides.iter().fold(0, |bits, side| bits | side.bit())
    }
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
    fn bit(self) -> u8 {
        1_u8.checked_shl(self.index.into()).unwrap_or(0)
    }

    /// The same process, whose session before has not ended yet.
    fn is_again(self, other: Side) -> bool {
        (self.index, self.pid) == (other.index, other.pid)
    }
}

/// What became of a rejoin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejoined {
    Yes,
    /// One of that index is on the link already: as far as this one knows, all others have gone.
    Alone,
    /// This session has as many as it may.
    TooMany,
}

impl Orphans {
    /// Whether no link is known.
    pub(super) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// A process goes on with a link; the others have until then to say the same. Only its processes know its token. One
    /// whose index another has is not believed: what it says would change what that one hears.
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
        if me.bit() == 0 {
            return Rejoined::Alone;
        }
        let open = &mut self.open;
        let orphan = self.links.entry(token).or_insert_with(|| {
            open.insert((until, token));
            Orphan {
                sides: Vec::new(),
                until,
            }
        });
        let same_index = orphan.sides.iter_mut().find(|side| side.index == me.index);
        match same_index {
            None => orphan.sides.push(me),
            Some(side) if side.is_again(me) => {
                let before = std::mem::replace(side, me);
                self.forget(before.session, token);
            }
            Some(_) => return Rejoined::Alone,
        }
        self.of.entry(me.session).or_default().insert(token);
        Rejoined::Yes
    }

    /// The session has ended.
    pub(super) fn leave(&mut self, session: ClientId) -> Lost {
        let mut lost = Lost::new();
        for token in self.of.remove(&session).unwrap_or_default() {
            let Some(orphan) = self.links.get_mut(&token) else {
                continue;
            };
            let gone = orphan.sides.iter().filter(|side| side.session == session);
            let gone = gone.fold(0, |bits, side| bits | side.bit());
            orphan.sides.retain(|side| side.session != session);
            lost.extend(orphan.sides.iter().map(|side| (side.session, token, gone)));
            if orphan.sides.is_empty() {
                self.open.remove(&(orphan.until, token));
                self.links.remove(&token);
            } else if !self.open.contains(&(orphan.until, token)) {
                self.end_if_alone(token, &mut lost);
            }
        }
        lost
    }

    /// Nobody is left for the last one, and nobody comes any more: it hears of no link again.
    fn end_if_alone(&mut self, token: LinkToken, lost: &mut Lost) {
        if let Some([last]) = self.links.get(&token).map(|orphan| &orphan.sides[..]) {
            let last = last.session;
            lost.push((last, token, ALL));
            self.links.remove(&token);
            self.forget(last, token);
        }
    }

    /// Links whose processes should all have come by now: each that has hears who has not.
    pub(super) fn expire(&mut self, now: u64) -> Lost {
        let mut lost = Lost::new();
        while let Some(&(until, token)) = self.open.first().filter(|(until, _)| *until <= now) {
            self.open.remove(&(until, token));
            if let Some(orphan) = self
                .links
                .get(&token)
                .filter(|orphan| orphan.sides.len() > 1)
            {
                let gone = !orphan.present();
                lost.extend(orphan.sides.iter().map(|side| (side.session, token, gone)));
            }
            self.end_if_alone(token, &mut lost);
        }
        lost
    }

    /// When the next one is late.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.open.first().map(|&(until, _)| until)
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
        let mut late = orphans.expire(1000);
        late.sort_unstable();
        assert_eq!(
            late,
            [(A, LINK, !3), (B, LINK, !3), (B, OTHER, !3), (C, OTHER, !3)]
        );
        assert_eq!(orphans.next_deadline(), None);
        let mut lost = orphans.leave(B);
        lost.sort_unstable();
        assert_eq!(
            lost,
            [(A, LINK, 2), (A, LINK, ALL), (C, OTHER, 1), (C, OTHER, ALL)]
        );
        assert!(orphans.is_empty() && orphans.of.is_empty());
    }

    #[test]
    fn who_stays_alone_hears_that_the_others_have_gone() {
        let mut orphans = Orphans::default();
        rejoin(&mut orphans, A, LINK, 0);
        assert_eq!(orphans.next_deadline(), Some(100));
        assert_eq!(orphans.expire(99), []);
        assert_eq!(orphans.expire(100), [(A, LINK, ALL)]);
        assert!(orphans.is_empty() && orphans.of.is_empty());
        assert_eq!(orphans.leave(A), []);
    }

    #[test]
    fn one_that_goes_early_leaves_room_for_the_late() {
        let mut orphans = Orphans::default();
        rejoin(&mut orphans, A, LINK, 0);
        rejoin(&mut orphans, B, LINK, 1);
        assert_eq!(orphans.leave(B), [(A, LINK, 2)]);
        rejoin(&mut orphans, C, LINK, 2);
        let mut late = orphans.expire(100);
        late.sort_unstable();
        assert_eq!(late, [(A, LINK, !5), (C, LINK, !5)]);
        assert_eq!(orphans.leave(C), [(A, LINK, 4), (A, LINK, ALL)]);
        assert!(orphans.is_empty() && orphans.of.is_empty() && orphans.open.is_empty());
    }

    #[test]
    fn who_has_anothers_index_changes_nothing() {
        let mut orphans = Orphans::default();
        rejoin(&mut orphans, A, LINK, 0);
        // The same index twice: one of the two lies, and who came first is believed.
        assert_eq!(rejoin(&mut orphans, C, LINK, 0), Rejoined::Alone);
        assert_eq!(rejoin(&mut orphans, B, LINK, 1), Rejoined::Yes);
        assert_eq!(rejoin(&mut orphans, C, LINK, 1), Rejoined::Alone);
        assert_eq!(rejoin(&mut orphans, C, LINK, 8), Rejoined::Alone);
        assert_eq!(orphans.leave(C), []);
        assert_eq!(orphans.leave(A), [(B, LINK, 1)]);
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
        assert_eq!(orphans.leave(C), [(A, LINK, 2)]);
        assert_eq!(orphans.leave(A), []);
        assert!(orphans.is_empty() && orphans.of.is_empty() && orphans.open.is_empty());
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

//! Ends that were given away and that nobody has taken yet. Pure: no descriptor, no clock.

use std::collections::{BTreeSet, HashMap};

use crate::{
    npfs::{EndId, Moment},
    security::Mask,
    wire::Words,
};

/// What an end is taken by.
pub(super) type GiftToken = [u64; 2];

/// An end that waits for its further holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gift {
    pub(super) end: EndId,
    /// What goes with it.
    pub(super) granted: Mask,
    /// For the taker.
    pub(super) words: Words,
    /// Whose processes may take it.
    pub(super) uid: u32,
    /// Whom it counts for.
    pub(super) giver: u32,
    pub(super) until: Moment,
}

impl Gift {
    /// It is for another user's process.
    pub(super) fn is_abroad(&self) -> bool {
        self.uid != self.giver
    }
}

#[derive(Debug, Default)]
pub(super) struct Gifts {
    gifts: HashMap<GiftToken, Gift>,
    until: BTreeSet<(Moment, GiftToken)>,
    of: HashMap<u32, usize>,
}

impl Gifts {
    pub(super) fn is_empty(&self) -> bool {
        self.gifts.is_empty()
    }

    /// How many that a user has given wait.
    pub(super) fn count(&self, uid: u32) -> usize {
        self.of.get(&uid).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, token: GiftToken, gift: Gift) {
        self.until.insert((gift.until, token));
        *self.of.entry(gift.giver).or_default() += 1;
        self.gifts.insert(token, gift);
    }

    /// Once, and only by a process of the user whom it is for: it maps the same memory from then on.
    pub(super) fn take(&mut self, token: GiftToken, uid: u32) -> Option<Gift> {
        self.gifts.get(&token).filter(|gift| gift.uid == uid)?;
        self.remove(token)
    }

    fn remove(&mut self, token: GiftToken) -> Option<Gift> {
        let gift = self.gifts.remove(&token)?;
        self.until.remove(&(gift.until, token));
        if let Some(count) = self.of.get_mut(&gift.giver) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(&gift.giver);
            }
        }
        Some(gift)
    }

    /// Those that nobody has taken in time.
    pub(super) fn expire(&mut self, now: Moment) -> Vec<Gift> {
        let mut late = Vec::new();
        while let Some(&(_, token)) = self.until.first().filter(|(until, _)| *until <= now) {
            late.extend(self.remove(token));
        }
        late
    }

    pub(super) fn next_deadline(&self) -> Option<Moment> {
        self.until.first().map(|&(until, _)| until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gift(end: u64, uid: u32, until: Moment) -> Gift {
        given(end, uid, uid, until)
    }

    fn given(end: u64, giver: u32, uid: u32, until: Moment) -> Gift {
        Gift {
            end: EndId(end),
            granted: Mask::FILE_READ_DATA,
            words: Words::default(),
            uid,
            giver,
            until,
        }
    }

    #[test]
    fn a_gift_is_taken_once_and_by_its_user() {
        let mut gifts = Gifts::default();
        gifts.add([1, 2], gift(7, 1000, 50));
        gifts.add([3, 4], gift(8, 1000, 40));
        assert_eq!(gifts.count(1000), 2);
        assert_eq!(gifts.take([1, 2], 1001), None);
        assert_eq!(gifts.take([1, 3], 1000), None);
        assert_eq!(gifts.take([1, 2], 1000), Some(gift(7, 1000, 50)));
        assert_eq!(gifts.take([1, 2], 1000), None);
        assert_eq!((gifts.count(1000), gifts.next_deadline()), (1, Some(40)));
        assert_eq!(gifts.expire(39), []);
        assert_eq!(gifts.expire(40), [gift(8, 1000, 40)]);
        assert!(gifts.is_empty() && gifts.until.is_empty() && gifts.of.is_empty());
    }

    #[test]
    fn a_gift_for_another_user_is_that_ones_and_counts_for_its_giver() {
        let mut gifts = Gifts::default();
        gifts.add([1, 2], given(7, 1000, 1001, 50));
        assert_eq!((gifts.count(1000), gifts.count(1001)), (1, 0));
        assert_eq!(gifts.take([1, 2], 1000), None);
        assert_eq!(gifts.take([1, 2], 1001), Some(given(7, 1000, 1001, 50)));
        assert_eq!(gifts.count(1000), 0);
    }
}

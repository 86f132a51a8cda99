//! Entries by small numbers, each of which stands in two rows: that of its place, in the order of arrival, and one of a few that
//! its user has for it.
//!
//! Rows are linked through the entries, so that only a new entry may need memory, and says so if there is none. Nothing here
//! panics: a number that is none finds nothing.

use npfs_ringbuf::try_push;

/// An entry's number.
pub(super) type Key = u32;

const NONE: Key = u32::MAX;

/// What entries are looked up by, a link's token and a slot: random numbers that a broker has made, and a small one.
pub(super) type At = ([u64; 2], u32);

/// A row of its user's, below [`LISTS`].
pub(super) type List = usize;

/// How many there are.
pub(super) const LISTS: usize = 3;

pub(super) struct Rows<T> {
    places: Vec<Place<T>>,
    /// The first place without an entry.
    free: Key,
    /// Rows by place; a power of two, or none yet.
    buckets: Vec<Ends>,
    lists: [Ends; LISTS],
}

struct Place<T> {
    entry: Option<T>,
    at: At,
    /// In the row of its place; `None`: in none.
    beside: Option<Links>,
    /// In a list, and which.
    listed: Option<(List, Links)>,
    /// The next one without an entry.
    next_free: Key,
}

/// The neighbours in a row.
#[derive(Clone, Copy)]
struct Links {
    before: Key,
    after: Key,
}

/// Both ends of a row.
#[derive(Clone, Copy)]
struct Ends {
    first: Key,
    last: Key,
}

impl Ends {
    const EMPTY: Ends = Ends {
        first: NONE,
        last: NONE,
    };
}

/// Which row is meant.
#[derive(Clone, Copy)]
enum Row {
    Bucket(usize),
    List(List),
}

impl<T> Rows<T> {
    pub(super) const fn new() -> Rows<T> {
        Rows {
            places: Vec::new(),
            free: NONE,
            buckets: Vec::new(),
            lists: [Ends::EMPTY; LISTS],
        }
    }

    fn place(&self, key: Key) -> Option<&Place<T>> {
        self.places.get(usize::try_from(key).ok()?)
    }

    fn place_mut(&mut self, key: Key) -> Option<&mut Place<T>> {
        self.places.get_mut(usize::try_from(key).ok()?)
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        self.place(key)?.entry.as_ref()
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.place_mut(key)?.entry.as_mut()
    }

    /// Where an entry is.
    pub(super) fn place_of(&self, key: Key) -> Option<At> {
        self.place(key).map(|place| place.at)
    }

    /// A new entry, the last of its place and in no list. Back if there is no memory.
    pub(super) fn insert(&mut self, at: At, entry: T) -> Result<Key, T> {
        self.more_buckets();
        if self.buckets.is_empty() {
            return Err(entry);
        }
        let key = if self.free == NONE {
            let key = Key::try_from(self.places.len()).unwrap_or(NONE);
            let place = Place {
                entry: None,
                at,
                beside: None,
                listed: None,
                next_free: NONE,
            };
            if key == NONE || try_push(&mut self.places, place).is_err() {
                return Err(entry);
            }
            key
        } else {
            let key = self.free;
            self.free = self.place(key).map_or(NONE, |place| place.next_free);
            key
        };
        if let Some(place) = self.place_mut(key) {
            place.entry = Some(entry);
            place.at = at;
        }
        self.append(self.bucket(at), key);
        Ok(key)
    }

    /// Takes an entry out, of its rows too.
    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.place_mut(key)?.entry.take()?;
        self.leave_place(key);
        self.unlist(key);
        let free = self.free;
        if let Some(place) = self.place_mut(key) {
            place.next_free = free;
        }
        self.free = key;
        Some(entry)
    }

    /// An entry is not found by its place any more.
    pub(super) fn leave_place(&mut self, key: Key) {
        if let Some(place) = self.place_mut(key)
            && let Some(links) = place.beside.take()
        {
            let at = place.at;
            self.close_up(self.bucket(at), links);
        }
    }

    /// The entries of a place, in the order of arrival.
    pub(super) fn at(&self, at: At) -> impl Iterator<Item = &T> {
        self.keys_at(at).filter_map(|key| self.get(key))
    }

    fn keys_at(&self, at: At) -> impl Iterator<Item = Key> {
        let next = move |key: &Key| self.next_at(*key, at);
        std::iter::successors(self.first_at(at), next)
    }

    fn first_at(&self, at: At) -> Option<Key> {
        self.of_place(self.ends(self.bucket(at)).first, at)
    }

    fn next_at(&self, key: Key, at: At) -> Option<Key> {
        self.of_place(self.place(key)?.beside?.after, at)
    }

    /// The first of that place in a row, from there on.
    fn of_place(&self, mut key: Key, at: At) -> Option<Key> {
        loop {
            let place = self.place(key)?;
            if place.at == at {
                return Some(key);
            }
            key = place.beside?.after;
        }
    }

    /// Every entry, and its place.
    pub(super) fn all(&self) -> impl Iterator<Item = (At, &T)> {
        let places = self.places.iter();
        places.filter_map(|place| Some((place.at, place.entry.as_ref()?)))
    }

    /// Every entry, to be changed.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places
            .iter_mut()
            .filter_map(|place| place.entry.as_mut())
    }

    /// The number of the first entry from there on that is `wanted`.
    pub(super) fn first_from(&self, key: Key, wanted: impl Fn(&T) -> bool) -> Option<Key> {
        let from = usize::try_from(key).ok()?;
        let is_it = |place: &Place<T>| place.entry.as_ref().is_some_and(&wanted);
        let found = self.places.get(from..)?.iter().position(is_it)?;
        Key::try_from(from + found).ok()
    }

    // ---- lists -------------------------------------------------------------------------------------------------

    /// Puts an entry at the end of a list, unless it is there; it leaves the one that it is in.
    pub(super) fn enlist(&mut self, key: Key, list: List) {
        let Some(place) = self.place(key) else { return };
        let is_there = place.listed.is_some_and(|(other, _)| other == list);
        if place.entry.is_some() && !is_there {
            self.unlist(key);
            self.append(Row::List(list), key);
        }
    }

    /// The same for all entries of a place.
    pub(super) fn enlist_at(&mut self, at: At, list: List) {
        let mut next = self.first_at(at);
        while let Some(key) = next {
            next = self.next_at(key, at);
            self.enlist(key, list);
        }
    }

    pub(super) fn is_listed(&self, key: Key) -> bool {
        self.place(key).is_some_and(|place| place.listed.is_some())
    }

    /// Whether nothing is in a list.
    pub(super) fn is_empty(&self, list: List) -> bool {
        self.ends(Row::List(list)).first == NONE
    }

    /// Takes the first of a list off it.
    pub(super) fn take_first(&mut self, list: List) -> Option<Key> {
        let first = self.ends(Row::List(list)).first;
        self.place(first)?;
        self.unlist(first);
        Some(first)
    }

    fn unlist(&mut self, key: Key) {
        if let Some(place) = self.place_mut(key)
            && let Some((list, links)) = place.listed.take()
        {
            self.close_up(Row::List(list), links);
        }
    }

    // ---- rows --------------------------------------------------------------------------------------------------

    fn bucket(&self, at: At) -> Row {
        let ([one, other], slot) = at;
        // Tokens are random; slots are not, and spread by a multiplication (the odd number next to 2^64 over the golden ratio).
        let mixed = (one ^ other ^ u64::from(slot)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let mask = self.buckets.len().saturating_sub(1);
        Row::Bucket(usize::try_from(mixed).unwrap_or(0) & mask)
    }

    /// One row for each entry that there has been at a time, if there is memory for them: rows are longer otherwise.
    fn more_buckets(&mut self) {
        if self.places.len() < self.buckets.len() {
            return;
        }
        let wanted = (2 * self.buckets.len()).max(16);
        let mut more = Vec::new();
        if more.try_reserve_exact(wanted).is_err() {
            return;
        }
        for _ in 0..wanted {
            if try_push(&mut more, Ends::EMPTY).is_err() {
                return;
            }
        }
        let old = std::mem::replace(&mut self.buckets, more);
        for ends in old {
            let mut key = ends.first;
            while let Some(place) = self.place_mut(key) {
                let at = place.at;
                let links = place.beside.take();
                self.append(self.bucket(at), key);
                key = links.map_or(NONE, |links| links.after);
            }
        }
    }

    fn ends(&self, row: Row) -> Ends {
        let ends = match row {
            Row::Bucket(index) => self.buckets.get(index),
            Row::List(list) => self.lists.get(list),
        };
        ends.copied().unwrap_or(Ends::EMPTY)
    }

    fn set_ends(&mut self, row: Row, to: Ends) {
        let ends = match row {
            Row::Bucket(index) => self.buckets.get_mut(index),
            Row::List(list) => self.lists.get_mut(list),
        };
        if let Some(ends) = ends {
            *ends = to;
        }
    }

    fn links(&mut self, row: Row, key: Key) -> Option<&mut Links> {
        let place = self.place_mut(key)?;
        match row {
            Row::Bucket(_) => place.beside.as_mut(),
            Row::List(_) => place.listed.as_mut().map(|(_, links)| links),
        }
    }

    fn append(&mut self, row: Row, key: Key) {
        let Ends { first, last } = self.ends(row);
        let links = Links {
            before: last,
            after: NONE,
        };
        let Some(place) = self.place_mut(key) else {
            return;
        };
        match row {
            Row::Bucket(_) => place.beside = Some(links),
            Row::List(list) => place.listed = Some((list, links)),
        }
        if let Some(before) = self.links(row, last) {
            before.after = key;
        }
        let first = if first == NONE { key } else { first };
        self.set_ends(row, Ends { first, last: key });
    }

    /// The neighbours of one that has left a row.
    fn close_up(&mut self, row: Row, links: Links) {
        let mut ends = self.ends(row);
        match self.links(row, links.before) {
            Some(before) => before.after = links.after,
            None => ends.first = links.after,
        }
        match self.links(row, links.after) {
            Some(after) => after.before = links.before,
            None => ends.last = links.before,
        }
        self.set_ends(row, ends);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The same, said plainly.
    #[derive(Default)]
    struct Plain {
        entries: BTreeMap<Key, (At, u64)>,
        places: BTreeMap<At, Vec<Key>>,
        lists: [Vec<Key>; LISTS],
    }

    impl Plain {
        fn unlist(&mut self, key: Key) {
            self.lists
                .iter_mut()
                .for_each(|list| list.retain(|other| *other != key));
        }

        fn leave_place(&mut self, key: Key) {
            self.places
                .values_mut()
                .for_each(|row| row.retain(|other| *other != key));
        }

        fn enlist(&mut self, key: Key, list: List) {
            if self.entries.contains_key(&key) && !self.lists[list].contains(&key) {
                self.unlist(key);
                self.lists[list].push(key);
            }
        }
    }

    #[test]
    fn rows_are_what_plain_lists_are() {
        let mut seed = 7_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let mut rows = Rows::new();
        let mut plain = Plain::default();
        for round in 0..60_000_u64 {
            // Some hundred entries at a time, and few places: rows are long, and buckets shared.
            let at = ([random(4), 9], u32::try_from(random(8)).expect("small"));
            let key = u32::try_from(random(120)).expect("small");
            let list = usize::try_from(random(3)).expect("small");
            match random(9) {
                0..=2 if plain.entries.len() < 100 => {
                    let key = rows.insert(at, round).expect("memory");
                    assert!(plain.entries.insert(key, (at, round)).is_none());
                    plain.places.entry(at).or_default().push(key);
                }
                0..=3 => {
                    let known = plain.entries.remove(&key).map(|(_, entry)| entry);
                    plain.unlist(key);
                    plain.leave_place(key);
                    assert_eq!(rows.remove(key), known);
                }
                4 => {
                    rows.leave_place(key);
                    plain.leave_place(key);
                }
                5 => {
                    rows.enlist(key, list);
                    plain.enlist(key, list);
                }
                6 => {
                    rows.enlist_at(at, list);
                    for key in plain.places.get(&at).cloned().unwrap_or_default() {
                        plain.enlist(key, list);
                    }
                }
                _ => {
                    let first =
                        (!plain.lists[list].is_empty()).then(|| plain.lists[list].remove(0));
                    assert_eq!(rows.take_first(list), first);
                }
            }
            let beside: Vec<u64> = rows.at(at).copied().collect();
            let keys = plain.places.get(&at).into_iter().flatten();
            assert!(keys.map(|key| plain.entries[key].1).eq(beside));
            assert_eq!(rows.is_empty(list), plain.lists[list].is_empty());
            assert_eq!(
                rows.get(key).copied(),
                plain.entries.get(&key).map(|(_, entry)| *entry)
            );
            let next = plain.entries.range(key..).next().map(|(key, _)| *key);
            assert_eq!(rows.first_from(key, |_| true), next);
            let even = |entry: &u64| entry.is_multiple_of(2);
            let next = plain
                .entries
                .range(key..)
                .find(|(_, (_, entry))| even(entry));
            assert_eq!(rows.first_from(key, even), next.map(|(key, _)| *key));
        }
        assert!(
            rows.all()
                .map(|(at, entry)| (at, *entry))
                .eq(plain.entries.values().copied())
        );
    }
}

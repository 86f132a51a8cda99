//! Ends by their ids: a slab, so that an end costs what it is and a lookup one comparison.

use slab::Slab;

use super::EndId;

/// The ends of one kind in one shard.
///
/// ```text
/// id = (serial << 33 | index << 1 | kind) * shards + shard
/// ```
///
/// The serial counts up with every end, so that an id is not used twice (before 2^27 further ends of the kind), and
/// ids are in the order in which their ends were made.
#[derive(Debug)]
pub(super) struct Ends<T> {
    slab: Slab<(u32, T)>,
    kind: u64,
    shard: u64,
    shards: u64,
    serial: u32,
}

const SERIALS: u32 = 1 << 27;

impl<T> Ends<T> {
    /// `kind`: 0 or 1.
    pub(super) fn new(kind: u64, shard: u64, shards: u64) -> Ends<T> {
        Ends {
            slab: Slab::new(),
            kind,
            shard,
            shards,
            serial: 1,
        }
    }

    /// The id that the next `insert` gives.
    pub(super) fn next_id(&self) -> EndId {
        let index = self.slab.vacant_key() as u64;
        let id = u64::from(self.serial) << 33 | index << 1 | self.kind;
        EndId(id * self.shards + self.shard)
    }

    pub(super) fn insert(&mut self, value: T) -> EndId {
        let id = self.next_id();
        self.slab.insert((self.serial, value));
        self.serial = (self.serial + 1) % SERIALS;
        id
    }

    fn index(&self, id: EndId) -> Option<(usize, u32)> {
        let (of_shard, shard) = (id.0 / self.shards, id.0 % self.shards);
        let index = usize::try_from(of_shard >> 1 & 0xFFFF_FFFF).ok()?;
        let serial = u32::try_from(of_shard >> 33).ok()?;
        (shard == self.shard && of_shard & 1 == self.kind).then_some((index, serial))
    }

    pub(super) fn get(&self, id: EndId) -> Option<&T> {
        let (index, serial) = self.index(id)?;
        let (own, value) = self.slab.get(index)?;
        (*own == serial).then_some(value)
    }

    pub(super) fn get_mut(&mut self, id: EndId) -> Option<&mut T> {
        let (index, serial) = self.index(id)?;
        let (own, value) = self.slab.get_mut(index)?;
        (*own == serial).then_some(value)
    }

    pub(super) fn remove(&mut self, id: EndId) -> Option<T> {
        self.get(id)?;
        let (index, _) = self.index(id)?;
        let (_, value) = self.slab.try_remove(index)?;
        if self.slab.is_empty() {
            self.slab.shrink_to_fit();
        }
        Some(value)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_finds_its_end_and_no_other() {
        let mut servers = Ends::new(0, 3, 16);
        let mut clients = Ends::new(1, 3, 16);
        let mut ids = Vec::new();
        for turn in 0..1000 {
            let next = servers.next_id();
            let id = servers.insert(turn);
            assert_eq!(id, next);
            assert_eq!(id.0 % 16, 3);
            let client = clients.insert(turn);
            assert_eq!((servers.get(id), servers.get(client)), (Some(&turn), None));
            assert_eq!((clients.get(id), clients.get(client)), (None, Some(&turn)));
            // Its slot is used again; its id is not.
            if turn % 2 == 0 {
                assert_eq!(servers.remove(id), Some(turn));
                assert_eq!((servers.remove(id), servers.get(id)), (None, None));
            }
            assert!(ids.last().is_none_or(|last| *last < id), "in order");
            ids.push(id);
        }
        for other in [0, 3, u64::MAX, ids[1].0 + 1, ids[1].0 + 16] {
            assert_eq!(servers.get(EndId(other)), None);
        }
    }
}

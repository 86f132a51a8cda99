//! Ends by their ids: a slab, so that an end costs what it is and a lookup one comparison.

use super::EndId;

/// The ends of one kind in one shard.
///
/// ```text
/// id = (serial << 33 | index << 1 | kind) * shards + shard
/// ```
///
/// The serial counts up with every end, so that an id is not used twice (before 2^27 further ends of the kind), and
/// ids are in the order in which their ends were made.
///
/// It grows by a chunk at a time. One vector would be copied while everybody waits for the shard, and leave holes in the
/// heap as large as what it has grown to.
#[derive(Debug)]
pub(super) struct Ends<T> {
    chunks: Vec<Box<Chunk<T>>>,
    /// The index that the next end gets, if there is a chunk for it.
    vacant: usize,
    count: usize,
    kind: u64,
    shard: u64,
    shards: u64,
    serial: u32,
}

#[derive(Debug)]
struct Chunk<T> {
    /// Beside the ends, and not each with its own: they have four bytes, and most ends' alignment is eight.
    serials: [u32; CHUNK],
    places: [Place<T>; CHUNK],
}

#[derive(Debug)]
enum Place<T> {
    Taken(T),
    /// The next one that is vacant.
    Vacant(usize),
}

const CHUNK: usize = 16;
const SERIALS: u32 = 1 << 27;

impl<T> Ends<T> {
    /// `kind`: 0 or 1.
    pub(super) fn new(kind: u64, shard: u64, shards: u64) -> Ends<T> {
        Ends {
            chunks: Vec::new(),
            vacant: 0,
            count: 0,
            kind,
            shard,
            shards,
            serial: 1,
        }
    }

    /// The id that the next `insert` gives.
    pub(super) fn next_id(&self) -> EndId {
        let id = u64::from(self.serial) << 33 | (self.vacant as u64) << 1 | self.kind;
        EndId(id * self.shards + self.shard)
    }

    pub(super) fn insert(&mut self, value: T) -> EndId {
        let id = self.next_id();
        let (chunk, place) = (self.vacant / CHUNK, self.vacant % CHUNK);
        if chunk == self.chunks.len() {
            self.chunks.push(Box::new(Chunk {
                serials: [0; CHUNK],
                places: std::array::from_fn(|place| Place::Vacant(chunk * CHUNK + place + 1)),
            }));
        }
        let chunk = &mut self.chunks[chunk];
        let before = std::mem::replace(&mut chunk.places[place], Place::Taken(value));
        chunk.serials[place] = self.serial;
        if let Place::Vacant(next) = before {
            self.vacant = next;
        }
        self.count += 1;
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
        let chunk = self.chunks.get(index / CHUNK)?;
        match &chunk.places[index % CHUNK] {
            Place::Taken(value) if chunk.serials[index % CHUNK] == serial => Some(value),
            _ => None,
        }
    }

    pub(super) fn get_mut(&mut self, id: EndId) -> Option<&mut T> {
        let (index, serial) = self.index(id)?;
        let chunk = self.chunks.get_mut(index / CHUNK)?;
        match &mut chunk.places[index % CHUNK] {
            Place::Taken(value) if chunk.serials[index % CHUNK] == serial => Some(value),
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, id: EndId) -> Option<T> {
        self.get(id)?;
        let (index, _) = self.index(id)?;
        let place = &mut self.chunks.get_mut(index / CHUNK)?.places[index % CHUNK];
        let before = std::mem::replace(place, Place::Vacant(self.vacant));
        self.vacant = index;
        self.count -= 1;
        if self.is_empty() {
            self.chunks = Vec::new();
            self.vacant = 0;
        }
        match before {
            Place::Taken(value) => Some(value),
            Place::Vacant(_) => None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
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

//! Values by small numbers, which say so if there is no memory for one more.
//!
//! What `slab` is, but for that: where a host's server waits, no code may panic (`npfs_host.h`).

use npfs_ringbuf::try_push;

/// A number is free again when its value has been taken.
#[derive(Debug)]
pub(crate) struct Pool<T> {
    places: Vec<Place<T>>,
    /// The first place without a value; none is `places.len()` or beyond.
    free: usize,
}

#[derive(Debug)]
enum Place<T> {
    Taken(T),
    /// The next one without a value.
    Free(usize),
}

const NONE: usize = usize::MAX;

impl<T> Pool<T> {
    pub(crate) const fn new() -> Pool<T> {
        Pool {
            places: Vec::new(),
            free: NONE,
        }
    }

    /// The number of one more value, which comes back if there is no memory.
    pub(crate) fn insert(&mut self, value: T) -> Result<usize, T> {
        let key = self.free;
        let Some(place) = self.places.get_mut(key) else {
            let key = self.places.len();
            return match try_push(&mut self.places, Place::Taken(value)) {
                Ok(()) => Ok(key),
                Err(Place::Taken(value)) => Err(value),
                Err(Place::Free(_)) => Ok(NONE), // it was pushed as taken
            };
        };
        if let Place::Free(next) = std::mem::replace(place, Place::Taken(value)) {
            self.free = next;
        }
        Ok(key)
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, key: usize) -> Option<T> {
        let place = self.places.get_mut(key)?;
        if let Place::Free(_) = place {
            return None;
        }
        let before = std::mem::replace(place, Place::Free(self.free));
        self.free = key;
        match before {
            Place::Taken(value) => Some(value),
            Place::Free(_) => None,
        }
    }

    /// Each value with its number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let places = self.places.iter().enumerate();
        places.filter_map(|(key, place)| match place {
            Place::Taken(value) => Some((key, value)),
            Place::Free(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_pool_is_what_a_plain_map_is() {
        let mut seed = 11_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let (mut pool, mut plain) = (Pool::new(), BTreeMap::new());
        for round in 0..20_000_u64 {
            if plain.len() < 50 && random(2) == 0 {
                let key = pool.insert(round).expect("memory");
                assert!(key < 50, "numbers are used again");
                assert_eq!(plain.insert(key, round), None, "a number of its own");
            } else {
                let key = usize::try_from(random(60)).expect("small");
                assert_eq!(pool.remove(key), plain.remove(&key));
            }
            let all = pool.iter().map(|(key, value)| (key, *value));
            assert!(all.eq(plain.iter().map(|(key, value)| (*key, *value))));
        }
        assert_eq!(pool.remove(usize::MAX), None);
    }
}

//! What handles stand for: one table for the process, and no handle value twice.
//!
//! A handle is an index with the generation of its place, so that one that was closed, or was never given, is told from those
//! that are open, however many were opened since. A C pointer could not be asked that.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic::AtomicBool};

use npfs::{
    Broker, Namespace, NtStatus,
    nt::{CallingThread, Event, Handle, InfoClass, Nt, NtResult, Options, Port, StatusBlock},
};

use crate::types::npfs_handle;

/// A namespace, and the files that are opened in it.
#[derive(Clone)]
pub(crate) struct Names {
    pub(crate) namespace: Namespace,
    pub(crate) nt: Nt,
    /// The same for all handles of one namespace, and no other.
    serial: Arc<()>,
}

impl Names {
    pub(crate) fn new(namespace: Namespace) -> Names {
        Names {
            nt: Nt::new(namespace.clone()),
            namespace,
            serial: Arc::new(()),
        }
    }

    pub(crate) fn is(&self, other: &Names) -> bool {
        Arc::ptr_eq(&self.serial, &other.serial)
    }
}

/// An open file.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) names: Arc<Names>,
    pub(crate) handle: Handle,
    /// Whether calls on it wait for their end.
    pub(crate) synchronous: bool,
    /// Whether its completion routines may wait, and run where that harms nobody.
    pub(crate) callbacks_may_wait: Arc<AtomicBool>,
}

impl File {
    pub(crate) fn new(names: Arc<Names>, handle: Handle, options: Options) -> File {
        File {
            names,
            handle,
            synchronous: options.is_synchronous(),
            callbacks_may_wait: Arc::default(),
        }
    }

    /// One that was opened elsewhere, with whatever options.
    pub(crate) fn taken(names: Arc<Names>, handle: Handle) -> File {
        let mut mode = [0; 4];
        let io = StatusBlock::default();
        let asked = names
            .nt
            .query_information_file(handle, &io, InfoClass::MODE, &mut mode);
        let mode = match asked {
            NtStatus::SUCCESS => u32::from_le_bytes(mode),
            _ => 0,
        };
        File::new(names, handle, Options::from_bits_retain(mode))
    }

    /// A handle of the process for it. It is closed if there can be none.
    pub(crate) fn insert(self) -> NtResult<npfs_handle> {
        let file = Arc::new(self);
        let made = insert(Object::File(file.clone()));
        if made.is_err() {
            let _ = file.close();
        }
        made
    }

    pub(crate) fn nt(&self) -> &Nt {
        &self.names.nt
    }

    pub(crate) fn close(&self) -> NtResult<()> {
        self.nt().close(self.handle)
    }
}

/// A kind of [`Object`], by which one is asked for.
pub(crate) trait Kind: Sized {
    fn of(object: &Object) -> Option<Self>;
}

macro_rules! kinds {
    ($($variant:ident($kind:ty),)*) => {
        /// What is open.
        #[derive(Clone)]
        pub(crate) enum Object {
            $($variant($kind),)*
        }

        $(impl Kind for $kind {
            fn of(object: &Object) -> Option<Self> {
                match object {
                    Object::$variant(one) => Some(one.clone()),
                    _ => None,
                }
            }
        })*
    };
}

kinds! {
    Names(Arc<Names>),
    Broker(Arc<Broker>),
    File(Arc<File>),
    Event(Event),
    Port(Port),
    Thread(CallingThread),
}

impl Kind for Object {
    fn of(object: &Object) -> Option<Object> {
        Some(object.clone())
    }
}

struct Place {
    generation: u32,
    object: Option<Object>,
}

struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
}

static TABLE: RwLock<Table> = RwLock::new(Table {
    places: Vec::new(),
    free: Vec::new(),
});

fn table() -> RwLockReadGuard<'static, Table> {
    TABLE.read().unwrap_or_else(PoisonError::into_inner)
}

fn table_mut() -> RwLockWriteGuard<'static, Table> {
    TABLE.write().unwrap_or_else(PoisonError::into_inner)
}

/// The index and the generation in a handle. An index of 0 would be the null handle, hence one more.
fn parts(handle: npfs_handle) -> Option<(usize, u32)> {
    let index = (handle & u64::from(u32::MAX)).checked_sub(1)?;
    let generation = u32::try_from(handle >> 32).ok()?;
    Some((usize::try_from(index).ok()?, generation))
}

/// A handle for it.
pub(crate) fn insert(object: Object) -> NtResult<npfs_handle> {
    let mut table = table_mut();
    let index = match table.free.pop() {
        Some(index) => index,
        None => {
            let index = u32::try_from(table.places.len()).ok();
            let index = index.filter(|index| *index < u32::MAX - 1);
            let index = index.ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
            table.places.push(Place {
                generation: 1,
                object: None,
            });
            index
        }
    };
    let place = &mut table.places[index as usize];
    place.object = Some(object);
    Ok(u64::from(place.generation) << 32 | u64::from(index + 1))
}

/// What a handle stands for.
///
/// INVALID_HANDLE: nothing; OBJECT_TYPE_MISMATCH: something else.
pub(crate) fn get<T: Kind>(handle: npfs_handle) -> NtResult<T> {
    let (index, generation) = parts(handle).ok_or(NtStatus::INVALID_HANDLE)?;
    let table = table();
    let place = table.places.get(index);
    let place = place.filter(|place| place.generation == generation);
    let object = place.and_then(|place| place.object.as_ref());
    T::of(object.ok_or(NtStatus::INVALID_HANDLE)?).ok_or(NtStatus::OBJECT_TYPE_MISMATCH)
}

/// Takes the handle away; what it stood for is the caller's to end, without the table's lock.
pub(crate) fn remove(handle: npfs_handle) -> NtResult<Object> {
    let (index, generation) = parts(handle).ok_or(NtStatus::INVALID_HANDLE)?;
    let mut table = table_mut();
    let place = table.places.get_mut(index);
    let place = place.filter(|place| place.generation == generation);
    let place = place.ok_or(NtStatus::INVALID_HANDLE)?;
    let object = place.object.take().ok_or(NtStatus::INVALID_HANDLE)?;
    // A place whose generations are used up is not used again.
    if let Some(next) = place.generation.checked_add(1) {
        place.generation = next;
        let index = u32::try_from(index).map_err(|_| NtStatus::INVALID_HANDLE)?;
        table.free.push(index);
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_handle_never_comes_back() {
        let first = insert(Object::Event(Event::new())).expect("a handle");
        assert!(remove(first).is_ok());
        let second = insert(Object::Event(Event::new())).expect("a handle");
        assert_ne!(first, second);
        assert_eq!(get::<Event>(first).err(), Some(NtStatus::INVALID_HANDLE));
        assert_eq!(remove(first).err(), Some(NtStatus::INVALID_HANDLE));
        assert!(get::<Event>(second).is_ok());
        let mismatch = Some(NtStatus::OBJECT_TYPE_MISMATCH);
        assert_eq!(get::<Port>(second).err(), mismatch);
        assert!(remove(second).is_ok());
    }

    #[test]
    fn no_number_is_a_handle_by_chance() {
        for number in [
            0,
            1,
            2,
            u64::from(u32::MAX),
            1 << 32,
            u64::MAX,
            u64::MAX - 1,
        ] {
            let got = get::<Object>(number).err();
            assert_eq!(got, Some(NtStatus::INVALID_HANDLE), "{number:#x}");
        }
    }
}

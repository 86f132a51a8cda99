//! Named pipes as NT's system calls have them: handles, IO status blocks, events, and an NTSTATUS for everything.
//!
//! One [`Nt`] stands for a process's handle table in one namespace. Its calls are those of section 0 of the
//! specification, with their arguments; what a pointer is there (an IO status block, an event, a buffer that outlives the
//! call) is a counted value here. The typed API of this crate is for programs; this one is for whoever has to answer as NT
//! does, bit by bit.
//!
//! ```
//! # fn main() -> Result<(), npfs::NtStatus> {
//! use npfs::{BrokerOptions, Mask, NtStatus, nt::*};
//!
//! let broker = BrokerOptions::new().start().expect("a broker");
//! let nt = Nt::new(broker.connect().expect("a client of it"));
//! let name = units(r"\??\pipe\example");
//! let at = Attributes::named(&name);
//!
//! let (server, _) = nt.create_named_pipe(&at, &CreatePipe::default())?;
//! let (client, _) = nt.open_file(&at, Mask::GENERIC_READ | Mask::GENERIC_WRITE, 0, 0)?;
//!
//! let (read, buffer) = (Io::with_event(Event::new()), Buffer::new(16));
//! assert_eq!(nt.read_file(server, &read, &buffer), NtStatus::PENDING);
//! assert_eq!(nt.write_file(client, &Io::default(), b"hello"), NtStatus::SUCCESS);
//! // When the write has returned, the read that it satisfied is complete (NP-IO-13).
//! assert_eq!((read.status.status(), read.status.information()), (NtStatus::SUCCESS, 5));
//! assert_eq!(&buffer.bytes()[..5], b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! **Pended calls** complete by themselves: a thread in [`Nt::wait`] moves on whatever pends in the process, and without
//! one a loop does, a thread that begins with the first call that pends. Every call on a connection moves on what pends on
//! both its ends in this process before it returns (NP-IO-13). Another thread reads the broker's answers while a listen or a
//! wait for an instance pends.

mod control;
mod data;
mod directory;
mod file;
mod info;
mod io;
mod open;
mod thread;

use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc, RwLock, RwLockReadGuard, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use slab::Slab;

pub use crate::jobs::Callback;
pub use control::Control;
pub use directory::ListPart;
pub use info::{InfoClass, VolumeClass};
pub use io::{Buffer, Elsewhere, Event, Io, Memory, Port, PortPacket, StatusBlock, Waitable, wait};
pub use open::{Attributes, CreatePipe, FILE_CREATED, FILE_OPENED, Options, Share};
pub use thread::{
    CallingThread, Identity, Level, calling_thread, cancel_blocking, impersonated, revert_to_self,
};

use self::file::{File, Kind};
use crate::{
    EndToken, Mask, Namespace, NtStatus,
    client::{Answer, Giving},
};

/// What a call answers.
pub type NtResult<T> = Result<T, NtStatus>;

/// A handle: a multiple of 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u32);

impl Handle {
    /// The pseudo handle of the calling process, which is no file (NP-INFO-04).
    pub const CURRENT_PROCESS: Handle = Handle(u32::MAX);
    /// The pseudo handle of the calling thread.
    pub const CURRENT_THREAD: Handle = Handle(u32::MAX - 1);
}

/// UTF-16 of a text, as names of objects are given.
#[must_use]
pub fn units(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

/// A handle table over a namespace. Cheap to clone; all clones are one table.
#[derive(Clone, Debug)]
pub struct Nt(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    namespace: Namespace,
    handles: RwLock<Slab<Entry>>,
    /// No two tables of a process have the same.
    id: u64,
    /// How many handles were closed; changes under the lock.
    closed: AtomicU64,
    /// NP-WINE-01.
    wine: AtomicBool,
}

#[derive(Clone, Debug)]
struct Entry {
    file: Arc<File>,
    granted: Mask,
}

static NEXT_TABLE: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static RECENT: Recent = const { Recent::new() };
}

/// The handle that this thread uses again and again: to look it up does not take the table's lock, which all threads share. It
/// keeps nothing open, and is good until a handle of its table is closed, whichever that is.
struct Recent {
    /// Table, closed handles, handle.
    key: Cell<(u64, u64, u32)>,
    file: RefCell<Weak<File>>,
    granted: Cell<Mask>,
}

impl Recent {
    const fn new() -> Recent {
        Recent {
            key: Cell::new((u64::MAX, 0, 0)),
            file: RefCell::new(Weak::new()),
            granted: Cell::new(Mask::empty()),
        }
    }

    fn key(table: &Inner, handle: Handle) -> (u64, u64, u32) {
        (table.id, table.closed.load(Ordering::Acquire), handle.0)
    }

    #[inline]
    fn entry(&self, table: &Inner, handle: Handle) -> Option<Entry> {
        if self.key.get() != Recent::key(table, handle) {
            return None;
        }
        let file = self.file.borrow().upgrade()?;
        Some(Entry {
            file,
            granted: self.granted.get(),
        })
    }

    /// One that was looked up in the table. The first time only its number is noted: who goes round many handles would pay for
    /// nothing.
    fn note(&self, table: &Inner, handle: Handle, entry: &Entry) {
        let key = Recent::key(table, handle);
        let again = self.key.replace(key) == key;
        let file = if again {
            Arc::downgrade(&entry.file)
        } else {
            Weak::new()
        };
        drop(self.file.replace(file));
        self.granted.set(entry.granted);
    }
}

/// A file object that is in use, as if by one more handle.
struct Held(Entry);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.file.one_less();
    }
}

impl Entry {
    /// The rights of a duplicate for which these are asked.
    fn narrowed(&self, access: Option<Mask>) -> NtResult<Mask> {
        let wanted = match access.map(Mask::map_generic) {
            Some(wanted) if !wanted.contains(Mask::MAXIMUM_ALLOWED) => wanted,
            _ => return Ok(self.granted),
        };
        if self.granted.contains(wanted) {
            Ok(wanted)
        } else {
            Err(NtStatus::ACCESS_DENIED)
        }
    }
}

impl Nt {
    /// Without any handle.
    #[must_use]
    pub fn new(namespace: Namespace) -> Nt {
        Nt(Arc::new(Inner {
            namespace,
            handles: RwLock::default(),
            id: NEXT_TABLE.fetch_add(1, Ordering::Relaxed),
            closed: AtomicU64::new(0),
            wine: AtomicBool::new(false),
        }))
    }

    /// Takes what the Win32 layer of Wine 8.0 passes: disposition OVERWRITE_IF means OPEN_IF, a default timeout of 0
    /// means 50 ms (NP-WINE-01).
    pub fn set_wine_win32(&self, on: bool) {
        self.0.wine.store(on, Ordering::Relaxed);
    }

    fn is_for_wine(&self) -> bool {
        self.0.wine.load(Ordering::Relaxed)
    }

    fn namespace(&self) -> &Namespace {
        &self.0.namespace
    }

    fn table(&self) -> RwLockReadGuard<'_, Slab<Entry>> {
        self.0
            .handles
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn insert(&self, file: &Arc<File>, granted: Mask) -> NtResult<Handle> {
        let mut handles = self
            .0
            .handles
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let entry = handles.vacant_entry();
        let number = u32::try_from(entry.key()).ok();
        let number = number.and_then(|key| key.checked_add(1)?.checked_mul(4));
        let handle = number.filter(|number| *number < u32::MAX - 8);
        let handle = handle.ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
        file.one_more();
        entry.insert(Entry {
            file: file.clone(),
            granted,
        });
        Ok(Handle(handle))
    }

    /// What a handle stands for.
    fn entry(&self, handle: Handle) -> NtResult<Entry> {
        if handle == Handle::CURRENT_PROCESS || handle == Handle::CURRENT_THREAD {
            return Err(NtStatus::OBJECT_TYPE_MISMATCH); // NP-INFO-04
        }
        // At the very end of a thread there is none.
        if let Ok(Some(entry)) = RECENT.try_with(|recent| recent.entry(&self.0, handle)) {
            return Ok(entry);
        }
        let key = key_of(handle).ok_or(NtStatus::INVALID_HANDLE)?;
        let table = self.table();
        let entry = table.get(key).ok_or(NtStatus::INVALID_HANDLE)?.clone();
        // Under the lock: no handle is closed meanwhile.
        let _ = RECENT.try_with(|recent| recent.note(&self.0, handle, &entry));
        Ok(entry)
    }

    /// The same, with rights that the call needs.
    fn entry_with(&self, handle: Handle, needed: Mask) -> NtResult<Entry> {
        let entry = self.entry(handle)?;
        if entry.granted.contains(needed) {
            Ok(entry)
        } else {
            Err(NtStatus::ACCESS_DENIED)
        }
    }

    /// NtClose. The last handle of a file object closes it: what pends on it is answered before this returns
    /// (NP-CLOSE-01, 02).
    ///
    /// # Errors
    /// INVALID_HANDLE.
    pub fn close(&self, handle: Handle) -> NtResult<()> {
        let key = key_of(handle).ok_or(NtStatus::INVALID_HANDLE)?;
        let mut handles = self
            .0
            .handles
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let entry = handles.try_remove(key).ok_or(NtStatus::INVALID_HANDLE)?;
        self.0.closed.fetch_add(1, Ordering::Release);
        drop(handles);
        entry.file.one_less();
        Ok(())
    }

    /// NtDuplicateObject within this table: a further handle of the same file object, with the same rights or fewer.
    ///
    /// # Errors
    /// INVALID_HANDLE; ACCESS_DENIED for rights that the handle does not have.
    pub fn duplicate(&self, handle: Handle, access: Option<Mask>) -> NtResult<Handle> {
        let held = self.hold(handle)?;
        self.duplicate_held(&held.0, access)
    }

    /// What a handle stands for, not to be closed meanwhile.
    fn hold(&self, handle: Handle) -> NtResult<Held> {
        let entry = self.entry(handle)?;
        // Not while its last handle closes: one lock for the look and the count.
        let table = self.table();
        let key = key_of(handle).ok_or(NtStatus::INVALID_HANDLE)?;
        let same = table
            .get(key)
            .is_some_and(|now| Arc::ptr_eq(&now.file, &entry.file));
        if !same {
            return Err(NtStatus::INVALID_HANDLE);
        }
        entry.file.one_more();
        drop(table);
        Ok(Held(entry))
    }

    fn duplicate_held(&self, entry: &Entry, access: Option<Mask>) -> NtResult<Handle> {
        self.insert(&entry.file, entry.narrowed(access)?)
    }

    /// NtDuplicateObject into another process of this user, its first half: what that process takes the end by
    /// ([`Nt::take`]), once and within five seconds, with the same rights or fewer. The end stays open until then.
    ///
    /// # Errors
    /// INVALID_HANDLE; ACCESS_DENIED for rights that the handle does not have; NOT_SUPPORTED for the volume and the root,
    /// which every process opens for itself; NO_SUCH_DEVICE without a broker.
    pub fn give(&self, handle: Handle, access: Option<Mask>) -> NtResult<EndToken> {
        self.give_to(handle, access, None)
    }

    /// The same to a process of another user's, whose number this is: it has the memory of this connection from then on, and of no
    /// other.
    ///
    /// # Errors
    /// SHARING_VIOLATION: this process has other connections with that of the other end, in the same memory; those of
    /// [`Nt::give`].
    pub fn give_to_user(
        &self,
        handle: Handle,
        access: Option<Mask>,
        uid: u32,
    ) -> NtResult<EndToken> {
        self.give_to(handle, access, Some(uid))
    }

    fn give_to(&self, handle: Handle, access: Option<Mask>, to: Option<u32>) -> NtResult<EndToken> {
        let held = self.hold(handle)?;
        let entry = &held.0;
        let granted = entry.narrowed(access)?;
        let giving = Giving {
            access: granted,
            options: entry.file.options.bits(),
            to,
        };
        let given = match &entry.file.kind {
            Kind::Server(end) => end.give(giving),
            Kind::Client(end) => end.give(giving),
            Kind::Volume | Kind::Root(_) => return Err(NtStatus::NOT_SUPPORTED),
        };
        given.map_err(|error| error.status())
    }

    /// Its second half: a handle of the end that another process has given to this one. Both have the same end from then
    /// on, which closes with the last handle of either (NP-CLOSE-01); events, ports and the signal of the file object are
    /// each process's own.
    ///
    /// # Errors
    /// INVALID_HANDLE: not a token, used already, too late, or another user's; INSUFFICIENT_RESOURCES.
    pub fn take(&self, token: EndToken) -> NtResult<Handle> {
        let taken = crate::client::take(self.namespace(), token);
        let (kind, granted, options) = match taken.map_err(|error| error.status())? {
            Answer::TakenClient(end, options) => {
                let granted = end.granted;
                (Kind::Client(end), granted, options)
            }
            Answer::TakenServer(end, granted, options) => {
                let table = self.table();
                let mut entries = table.iter().map(|(_, entry)| entry);
                let same = |entry: &&Entry| matches!(&entry.file.kind, Kind::Server(other) if Arc::ptr_eq(other, &end));
                if let Some(file) = entries.find(same).map(|entry| entry.file.clone()) {
                    // A further handle of a file object that this table has; not while its last one closes.
                    file.one_more();
                    drop(table);
                    let made = self.insert(&file, granted);
                    file.one_less();
                    end.close();
                    return made;
                }
                drop(table);
                (Kind::Server(end), granted, options)
            }
            _ => return Err(NtStatus::REVISION_MISMATCH),
        };
        let file = File::new(kind, Options::from_bits_retain(options));
        self.insert(&file, granted)
    }

    /// What a handle was granted (OBJECT_BASIC_INFORMATION, FILE_ACCESS_INFORMATION).
    ///
    /// # Errors
    /// INVALID_HANDLE.
    pub fn granted(&self, handle: Handle) -> NtResult<Mask> {
        Ok(self.entry(handle)?.granted)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let handles = self
            .handles
            .get_mut()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for entry in handles.drain() {
            entry.file.one_less();
        }
    }
}

fn key_of(handle: Handle) -> Option<usize> {
    let number = handle.0;
    (number != 0 && number.is_multiple_of(4)).then(|| usize::try_from(number / 4 - 1).ok())?
}

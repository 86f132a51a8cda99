//! What a thread is to these calls: whose call blocks, and in whose name it acts.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use super::{
    file::File,
    io::{Operation, StatusBlock},
};
use crate::{Cancel, lock::lock, npfs::Quality, reactor::REACTOR, sys, wire::Peer};

/// A thread of this process, for [`super::Nt::cancel_synchronous_io`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallingThread(u32);

/// The calling thread.
#[must_use]
pub fn calling_thread() -> CallingThread {
    CallingThread(npfs_ringbuf::thread_serial())
}

/// Calls that block, by their thread.
static BLOCKED: Mutex<Option<HashMap<CallingThread, Blocked>>> = Mutex::new(None);

/// A call that blocks.
#[derive(Clone, Debug)]
struct Blocked {
    cancel: Arc<Cancel>,
    file: Weak<File>,
    status: StatusBlock,
}

/// Runs a call that blocks, such that it can be cancelled from outside (NP-CANCEL-05, 07).
pub(super) fn blocking<T>(
    file: &Arc<File>,
    status: &StatusBlock,
    call: impl FnOnce(&Cancel) -> T,
) -> T {
    /// Takes the thread off the list, also if the call panics.
    struct Listed(CallingThread);
    impl Drop for Listed {
        fn drop(&mut self) {
            if let Some(blocked) = lock(&BLOCKED).as_mut() {
                blocked.remove(&self.0);
            }
        }
    }
    let cancel = Arc::new(Cancel::new());
    let me = calling_thread();
    let blocked = Blocked {
        cancel: cancel.clone(),
        file: Arc::downgrade(file),
        status: status.clone(),
    };
    lock(&BLOCKED).get_or_insert_default().insert(me, blocked);
    let listed = Listed(me);
    let answer = call(&cancel);
    drop(listed);
    answer
}

/// Ends the call that blocks in that thread, of whatever table ([`super::Nt::cancel_synchronous_io`]). `false`: there is none.
#[must_use]
pub fn cancel_blocking(thread: CallingThread) -> bool {
    let blocked = lock(&BLOCKED);
    let one = blocked.as_ref().and_then(|blocked| blocked.get(&thread));
    let cancel = one.map(|one| one.cancel.clone());
    drop(blocked);
    cancel.is_some_and(|cancel| cancel.cancel())
}

/// Ends the calls that block on that file object with that status block, or all of them. `false`: there are none.
pub(super) fn cancel_blocking_on(file: &Arc<File>, with: Option<&StatusBlock>) -> bool {
    let blocked = lock(&BLOCKED);
    let of = blocked.iter().flat_map(HashMap::values).filter(|one| {
        std::ptr::eq(one.file.as_ptr(), Arc::as_ptr(file))
            && with.is_none_or(|with| one.status.is(with))
    });
    let cancels: Vec<Arc<Cancel>> = of.map(|one| one.cancel.clone()).collect();
    drop(blocked);
    let asked = cancels.iter().filter(|cancel| cancel.cancel()).count();
    asked != 0
}

thread_local! {
    /// What this thread has pending and stands in a list: it ends with the thread (NP-CANCEL-08).
    static OWN: RefCell<Own> = const { RefCell::new(Own { listed: Vec::new(), forks: 0 }) };
}

struct Own {
    listed: Vec<Weak<Operation>>,
    /// [`sys::forks`] when it was looked at last.
    forks: u32,
}

impl Drop for Own {
    fn drop(&mut self) {
        if self.forks != sys::forks() {
            return; // a child of fork(2) has nothing of its parent's to end
        }
        // What is polled stands in no list, and may be this thread's: it becomes one of those that others have listed.
        REACTOR.list_held();
        REACTOR.end_strays_of(calling_thread().0);
        for operation in self.listed.iter().filter_map(Weak::upgrade) {
            operation.cancel();
        }
    }
}

/// The calling thread is about to have something pending, which its end is to end, too.
pub(super) fn watch_for_the_end_of_this_thread() {
    // At the very end of a thread there is no other.
    let _ = OWN.try_with(|own| {
        if let Ok(mut own) = own.try_borrow_mut() {
            own.forks = sys::forks();
        }
    });
}

/// It has come to stand in a list, by its own thread or another one.
pub(super) fn owns(operation: &Arc<Operation>) {
    let weak = Arc::downgrade(operation);
    if operation.thread() != calling_thread() {
        return REACTOR.add_stray(operation.thread().0, weak);
    }
    let listed = OWN.try_with(|own| {
        let Ok(mut own) = own.try_borrow_mut() else {
            return false;
        };
        let own = &mut own.listed;
        if own.len() == own.capacity() {
            own.retain(|one| one.strong_count() != 0);
        }
        own.push(weak.clone());
        true
    });
    if listed != Ok(true) {
        // Its thread is just ending, and lists what it has polled.
        REACTOR.add_stray(operation.thread().0, weak);
    }
}

/// How far a server may act as its client (SECURITY_IMPERSONATION_LEVEL).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It does not learn who the client is.
    Anonymous,
    /// It learns who the client is.
    Identification,
    /// It acts as the client on this machine.
    Impersonation,
    /// And on others.
    Delegation,
}

/// In whose name a thread acts (NP-IMP-10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The client's process, user, group and session; `None` at [`Level::Anonymous`].
    pub client: Option<Peer>,
    /// How far.
    pub level: Level,
    /// Without what the client has switched off.
    pub effective_only: bool,
}

impl Identity {
    /// What a client of that quality of service lets its server have. A server that is neither the client's user nor an
    /// administrator gets identification at most (NP-IMP-09).
    pub(super) fn of(client: Peer, quality: Quality, own_uid: u32) -> Identity {
        let level = match (quality & Quality::LEVEL).bits() {
            0 => Level::Anonymous,
            1 => Level::Identification,
            2 => Level::Impersonation,
            _ => Level::Delegation,
        };
        let level = if own_uid == 0 || own_uid == client.uid {
            level
        } else {
            level.min(Level::Identification)
        };
        Identity {
            client: (level != Level::Anonymous).then_some(client),
            level,
            effective_only: quality.contains(Quality::EFFECTIVE_ONLY),
        }
    }
}

thread_local! {
    static IMPERSONATED: RefCell<Option<Identity>> = const { RefCell::new(None) };
}

/// In whose name the calling thread acts; `None`: in its process's own.
#[must_use]
pub fn impersonated() -> Option<Identity> {
    IMPERSONATED.with(|identity| *identity.borrow())
}

/// The calling thread acts in its process's own name again.
pub fn revert_to_self() {
    IMPERSONATED.with(|identity| *identity.borrow_mut() = None);
}

/// A second one replaces the first (NP-IMP-10).
pub(super) fn impersonate(identity: Identity) {
    IMPERSONATED.with(|own| *own.borrow_mut() = Some(identity));
}

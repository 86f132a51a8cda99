//! Calls under way, and their status blocks by address: NtCancelIoFileEx names a call by the address of its block.
//!
//! Each call has a block of the engine's, which writes the caller's when the call completes. Whoever cancels by address needs
//! the engine's blocks of the calls that pend there (several may share one address, NP-CANCEL-06). They stand here from
//! the moment that the caller can know of them, that is from PENDING, or from the start for a call that blocks, until
//! they complete; a call that is done when it returns costs no lock.

use std::{
    collections::HashMap,
    ptr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use npfs::{
    NtStatus,
    nt::{Callback, CallingThread, Elsewhere, Event, Io, StatusBlock, calling_thread},
};

use crate::memory::Iosb;

/// A call, and whom it reports to.
pub(crate) struct Call {
    pub(crate) io: Io,
}

/// The caller's block, behind one of the engine's.
struct Target {
    iosb: Iosb,
    stage: AtomicU8,
}

/// Not in the list.
const APART: u8 = 0;
/// In the list.
const LISTED: u8 = 1;
/// Completed, or failed at once; in the list no more, and never again.
const OVER: u8 = 2;

struct Entry {
    /// Kept by a [`Target`].
    block: StatusBlock,
    thread: CallingThread,
}

/// By the address of the caller's block. Held for a few steps only, and nothing of the engine is called meanwhile: blocks
/// are written while the engine's own locks are held.
static LIST: Mutex<Option<HashMap<usize, Vec<Entry>>>> = Mutex::new(None);

fn with_list<T>(then: impl FnOnce(&mut HashMap<usize, Vec<Entry>>) -> T) -> T {
    let mut list = LIST.lock().unwrap_or_else(PoisonError::into_inner);
    then(list.get_or_insert_default())
}

impl Target {
    /// Takes it off the list, if it is there.
    fn leave(&self) {
        if self.stage.swap(OVER, Ordering::SeqCst) == LISTED {
            with_list(|list| {
                let address = self.iosb.address();
                if let Some(entries) = list.get_mut(&address) {
                    entries.retain(|entry| {
                        !entry
                            .block
                            .kept_by()
                            .is_some_and(|kept| ptr::eq(self, kept))
                    });
                    if entries.is_empty() {
                        list.remove(&address);
                    }
                }
            });
        }
    }
}

impl Elsewhere for Target {
    fn write(&self, status: NtStatus, information: usize) {
        // First off the list: the caller may use the block again once it is written.
        self.leave();
        self.iosb.write(status, information);
    }
}

impl Call {
    #[inline]
    pub(crate) fn new(
        iosb: Iosb,
        event: Option<Event>,
        callback: Option<Callback>,
        context: usize,
    ) -> Call {
        let status = StatusBlock::elsewhere(Target {
            iosb,
            stage: AtomicU8::new(APART),
        });
        Call {
            io: Io {
                event,
                status,
                context,
                callback,
            },
        }
    }

    fn target(&self) -> Option<&Target> {
        self.io.status.kept_by()
    }

    /// Makes the call. `blocks`: others may want to cancel it before it returns.
    pub(crate) fn run(&self, blocks: bool, call: impl FnOnce(&Io) -> NtStatus) -> NtStatus {
        if blocks {
            self.list();
        }
        let status = call(&self.io);
        if status == NtStatus::PENDING {
            self.list();
        } else if let Some(target) = self.target() {
            // A call that has failed at once never writes its block.
            target.leave();
        }
        status
    }

    fn list(&self) {
        let Some(Target { iosb, stage }) = self.target() else {
            return;
        };
        with_list(|list| {
            // It may have completed by now: then it does not belong here.
            let apart = stage.compare_exchange(APART, LISTED, Ordering::SeqCst, Ordering::SeqCst);
            if apart.is_ok() {
                list.entry(iosb.address()).or_default().push(Entry {
                    block: self.io.status.clone(),
                    thread: calling_thread(),
                });
            }
        });
    }
}

/// The engine's blocks of the calls under way that report there.
pub(crate) fn blocks_at(iosb: Iosb) -> Vec<StatusBlock> {
    with_list(|list| {
        let entries = list.get(&iosb.address());
        let blocks = entries.into_iter().flatten();
        blocks.map(|entry| entry.block.clone()).collect()
    })
}

/// Whether a call of that thread reports there.
pub(crate) fn is_of(iosb: Iosb, thread: CallingThread) -> bool {
    with_list(|list| {
        let entries = list.get(&iosb.address());
        entries
            .into_iter()
            .flatten()
            .any(|entry| entry.thread == thread)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::npfs_io_status_block;

    #[test]
    fn a_call_is_listed_until_it_completes() {
        let mut block = npfs_io_status_block {
            status: 0x103,
            information: 7,
        };
        // SAFETY: the block outlives the calls below.
        let iosb = unsafe { Iosb::new(&raw mut block) }.expect("a block");
        let mut blocks = Vec::new();
        for _ in 0..2 {
            let pends = Call::new(iosb, None, None, 0).run(false, |io| {
                blocks.push(io.status.clone());
                NtStatus::PENDING
            });
            assert_eq!(pends, NtStatus::PENDING);
        }
        assert_eq!(blocks_at(iosb).len(), 2, "two calls share one block");
        blocks[0].set(NtStatus::CANCELLED, 0);
        assert_eq!(blocks_at(iosb).len(), 1);
        assert!(blocks_at(iosb)[0].is(&blocks[1]));
        blocks[1].set(NtStatus::SUCCESS, 3);
        assert!(blocks_at(iosb).is_empty());
        assert_eq!((iosb.status(), block.information), (0, 3));

        // One that completes before its caller has seen PENDING, and one that fails at once.
        let early = |io: &Io| {
            io.status.set(NtStatus::SUCCESS, 1);
            NtStatus::PENDING
        };
        assert_eq!(
            Call::new(iosb, None, None, 0).run(false, early),
            NtStatus::PENDING
        );
        assert!(blocks_at(iosb).is_empty());
        let fails = |_: &Io| {
            assert_eq!(blocks_at(iosb).len(), 1, "it blocks");
            NtStatus::PIPE_EMPTY
        };
        assert_eq!(
            Call::new(iosb, None, None, 0).run(true, fails),
            NtStatus::PIPE_EMPTY
        );
        assert!(blocks_at(iosb).is_empty());
    }
}

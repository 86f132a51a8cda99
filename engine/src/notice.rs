//! The one descriptor by which a program with an event loop of its own learns that something has completed.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::sys;

/// An eventfd(2), one for the process and only if it is asked for: readable once something has completed (a packet in a
/// queue, an event that was set), until [`Notice::take`]. For epoll(7) and the like:
///
/// ```no_run
/// # fn main() -> std::io::Result<()> {
/// use npfs::Notice;
///
/// let notice = Notice::of_this_process()?; // register `notice.as_fd()` for input
/// // when it is readable:
/// notice.take(); // first this, then every queue until it is empty
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Notice(&'static OwnedFd);

static DESCRIPTOR: OnceLock<OwnedFd> = OnceLock::new();
/// [`NONE`], [`TAKEN`] or [`GIVEN`].
static STATE: AtomicU32 = AtomicU32::new(NONE);

/// Nobody has asked for it.
const NONE: u32 = 0;
/// What completes from here on makes it readable.
const TAKEN: u32 = 1;
/// It is readable, or about to be.
const GIVEN: u32 = 2;

impl Notice {
    /// The process's; it is open from the first call of this on, and is not closed again. The event loop does all the work
    /// then. A child of fork(2) shares it with its parent: not to be used there.
    ///
    /// # Errors
    /// eventfd(2)'s.
    pub fn of_this_process() -> io::Result<Notice> {
        let descriptor = match DESCRIPTOR.get() {
            Some(descriptor) => descriptor,
            None => {
                let made = sys::eventfd()?;
                DESCRIPTOR.get_or_init(|| made)
            }
        };
        // What has completed already counts, too.
        if STATE.swap(GIVEN, Ordering::SeqCst) != GIVEN {
            sys::ring(descriptor.as_fd());
        }
        Ok(Notice(descriptor))
    }

    /// Not readable any more, until the next completion. To be called before the queues are looked at: what completes
    /// meanwhile makes it readable again.
    pub fn take(&self) {
        sys::unring(self.0.as_fd());
        STATE.store(TAKEN, Ordering::SeqCst);
    }
}

impl AsFd for Notice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Something has completed, and can be seen. One load if nobody has asked for it, or has been told already.
pub(crate) fn give() {
    if STATE.load(Ordering::SeqCst) == TAKEN
        && STATE.swap(GIVEN, Ordering::SeqCst) == TAKEN
        && let Some(descriptor) = DESCRIPTOR.get()
    {
        sys::ring(descriptor.as_fd());
    }
}

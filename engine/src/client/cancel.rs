//! Ending a blocked call from another thread.

use std::sync::{Arc, Mutex, Weak};

use npfs_ringbuf::Wait;

use super::channel::Channel;
use crate::{lock::lock, npfs::Tag, wire::Request};

/// Ends a call that blocks, from any other thread. Serves one call at a time, any number in turn.
///
/// ```no_run
/// # use npfs::{Cancel, Deadline, Server};
/// # fn f(server: &Server) {
/// let cancel = Cancel::new();
/// std::thread::scope(|scope| {
///     let reader = scope.spawn(|| server.read_with(&mut [0; 64], &cancel, Deadline::NEVER));
///     cancel.cancel(); // `true` once the call is under way
///     let _ = reader.join();
/// });
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Cancel {
    /// Calls in shared memory.
    pub(crate) wait: Wait,
    /// A request to the broker.
    request: Mutex<Option<(Weak<Channel>, Tag)>>,
}

impl Cancel {
    /// For a call to come.
    #[must_use]
    pub const fn new() -> Cancel {
        Cancel {
            wait: Wait::new(),
            request: Mutex::new(None),
        }
    }

    /// Asks the call under way to end. `false`: there is none.
    ///
    /// The call's own answer says which came first: [`crate::Error::Cancelled`], or its result if it had completed
    /// (NP-CANCEL-01).
    pub fn cancel(&self) -> bool {
        if self.wait.cancel() {
            return true;
        }
        let request = lock(&self.request);
        let under_way = request
            .as_ref()
            .and_then(|(channel, tag)| Some((channel.upgrade()?, *tag)));
        match under_way {
            Some((channel, tag)) => {
                channel.tell(&Request::Cancel(tag));
                true
            }
            None => false,
        }
    }

    /// A request begins, or has ended.
    pub(crate) fn watch(&self, request: Option<(&Arc<Channel>, Tag)>) {
        *lock(&self.request) = request.map(|(channel, tag)| (Arc::downgrade(channel), tag));
    }
}

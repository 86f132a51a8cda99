//! A thread that sleeps until the broker goes, and then sees to the connections that it has made.
//!
//! Connections go on without a broker, but their processes hear of each other's deaths from it. So the thread waits for
//! the next broker, tells it of the links that have something open, and from then on reads what comes of that, since
//! every other thread of the process may be asleep in a pipe. It begins with the first link, costs a stack of which two
//! pages are used, and does not wake while the broker lives.

use std::{
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    channel::{Channel, Kept},
    namespace::{self, Inner},
};
use crate::sys;

/// What the thread of one channel needs to begin.
#[derive(Debug)]
pub(super) struct Watcher {
    namespace: Weak<Inner>,
    path: PathBuf,
    begun: AtomicBool,
}

impl Watcher {
    pub(super) fn new(namespace: Weak<Inner>, path: PathBuf) -> Watcher {
        Watcher {
            namespace,
            path,
            begun: AtomicBool::new(false),
        }
    }

    /// A thread of an earlier channel has come to watch this one.
    pub(super) fn is_there(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Begins, once. Without a thread all goes on as well, until the broker goes.
    pub(super) fn begin(&self, channel: &Arc<Channel>) {
        if self.begun.swap(true, Ordering::Relaxed) {
            return;
        }
        let channel = Arc::downgrade(channel);
        let (namespace, path) = (self.namespace.clone(), self.path.clone());
        let begun = sys::without_signals(|| {
            thread::Builder::new()
                .name("npfs-watcher".to_owned())
                .stack_size(STACK)
                .spawn(move || watch(channel, &namespace, &path))
        });
        if let Err(error) = begun {
            tracing::warn!("nobody watches for the broker's end yet: {error}");
            self.begun.store(false, Ordering::Relaxed);
        }
    }
}

/// The life of the thread: it ends with the channel, or when the broker has gone and nothing is open on its links.
fn watch(channel: Weak<Channel>, namespace: &Weak<Inner>, path: &Path) {
    let mut channel = channel;
    while let Some((before, links)) = wait_for_the_end(&channel) {
        let Some(next) = wait_for_the_next(&links, namespace, path) else {
            return;
        };
        next.is_watched();
        channel = Arc::downgrade(&next);
        // What is open through the one needs the other now.
        before.is_followed_by(&next);
        next.rejoin(links);
    }
}

/// Sleeps until the broker goes, reading what it says if nobody else may. What is open on its links, if anything is.
fn wait_for_the_end(channel: &Weak<Channel>) -> Option<(Arc<Channel>, Vec<Kept>)> {
    let socket = channel.upgrade()?.socket();
    loop {
        let events = channel.upgrade()?.needs();
        let ready = match sys::poll_which(socket.as_fd(), events, None) {
            Ok(ready) => ready,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return None,
        };
        let channel = channel.upgrade()?;
        channel.drain();
        if ready & !(libc::POLLIN | libc::POLLOUT) != 0 {
            channel.give_up();
            let links = channel.take_links();
            return (!links.is_empty()).then_some((channel, links));
        }
    }
}

/// Until there is a broker, or nothing open any more.
fn wait_for_the_next(links: &[Kept], namespace: &Weak<Inner>, path: &Path) -> Option<Arc<Channel>> {
    let mut delay = FIRST_DELAY;
    while links.iter().any(Kept::is_of_use) {
        thread::sleep(delay);
        delay = (2 * delay).min(MOST_DELAY);
        let next = match namespace.upgrade() {
            Some(namespace) => namespace.channel(),
            None => namespace::connect(path, Weak::new()),
        };
        if let Ok(next) = next
            && !next.is_gone()
        {
            return Some(next);
        }
    }
    None
}

const STACK: usize = 256 << 10;
/// Between two looks for a broker: well below the 5 s after which the other process of a link counts as gone.
const FIRST_DELAY: Duration = Duration::from_millis(20);
const MOST_DELAY: Duration = Duration::from_secs(1);

//! Words of links waited for on behalf of an event loop that is not ours: a host's server has one loop, one thread, and one
//! descriptor to spare for us.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use npfs_ringbuf::{Alarm, Spot, wait_at_spots};
use slab::Slab;

use crate::{
    lock::lock,
    sleeper, sys,
    uring::{Held, Ring},
};

/// Waits for words; its descriptor, an eventfd(2), is readable from when one of them is rung until [`Lookout::collect`].
///
/// The kernel waits in an io_uring(7), which needs no further descriptor where the kernel can do that; where there is no such
/// ring, or the environment variable `NPFS_LOOP` says `futex`, a thread of its own does, which blocks all signals and ends with
/// this. It belongs to the thread that made it.
#[derive(Debug)]
pub struct Lookout {
    descriptor: Arc<OwnedFd>,
    way: Way,
    /// By the keys that they were waited for under. A ring's: kept until then, so that the memory stays.
    waits: Slab<Spot>,
}

#[derive(Debug)]
enum Way {
    Ring(Box<Ring>),
    Thread(Helper),
}

impl Lookout {
    /// One that waits for nothing yet.
    ///
    /// # Errors
    /// No descriptor, or no thread, is left.
    pub fn new() -> io::Result<Lookout> {
        Lookout::with(sleeper::open())
    }

    fn with(ring: Option<Ring>) -> io::Result<Lookout> {
        let descriptor = Arc::new(sys::eventfd()?);
        let ring = ring.and_then(|ring| {
            let tells = ring.tell(descriptor.as_fd());
            let tells = tells.inspect_err(|error| tracing::info!("no eventfd: {error}"));
            tells.ok().map(|()| ring)
        });
        let way = match ring {
            Some(ring) => Way::Ring(Box::new(ring)),
            None => Way::Thread(Helper::start(&descriptor)?),
        };
        Ok(Lookout {
            descriptor,
            way,
            waits: Slab::new(),
        })
    }

    /// What it waits in: as [`event_loop`](crate::event_loop) says it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.way {
            Way::Ring(ring) if ring.held() == Held::NoDescriptor => "uring",
            Way::Ring(ring) if ring.held() == Held::Registered => "registered",
            Way::Ring(_) => "plain",
            Way::Thread(_) => "futex",
        }
    }

    /// Waits for one more word: its key, under which [`Lookout::collect`] tells of it once.
    pub fn wait_for(&mut self, spot: Spot) -> usize {
        let key = self.waits.insert(spot.clone());
        match &mut self.way {
            Way::Ring(ring) => {
                let waits = ring.wait_for(spot.futex(), spot.value(), key as u64);
                match waits.and_then(|()| ring.collect()) {
                    Err(error) => self.do_without(&error),
                    // Nobody waits there yet: `collect` submits it.
                    Ok(()) if ring.is_behind() => self.poke(),
                    Ok(()) => {}
                }
            }
            Way::Thread(helper) => helper.wait_for(key, spot),
        }
        key
    }

    /// Makes the descriptor readable.
    pub fn poke(&self) {
        sys::ring(self.descriptor.as_fd());
    }

    /// The keys of what was rung, or is another than it was; or of what was neither, seldom. The descriptor is not readable
    /// then, unless there is more.
    pub fn collect(&mut self) -> Vec<usize> {
        let mut rung = Vec::new();
        match &mut self.way {
            Way::Ring(ring) => {
                let mut failed = ring.collect().err();
                // What is to be seen is seen after this, or makes it readable again.
                sys::unring(self.descriptor.as_fd());
                ring.take(|key, result| {
                    if !matches!(-result, 0 | libc::EAGAIN | libc::EINTR | libc::ECANCELED) {
                        failed = Some(io::Error::from_raw_os_error(-result));
                    }
                    rung.extend(usize::try_from(key).ok());
                });
                if ring.has_news() || ring.is_behind() {
                    sys::ring(self.descriptor.as_fd());
                }
                if let Some(error) = failed {
                    self.do_without(&error);
                }
            }
            Way::Thread(helper) => {
                sys::unring(self.descriptor.as_fd());
                rung = std::mem::take(&mut lock(&helper.shared.state).rung);
            }
        }
        rung.retain(|key| self.waits.try_remove(*key).is_some());
        rung
    }

    /// The ring has failed: a thread waits from here on. Without one either, whoever polls is told again and again.
    fn do_without(&mut self, error: &io::Error) {
        tracing::warn!("a ring has failed ({error}), a thread instead");
        match Helper::start(&self.descriptor) {
            Ok(helper) => {
                for (key, spot) in &self.waits {
                    helper.wait_for(key, spot.clone());
                }
                self.way = Way::Thread(helper);
            }
            Err(error) => {
                tracing::warn!("nor a thread: {error}");
                self.poke();
            }
        }
    }
}

impl AsFd for Lookout {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The thread that waits where no ring does.
#[derive(Debug)]
struct Helper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    forks: u32,
}

#[derive(Debug)]
struct Shared {
    descriptor: Arc<OwnedFd>,
    /// The state has changed.
    alarm: Alarm,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waits: Vec<(usize, Spot)>,
    rung: Vec<usize>,
    end: bool,
}

impl Helper {
    fn start(descriptor: &Arc<OwnedFd>) -> io::Result<Helper> {
        let shared = Arc::new(Shared {
            descriptor: descriptor.clone(),
            alarm: Alarm::new(),
            state: Mutex::default(),
        });
        let thread = sys::without_signals(|| {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name("npfs-lookout".into());
            thread.stack_size(STACK).spawn(move || shared.run())
        })?;
        Ok(Helper {
            shared,
            thread: Some(thread),
            forks: sys::forks(),
        })
    }

    fn wait_for(&self, key: usize, spot: Spot) {
        lock(&self.shared.state).waits.push((key, spot));
        self.shared.alarm.ring();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if self.forks != sys::forks() {
            std::mem::forget(self.thread.take()); // the parent's
            return;
        }
        lock(&self.shared.state).end = true;
        self.shared.alarm.ring();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let seen = self.alarm.now();
            let waits = {
                let state = lock(&self.state);
                if state.end {
                    return;
                }
                state.waits.clone()
            };
            let rung = wait_at_spots(waits.iter().map(|(_, spot)| spot), &self.alarm, seen);
            let mut over: Vec<usize> = waits
                .iter()
                .filter(|(_, spot)| spot.has_changed() || rung && !spot.is_bell())
                .map(|(key, _)| *key)
                .collect();
            if over.is_empty() {
                continue;
            }
            let mut state = lock(&self.state);
            state.waits.retain(|(key, _)| !over.contains(key));
            state.rung.append(&mut over);
            drop(state);
            sys::ring(self.descriptor.as_fd());
        }
    }
}

/// It calls little.
const STACK: usize = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use npfs_ringbuf::{Link, books::LinkBooks};
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        time::{Duration, Instant},
    };

    /// One of each kind that there is here.
    fn both() -> Vec<Lookout> {
        let ring = sleeper::open();
        if ring.is_none() {
            println!("SKIPPED: no ring here");
        }
        let ways = ring.map(Some).into_iter().chain([None]);
        ways.map(|ring| Lookout::with(ring).expect("a lookout"))
            .collect()
    }

    fn links(count: usize) -> Vec<npfs_ringbuf::Shared<Link>> {
        let link = |_| {
            let mut books = LinkBooks::create(&Default::default()).expect("a link");
            let me = books.add_process(None).expect("a process");
            Link::attach(books.share().expect("a descriptor"), me).expect("attached")
        };
        (0..count).map(link).collect()
    }

    fn is_readable(lookout: &Lookout, milliseconds: i32) -> bool {
        sys::poll(lookout.as_fd(), libc::POLLIN, Some(milliseconds)).expect("polled")
    }

    #[test]
    fn it_is_readable_until_it_is_drained() {
        for mut lookout in both() {
            let links = links(150);
            let keys: Vec<usize> = links
                .iter()
                .map(|link| lookout.wait_for(Spot::at_own_bell(link).expect("quiet")))
                .collect();
            while is_readable(&lookout, 5) {
                assert_eq!(lookout.collect(), [], "nobody has rung");
            }
            for (link, key) in links.iter().zip(keys) {
                link.own_bell().ring(3);
                assert!(is_readable(&lookout, 5000), "{}", lookout.kind());
                assert!(is_readable(&lookout, 0), "still");
                let start = Instant::now();
                let mut rung = lookout.collect();
                while rung.is_empty() && start.elapsed() < Duration::from_secs(5) {
                    rung = lookout.collect();
                }
                assert_eq!(rung, [key], "{}", lookout.kind());
            }
            while is_readable(&lookout, 5) {
                assert_eq!(lookout.collect(), [], "each once");
            }
            lookout.poke();
            assert!(is_readable(&lookout, 0));
        }
    }

    /// A loop that was asleep when it was rung is woken, and none of many rings is lost.
    #[test]
    fn who_polls_is_woken_each_time() {
        for mut lookout in both() {
            let link = links(1).remove(0);
            let (rung, seen) = (AtomicBool::new(false), AtomicBool::new(true));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let start = Instant::now();
                        while !seen.swap(false, Ordering::SeqCst) {
                            assert!(start.elapsed() < Duration::from_secs(20), "not seen");
                            std::thread::yield_now();
                        }
                        rung.store(true, Ordering::SeqCst);
                        link.own_bell().ring(1);
                    }
                });
                for turn in 0..2000 {
                    // Until this ring: earlier ones may be told of twice.
                    loop {
                        link.own_bell().take(|_| {});
                        if rung.swap(false, Ordering::SeqCst) {
                            break;
                        }
                        if let Some(spot) = Spot::at_own_bell(&link) {
                            lookout.wait_for(spot);
                            let woken = is_readable(&lookout, 5000);
                            assert!(woken, "turn {turn}, {}", lookout.kind());
                        }
                        lookout.collect();
                    }
                    seen.store(true, Ordering::SeqCst);
                }
            });
        }
    }

    #[test]
    fn a_spot_that_is_another_already_is_told_of_at_once() {
        for mut lookout in both() {
            let link = links(1).remove(0);
            let spot = Spot::at_own_bell(&link).expect("quiet");
            link.own_bell().ring(3);
            let key = lookout.wait_for(spot);
            assert!(is_readable(&lookout, 5000), "{}", lookout.kind());
            assert_eq!(lookout.collect(), [key]);
        }
    }
}

//! Words of links waited for on behalf of an event loop that is not ours: a host's server has one loop, one thread, and one
//! descriptor to spare for us.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use npfs_ringbuf::{Alarm, MOST_SPOTS, Shared, Spot, try_push, wait_at_spots};

use crate::{
    pool::Pool,
    sys::{self, Errno, Lock, Run, Thread},
    uring::{self, Held, Ring},
};

/// Waits for words; its descriptor, an eventfd(2), is readable from when one of them is rung until [`Lookout::collect`]. Each word
/// stands for a `T`, which comes back then.
///
/// The kernel waits in an io_uring(7), which needs no further descriptor where the kernel can do that; where there is no such
/// ring, or the environment variable `NPFS_LOOP` says `futex`, a thread of its own does, which blocks all signals and ends with
/// this. It belongs to the thread that made it.
///
/// Nothing here panics, nor ends the process for want of memory, nor writes a log, which may do either.
#[derive(Debug)]
pub struct Lookout<T> {
    descriptor: Shared<OwnedFd>,
    way: Way,
    /// By the keys that they are waited for under. A ring's: kept until then, so that the memory stays.
    waits: Pool<(Spot, T)>,
}

#[derive(Debug)]
enum Way {
    Ring(Ring),
    Thread(Helper),
}

impl<T> Lookout<T> {
    /// One that waits for nothing yet.
    ///
    /// # Errors
    /// No memory, no descriptor, or no thread, is left.
    pub fn new() -> io::Result<Lookout<T>> {
        Lookout::with(uring::open(|_, _| {})).map_err(io::Error::from)
    }

    fn with(ring: Option<Ring>) -> Result<Lookout<T>, Errno> {
        let descriptor = Shared::new(sys::eventfd()?).map_err(|_| NO_MEMORY)?;
        let ring = ring.filter(|ring| ring.tell(descriptor.as_fd()).is_ok());
        let way = match ring {
            Some(ring) => Way::Ring(ring),
            None => Way::Thread(Helper::start(&descriptor)?),
        };
        Ok(Lookout {
            descriptor,
            way,
            waits: Pool::new(),
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

    /// Waits for one more word, of which [`Lookout::collect`] tells once.
    ///
    /// # Errors
    /// What it stands for, if there is no memory, or the kernel has none.
    pub fn wait_for(&mut self, spot: Spot, what: T) -> Result<(), T> {
        let (word, value) = (spot.futex(), spot.value());
        let for_helper = match &self.way {
            Way::Ring(_) => None,
            Way::Thread(_) => Some(spot.clone()),
        };
        let key = self.waits.insert((spot, what)).map_err(|(_, what)| what)?;
        match &mut self.way {
            Way::Ring(ring) => {
                let stands = ring.wait_for(word, value, key as u64).is_ok();
                if !stands || ring.collect().is_err() {
                    self.do_without();
                } else if ring.is_behind() {
                    // Nobody waits there yet: `collect` submits it.
                    self.poke();
                }
                if !stands && matches!(self.way, Way::Ring(_)) {
                    // Nor is there a thread that would.
                    return self.waits.remove(key).map_or(Ok(()), |(_, what)| Err(what));
                }
                Ok(())
            }
            Way::Thread(helper) => {
                let waits = for_helper.is_some_and(|spot| helper.wait_for(key, spot));
                if waits {
                    return Ok(());
                }
                self.waits.remove(key).map_or(Ok(()), |(_, what)| Err(what))
            }
        }
    }

    /// Makes the descriptor readable.
    pub fn poke(&self) {
        sys::ring(self.descriptor.as_fd());
    }

    /// Finds whatever was rung, or is another than it was; or what was neither, seldom. The descriptor is not readable
    /// then, unless there is more.
    pub fn collect(&mut self, mut found: impl FnMut(T)) {
        let (waits, descriptor) = (&mut self.waits, self.descriptor.as_fd());
        let mut take = |key| {
            if let Some((_, what)) = waits.remove(key) {
                found(what);
            }
        };
        match &mut self.way {
            Way::Ring(ring) => {
                let mut failed = ring.collect().is_err();
                // What is to be seen is seen after this, or makes it readable again.
                sys::unring(descriptor);
                ring.take(|key, result| {
                    let passes =
                        matches!(-result, 0 | libc::EAGAIN | libc::EINTR | libc::ECANCELED);
                    failed |= !passes;
                    usize::try_from(key).into_iter().for_each(&mut take);
                });
                if ring.has_news() || ring.is_behind() {
                    sys::ring(descriptor);
                }
                if failed {
                    self.do_without();
                }
            }
            Way::Thread(helper) => {
                sys::unring(descriptor);
                helper.collect(take);
            }
        }
    }

    /// The ring has failed: a thread waits from here on. Without one either, whoever polls is told again and again. (Called as C's
    /// functions are, so that nobody has to be ready for a panic of it.)
    #[cold]
    extern "C" fn do_without(&mut self) {
        let helper = Helper::start(&self.descriptor).ok().filter(|helper| {
            let mut waits = self.waits.iter();
            waits.all(|(key, (spot, _))| helper.wait_for(key, spot.clone()))
        });
        match helper {
            Some(helper) => self.way = Way::Thread(helper),
            None => self.poke(),
        }
    }
}

impl<T> AsFd for Lookout<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

const NO_MEMORY: Errno = Errno(libc::ENOMEM);

/// The thread that waits where no ring does.
#[derive(Debug)]
struct Helper {
    watch: Shared<Watch>,
    thread: Thread,
}

/// What it and the lookout have in common.
#[derive(Debug)]
struct Watch {
    descriptor: Shared<OwnedFd>,
    /// The state has changed.
    alarm: Alarm,
    state: Lock<State>,
}

#[derive(Debug)]
struct State {
    waits: Vec<Waiting>,
    end: bool,
}

#[derive(Debug)]
struct Waiting {
    key: usize,
    spot: Spot,
    /// To be told of.
    is_rung: bool,
}

impl Helper {
    fn start(descriptor: &Shared<OwnedFd>) -> Result<Helper, Errno> {
        let watch = Watch {
            descriptor: descriptor.clone(),
            alarm: Alarm::new(),
            state: Lock::new(State {
                waits: Vec::new(),
                end: false,
            })
            .ok_or(NO_MEMORY)?,
        };
        let watch = Shared::new(watch).map_err(|_| NO_MEMORY)?;
        let thread = Thread::start(c"npfs-lookout", STACK, watch.clone())?;
        Ok(Helper { watch, thread })
    }

    /// `false`: there is no memory.
    #[must_use]
    fn wait_for(&self, key: usize, spot: Spot) -> bool {
        let waiting = Waiting {
            key,
            spot,
            is_rung: false,
        };
        let state = &self.watch.state;
        let waits = state.with(|state| try_push(&mut state.waits, waiting).is_ok());
        self.watch.alarm.ring();
        waits
    }

    fn collect(&self, mut found: impl FnMut(usize)) {
        self.watch.state.with(|state| {
            state.waits.retain(|waiting| {
                if waiting.is_rung {
                    found(waiting.key);
                }
                !waiting.is_rung
            });
        });
    }
}

impl Drop for Helper {
    #[inline]
    fn drop(&mut self) {
        // A child of fork(2) has the lock as it was, and nobody who would let it go.
        if self.thread.is_ours() {
            self.watch.state.with(|state| state.end = true);
            self.watch.alarm.ring();
        }
    }
}

impl Run for Watch {
    fn run(&self) {
        let mut spots = [const { None }; MOST_SPOTS];
        loop {
            let seen = self.alarm.now();
            let look = |state: &mut State| self.look(state, &mut spots);
            let Some(briefly) = self.state.with(look) else {
                return;
            };
            let spots = spots.iter().flatten();
            if wait_at_spots(spots, &self.alarm, seen, briefly) {
                let tell = |state: &mut State| self.tell(state, |spot| !spot.is_bell());
                self.state.with(tell);
            }
        }
    }
}

impl Watch {
    /// Tells of what is another than it was, and finds what to sleep at: `true`: there is more than that. `None`: it is over.
    fn look(&self, state: &mut State, spots: &mut [Option<Spot>; MOST_SPOTS]) -> Option<bool> {
        if state.end {
            return None;
        }
        self.tell(state, Spot::has_changed);
        let waits = state.waits.iter().filter(|waiting| !waiting.is_rung);
        let waits = waits.map(|waiting| &waiting.spot);
        // Of a bell it can be told by looking, too.
        let bells = waits.clone().filter(|spot| spot.is_bell());
        let mut all = waits.filter(|spot| !spot.is_bell()).chain(bells);
        for place in spots {
            *place = all.next().cloned();
        }
        Some(all.next().is_some())
    }

    fn tell(&self, state: &mut State, is_rung: impl Fn(&Spot) -> bool) {
        let mut any = false;
        for waiting in &mut state.waits {
            if !waiting.is_rung && is_rung(&waiting.spot) {
                waiting.is_rung = true;
                any = true;
            }
        }
        if any {
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
    fn both() -> Vec<Lookout<usize>> {
        let ring = uring::open(|_, _| {});
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

    fn found(lookout: &mut Lookout<usize>) -> Vec<usize> {
        let mut all = Vec::new();
        lookout.collect(|what| all.push(what));
        all
    }

    fn is_readable(lookout: &Lookout<usize>, milliseconds: i32) -> bool {
        sys::poll(lookout.as_fd(), libc::POLLIN, Some(milliseconds)).expect("polled")
    }

    #[test]
    fn it_is_readable_until_it_is_drained() {
        for mut lookout in both() {
            let links = links(150);
            for (key, link) in links.iter().enumerate() {
                let spot = Spot::at_own_bell(link).expect("quiet");
                lookout.wait_for(spot, key).expect("memory");
            }
            while is_readable(&lookout, 5) {
                assert_eq!(found(&mut lookout), [], "nobody has rung");
            }
            for (key, link) in links.iter().enumerate() {
                link.own_bell().ring(3);
                assert!(is_readable(&lookout, 5000), "{}", lookout.kind());
                assert!(is_readable(&lookout, 0), "still");
                let start = Instant::now();
                let mut rung = found(&mut lookout);
                while rung.is_empty() && start.elapsed() < Duration::from_secs(5) {
                    rung = found(&mut lookout);
                }
                assert_eq!(rung, [key], "{}", lookout.kind());
            }
            while is_readable(&lookout, 5) {
                assert_eq!(found(&mut lookout), [], "each once");
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
                            lookout.wait_for(spot, turn).expect("memory");
                            let woken = is_readable(&lookout, 5000);
                            assert!(woken, "turn {turn}, {}", lookout.kind());
                        }
                        found(&mut lookout);
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
            lookout.wait_for(spot, 7).expect("memory");
            assert!(is_readable(&lookout, 5000), "{}", lookout.kind());
            assert_eq!(found(&mut lookout), [7]);
        }
    }
}

//! Where a thread that pumps sleeps, and which links it looks at.
//!
//! A link is *active* for a thread while the thread looks at its bell in memory, and *idle* while the kernel does: its
//! bell is armed, and a request in the thread's ring waits for its word. Whoever rings an armed bell wakes all who wait for
//! it, and the link is active again; one that stays quiet becomes idle, also while the thread is kept awake by others. So
//! neither a turn nor a sleep costs more for a thousand links of which one is busy.
//!
//! Few links do without the ring: one futex_waitv(2) for all of them. Where there is no ring (an older kernel, a sandbox)
//! that is all there is: 127 links, and those beyond are looked at every millisecond.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use npfs_ringbuf::{Alarm, Deadline, Link, Shared, wait_at_bells};
use slab::Slab;

use crate::{
    sys::{self, Errno},
    uring::{self, Held, Ring},
};

/// A link on which something pends.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) link: Shared<Link>,
    /// How many operations pend there.
    pending: AtomicUsize,
    /// Completions that were seen before their bell was.
    early: AtomicU32,
    /// Rings for nothing in the window of time that ends then.
    vain: AtomicU32,
    window: AtomicU64,
    length: AtomicU64,
    /// Nothing has pended there for a while.
    forgotten: AtomicBool,
}

impl Watched {
    pub(crate) fn new(link: &Shared<Link>) -> Watched {
        Watched {
            link: link.clone(),
            pending: AtomicUsize::new(0),
            early: AtomicU32::new(0),
            vain: AtomicU32::new(0),
            window: AtomicU64::new(0),
            length: AtomicU64::new(WINDOW),
            forgotten: AtomicBool::new(false),
        }
    }

    /// One more pends.
    pub(crate) fn one_more(&self) {
        self.pending.fetch_add(1, Ordering::SeqCst);
    }

    /// One less. `true`: nothing pends there now.
    pub(crate) fn one_less(&self) -> bool {
        self.pending.fetch_sub(1, Ordering::SeqCst) == 1
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending.load(Ordering::SeqCst) == 0
    }

    /// Whether it has been rung for nothing so often lately that it is only looked at now and then.
    pub(crate) fn is_muted(&self, now: u64) -> bool {
        self.was_muted() && self.rings_in_vain(now)
    }

    /// Whether it was rung for nothing a moment ago.
    pub(crate) fn rings_in_vain(&self, now: u64) -> bool {
        now < self.window.load(Ordering::Relaxed)
    }

    /// Without a look at the clock.
    pub(crate) fn was_muted(&self) -> bool {
        self.vain.load(Ordering::Relaxed) > MOST_VAIN
    }

    /// Until when that is so.
    pub(crate) fn muted_until(&self) -> u64 {
        self.window.load(Ordering::Relaxed)
    }

    pub(crate) fn was_vain(&self, now: u64) {
        let early = self.early.load(Ordering::Relaxed);
        if early != 0 {
            self.early.store(early - 1, Ordering::Relaxed);
            return;
        }
        if self.rings_in_vain(now) {
            self.vain.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // Who goes on at once has one look a window, and windows that grow.
        let last = self.window.load(Ordering::Relaxed);
        let goes_on = self.was_muted() && now < last.saturating_add(LONGEST_WINDOW);
        let (length, vain) = if goes_on {
            let length = 2 * self.length.load(Ordering::Relaxed);
            (length.min(LONGEST_WINDOW), MOST_VAIN + 1)
        } else {
            (WINDOW, 1)
        };
        self.length.store(length, Ordering::Relaxed);
        self.vain.store(vain, Ordering::Relaxed);
        self.window.store(now + length, Ordering::Relaxed);
    }

    /// There was something when it rang.
    pub(crate) fn was_right(&self) {
        if self.was_muted() {
            self.vain.store(0, Ordering::Relaxed);
        }
    }

    /// Something has completed here; its bell may come later.
    pub(crate) fn was_early(&self) {
        let early = self.early.load(Ordering::Relaxed);
        self.early
            .store(MOST_EARLY.min(early + 1), Ordering::Relaxed);
    }

    /// Nobody looks at it any more.
    pub(crate) fn forget(&self) {
        self.forgotten.store(true, Ordering::Relaxed);
        // Ends the requests that wait for it, in whatever ring: its memory may go.
        self.link.own_bell().wake();
    }

    fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Relaxed)
    }
}

/// What a thread knows of the links of its process.
#[derive(Debug)]
pub(crate) struct Sleeper {
    way: Way,
    /// Of the reactor's links, when it looked last; 0: never.
    pub(crate) version: u64,
    active: Vec<Active>,
    /// Not kept alive by this: a thread may be at work elsewhere for long.
    idle: Slab<Weak<Watched>>,
    /// A request waits for the alarm.
    at_the_alarm: bool,
    /// Room for the slots of a bell.
    slots: Vec<u32>,
    /// [`sys::forks`] when it was made.
    forks: u32,
}

/// A link to look at in memory.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) watched: Arc<Watched>,
    /// Looks since something was there.
    pub(crate) quiet: Cell<u32>,
}

impl Active {
    fn new(watched: Arc<Watched>) -> Active {
        Active {
            watched,
            quiet: Cell::new(0),
        }
    }
}

#[derive(Debug)]
enum Way {
    NotTried,
    Ring(Box<Ring>),
    Words,
}

thread_local! {
    static SLEEPER: RefCell<Sleeper> = const { RefCell::new(Sleeper::new()) };
}

/// Calls with this thread's sleeper; one that knows nothing at the very end of a thread, and within such a call.
pub(crate) fn with_sleeper<T>(call: impl FnOnce(&mut Sleeper) -> T) -> T {
    let mut call = Some(call);
    let own = SLEEPER.try_with(|sleeper| {
        let mut sleeper = sleeper.try_borrow_mut().ok()?;
        sleeper.begin_anew_in_a_child();
        Some(call.take()?(&mut sleeper))
    });
    match (own.ok().flatten(), call) {
        (Some(answer), _) => answer,
        (None, Some(call)) => call(&mut Sleeper::new()),
        (None, None) => unreachable!("what was called has answered"),
    }
}

impl Sleeper {
    const fn new() -> Sleeper {
        Sleeper {
            way: Way::NotTried,
            version: 0,
            active: Vec::new(),
            idle: Slab::new(),
            at_the_alarm: false,
            slots: Vec::new(),
            forks: 0,
        }
    }

    /// A child of fork(2) has neither its parent's ring nor its links.
    fn begin_anew_in_a_child(&mut self) {
        let forks = sys::forks();
        if self.forks != forks {
            std::mem::forget(std::mem::replace(self, Sleeper::new()));
            self.forks = forks;
        }
    }

    /// Takes the links that there are now.
    pub(crate) fn follow(&mut self, version: u64, all: &[Arc<Watched>]) {
        self.version = version;
        self.active.retain(|one| !one.watched.is_forgotten());
        let idle = self.idle.iter().map(|(_, one)| one.as_ptr());
        let active = self.active.iter().map(|one| Arc::as_ptr(&one.watched));
        let known: HashSet<_> = active.chain(idle).collect();
        let new = all.iter().filter(|one| !known.contains(&Arc::as_ptr(one)));
        self.active.extend(new.cloned().map(Active::new));
    }

    /// Room for a list of slots, empty.
    pub(crate) fn slots(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.slots)
    }

    /// It comes back.
    pub(crate) fn keep(&mut self, slots: Vec<u32>) {
        self.slots = slots;
    }

    /// Links to look at in memory.
    pub(crate) fn active(&self) -> &[Active] {
        &self.active
    }

    /// With many of them, those that have been quiet become idle.
    pub(crate) fn let_go(&mut self, now: u64) {
        if self.active.len() > FEW && self.has_ring() {
            let before = self.idle.len();
            let rested = self.rest(now, QUIET);
            if rested.is_err() || self.idle.len() != before {
                let entered = rested.and_then(|_| self.enter());
                self.take(entered);
            }
        }
    }

    /// Those that have been quiet for so many looks become idle, but for muted ones: armed, with a request that the ring has
    /// yet to be told of. `false`: one of them is ready.
    fn rest(&mut self, now: u64, quiet: u32) -> Result<bool, Errno> {
        let Way::Ring(ring) = &mut self.way else {
            return Ok(true);
        };
        let mut all = true;
        let mut at = 0;
        while let Some(one) = self.active.get(at) {
            if one.quiet.get() < quiet || one.watched.is_muted(now) {
                at += 1;
                continue;
            }
            let bell = one.watched.link.own_bell();
            let Some(value) = bell.arm() else {
                all = false;
                one.quiet.set(0);
                at += 1;
                continue;
            };
            let word = bell.futex();
            let one = self.active.swap_remove(at).watched;
            let key = self.idle.insert(Arc::downgrade(&one));
            ring.wait_for(word, value, key as u64)?;
        }
        Ok(all)
    }

    /// Tells the ring of its requests.
    fn enter(&mut self) -> Result<(), Errno> {
        match &mut self.way {
            Way::Ring(ring) => ring.collect(),
            Way::NotTried | Way::Words => Ok(()),
        }
    }

    /// Whether an idle link has been rung. A load or two.
    pub(crate) fn has_news(&self) -> bool {
        match &self.way {
            Way::Ring(ring) => ring.has_news(),
            Way::NotTried | Way::Words => false,
        }
    }

    /// Idle links that have been rung are active again.
    pub(crate) fn collect(&mut self) {
        if !self.has_news() {
            return;
        }
        let collected = self.enter();
        self.take(collected);
    }

    fn take(&mut self, entered: Result<(), Errno>) {
        let Way::Ring(ring) = &mut self.way else {
            return;
        };
        let mut broken = entered.err();
        ring.take(|key, result| {
            if !matches!(-result, 0 | libc::EAGAIN | libc::EINTR | libc::ECANCELED) {
                broken = Some(Errno(-result));
            }
            if key == ALARM {
                self.at_the_alarm = false;
            } else if let Ok(key) = usize::try_from(key)
                && let Some(one) = self.idle.try_remove(key)
                && let Some(one) = one.upgrade()
                && !one.is_forgotten()
            {
                self.active.push(Active::new(one));
            }
        });
        if let Some(error) = broken {
            self.do_without(error);
        }
    }

    /// The ring has failed: the rest of this thread's sleeps do without it.
    fn do_without(&mut self, error: Errno) {
        tracing::warn!("a ring has failed ({error}), futexes instead");
        self.way = Way::Words;
        self.at_the_alarm = false;
        let idle = self.idle.drain().filter_map(|one| one.upgrade());
        let idle = idle.filter(|one| !one.is_forgotten());
        self.active.extend(idle.map(Active::new));
    }

    /// Sleeps until a link has been rung, the alarm has rung since `seen`, the deadline has passed, or it is `soon` by the
    /// clock (u64::MAX: never); or for less. `steady`: the thread does little else.
    pub(crate) fn sleep(
        &mut self,
        now: u64,
        alarm: &Alarm,
        seen: u32,
        until: Deadline,
        soon: u64,
        steady: bool,
    ) {
        // Muted links are listened to again when that is over.
        let active = self.active.iter().map(|one| &one.watched);
        let muted = active.filter(|one| one.is_muted(now));
        let soon = muted.map(|one| one.muted_until()).fold(soon, u64::min);
        let until = if soon == u64::MAX {
            until
        } else {
            let left = Duration::from_nanos(soon.saturating_sub(now));
            until.min(Deadline::after(left))
        };
        if (steady || !self.idle.is_empty() || self.active.len() > FEW) && self.has_ring() {
            let slept = self.sleep_in_the_ring(now, alarm, seen, until);
            self.take(slept);
        } else {
            let active = self.active.iter().map(|one| &*one.watched);
            let heard = active.filter(|one| !one.is_muted(now));
            let _ = wait_at_bells(heard.map(|one| &*one.link), alarm, seen, until);
        }
    }

    fn has_ring(&mut self) -> bool {
        if let Way::NotTried = self.way {
            self.way = match open() {
                Some(ring) => Way::Ring(Box::new(ring)),
                None => Way::Words,
            };
        }
        matches!(self.way, Way::Ring(_))
    }

    fn sleep_in_the_ring(
        &mut self,
        now: u64,
        alarm: &Alarm,
        seen: u32,
        until: Deadline,
    ) -> Result<(), Errno> {
        if !self.rest(now, 0)? {
            return self.enter();
        }
        let Way::Ring(ring) = &mut self.way else {
            return Ok(());
        };
        let _asleep = alarm.fall_asleep();
        if alarm.now() != seen {
            return ring.collect();
        }
        if !self.at_the_alarm {
            ring.wait_for(alarm.futex(), seen, ALARM)?;
            self.at_the_alarm = true;
        }
        ring.wait(until)
    }
}

fn open() -> Option<Ring> {
    uring::open(|held, error| tracing::info!("no ring ({held:?}): {error}"))
}

/// What the event loop of this process sleeps in: `uring` (a ring without a descriptor), `registered` (one whose descriptor
/// is closed), `plain` (one with a descriptor), or `futex` (none).
///
/// The first that works here; the environment variable `NPFS_LOOP` decides before that. `plain` is never chosen: it would
/// cost the process a descriptor.
#[must_use]
pub fn event_loop() -> &'static str {
    let of = |held| match held {
        Held::NoDescriptor => "uring",
        Held::Registered => "registered",
        Held::Plain => "plain",
    };
    with_sleeper(|sleeper| match &sleeper.way {
        Way::Ring(ring) => of(ring.held()),
        Way::Words => "futex",
        Way::NotTried => open().map_or("futex", |ring| of(ring.held())),
    })
}

/// The key of the alarm's request.
const ALARM: u64 = u64::MAX;
/// Looks after which a link among many is quiet.
const QUIET: u32 = 16;
/// So many links are waited for without a ring, unless the thread does little else.
const FEW: usize = 8;
/// A link is listened to no more for the rest of a window of so many nanoseconds, after so many rings for nothing in it.
const WINDOW: u64 = 10_000_000;
/// Of a peer that does not leave off.
const LONGEST_WINDOW: u64 = 16 * WINDOW;
const MOST_VAIN: u32 = 8;
/// Rings that may come later than what they tell of.
const MOST_EARLY: u32 = 64;

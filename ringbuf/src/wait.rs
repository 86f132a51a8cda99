//! A blocked call: its caller-owned state, how long it spins, and how it sleeps.
//!
//! Sleeping costs a wake-up (some 5 us on one CPU, 20 to 50 us from another), spinning costs a CPU. So a wait first
//! looks again for about as long as a wake-up takes, if another CPU can bring the answer and recent waits were that
//! short; next to a peer on its own CPU it gives way a few times instead, so that a wake-up is paid once for a batch;
//! then it sleeps. While asleep it holds no role and no lock.

use crate::{
    Deadline, cpu, environment,
    error::Error,
    futex::{self, Woke},
    layout::Record,
    record::{Outcome, Phase},
    role::Role,
    sync::{AtomicPtr, AtomicU8, AtomicU32, Ordering, process, spin_hint},
};

/// The state of one blocked call, in memory that the caller owns. Serves one call at a time, any number in turn.
#[derive(Debug)]
pub struct Wait {
    /// [`IDLE`], [`ACTIVE`] or [`CANCELLED`].
    state: AtomicU32,
    /// The futex word of this process alone: no peer can requeue a sleeper away from it.
    word: AtomicU32,
    /// The record that an abandoned call leaves behind, and which of its lives is the call's.
    record: AtomicPtr<Record>,
    life: AtomicU32,
}

const IDLE: u32 = 0;
const ACTIVE: u32 = 1;
const CANCELLED: u32 = 2;

impl Default for Wait {
    fn default() -> Wait {
        Wait::new()
    }
}

impl Wait {
    /// For a call to come.
    #[must_use]
    #[cfg(not(loom))]
    pub const fn new() -> Wait {
        Wait {
            state: AtomicU32::new(IDLE),
            word: AtomicU32::new(0),
            record: AtomicPtr::new(std::ptr::null_mut()),
            life: AtomicU32::new(0),
        }
    }

    /// For a call to come.
    #[must_use]
    #[cfg(loom)]
    pub fn new() -> Wait {
        Wait {
            state: AtomicU32::new(IDLE),
            word: AtomicU32::new(0),
            record: AtomicPtr::new(std::ptr::null_mut()),
            life: AtomicU32::new(0),
        }
    }

    /// From another thread: asks the call under way to end. `false`: there is none.
    ///
    /// One compare-exchange and a wake. The call's own answer says which came first: [`Error::Cancelled`], or its
    /// result if it had completed.
    pub fn cancel(&self) -> bool {
        let asked = self
            .state
            .compare_exchange(ACTIVE, CANCELLED, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok();
        if asked {
            self.word.fetch_add(1, Ordering::SeqCst);
            futex::wake(&self.word);
        }
        asked
    }

    /// The thread inside the call will never come back: gives its record up. Async-signal-safe; one compare-exchange.
    ///
    /// What the record held is reaped by whoever settles next.
    ///
    /// # Safety
    /// Called by the thread that is inside the call (from a signal handler that does not return), or while that
    /// thread is known to be stopped there for good.
    pub unsafe fn abandon(&self) {
        let record = self.record.swap(std::ptr::null_mut(), Ordering::SeqCst);
        if record.is_null() {
            return;
        }
        // SAFETY: the pointer is set only while the call is inside, which keeps the mapping alive; the caller
        // promises that the call is still there.
        let record = unsafe { &*record };
        // The record may serve somebody else by now: only this call's life of it is given up.
        let life = Some(self.life.load(Ordering::SeqCst));
        for (from, to) in [
            (Phase::Pending, Phase::Abandoned),
            (Phase::Stream, Phase::Abandoned),
            (Phase::Done, Phase::Copied),
            (Phase::Withdrawn, Phase::Copied),
        ] {
            let _ = record.change_in(life, from, to, Outcome::Whole);
        }
    }

    /// Begins a call that is left open between the steps of a [`Task`](crate::Task), until [`Wait::shut`].
    ///
    /// # Errors
    /// [`Error::Busy`]: it serves one already.
    pub fn open(&self) -> Result<(), Error> {
        self.enter().map(std::mem::forget)
    }

    /// Whether a call is under way.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state.load(Ordering::Acquire) != IDLE
    }

    /// Ends it.
    pub fn shut(&self) {
        drop(self.resume());
    }

    /// The call that has begun here and was left open: by its thread, which goes on with it. Dropped, it ends.
    pub(crate) fn resume(&self) -> Entered<'_> {
        Entered { wait: self }
    }

    /// Begins a call.
    pub(crate) fn enter(&self) -> Result<Entered<'_>, Error> {
        self.state
            .compare_exchange(IDLE, ACTIVE, Ordering::SeqCst, Ordering::SeqCst)
            .map(|_| Entered { wait: self })
            .map_err(|_| Error::Busy)
    }
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Entered<'w> {
    wait: &'w Wait,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.wait
            .record
            .store(std::ptr::null_mut(), Ordering::Relaxed);
        // A cancel that comes at the same time finds the call ended or is too late for it: nothing has to be in order
        // with what follows, so no fence (10 ns on the way from one message to its answer).
        self.wait.state.store(IDLE, Ordering::Release);
    }
}

impl Entered<'_> {
    pub(crate) fn cancelled(&self) -> bool {
        self.wait.state.load(Ordering::Relaxed) == CANCELLED
    }

    /// The record that `abandon` gives up.
    pub(crate) fn holds(&self, record: &Record) {
        self.wait.life.store(record.word().life(), Ordering::SeqCst);
        self.wait
            .record
            .store(std::ptr::from_ref(record).cast_mut(), Ordering::Release);
    }

    /// Sleeps until the word of a record changes, or `cancel`, or the deadline. `true`: it did sleep.
    pub(crate) fn sleep_on_record(
        &self,
        record: &Record,
        deadline: Deadline,
    ) -> Result<bool, Error> {
        let own = self.wait.word.load(Ordering::SeqCst);
        self.look(deadline)?;
        if !may_sleep() {
            return Err(Error::WouldDeadlock);
        }
        let Some(value) = record.fall_asleep() else {
            return Ok(false);
        };
        match futex::wait(&record.state, value, &self.wait.word, own, deadline) {
            Woke::Woken => Ok(true),
            Woke::Look => Ok(false),
            Woke::TimedOut => Err(Error::TimedOut),
        }
    }

    /// Waits until a role is given back: a short spin, then asleep.
    pub(crate) fn sleep_on_role(
        &self,
        role: Role<'_>,
        deadline: Deadline,
        refused: impl Fn() -> Result<(), Error>,
    ) -> Result<(), Error> {
        if cpus() > 1 {
            for _ in 0..ROLE_SPINS {
                if role.is_free() {
                    return Ok(());
                }
                spin_hint();
            }
        } else {
            cpu::give_way();
        }
        let own = self.wait.word.load(Ordering::SeqCst);
        self.look(deadline)?;
        let Some(value) = role.announce() else {
            return Ok(());
        };
        // A close after this look finds the announcement, and wakes.
        refused()?;
        // Somebody is in the middle of a copy: even who must not wait waits for that, but not for one that is stopped.
        let (until, over) = if may_sleep() {
            (deadline, Error::TimedOut)
        } else {
            let soon = Deadline::after(std::time::Duration::from_millis(1));
            (deadline.min(soon), Error::WouldDeadlock)
        };
        match futex::wait(role.word, value, &self.wait.word, own, until) {
            Woke::Woken | Woke::Look => Ok(()),
            Woke::TimedOut => Err(over),
        }
    }

    /// Waits until `word` is no longer `value`.
    pub(crate) fn sleep_on_word(
        &self,
        word: &AtomicU32,
        value: u32,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let own = self.wait.word.load(Ordering::SeqCst);
        self.look(deadline)?;
        if !may_sleep() {
            return Err(Error::WouldDeadlock);
        }
        match futex::wait(word, value, &self.wait.word, own, deadline) {
            Woke::Woken | Woke::Look => Ok(()),
            Woke::TimedOut => Err(Error::TimedOut),
        }
    }

    /// Whether the call has to end.
    pub(crate) fn look(&self, deadline: Deadline) -> Result<(), Error> {
        if self.cancelled() {
            Err(Error::Cancelled)
        } else if deadline.passed() {
            Err(Error::TimedOut)
        } else {
            Ok(())
        }
    }
}

#[cfg(not(loom))]
std::thread_local! {
    /// Not here.
    static AWAKE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whether calls of this thread may wait for their peer: not within [`without_sleep`].
#[must_use]
pub fn may_sleep() -> bool {
    #[cfg(not(loom))]
    return !AWAKE.get();
    #[cfg(loom)]
    true
}

/// Calls with a thread that must not wait for a peer: a blocking call that would sleep until its peer acts answers
/// [`Error::WouldDeadlock`] instead. For event loops, on which everything else waits.
#[cfg(not(loom))]
pub fn without_sleep<T>(call: impl FnOnce() -> T) -> T {
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            AWAKE.set(self.0);
        }
    }
    let _back = Back(AWAKE.replace(true));
    call()
}

/// How long a blocking call looks again before it sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpinPolicy {
    /// As long as a wake-up has been costing lately, unless recent waits were longer than that; not at all with a
    /// single CPU. The environment variable `NPFS_SPIN` (`adaptive`, `never`, or a number of nanoseconds) is what new
    /// connections begin with.
    #[default]
    Adaptive,
    /// Sleeps at once.
    Never,
    /// For at most this many nanoseconds, whatever recent waits were like.
    Fixed(u32),
}

impl SpinPolicy {
    /// From the environment variable `NPFS_SPIN`; what cannot be read is `Adaptive`.
    #[must_use]
    pub fn from_env() -> SpinPolicy {
        environment::var(c"NPFS_SPIN", |set| match set {
            Some("never") => SpinPolicy::Never,
            Some(number) => number
                .parse()
                .map_or(SpinPolicy::Adaptive, SpinPolicy::Fixed),
            None => SpinPolicy::Adaptive,
        })
    }

    fn encode(self) -> u32 {
        match self {
            SpinPolicy::Adaptive => u32::MAX,
            SpinPolicy::Never => 0,
            SpinPolicy::Fixed(nanoseconds) => nanoseconds.min(u32::MAX - 1),
        }
    }
}

/// What one handle has learned about its waits.
#[derive(Debug)]
pub(crate) struct Spin {
    /// `SpinPolicy::encode`.
    policy: AtomicU32,
    /// Recent average wait, nanoseconds.
    average: AtomicU32,
    /// How many times to give way to a peer on the same CPU.
    turns: AtomicU8,
    /// Waits that did not spin, wrapping.
    skipped: AtomicU8,
    /// The peer was asleep when this side last did something for it.
    woke: AtomicU8,
    /// Frames of a stream in a row that had just come, and how patient its reader is: a field more would not fit.
    heels: AtomicU8,
}

impl Spin {
    pub(crate) fn new(policy: SpinPolicy) -> Spin {
        Spin {
            policy: AtomicU32::new(policy.encode()),
            average: AtomicU32::new(0),
            turns: AtomicU8::new(MOST_TURNS),
            skipped: AtomicU8::new(0),
            woke: AtomicU8::new(0),
            heels: AtomicU8::new(0),
        }
    }

    pub(crate) fn set(&self, policy: SpinPolicy) {
        self.policy.store(policy.encode(), Ordering::Relaxed);
    }

    /// Looks again for as long as it is worth it: `true` once `ready` says so. `peer_cpu` as published, plus one.
    #[inline]
    pub(crate) fn until(
        &self,
        peer_cpu: u32,
        entered: &Entered<'_>,
        ready: impl Fn() -> bool,
    ) -> bool {
        let policy = self.policy.load(Ordering::Relaxed);
        if policy == 0 {
            return false;
        }
        // A peer that was last seen on another CPU can answer while we look, even if this process is tied to one CPU.
        let here = if peer_cpu == 0 {
            cpus() == 1
        } else {
            peer_cpu == cpu::current()
        };
        if here {
            return self.give_way(ready);
        }
        if policy == u32::MAX && self.average.load(Ordering::Relaxed) > worth() && !self.probes() {
            return false;
        }
        // A peer that is at work answers within a few hundred nanoseconds: no clock.
        let quick = if policy < QUICK_TIME { 0 } else { QUICK_LOOKS };
        self.look(quick, &ready) || self.spin(policy, entered, ready)
    }

    /// Looks so often, without a clock: `true` once `ready` says so.
    #[inline(always)]
    pub(crate) fn look(&self, times: u32, ready: impl Fn() -> bool) -> bool {
        for _ in 0..times {
            if ready() {
                self.met_at_once();
                return true;
            }
            spin_hint();
        }
        false
    }

    /// How often to look at once, without a clock: not at all next to a peer on the same CPU, or where it has not been worth it
    /// lately.
    #[inline(always)]
    pub(crate) fn quick_looks(&self, peer_cpu: u32) -> u32 {
        let policy = self.policy.load(Ordering::Relaxed);
        if policy < QUICK_TIME
            || peer_cpu == 0
            || peer_cpu == cpu::current()
            || (policy == u32::MAX && self.average.load(Ordering::Relaxed) > worth())
        {
            0
        } else {
            QUICK_LOOKS
        }
    }

    /// Whether a wait is likely to be answered while it is awake: beside a peer at work on another CPU, or on this one by
    /// giving way.
    pub(crate) fn stays_awake(&self, peer_cpu: u32) -> bool {
        self.quick_looks(peer_cpu) != 0 || self.gives_way(peer_cpu)
    }

    /// Whether it pays to give way to a peer on the same CPU.
    #[inline]
    pub(crate) fn gives_way(&self, peer_cpu: u32) -> bool {
        peer_cpu == cpu::current()
            && self.policy.load(Ordering::Relaxed) != 0
            && self.turns.load(Ordering::Relaxed) > MOST_TURNS / 2
    }

    /// One more frame of a stream of large ones, of `len` bytes, had just come when it was read. A reader on the heels of its
    /// writer takes each line from the other CPU's cache, and both are slow; after several such frames it lets the writer get
    /// ahead ([`Spin::lets_ahead`]).
    #[cold]
    pub(crate) fn on_the_heels(&self, len: u32) {
        let frames = (self.heels.load(Ordering::Relaxed) % (HEELS + 1) + 1).min(HEELS);
        // In the same byte: for how many looks, of a microsecond or so, it may bring nothing new.
        let most = u8::MAX / (HEELS + 1) - 1;
        let patience = u8::try_from(len >> 13).unwrap_or(most).clamp(1, most);
        self.heels
            .store(patience * (HEELS + 1) + frames, Ordering::Relaxed);
    }

    /// A frame had been there for a while.
    #[inline(always)]
    pub(crate) fn off_the_heels(&self) {
        let heels = self.heels.load(Ordering::Relaxed);
        if heels % (HEELS + 1) != HEELS && heels != 0 {
            self.heels.store(0, Ordering::Relaxed);
        }
    }

    /// Whether this reader lets its writer get ahead before it looks for the next frame, and for how many looks that may
    /// bring nothing new. Not where somebody has said how long a call may look.
    #[inline(always)]
    pub(crate) fn lets_ahead(&self) -> Option<u32> {
        let heels = self.heels.load(Ordering::Relaxed);
        let is_behind = heels % (HEELS + 1) == HEELS;
        (is_behind && self.policy.load(Ordering::Relaxed) == u32::MAX)
            .then(|| u32::from(heels / (HEELS + 1)) + 1)
    }

    /// The stream has ended.
    pub(crate) fn stays_behind(&self) {
        self.heels.store(0, Ordering::Relaxed);
    }

    /// Such a look has met what it was for.
    #[inline(always)]
    pub(crate) fn met_at_once(&self) {
        let average = self.average.load(Ordering::Relaxed);
        if average != 0 {
            self.average
                .store(average - average.div_ceil(8), Ordering::Relaxed);
        }
    }

    #[cold]
    fn spin(&self, policy: u32, entered: &Entered<'_>, ready: impl Fn() -> bool) -> bool {
        let Some(_place) = Spinning::begin() else {
            return false;
        };
        let budget = if policy == u32::MAX {
            u64::from(worth())
        } else {
            u64::from(policy)
        };
        let begin = futex::now();
        loop {
            for _ in 0..LOOKS_PER_CLOCK {
                if ready() {
                    self.learn(futex::now().wrapping_sub(begin));
                    return true;
                }
                spin_hint();
            }
            if futex::now().wrapping_sub(begin) >= budget || entered.cancelled() {
                return false;
            }
        }
    }

    /// Two sides that both sleep keep each other's waits long: now and then one of them looks whether that is still
    /// so. The one that spins answers at once, and the other learns from that.
    fn probes(&self) -> bool {
        let skipped = self.skipped.load(Ordering::Relaxed).wrapping_add(1);
        self.skipped.store(skipped, Ordering::Relaxed);
        skipped.is_multiple_of(PROBE_EVERY)
    }

    /// The peer shares our CPU: only by letting it run does anything come. As long as that has been bringing the
    /// answer it is tried again; each failure makes it rarer.
    #[cold]
    fn give_way(&self, ready: impl Fn() -> bool) -> bool {
        let turns = self.turns.load(Ordering::Relaxed);
        if (0..turns.max(1)).any(|_| self.give_way_once(&ready)) {
            return true;
        }
        self.turns.store(turns / 2, Ordering::Relaxed);
        false
    }

    /// The same, and no judgement if that has brought nothing.
    pub(crate) fn give_way_once(&self, ready: impl Fn() -> bool) -> bool {
        cpu::give_way();
        let is_ready = ready();
        if is_ready {
            let turns = self.turns.load(Ordering::Relaxed);
            self.turns
                .store((turns + 1).min(MOST_TURNS), Ordering::Relaxed);
        }
        is_ready
    }

    /// This side had to wake the other: what it waits for next takes that much longer, and says nothing about how
    /// long it would take a peer that is awake.
    pub(crate) fn woke_peer(&self) {
        self.woke.store(1, Ordering::Relaxed);
    }

    /// A wait took so long (nanoseconds, up to the moment at which it was answered).
    pub(crate) fn learn(&self, waited: u64) {
        let waited = if self.woke.load(Ordering::Relaxed) != 0 {
            self.woke.store(0, Ordering::Relaxed);
            waited.saturating_sub(u64::from(wake_cost()))
        } else {
            waited
        };
        let waited = u32::try_from(waited).unwrap_or(u32::MAX) / 8;
        let average = self.average.load(Ordering::Relaxed);
        self.average.store(
            average - average / 8 + waited.min(MOST_LEARNED),
            Ordering::Relaxed,
        );
    }
}

/// A place among the spinners of this process: never more than its CPUs less one (one, if it is tied to a single CPU
/// and its peer is elsewhere).
struct Spinning;

static SPINNERS: process::AtomicU32 = process::AtomicU32::new(0);

impl Spinning {
    fn begin() -> Option<Spinning> {
        if SPINNERS.fetch_add(1, process::Ordering::Relaxed) < (cpus() - 1).max(1) {
            Some(Spinning)
        } else {
            SPINNERS.fetch_sub(1, process::Ordering::Relaxed);
            None
        }
    }
}

impl Drop for Spinning {
    fn drop(&mut self) {
        SPINNERS.fetch_sub(1, process::Ordering::Relaxed);
    }
}

/// Nanoseconds that a wake-up has been costing this process, from the answer to the sleeper's next look.
static WAKE_COST: process::AtomicU32 = process::AtomicU32::new(FIRST_WAKE_COST);

fn wake_cost() -> u32 {
    WAKE_COST.load(process::Ordering::Relaxed)
}

/// How long it is worth looking, nanoseconds: a little more than a wake-up costs, so that a peer that has to be woken
/// first is still met, and from its second turn on finds us awake.
fn worth() -> u32 {
    wake_cost() * 3 / 2
}

/// A sleeper looks again this long after it was answered. The peer wrote the moment: it is believed within limits.
pub(crate) fn learn_wake_cost(nanoseconds: u64) {
    let cost = u32::try_from(nanoseconds)
        .unwrap_or(u32::MAX)
        .clamp(LEAST_WAKE_COST, MOST_WAKE_COST);
    let average = wake_cost();
    WAKE_COST.store(average - average / 8 + cost / 8, process::Ordering::Relaxed);
}

/// CPUs that this process may use, looked up once.
pub(crate) fn cpus() -> u32 {
    static CPUS: process::AtomicU32 = process::AtomicU32::new(0);
    let known = CPUS.load(process::Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let cpus = cpu::allowed();
    CPUS.store(cpus, process::Ordering::Relaxed);
    cpus
}

/// Looks without a clock, with a pause after each, some 1 to 3 us: longer than a turn between two CPUs that share no cache.
///
/// The pause makes them faster. Without it a reader has the line back before its writer is through with it, which costs both
/// another trip; and it looks so often that the CPU, which learns how a short loop ends, never expects this one to end.
const QUICK_LOOKS: u32 = 64;
/// Nanoseconds: who may not look for so long goes by the clock.
const QUICK_TIME: u32 = 4_000;
const HEELS: u8 = 8;
const LOOKS_PER_CLOCK: u32 = 16;
const ROLE_SPINS: u32 = 200;
const MOST_TURNS: u8 = 8;
const PROBE_EVERY: u8 = 64;
/// An eighth of the longest wait that counts: so that a few short ones bring the average down again.
const MOST_LEARNED: u32 = 25_000;
const FIRST_WAKE_COST: u32 = 25_000;
const LEAST_WAKE_COST: u32 = 2_000;
const MOST_WAKE_COST: u32 = 60_000;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn cancel_needs_a_call_under_way() {
        let wait = Wait::new();
        assert!(!wait.cancel());
        let entered = wait.enter().expect("idle");
        assert!(wait.enter().is_err());
        assert!(wait.cancel());
        assert!(entered.cancelled());
        drop(entered);
        assert!(!wait.enter().expect("idle again").cancelled());
    }

    #[test]
    fn long_waits_end_the_spinning_and_short_ones_bring_it_back() {
        let spin = Spin::new(SpinPolicy::Adaptive);
        for _ in 0..50 {
            spin.learn(10_000_000);
        }
        assert!(spin.average.load(Ordering::Relaxed) > MOST_WAKE_COST);
        for _ in 0..50 {
            spin.learn(500);
        }
        assert!(spin.average.load(Ordering::Relaxed) < LEAST_WAKE_COST);
    }
}

//! What pends in shared memory in this process, and who moves it on.
//!
//! An operation that pends stands in a list by its connection, and its record at the bell: whoever brings it something
//! marks the connection's slot at this process's bell on that link, and rings if the bell is armed. So one thread can wait
//! for any number of operations with one word a link, and finds those that have something new without looking at the others.
//!
//! Somebody *pumps*: takes the marked slots, looks at their operations, and sleeps at the bells when there is nothing left.
//! A thread that waits for a completion pumps itself ([`Reactor::wait_until`]), without a hand-over to another thread; else
//! the loop does, a thread of this process that begins with the first operation. While waits come and go the loop
//! stands by and looks every few milliseconds whether they still do; it sleeps when nothing pends, and when a wait lasts.

use std::{
    cell::Cell,
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    ops::Deref,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    },
    thread,
    time::{Duration, Instant},
};

use npfs_ringbuf::{
    Alarm, Answer, Conn, Deadline, Link, Poller, Rest, Shared, Started, thread_serial,
};

use crate::{
    jobs,
    lock::lock,
    notice,
    npfs::nanoseconds,
    sleeper::{Sleeper, Watched, with_sleeper},
    sys,
};

/// An operation, as the reactor sees it.
pub(crate) trait Pending: Send + Sync {
    /// Moves it on; `None`: it is over, and is not looked at again.
    fn look(&self) -> Option<Rest>;

    /// Its connection, while it pends or longer.
    fn conn(&self) -> Option<Arc<Conn>>;

    /// Whether what is left of it once it is over may be kept until this process waits again.
    fn may_stay(&self) -> bool {
        false
    }

    /// Whether it may have something new, before its bell says so. Cheap.
    fn has_news(&self) -> bool;

    /// Looks for a moment for something new, where that is likely to come.
    fn look_for_a_moment(&self) -> bool {
        self.conn()
            .is_some_and(|conn| conn.look_until(LOOKS, || self.has_news()))
    }

    /// It was held ([`Reactor::hold`]) and is about to stand in the list. Called under a lock.
    fn is_listed(self: Arc<Self>);

    /// It rests at its bell from now on, as any other.
    fn stop_polling(&self);

    /// What it is an operation of was closed before whoever did that could find it.
    fn is_too_late(&self) -> bool {
        false
    }

    /// It ends, as what it is an operation of, or its thread, does.
    fn end(&self) {}
}

/// What a look at an operation has found.
#[derive(Debug)]
pub(crate) enum Advanced {
    /// Its answer.
    Over(Result<Answer, npfs_ringbuf::Error>),
    /// How to wait for more.
    Rests(Rest),
}

/// Where operations stand: a link and a slot of it. Both ends of a connection in this process are one place, and so is
/// what is left of an earlier connection of the slot.
pub(crate) type Place = (u64, u64, u32);

pub(crate) fn place(conn: &Conn) -> Place {
    place_of(conn.link(), conn.slot())
}

fn place_of(link: &Link, slot: u32) -> Place {
    let [first, second] = link.token();
    (first, second, slot)
}

thread_local! {
    /// Where this thread has found nothing last, and how often something had been listed by then ([`Reactor::listed`]): a busy
    /// connection among ten thousand that only wait does not look them up.
    static EMPTY: Cell<Option<(Place, u64)>> = const { Cell::new(None) };
}

/// One for each process.
pub(crate) struct Reactor {
    pended: Mutex<Places>,
    /// How many that is.
    count: AtomicUsize,
    /// How often one was put there; no reactor of this process begins where another one goes on.
    listed: AtomicU64,
    links: Mutex<Links>,
    /// On some of them nothing pends any more.
    has_idle_links: AtomicBool,
    /// When those were forgotten last.
    forgot_at: AtomicU64,
    /// How often the links have changed, plus one.
    version: AtomicU64,
    /// The read that stands in no list, if there is one.
    held: Mutex<Held>,
    /// Which one that is ([`id`]), 0: none. Set under that lock. Whoever ends it takes it away without: what is left of it
    /// stays there for a while then.
    holds: AtomicUsize,
    /// Whoever pumps polls it: no bell tells of it. Changes under that lock.
    polls: AtomicBool,
    /// How often one came, likewise: whoever looks at one looks at another then.
    came: AtomicU32,
    /// Reads to come that are not polled, since one was for nothing; and how many that will be next time.
    unpolled: AtomicU32,
    penalty: AtomicU32,
    /// Who looks after reads, whatever they are like: the environment variable `NPFS_READS` (`polled` or `rung`), for tests.
    always: Option<Poller>,
    /// Reads that were listed by another thread than that which has issued them, whose serial this is.
    strays: Mutex<Vec<(u32, Weak<dyn Pending>)>>,
    /// Places to look at again at that time: somebody is in the middle of a copy there.
    soon: Mutex<Vec<Place>>,
    soon_at: AtomicU64,
    /// Rung when a sleeper has to look around for another reason than a bell.
    alarm: Alarm,
    /// Threads that wait, pumping or not.
    waiters: AtomicU32,
    /// Threads that have taken ready slots, and are moving on what pends there.
    moving: AtomicU32,
    /// Somebody pumps.
    pumped: AtomicBool,
    /// The waiter that does, by its serial.
    pumper: AtomicU32,
    /// When whoever pumps went to sleep last, and woke: what is found then was waited for.
    slept: [AtomicU64; 2],
    /// How often the last waiter has left.
    left: AtomicU64,
    /// What the loop does.
    stage: AtomicU32,
    wakes_the_loop: Alarm,
    /// There is a loop, or there was one that the host has taken over.
    has_loop: AtomicBool,
    /// A thread of the host's does the loop's work.
    hosted: AtomicBool,
    /// It is to look around, whatever it finds.
    kicked: AtomicBool,
    /// Callbacks that are due.
    pub(crate) jobs: jobs::Jobs,
}

/// What pends in this process. A child of fork(2) has one of its own: its parent's operations and links are not its own, and
/// its parent's locks may be held by threads that it does not have.
pub(crate) static REACTOR: Current = Current;

/// Stands for the reactor of this very process.
pub(crate) struct Current;

impl Deref for Current {
    type Target = Reactor;

    #[inline]
    fn deref(&self) -> &Reactor {
        let generation = (sys::forks() as usize).min(ALL.len() - 1);
        match ALL[generation].get() {
            Some(own) => own,
            None => Current::begin(generation),
        }
    }
}

impl Current {
    #[cold]
    fn begin(generation: usize) -> &'static Reactor {
        ALL[generation].get_or_init(|| {
            // The host of a child is the host of its parent.
            let parent = generation
                .checked_sub(1)
                .and_then(|parent| ALL[parent].get());
            let hosted = parent.is_some_and(|parent| parent.is_hosted());
            Box::new(Reactor::new(hosted, generation))
        })
    }
}

/// One for each generation of forks; the last few of a very long line share one.
static ALL: [OnceLock<Box<Reactor>>; 256] = [const { OnceLock::new() }; 256];

/// Whoever has it pumps.
#[derive(Debug)]
struct Pumps<'r>(&'r AtomicBool);

impl Drop for Pumps<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// A waiter is the one that pumps.
struct Pumper<'r>(&'r AtomicU32);

impl Pumper<'_> {
    fn begin(pumper: &AtomicU32) -> Pumper<'_> {
        pumper.store(thread_serial(), Ordering::Relaxed);
        Pumper(pumper)
    }
}

impl Drop for Pumper<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// A thread is moving on what it has taken out of a bell.
struct Moves<'r>(&'r AtomicU32);

impl Moves<'_> {
    fn begin(moving: &AtomicU32) -> Moves<'_> {
        moving.fetch_add(1, Ordering::SeqCst);
        Moves(moving)
    }
}

impl Drop for Moves<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Entry {
    operation: Arc<dyn Pending>,
    watched: Arc<Watched>,
}

#[derive(Default)]
struct Links {
    /// By the address of the link, which each of them keeps.
    watched: HashMap<usize, Arc<Watched>>,
    /// The last that was asked for.
    recent: Option<Arc<Watched>>,
    /// What the pump goes through; none: to be made again.
    all: Option<Arc<[Arc<Watched>]>>,
    /// The last operation: the pace of its peer says how long to spin.
    last: Option<Weak<dyn Pending>>,
}

#[derive(Default)]
struct Held {
    read: Option<Arc<dyn Pending>>,
    /// Where it is.
    at: Place,
    /// The link whose bell is listened to for what is held; or was, for one before it.
    watched: Option<Arc<Watched>>,
    /// Whoever pumps is asleep, or about to be: nobody polls.
    sleeps: bool,
}

/// What was held.
struct Gone {
    read: Arc<dyn Pending>,
    /// Its connection, if it pends still.
    conn: Option<Arc<Conn>>,
}

impl Gone {
    fn pends(&self) -> bool {
        self.conn.is_some()
    }
}

/// What tells operations apart for as long as they are there.
fn id(read: &Arc<dyn Pending>) -> usize {
    Arc::as_ptr(read).addr()
}

impl Links {
    /// The one of a link, if it is watched.
    fn of(&mut self, link: &Shared<Link>) -> Option<&Arc<Watched>> {
        let is_it = |watched: &Arc<Watched>| Shared::is(&watched.link, link);
        if !self.recent.as_ref().is_some_and(is_it) {
            let watched = self.watched.get(&address(link))?;
            self.recent = Some(watched.clone());
        }
        self.recent.as_ref()
    }

    fn all(&mut self) -> Arc<[Arc<Watched>]> {
        let all = || self.watched.values().cloned().collect();
        self.all.get_or_insert_with(all).clone()
    }
}

/// The loop has the pump.
const PUMPS: u32 = 0;
/// It looks now and then whether waits still come and go.
const STANDS_BY: u32 = 1;
/// It sleeps until the last waiter leaves or something pends.
const SLEEPS: u32 = 2;

impl Reactor {
    fn new(hosted: bool, generation: usize) -> Reactor {
        Reactor {
            pended: Mutex::default(),
            count: AtomicUsize::new(0),
            listed: AtomicU64::new((generation as u64) << 48),
            links: Mutex::default(),
            has_idle_links: AtomicBool::new(false),
            forgot_at: AtomicU64::new(0),
            version: AtomicU64::new(1),
            held: Mutex::default(),
            holds: AtomicUsize::new(0),
            polls: AtomicBool::new(false),
            came: AtomicU32::new(0),
            unpolled: AtomicU32::new(0),
            penalty: AtomicU32::new(UNPOLLED),
            always: match std::env::var("NPFS_READS").as_deref() {
                Ok("polled") => Some(Poller::Caller),
                Ok("rung") => Some(Poller::Bell),
                _ => None,
            },
            strays: Mutex::default(),
            soon: Mutex::default(),
            soon_at: AtomicU64::new(u64::MAX),
            alarm: Alarm::new(),
            waiters: AtomicU32::new(0),
            moving: AtomicU32::new(0),
            pumped: AtomicBool::new(false),
            pumper: AtomicU32::new(0),
            slept: Default::default(),
            left: AtomicU64::new(0),
            stage: AtomicU32::new(SLEEPS),
            wakes_the_loop: Alarm::new(),
            has_loop: AtomicBool::new(false),
            hosted: AtomicBool::new(hosted),
            kicked: AtomicBool::new(false),
            jobs: jobs::Jobs::default(),
        }
    }

    /// `None`: somebody else pumps.
    fn try_pump(&self) -> Option<Pumps<'_>> {
        let was = self.pumped.swap(true, Ordering::SeqCst);
        (!was).then(|| Pumps(&self.pumped))
    }

    // ---- operations --------------------------------------------------------------------------------------------

    /// An operation pends from now on. It may complete before this returns.
    pub(crate) fn add(&'static self, conn: &Arc<Conn>, operation: &Arc<dyn Pending>) {
        // What is held there was issued before.
        self.list_held_if(|held| held.at == place(conn));
        let alone = self.enter(conn, operation);
        self.first_look(conn, operation, alone);
    }

    /// It stands in the list. `true`: it is alone in its place.
    fn enter(&self, conn: &Arc<Conn>, operation: &Arc<dyn Pending>) -> bool {
        let watched = self.watch(conn, operation);
        self.count.fetch_add(1, Ordering::SeqCst);
        let entry = Entry {
            operation: operation.clone(),
            watched,
        };
        let mut places = lock(&self.pended);
        let list = places.entry(place(conn)).or_default();
        list.push(entry);
        // Under the lock: who has found nothing before this has an older number in mind.
        let listed = self.listed.load(Ordering::Relaxed);
        self.listed.store(listed + 1, Ordering::Release);
        list.len() == 1
    }

    /// What came between its start and its place in the list; and it comes to rest at the bell. Others may have completed
    /// through it (NP-IO-13).
    fn first_look(&'static self, conn: &Arc<Conn>, operation: &Arc<dyn Pending>, alone: bool) {
        if !alone || self.holds() || self.move_on(place(conn), operation) {
            // It itself, too, in its turn.
            self.settle(conn);
        }
        self.see_to_the_loop();
    }

    // ---- the read that is held ---------------------------------------------------------------------------------

    /// Who looks after the next read on a connection: whoever waits for it, if that one is likely to be answered meanwhile.
    pub(crate) fn poller(&self, conn: &Conn) -> Poller {
        if let Some(always) = self.always {
            return always;
        }
        let left = self.unpolled.load(Ordering::Relaxed);
        if left != 0 {
            self.unpolled.store(left - 1, Ordering::Relaxed);
        } else if conn.is_worth_polling() {
            return Poller::Caller;
        }
        Poller::Bell
    }

    /// A read pends from now on that whoever pumps polls. It stands in no list until another one comes, or somebody looks for
    /// what pends: two programs that take turns go without. It may complete before this returns.
    ///
    /// Answers the read if it comes too late, for the caller to end it.
    pub(crate) fn hold(
        &'static self,
        at: Place,
        read: Arc<dyn Pending>,
    ) -> Option<Arc<dyn Pending>> {
        let mut held = lock(&self.held);
        let was_polled = self.polls.load(Ordering::Relaxed);
        let before = self.let_go(&mut held);
        self.holds.store(id(&read), Ordering::Release);
        held.read = Some(read);
        held.at = at;
        self.polls.store(true, Ordering::Relaxed);
        let came = self.came.load(Ordering::Relaxed);
        self.came.store(came.wrapping_add(1), Ordering::Relaxed);
        let asleep = if held.sleeps {
            self.listen_for(&mut held)
        } else {
            None
        };
        // Its message may have come before anybody could find it here, from another thread of this process (NP-IO-13).
        fence(Ordering::SeqCst);
        let this = held.read.as_ref();
        let news = this.filter(|read| read.has_news()).cloned();
        // Whoever closes its file has said so before it looks here.
        let late = this.filter(|read| read.is_too_late()).cloned();
        drop(held);
        if was_polled && before.as_ref().is_some_and(Gone::pends) {
            // Several are read from at a time: for a while none of them is polled, and for longer each time.
            let penalty = self.penalty.load(Ordering::Relaxed);
            self.unpolled.store(penalty, Ordering::Relaxed);
            let next = MOST_UNPOLLED.min(4 * penalty);
            self.penalty.store(next, Ordering::Relaxed);
        }
        self.rest(before);
        if let Some(read) = asleep {
            self.stop_polling(&read);
        } else if let Some(read) = news {
            self.settle_with(&read);
        }
        self.see_to_the_loop();
        late
    }

    /// One that a thread has issued stands in the list by another thread's doing.
    pub(crate) fn add_stray(&self, of: u32, one: Weak<dyn Pending>) {
        let mut strays = lock(&self.strays);
        if strays.len() == strays.capacity() {
            strays.retain(|(_, one)| one.strong_count() != 0);
        }
        strays.push((of, one));
    }

    /// That thread ends.
    pub(crate) fn end_strays_of(&self, thread: u32) {
        let own: Vec<_> = lock(&self.strays)
            .extract_if(.., |(of, _)| *of == thread)
            .collect();
        for one in own.iter().filter_map(|(_, one)| one.upgrade()) {
            one.end();
        }
    }

    /// What is held stands in the list from now on: for who looks for what pends.
    pub(crate) fn list_held(&'static self) {
        self.list_held_if(|_| true);
    }

    fn list_held_if(&'static self, is_it: impl FnOnce(&Held) -> bool) {
        if !self.holds() {
            return;
        }
        let mut held = lock(&self.held);
        let gone = is_it(&held).then(|| self.let_go(&mut held)).flatten();
        drop(held);
        self.rest(gone);
    }

    fn holds(&self) -> bool {
        self.holds.load(Ordering::SeqCst) != 0
    }

    /// What is held stands in the list, at no moment in neither, unless it is over; the caller lets it rest
    /// ([`Reactor::rest`]), without the lock.
    #[must_use = "it is polled still"]
    fn let_go(&self, held: &mut Held) -> Option<Gone> {
        let read = held.read.take()?;
        let conn = read.conn().filter(|_| self.holds());
        if let Some(conn) = &conn {
            read.clone().is_listed();
            self.enter(conn, &read);
        }
        self.holds.store(0, Ordering::SeqCst);
        self.polls.store(false, Ordering::Relaxed);
        Some(Gone { read, conn })
    }

    /// Whoever sleeps listens for what is held, too; the caller stops to poll what this answers ([`Reactor::stop_polling`]), without
    /// the lock.
    #[must_use = "it is polled still"]
    fn listen_for(&self, held: &mut Held) -> Option<Arc<dyn Pending>> {
        let read = held.read.as_ref().filter(|_| self.holds())?;
        let conn = read.conn()?;
        // One link that two sessions of this process have attached has two bells.
        let is_its = |watched: &Arc<Watched>| Shared::is(&watched.link, conn.link());
        if !held.watched.as_ref().is_some_and(is_its) {
            let watched = self.watch(&conn, read);
            let before = held.watched.replace(watched);
            before.inspect(|before| self.has_one_less(before));
            // As long as it is listened to for what is held: not for good.
            self.note_idle_links();
        }
        let polls = self.polls.load(Ordering::Relaxed);
        self.polls.store(false, Ordering::Relaxed);
        polls.then(|| read.clone())
    }

    /// What is held rests at its bell from now on.
    fn stop_polling(&'static self, read: &Arc<dyn Pending>) {
        read.stop_polling();
        self.settle_with(read);
    }

    /// One that was let go is polled no more, and leaves the list if it has ended meanwhile.
    fn rest(&'static self, gone: Option<Gone>) {
        if let Some(Gone {
            read,
            conn: Some(conn),
        }) = gone
        {
            read.stop_polling();
            self.first_look(&conn, &read, false);
        }
    }

    /// Nothing is kept of what was polled and is over.
    pub(crate) fn forget_over(&self) {
        let over = {
            let mut held = lock(&self.held);
            held.read.take_if(|_| !self.holds())
        };
        drop(over);
    }

    /// What is held, if there is anything.
    fn held(&self) -> Option<Arc<dyn Pending>> {
        self.held_if(|_| true)
    }

    /// The same if it is polled.
    fn polled(&self) -> Option<Arc<dyn Pending>> {
        self.polls.load(Ordering::Relaxed).then(|| self.held())?
    }

    fn held_if(&self, is_it: impl FnOnce(&Held) -> bool) -> Option<Arc<dyn Pending>> {
        if !self.holds() {
            return None;
        }
        let held = lock(&self.held);
        is_it(&held).then(|| held.read.clone())?
    }

    /// Moves on what is held at a place. `true`: it is over.
    fn settle_held(&'static self, at: Place) -> bool {
        let read = self.held_if(|held| held.at == at);
        read.is_some_and(|read| self.poll(&read))
    }

    /// Moves on what is, or was, held, and what goes on by that.
    fn settle_with(&'static self, read: &Arc<dyn Pending>) -> bool {
        let others_pend = || self.count.load(Ordering::SeqCst) != 0;
        // Not every one that is over knows where it was.
        let conn = others_pend().then(|| read.conn()).flatten();
        let any = self.poll(read);
        if any
            && others_pend()
            && let Some(conn) = conn.or_else(|| read.conn())
        {
            self.settle(&conn);
        }
        any
    }

    /// Moves on what is, or was, held; `true`: something has changed. Without a lock: whoever is told of its end may begin
    /// another one.
    fn poll(&'static self, read: &Arc<dyn Pending>) -> bool {
        let was_polled = self.polls.load(Ordering::Relaxed);
        let rests = read.look();
        if rests == Some(Rest::AtTheBell) {
            return false;
        }
        let own = id(read);
        if rests.is_some() {
            let mut held = lock(&self.held);
            if self.holds.load(Ordering::SeqCst) != own {
                return false;
            }
            // It is not as it should be: as any other, then. That may be its end, too.
            let gone = self.let_go(&mut held);
            drop(held);
            self.rest(gone);
            return true;
        }
        // No other has its id while this is here. Whoever has put it into the list looks whether it is over.
        let was_held = self
            .holds
            .compare_exchange(own, 0, Ordering::SeqCst, Ordering::SeqCst);
        if was_held.is_err() {
            return true;
        }
        // Its bell may come later.
        if !was_polled && let Some(watched) = &lock(&self.held).watched {
            watched.was_early();
        }
        if !read.may_stay() {
            self.forget_over();
        }
        // It was worth it.
        let penalty = self.penalty.load(Ordering::Relaxed);
        if was_polled && penalty != UNPOLLED {
            self.penalty
                .store(UNPOLLED.max(penalty / 2), Ordering::Relaxed);
        }
        true
    }

    /// Waits for what is polled, for a moment and without being counted among the waiters: two programs that take turns are
    /// through before that would be done.
    fn wait_for_polled<T>(&'static self, ready: impl Fn() -> Option<T>) -> Option<T> {
        let read = self.polled()?;
        if !read.look_for_a_moment() {
            return None;
        }
        self.settle_with(&read);
        // For the loop, which takes the pump where nobody comes and goes.
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.wrapping_add(1), Ordering::Relaxed);
        ready()
    }

    /// Whoever pumps is about to sleep: what comes from now on is told by a bell.
    fn falls_asleep(&'static self) {
        let mut held = lock(&self.held);
        held.sleeps = true;
        let polled = self.listen_for(&mut held);
        drop(held);
        if let Some(read) = polled {
            self.stop_polling(&read);
        }
    }

    fn wakes_up(&self) {
        lock(&self.held).sleeps = false;
    }

    fn watch(&self, conn: &Arc<Conn>, operation: &Arc<dyn Pending>) -> Arc<Watched> {
        let link = conn.link();
        let mut links = lock(&self.links);
        links.last = Some(Arc::downgrade(operation));
        if let Some(watched) = links.of(link) {
            watched.one_more();
            return watched.clone();
        }
        let watched = Arc::new(Watched::new(link));
        watched.one_more();
        links.watched.insert(address(link), watched.clone());
        self.have_changed(&mut links);
        drop(links);
        // Who sleeps does not know this one's bell.
        self.alarm.ring();
        watched
    }

    fn unwatch(&self, watched: &Watched) {
        watched.was_early();
        self.has_one_less(watched);
    }

    fn has_one_less(&self, watched: &Watched) {
        if watched.one_less() {
            self.note_idle_links();
        }
    }

    /// They stay: something may pend there again in a moment.
    fn note_idle_links(&self) {
        if !self.has_idle_links.load(Ordering::SeqCst) {
            self.has_idle_links.store(true, Ordering::SeqCst);
        }
    }

    /// Links and places on which nothing has pended for a while are not kept any more.
    fn forget_idle_links(&self) {
        if !self.has_idle_links.swap(false, Ordering::SeqCst) {
            return;
        }
        let mut held = lock(&self.held);
        if self.holds() && held.watched.is_some() {
            // Until the next look, then.
            self.note_idle_links();
        } else if let Some(watched) = held.watched.take() {
            watched.one_less();
        }
        drop(held);
        let mut links = lock(&self.links);
        // Under the lock nothing begins to pend.
        let gone = links.watched.extract_if(|_, watched| watched.is_idle());
        if gone.map(|(_, watched)| watched.forget()).count() != 0 {
            links.recent = None;
            self.have_changed(&mut links);
        }
        drop(links);
        lock(&self.pended).retain(|_, entries| !entries.is_empty());
    }

    fn have_changed(&self, links: &mut Links) {
        links.all = None;
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether anything pends in this process.
    fn has_pending(&self) -> bool {
        self.count.load(Ordering::SeqCst) != 0 || self.holds()
    }

    /// How many operations pend on a connection in this process.
    pub(crate) fn pending_on(&self, conn: &Conn) -> usize {
        let at = place(conn);
        let held = self.held_if(|held| held.at == at);
        let listed = lock(&self.pended).get(&at).map_or(0, Vec::len);
        usize::from(held.is_some()) + listed
    }

    /// Moves on whatever pends on either end of a connection in this process (NP-IO-13).
    pub(crate) fn settle(&'static self, conn: &Conn) {
        self.settle_at(place(conn));
    }

    /// Whether something has completed. What is held was issued before any read that is listed there: it would not be polled
    /// otherwise, and what comes later puts it into the list.
    fn settle_at(&'static self, at: Place) -> bool {
        let mut any = self.settle_held(at);
        while self.count.load(Ordering::SeqCst) != 0 {
            let listed = self.listed.load(Ordering::SeqCst);
            if EMPTY.get() == Some((at, listed)) {
                break;
            }
            let places = lock(&self.pended);
            // Mostly there is one.
            let Some((first, more)) = places.get(&at).and_then(|entries| entries.split_first())
            else {
                EMPTY.set(Some((at, listed)));
                break;
            };
            let first = first.operation.clone();
            let more: Vec<_> = more.iter().map(|one| one.operation.clone()).collect();
            drop(places);
            let mut goes_on = false;
            for operation in std::iter::once(first).chain(more) {
                goes_on |= self.move_on(at, &operation);
            }
            any |= goes_on;
            // One that completes may make room for one before it: all of them once more, then.
            if !goes_on {
                break;
            }
        }
        any
    }

    /// `true`: it is over.
    fn move_on(&'static self, at: Place, operation: &Arc<dyn Pending>) -> bool {
        match operation.look() {
            None => {
                self.remove(at, operation);
                return true;
            }
            Some(Rest::AtTheBell) => {}
            Some(Rest::Soon | Rest::Look) => self.look_again(at),
        }
        false
    }

    fn remove(&self, at: Place, over: &Arc<dyn Pending>) {
        let mut places = lock(&self.pended);
        let Some(entries) = places.get_mut(&at) else {
            return;
        };
        let is_it = |entry: &Entry| std::ptr::addr_eq(&*entry.operation, Arc::as_ptr(over));
        // In their order. The place stays: something may pend there again in a moment.
        let gone = entries.iter().position(is_it).map(|at| entries.remove(at));
        drop(places);
        if let Some(entry) = gone {
            self.count.fetch_sub(1, Ordering::SeqCst);
            self.unwatch(&entry.watched);
        }
    }

    fn look_again(&self, at: Place) {
        let mut soon = lock(&self.soon);
        if !soon.contains(&at) {
            soon.push(at);
        }
        drop(soon);
        let time = sys::now() + nanoseconds(SOON);
        if self.soon_at.fetch_min(time, Ordering::SeqCst) == u64::MAX {
            // Whoever sleeps does so without this in mind.
            self.alarm.ring();
        }
    }

    /// Moves an operation on that is in shared memory; `room` is for what one without a buffer brings.
    pub(crate) fn advance(&self, started: &mut Started, room: &mut [u8]) -> Advanced {
        let mut rounds = 0;
        loop {
            if let Some(answer) = started.poll_into(room) {
                let [from, to] = self.slept.each_ref().map(|at| at.load(Ordering::Relaxed));
                // From when to when somebody slept for what is found now.
                started.was_waited_for(from, to);
                if started.is_polled() && started.was_rung_for() {
                    // Its bell comes later, and finds nothing.
                    let link = started.conn().link();
                    if let Some(watched) = lock(&self.links).of(link) {
                        watched.was_early();
                    }
                }
                return Advanced::Over(answer);
            }
            match started.rest() {
                // A peer may keep it so: not for ever.
                Rest::Look if rounds < MOST_LOOKS => rounds += 1,
                rest => return Advanced::Rests(rest),
            }
        }
    }

    /// Starts an operation, again while another call is in the middle of a long copy: NT knows no such refusal. One that
    /// finds 16 operations pending in its direction is refused as busy.
    pub(crate) fn insist<T>(
        &self,
        conn: &Conn,
        patience: Duration,
        mut start: impl FnMut() -> Result<T, npfs_ringbuf::Error>,
    ) -> Result<T, npfs_ringbuf::Error> {
        // Mostly at once: then nobody asks for the time.
        let mut begin = None;
        loop {
            match start() {
                Err(npfs_ringbuf::Error::Busy)
                    if self.pending_on(conn) < MOST_PENDED
                        && begin.get_or_insert_with(Instant::now).elapsed()
                            < patience_here(patience) =>
                {
                    thread::sleep(BETWEEN);
                }
                other => return other,
            }
        }
    }

    // ---- waiting -----------------------------------------------------------------------------------------------

    /// Something that a thread may wait for has changed. Either a waiter has seen what happened before this, or this sees
    /// the waiter.
    pub(crate) fn ring_alarm(&self) {
        let waiters = self.waiters.load(Ordering::SeqCst);
        // The only one may be this thread itself, in the middle of a turn: it looks after that.
        let is_own = || self.pumper.load(Ordering::Relaxed) == thread_serial();
        if waiters > 1 || waiters == 1 && !is_own() {
            self.alarm.ring();
        }
    }

    /// Something has completed, and can be seen: for whoever waits here, or at the process's descriptor.
    pub(crate) fn tell(&self) {
        // After what there is to see, and before the look at who waits, who looks in the other order.
        fence(Ordering::SeqCst);
        self.ring_alarm();
        notice::give();
    }

    /// Waits until `ready` says something, pumping if nobody else does. `None`: the deadline has passed.
    pub(crate) fn wait_until<T>(
        &'static self,
        deadline: Deadline,
        ready: impl Fn() -> Option<T>,
    ) -> Option<T> {
        if let Some(answer) = ready() {
            return Some(answer);
        }
        if !deadline.passed()
            && let Some(answer) = self.wait_for_polled(&ready)
        {
            return Some(answer);
        }
        let _waiting = Waiting::begin(self);
        let mut asked = false;
        loop {
            let seen = self.alarm.now();
            if let Some(answer) = ready() {
                return Some(answer);
            }
            let pump = self.try_pump();
            let goes_on = match &pump {
                Some(pump) => {
                    let _counted = Pumper::begin(&self.pumper);
                    with_sleeper(|own| self.turn(pump, own, seen, deadline, false))
                }
                None if !asked && self.stage.load(Ordering::SeqCst) == PUMPS => {
                    // The loop has it, perhaps asleep: it makes room, and rings.
                    asked = true;
                    self.alarm.ring();
                    true
                }
                None => self.alarm.wait(seen, deadline),
            };
            drop(pump);
            if !goes_on || deadline.passed() {
                // Something may have come at the last moment, and what somebody else is just moving on has.
                with_sleeper(|own| self.scan(own));
                let patience = Deadline::after(PATIENCE_AT_THE_END);
                while self.moving.load(Ordering::SeqCst) != 0 && !patience.passed() {
                    thread::yield_now();
                }
                return ready();
            }
        }
    }

    /// One round of the pump: what is ready is moved on; if nothing is, it sleeps until something may be. `false`: the
    /// deadline has passed. `steady`: the thread does little else.
    fn turn(
        &'static self,
        _pump: &Pumps<'_>,
        sleeper: &mut Sleeper,
        seen: u32,
        deadline: Deadline,
        steady: bool,
    ) -> bool {
        if self.scan(sleeper) {
            return true;
        }
        let came = self.came.load(Ordering::Relaxed);
        let held = self.held();
        let is_held = held.is_some();
        let last = held.or_else(|| lock(&self.links).last.as_ref()?.upgrade());
        let now = sys::now();
        sleeper.let_go(now);
        let active = || sleeper.active().iter().map(|active| &*active.watched);
        let heard = || active().filter(|watched| !watched.is_muted(now));
        let ready = || heard().any(|one| one.link.own_bell().is_ready()) || sleeper.has_news();
        let changed = || self.alarm.now() != seen || self.came.load(Ordering::Relaxed) != came;
        // Who is rung for nothing does not spin for more of it.
        let in_vain = active().any(|watched| watched.rings_in_vain(now));
        let conn = last.as_ref().and_then(|last| last.conn());
        if let (Some(last), Some(conn), false) = (&last, &conn, in_vain)
            && conn.spin_until(|| last.has_news() || ready() || changed())
        {
            let moved = match last.has_news() {
                true if is_held => self.settle_with(last),
                true => self.settle_at(place(conn)),
                false => true,
            };
            // What stays news although it has been looked at (a role that is held by a thread that is stopped, a peer that
            // scribbles) is waited for as anything else.
            if moved || !last.has_news() {
                return true;
            }
        }
        if self.has_idle_links.load(Ordering::Relaxed)
            && now.saturating_sub(self.forgot_at.load(Ordering::Relaxed)) > nanoseconds(KEEP)
        {
            // Clients come and go: their links do not stay for that.
            self.forgot_at.store(now, Ordering::Relaxed);
            self.forget_idle_links();
            return true;
        }
        let soon = self.soon_at.load(Ordering::SeqCst);
        // What completes from here on is told to this thread, too.
        self.pumper.store(0, Ordering::Relaxed);
        self.falls_asleep();
        sleeper.sleep(now, &self.alarm, seen, deadline, soon, steady);
        self.wakes_up();
        self.slept[0].store(now, Ordering::Relaxed);
        self.slept[1].store(sys::now(), Ordering::Relaxed);
        !deadline.passed()
    }

    /// Takes what is ready and moves it on. `false`: nothing was.
    fn scan(&'static self, sleeper: &mut Sleeper) -> bool {
        if sleeper.version != self.version.load(Ordering::SeqCst) {
            let mut links = lock(&self.links);
            let (all, version) = (links.all(), self.version.load(Ordering::SeqCst));
            drop(links);
            sleeper.follow(version, &all);
        }
        sleeper.collect();
        // No bell tells of one that is polled.
        let polled = self.polled().filter(|read| read.has_news());
        let mut any = polled.is_some_and(|read| self.settle_with(&read));
        let mut slots = sleeper.slots();
        for active in sleeper.active() {
            let watched = &active.watched;
            let bell = watched.link.own_bell();
            if !bell.is_ready() || watched.was_muted() && watched.is_muted(sys::now()) {
                active.quiet.set(active.quiet.get().saturating_add(1));
                continue;
            }
            active.quiet.set(0);
            let moves = Moves::begin(&self.moving);
            bell.take(|slot| slots.push(slot));
            let place = |slot| place_of(&watched.link, slot);
            let settled = slots.drain(..).map(|slot| self.settle_at(place(slot)));
            let is_vain = settled.filter(|settled| *settled).count() == 0;
            drop(moves);
            if is_vain {
                watched.was_vain(sys::now());
            } else {
                watched.was_right();
            }
            any = true;
        }
        sleeper.keep(slots);
        let soon_at = self.soon_at.load(Ordering::SeqCst);
        if soon_at != u64::MAX && soon_at <= sys::now() {
            self.soon_at.store(u64::MAX, Ordering::SeqCst);
            // Not while they are locked: what is still held up comes back into the list.
            let places = std::mem::take(&mut *lock(&self.soon));
            for at in places {
                self.settle_at(at);
            }
            any = true;
        }
        any
    }

    // ---- the loop ----------------------------------------------------------------------------------------------

    /// Something pends: the loop is there, and awake enough to see to it.
    fn see_to_the_loop(&'static self) {
        if self.has_loop()
            && self.stage.load(Ordering::SeqCst) == SLEEPS
            && self.waiters.load(Ordering::SeqCst) == 0
        {
            self.wakes_the_loop.ring();
        }
    }

    /// Something stands in line for the loop: whoever has its work hears of it.
    pub(crate) fn has_jobs(&'static self) {
        if !self.has_loop() || self.stage.load(Ordering::SeqCst) == PUMPS {
            self.alarm.ring();
        } else {
            self.wakes_the_loop.ring();
        }
    }

    /// Begins the loop if it does not run. `false`: the host does its work, or nobody.
    fn has_loop(&'static self) -> bool {
        if self.is_hosted() {
            return false;
        }
        if self.has_loop.load(Ordering::SeqCst) || self.has_loop.swap(true, Ordering::SeqCst) {
            return true;
        }
        let begun = sys::without_signals(|| {
            thread::Builder::new()
                .name("npfs-loop".to_owned())
                .stack_size(STACK)
                .spawn(|| self.run())
        });
        if let Err(error) = begun {
            // Calls and waits move on what pends as they come.
            tracing::warn!("no event loop: {error}");
            self.has_loop.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    fn run(&'static self) {
        loop {
            self.stand_by();
            if self.is_hosted() {
                // It takes the work along, and does not give it back.
                self.alarm.ring();
                return;
            }
            // Not while it pumps: they may take their time.
            jobs::run_the_line();
            if let Some(pump) = self.try_pump() {
                self.stage.store(PUMPS, Ordering::SeqCst);
                while self.is_the_loops() {
                    let seen = self.alarm.now();
                    // A waiter that came before this is seen here, and so is what stands in line; who comes later finds
                    // `PUMPS`, and rings.
                    if self.is_the_loops() {
                        let turn = || {
                            with_sleeper(|own| self.turn(&pump, own, seen, Deadline::NEVER, true));
                        };
                        // What is not ours is called there, too: a host's memory.
                        jobs::shielded(turn);
                    }
                }
                self.stage.store(STANDS_BY, Ordering::SeqCst);
                drop(pump);
                // Who found it held may have it now.
                self.ring_alarm();
            }
        }
    }

    /// Something pends and nobody waits, and nothing else has to be done before.
    fn is_the_loops(&self) -> bool {
        self.waiters.load(Ordering::SeqCst) == 0 && self.has_pending() && !self.is_called_away()
    }

    /// There is something to do for the loop that is not pumping.
    fn is_called_away(&self) -> bool {
        jobs::are_in_line() || self.is_hosted()
    }

    /// Until something pends that nobody waits for.
    fn stand_by(&self) {
        let mut left = self.left.load(Ordering::SeqCst);
        loop {
            let seen = self.wakes_the_loop.now();
            if self.is_called_away() {
                return;
            }
            let now = self.left.load(Ordering::SeqCst);
            let calm = now == std::mem::replace(&mut left, now);
            if !calm {
                self.stage.store(STANDS_BY, Ordering::SeqCst);
                self.wakes_the_loop.wait(seen, Deadline::after(STANDBY));
                continue;
            }
            if self.is_the_loops() {
                return;
            }
            self.forget_idle_links();
            // Whoever leaves, or adds, after this finds it asleep, and rings; who did before is seen here.
            self.stage.store(SLEEPS, Ordering::SeqCst);
            if !self.is_the_loops()
                && !self.is_called_away()
                && self.left.load(Ordering::SeqCst) == left
            {
                self.wakes_the_loop.wait(seen, Deadline::NEVER);
            }
        }
    }

    // ---- the loop's work on a thread of the host's -------------------------------------------------------------

    /// From now on.
    pub(crate) fn is_hosted_now(&self) {
        self.hosted.store(true, Ordering::SeqCst);
        self.wakes_the_loop.ring();
        self.alarm.ring();
    }

    pub(crate) fn is_hosted(&self) -> bool {
        self.hosted.load(Ordering::SeqCst)
    }

    /// Ends the wait of the host's thread.
    pub(crate) fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.alarm.ring();
    }

    /// Sleeps until there may be something to do. `false`: the deadline has passed.
    pub(crate) fn pump_wait(&'static self, deadline: Deadline) -> bool {
        loop {
            let seen = self.alarm.now();
            if self.kicked.swap(false, Ordering::SeqCst) || jobs::are_in_line() {
                return true;
            }
            if let Some(pump) = self.try_pump() {
                let did = with_sleeper(|own| self.turn(&pump, own, seen, deadline, true));
                drop(pump);
                // A waiter that found it held may have it now.
                self.ring_alarm();
                return did;
            }
            // Somebody who waits pumps meanwhile.
            if !self.alarm.wait(seen, deadline) {
                return false;
            }
        }
    }

    /// Moves on what is ready. `false`: nothing was.
    pub(crate) fn pump_run(&'static self) -> bool {
        with_sleeper(|own| self.scan(own))
    }
}

/// Counted among the waiters, however the wait ends.
struct Waiting<'r>(&'r Reactor);

impl Waiting<'_> {
    fn begin(reactor: &Reactor) -> Waiting<'_> {
        reactor.waiters.fetch_add(1, Ordering::SeqCst);
        Waiting(reactor)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let reactor = self.0;
        if reactor.waiters.fetch_sub(1, Ordering::SeqCst) != 1 {
            // Another one is to pump now.
            reactor.alarm.ring();
            return;
        }
        reactor.left.fetch_add(1, Ordering::SeqCst);
        if reactor.is_hosted() {
            reactor.alarm.ring();
        }
        if reactor.stage.load(Ordering::SeqCst) == SLEEPS && reactor.has_pending() {
            reactor.wakes_the_loop.ring();
        }
    }
}

fn patience_here(patience: Duration) -> Duration {
    if jobs::must_not_wait() {
        MOMENT
    } else {
        patience
    }
}

fn address(link: &Shared<Link>) -> usize {
    Shared::address(link)
}

/// Places by tokens, which are random numbers of the broker's, and slots.
#[derive(Default)]
struct PlaceHasher(u64);

impl Hasher for PlaceHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        // Odd, and without a pattern: the golden ratio.
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// What pends at each place, in the order of its issue.
type Places = HashMap<Place, Vec<Entry>, BuildHasherDefault<PlaceHasher>>;

/// Operations that pend in one direction.
const MOST_PENDED: usize = 16;
/// Rounds of one look at an operation that has something new each time.
const MOST_LOOKS: u32 = 64;
/// How long somebody may copy before a call of NT's gives up on them.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// The same of a call that was made so as not to wait: no copy of an honest peer takes so long.
pub(crate) const MOMENT: Duration = Duration::from_millis(50);
const BETWEEN: Duration = Duration::from_micros(100);
const STACK: usize = 256 << 10;
/// Looks of a moment, each with a lock: some 2 us.
const LOOKS: u32 = 64;
/// Reads that are not polled after one that was and got no answer; and after many such.
const UNPOLLED: u32 = 64;
const MOST_UNPOLLED: u32 = 1 << 16;
/// When a place where somebody copies is looked at again.
const SOON: Duration = Duration::from_millis(1);
/// How long a wait that is over gives others to finish what they are at.
const PATIENCE_AT_THE_END: Duration = Duration::from_millis(20);
/// How long a link is kept on which nothing pends, while others are busy.
const KEEP: Duration = Duration::from_millis(50);
/// How long the loop stands by after a waiter has left.
const STANDBY: Duration = Duration::from_millis(5);

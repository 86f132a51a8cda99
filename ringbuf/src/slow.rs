//! What a server needs that is a slow endpoint of the connections it serves: one thread that everybody waits for, and that
//! therefore waits for nobody.
//!
//! A call of its that finds a role held answers [`Error::Busy`](crate::Error::Busy): whoever has it may be stopped. The server
//! announces itself in the role's word like any sleeper (`Role::announce`), and lets something else sleep there in its place,
//! an io_uring(7) or a thread: who gives the role back, closes the connection, or sweeps it wakes that. So nobody pays for the
//! server but who finds it waiting.

use crate::{
    Alarm, Conn, End, Link, Shared, futex,
    layout::RECORDS,
    queue::Queue,
    role::Role,
    sync::{AtomicU32, Ordering},
};

/// A word of a link to wait at, by whatever means: until it is rung, or is something else than it was.
#[derive(Clone, Debug)]
pub struct Spot {
    link: Shared<Link>,
    place: Place,
    value: u32,
}

/// Which word: of a slot, by the end that reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Bell,
    Producer(u32, End),
    Consumer(u32, End),
    Room(u32, End),
}

/// What may stand in the way of one call: a role or two, and a table that is full.
pub type Obstacles = [Option<Spot>; 3];

impl Spot {
    /// The bell of this process, armed. `None`: a slot is ready already.
    #[must_use]
    pub fn at_own_bell(link: &Shared<Link>) -> Option<Spot> {
        link.own_bell().arm().map(|value| Spot {
            link: link.clone(),
            place: Place::Bell,
            value,
        })
    }

    fn word(&self) -> &AtomicU32 {
        let queue = |slot, reader: End| {
            let [of_client, of_server] = &self.link.region().slot(slot).queues;
            match reader {
                End::Client => of_client,
                End::Server => of_server,
            }
        };
        match self.place {
            Place::Bell => self.link.own_bell().word(),
            Place::Producer(slot, reader) => &queue(slot, reader).back.0.role,
            Place::Consumer(slot, reader) => &queue(slot, reader).front.0.role,
            Place::Room(slot, reader) => &queue(slot, reader).table.0.room,
        }
    }

    /// Its address: a shared futex of 32 bits, mapped as long as this lives.
    #[must_use]
    pub fn futex(&self) -> *const u32 {
        self.word().as_ptr()
    }

    /// What it was.
    #[must_use]
    pub fn value(&self) -> u32 {
        self.value
    }

    /// Whether it is something else by now. A bell's never is again what it was; any other's may be.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.word().load(Ordering::SeqCst) != self.value
    }

    /// Whether it is a bell.
    #[must_use]
    pub fn is_bell(&self) -> bool {
        self.place == Place::Bell
    }

    /// Which of its connection's words it is, below 6; a bell is 6.
    #[must_use]
    pub fn number(&self) -> u8 {
        let (kind, reader) = match self.place {
            Place::Producer(_, reader) => (0, reader),
            Place::Consumer(_, reader) => (2, reader),
            Place::Room(_, reader) => (4, reader),
            Place::Bell => return 6,
        };
        match reader {
            End::Client => kind,
            End::Server => kind + 1,
        }
    }
}

/// Spots that one call can sleep at.
pub const MOST_SPOTS: usize = futex::MOST_WORDS - 1;

/// Sleeps until a spot is rung or another than it was, or the alarm has rung since `seen`; or for a moment only, if it is to be
/// so (`briefly`, for who has more than [`MOST_SPOTS`], the number of those that are looked at), and where there is no
/// futex_waitv(2). `true`: one that is no bell was rung, perhaps all of those: to be told by looking is only whether a bell was.
#[must_use]
pub fn wait_at_spots<'s>(
    spots: impl Iterator<Item = &'s Spot> + Clone,
    alarm: &Alarm,
    seen: u32,
    briefly: bool,
) -> bool {
    let spots = spots.take(MOST_SPOTS);
    let bells = spots.clone().filter(|spot| spot.is_bell());
    let listed = bells.clone().count();
    // The kernel tells of the last that was rung.
    let all = bells.chain(spots.filter(|spot| !spot.is_bell()));
    let _asleep = alarm.fall_asleep();
    let words = all.map(|spot| (spot.word(), spot.value));
    let rung = futex::wait_for_a_ring(words, alarm.word(), seen, briefly);
    rung.is_some_and(|which| which >= listed)
}

impl Conn {
    /// Takes back roles of this connection that are held in the name of this process: for one whose only thread holds none
    /// between its calls. A peer has written that, and nobody else would ever take them back.
    pub fn reclaim(&self) {
        let mut any = false;
        for queue in [self.incoming(), self.outgoing()] {
            for role in [queue.producer(), queue.consumer()] {
                if role.sweep(self.link().process(), None) {
                    futex::wake(role.word);
                    any = true;
                }
            }
        }
        if any {
            // What pends has left its work to whoever was believed to be there.
            for queue in [self.incoming(), self.outgoing()] {
                for index in queue.attention().each_record() {
                    queue.record(index).kick();
                }
            }
            self.link().own_bell().ring(self.slot());
        }
    }

    /// What stands in the way of a read, a peek or a flush of the peer that has answered [`Error::Busy`](crate::Error::Busy):
    /// announced there, so that whoever goes out of the way rings. None: it is out of the way by now.
    #[must_use]
    pub fn read_obstacles(&self) -> Obstacles {
        let (queue, reader) = (self.incoming(), self.end());
        let consumer = self.obstacle(&queue.consumer(), Place::Consumer(self.slot(), reader));
        [None, consumer, self.full_table(&queue, reader)]
    }

    /// The same for a write, or a flush.
    #[must_use]
    pub fn write_obstacles(&self) -> Obstacles {
        let (queue, reader) = (self.outgoing(), self.end().other());
        let slot = self.slot();
        [
            self.obstacle(&queue.producer(), Place::Producer(slot, reader)),
            self.obstacle(&queue.consumer(), Place::Consumer(slot, reader)),
            self.full_table(&queue, reader),
        ]
    }

    fn spot(&self, place: Place, value: u32) -> Spot {
        Spot {
            link: self.link().clone(),
            place,
            value,
        }
    }

    fn obstacle(&self, role: &Role<'_>, place: Place) -> Option<Spot> {
        // Who looks free may not be so for long: no announcement, which would make the next one who has it wake somebody.
        if role.is_free() {
            return None;
        }
        role.announce().map(|value| self.spot(place, value))
    }

    fn full_table(&self, queue: &Queue<'_>, reader: End) -> Option<Spot> {
        let is_full = || queue.attention().records().count_ones() as usize == RECORDS;
        if !is_full() {
            return None;
        }
        let value = queue.await_record();
        // Announced: a record that becomes free from here on changes the word.
        is_full().then(|| self.spot(Place::Room(self.slot(), reader), value))
    }

    /// What has passed in one direction since the connection was made. Racy: both sides may be at work.
    #[must_use]
    pub fn totals(&self, reader: End) -> Totals {
        let queue = if reader == self.end() {
            self.incoming()
        } else {
            self.outgoing()
        };
        let (back, front) = (queue.back_snapshot(), queue.front_snapshot());
        Totals {
            bytes_written: back.bytes,
            bytes_read: front.bytes,
            messages_written: back.messages,
            messages_read: front.messages,
        }
    }
}

/// Counts of one direction ([`Conn::totals`]), as its two sides keep them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes ever written.
    pub bytes_written: u64,
    /// Bytes of those that reads have taken.
    pub bytes_read: u64,
    /// Messages (writes, on a byte pipe) ever begun, modulo 2^32.
    pub messages_written: u32,
    /// Messages ever read to their end, modulo 2^32.
    pub messages_read: u32,
}

// Miri has no memfd_create(2).
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::{
        Error, PipeType, ProcessIndex, Started,
        books::*,
        role::{Owner, Taken},
    };
    use std::{
        sync::Arc,
        thread,
        time::{Duration, Instant},
    };

    /// Books, the server end of a connection as an unwaiting process has it, and the process of the client end.
    fn served() -> (LinkBooks, Arc<Conn>, ProcessIndex) {
        let mut books = LinkBooks::create(&LinkConfig::default()).expect("a link");
        let me = books.add_process(None).expect("a process");
        let peer = books.add_process(None).expect("another");
        let fd = books.share().expect("a duplicate");
        let link = Link::attach_in_a_hurry(fd, me).expect("attached");
        let spec = ConnSpec::new(PipeType::Message, 100);
        let (_, server, _) = books.connect(&spec, me, peer).expect("a connection");
        let conn = Conn::open(&link, &server).expect("open");
        (books, Arc::new(conn), peer)
    }

    fn count(spots: &Obstacles) -> usize {
        spots.iter().flatten().count()
    }

    /// Sleeps until a spot is rung.
    fn asleep(spots: Obstacles) -> thread::JoinHandle<bool> {
        let sleeper = thread::spawn(move || {
            let alarm = Alarm::new();
            let spots = spots.iter().flatten();
            let rung = wait_at_spots(spots.clone(), &alarm, alarm.now(), false);
            assert!(spots.clone().any(Spot::has_changed));
            rung
        });
        thread::sleep(Duration::from_millis(30));
        assert!(!sleeper.is_finished(), "nothing has happened yet");
        sleeper
    }

    fn woken(sleeper: thread::JoinHandle<bool>) -> bool {
        let patience = Instant::now() + Duration::from_secs(20);
        while !sleeper.is_finished() {
            assert!(Instant::now() < patience, "nobody wakes it");
            thread::sleep(Duration::from_millis(1));
        }
        sleeper.join().expect("no panic")
    }

    #[test]
    fn who_is_in_a_hurry_is_told_when_the_way_is_free() {
        let (_books, conn, peer) = served();
        let role = conn.incoming().consumer();
        assert_eq!(conn.link().looks(10_000), 1);
        assert_eq!(count(&conn.read_obstacles()), 0);
        let owner = Owner::new(peer, 1);
        assert_eq!(role.try_take(owner), Taken::Clean);
        assert_eq!(conn.peek(&mut []), Err(Error::Busy));
        assert_eq!(conn.try_read(&mut []), Err(Error::Busy));
        let spots = conn.read_obstacles();
        assert_eq!(count(&spots), 1);
        assert_eq!(count(&conn.write_obstacles()), 0, "another direction");
        let sleeper = asleep(spots);
        if role.give_back(owner, true) {
            futex::wake(role.word);
        }
        assert!(woken(sleeper));
        assert_eq!(conn.try_read(&mut []), Err(Error::WouldBlock));
    }

    /// A process gives a role back and dies before it wakes who sleeps there.
    #[test]
    fn a_wake_that_was_owed_is_given_by_who_buries() {
        for write in [false, true] {
            let (mut books, conn, peer) = served();
            let (role, spots) = if write {
                (
                    conn.outgoing().producer(),
                    Conn::write_obstacles as fn(&Conn) -> _,
                )
            } else {
                (
                    conn.incoming().consumer(),
                    Conn::read_obstacles as fn(&Conn) -> _,
                )
            };
            let owner = Owner::new(peer, 1);
            assert_eq!(role.try_take(owner), Taken::Clean);
            let sleeper = asleep(spots(&conn));
            assert!(role.give_back(owner, true), "it owes a wake");
            books.bury(peer);
            assert!(woken(sleeper));
        }
    }

    /// A peer that scribbles does not leave the other one's end busy for ever, not even after its death.
    #[test]
    fn a_role_that_is_held_in_the_name_of_the_unwaiting_is_taken_back() {
        for others_too in [false, true] {
            let (mut books, conn, peer) = served();
            let me = conn.link().process();
            let mut read = Started::read(&conn, vec![0; 8].into()).expect("a read");
            for role in [conn.incoming().consumer(), conn.outgoing().producer()] {
                let owner = Owner::new(
                    me,
                    if others_too {
                        0x1234
                    } else {
                        crate::thread_serial()
                    },
                );
                role.word.store(owner.raw(), Ordering::SeqCst);
            }
            books.bury(peer);
            assert_eq!(conn.try_read(&mut [0; 1]), Err(Error::Busy));
            assert_eq!(read.poll(), None);
            conn.reclaim();
            assert_eq!(read.poll(), Some(Err(Error::Broken)));
            assert_eq!(conn.try_read(&mut [0; 1]), Err(Error::Broken));
            assert_eq!(conn.try_write(&[1]), Err(Error::Closing));
        }
    }

    #[test]
    fn the_watcher_is_rung_when_an_end_becomes_signalled_and_not_before() {
        let (_books, conn, _) = served();
        let bell = conn.link().own_bell();
        assert!(conn.is_signaled(), "NP-IO-04");
        conn.unsignal();
        conn.signal();
        assert!(!bell.is_ready(), "nobody watches");
        conn.watch(true);
        conn.signal();
        assert!(!bell.is_ready(), "it was signalled already");
        conn.unsignal();
        assert!(!conn.is_signaled() && !bell.is_ready());
        conn.signal();
        assert!(conn.is_signaled() && bell.is_ready());
        let mut slots = Vec::new();
        bell.take(|slot| slots.push(slot));
        assert_eq!(slots, [conn.slot()]);
        conn.watch(false);
        conn.unsignal();
        conn.signal();
        assert!(!bell.is_ready(), "nobody watches any more");
    }

    #[test]
    fn np_xcv_04_beyond_the_quota_a_write_waits_for_nothing() {
        let (_books, conn, _) = served();
        assert_eq!(conn.try_write(&[1; 100]), Ok(100));
        assert_eq!(conn.try_write(&[2; 100]), Err(Error::WouldBlock));
        assert_eq!(conn.try_write_beyond_quota(&[3; 100]), Ok(100));
        let totals = conn.totals(End::Client);
        assert_eq!((totals.bytes_written, totals.messages_written), (200, 2));
        assert_eq!((totals.bytes_read, totals.messages_read), (0, 0));
    }
}

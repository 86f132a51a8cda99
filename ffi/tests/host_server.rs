//! The server's side of the host level, as a host calls it: with clients in this process, and with real ones that stop, die and
//! hammer.
//!
//! The clients are handles of the data path itself, opened by what the exports say of an end.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    env,
    ffi::{c_int, c_void},
    io::{BufRead, BufReader, Write},
    os::fd::{FromRawFd, OwnedFd},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio, id as own_pid},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use npfs_ffi::host::{server::*, types::*};
use npfs_ringbuf::{
    Answer, Conn, Deadline, Error, Grant, Link, ProcessIndex, Read, Rest, Started, Wait,
    fault::{self, Action, Point},
    thread_serial,
};

const CLIENT: u32 = NPFS_HOST_CLIENT;
const SERVER: u32 = NPFS_HOST_SERVER;
const QUOTA: u32 = 1000;
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for what must not happen.
const A_WHILE: Duration = Duration::from_millis(60);

// ---- the host --------------------------------------------------------------------------------------------------------

/// A server, and what its callbacks have been told.
struct Host {
    srv: Cell<*mut npfs_srv>,
    fd: c_int,
    slabs: Vec<*mut npfs_srv_slab>,
    /// What nobody has asked for yet.
    heard: RefCell<News>,
}

/// Checks a status.
#[track_caller]
fn ok(status: npfs_host_status) {
    assert_eq!(status, NPFS_HOST_OK);
}

impl Host {
    fn new() -> Host {
        Host::with(&npfs_srv_config {
            // Many of them at once, on small machines.
            link_size: 64 << 20,
            link_slots: 16,
            reserved: 0,
        })
    }

    fn with(config: &npfs_srv_config) -> Host {
        let (mut srv, mut fd) = (ptr::null_mut(), -1);
        // SAFETY: all three point to locals.
        ok(unsafe { npfs_srv_init(config, &raw mut srv, &raw mut fd) });
        Host {
            srv: Cell::new(srv),
            fd,
            slabs: Vec::new(),
            heard: RefCell::default(),
        }
    }

    fn slab(&mut self, one: u32, other: u32) -> *mut npfs_srv_slab {
        let mut slab = ptr::null_mut();
        // SAFETY: the server lives, and `slab` is a local.
        ok(unsafe { npfs_srv_slab_get(self.srv.get(), one, other, &raw mut slab) });
        self.slabs.push(slab);
        slab
    }

    /// Of a slab with this process, which is given back.
    fn slab_status(&self, pid: u32) -> npfs_host_status {
        let mut slab = ptr::null_mut();
        // SAFETY: the server lives, and `slab` is a local; it is given once, and put once.
        unsafe {
            let status = npfs_srv_slab_get(self.srv.get(), own_pid(), pid, &raw mut slab);
            ok(npfs_srv_slab_put(slab));
            status
        }
    }

    /// A connection of messages between this process and itself.
    fn conn(&mut self) -> Pipe {
        self.conn_of(&Pipe::options())
    }

    fn conn_of(&mut self, options: &npfs_srv_conn_options) -> Pipe {
        let slab = self.slab(own_pid(), own_pid());
        Pipe::new(slab, options)
    }

    fn is_readable(&self, for_at_most: Duration) -> bool {
        let mut poll = libc::pollfd {
            fd: self.fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let milliseconds = c_int::try_from(for_at_most.as_millis()).expect("short");
        // SAFETY: one pollfd.
        let got = unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
        assert!(got >= 0, "poll: {}", std::io::Error::last_os_error());
        got == 1
    }

    fn doorbell(&self) -> News {
        let mut news = News::new();
        // SAFETY: the callback takes what it is given a pointer to.
        ok(unsafe { npfs_srv_doorbell(self.srv.get(), Some(tell), (&raw mut news).cast()) });
        news
    }

    /// Polls as a loop does, until there is news of that cookie; the others' is kept.
    #[track_caller]
    fn hear(&self, cookie: u64) -> u32 {
        let start = Instant::now();
        let mut heard = self.heard.borrow_mut();
        while start.elapsed() < PATIENCE {
            if let Some(events) = heard.remove(&cookie) {
                return events;
            }
            assert!(self.is_readable(PATIENCE), "no news of {cookie}; {heard:?}");
            add(&mut heard, self.doorbell());
        }
        panic!("news without end, and none of {cookie}: {heard:?}");
    }

    /// What there is to be heard within a while.
    fn hear_all(&self) -> News {
        let start = Instant::now();
        let mut heard = self.heard.take();
        while start.elapsed() < A_WHILE {
            if self.is_readable(A_WHILE / 2) {
                add(&mut heard, self.doorbell());
            }
        }
        heard
    }
}

fn add(all: &mut News, news: News) {
    for (cookie, events) in news {
        *all.entry(cookie).or_default() |= events;
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for slab in self.slabs.drain(..) {
            // SAFETY: given once, put once.
            ok(unsafe { npfs_srv_slab_put(slab) });
        }
        // SAFETY: it is not used any more.
        ok(unsafe { npfs_srv_end(self.srv.get()) });
    }
}

/// By cookie.
type News = HashMap<u64, u32>;

unsafe extern "C" fn tell(context: *mut c_void, cookie: u64, events: u32) {
    // SAFETY: `Host::doorbell` gives it.
    let news = unsafe { &mut *context.cast::<News>() };
    *news.entry(cookie).or_default() |= events;
}

/// A connection as the server has it.
struct Pipe(*mut npfs_srv_conn);

/// What a read, a write or a ticket came to.
type Did = Result<(npfs_host_status, Vec<u8>), npfs_host_status>;

fn did(status: npfs_host_status, bytes: Vec<u8>) -> Did {
    if matches!(status, NPFS_HOST_OK | NPFS_HOST_MORE_DATA) {
        Ok((status, bytes))
    } else {
        Err(status)
    }
}

impl Pipe {
    fn options() -> npfs_srv_conn_options {
        let both = NPFS_SRV_READ_DATA | NPFS_SRV_WRITE_DATA;
        npfs_srv_conn_options {
            server_pid: own_pid(),
            flags: NPFS_SRV_MESSAGES,
            quota: [QUOTA; 2],
            access: [both; 2],
            modes: [NPFS_HOST_MODE_MESSAGE; 2],
            cookie: [100, 101],
        }
    }

    fn new(slab: *mut npfs_srv_slab, options: &npfs_srv_conn_options) -> Pipe {
        Pipe::try_new(slab, options).expect("a connection")
    }

    fn try_new(
        slab: *mut npfs_srv_slab,
        options: &npfs_srv_conn_options,
    ) -> Result<Pipe, npfs_host_status> {
        let mut conn = ptr::null_mut();
        // SAFETY: the slab is held, and the others are locals.
        match unsafe { npfs_srv_conn_create(slab, options, &raw mut conn) } {
            NPFS_HOST_OK => Ok(Pipe(conn)),
            status => Err(status),
        }
    }

    /// What `pid` is told of an end, with the link's descriptor.
    fn export(&self, side: u32, pid: u32) -> Result<(npfs_host_end, OwnedFd), npfs_host_status> {
        let mut end = npfs_host_end {
            link: [0; 2],
            process: 0,
            side: 9,
            grant: [0; NPFS_HOST_GRANT_SIZE],
        };
        let mut fd = -1;
        // SAFETY: the connection lives, and the others are locals.
        let status =
            unsafe { npfs_srv_conn_export(self.0, side, pid, 0, &raw mut end, &raw mut fd) };
        match status {
            NPFS_HOST_OK => {
                assert_eq!(end.side, side);
                // SAFETY: it is ours now.
                Ok((end, unsafe { OwnedFd::from_raw_fd(fd) }))
            }
            status => Err(status),
        }
    }

    /// An end as this process has it, like any client.
    fn client(&self, side: u32) -> Arc<Conn> {
        let (end, fd) = self.export(side, own_pid()).expect("exported");
        attach(&end, fd)
    }

    fn read(&self, side: u32, len: u32) -> Did {
        let mut buf = vec![0; len as usize];
        let mut count = 0;
        let to = buf.as_mut_ptr().cast();
        // SAFETY: `len` bytes, and a local.
        let status = unsafe { npfs_srv_try_read(self.0, side, to, len, &raw mut count) };
        buf.truncate(count as usize);
        did(status, buf)
    }

    fn write(&self, side: u32, data: &[u8]) -> Result<u32, npfs_host_status> {
        self.write_with(side, data, 0)
    }

    fn write_with(&self, side: u32, data: &[u8], flags: u32) -> Result<u32, npfs_host_status> {
        let mut count = 0;
        let len = u32::try_from(data.len()).expect("short");
        let from = data.as_ptr().cast();
        // SAFETY: `len` bytes, and a local.
        match unsafe { npfs_srv_try_write(self.0, side, from, len, flags, &raw mut count) } {
            NPFS_HOST_OK => Ok(count),
            status => Err(status),
        }
    }

    fn peek(&self, side: u32, len: u32) -> Result<(npfs_host_info, Vec<u8>), npfs_host_status> {
        let (mut info, mut buf) = (npfs_host_info::default(), vec![0; len as usize]);
        let to = buf.as_mut_ptr().cast();
        // SAFETY: `len` bytes, and a local.
        match unsafe { npfs_srv_peek(self.0, side, to, len, &raw mut info) } {
            NPFS_HOST_OK | NPFS_HOST_MORE_DATA => {
                buf.truncate(info.copied as usize);
                Ok((info, buf))
            }
            status => Err(status),
        }
    }

    fn query(&self, side: u32) -> Result<npfs_host_info, npfs_host_status> {
        let mut info = npfs_host_info::default();
        // SAFETY: the connection lives, and a local.
        match unsafe { npfs_srv_query(self.0, side, &raw mut info) } {
            NPFS_HOST_OK => Ok(info),
            status => Err(status),
        }
    }

    fn set_state(&self, side: u32, state: u32) -> npfs_host_status {
        // SAFETY: the connection lives.
        unsafe { npfs_srv_set_state(self.0, side, state) }
    }

    fn set_flags(&self, side: u32, flags: u32) -> npfs_host_status {
        // SAFETY: the connection lives.
        unsafe { npfs_srv_set_flags(self.0, side, flags) }
    }

    fn watch(&self, side: u32, on: bool) {
        // SAFETY: the connection lives.
        ok(unsafe { npfs_srv_watch(self.0, side, on.into()) });
    }

    fn is_signaled(&self, side: u32) -> bool {
        let mut signaled = 9;
        // SAFETY: the connection lives, and a local.
        ok(unsafe { npfs_srv_signaled(self.0, side, &raw mut signaled) });
        assert!(signaled < 2);
        signaled == 1
    }

    fn stats(&self) -> npfs_srv_counts {
        let mut stats = npfs_srv_counts::default();
        // SAFETY: the connection lives, and a local.
        ok(unsafe { npfs_srv_stats(self.0, &raw mut stats) });
        stats
    }

    fn release(&self, side: u32, pid: u32) -> npfs_host_status {
        // SAFETY: the connection lives.
        unsafe { npfs_srv_conn_release(self.0, side, pid) }
    }

    /// A ticket, whether it has its answer or not.
    fn ticket(
        &self,
        side: u32,
        direction: u32,
        data: Option<&[u8]>,
        len: u32,
        cookie: u64,
    ) -> Result<(Ticket, npfs_host_status), npfs_host_status> {
        let mut ticket = ptr::null_mut();
        let (from, len) = match data {
            Some(data) => (
                data.as_ptr().cast(),
                u32::try_from(data.len()).expect("short"),
            ),
            None => (ptr::null(), len),
        };
        // SAFETY: so many bytes, and a local.
        let status = unsafe {
            npfs_srv_ticket_add(self.0, side, direction, from, len, cookie, &raw mut ticket)
        };
        match status {
            NPFS_HOST_OK | NPFS_HOST_PENDING => Ok((Ticket(ticket), status)),
            status => Err(status),
        }
    }

    #[track_caller]
    fn pended(&self, side: u32, direction: u32, data: Option<&[u8]>, cookie: u64) -> Ticket {
        let len = if direction == NPFS_HOST_READ { 100 } else { 0 };
        let (ticket, status) = self
            .ticket(side, direction, data, len, cookie)
            .expect("a ticket");
        assert_eq!(status, NPFS_HOST_PENDING);
        ticket
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // SAFETY: it is not used any more.
        ok(unsafe { npfs_srv_conn_destroy(self.0) });
    }
}

struct Ticket(*mut npfs_srv_ticket);

impl Ticket {
    /// Its answer; the ticket is gone then.
    fn take(&self) -> Did {
        let (mut buf, mut count) = ([0; 4096], 9);
        let to = buf.as_mut_ptr().cast();
        // SAFETY: so many bytes, and a local. Who is answered does not use the ticket again.
        let status = unsafe { npfs_srv_ticket_take(self.0, to, 4096, &raw mut count) };
        let bytes = match status {
            NPFS_HOST_OK | NPFS_HOST_MORE_DATA => buf[..count as usize].to_vec(),
            _ => Vec::new(),
        };
        did(status, bytes)
    }

    fn remove(&self) -> npfs_host_status {
        // SAFETY: as in `take`.
        unsafe { npfs_srv_ticket_remove(self.0) }
    }
}

fn attach(end: &npfs_host_end, fd: OwnedFd) -> Arc<Conn> {
    let index = u8::try_from(end.process).ok().and_then(ProcessIndex::new);
    let link = Link::attach(fd, index.expect("an index")).expect("a link");
    assert_eq!(link.token(), end.link);
    let grant = Grant::from_bytes(&end.grant).expect("a grant");
    assert_eq!(grant.end() as u32, end.side);
    Arc::new(Conn::open(&link, &grant).expect("open"))
}

fn whole(bytes: &[u8]) -> Did {
    Ok((NPFS_HOST_OK, bytes.to_vec()))
}

/// Polls until it has its answer.
#[track_caller]
fn finish(started: &mut Started) -> Result<Answer, Error> {
    let start = Instant::now();
    loop {
        if let Some(answer) = started.poll() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "it never completes");
        thread::yield_now();
    }
}

// ---- an endpoint that is slow ----------------------------------------------------------------------------------------

#[test]
fn np_read_09_np_write_08_the_server_serves_either_side() {
    for side in [CLIENT, SERVER] {
        let mut host = Host::new();
        let pipe = host.conn();
        let peer = pipe.client(1 - side);
        assert_eq!(pipe.read(side, 10), Err(NPFS_HOST_WOULD_BLOCK));
        peer.try_write(b"a message").expect("room");
        peer.try_write(b"another").expect("room");
        assert_eq!(
            pipe.read(side, 4),
            Ok((NPFS_HOST_MORE_DATA, b"a me".to_vec()))
        );
        let (info, seen) = pipe.peek(side, 3).expect("peeked");
        assert_eq!(seen, b"ssa");
        assert_eq!((info.available, info.message_left), (12, 5));
        assert_eq!((info.messages, info.copied), (2, 3));
        assert_eq!(info.state, NPFS_HOST_STATE_CONNECTED);
        assert_eq!(pipe.read(side, 100), whole(b"ssage"));
        assert_eq!(pipe.read(side, 100), whole(b"another"));

        assert_eq!(pipe.write(side, &[1; 900]), Ok(900));
        assert_eq!(pipe.query(side).expect("counts").quota_left, QUOTA - 900);
        assert_eq!(pipe.write(side, &[2; 101]), Err(NPFS_HOST_WOULD_BLOCK));
        // NP-XCV-04
        let beyond = pipe.write_with(side, &[3; 101], NPFS_HOST_NOQUOTA);
        assert_eq!(beyond, Ok(101));
        let mut buf = [0; 1000];
        assert_eq!(peer.try_read(&mut buf), Ok(Read::Whole(900)));
        assert_eq!(peer.try_read(&mut buf), Ok(Read::Whole(101)));
        assert_eq!(buf[..101], [3; 101]);
        assert_eq!(host.hear_all(), News::new(), "nothing was to be told");
    }
}

#[test]
fn np_read_03_np_read_04_np_write_01_states_and_modes_are_the_rules() {
    let mut host = Host::new();
    let pipe = host.conn();
    ok(pipe.set_flags(SERVER, NPFS_HOST_MODE_MESSAGE | NPFS_HOST_MODE_NOWAIT));
    assert_eq!(pipe.read(SERVER, 10), Err(NPFS_HOST_EMPTY));
    assert_eq!(pipe.read(CLIENT, 10), Err(NPFS_HOST_WOULD_BLOCK));
    pipe.write(SERVER, b"last words").expect("room");
    ok(pipe.set_state(SERVER, NPFS_HOST_STATE_CLOSED));
    assert_eq!(
        pipe.set_state(SERVER, NPFS_HOST_STATE_CLOSED),
        NPFS_HOST_STALE
    );
    assert_eq!(pipe.read(SERVER, 10), Err(NPFS_HOST_STALE));
    assert_eq!(
        pipe.query(CLIENT).expect("counts").state,
        NPFS_HOST_STATE_CLOSING
    );
    assert_eq!(pipe.write(CLIENT, b"x"), Err(NPFS_HOST_CLOSING));
    assert_eq!(pipe.read(CLIENT, 10), whole(b"last words"));
    assert_eq!(pipe.read(CLIENT, 10), Err(NPFS_HOST_BROKEN));
    let gone = pipe.peek(CLIENT, 0).map(|_| ());
    assert_eq!(gone, Err(NPFS_HOST_BROKEN));
}

#[test]
fn np_disc_03_np_disc_07_np_peek_02_a_disconnect_takes_what_is_unread() {
    let mut host = Host::new();
    let pipe = host.conn();
    let (server, client) = (pipe.client(SERVER), pipe.client(CLIENT));
    let mut read = Started::read(&client, vec![0; 8].into()).expect("pends");
    client.try_write(b"unread").expect("room");
    assert_eq!(
        pipe.set_state(CLIENT, NPFS_HOST_STATE_DISCONNECTED),
        NPFS_HOST_INVALID
    );
    ok(pipe.set_state(SERVER, NPFS_HOST_STATE_DISCONNECTED));
    assert_eq!(finish(&mut read), Err(Error::Disconnected));
    assert_eq!(server.try_read(&mut [0; 8]), Err(Error::Disconnected));
    assert_eq!(pipe.read(CLIENT, 8), Err(NPFS_HOST_DISCONNECTED));
    assert_eq!(pipe.read(SERVER, 8), Err(NPFS_HOST_DISCONNECTED));
    let peeked = [SERVER, CLIENT].map(|side| pipe.peek(side, 0).map(|_| ()));
    assert_eq!(
        peeked,
        [Err(NPFS_HOST_INVALID_STATE), Err(NPFS_HOST_DISCONNECTED)]
    );
    let again = pipe.set_state(SERVER, NPFS_HOST_STATE_DISCONNECTED);
    assert_eq!(again, NPFS_HOST_DISCONNECTED);
    // The host knows.
    assert!(
        !host
            .hear_all()
            .values()
            .any(|of| of & NPFS_SRV_PEER_GONE != 0)
    );
}

#[test]
fn np_info_05_np_info_07_modes_are_not_changed_under_pending_calls() {
    let mut host = Host::new();
    let pipe = host.conn();
    let client = pipe.client(CLIENT);
    let mut read = Started::read(&client, vec![0; 8].into()).expect("pends");
    assert_eq!((read.poll(), read.rest()), (None, Rest::AtTheBell));
    let nowait = NPFS_HOST_MODE_NOWAIT;
    assert_eq!(pipe.set_flags(CLIENT, nowait), NPFS_HOST_PIPE_BUSY);
    ok(pipe.set_flags(SERVER, nowait));
    assert_eq!((read.poll(), read.rest()), (None, Rest::AtTheBell));
    ok(pipe.set_flags(CLIENT, 0));
    assert!(read.has_news(), "whoever waits looks again");
    pipe.write(SERVER, b"message").expect("room");
    assert_eq!(finish(&mut read), Ok(Answer::Read(Read::Whole(7))));
    ok(pipe.set_flags(CLIENT, nowait));
    assert_eq!(client.try_read(&mut [0; 8]), Err(Error::Empty));
    assert_eq!(pipe.set_flags(CLIENT, 4), NPFS_HOST_INVALID);
    let bytes = npfs_srv_conn_options {
        flags: 0,
        modes: [0; 2],
        ..Pipe::options()
    };
    let pipe = host.conn_of(&bytes);
    let by_message = pipe.set_flags(SERVER, NPFS_HOST_MODE_MESSAGE);
    assert_eq!(by_message, NPFS_HOST_INVALID_STATE);
}

// ---- tickets ---------------------------------------------------------------------------------------------------------

#[test]
fn np_read_18_tickets_and_reads_of_clients_take_turns() {
    let mut host = Host::new();
    let pipe = host.conn();
    let client = pipe.client(CLIENT);
    let begin = || Started::read(&client, vec![0; 8].into()).expect("pends");
    let mut first = begin();
    let second = pipe.pended(CLIENT, NPFS_HOST_READ, None, 2);
    let mut third = begin();
    let fourth = pipe.pended(CLIENT, NPFS_HOST_READ, None, 4);
    assert_eq!(second.take(), Err(NPFS_HOST_PENDING));
    assert_eq!(host.hear_all(), News::new());
    let server = pipe.client(SERVER);
    for text in ["one", "two", "three"] {
        server.try_write(text.as_bytes()).expect("room");
    }
    assert_eq!(finish(&mut first), Ok(Answer::Read(Read::Whole(3))));
    assert_eq!(finish(&mut third), Ok(Answer::Read(Read::Whole(5))));
    assert_eq!((first.data(), third.data()), (&b"one"[..], &b"three"[..]));
    assert_eq!(host.hear(2), NPFS_SRV_TICKET);
    assert_eq!(second.remove(), NPFS_HOST_INVALID_STATE, "NP-CANCEL-04");
    assert_eq!(second.take(), whole(b"two"));
    assert_eq!(host.hear_all(), News::new(), "each once");
    ok(fourth.remove());
    server.try_write(b"four").expect("room");
    assert_eq!(pipe.read(CLIENT, 8), whole(b"four"), "nobody is in line");
}

#[test]
fn np_queue_03_np_write_08_np_cancel_03_a_write_takes_its_turn_and_is_taken_back() {
    let mut host = Host::new();
    let pipe = host.conn();
    let (server, client) = (pipe.client(SERVER), pipe.client(CLIENT));
    client.try_write(&[0; QUOTA as usize]).expect("room");
    let first = pipe.pended(CLIENT, NPFS_HOST_WRITE, Some(&[1; 10]), 1);
    let mut second = Started::write(&client, vec![2; 20].into()).expect("pends");
    let third = pipe.pended(CLIENT, NPFS_HOST_WRITE, Some(&[3; 30]), 3);
    ok(third.remove());
    let mut buf = [0; QUOTA as usize];
    assert_eq!(server.try_read(&mut buf), Ok(Read::Whole(buf.len())));
    assert_eq!(host.hear(1), NPFS_SRV_TICKET);
    let mut count = 0;
    // SAFETY: the ticket has its answer, and a local.
    ok(unsafe { npfs_srv_ticket_take(first.0, ptr::null_mut(), 0, &raw mut count) });
    assert_eq!(count, 10);
    assert_eq!(finish(&mut second), Ok(Answer::Wrote(20)));
    assert_eq!(server.try_read(&mut buf), Ok(Read::Whole(10)));
    assert_eq!(server.try_read(&mut buf), Ok(Read::Whole(20)));
    assert_eq!(
        server.try_read(&mut buf),
        Err(Error::WouldBlock),
        "taken back"
    );
}

#[test]
fn np_flush_04_a_drain_ends_when_all_is_read() {
    let mut host = Host::new();
    let pipe = host.conn();
    let (server, client) = (pipe.client(SERVER), pipe.client(CLIENT));
    let (none, status) = pipe
        .ticket(CLIENT, NPFS_HOST_DRAIN, None, 0, 5)
        .expect("drained");
    assert_eq!(status, NPFS_HOST_OK, "NP-FLUSH-02");
    assert_eq!(none.take(), whole(b""));
    client.try_write(b"one").expect("room");
    client.try_write(b"two").expect("room");
    let drain = pipe.pended(CLIENT, NPFS_HOST_DRAIN, None, 6);
    assert_eq!(server.try_read(&mut [0; 8]), Ok(Read::Whole(3)));
    assert_eq!(host.hear_all(), News::new());
    assert_eq!(server.try_read(&mut [0; 8]), Ok(Read::Whole(3)));
    assert_eq!(host.hear(6), NPFS_SRV_TICKET);
    assert_eq!(drain.take(), whole(b""));
}

/// More than the data area holds: placed piece by piece as the client reads, by a server that is told each time.
#[test]
fn np_queue_02_a_write_of_more_than_fits_goes_on_at_the_doorbell() {
    let mut host = Host::new();
    let pipe = host.conn();
    let client = pipe.client(CLIENT);
    let data: Vec<u8> = (0..700_000_u32).map(|at| (at % 251) as u8).collect();
    let ticket = pipe.pended(SERVER, NPFS_HOST_WRITE, Some(&data), 7);
    let reader = thread::spawn(move || {
        let mut buf = vec![0; 1 << 20];
        let long = Deadline::after(PATIENCE);
        let read = client.read_with(&mut buf, &Wait::new(), long);
        buf.truncate(read.map_or(0, Read::count));
        buf
    });
    assert_eq!(host.hear(7), NPFS_SRV_TICKET);
    ok(drop_answer(&ticket));
    assert!(reader.join().expect("no panic") == data);
}

/// Takes it without its bytes.
fn drop_answer(ticket: &Ticket) -> npfs_host_status {
    // SAFETY: nobody wants the bytes.
    unsafe { npfs_srv_ticket_take(ticket.0, ptr::null_mut(), 0, ptr::null_mut()) }
}

#[test]
fn np_xcv_03_np_xcv_04_a_transact_has_the_place_of_its_answer() {
    let mut host = Host::new();
    let pipe = host.conn();
    let server = pipe.client(SERVER);
    let transact = |request: &[u8]| {
        let mut ticket = ptr::null_mut();
        let len = u32::try_from(request.len()).expect("short");
        let from = request.as_ptr().cast();
        // SAFETY: so many bytes, and a local.
        let status =
            unsafe { npfs_srv_ticket_transact(pipe.0, CLIENT, from, len, 100, 8, &raw mut ticket) };
        (status, Ticket(ticket))
    };
    let request = [7; QUOTA as usize + 1];
    let (status, ticket) = transact(&request);
    assert_eq!(status, NPFS_HOST_PENDING);
    assert_eq!(transact(b"x").0, NPFS_HOST_PIPE_BUSY);
    let mut buf = [0; 2000];
    assert_eq!(server.try_read(&mut buf), Ok(Read::Whole(request.len())));
    server.try_write(b"answer").expect("room");
    assert_eq!(host.hear(8), NPFS_SRV_TICKET);
    assert_eq!(ticket.take(), whole(b"answer"));
    ok(pipe.set_flags(CLIENT, 0));
    assert_eq!(transact(b"x").0, NPFS_HOST_INVALID_STATE, "NP-XCV-02");
}

#[test]
fn np_cancel_04_a_buffer_that_is_too_small_loses_nothing() {
    let mut host = Host::new();
    let pipe = host.conn();
    let ticket = pipe.pended(CLIENT, NPFS_HOST_READ, None, 1);
    pipe.write(SERVER, b"message").expect("room");
    let (mut buf, mut count) = ([0_u8; 6], 0);
    let to = buf.as_mut_ptr().cast();
    // SAFETY: six bytes, and a local.
    let short = unsafe { npfs_srv_ticket_take(ticket.0, to, 6, &raw mut count) };
    assert_eq!((short, count), (NPFS_HOST_INVALID, 0));
    assert_eq!(ticket.take(), whole(b"message"));
}

#[test]
fn a_ticket_without_a_place_is_told_when_there_is_one() {
    let mut host = Host::new();
    let pipe = host.conn();
    let tickets: Vec<Ticket> = (0..16)
        .map(|cookie| pipe.pended(CLIENT, NPFS_HOST_READ, None, cookie))
        .collect();
    let more = || pipe.ticket(CLIENT, NPFS_HOST_READ, None, 8, 16).map(|_| ());
    assert_eq!(more(), Err(NPFS_HOST_BUSY));
    assert_eq!(host.hear_all(), News::new());
    let server = pipe.client(SERVER);
    server.try_write(b"one").expect("room");
    assert_eq!(host.hear(0), NPFS_SRV_TICKET);
    assert_eq!(tickets[0].take(), whole(b"one"));
    assert_eq!(host.hear(100), NPFS_SRV_ROLE_FREE);
    let (last, _) = pipe
        .ticket(CLIENT, NPFS_HOST_READ, None, 8, 16)
        .expect("a place");
    for ticket in &tickets[1..] {
        ok(ticket.remove());
    }
    ok(last.remove());
}

#[test]
fn np_close_02_tickets_outlive_their_connection() {
    let mut host = Host::new();
    let pipe = host.conn();
    let read = pipe.pended(CLIENT, NPFS_HOST_READ, None, 1);
    let write = pipe.pended(CLIENT, NPFS_HOST_WRITE, Some(&[0; 2000]), 2);
    let drain = pipe.pended(CLIENT, NPFS_HOST_DRAIN, None, 3);
    let removed = pipe.pended(CLIENT, NPFS_HOST_WRITE, Some(b"more"), 4);
    drop(pipe);
    // Its slot is in use as long as they are.
    let others: Vec<Pipe> = (0..3).map(|_| host.conn()).collect();
    let news = host.hear_all();
    let answered = (1..=4).map(|cookie| (cookie, NPFS_SRV_TICKET));
    assert_eq!(news, answered.collect(), "and nothing of its ends");
    assert_eq!(read.take(), Err(NPFS_HOST_BROKEN));
    assert_eq!(write.take(), Err(NPFS_HOST_CANCELLED), "NP-CLOSE-03");
    assert_eq!(drain.take(), Err(NPFS_HOST_CANCELLED));
    assert_eq!(removed.remove(), NPFS_HOST_INVALID_STATE);
    assert_eq!(drop_answer(&removed), NPFS_HOST_CANCELLED);
    for pipe in &others {
        pipe.write(CLIENT, b"well").expect("room");
        assert_eq!(pipe.read(SERVER, 8), whole(b"well"));
    }
}

// ---- waiting on a handle ---------------------------------------------------------------------------------------------

#[test]
fn np_io_04_np_io_05_who_watches_is_told_when_it_is_signalled() {
    let mut host = Host::new();
    let pipe = host.conn();
    for (side, cookie) in [(CLIENT, 100), (SERVER, 101)] {
        let end = pipe.client(side);
        assert!(pipe.is_signaled(side), "from the beginning");
        end.unsignal();
        assert!(!pipe.is_signaled(side) && pipe.is_signaled(1 - side));
        end.signal();
        assert_eq!(host.hear_all(), News::new(), "nobody watches");
        end.unsignal();
        pipe.watch(side, true);
        assert!(!pipe.is_signaled(side));
        assert_eq!(host.hear_all(), News::new(), "nothing has completed");
        end.signal();
        assert_eq!(host.hear(cookie), NPFS_SRV_SIGNALED);
        assert!(pipe.is_signaled(side));
        end.signal();
        assert_eq!(host.hear_all(), News::new(), "it was signalled already");
        pipe.watch(side, false);
        end.unsignal();
        end.signal();
        assert_eq!(host.hear_all(), News::new(), "nobody watches any more");
    }
}

// ---- who is in the way -----------------------------------------------------------------------------------------------

/// Points at which a role is held, and what is BUSY then for the same end: reads, writes.
const HELD: [(Point, &str, [bool; 2]); 3] = [
    (Point::ConsumerRole, "read", [true, false]),
    (Point::ProducerRole, "write m2", [false, true]),
    (Point::Copied, "write m2", [false, true]),
];

#[test]
fn a_stopped_owner_holds_nothing_up_and_the_doorbell_tells_when_it_is_gone() {
    for (point, what, busy) in HELD {
        let mut host = Host::new();
        let mut child = Process::new();
        let slab = host.slab(own_pid(), child.pid());
        let pipe = Pipe::new(slab, &Pipe::options());
        child.attach(&pipe, CLIENT);
        assert_eq!(child.ask("write m1"), "Ok(2)");
        pipe.write(SERVER, b"for the child").expect("room");
        child.stop_at(point, what);

        // At once, both ends: what needs the role, and nothing else.
        let start = Instant::now();
        let read = pipe.read(CLIENT, 0);
        let peek = pipe.peek(CLIENT, 0).map(|_| ());
        assert_eq!(read == Err(NPFS_HOST_BUSY), busy[0], "{point:?} {read:?}");
        assert_eq!(peek == Err(NPFS_HOST_BUSY), busy[0], "{point:?}");
        let write = pipe.write(CLIENT, b"x");
        assert_eq!(write == Err(NPFS_HOST_BUSY), busy[1], "{point:?} {write:?}");
        // A ticket needs it, too.
        if busy[1] {
            let ticket = pipe.ticket(CLIENT, NPFS_HOST_WRITE, Some(b"x"), 0, 1);
            assert_eq!(ticket.map(|_| ()), Err(NPFS_HOST_BUSY));
        }
        pipe.query(CLIENT).expect("needs no role");
        pipe.query(SERVER).expect("needs no role");
        let flags = pipe.set_flags(SERVER, NPFS_HOST_MODE_MESSAGE);
        assert_eq!(flags, NPFS_HOST_OK, "needs no role");
        assert_eq!(
            pipe.read(SERVER, 100),
            whole(b"m1"),
            "the other direction's way is free"
        );
        // Whoever holds a role does so for ever.
        assert!(start.elapsed() < PATIENCE);
        // The change of modes may have stirred it up; who is told tries again.
        host.hear_all();
        if busy[0] {
            assert_eq!(pipe.read(CLIENT, 0), Err(NPFS_HOST_BUSY));
        } else {
            assert_eq!(pipe.write(CLIENT, b"x"), Err(NPFS_HOST_BUSY));
        }
        assert_eq!(host.hear_all(), News::new(), "it is still there");

        child.go_on();
        assert_eq!(host.hear(100), NPFS_SRV_ROLE_FREE);
        let answer = child.answer();
        if busy[0] {
            assert_eq!(answer, "Ok(for the child)");
            assert_eq!(pipe.read(CLIENT, 10), Err(NPFS_HOST_WOULD_BLOCK));
        } else {
            assert_eq!(answer, "Ok(2)");
            assert_eq!(pipe.write(CLIENT, b"m3"), Ok(2));
            assert_eq!(pipe.read(SERVER, 10), whole(b"m2"));
            assert_eq!(pipe.read(SERVER, 10), whole(b"m3"));
        }
        assert_eq!(host.hear_all(), News::new(), "once");
    }
}

#[test]
fn np_close_02_np_disc_07_states_change_under_a_stopped_owner() {
    for (point, what, _) in HELD {
        for disconnect in [false, true] {
            let mut host = Host::new();
            let mut child = Process::new();
            let slab = host.slab(own_pid(), child.pid());
            let pipe = Pipe::new(slab, &Pipe::options());
            child.attach(&pipe, CLIENT);
            child.stop_at(point, what);
            let (side, state, expected) = if disconnect {
                (SERVER, NPFS_HOST_STATE_DISCONNECTED, Error::Disconnected)
            } else {
                (SERVER, NPFS_HOST_STATE_CLOSED, Error::Broken)
            };
            // A reader asleep at the same end, which also waits for a role that is held.
            let reader = pipe.client(CLIENT);
            let (asleep, woken) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
            let sleeper = thread::spawn({
                let (asleep, woken) = (asleep.clone(), woken.clone());
                move || {
                    asleep.store(1, Ordering::SeqCst);
                    let long = Deadline::after(PATIENCE);
                    let read = reader.read_with(&mut [0; 8], &Wait::new(), long);
                    woken.store(1, Ordering::SeqCst);
                    read
                }
            });
            while asleep.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            thread::sleep(A_WHILE);
            assert_eq!(woken.load(Ordering::SeqCst), 0);
            let start = Instant::now();
            ok(pipe.set_state(side, state));
            assert!(start.elapsed() < PATIENCE);
            if point != Point::ConsumerRole || disconnect {
                // Who waits for the reader's role hears of a disconnect; of a close once what is there can be read.
                let read = sleeper.join().expect("no panic");
                assert_eq!(read, Err(expected), "{point:?}");
                child.go_on();
            } else {
                child.go_on();
                assert_eq!(sleeper.join().expect("no panic"), Err(expected));
            }
            child.answer();
        }
    }
}

#[test]
fn np_close_02_a_killed_owner_is_swept() {
    for (point, what, busy) in HELD {
        let mut host = Host::new();
        let mut child = Process::new();
        let slab = host.slab(own_pid(), child.pid());
        let pipe = Pipe::new(slab, &Pipe::options());
        child.attach(&pipe, CLIENT);
        pipe.write(SERVER, b"unread").expect("room");
        child.stop_at(point, what);
        if busy[0] {
            assert_eq!(pipe.read(CLIENT, 10), Err(NPFS_HOST_BUSY));
        } else {
            assert_eq!(pipe.write(CLIENT, b"x"), Err(NPFS_HOST_BUSY));
        }
        let pid = child.pid();
        child.kill();
        assert_eq!(host.hear_all(), News::new(), "nobody has told the server");
        // SAFETY: the server lives.
        ok(unsafe { npfs_srv_sweep(host.srv.get(), pid, 0) });
        assert_eq!(host.hear(100), NPFS_SRV_ROLE_FREE);
        // Another process may have the end: it stays open until the host closes it.
        assert_eq!(pipe.read(CLIENT, 10), whole(b"unread"), "{point:?}");
        assert_eq!(pipe.write(CLIENT, b"x"), Ok(1), "{point:?}");
        assert_eq!(
            pipe.read(SERVER, 10),
            whole(b"x"),
            "the message under way never was"
        );
        assert_eq!(
            pipe.query(SERVER).expect("counts").state,
            NPFS_HOST_STATE_CONNECTED
        );
        ok(pipe.set_state(CLIENT, NPFS_HOST_STATE_CLOSED));
        assert_eq!(pipe.read(SERVER, 10), Err(NPFS_HOST_BROKEN));
    }
}

#[test]
fn one_dead_thread_of_a_process_is_swept() {
    let mut host = Host::new();
    let mut child = Process::new();
    let slab = host.slab(own_pid(), child.pid());
    let pipe = Pipe::new(slab, &Pipe::options());
    child.attach(&pipe, CLIENT);
    let serial: u32 = child.ask("park-in-write").parse().expect("a serial");
    assert_eq!(pipe.write(CLIENT, b"x"), Err(NPFS_HOST_BUSY));
    // SAFETY: the server lives. That thread never goes on.
    ok(unsafe { npfs_srv_sweep(host.srv.get(), child.pid(), serial + 1000) });
    assert_eq!(
        pipe.write(CLIENT, b"x"),
        Err(NPFS_HOST_BUSY),
        "another thread"
    );
    // SAFETY: as above.
    ok(unsafe { npfs_srv_sweep(host.srv.get(), child.pid(), serial) });
    assert_eq!(host.hear(100), NPFS_SRV_ROLE_FREE);
    assert_eq!(pipe.write(CLIENT, b"x"), Ok(1));
    assert_eq!(child.ask("write y"), "Ok(1)", "the process goes on");
    assert_eq!(pipe.read(SERVER, 10), whole(b"x"));
    assert_eq!(pipe.read(SERVER, 10), whole(b"y"));
}

// ---- processes -------------------------------------------------------------------------------------------------------

#[test]
fn np_close_01_a_third_process_has_an_end_too() {
    let mut host = Host::new();
    let (mut one, mut other) = (Process::new(), Process::new());
    let slab = host.slab(own_pid(), one.pid());
    let pipe = Pipe::new(slab, &Pipe::options());
    one.attach(&pipe, CLIENT);
    other.attach(&pipe, CLIENT);
    assert_eq!(one.ask("write one"), "Ok(3)");
    assert_eq!(other.ask("write other"), "Ok(5)");
    assert_eq!(pipe.read(SERVER, 10), whole(b"one"));
    assert_eq!(pipe.read(SERVER, 10), whole(b"other"));
    pipe.write(SERVER, b"reply").expect("room");
    assert_eq!(other.ask("read"), "Ok(reply)");
    // It dies in the middle of a write, the first one goes on.
    other.stop_at(Point::Copied, "write lost");
    let pid = other.pid();
    other.kill();
    let mut dead = 9;
    // SAFETY: the server lives, and a local.
    ok(unsafe { npfs_srv_reap(host.srv.get(), &raw mut dead) });
    assert_eq!(dead, 1);
    assert_eq!(one.ask("write again"), "Ok(5)");
    assert_eq!(pipe.read(SERVER, 10), whole(b"again"));
    assert_eq!(
        pipe.release(CLIENT, pid),
        NPFS_HOST_INVALID,
        "it is no more"
    );
    // There is room for five others besides the two and the server.
    let mut others: Vec<Process> = (0..6).map(|_| Process::new()).collect();
    for (number, process) in others.iter_mut().enumerate() {
        let exported = pipe
            .export(CLIENT, process.pid())
            .map(|(end, _)| end.process);
        match number {
            0..5 => assert_eq!(exported, Ok(3 + u32::try_from(number).expect("small"))),
            _ => assert_eq!(exported, Err(NPFS_HOST_FALLBACK)),
        }
    }
}

#[test]
fn np_close_02_with_its_holders_an_end_closes() {
    let mut host = Host::new();
    let mut child = Process::new();
    let slab = host.slab(own_pid(), child.pid());
    let options = npfs_srv_conn_options {
        flags: NPFS_SRV_MESSAGES | NPFS_SRV_HOLDERS_CLOSE,
        ..Pipe::options()
    };
    let died = Pipe::new(slab, &options);
    let released = Pipe::new(slab, &options);
    let shared = Pipe::new(slab, &options);
    for pipe in [&died, &released, &shared] {
        child.attach(pipe, CLIENT);
    }
    let (_end, _fd) = shared.export(CLIENT, own_pid()).expect("exported");
    ok(released.release(CLIENT, child.pid()));
    assert_eq!(host.hear(101), NPFS_SRV_PEER_GONE);
    assert_eq!(released.read(SERVER, 1), Err(NPFS_HOST_BROKEN));
    assert_eq!(released.release(CLIENT, child.pid()), NPFS_HOST_STALE);
    assert_eq!(died.read(SERVER, 1), Err(NPFS_HOST_WOULD_BLOCK));
    let pid = child.pid();
    child.kill();
    // SAFETY: the server lives.
    ok(unsafe { npfs_srv_sweep(host.srv.get(), pid, 0) });
    assert_eq!(host.hear(101), NPFS_SRV_PEER_GONE);
    assert_eq!(died.read(SERVER, 1), Err(NPFS_HOST_BROKEN));
    assert_eq!(
        shared.read(SERVER, 1),
        Err(NPFS_HOST_WOULD_BLOCK),
        "this process has it"
    );
    assert_eq!(host.hear_all(), News::new(), "once");
}

#[test]
fn a_slab_has_as_many_links_as_it_needs_and_ends_with_its_processes() {
    let mut host = Host::with(&npfs_srv_config {
        link_size: 64 << 20,
        link_slots: 2,
        reserved: 0,
    });
    let child = Process::new();
    let slab = host.slab(own_pid(), child.pid());
    assert!(!slab.is_null());
    let pipes: Vec<Pipe> = (0..5).map(|_| Pipe::new(slab, &Pipe::options())).collect();
    let link = |pipe: &Pipe| pipe.export(SERVER, own_pid()).expect("exported").0.link;
    let mut links: Vec<_> = pipes.iter().map(link).collect();
    links.dedup();
    assert_eq!(links.len(), 3, "two on each");
    for pipe in &pipes {
        pipe.write(CLIENT, b"hello").expect("room");
        assert_eq!(pipe.read(SERVER, 10), whole(b"hello"));
    }
    // The same slab, whichever comes first; and its slots serve again.
    let same = host.slab(child.pid(), own_pid());
    drop(pipes);
    let again = Pipe::new(same, &Pipe::options());
    assert!(links.contains(&link(&again)));
    // The process has gone, and nobody has said so: its number may be another's by now.
    let pid = child.pid();
    child.kill();
    let mut late = ptr::null_mut();
    // SAFETY: the server lives, and a local.
    let status = unsafe { npfs_srv_slab_get(host.srv.get(), own_pid(), pid, &raw mut late) };
    assert_eq!(status, NPFS_HOST_INVALID);
    let mut conn = ptr::null_mut();
    // SAFETY: the slab is still held; a local.
    let status = unsafe { npfs_srv_conn_create(slab, &Pipe::options(), &raw mut conn) };
    assert_eq!(status, NPFS_HOST_INVALID);
}

/// Both ends go with their last holders, and the slot serves another before the doorbell is looked at.
#[test]
fn np_close_02_who_has_gone_is_told_of_though_its_slot_serves_another() {
    let mut host = Host::new();
    let slab = host.slab(own_pid(), own_pid());
    let options = npfs_srv_conn_options {
        flags: NPFS_SRV_MESSAGES | NPFS_SRV_HOLDERS_CLOSE,
        ..Pipe::options()
    };
    let pipe = Pipe::new(slab, &options);
    let slot = pipe.client(CLIENT).slot();
    ok(pipe.release(CLIENT, own_pid()));
    ok(pipe.release(SERVER, own_pid()));
    let next = npfs_srv_conn_options {
        cookie: [200, 201],
        ..Pipe::options()
    };
    let next = Pipe::new(slab, &next);
    assert_eq!(next.client(CLIENT).slot(), slot);
    let gone = NPFS_SRV_PEER_GONE;
    assert_eq!(host.hear_all(), News::from([(100, gone), (101, gone)]));
}

/// Nobody has swept it yet: its number may be another's by now, who is not to have its index.
#[test]
fn a_dead_process_is_exported_nothing() {
    let mut host = Host::new();
    let mut child = Process::new();
    let slab = host.slab(own_pid(), own_pid());
    let pipe = Pipe::new(slab, &Pipe::options());
    child.attach(&pipe, CLIENT);
    let pid = child.pid();
    child.kill();
    let exported = pipe.export(CLIENT, pid).map(|(end, _)| end.process);
    assert_eq!(exported, Err(NPFS_HOST_INVALID));
}

#[test]
fn a_number_that_no_process_has_is_none() {
    let host = Host::new();
    let mut zombie = Command::new("true").spawn().expect("a process");
    let start = Instant::now();
    while host.slab_status(zombie.id()) == NPFS_HOST_OK {
        assert!(start.elapsed() < PATIENCE, "it never exits");
        thread::sleep(Duration::from_millis(1));
    }
    for pid in [
        zombie.id(),
        0,
        i32::MAX as u32,
        i32::MAX as u32 + 1,
        u32::MAX,
    ] {
        assert_eq!(host.slab_status(pid), NPFS_HOST_INVALID, "{pid}");
    }
    zombie.wait().expect("it has exited");
}

// ---- the doorbell ----------------------------------------------------------------------------------------------------

/// For a second, two peers complete tickets as fast as they can, and a server that sleeps in poll(2) hears of every one.
#[test]
fn no_ring_is_lost_however_hard_it_is_rung() {
    let mut host = Host::new();
    let pipes: Vec<Pipe> = (0..2)
        .map(|number| {
            host.conn_of(&npfs_srv_conn_options {
                cookie: [number; 2],
                ..Pipe::options()
            })
        })
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    let peers: Vec<_> = pipes
        .iter()
        .map(|pipe| {
            let (client, stop) = (pipe.client(CLIENT), stop.clone());
            thread::spawn(move || {
                let mut sent = 0_u64;
                while !stop.load(Ordering::SeqCst) {
                    let long = Deadline::after(PATIENCE);
                    let data = sent.to_le_bytes();
                    client
                        .write_with(&data, &Wait::new(), long)
                        .expect("written");
                    sent += 1;
                    if sent.is_multiple_of(64) {
                        thread::sleep(Duration::from_micros(200)); // the server falls asleep
                    }
                }
                client.close();
                sent
            })
        })
        .collect();
    let mut read = [0_u64; 2];
    let mut tickets = [const { None::<Ticket> }; 2];
    let mut broken = [false; 2];
    let start = Instant::now();
    while broken != [true; 2] {
        if start.elapsed() > Duration::from_secs(1) {
            stop.store(true, Ordering::SeqCst);
        }
        for (at, pipe) in pipes.iter().enumerate() {
            while !broken[at] {
                if tickets[at].is_none() {
                    // Somebody in the way goes out of it, which is told, too.
                    match pipe.ticket(SERVER, NPFS_HOST_READ, None, 8, 10 + at as u64) {
                        Ok((ticket, _)) => tickets[at] = Some(ticket),
                        Err(NPFS_HOST_BUSY) => break,
                        Err(NPFS_HOST_BROKEN) => broken[at] = true,
                        Err(status) => panic!("{status}"),
                    }
                }
                let Some(ticket) = &tickets[at] else { break };
                match ticket.take() {
                    Err(NPFS_HOST_PENDING) => break,
                    Ok((NPFS_HOST_OK, data)) => {
                        assert_eq!(data, read[at].to_le_bytes());
                        read[at] += 1;
                    }
                    Err(NPFS_HOST_BROKEN) => broken[at] = true,
                    other => panic!("{other:?}"),
                }
                tickets[at] = None;
            }
        }
        if broken != [true; 2] {
            assert!(
                host.is_readable(PATIENCE),
                "asleep, and nobody rings: {read:?}"
            );
            host.doorbell();
        }
    }
    let sent: Vec<u64> = peers
        .into_iter()
        .map(|peer| peer.join().expect("no panic"))
        .collect();
    assert_eq!(sent, read);
    assert!(sent.iter().all(|sent| *sent > 500), "{sent:?}");
}

#[test]
fn the_descriptor_is_readable_until_it_is_drained() {
    let mut host = Host::new();
    let pipe = host.conn();
    while host.is_readable(Duration::ZERO) {
        host.doorbell();
    }
    let ticket = pipe.pended(CLIENT, NPFS_HOST_READ, None, 1);
    assert!(!host.is_readable(A_WHILE));
    pipe.client(SERVER).try_write(b"x").expect("room");
    for _ in 0..3 {
        assert!(host.is_readable(PATIENCE), "level-triggered");
    }
    assert_eq!(host.hear(1), NPFS_SRV_TICKET);
    while host.is_readable(A_WHILE) {
        assert_eq!(host.doorbell(), News::new());
    }
    assert_eq!(ticket.take(), whole(b"x"));
}

#[test]
fn a_callback_may_end_everything() {
    struct Everything {
        host: *const Host,
        pipes: Vec<Pipe>,
        tickets: Vec<Ticket>,
        also_the_server: bool,
        called: u32,
    }
    unsafe extern "C" fn end(context: *mut c_void, _: u64, events: u32) {
        // SAFETY: the test gives it, and uses it no more until the doorbell has answered.
        let all = unsafe { &mut *context.cast::<Everything>() };
        assert_eq!(events, NPFS_SRV_TICKET);
        all.called += 1;
        for ticket in all.tickets.drain(..) {
            ok(drop_answer(&ticket));
        }
        all.pipes.clear();
        // SAFETY: the host lives as long as the test.
        let host = unsafe { &*all.host };
        assert!(host.doorbell().is_empty(), "in the middle of another");
        if all.also_the_server {
            // SAFETY: nobody uses it any more.
            ok(unsafe { npfs_srv_end(host.srv.replace(ptr::null_mut())) });
        }
    }
    for also_the_server in [false, true] {
        let mut host = Host::new();
        let pipes: Vec<Pipe> = (0..4).map(|_| host.conn()).collect();
        let tickets = (1..).zip(&pipes);
        let tickets: Vec<Ticket> = tickets
            .map(|(cookie, pipe)| pipe.pended(CLIENT, NPFS_HOST_READ, None, cookie))
            .collect();
        for pipe in &pipes {
            pipe.watch(CLIENT, true);
            pipe.client(SERVER).try_write(b"x").expect("room");
        }
        let mut all = Everything {
            host: &raw const host,
            pipes,
            tickets,
            also_the_server,
            called: 0,
        };
        assert!(host.is_readable(PATIENCE));
        let start = Instant::now();
        while all.called == 0 && start.elapsed() < PATIENCE {
            // SAFETY: the callback is given what it takes.
            ok(unsafe { npfs_srv_doorbell(host.srv.get(), Some(end), (&raw mut all).cast()) });
        }
        assert_eq!(all.called, 1, "what is over is not told of");
    }
}

#[test]
fn a_peer_that_breaks_the_protocol_is_told_of() {
    let mut host = Host::new();
    let pipe = host.conn();
    let client = pipe.client(CLIENT);
    let ticket = pipe.pended(SERVER, NPFS_HOST_READ, None, 1);
    // As a process does that has found a breach: it is gone for the other end, and the host has not done it.
    client.close();
    let mut news = News::new();
    let start = Instant::now();
    while news.len() < 2 && start.elapsed() < PATIENCE {
        add(&mut news, host.hear_all());
    }
    assert_eq!(news.get(&1), Some(&NPFS_SRV_TICKET));
    assert_eq!(news.get(&101), Some(&NPFS_SRV_PEER_GONE));
    assert_eq!(ticket.take(), Err(NPFS_HOST_BROKEN));
    assert_eq!(host.hear_all(), News::new(), "once");
}

/// Ringing costs nothing where nobody waits: the server's descriptor stays quiet while bytes pass.
#[test]
fn the_server_stays_off_the_path() {
    let mut host = Host::new();
    let pipe = host.conn();
    let (server, client) = (pipe.client(SERVER), pipe.client(CLIENT));
    while host.is_readable(Duration::ZERO) {
        host.doorbell();
    }
    let before = pipe.stats();
    let echo = thread::spawn(move || {
        let mut buf = [0; 64];
        for _ in 0..1000 {
            let count = server.read(&mut buf).expect("read").count();
            server.write(&buf[..count]).expect("written");
        }
    });
    for _ in 0..1000 {
        client.write(&[1; 64]).expect("written");
        assert_eq!(client.read(&mut [0; 64]), Ok(Read::Whole(64)));
    }
    echo.join().expect("no panic");
    assert!(!host.is_readable(A_WHILE), "nothing for the server");
    let after = pipe.stats();
    let served = |of: &npfs_srv_counts| {
        of.reads + of.writes + of.peeks + of.queries + of.tickets + of.callbacks
    };
    assert_eq!((served(&before), served(&after)), (0, 0));
    assert_eq!(after.bytes_written, [64_000; 2]);
    assert_eq!(after.bytes_read, [64_000; 2]);
    assert_eq!(after.messages_written, [1000; 2]);
    assert_eq!(after.messages_read, [1000; 2]);
    // And what it does itself is counted.
    pipe.write(CLIENT, b"abc").expect("room");
    let _ = pipe.read(CLIENT, 1);
    let _ = pipe.peek(CLIENT, 1);
    let _ = pipe.query(CLIENT);
    let ticket = pipe.pended(CLIENT, NPFS_HOST_READ, None, 1);
    pipe.client(SERVER).try_write(b"x").expect("room");
    host.hear(1);
    ok(drop_answer(&ticket));
    let last = pipe.stats();
    assert_eq!((last.reads, last.writes, last.peeks), (1, 1, 1));
    assert_eq!((last.queries, last.tickets, last.callbacks), (1, 1, 1));
    assert_eq!(last.bytes_written, [64_001, 64_003]);
    assert_eq!(last.bytes_read, [64_001, 64_000]);
}

#[test]
fn a_thread_is_started_only_without_a_ring() {
    let thread_of_the_library = || {
        let threads = std::fs::read_dir("/proc/self/task").expect("procfs");
        let name = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
        };
        threads
            .filter_map(name)
            .filter(|name| name.trim() == "npfs-lookout")
            .count()
    };
    let expects = env::var("NPFS_LOOP").is_ok_and(|way| way == "futex");
    if env::var(ALONE).is_err() {
        // Other tests' servers would be counted.
        again("a_thread_is_started_only_without_a_ring", None);
        return;
    }
    assert_eq!(thread_of_the_library(), 0);
    let host = Host::new();
    // It names itself, and is seen for a moment after its end.
    thread::sleep(A_WHILE);
    let count = thread_of_the_library();
    if !expects && count != 0 {
        println!("SKIPPED: no ring here");
        return;
    }
    assert_eq!(count, usize::from(expects));
    drop(host);
    thread::sleep(A_WHILE);
    assert_eq!(thread_of_the_library(), 0);
}

/// Everything once more, with a thread in place of the ring.
#[test]
fn all_of_this_works_without_a_ring() {
    if env::var("NPFS_LOOP").is_ok() {
        return;
    }
    again("", Some("futex"));
}

/// A client writes anything anywhere, all the time: the server goes on, waits for nothing, and serves others.
#[test]
fn a_client_that_scribbles_holds_nothing_up() {
    let mut host = Host::new();
    let honest = host.conn();
    // Another link than that one.
    let child = Process::new();
    let slab = host.slab(own_pid(), child.pid());
    let options = npfs_srv_conn_options {
        cookie: [1; 2],
        ..Pipe::options()
    };
    let (_, fd) = Pipe::new(slab, &options)
        .export(CLIENT, own_pid())
        .expect("exported");
    let scribbler = Scribbler::new(fd);
    let end = Instant::now() + Duration::from_secs(3);
    let mut slowest = Duration::ZERO;
    let (mut turn, mut conns) = (0_u32, 0);
    let mut tickets = Vec::new();
    let mut pipe = loop {
        match Pipe::try_new(slab, &options) {
            Ok(pipe) => break pipe,
            Err(status) => assert_eq!(status, NPFS_HOST_BROKEN),
        }
    };
    while Instant::now() < end {
        turn += 1;
        let side = turn & 1;
        // Its own work is bounded; how long others keep it from that is the machine's matter.
        let (start, worked) = (Instant::now(), cpu_time());
        let status = match turn % 13 {
            0 => pipe.read(side, 100).err(),
            1 | 2 => pipe.write(side, &[7; 300]).err(),
            3 => pipe.write_with(side, &[8; 300], NPFS_HOST_NOQUOTA).err(),
            4 => pipe.peek(side, 100).err(),
            5 => pipe.query(side).err(),
            6 => Some(pipe.set_flags(side, (turn / 13) & 3)),
            7 => {
                pipe.is_signaled(side);
                // SAFETY: the connection lives.
                Some(unsafe { npfs_srv_watch(pipe.0, side, turn & 4) })
            }
            8..=10 => {
                let direction = turn % 13 - 8;
                let data = (direction == NPFS_HOST_WRITE).then_some(&[9; 2000][..]);
                let len = if direction == NPFS_HOST_READ { 50 } else { 0 };
                let ticket = pipe.ticket(side, direction, data, len, 2);
                ticket.map(|(ticket, _)| tickets.push(ticket)).err()
            }
            11 => {
                pipe.stats();
                host.doorbell();
                // SAFETY: the server lives. No thread has that number.
                Some(unsafe { npfs_srv_sweep(host.srv.get(), own_pid(), 0xff_ffff) })
            }
            _ => {
                for ticket in tickets.drain(..) {
                    if ticket.remove() != NPFS_HOST_OK {
                        let status = drop_answer(&ticket);
                        assert_ne!(status, NPFS_HOST_INTERNAL);
                    }
                }
                // A slot that looks held is not used again: each takes another.
                if conns < 60 && turn.is_multiple_of(50) {
                    conns += 1;
                    let state = [NPFS_HOST_STATE_CLOSED, NPFS_HOST_STATE_DISCONNECTED];
                    pipe.set_state(SERVER, state[(turn as usize / 50) & 1]);
                    // It is free to refuse itself one.
                    match Pipe::try_new(slab, &options) {
                        Ok(new) => pipe = new,
                        Err(status) => assert_eq!(status, NPFS_HOST_BROKEN),
                    }
                }
                None
            }
        };
        slowest = slowest.max(cpu_time() - worked);
        assert!(start.elapsed() < PATIENCE, "turn {turn}");
        assert_ne!(status, Some(NPFS_HOST_INTERNAL), "turn {turn}");
        if turn.is_multiple_of(20) {
            honest.write(CLIENT, b"well").expect("room");
            assert_eq!(honest.read(SERVER, 10), whole(b"well"));
        }
    }
    let words = scribbler.stop();
    println!("{turn} calls and {words} words written, the longest call worked for {slowest:?}");
    assert!(words > 10_000);
    assert!(turn > 1000, "{turn}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    for ticket in tickets {
        if ticket.remove() != NPFS_HOST_OK {
            drop_answer(&ticket);
        }
    }
}

/// What this thread has used of its CPU.
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a local.
    let got = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(got, 0);
    let seconds = u64::try_from(time.tv_sec).expect("not negative");
    Duration::new(seconds, u32::try_from(time.tv_nsec).expect("below 10^9"))
}

/// Writes anything anywhere in the headers and records of a link, but for its first page.
struct Scribbler {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<u64>,
}

impl Scribbler {
    fn new(fd: OwnedFd) -> Scribbler {
        use std::os::fd::AsRawFd;
        /// Bells, slots and tables of 16, and the first of the data.
        const LEN: usize = 128 * 1024;
        // SAFETY: a mapping of its own, of memory that is longer.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                LEN,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        assert_ne!(base, libc::MAP_FAILED);
        let base = base.expose_provenance();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = stop.clone();
            move || {
                let (mut random, mut count) = (0x9e37_79b9_7f4a_7c15_u64, 0);
                while !stop.load(Ordering::Relaxed) {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let bits = random.to_le_bytes();
                    let number = |at: usize| {
                        u32::from_le_bytes([bits[at], bits[at + 1], bits[at + 2], bits[at + 3]])
                    };
                    let at = 4096 + number(1) as usize % (LEN - 4096) / 4 * 4;
                    let word = ptr::with_exposed_provenance_mut::<u32>(base + at);
                    // SAFETY: inside the mapping, which stays, and aligned.
                    let word = unsafe { AtomicU32::from_ptr(word) };
                    match random >> 60 {
                        0..4 => word.store(0, Ordering::Relaxed),
                        4..8 => word.store(number(4), Ordering::Relaxed),
                        8 => word.store(u32::MAX, Ordering::Relaxed),
                        _ => {
                            word.fetch_xor(1 << (random >> 50 & 31), Ordering::Relaxed);
                        }
                    }
                    count += 1;
                    if count % 64 == 0 {
                        thread::yield_now();
                    }
                }
                count
            }
        });
        Scribbler { stop, thread }
    }

    /// How many words it has written.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic")
    }
}

// ---- arguments -------------------------------------------------------------------------------------------------------

#[test]
fn what_cannot_be_is_refused() {
    use ptr::null_mut as null;
    let mut host = Host::new();
    let pipe = host.conn();
    let conn = pipe.0;
    let (mut srv, mut fd, mut count) = (ptr::null_mut(), -1, 0_u32);
    let (mut info, mut end) = (npfs_host_info::default(), [0_u64; 15]);
    let end: *mut npfs_host_end = (&raw mut end).cast();
    let (mut slab, mut ticket) = (ptr::null_mut(), ptr::null_mut());
    let own = own_pid();
    let config = |link_size, link_slots, reserved| npfs_srv_config {
        link_size,
        link_slots,
        reserved,
    };
    let one = [0_u8; 1];
    let byte = one.as_ptr().cast::<c_void>();
    let misaligned = (&raw mut count).cast::<u8>().wrapping_add(1).cast::<u32>();
    // SAFETY: all that is not NULL is as each asks for; what is refused is not used.
    let refused = unsafe {
        [
            npfs_srv_init(ptr::null(), null(), &raw mut fd),
            npfs_srv_init(ptr::null(), &raw mut srv, null()),
            npfs_srv_init(&config(1, 0, 0), &raw mut srv, &raw mut fd),
            npfs_srv_init(&config(0, 5000, 0), &raw mut srv, &raw mut fd),
            npfs_srv_init(&config(0, 0, 1), &raw mut srv, &raw mut fd),
            npfs_srv_slab_get(null(), own, own, &raw mut slab),
            npfs_srv_slab_get(host.srv.get(), own, own, null()),
            npfs_srv_slab_get(host.srv.get(), 0, own, &raw mut slab),
            npfs_srv_slab_get(host.srv.get(), own, 0x7fff_fff0, &raw mut slab),
            npfs_srv_doorbell(host.srv.get(), None, null()),
            npfs_srv_doorbell(null(), Some(tell), null()),
            npfs_srv_sweep(null(), own, 0),
            npfs_srv_sweep(host.srv.get(), 0, 0),
            npfs_srv_reap(null(), null()),
            npfs_srv_conn_export(null(), 0, own, 0, end, &raw mut fd),
            npfs_srv_conn_export(conn, 2, own, 0, end, &raw mut fd),
            npfs_srv_conn_export(conn, 0, 0, 0, end, &raw mut fd),
            npfs_srv_conn_export(conn, 0, own, 0, null(), &raw mut fd),
            npfs_srv_conn_export(conn, 0, own, 0, end, null()),
            npfs_srv_conn_export(conn, 0, own, 2, end, &raw mut fd),
            npfs_srv_conn_release(conn, 0, 1),
            npfs_srv_set_state(conn, 0, 2),
            npfs_srv_set_state(conn, 2, NPFS_HOST_STATE_CLOSED),
            npfs_srv_set_flags(conn, 2, 0),
            npfs_srv_watch(null(), 0, 1),
            npfs_srv_signaled(conn, 0, null()),
            npfs_srv_signaled(conn, 0, misaligned),
            npfs_srv_stats(conn, null()),
            npfs_srv_try_read(conn, 2, null(), 0, &raw mut count),
            npfs_srv_try_read(conn, 0, null(), 1, &raw mut count),
            npfs_srv_try_read(conn, 0, null(), 0, null()),
            npfs_srv_try_write(conn, 0, ptr::null(), 1, 0, &raw mut count),
            npfs_srv_try_write(conn, 0, byte, 1, 2, &raw mut count),
            npfs_srv_try_write(conn, 0, byte, 1 << 31, 0, &raw mut count),
            npfs_srv_peek(conn, 0, null(), 0, null()),
            npfs_srv_query(conn, 7, &raw mut info),
            npfs_srv_ticket_add(conn, 0, 3, ptr::null(), 0, 0, &raw mut ticket),
            npfs_srv_ticket_add(conn, 0, NPFS_HOST_READ, byte, 1, 0, &raw mut ticket),
            npfs_srv_ticket_add(
                conn,
                0,
                NPFS_HOST_READ,
                ptr::null(),
                1 << 31,
                0,
                &raw mut ticket,
            ),
            npfs_srv_ticket_add(conn, 0, NPFS_HOST_WRITE, ptr::null(), 1, 0, &raw mut ticket),
            npfs_srv_ticket_add(conn, 0, NPFS_HOST_DRAIN, ptr::null(), 1, 0, &raw mut ticket),
            npfs_srv_ticket_add(conn, 0, NPFS_HOST_READ, ptr::null(), 1, 0, null()),
            npfs_srv_ticket_transact(conn, 0, ptr::null(), 1, 1, 0, &raw mut ticket),
            npfs_srv_ticket_take(null(), null(), 0, null()),
            npfs_srv_ticket_remove(null()),
        ]
    };
    for (number, status) in refused.into_iter().enumerate() {
        assert_eq!(status, NPFS_HOST_INVALID, "number {number}");
    }
    assert!(srv.is_null() && slab.is_null() && ticket.is_null() && fd == -1 && count == 0);
    let own_slab = host.slab(own, own);
    let wrong = [
        npfs_srv_conn_options {
            server_pid: 1,
            ..Pipe::options()
        },
        npfs_srv_conn_options {
            flags: 4,
            ..Pipe::options()
        },
        npfs_srv_conn_options {
            quota: [0, 1 << 31],
            ..Pipe::options()
        },
        npfs_srv_conn_options {
            access: [4, 3],
            ..Pipe::options()
        },
        npfs_srv_conn_options {
            modes: [0, 4],
            ..Pipe::options()
        },
    ];
    let mut made = ptr::null_mut();
    for options in &wrong {
        // SAFETY: the slab is held, and the others are locals.
        let status = unsafe { npfs_srv_conn_create(own_slab, options, &raw mut made) };
        assert_eq!((status, made), (NPFS_HOST_INVALID, null()), "{options:?}");
    }
    // SAFETY: nothing is freed.
    unsafe {
        ok(npfs_srv_slab_put(null()));
        ok(npfs_srv_conn_destroy(null()));
        ok(npfs_srv_end(null()));
    }
}

#[test]
fn np_read_05_access_is_what_was_granted() {
    let mut host = Host::new();
    let pipe = host.conn_of(&npfs_srv_conn_options {
        access: [NPFS_SRV_WRITE_DATA, NPFS_SRV_READ_DATA],
        ..Pipe::options()
    });
    assert_eq!(pipe.read(CLIENT, 1), Err(NPFS_HOST_ACCESS_DENIED));
    assert_eq!(pipe.write(SERVER, b"x"), Err(NPFS_HOST_ACCESS_DENIED));
    let flags = NPFS_HOST_NOQUOTA;
    assert_eq!(
        pipe.write_with(SERVER, b"x", flags),
        Err(NPFS_HOST_ACCESS_DENIED)
    );
    assert_eq!(pipe.write(CLIENT, b"x"), Ok(1));
    assert_eq!(pipe.read(SERVER, 1), whole(b"x"));
}

#[test]
fn what_is_left_of_an_ended_server_is_harmless() {
    let mut host = Host::new();
    let pipe = host.conn();
    let ticket = pipe.pended(CLIENT, NPFS_HOST_READ, None, 1);
    drop(host);
    pipe.write(SERVER, b"x").expect("room");
    assert_eq!(ticket.take(), whole(b"x"));
    let other = pipe.pended(CLIENT, NPFS_HOST_READ, None, 1);
    drop(pipe);
    assert_eq!(drop_answer(&other), NPFS_HOST_BROKEN);
}

// ---- other processes -------------------------------------------------------------------------------------------------

/// Set in a process that runs one test by itself.
const ALONE: &str = "NPFS_TEST_ALONE";

/// Runs this program again: tests of that name, or all.
fn again(test: &str, way: Option<&str>) {
    let mut command = Command::new(env::current_exe().expect("this test"));
    if test.is_empty() {
        command.args(["--skip", "client_process"]);
    } else {
        command.args([test, "--exact"]).env(ALONE, "1");
    }
    if let Some(way) = way {
        command.env("NPFS_LOOP", way);
    }
    let output = command.output().expect("this test runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains(" 0 passed"), "{said}");
}

/// A client in a process of its own, which does what it is told line by line.
struct Process {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Process {
    fn new() -> Process {
        let mut child = Command::new(env::current_exe().expect("this test"))
            .args(["client_process", "--exact", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test runs");
        let to = child.stdin.take().expect("piped");
        let from = BufReader::new(child.stdout.take().expect("piped"));
        Process { child, to, from }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn send(&mut self, line: &str) {
        writeln!(self.to, "{line}").expect("it listens");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let count = self.from.read_line(&mut line).expect("it talks");
            assert_ne!(count, 0, "it has gone");
            if let Some((_, answer)) = line.trim_end().split_once(MARK) {
                return answer.to_owned();
            }
        }
    }

    fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.answer()
    }

    fn attach(&mut self, pipe: &Pipe, side: u32) {
        use std::os::fd::AsRawFd;
        let (end, fd) = pipe.export(side, self.pid()).expect("exported");
        let grant: String = end.grant.iter().map(|byte| format!("{byte:02x}")).collect();
        let (process, fd_number) = (end.process, fd.as_raw_fd());
        let [a, b] = end.link;
        let answer = self.ask(&format!(
            "attach {} {fd_number} {process} {side} {a} {b} {grant}",
            own_pid()
        ));
        assert_eq!(answer, "ok");
    }

    /// It comes to the point and is stopped there.
    fn stop_at(&mut self, point: Point, what: &str) {
        assert_eq!(self.ask(&format!("stop-at {}", point as u32)), "ok");
        self.send(what);
        let pid = libc::pid_t::try_from(self.pid()).expect("a pid");
        let start = Instant::now();
        loop {
            let mut status = 0;
            // SAFETY: a local. The child is only looked at, not reaped, while it lives.
            let got =
                unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED | libc::WNOHANG) };
            if got == pid {
                assert!(libc::WIFSTOPPED(status), "it has ended: {status:#x}");
                return;
            }
            assert!(start.elapsed() < PATIENCE, "the point was never reached");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn go_on(&mut self) {
        let pid = libc::pid_t::try_from(self.pid()).expect("a pid");
        // SAFETY: a signal to our own child.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGCONT) }, 0);
    }

    /// SIGKILL, and it is gone.
    fn kill(mut self) {
        self.child.kill().expect("it lives");
        self.child.wait().expect("our own");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Before what a client says, among what the test harness prints.
const MARK: &str = "@client: ";

#[test]
#[ignore = "the other process of tests that need one"]
fn client_process() {
    let mut ends: Vec<Arc<Conn>> = Vec::new();
    for line in std::io::stdin().lines() {
        let line = line.expect("a line");
        let words: Vec<&str> = line.split(' ').collect();
        let end = ends.last();
        let said = match words[..] {
            ["attach", pid, fd, process, side, a, b, grant] => {
                let path = format!("/proc/{pid}/fd/{fd}");
                let mut file = std::fs::OpenOptions::new();
                let file = file.read(true).write(true).open(path).expect("its link");
                let number = |text: &str| text.parse::<u64>().expect("a number");
                let byte = |at: usize| u8::from_str_radix(&grant[2 * at..2 * at + 2], 16);
                let end = npfs_host_end {
                    link: [number(a), number(b)],
                    process: process.parse().expect("a number"),
                    side: side.parse().expect("a number"),
                    grant: std::array::from_fn(|at| byte(at).expect("hexadecimal")),
                };
                ends.push(attach(&end, file.into()));
                "ok".to_owned()
            }
            ["stop-at", point] => {
                let point = point.parse::<u32>().expect("a number");
                let mut all = Point::ALL.iter();
                let point = all.find(|known| **known as u32 == point).expect("a point");
                fault::arm(*point, Action::Stop);
                "ok".to_owned()
            }
            ["write", text] => format!("{:?}", end.expect("attached").try_write(text.as_bytes())),
            ["read"] => {
                let mut buf = [0; 100];
                let read = end.expect("attached").try_read(&mut buf);
                match read {
                    Ok(read) => format!("Ok({})", String::from_utf8_lossy(&buf[..read.count()])),
                    Err(error) => format!("{error:?}"),
                }
            }
            ["park-in-write"] => {
                fault::arm(Point::ProducerRole, Action::ParkThread);
                let end = end.expect("attached").clone();
                let (tell, told) = std::sync::mpsc::channel();
                thread::spawn(move || {
                    tell.send(thread_serial()).expect("heard");
                    let _ = end.try_write(b"never");
                });
                let serial = told.recv().expect("a serial");
                while fault::fired() == 0 {
                    thread::yield_now();
                }
                serial.to_string()
            }
            _ => panic!("{line}"),
        };
        println!("{MARK}{said}");
    }
}

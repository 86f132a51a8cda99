//! The server's side of `npfs_host.h` where there is no memory: each call says so, or does without, and nothing is lost.
//!
//! The allocator of this program refuses what the library asks for within a call, from the n-th time on or that once, for each n
//! that there is.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    env,
    ffi::c_void,
    process::{Command, id as own_pid},
    ptr,
};

use npfs_ffi::host::{server::*, types::*};

const CLIENT: u32 = NPFS_HOST_CLIENT;
const SERVER: u32 = NPFS_HOST_SERVER;

// ---- memory ----------------------------------------------------------------------------------------------------------

struct Meagre;

#[global_allocator]
static MEAGRE: Meagre = Meagre;

#[derive(Clone, Copy, PartialEq)]
enum Refuse {
    Once,
    FromThenOn,
}

thread_local! {
    /// This thread is in a call of the library.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// So many more are to be had.
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
    static HOW: Cell<Refuse> = const { Cell::new(Refuse::Once) };
    static REFUSED: Cell<u64> = const { Cell::new(0) };
    /// Taken within calls, less what was given back there.
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

fn is_to_be_had() -> bool {
    if !INSIDE.get() {
        return true;
    }
    let left = LEFT.get();
    if left == 0 {
        REFUSED.set(REFUSED.get() + 1);
        if HOW.get() == Refuse::Once {
            LEFT.set(u64::MAX);
        }
        return false;
    }
    if left != u64::MAX {
        LEFT.set(left - 1);
    }
    true
}

fn count(one: i64) {
    if INSIDE.get() {
        LIVE.set(LIVE.get() + one);
    }
}

// SAFETY: the system's, or nothing.
unsafe impl GlobalAlloc for Meagre {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !is_to_be_had() {
            return ptr::null_mut();
        }
        count(1);
        // SAFETY: the caller's word.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-1);
        // SAFETY: the caller's word.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !is_to_be_had() {
            return ptr::null_mut();
        }
        // SAFETY: the caller's word.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// A call of the library, with what memory there is.
fn lean<T>(call: impl FnOnce() -> T) -> T {
    INSIDE.set(true);
    let answer = call();
    INSIDE.set(false);
    answer
}

fn plenty() {
    LEFT.set(u64::MAX);
}

// ---- the host --------------------------------------------------------------------------------------------------------

/// What was told, by cookie.
type News = [u32; 8];

unsafe extern "C" fn tell(news: *mut c_void, cookie: u64, events: u32) {
    // SAFETY: `doorbell` hands this over, and nobody else looks at it meanwhile.
    let news = unsafe { &mut *news.cast::<News>() };
    news[usize::try_from(cookie).expect("small")] |= events;
}

fn doorbell(srv: *mut npfs_srv, news: &mut News) {
    // SAFETY: the server lives, and `tell` takes what it is given.
    let rung = lean(|| unsafe { npfs_srv_doorbell(srv, Some(tell), ptr::from_mut(news).cast()) });
    assert_eq!(rung, NPFS_HOST_OK);
}

fn is_readable(fd: i32, milliseconds: i32) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd.
    unsafe { libc::poll(&raw mut poll, 1, milliseconds) == 1 }
}

/// Whether it was done; what lacks memory says so.
#[track_caller]
fn is_done(status: npfs_host_status) -> bool {
    match status {
        NPFS_HOST_OK | NPFS_HOST_PENDING => true,
        NPFS_HOST_NO_MEMORY => {
            assert!(REFUSED.get() != 0, "there was memory");
            false
        }
        other => panic!("{other}"),
    }
}

/// `Err`: there is no place for it.
fn try_ticket(
    conn: *mut npfs_srv_conn,
    direction: u32,
    data: &[u8],
    cookie: u64,
) -> Result<Option<*mut npfs_srv_ticket>, ()> {
    let mut ticket = ptr::null_mut();
    let (from, len) = match direction {
        NPFS_HOST_READ => (ptr::null(), 300),
        _ => (
            data.as_ptr().cast(),
            u32::try_from(data.len()).expect("short"),
        ),
    };
    let place = &raw mut ticket;
    // SAFETY: the connection lives; so many bytes, and a local.
    let added =
        lean(|| unsafe { npfs_srv_ticket_add(conn, SERVER, direction, from, len, cookie, place) });
    match added {
        NPFS_HOST_BUSY => Err(()),
        added => Ok(is_done(added).then_some(ticket)),
    }
}

fn ticket(
    conn: *mut npfs_srv_conn,
    direction: u32,
    data: &[u8],
    cookie: u64,
) -> Option<*mut npfs_srv_ticket> {
    try_ticket(conn, direction, data, cookie).expect("a place")
}

fn taken(ticket: *mut npfs_srv_ticket) -> (npfs_host_status, Vec<u8>) {
    let (mut buf, mut count) = ([0_u8; 300], 0);
    // SAFETY: so many bytes, and a local; it is not used again.
    let status = lean(|| unsafe {
        npfs_srv_ticket_take(ticket, buf.as_mut_ptr().cast(), 300, &raw mut count)
    });
    (status, buf[..count as usize].to_vec())
}

/// All that a server does; `false`: nothing was refused.
fn all_of_it(how: Refuse, after: u64) -> bool {
    REFUSED.set(0);
    HOW.set(how);
    LEFT.set(after);
    let config = npfs_srv_config {
        link_size: 64 << 20,
        link_slots: 1,
        reserved: 0,
    };
    let (mut srv, mut fd) = (ptr::null_mut(), -1);
    // SAFETY: locals, here as below; and each pointer is used until the call that frees it.
    if is_done(lean(|| unsafe {
        npfs_srv_init(&raw const config, &raw mut srv, &raw mut fd)
    })) {
        with_server(srv, fd);
        // SAFETY: as above.
        assert_eq!(lean(|| unsafe { npfs_srv_end(srv) }), NPFS_HOST_OK);
    }
    plenty();
    REFUSED.get() != 0
}

fn with_server(srv: *mut npfs_srv, fd: i32) {
    let mut slab = ptr::null_mut();
    let pid = own_pid();
    // SAFETY: as in `all_of_it`, and so on.
    if !is_done(lean(|| unsafe {
        npfs_srv_slab_get(srv, pid, pid, &raw mut slab)
    })) {
        return;
    }
    let options = |cookie| npfs_srv_conn_options {
        server_pid: pid,
        flags: NPFS_SRV_MESSAGES,
        quota: [100; 2],
        access: [NPFS_SRV_READ_DATA | NPFS_SRV_WRITE_DATA; 2],
        modes: [NPFS_HOST_MODE_MESSAGE; 2],
        cookie: [cookie, cookie + 1],
    };
    // The second needs a link of its own.
    let conns = [0, 2].map(|cookie| {
        let (options, mut conn) = (options(cookie), ptr::null_mut());
        let (options, place) = (&raw const options, &raw mut conn);
        // SAFETY: as above.
        let made = lean(|| unsafe { npfs_srv_conn_create(slab, options, place) });
        is_done(made).then_some(conn)
    });
    for (conn, cookie) in conns.into_iter().zip([0, 2]) {
        let Some(conn) = conn else { continue };
        with_conn(srv, fd, conn);
        with_full_table(srv, fd, conn, cookie + 1);
        // SAFETY: as above.
        let destroyed = lean(|| unsafe { npfs_srv_conn_destroy(conn) });
        assert_eq!(destroyed, NPFS_HOST_OK);
    }
    // SAFETY: as above.
    unsafe {
        assert_eq!(lean(|| npfs_srv_sweep(srv, pid, 1)), NPFS_HOST_OK);
        assert_eq!(lean(|| npfs_srv_reap(srv, ptr::null_mut())), NPFS_HOST_OK);
        assert_eq!(lean(|| npfs_srv_slab_put(slab)), NPFS_HOST_OK);
        assert_eq!(lean(|| npfs_srv_sweep(srv, pid, 0)), NPFS_HOST_OK);
    }
    doorbell(srv, &mut News::default());
}

fn with_conn(srv: *mut npfs_srv, fd: i32, conn: *mut npfs_srv_conn) {
    let read = ticket(conn, NPFS_HOST_READ, &[], 6);
    let write = ticket(conn, NPFS_HOST_WRITE, &[7; 200], 7);
    let (mut end, mut link) = (
        npfs_host_end {
            link: [0; 2],
            process: 0,
            side: 0,
            grant: [0; NPFS_HOST_GRANT_SIZE],
        },
        -1,
    );
    let place = (&raw mut end, &raw mut link);
    // SAFETY: as above.
    let exported =
        lean(|| unsafe { npfs_srv_conn_export(conn, CLIENT, own_pid(), 0, place.0, place.1) });
    if is_done(exported) {
        // SAFETY: it is ours.
        unsafe { libc::close(link) };
    }
    let (mut buf, mut count) = ([0_u8; 300], 0);
    // SAFETY: as above.
    let wrote = lean(|| unsafe {
        npfs_srv_try_write(conn, CLIENT, b"hello".as_ptr().cast(), 5, 0, &raw mut count)
    });
    assert_eq!((wrote, count), (NPFS_HOST_OK, 5));
    if write.is_some() {
        // SAFETY: as above.
        let got = lean(|| unsafe {
            npfs_srv_try_read(conn, CLIENT, buf.as_mut_ptr().cast(), 300, &raw mut count)
        });
        assert_eq!((got, count), (NPFS_HOST_OK, 200));
        assert!(buf[..200].iter().all(|byte| *byte == 7));
    }
    // Whatever could not be noted, the doorbell finds, also without any memory.
    let mut news = News::default();
    let is_told = |ticket: &Option<_>, event: u32| ticket.is_none() || event == NPFS_SRV_TICKET;
    while !is_told(&read, news[6]) || !is_told(&write, news[7]) {
        assert!(is_readable(fd, 20_000), "something was lost");
        doorbell(srv, &mut news);
    }
    if let Some(read) = read {
        assert_eq!(taken(read), (NPFS_HOST_OK, b"hello".to_vec()));
    }
    if let Some(write) = write {
        assert_eq!(taken(write).0, NPFS_HOST_OK);
    }
    // One that pends, unless the message is still there.
    if let Some(last) = ticket(conn, NPFS_HOST_READ, &[], 6) {
        // SAFETY: as above.
        let removed = lean(|| unsafe { npfs_srv_ticket_remove(last) });
        if read.is_some() {
            assert_eq!(removed, NPFS_HOST_OK);
        } else {
            assert_eq!(removed, NPFS_HOST_INVALID_STATE);
            assert_eq!(taken(last), (NPFS_HOST_OK, b"hello".to_vec()));
        }
    }
}

/// Who was refused since all places were taken is told when one is free, also if that could not be waited for.
fn with_full_table(srv: *mut npfs_srv, fd: i32, conn: *mut npfs_srv_conn, cookie: usize) {
    let many: Vec<_> = (0..16)
        .filter_map(|_| ticket(conn, NPFS_HOST_READ, &[], 6))
        .collect();
    let more = try_ticket(conn, NPFS_HOST_READ, &[], 6);
    let last = more.unwrap_or(None);
    assert!(more.is_ok() || many.len() == 16);
    for ticket in many.into_iter().chain(last) {
        // SAFETY: nobody has written to it.
        let removed = lean(|| unsafe { npfs_srv_ticket_remove(ticket) });
        assert_eq!(removed, NPFS_HOST_OK);
    }
    let mut news = News::default();
    while more.is_err() && news[cookie] & NPFS_SRV_ROLE_FREE == 0 {
        assert!(is_readable(fd, 20_000), "something was lost");
        doorbell(srv, &mut news);
    }
}

const ALONE: &str = "NPFS_TEST_ALONE";

/// Seen to fail with one `Vec::push` in the doorbell, and with a wait that is forgotten where there is no memory for it.
#[test]
fn without_memory_a_server_says_so_and_loses_nothing() {
    // What stays, because it is made once.
    assert!(!all_of_it(Refuse::Once, u64::MAX));
    // What a thread gives back is not counted.
    let lookout = npfs::Lookout::<()>::new().expect("a lookout");
    let is_counted = lookout.kind() != "futex";
    for how in [Refuse::Once, Refuse::FromThenOn] {
        let mut after = 0;
        LIVE.set(0);
        while all_of_it(how, after) {
            if is_counted {
                assert_eq!(LIVE.get(), 0, "after {after}");
            }
            after += 1;
        }
        assert!(after > 20, "{after} allocations cannot be all");
    }
}

/// The same with a thread that waits.
#[test]
fn without_memory_nor_a_ring_a_server_loses_nothing() {
    if env::var_os(ALONE).is_some() {
        return;
    }
    let output = Command::new(env::current_exe().expect("this test"))
        .args([
            "without_memory_a_server_says_so_and_loses_nothing",
            "--exact",
        ])
        .env(ALONE, "1")
        .env("NPFS_LOOP", "futex")
        .output()
        .expect("this test runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains(" 0 passed"), "{said}");
}

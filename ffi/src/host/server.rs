//! The server side of `npfs_host.h`.

use std::{
    ffi::{c_int, c_void},
    mem::MaybeUninit,
    os::fd::IntoRawFd,
    ptr::NonNull,
};

use npfs_ringbuf::{
    Access, Answer, CompletionMode, End, PipeType, Read, ReadMode, Shared,
    books::{ConnSpec, LinkConfig},
    try_box,
};

use crate::memory::{self, Out};

use super::{
    HostResult,
    conns::{Connection, OneEnd, Ticket, Wanted, What},
    guard, news, of_memory, out,
    slabs::{Server, Slab},
    types::*,
};

// ---- types -----------------------------------------------------------------------------------------------------------

/// A server: what waits for its clients to ring.
pub struct npfs_srv(Shared<Server>);
/// What two processes share, as one holder of it has it.
pub struct npfs_srv_slab(Shared<Slab>);
/// One connection, both ends.
pub struct npfs_srv_conn(Shared<Connection>);
/// One pended operation of the server's own.
pub struct npfs_srv_ticket(Shared<Ticket>);

/// How links are made.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct npfs_srv_config {
    /// Address space of a link, bytes, a multiple of 4096; memory is taken only as it is used. 0: 4 GiB. At most 64 MiB if
    /// processes of 32 bits take part.
    pub link_size: u64,
    /// Connections that a link holds, 1 to 4096; a pair of processes has as many links as it needs. 0: 1024.
    pub link_slots: u32,
    /// 0.
    pub reserved: u32,
}

/// The pipe carries messages; without it, bytes (NP-QUEUE-07).
pub const NPFS_SRV_MESSAGES: u32 = 1;
/// An end closes with the last process that has it (`npfs_srv_conn_export`, `npfs_srv_conn_release`, `npfs_srv_sweep`). Without
/// it, the host closes both, since it knows who has a handle and has not come for the end yet.
pub const NPFS_SRV_HOLDERS_CLOSE: u32 = 2;

/// FILE_READ_DATA.
pub const NPFS_SRV_READ_DATA: u32 = 1;
/// FILE_WRITE_DATA.
pub const NPFS_SRV_WRITE_DATA: u32 = 2;

/// A connection to be made. Arrays are by side, `NPFS_HOST_CLIENT` and `NPFS_HOST_SERVER`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct npfs_srv_conn_options {
    /// Which process of the slab has the server end; the other one has the client end.
    pub server_pid: u32,
    /// `NPFS_SRV_MESSAGES`, `NPFS_SRV_HOLDERS_CLOSE`.
    pub flags: u32,
    /// Bytes that may be unread, by the side that reads them; below 2^31 (NP-LIM-04).
    pub quota: [u32; 2],
    /// What each end may do: `NPFS_SRV_READ_DATA`, `NPFS_SRV_WRITE_DATA`.
    pub access: [u32; 2],
    /// How each end begins: `NPFS_HOST_MODE_...`.
    pub modes: [u32; 2],
    /// What `npfs_srv_doorbell` names each end by.
    pub cookie: [u64; 2],
}

/// What a connection has carried, and what of that the server did itself. Arrays are by the side that reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct npfs_srv_counts {
    /// Calls of `npfs_srv_try_read`.
    pub reads: u64,
    /// Calls of `npfs_srv_try_write`.
    pub writes: u64,
    /// Calls of `npfs_srv_peek`.
    pub peeks: u64,
    /// Calls of `npfs_srv_query`.
    pub queries: u64,
    /// Calls of `npfs_srv_ticket_add` and `npfs_srv_ticket_transact`.
    pub tickets: u64,
    /// Callbacks of `npfs_srv_doorbell` for the connection and its tickets.
    pub callbacks: u64,
    /// Bytes ever written, by whomever.
    pub bytes_written: [u64; 2],
    /// Bytes of those that have been read.
    pub bytes_read: [u64; 2],
    /// Messages (on a byte pipe: writes) ever begun, modulo 2^32.
    pub messages_written: [u32; 2],
    /// Messages ever read to their end, modulo 2^32.
    pub messages_read: [u32; 2],
}

/// The process has the link already (another end on it, with the same `npfs_host_end.link`): no descriptor is made.
pub const NPFS_SRV_HAS_LINK: u32 = 1;
/// The quota does not matter: the request of a transact (NP-XCV-04).
pub const NPFS_HOST_NOQUOTA: u32 = 1;

/// A ticket has its answer: `npfs_srv_ticket_take`.
pub const NPFS_SRV_TICKET: u32 = 1;
/// An end that is watched is signalled. One that was so for a moment only, shorter than the server took to look, is not told of.
pub const NPFS_SRV_SIGNALED: u32 = 2;
/// What answered `NPFS_HOST_BUSY` can be tried again.
pub const NPFS_SRV_ROLE_FREE: u32 = 4;
/// The other end has gone, and not by the host's doing: its last process has died or released it, or a process has broken the
/// protocol.
pub const NPFS_SRV_PEER_GONE: u32 = 8;

/// Hears of a cookie's `NPFS_SRV_...` events. May call anything of the server's side.
pub type npfs_srv_callback =
    Option<unsafe extern "C" fn(context: *mut c_void, cookie: u64, events: u32)>;

// ---- the server ------------------------------------------------------------------------------------------------------

/// Begins: nothing is shared yet. The calling thread is the server's from now on: it alone makes all calls of this side. Never
/// blocks.
///
/// - `config`: NULL: as its members say for 0.
/// - `srv`: receives the server; end it with `npfs_srv_end`.
/// - `doorbell_fd`: receives the descriptor for the server's poll loop: readable while `npfs_srv_doorbell` is due. It stays
///   the library's, and goes to no client.
///
/// The kernel waits for the clients in an io_uring. Where there is none, or the environment variable `NPFS_LOOP` is `futex`, a
/// thread is started for that, with all signals blocked. A process that is made by fork(2) after this must not use what its
/// parent has: fork before.
///
/// Errors: NPFS_HOST_INVALID, NPFS_HOST_NO_MEMORY.
///
/// # Safety
/// `config`, unless NULL, can be read; the others can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_init(
    config: *const npfs_srv_config,
    srv: *mut *mut npfs_srv,
    doorbell_fd: *mut c_int,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let (srv, fd) = unsafe { (out(srv)?, out(doorbell_fd)?) };
        // SAFETY: as this function asks for.
        let config = unsafe { memory::maybe(config) }.map_err(of_memory)?;
        let config = config.unwrap_or_default();
        let mut links = LinkConfig::default();
        if config.reserved != 0 {
            return Err(NPFS_HOST_INVALID);
        }
        if config.link_size != 0 {
            links.size = config.link_size;
        }
        if config.link_slots != 0 {
            links.slots = config.link_slots;
        }
        let place = place()?;
        let server = Server::new(links)?;
        fd.put(server.descriptor().ok_or(NPFS_HOST_INTERNAL)?);
        srv.put(give(place, npfs_srv(server)));
        Ok(NPFS_HOST_OK)
    })
}

/// Ends it: the doorbell's descriptor is closed, and the thread that there may be ends. Slabs, connections and tickets that are
/// left ring no more; they are put, destroyed and removed as ever. The server's thread; never blocks, but for that thread's
/// end.
///
/// - `srv`: is freed; NULL is nothing.
///
/// # Safety
/// It is of `npfs_srv_init`, and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_end(srv: *mut npfs_srv) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        if let Some(srv) = unsafe { take_back(srv) } {
            srv.0.end();
        }
        Ok(NPFS_HOST_OK)
    })
}

/// Takes what the clients have rung for, and calls back for each cookie that has news, once all of it is known: a callback may do
/// anything, also destroy what it is called for. To be called when the doorbell's descriptor is readable, or at any time. The
/// server's thread; never blocks, and looks at each link once.
///
/// - `callback`, `context`: what is called, and with what.
///
/// The cookie is an end's (`npfs_srv_conn_options.cookie`) or a ticket's. Events may come for nothing.
///
/// Errors: NPFS_HOST_INVALID.
///
/// # Safety
/// `callback` can be called with `context`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_doorbell(
    srv: *mut npfs_srv,
    callback: npfs_srv_callback,
    context: *mut c_void,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let server = unsafe { the(srv) }?.0.clone();
        let callback = callback.ok_or(NPFS_HOST_INVALID)?;
        news::doorbell(&server, |cookie, events| {
            // SAFETY: as this function asks for. Nothing of the server's is borrowed here.
            unsafe { callback(context, cookie, events) };
        });
        Ok(NPFS_HOST_OK)
    })
}

/// A process, or one thread of it, has ended: what it held of any connection is taken back, and whoever waited for that goes on.
/// Operations that it left pending are cancelled (NP-CANCEL-08). The server's thread; never blocks.
///
/// - `pid`: the process, as it was given to `npfs_srv_slab_get` or `npfs_srv_conn_export`; one that has shared nothing is no
///   error.
/// - `thread`: 0: all of the process has ended. Its slabs serve no new connections; whoever has its number next gets others.
///   Else: what `npfs_host_thread` had answered in that thread; the process goes on.
///
/// Errors: NPFS_HOST_INVALID.
///
/// # Safety
/// `srv` is of `npfs_srv_init`. Who is swept runs no more: what is taken back from the living breaks their connections.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_sweep(
    srv: *mut npfs_srv,
    pid: u32,
    thread: u32,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let server = unsafe { the(srv) }?;
        if pid == 0 {
            return Err(NPFS_HOST_INVALID);
        }
        server.0.sweep(pid, (thread != 0).then_some(thread));
        Ok(NPFS_HOST_OK)
    })
}

/// Sweeps every process that has exited, for a host that is not told of deaths: it looks at a pidfd for each. The server's thread;
/// never blocks.
///
/// - `dead`: receives how many there were; may be NULL.
///
/// Errors: NPFS_HOST_INVALID.
///
/// # Safety
/// `dead`, unless NULL, can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_reap(srv: *mut npfs_srv, dead: *mut u32) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let (server, dead) = unsafe { (the(srv)?, Out::maybe(dead).map_err(of_memory)?) };
        let count = server.0.reap();
        if let Some(dead) = dead {
            dead.put(count);
        }
        Ok(NPFS_HOST_OK)
    })
}

// ---- slabs -----------------------------------------------------------------------------------------------------------

/// What two processes share: theirs, or new memory. The order of the two does not matter; they may be one. The server's thread;
/// never blocks.
///
/// - `pid_a`, `pid_b`: living processes, as this process's namespace numbers them.
/// - `slab`: receives it; give it back with `npfs_srv_slab_put`. Each get has a pointer of its own.
///
/// Errors: NPFS_HOST_INVALID (no such process), NPFS_HOST_NO_MEMORY (nor descriptors: a link takes one, and one for each
/// of the two).
///
/// # Safety
/// `slab` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_slab_get(
    srv: *mut npfs_srv,
    pid_a: u32,
    pid_b: u32,
    slab: *mut *mut npfs_srv_slab,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let (server, slab) = unsafe { (the(srv)?, out(slab)?) };
        let place = place()?;
        let found = Server::slab(&server.0, pid_a, pid_b)?;
        slab.put(give(place, npfs_srv_slab(found)));
        Ok(NPFS_HOST_OK)
    })
}

/// Gives a slab back. Its connections keep the memory, as do the processes. The server's thread; never blocks.
///
/// - `slab`: is freed; NULL is nothing.
///
/// # Safety
/// It is of `npfs_srv_slab_get`, and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_slab_put(slab: *mut npfs_srv_slab) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        drop(unsafe { take_back(slab) });
        Ok(NPFS_HOST_OK)
    })
}

// ---- connections -----------------------------------------------------------------------------------------------------

/// Makes a connection between the two processes of a slab, connected, both ends open. The server's thread; never blocks.
///
/// - `slab`: theirs; the connection keeps it.
/// - `options`: what it is like.
/// - `conn`: receives it; destroy it with `npfs_srv_conn_destroy`.
///
/// Errors: NPFS_HOST_INVALID (options; a process that has died), NPFS_HOST_INVALID_STATE (message mode on a byte pipe,
/// NP-INFO-05), NPFS_HOST_NO_MEMORY, NPFS_HOST_BROKEN (one of the two writes to what they share as no client does).
///
/// # Safety
/// `options` can be read; `conn` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_conn_create(
    slab: *mut npfs_srv_slab,
    options: *const npfs_srv_conn_options,
    conn: *mut *mut npfs_srv_conn,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let (slab, conn) = unsafe { (the(slab)?, out(conn)?) };
        // SAFETY: as this function asks for.
        let options = unsafe { memory::read(options) }.map_err(of_memory)?;
        let place = place()?;
        let made = Connection::new(&slab.0, &wanted(&options)?)?;
        conn.put(give(place, npfs_srv_conn(made)));
        Ok(NPFS_HOST_OK)
    })
}

fn wanted(options: &npfs_srv_conn_options) -> HostResult<Wanted> {
    if options.flags & !(NPFS_SRV_MESSAGES | NPFS_SRV_HOLDERS_CLOSE) != 0 {
        return Err(NPFS_HOST_INVALID);
    }
    let access = |bits: u32| {
        let known = bits & !(NPFS_SRV_READ_DATA | NPFS_SRV_WRITE_DATA) == 0;
        known.then_some(Access {
            read: bits & NPFS_SRV_READ_DATA != 0,
            write: bits & NPFS_SRV_WRITE_DATA != 0,
        })
    };
    let [client, server] = options.access.map(access);
    let [own, others] = options.modes.map(modes);
    let pipe_type = if options.flags & NPFS_SRV_MESSAGES != 0 {
        PipeType::Message
    } else {
        PipeType::Byte
    };
    let mut spec = ConnSpec::new(pipe_type, 0);
    spec.outbound_quota = options.quota[NPFS_HOST_CLIENT as usize];
    spec.inbound_quota = options.quota[NPFS_HOST_SERVER as usize];
    spec.client = client.ok_or(NPFS_HOST_INVALID)?;
    spec.server = server.ok_or(NPFS_HOST_INVALID)?;
    Ok(Wanted {
        spec,
        server_pid: options.server_pid,
        modes: [own?, others?],
        cookies: options.cookie,
        holders_close: options.flags & NPFS_SRV_HOLDERS_CLOSE != 0,
    })
}

fn modes(bits: u32) -> HostResult<(ReadMode, CompletionMode)> {
    if bits & !(NPFS_HOST_MODE_MESSAGE | NPFS_HOST_MODE_NOWAIT) != 0 {
        return Err(NPFS_HOST_INVALID);
    }
    let read = match bits & NPFS_HOST_MODE_MESSAGE {
        0 => ReadMode::Byte,
        _ => ReadMode::Message,
    };
    let completion = match bits & NPFS_HOST_MODE_NOWAIT {
        0 => CompletionMode::Queue,
        _ => CompletionMode::Complete,
    };
    Ok((read, completion))
}

/// Destroys a connection: ends that are open are closed, whoever waits there is answered, and processes that have it find it
/// stale. No callback names its cookies any more. Its tickets stay to be taken or removed. The server's thread; never blocks.
///
/// - `conn`: is freed; NULL is nothing.
///
/// # Safety
/// It is of `npfs_srv_conn_create`, and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_conn_destroy(conn: *mut npfs_srv_conn) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        if let Some(conn) = unsafe { take_back(conn) } {
            conn.0.destroy();
        }
        Ok(NPFS_HOST_OK)
    })
}

/// What a process has to know of an end, which it has from now on; to be sent to it and to nobody else. The server's thread; never
/// blocks.
///
/// - `side`: `NPFS_HOST_CLIENT` or `NPFS_HOST_SERVER`.
/// - `pid`: any process, not only of the slab's two; a link has room for five others.
/// - `flags`: `NPFS_SRV_HAS_LINK`, or 0.
/// - `end`: receives it; plain data.
/// - `memfd`: receives a descriptor to be sent along, the caller's to close; -1 with NPFS_SRV_HAS_LINK. May be NULL then.
///
/// Errors: NPFS_HOST_STALE (the end is closed), NPFS_HOST_FALLBACK (too many processes: this one is served by the server),
/// NPFS_HOST_INVALID (no such process), NPFS_HOST_NO_MEMORY.
///
/// # Safety
/// `end` can be written, and `memfd` unless NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_conn_export(
    conn: *mut npfs_srv_conn,
    side: u32,
    pid: u32,
    flags: u32,
    end: *mut npfs_host_end,
    memfd: *mut c_int,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let (conn, end) = unsafe { (the(conn)?, out(end)?) };
        // SAFETY: as this function asks for.
        let memfd = unsafe { Out::maybe(memfd) }.map_err(of_memory)?;
        let send = flags & NPFS_SRV_HAS_LINK == 0;
        if flags & !NPFS_SRV_HAS_LINK != 0 || pid == 0 || (send && memfd.is_none()) {
            return Err(NPFS_HOST_INVALID);
        }
        let (grant, process, fd) = conn.0.export(of_side(side)?, pid, send)?;
        end.put(npfs_host_end {
            link: conn.0.token(),
            process: process.get().into(),
            side,
            grant: grant.to_bytes(),
        });
        if let Some(memfd) = memfd {
            memfd.put(fd.map_or(-1, IntoRawFd::into_raw_fd));
        }
        Ok(NPFS_HOST_OK)
    })
}

/// A process has an end no more. With `NPFS_SRV_HOLDERS_CLOSE`, the last one closes it. The server's thread; never blocks.
///
/// - `side`, `pid`: as they were exported.
///
/// Errors: NPFS_HOST_INVALID (it has shared nothing), NPFS_HOST_STALE (the end is closed).
///
/// # Safety
/// `conn` is of `npfs_srv_conn_create`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_conn_release(
    conn: *mut npfs_srv_conn,
    side: u32,
    pid: u32,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let conn = unsafe { the(conn) }?;
        conn.0.release(of_side(side)?, pid)?;
        Ok(NPFS_HOST_OK)
    })
}

/// Closes an end, or disconnects. Whatever can no longer complete is answered, whoever waits is woken, and nobody is waited for. The
/// server's thread; never blocks.
///
/// - `side`, `state`: NPFS_HOST_STATE_CLOSED of either: its last handle has gone (NP-CLOSE-02, 03). NPFS_HOST_STATE_DISCONNECTED of
///   the server's: unread data of both directions is gone (NP-DISC-07, 08); both ends stay open, and the next client gets a new
///   connection.
///
/// Errors: NPFS_HOST_INVALID, NPFS_HOST_STALE (the end is closed), NPFS_HOST_DISCONNECTED (a second time, NP-DISC-03).
///
/// # Safety
/// `conn` is of `npfs_srv_conn_create`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_set_state(
    conn: *mut npfs_srv_conn,
    side: u32,
    state: u32,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let conn = unsafe { the(conn) }?;
        match (of_side(side)?, state) {
            (end, NPFS_HOST_STATE_CLOSED) => conn.0.close(end)?,
            (End::Server, NPFS_HOST_STATE_DISCONNECTED) => conn.0.disconnect()?,
            _ => return Err(NPFS_HOST_INVALID),
        }
        Ok(NPFS_HOST_OK)
    })
}

/// Sets how an end reads and waits (NP-INFO-05, 06); calls that begin from here on go by it, and whoever waits looks again. Nobody
/// is waited for. The server's thread; never blocks.
///
/// - `side`: which end.
/// - `flags`: `NPFS_HOST_MODE_MESSAGE`, `NPFS_HOST_MODE_NOWAIT`.
///
/// Errors: NPFS_HOST_INVALID_STATE (message mode on a byte pipe), NPFS_HOST_PIPE_BUSY (to NOWAIT, with calls pending or something
/// unread that this end wrote, NP-INFO-07), NPFS_HOST_STALE, NPFS_HOST_DISCONNECTED, NPFS_HOST_INVALID.
///
/// # Safety
/// `conn` is of `npfs_srv_conn_create`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_set_flags(
    conn: *mut npfs_srv_conn,
    side: u32,
    flags: u32,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let conn = unsafe { the(conn) }?;
        let (read, completion) = modes(flags)?;
        conn.0.set_modes(of_side(side)?, read, completion)?;
        Ok(NPFS_HOST_OK)
    })
}

/// Somebody waits on an end's handle, or nobody does any more: while it is on, whoever signals the end rings the server
/// (NPFS_SRV_SIGNALED). Ask `npfs_srv_signaled` after that. The server's thread; never blocks.
///
/// - `side`: which end.
/// - `on`: 0 or not.
///
/// Errors: NPFS_HOST_INVALID, NPFS_HOST_STALE.
///
/// # Safety
/// `conn` is of `npfs_srv_conn_create`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_watch(
    conn: *mut npfs_srv_conn,
    side: u32,
    on: u32,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let conn = unsafe { the(conn) }?;
        conn.0.watch(of_side(side)?, on != 0)?;
        Ok(NPFS_HOST_OK)
    })
}

/// Whether an end is signalled: it is from the beginning, not while an operation pends that signals it, and again when that completes
/// (NP-IO-04, 05). The processes that have the end say so. The server's thread; never blocks.
///
/// - `side`: which end.
/// - `signaled`: receives 0 or 1.
///
/// Errors: NPFS_HOST_INVALID.
///
/// # Safety
/// `signaled` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_signaled(
    conn: *mut npfs_srv_conn,
    side: u32,
    signaled: *mut u32,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let (conn, signaled) = unsafe { (the(conn)?, out(signaled)?) };
        signaled.put(conn.0.is_signaled(of_side(side)?).into());
        Ok(NPFS_HOST_OK)
    })
}

/// Counts, by which a test can show that the server stayed off the path. The server's thread; never blocks.
///
/// - `stats`: receives them.
///
/// Errors: NPFS_HOST_INVALID.
///
/// # Safety
/// `stats` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_stats(
    conn: *mut npfs_srv_conn,
    stats: *mut npfs_srv_counts,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let (conn, stats) = unsafe { (the(conn)?, out(stats)?) };
        let conn = &conn.0;
        let [client, _] = &conn.ends;
        let totals = [End::Client, End::Server].map(|reader| client.totals(reader));
        let served = &conn.served;
        stats.put(npfs_srv_counts {
            reads: served.reads.get(),
            writes: served.writes.get(),
            peeks: served.peeks.get(),
            queries: served.queries.get(),
            tickets: served.tickets.get(),
            callbacks: served.callbacks.get(),
            bytes_written: totals.map(|of| of.bytes_written),
            bytes_read: totals.map(|of| of.bytes_read),
            messages_written: totals.map(|of| of.messages_written),
            messages_read: totals.map(|of| of.messages_read),
        });
        Ok(NPFS_HOST_OK)
    })
}

// ---- the slow endpoint -----------------------------------------------------------------------------------------------

/// Reads on behalf of an end, what is there (section 11 of the specification). The server's thread; never blocks.
///
/// - `side`: which end.
/// - `buf`, `len`: receive it; bytes, below 2^31.
/// - `count`: receives how many.
///
/// Answers NPFS_HOST_OK or NPFS_HOST_MORE_DATA. Errors: NPFS_HOST_WOULD_BLOCK, NPFS_HOST_EMPTY (it never waits, NP-READ-03),
/// NPFS_HOST_BROKEN, NPFS_HOST_DISCONNECTED, NPFS_HOST_STALE, NPFS_HOST_ACCESS_DENIED, NPFS_HOST_BUSY (another reader is at work:
/// NPFS_SRV_ROLE_FREE tells when it is through), NPFS_HOST_INVALID.
///
/// # Safety
/// `buf` can be written, `len` bytes; `count` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_try_read(
    conn: *mut npfs_srv_conn,
    side: u32,
    buf: *mut c_void,
    len: u32,
    count: *mut u32,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let (conn, count) = unsafe { (the(conn)?, out(count)?) };
        // SAFETY: as this function asks for.
        let buf = unsafe { memory::output(buf, len) }.map_err(of_memory)?;
        let read = end_of(conn, side)?.try_read(buf)?;
        Ok(of_read(read, &count))
    })
}

/// Writes on behalf of an end, if it can complete at once (section 12). The server's thread; never blocks.
///
/// - `side`: which end.
/// - `data`, `len`: what; bytes, below 2^31. On a message pipe it is one message.
/// - `flags`: `NPFS_HOST_NOQUOTA`, or 0.
/// - `count`: receives how many bytes were written: all, or what an end that never waits could place (NP-WRITE-10, 11).
///
/// Errors: NPFS_HOST_WOULD_BLOCK (or, with NPFS_HOST_NOQUOTA, a write in front is not placed to its end yet), NPFS_HOST_CLOSING
/// (NP-WRITE-01), NPFS_HOST_DISCONNECTED, NPFS_HOST_STALE, NPFS_HOST_ACCESS_DENIED, NPFS_HOST_NO_MEMORY, NPFS_HOST_BUSY (another
/// writer is at work, or a reader whose place this needs: NPFS_SRV_ROLE_FREE tells), NPFS_HOST_INVALID.
///
/// # Safety
/// `data` can be read, `len` bytes; `count` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_try_write(
    conn: *mut npfs_srv_conn,
    side: u32,
    data: *const c_void,
    len: u32,
    flags: u32,
    count: *mut u32,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let (conn, count) = unsafe { (the(conn)?, out(count)?) };
        // SAFETY: as this function asks for.
        let data = unsafe { memory::input(data, len) }.map_err(of_memory)?;
        if flags & !NPFS_HOST_NOQUOTA != 0 {
            return Err(NPFS_HOST_INVALID);
        }
        let beyond = flags & NPFS_HOST_NOQUOTA != 0;
        let written = end_of(conn, side)?.try_write(data, beyond)?;
        count.put(length(written));
        Ok(NPFS_HOST_OK)
    })
}

/// Looks at what an end could read, and changes nothing (FSCTL_PIPE_PEEK, section 14). The server's thread; never blocks.
///
/// - `side`: which end.
/// - `buf`, `len`: receive the first bytes; NULL and 0: only counts are wanted.
/// - `info`: receives the counts.
///
/// Answers NPFS_HOST_OK, or NPFS_HOST_MORE_DATA if the first message (on a byte pipe: what is there) is longer. Errors:
/// NPFS_HOST_BROKEN (closing and empty), NPFS_HOST_INVALID_STATE (a disconnected server end, NP-PEEK-02), NPFS_HOST_DISCONNECTED (a
/// client's), NPFS_HOST_STALE, NPFS_HOST_ACCESS_DENIED, NPFS_HOST_BUSY (as `npfs_srv_try_read`), NPFS_HOST_INVALID.
///
/// # Safety
/// `buf` can be written, `len` bytes; `info` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_peek(
    conn: *mut npfs_srv_conn,
    side: u32,
    buf: *mut c_void,
    len: u32,
    info: *mut npfs_host_info,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let (conn, out) = unsafe { (the(conn)?, out(info)?) };
        // SAFETY: as this function asks for.
        let buf = unsafe { memory::output(buf, len) }.map_err(of_memory)?;
        let end = end_of(conn, side)?;
        let peek = end.peek(buf)?;
        let (seen, status) = of_peek(&peek, &end);
        out.put(seen);
        Ok(status)
    })
}

/// Counts of a connection as an end sees them (FilePipeLocalInformation, NP-INFO-09, 10). Nobody can be in the way. The server's
/// thread; never blocks.
///
/// - `side`: which end.
/// - `info`: receives them; `message_left` and `copied`, which only `npfs_srv_peek` knows, are 0.
///
/// Errors: NPFS_HOST_DISCONNECTED (a client's end, NP-INFO-01), NPFS_HOST_STALE, NPFS_HOST_INVALID.
///
/// # Safety
/// `info` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_query(
    conn: *mut npfs_srv_conn,
    side: u32,
    info: *mut npfs_host_info,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let (conn, out) = unsafe { (the(conn)?, out(info)?) };
        out.put(conn.0.query(of_side(side)?)?.into());
        Ok(NPFS_HOST_OK)
    })
}

// ---- tickets ---------------------------------------------------------------------------------------------------------

/// Takes a place in the order of issue of an end's operations, among those of the processes that have it: one for each pended
/// operation that the server makes for a program (NP-READ-18, NP-QUEUE-03). The server's thread; never blocks.
///
/// - `side`: which end.
/// - `direction`: NPFS_HOST_READ, NPFS_HOST_WRITE, or NPFS_HOST_DRAIN: until all that the end has written has been read
///   (a flush, section 13).
/// - `data`, `len`: a write's bytes, which are copied; a read's length, with `data` NULL; NULL and 0 for a drain. Below 2^31.
/// - `cookie`: what `npfs_srv_doorbell` names the ticket by.
/// - `ticket`: receives it, with NPFS_HOST_OK as with NPFS_HOST_PENDING; it ends with `npfs_srv_ticket_take` or
///   `npfs_srv_ticket_remove`.
///
/// Answers NPFS_HOST_PENDING: NPFS_SRV_TICKET tells once when it has its answer. NPFS_HOST_OK: it has one already, and nothing
/// tells of it. Errors: those of `npfs_srv_try_read` and `npfs_srv_try_write` but NPFS_HOST_WOULD_BLOCK; NPFS_HOST_BUSY also
/// with 16 operations pending in that direction.
///
/// # Safety
/// A write's `data` can be read, `len` bytes; `ticket` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_ticket_add(
    conn: *mut npfs_srv_conn,
    side: u32,
    direction: u32,
    data: *const c_void,
    len: u32,
    cookie: u64,
    ticket: *mut *mut npfs_srv_ticket,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let (conn, out) = unsafe { (the(conn)?, out(ticket)?) };
        let end = end_of(conn, side)?;
        let what = match (direction, data.is_null(), len) {
            (NPFS_HOST_READ, true, _) => What::Read(length_of(len)?),
            (NPFS_HOST_WRITE, _, _) => {
                // SAFETY: as this function asks for.
                What::Write(unsafe { memory::input(data, len) }.map_err(of_memory)?)
            }
            (NPFS_HOST_DRAIN, true, 0) => What::Flush,
            _ => return Err(NPFS_HOST_INVALID),
        };
        ticket_of(end, &what, cookie, &out)
    })
}

/// A transact's ticket: sends one message, whatever the quota, and takes the place of the read of its answer, in one step
/// (FSCTL_PIPE_TRANSCEIVE, section 15). The server's thread; never blocks.
///
/// - `side`: which end.
/// - `request`, `request_len`: the message, bytes.
/// - `reply_len`: bytes of the answer that are wanted.
/// - `cookie`, `ticket`: as `npfs_srv_ticket_add`, which also says how it answers.
///
/// Errors: NPFS_HOST_INVALID_STATE (not connected, not duplex, not in message mode: NP-XCV-01, 02), NPFS_HOST_PIPE_BUSY (something is
/// unread or being read, NP-XCV-03), NPFS_HOST_NO_MEMORY, NPFS_HOST_STALE, NPFS_HOST_BUSY, NPFS_HOST_INVALID.
///
/// # Safety
/// `request` can be read, `request_len` bytes; `ticket` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_ticket_transact(
    conn: *mut npfs_srv_conn,
    side: u32,
    request: *const c_void,
    request_len: u32,
    reply_len: u32,
    cookie: u64,
    ticket: *mut *mut npfs_srv_ticket,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let (conn, out) = unsafe { (the(conn)?, out(ticket)?) };
        // SAFETY: as this function asks for.
        let request = unsafe { memory::input(request, request_len) }.map_err(of_memory)?;
        let reply = length_of(reply_len)?;
        let what = What::Transact(request, reply);
        ticket_of(end_of(conn, side)?, &what, cookie, &out)
    })
}

/// Takes a ticket's answer. The server's thread; never blocks.
///
/// - `ticket`: is freed if it has one.
/// - `buf`, `len`: receive what a read has brought, for which there is to be room; NULL and 0: nobody wants it.
/// - `count`: receives how many bytes were read or written; may be NULL.
///
/// Answers NPFS_HOST_PENDING if it has none yet, and what the operation has come to: as `npfs_srv_try_read` or
/// `npfs_srv_try_write`, or NPFS_HOST_CANCELLED (its end has closed). NPFS_HOST_INVALID: there is not enough room, and it stays.
///
/// # Safety
/// It is of `npfs_srv_ticket_add`, and is not used any more unless it stays; `buf` can be written, `len` bytes, and `count` unless
/// NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_ticket_take(
    ticket: *mut npfs_srv_ticket,
    buf: *mut c_void,
    len: u32,
    count: *mut u32,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        let (own, count) = unsafe { (the(ticket)?, Out::maybe(count).map_err(of_memory)?) };
        let buf = match (buf.is_null(), len) {
            (true, 0) => None,
            // SAFETY: as this function asks for.
            _ => Some(unsafe { memory::output(buf, len) }.map_err(of_memory)?),
        };
        let answer = own.0.take(buf)?;
        // SAFETY: as this function asks for. It is over.
        drop(unsafe { take_back(ticket) });
        let put = |number| {
            if let Some(count) = &count {
                count.put(length(number));
            }
        };
        match answer? {
            Answer::Read(read) => {
                put(read.count());
                Ok(of_whole(read))
            }
            Answer::Wrote(written) => {
                put(written);
                Ok(NPFS_HOST_OK)
            }
            Answer::Flushed => {
                put(0);
                Ok(NPFS_HOST_OK)
            }
        }
    })
}

/// Withdraws a ticket: its place is given up, and a write takes its unread bytes back (NP-CANCEL-01, 03). The server's thread; never
/// blocks.
///
/// - `ticket`: is freed, unless it has its answer.
///
/// Errors: NPFS_HOST_INVALID_STATE: it has completed, and is to be taken (NP-CANCEL-04). NPFS_HOST_INVALID.
///
/// # Safety
/// It is of `npfs_srv_ticket_add`, and is not used any more unless it stays.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_srv_ticket_remove(ticket: *mut npfs_srv_ticket) -> npfs_host_status {
    guard(|| {
        // SAFETY: as this function asks for.
        if !unsafe { the(ticket) }?.0.remove() {
            return Err(NPFS_HOST_INVALID_STATE);
        }
        // SAFETY: as this function asks for. It is over.
        drop(unsafe { take_back(ticket) });
        Ok(NPFS_HOST_OK)
    })
}

// ---- inside ----------------------------------------------------------------------------------------------------------

fn of_side(side: u32) -> HostResult<End> {
    match side {
        NPFS_HOST_CLIENT => Ok(End::Client),
        NPFS_HOST_SERVER => Ok(End::Server),
        _ => Err(NPFS_HOST_INVALID),
    }
}

/// Sides are numbered as ends are.
const _: () =
    assert!(End::Client as u32 == NPFS_HOST_CLIENT && End::Server as u32 == NPFS_HOST_SERVER);

fn of_read(read: Read, count: &Out<u32>) -> npfs_host_status {
    count.put(length(read.count()));
    of_whole(read)
}

fn of_whole(read: Read) -> npfs_host_status {
    match read {
        Read::Whole(_) => NPFS_HOST_OK,
        Read::Part(_) => NPFS_HOST_MORE_DATA,
    }
}

fn end_of(conn: &npfs_srv_conn, side: u32) -> HostResult<OneEnd> {
    Ok(OneEnd {
        conn: conn.0.clone(),
        end: of_side(side)?,
    })
}

/// All memory is there before anything begins: what has begun may be over at once, and could not be undone.
// Inline, so that the optimizer sees early enough that nothing here unwinds.
#[inline(always)]
fn ticket_of(
    end: OneEnd,
    what: &What<'_>,
    cookie: u64,
    out: &Out<*mut npfs_srv_ticket>,
) -> HostResult<npfs_host_status> {
    let place = place()?;
    let ticket = Ticket::new(end, what.way(), cookie)?;
    match Ticket::start(&ticket, what) {
        begun @ (NPFS_HOST_OK | NPFS_HOST_PENDING) => {
            out.put(give(place, npfs_srv_ticket(ticket)));
            Ok(begun)
        }
        refused => Err(refused),
    }
}

/// No buffer is longer than that.
fn length(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

/// A length that a buffer can have.
fn length_of(len: u32) -> HostResult<usize> {
    let len = i32::try_from(len).map_err(|_| NPFS_HOST_INVALID)?;
    usize::try_from(len).map_err(|_| NPFS_HOST_INVALID)
}

/// Memory for something that C keeps a pointer to.
fn place<T>() -> HostResult<Box<MaybeUninit<T>>> {
    try_box(MaybeUninit::uninit()).map_err(|_| NPFS_HOST_NO_MEMORY)
}

fn give<T>(mut place: Box<MaybeUninit<T>>, it: T) -> *mut T {
    place.write(it);
    Box::into_raw(place).cast()
}

/// # Safety
/// What is not NULL is of [`give`], and has not been taken back.
unsafe fn the<'a, T>(pointer: *mut T) -> HostResult<&'a T> {
    let pointer = NonNull::new(pointer).ok_or(NPFS_HOST_INVALID)?;
    // SAFETY: the caller's promise; shared references are all that is ever made of it.
    Ok(unsafe { pointer.as_ref() })
}

/// # Safety
/// As [`the`], and nobody uses the pointer any more.
unsafe fn take_back<T>(pointer: *mut T) -> Option<Box<T>> {
    let pointer = NonNull::new(pointer)?;
    // SAFETY: the caller's promise: it came from a box.
    Some(unsafe { Box::from_raw(pointer.as_ptr()) })
}

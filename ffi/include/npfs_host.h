/*
 * npfs_host.h: the data path of Windows named pipes on Linux, for runtimes that have objects, handles and threads of their
 * own. Programs use npfs.h.
 *
 * Generated from the exports of the crate npfs-ffi; edit those.
 *
 * - The host's server keeps names, handles, security and listening. It makes a connection in memory that the processes of its
 *   two ends share, and tells each what it has to know of its end; from then on bytes pass without it. It is an endpoint
 *   itself, a slow one, for whatever its programs do not do on that path.
 * - Every function answers an npfs_host_status. Results go through pointers, which are written on success only, unless it is
 *   said otherwise. A pointer that is NULL and must not be, or is misaligned, answers NPFS_HOST_INVALID.
 * - A side is an end of the pipe, NPFS_HOST_CLIENT or NPFS_HOST_SERVER.
 * - Pointers to opaque structures are those that a function has given, until the one that frees them. Nothing else that the
 *   library allocates is ever the caller's to free, nor the other way round.
 * - The server's side (npfs_srv_...) is called by one thread. No call of it waits for a client, whatever the memory holds that
 *   they can write: where somebody is in the middle of a step, it answers NPFS_HOST_BUSY, and the doorbell tells when that is
 *   over.
 * - Both sides answer NPFS_HOST_NO_MEMORY where there is no memory, and have no code that panics: a program that links nothing
 *   else of the static library, with --gc-sections, has no `core::panicking` in it. What needs no memory of its own (the doorbell,
 *   sweeps, cancels, completions, all that gives back) does not fail for want of it.
 * - No signal handler is installed, and no thread is started unless it is said. An interrupted system call is made again. No
 *   callback runs while a lock is held.
 */

#ifndef NPFS_HOST_H
#define NPFS_HOST_H

#include <stddef.h>
#include <stdint.h>

/** The client end of a connection. */
#define NPFS_HOST_CLIENT UINT32_C(0)
/** Its server end. */
#define NPFS_HOST_SERVER UINT32_C(1)
/** A pended read, or the wait for something to read. */
#define NPFS_HOST_READ UINT32_C(0)
/** A stalled write. */
#define NPFS_HOST_WRITE UINT32_C(1)
/** The wait for everything written to be read (a flush). */
#define NPFS_HOST_DRAIN UINT32_C(2)
/** The server end has disconnected (FILE_PIPE_DISCONNECTED_STATE). */
#define NPFS_HOST_STATE_DISCONNECTED UINT32_C(1)
/** Both ends are open (FILE_PIPE_CONNECTED_STATE). */
#define NPFS_HOST_STATE_CONNECTED UINT32_C(3)
/** The other end has closed (FILE_PIPE_CLOSING_STATE). */
#define NPFS_HOST_STATE_CLOSING UINT32_C(4)
/** Of an end itself: its last handle has gone. */
#define NPFS_HOST_STATE_CLOSED UINT32_C(5)
/** Reads by message (FILE_PIPE_MESSAGE_MODE; NP-INFO-05). */
#define NPFS_HOST_MODE_MESSAGE UINT32_C(1)
/** Never waits (FILE_PIPE_COMPLETE_OPERATION). */
#define NPFS_HOST_MODE_NOWAIT UINT32_C(2)
/** Bytes of `npfs_host_end.grant`. */
#define NPFS_HOST_GRANT_SIZE UINT32_C(0x60)
/** The pipe carries messages; without it, bytes (NP-QUEUE-07). */
#define NPFS_SRV_MESSAGES UINT32_C(1)

/**
 * An end closes with the last process that has it (`npfs_srv_conn_export`, `npfs_srv_conn_release`, `npfs_srv_sweep`). Without
 * it, the host closes both, since it knows who has a handle and has not come for the end yet.
 */
#define NPFS_SRV_HOLDERS_CLOSE UINT32_C(2)
/** FILE_READ_DATA. */
#define NPFS_SRV_READ_DATA UINT32_C(1)
/** FILE_WRITE_DATA. */
#define NPFS_SRV_WRITE_DATA UINT32_C(2)
/** The process has the link already (another end on it, with the same `npfs_host_end.link`): no descriptor is made. */
#define NPFS_SRV_HAS_LINK UINT32_C(1)
/** The quota does not matter: the request of a transact (NP-XCV-04). */
#define NPFS_HOST_NOQUOTA UINT32_C(1)
/** A ticket has its answer: `npfs_srv_ticket_take`. */
#define NPFS_SRV_TICKET UINT32_C(1)
/** An end that is watched is signalled. One that was so for a moment only, shorter than the server took to look, is not told of. */
#define NPFS_SRV_SIGNALED UINT32_C(2)
/** What answered `NPFS_HOST_BUSY` can be tried again. */
#define NPFS_SRV_ROLE_FREE UINT32_C(4)

/**
 * The other end has gone, and not by the host's doing: its last process has died or released it, or a process has broken the
 * protocol.
 */
#define NPFS_SRV_PEER_GONE UINT32_C(8)
/** Not ended by `npfs_host_exit_thread` (its completion is not the thread's). */
#define NPFS_HOST_KEEP UINT32_C(1)

/**
 * The operation has no event, so that it signals the end's file object: not signalled while it pends, signalled when it
 * completes (NP-IO-04, 05; `npfs_srv_watch`). Blocking calls always do.
 */
#define NPFS_HOST_SIGNAL UINT32_C(2)

/** A server: what waits for its clients to ring. */
typedef struct npfs_srv npfs_srv;

/** One connection, both ends. */
typedef struct npfs_srv_conn npfs_srv_conn;

/** What two processes share, as one holder of it has it. */
typedef struct npfs_srv_slab npfs_srv_slab;

/** One pended operation of the server's own. */
typedef struct npfs_srv_ticket npfs_srv_ticket;

/** How a call of the host level ended: `NPFS_HOST_...`. */
typedef int32_t npfs_host_status;

/** How links are made. */
typedef struct npfs_srv_config {
    /**
     * Address space of a link, bytes, a multiple of 4096; memory is taken only as it is used. 0: 4 GiB. At most 64 MiB if
     * processes of 32 bits take part.
     */
    uint64_t link_size;
    /** Connections that a link holds, 1 to 4096; a pair of processes has as many links as it needs. 0: 1024. */
    uint32_t link_slots;
    /** 0. */
    uint32_t reserved;
} npfs_srv_config;

/** Hears of a cookie's `NPFS_SRV_...` events. May call anything of the server's side. */
typedef void (*npfs_srv_callback)(void *context, uint64_t cookie, uint32_t events);

/** A connection to be made. Arrays are by side, `NPFS_HOST_CLIENT` and `NPFS_HOST_SERVER`. */
typedef struct npfs_srv_conn_options {
    /** Which process of the slab has the server end; the other one has the client end. */
    uint32_t server_pid;
    /** `NPFS_SRV_MESSAGES`, `NPFS_SRV_HOLDERS_CLOSE`. */
    uint32_t flags;
    /** Bytes that may be unread, by the side that reads them; below 2^31 (NP-LIM-04). */
    uint32_t quota[2];
    /** What each end may do: `NPFS_SRV_READ_DATA`, `NPFS_SRV_WRITE_DATA`. */
    uint32_t access[2];
    /** How each end begins: `NPFS_HOST_MODE_...`. */
    uint32_t modes[2];
    /** What `npfs_srv_doorbell` names each end by. */
    uint64_t cookie[2];
} npfs_srv_conn_options;

/**
 * What a process needs to attach to its end of a connection, besides the link's descriptor the first time: plain data that
 * the host's server sends as it is. What stands in it is for that process alone.
 */
typedef struct npfs_host_end {
    /** Which link it is on. */
    uint64_t link[2];
    /** The index that the process has on that link. */
    uint32_t process;
    /** `NPFS_HOST_CLIENT` or `NPFS_HOST_SERVER`. */
    uint32_t side;
    /** Opaque. */
    uint8_t grant[NPFS_HOST_GRANT_SIZE];
} npfs_host_end;

/** What a connection has carried, and what of that the server did itself. Arrays are by the side that reads. */
typedef struct npfs_srv_counts {
    /** Calls of `npfs_srv_try_read`. */
    uint64_t reads;
    /** Calls of `npfs_srv_try_write`. */
    uint64_t writes;
    /** Calls of `npfs_srv_peek`. */
    uint64_t peeks;
    /** Calls of `npfs_srv_query`. */
    uint64_t queries;
    /** Calls of `npfs_srv_ticket_add` and `npfs_srv_ticket_transact`. */
    uint64_t tickets;
    /** Callbacks of `npfs_srv_doorbell` for the connection and its tickets. */
    uint64_t callbacks;
    /** Bytes ever written, by whomever. */
    uint64_t bytes_written[2];
    /** Bytes of those that have been read. */
    uint64_t bytes_read[2];
    /** Messages (on a byte pipe: writes) ever begun, modulo 2^32. */
    uint32_t messages_written[2];
    /** Messages ever read to their end, modulo 2^32. */
    uint32_t messages_read[2];
} npfs_srv_counts;

/** Counts of a connection as one end sees them (FILE_PIPE_LOCAL_INFORMATION, FILE_PIPE_PEEK_BUFFER). */
typedef struct npfs_host_info {
    /** Unread bytes, those of pended writes included. */
    uint64_t available;
    /** Unread bytes of the first message; 0 on a byte pipe. */
    uint64_t message_left;
    /** Messages that can be read; 0 on a byte pipe. */
    uint32_t messages;
    /** Free bytes of the quota in the other direction (NP-QUEUE-08). */
    uint32_t quota_left;
    /** Bytes that a peek has copied. */
    uint32_t copied;
    /** `NPFS_HOST_STATE_CONNECTED`, `_CLOSING` or `_DISCONNECTED`. */
    uint32_t state;
} npfs_host_info;

/** What the library needs of its host. `size` is `sizeof(npfs_host_ops)`. */
typedef struct npfs_host_ops {
    /** `sizeof(npfs_host_ops)`. */
    uintptr_t size;
    /** Handed to each of them. */
    void *context;
    /**
     * Copies `len` bytes of user memory at `from` to `to`, which is shared memory. 0: some of them cannot be read. It may
     * block; nothing but the right to write on that one connection is held meanwhile.
     */
    int32_t (*copy_in)(void *context, void *to, uintptr_t from, uintptr_t len);
    /**
     * Copies `len` bytes of shared memory at `from` to user memory at `to`. 0: some of it cannot be written. It may block;
     * nothing is held meanwhile. Bytes that it has copied may be copied again, over them.
     */
    int32_t (*copy_out)(void *context, uintptr_t to, const void *from, uintptr_t len);
    /**
     * A submitted operation is over: once for each, on the thread that runs the pump or cancels; that may be before the
     * submit has returned to its caller. Its memory is the host's again. Nothing is held.
     */
    void (*complete)(void *context, uint64_t cookie, npfs_host_status status, uintptr_t information);
    /**
     * Something pends for the first time: from now on a thread of the host's is to call `npfs_host_pump_wait` and
     * `npfs_host_pump_run` in turn. Called once. May be NULL if one does anyway.
     */
    void (*start_pump)(void *context);
} npfs_host_ops;

/**
 * A connection that this process has attached to: above 0. It may be used while another thread drops it, and stands for
 * nothing then (`NPFS_HOST_STALE`); the same number comes again after some two thousand others at its place.
 * A thread's first call asks the system who it is (getpid(2), gettid(2)), to say from then on by plain stores which connection it
 * uses; "no system call" below is of those after it.
 */
typedef int32_t npfs_host_conn;

/**
 * The state of one blocked call, in memory of the host's: all zero before its first use, at one address from its begin to
 * its end, and readable as long as another thread may cancel it. What is in it is the library's.
 */
typedef struct npfs_host_wait {
    /** Opaque. */
    uint64_t opaque[32];
} npfs_host_wait;

/**
 * One submitted operation, in memory of the host's: at one address, and untouched, from the call that answers
 * `NPFS_HOST_PENDING` until `complete` is called for it. What is in it is the library's.
 */
typedef struct npfs_host_op {
    /** Opaque. */
    uint64_t opaque[32];
} npfs_host_op;

/** Done. */
#define NPFS_HOST_OK INT32_C(0)
/** Done; the message is longer than the buffer, and the rest of it stays (NP-READ-09). */
#define NPFS_HOST_MORE_DATA INT32_C(1)
/** It would have to wait. */
#define NPFS_HOST_WOULD_BLOCK INT32_C(2)
/** It goes on after the call, and completes once. */
#define NPFS_HOST_PENDING INT32_C(3)
/** Nothing to read, and the end is in the mode that never waits (NP-READ-03). */
#define NPFS_HOST_EMPTY INT32_C(-1)
/** The peer is gone, and nothing is left to read (NP-READ-04, NP-WRITE-14). */
#define NPFS_HOST_BROKEN INT32_C(-2)
/** The peer is gone, so that nobody would read what is written (NP-WRITE-01). */
#define NPFS_HOST_CLOSING INT32_C(-3)
/** The server end has disconnected (NP-DISC-07, 08). */
#define NPFS_HOST_DISCONNECTED INT32_C(-4)
/** No client has connected yet. */
#define NPFS_HOST_LISTENING INT32_C(-5)
/** The slot serves another connection now, or the end is closed: drop the connection, and ask the server. */
#define NPFS_HOST_STALE INT32_C(-6)
/** Somebody else is in the middle of a step that this call needs. The server is told at its doorbell when that is over. */
#define NPFS_HOST_BUSY INT32_C(-7)
/** Withdrawn by a cancel (NP-CANCEL-01). */
#define NPFS_HOST_CANCELLED INT32_C(-8)

/**
 * The host's copy failed. No byte of the stream is lost, except of a read that pended if a later one has been given more
 * meanwhile, or a reader is stopped in the middle of a step.
 */
#define NPFS_HOST_FAULT INT32_C(-9)
/** Not for this path: make the host's ordinary request. */
#define NPFS_HOST_FALLBACK INT32_C(-10)
/** The deadline has passed. */
#define NPFS_HOST_TIMED_OUT INT32_C(-11)
/** This end was not granted that direction. */
#define NPFS_HOST_ACCESS_DENIED INT32_C(-12)
/** No memory, no slot or no descriptor is left. */
#define NPFS_HOST_NO_MEMORY INT32_C(-13)
/** Transact with something to read, or a change of modes with calls pending (NP-XCV-03, NP-INFO-07). */
#define NPFS_HOST_PIPE_BUSY INT32_C(-14)
/** Not in this state or mode of the pipe (NP-XCV-01, 02; NP-PEEK-02; NP-INFO-05). */
#define NPFS_HOST_INVALID_STATE INT32_C(-15)
/** An argument that cannot be: a NULL that must not be, an unknown number, something that is not of this library. */
#define NPFS_HOST_INVALID INT32_C(-16)
/** The memory is not a link of this very layout, or the end is not of that link. */
#define NPFS_HOST_MISMATCH INT32_C(-17)
/** A bug of this library. */
#define NPFS_HOST_INTERNAL INT32_C(-18)

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Begins: nothing is shared yet. The calling thread is the server's from now on: it alone makes all calls of this side. Never
 * blocks.
 *
 * - `config`: NULL: as its members say for 0.
 * - `srv`: receives the server; end it with `npfs_srv_end`.
 * - `doorbell_fd`: receives the descriptor for the server's poll loop: readable while `npfs_srv_doorbell` is due. It stays
 *   the library's, and goes to no client.
 *
 * The kernel waits for the clients in an io_uring. Where there is none, or the environment variable `NPFS_LOOP` is `futex`, a
 * thread is started for that, with all signals blocked. A process that is made by fork(2) after this must not use what its
 * parent has: fork before.
 *
 * Errors: NPFS_HOST_INVALID, NPFS_HOST_NO_MEMORY.
 *
 * Memory: `config`, unless NULL, can be read; the others can be written.
 */
npfs_host_status npfs_srv_init(const struct npfs_srv_config *config,
                               struct npfs_srv **srv,
                               int *doorbell_fd);

/**
 * Ends it: the doorbell's descriptor is closed, and the thread that there may be ends. Slabs, connections and tickets that are
 * left ring no more; they are put, destroyed and removed as ever. The server's thread; never blocks, but for that thread's
 * end.
 *
 * - `srv`: is freed; NULL is nothing.
 *
 * Memory: It is of `npfs_srv_init`, and is not used any more.
 */
npfs_host_status npfs_srv_end(struct npfs_srv *srv);

/**
 * Takes what the clients have rung for, and calls back for each cookie that has news, once all of it is known: a callback may do
 * anything, also destroy what it is called for. To be called when the doorbell's descriptor is readable, or at any time. The
 * server's thread; never blocks, and looks at each link once.
 *
 * - `callback`, `context`: what is called, and with what.
 *
 * The cookie is an end's (`npfs_srv_conn_options.cookie`) or a ticket's. Events may come for nothing.
 *
 * Errors: NPFS_HOST_INVALID.
 *
 * Memory: `callback` can be called with `context`.
 */
npfs_host_status npfs_srv_doorbell(struct npfs_srv *srv,
                                   npfs_srv_callback callback,
                                   void *context);

/**
 * A process, or one thread of it, has ended: what it held of any connection is taken back, and whoever waited for that goes on.
 * Operations that it left pending are cancelled (NP-CANCEL-08). The server's thread; never blocks.
 *
 * - `pid`: the process, as it was given to `npfs_srv_slab_get` or `npfs_srv_conn_export`; one that has shared nothing is no
 *   error.
 * - `thread`: 0: all of the process has ended. Its slabs serve no new connections; whoever has its number next gets others.
 *   Else: what `npfs_host_thread` had answered in that thread; the process goes on.
 *
 * Errors: NPFS_HOST_INVALID.
 *
 * Memory: `srv` is of `npfs_srv_init`. Who is swept runs no more: what is taken back from the living breaks their connections.
 */
npfs_host_status npfs_srv_sweep(struct npfs_srv *srv,
                                uint32_t pid,
                                uint32_t thread);

/**
 * Sweeps every process that has exited, for a host that is not told of deaths: it looks at a pidfd for each. The server's thread;
 * never blocks.
 *
 * - `dead`: receives how many there were; may be NULL.
 *
 * Errors: NPFS_HOST_INVALID.
 *
 * Memory: `dead`, unless NULL, can be written.
 */
npfs_host_status npfs_srv_reap(struct npfs_srv *srv,
                               uint32_t *dead);

/**
 * What two processes share: theirs, or new memory. The order of the two does not matter; they may be one. The server's thread;
 * never blocks.
 *
 * - `pid_a`, `pid_b`: living processes, as this process's namespace numbers them.
 * - `slab`: receives it; give it back with `npfs_srv_slab_put`. Each get has a pointer of its own.
 *
 * Errors: NPFS_HOST_INVALID (no such process), NPFS_HOST_NO_MEMORY (nor descriptors: a link takes one, and one for each
 * of the two).
 *
 * Memory: `slab` can be written.
 */
npfs_host_status npfs_srv_slab_get(struct npfs_srv *srv,
                                   uint32_t pid_a,
                                   uint32_t pid_b,
                                   struct npfs_srv_slab **slab);

/**
 * Gives a slab back. Its connections keep the memory, as do the processes. The server's thread; never blocks.
 *
 * - `slab`: is freed; NULL is nothing.
 *
 * Memory: It is of `npfs_srv_slab_get`, and is not used any more.
 */
npfs_host_status npfs_srv_slab_put(struct npfs_srv_slab *slab);

/**
 * Makes a connection between the two processes of a slab, connected, both ends open. The server's thread; never blocks.
 *
 * - `slab`: theirs; the connection keeps it.
 * - `options`: what it is like.
 * - `conn`: receives it; destroy it with `npfs_srv_conn_destroy`.
 *
 * Errors: NPFS_HOST_INVALID (options; a process that has died), NPFS_HOST_INVALID_STATE (message mode on a byte pipe,
 * NP-INFO-05), NPFS_HOST_NO_MEMORY, NPFS_HOST_BROKEN (one of the two writes to what they share as no client does).
 *
 * Memory: `options` can be read; `conn` can be written.
 */
npfs_host_status npfs_srv_conn_create(struct npfs_srv_slab *slab,
                                      const struct npfs_srv_conn_options *options,
                                      struct npfs_srv_conn **conn);

/**
 * Destroys a connection: ends that are open are closed, whoever waits there is answered, and processes that have it find it
 * stale. No callback names its cookies any more. Its tickets stay to be taken or removed. The server's thread; never blocks.
 *
 * - `conn`: is freed; NULL is nothing.
 *
 * Memory: It is of `npfs_srv_conn_create`, and is not used any more.
 */
npfs_host_status npfs_srv_conn_destroy(struct npfs_srv_conn *conn);

/**
 * What a process has to know of an end, which it has from now on; to be sent to it and to nobody else. The server's thread; never
 * blocks.
 *
 * - `side`: `NPFS_HOST_CLIENT` or `NPFS_HOST_SERVER`.
 * - `pid`: any process, not only of the slab's two; a link has room for five others.
 * - `flags`: `NPFS_SRV_HAS_LINK`, or 0.
 * - `end`: receives it; plain data.
 * - `memfd`: receives a descriptor to be sent along, the caller's to close; -1 with NPFS_SRV_HAS_LINK. May be NULL then.
 *
 * Errors: NPFS_HOST_STALE (the end is closed), NPFS_HOST_FALLBACK (too many processes: this one is served by the server),
 * NPFS_HOST_INVALID (no such process), NPFS_HOST_NO_MEMORY.
 *
 * Memory: `end` can be written, and `memfd` unless NULL.
 */
npfs_host_status npfs_srv_conn_export(struct npfs_srv_conn *conn,
                                      uint32_t side,
                                      uint32_t pid,
                                      uint32_t flags,
                                      struct npfs_host_end *end,
                                      int *memfd);

/**
 * A process has an end no more. With `NPFS_SRV_HOLDERS_CLOSE`, the last one closes it. The server's thread; never blocks.
 *
 * - `side`, `pid`: as they were exported.
 *
 * Errors: NPFS_HOST_INVALID (it has shared nothing), NPFS_HOST_STALE (the end is closed).
 *
 * Memory: `conn` is of `npfs_srv_conn_create`.
 */
npfs_host_status npfs_srv_conn_release(struct npfs_srv_conn *conn,
                                       uint32_t side,
                                       uint32_t pid);

/**
 * Closes an end, or disconnects. Whatever can no longer complete is answered, whoever waits is woken, and nobody is waited for. The
 * server's thread; never blocks.
 *
 * - `side`, `state`: NPFS_HOST_STATE_CLOSED of either: its last handle has gone (NP-CLOSE-02, 03). NPFS_HOST_STATE_DISCONNECTED of
 *   the server's: unread data of both directions is gone (NP-DISC-07, 08); both ends stay open, and the next client gets a new
 *   connection.
 *
 * Errors: NPFS_HOST_INVALID, NPFS_HOST_STALE (the end is closed), NPFS_HOST_DISCONNECTED (a second time, NP-DISC-03).
 *
 * Memory: `conn` is of `npfs_srv_conn_create`.
 */
npfs_host_status npfs_srv_set_state(struct npfs_srv_conn *conn,
                                    uint32_t side,
                                    uint32_t state);

/**
 * Sets how an end reads and waits (NP-INFO-05, 06); calls that begin from here on go by it, and whoever waits looks again. Nobody
 * is waited for. The server's thread; never blocks.
 *
 * - `side`: which end.
 * - `flags`: `NPFS_HOST_MODE_MESSAGE`, `NPFS_HOST_MODE_NOWAIT`.
 *
 * Errors: NPFS_HOST_INVALID_STATE (message mode on a byte pipe), NPFS_HOST_PIPE_BUSY (to NOWAIT, with calls pending or something
 * unread that this end wrote, NP-INFO-07), NPFS_HOST_STALE, NPFS_HOST_DISCONNECTED, NPFS_HOST_INVALID.
 *
 * Memory: `conn` is of `npfs_srv_conn_create`.
 */
npfs_host_status npfs_srv_set_flags(struct npfs_srv_conn *conn,
                                    uint32_t side,
                                    uint32_t flags);

/**
 * Somebody waits on an end's handle, or nobody does any more: while it is on, whoever signals the end rings the server
 * (NPFS_SRV_SIGNALED). Ask `npfs_srv_signaled` after that. The server's thread; never blocks.
 *
 * - `side`: which end.
 * - `on`: 0 or not.
 *
 * Errors: NPFS_HOST_INVALID, NPFS_HOST_STALE.
 *
 * Memory: `conn` is of `npfs_srv_conn_create`.
 */
npfs_host_status npfs_srv_watch(struct npfs_srv_conn *conn,
                                uint32_t side,
                                uint32_t on);

/**
 * Whether an end is signalled: it is from the beginning, not while an operation pends that signals it, and again when that completes
 * (NP-IO-04, 05). The processes that have the end say so. The server's thread; never blocks.
 *
 * - `side`: which end.
 * - `signaled`: receives 0 or 1.
 *
 * Errors: NPFS_HOST_INVALID.
 *
 * Memory: `signaled` can be written.
 */
npfs_host_status npfs_srv_signaled(struct npfs_srv_conn *conn,
                                   uint32_t side,
                                   uint32_t *signaled);

/**
 * Counts, by which a test can show that the server stayed off the path. The server's thread; never blocks.
 *
 * - `stats`: receives them.
 *
 * Errors: NPFS_HOST_INVALID.
 *
 * Memory: `stats` can be written.
 */
npfs_host_status npfs_srv_stats(struct npfs_srv_conn *conn, struct npfs_srv_counts *stats);

/**
 * Reads on behalf of an end, what is there (section 11 of the specification). The server's thread; never blocks.
 *
 * - `side`: which end.
 * - `buf`, `len`: receive it; bytes, below 2^31.
 * - `count`: receives how many.
 *
 * Answers NPFS_HOST_OK or NPFS_HOST_MORE_DATA. Errors: NPFS_HOST_WOULD_BLOCK, NPFS_HOST_EMPTY (it never waits, NP-READ-03),
 * NPFS_HOST_BROKEN, NPFS_HOST_DISCONNECTED, NPFS_HOST_STALE, NPFS_HOST_ACCESS_DENIED, NPFS_HOST_BUSY (another reader is at work:
 * NPFS_SRV_ROLE_FREE tells when it is through), NPFS_HOST_INVALID.
 *
 * Memory: `buf` can be written, `len` bytes; `count` can be written.
 */
npfs_host_status npfs_srv_try_read(struct npfs_srv_conn *conn,
                                   uint32_t side,
                                   void *buf,
                                   uint32_t len,
                                   uint32_t *count);

/**
 * Writes on behalf of an end, if it can complete at once (section 12). The server's thread; never blocks.
 *
 * - `side`: which end.
 * - `data`, `len`: what; bytes, below 2^31. On a message pipe it is one message.
 * - `flags`: `NPFS_HOST_NOQUOTA`, or 0.
 * - `count`: receives how many bytes were written: all, or what an end that never waits could place (NP-WRITE-10, 11).
 *
 * Errors: NPFS_HOST_WOULD_BLOCK (or, with NPFS_HOST_NOQUOTA, a write in front is not placed to its end yet), NPFS_HOST_CLOSING
 * (NP-WRITE-01), NPFS_HOST_DISCONNECTED, NPFS_HOST_STALE, NPFS_HOST_ACCESS_DENIED, NPFS_HOST_NO_MEMORY, NPFS_HOST_BUSY (another
 * writer is at work, or a reader whose place this needs: NPFS_SRV_ROLE_FREE tells), NPFS_HOST_INVALID.
 *
 * Memory: `data` can be read, `len` bytes; `count` can be written.
 */
npfs_host_status npfs_srv_try_write(struct npfs_srv_conn *conn,
                                    uint32_t side,
                                    const void *data,
                                    uint32_t len,
                                    uint32_t flags,
                                    uint32_t *count);

/**
 * Looks at what an end could read, and changes nothing (FSCTL_PIPE_PEEK, section 14). The server's thread; never blocks.
 *
 * - `side`: which end.
 * - `buf`, `len`: receive the first bytes; NULL and 0: only counts are wanted.
 * - `info`: receives the counts.
 *
 * Answers NPFS_HOST_OK, or NPFS_HOST_MORE_DATA if the first message (on a byte pipe: what is there) is longer. Errors:
 * NPFS_HOST_BROKEN (closing and empty), NPFS_HOST_INVALID_STATE (a disconnected server end, NP-PEEK-02), NPFS_HOST_DISCONNECTED (a
 * client's), NPFS_HOST_STALE, NPFS_HOST_ACCESS_DENIED, NPFS_HOST_BUSY (as `npfs_srv_try_read`), NPFS_HOST_INVALID.
 *
 * Memory: `buf` can be written, `len` bytes; `info` can be written.
 */
npfs_host_status npfs_srv_peek(struct npfs_srv_conn *conn,
                               uint32_t side,
                               void *buf,
                               uint32_t len,
                               struct npfs_host_info *info);

/**
 * Counts of a connection as an end sees them (FilePipeLocalInformation, NP-INFO-09, 10). Nobody can be in the way. The server's
 * thread; never blocks.
 *
 * - `side`: which end.
 * - `info`: receives them; `message_left` and `copied`, which only `npfs_srv_peek` knows, are 0.
 *
 * Errors: NPFS_HOST_DISCONNECTED (a client's end, NP-INFO-01), NPFS_HOST_STALE, NPFS_HOST_INVALID.
 *
 * Memory: `info` can be written.
 */
npfs_host_status npfs_srv_query(struct npfs_srv_conn *conn,
                                uint32_t side,
                                struct npfs_host_info *info);

/**
 * Takes a place in the order of issue of an end's operations, among those of the processes that have it: one for each pended
 * operation that the server makes for a program (NP-READ-18, NP-QUEUE-03). The server's thread; never blocks.
 *
 * - `side`: which end.
 * - `direction`: NPFS_HOST_READ, NPFS_HOST_WRITE, or NPFS_HOST_DRAIN: until all that the end has written has been read
 *   (a flush, section 13).
 * - `data`, `len`: a write's bytes, which are copied; a read's length, with `data` NULL; NULL and 0 for a drain. Below 2^31.
 * - `cookie`: what `npfs_srv_doorbell` names the ticket by.
 * - `ticket`: receives it, with NPFS_HOST_OK as with NPFS_HOST_PENDING; it ends with `npfs_srv_ticket_take` or
 *   `npfs_srv_ticket_remove`.
 *
 * Answers NPFS_HOST_PENDING: NPFS_SRV_TICKET tells once when it has its answer. NPFS_HOST_OK: it has one already, and nothing
 * tells of it. Errors: those of `npfs_srv_try_read` and `npfs_srv_try_write` but NPFS_HOST_WOULD_BLOCK; NPFS_HOST_BUSY also
 * with 16 operations pending in that direction.
 *
 * Memory: A write's `data` can be read, `len` bytes; `ticket` can be written.
 */
npfs_host_status npfs_srv_ticket_add(struct npfs_srv_conn *conn,
                                     uint32_t side,
                                     uint32_t direction,
                                     const void *data,
                                     uint32_t len,
                                     uint64_t cookie,
                                     struct npfs_srv_ticket **ticket);

/**
 * A transact's ticket: sends one message, whatever the quota, and takes the place of the read of its answer, in one step
 * (FSCTL_PIPE_TRANSCEIVE, section 15). The server's thread; never blocks.
 *
 * - `side`: which end.
 * - `request`, `request_len`: the message, bytes.
 * - `reply_len`: bytes of the answer that are wanted.
 * - `cookie`, `ticket`: as `npfs_srv_ticket_add`, which also says how it answers.
 *
 * Errors: NPFS_HOST_INVALID_STATE (not connected, not duplex, not in message mode: NP-XCV-01, 02), NPFS_HOST_PIPE_BUSY (something is
 * unread or being read, NP-XCV-03), NPFS_HOST_NO_MEMORY, NPFS_HOST_STALE, NPFS_HOST_BUSY, NPFS_HOST_INVALID.
 *
 * Memory: `request` can be read, `request_len` bytes; `ticket` can be written.
 */
npfs_host_status npfs_srv_ticket_transact(struct npfs_srv_conn *conn,
                                          uint32_t side,
                                          const void *request,
                                          uint32_t request_len,
                                          uint32_t reply_len,
                                          uint64_t cookie,
                                          struct npfs_srv_ticket **ticket);

/**
 * Takes a ticket's answer. The server's thread; never blocks.
 *
 * - `ticket`: is freed if it has one.
 * - `buf`, `len`: receive what a read has brought, for which there is to be room; NULL and 0: nobody wants it.
 * - `count`: receives how many bytes were read or written; may be NULL.
 *
 * Answers NPFS_HOST_PENDING if it has none yet, and what the operation has come to: as `npfs_srv_try_read` or
 * `npfs_srv_try_write`, or NPFS_HOST_CANCELLED (its end has closed). NPFS_HOST_INVALID: there is not enough room, and it stays.
 *
 * Memory: It is of `npfs_srv_ticket_add`, and is not used any more unless it stays; `buf` can be written, `len` bytes, and `count` unless
 * NULL.
 */
npfs_host_status npfs_srv_ticket_take(struct npfs_srv_ticket *ticket,
                                      void *buf,
                                      uint32_t len,
                                      uint32_t *count);

/**
 * Withdraws a ticket: its place is given up, and a write takes its unread bytes back (NP-CANCEL-01, 03). The server's thread; never
 * blocks.
 *
 * - `ticket`: is freed, unless it has its answer.
 *
 * Errors: NPFS_HOST_INVALID_STATE: it has completed, and is to be taken (NP-CANCEL-04). NPFS_HOST_INVALID.
 *
 * Memory: It is of `npfs_srv_ticket_add`, and is not used any more unless it stays.
 */
npfs_host_status npfs_srv_ticket_remove(struct npfs_srv_ticket *ticket);

/**
 * The version and the hash of the layout of what is shared. If two sides answer different ones they must not share
 * anything, and every call is the host's ordinary request. Any thread.
 *
 * Memory: What is not NULL can be written.
 */
void npfs_host_abi(uint32_t *version,
                   uint64_t *hash);

/**
 * Hands over the host's functions, before anything else is called; a second time answers `NPFS_HOST_INVALID`. They may be
 * called on any thread that calls the library, and must not call it themselves, but for `complete`, which may.
 *
 * Memory: `ops` is NULL or can be read; the functions do what they are for, and stay.
 */
npfs_host_status npfs_host_init(const struct npfs_host_ops *ops);

/**
 * The calling thread's number in its process, never 0: what the server's sweep of a thread is told. It stays the same, and no
 * other thread of the process gets it for the next sixteen million. Any thread; a host whose server sweeps threads tells
 * it the number when the thread begins.
 */
uint32_t npfs_host_thread(void);

/**
 * Attaches one end of a connection, as the server has exported it. `memfd`: the link's descriptor, which is the library's
 * from here on and closed at once; -1 if the process has that link already (else `NPFS_HOST_FALLBACK`: ask for it). A
 * descriptor is looked at before anything in it is believed: what is no sealed memfd of this layout is
 * `NPFS_HOST_MISMATCH`. Maps memory the first time, allocates; no lock is held over a call of the host's. Any thread.
 *
 * Memory: `end` can be read and `conn` be written unless they are NULL; `memfd` is nobody else's.
 */
npfs_host_status npfs_host_attach(int32_t memfd,
                                  const struct npfs_host_end *end,
                                  npfs_host_conn *conn);

/**
 * This process is done with a connection: the number stands for nothing from here on. Calls under way go on, and so do waits
 * and operations: cancel them first. The end itself stays open until the server closes it. Any thread.
 */
npfs_host_status npfs_host_drop(npfs_host_conn conn);

/**
 * This process is done with a link (`npfs_host_end.link`): its memory is unmapped once the last connection on it has been
 * dropped, and has to come with a descriptor next time. `NPFS_HOST_BUSY`: operations pend on it; cancel them, and wait for their
 * completions. Any thread.
 *
 * Memory: `link` can be read as two numbers unless it is NULL.
 */
npfs_host_status npfs_host_forget_link(const uint64_t *link);

/**
 * Reads what is there, at most `len` bytes, to user memory at `buf`. `count` is written if the answer is `NPFS_HOST_OK` or
 * `NPFS_HOST_MORE_DATA`. `NPFS_HOST_WOULD_BLOCK`: nothing is there, or others wait for it; `NPFS_HOST_BUSY`: somebody is
 * in the middle of a step; `NPFS_HOST_FAULT`: the copy failed, and nothing was read. What an error leaves in the buffer is
 * undefined. No system call unless somebody has to be woken, or a thread that keeps the right to read has to be asked for it.
 * Any thread.
 *
 * Memory: `count` can be written unless it is NULL.
 */
npfs_host_status npfs_host_try_read(npfs_host_conn conn,
                                    uintptr_t buf,
                                    uintptr_t len,
                                    uintptr_t *count);

/**
 * Writes `len` bytes of user memory at `buf`, as one message on a message pipe, if that can be done at once. `count` is
 * written with `NPFS_HOST_OK`; an end that never waits may write less (NP-WRITE-10, 11). `NPFS_HOST_WOULD_BLOCK`: the quota has
 * no room; `NPFS_HOST_BUSY`, `NPFS_HOST_FAULT` as of a read. Any thread.
 *
 * Memory: `count` can be written unless it is NULL.
 */
npfs_host_status npfs_host_try_write(npfs_host_conn conn,
                                     uintptr_t buf,
                                     uintptr_t len,
                                     uintptr_t *count);

/**
 * Looks at what is queued, with at most `len` bytes of it to user memory at `buf`, and changes nothing (NP-PEEK-04 to 09).
 * `info` is written with `NPFS_HOST_OK` and `NPFS_HOST_MORE_DATA`. No system call. Any thread.
 *
 * Memory: `info` can be written unless it is NULL.
 */
npfs_host_status npfs_host_peek(npfs_host_conn conn,
                                uintptr_t buf,
                                uintptr_t len,
                                struct npfs_host_info *info);

/**
 * Counts (FILE_PIPE_LOCAL_INFORMATION); `message_left` and `copied` stay 0. No system call. Any thread.
 *
 * Memory: `info` can be written unless it is NULL.
 */
npfs_host_status npfs_host_query(npfs_host_conn conn, struct npfs_host_info *info);

/**
 * Begins a blocking read of `len` bytes to user memory at `buf`, a write of those there, or a flush (`kind`:
 * `NPFS_HOST_READ`, `_WRITE`, `_DRAIN`): does it if it can be done at once. `NPFS_HOST_OK`: `npfs_host_wait_end` has the
 * answer. `NPFS_HOST_PENDING`: call `npfs_host_wait_block` first. What else it answers is the answer, and the wait has not
 * begun. A read or write takes its place in the order of issue in the first `npfs_host_wait_end`, if looking for it in
 * `npfs_host_wait_block` has not brought it. Allocates nothing. Any thread.
 *
 * Memory: `wait` is memory as `npfs_host_wait` says, of no other call under way.
 */
npfs_host_status npfs_host_wait_begin(npfs_host_conn conn,
                                      uint32_t kind,
                                      uintptr_t buf,
                                      uintptr_t len,
                                      struct npfs_host_wait *wait);

/**
 * Begins a transact: writes one message whatever the quota, and takes the place of the read of its reply
 * (NP-XCV-01 to 08). As `npfs_host_wait_begin`. Any thread.
 *
 * Memory: As of `npfs_host_wait_begin`.
 */
npfs_host_status npfs_host_transceive_begin(npfs_host_conn conn,
                                            uintptr_t request,
                                            uintptr_t request_len,
                                            uintptr_t reply,
                                            uintptr_t reply_len,
                                            struct npfs_host_wait *wait);

/**
 * Waits until `npfs_host_wait_end` may have the answer, or `deadline` (nanoseconds of CLOCK_MONOTONIC; UINT64_MAX: never):
 * spins within bounds, then sleeps in futex(2) until it is woken. Holds nothing and touches no user memory, so that the
 * thread may end in here, if `npfs_host_wait_abandon` or the server's sweep of the thread follows. `NPFS_HOST_OK`: call
 * `npfs_host_wait_end`. `NPFS_HOST_CANCELLED`, `NPFS_HOST_TIMED_OUT`: the same, and it will say whether the result came
 * first. The thread that began the wait.
 *
 * Memory: `wait` was begun by this thread and has not ended.
 */
npfs_host_status npfs_host_wait_block(struct npfs_host_wait *wait,
                                      uint64_t deadline);

/**
 * Moves the bytes and ends the wait; after a cancel or a deadline it withdraws it, unless the result has come first.
 * `NPFS_HOST_WOULD_BLOCK`: there is more to wait for (a long write, say), call `npfs_host_wait_block` again. Anything
 * else is the answer, and the wait is over; `count` is written if it is `NPFS_HOST_OK` or `NPFS_HOST_MORE_DATA`. Allocates
 * nothing. The thread that began the wait.
 *
 * Memory: `wait` was begun by this thread and has not ended; `count` can be written unless it is NULL.
 */
npfs_host_status npfs_host_wait_end(struct npfs_host_wait *wait,
                                    uintptr_t *count);

/**
 * Asks the wait under way to end with `NPFS_HOST_CANCELLED`; its own answer says which came first. 1: it was asked; 0: none
 * is under way. Another thread of the same process, any.
 *
 * Memory: `wait` is NULL or memory as `npfs_host_wait` says.
 */
int32_t npfs_host_wait_cancel(struct npfs_host_wait *wait);

/**
 * The thread inside the wait never comes back: gives up what it had in the connection. Async-signal-safe: two changes of a
 * word, no lock, no allocation. In a signal handler that does not return, of the thread that began the wait; or while
 * that thread is known to be stopped for good within `npfs_host_wait_block`.
 *
 * Memory: As said above; the memory is not used for another wait before it is zero again.
 */
void npfs_host_wait_abandon(struct npfs_host_wait *wait);

/**
 * Submits a read of `len` bytes to user memory at `buf`, a write of those there, or a flush (`kind`). It tries first: with
 * `NPFS_HOST_OK` and `NPFS_HOST_MORE_DATA` it is done, `count` is written and `complete` is not called, nor is it for
 * an error. `NPFS_HOST_PENDING`: it has its place in the order of issue, and `complete` is called once, with `cookie`, in
 * `npfs_host_pump_run` or a cancel. `flags`: `NPFS_HOST_KEEP`, `NPFS_HOST_SIGNAL`. May allocate; with
 * `NPFS_HOST_NO_MEMORY` it was withdrawn again. Any thread.
 *
 * Memory: `op` can be written and is the library's while it pends; `count` can be written unless it is NULL.
 */
npfs_host_status npfs_host_submit(npfs_host_conn conn,
                                  uint32_t kind,
                                  uintptr_t buf,
                                  uintptr_t len,
                                  uint64_t cookie,
                                  uint32_t flags,
                                  struct npfs_host_op *op,
                                  uintptr_t *count);

/**
 * Submits a transact, as `npfs_host_submit`: `NPFS_HOST_PENDING` once the request is sent. Any thread.
 *
 * Memory: As of `npfs_host_submit`.
 */
npfs_host_status npfs_host_submit_transceive(npfs_host_conn conn,
                                             uintptr_t request,
                                             uintptr_t request_len,
                                             uintptr_t reply,
                                             uintptr_t reply_len,
                                             uint64_t cookie,
                                             uint32_t flags,
                                             struct npfs_host_op *op,
                                             uintptr_t *count);

/**
 * Cancels operations that pend: on `conn` (0: on all), of the thread `thread` (0: of all), with the cookie `cookie` (if
 * `by_cookie` is not 0). Each of them completes once, with `NPFS_HOST_CANCELLED` or with the result that came first; most
 * before this returns. `count`: how many there were; none answers `NPFS_HOST_STALE` (STATUS_NOT_FOUND is the host's word).
 * Any thread.
 *
 * Memory: `count` can be written unless it is NULL.
 */
npfs_host_status npfs_host_cancel(npfs_host_conn conn,
                                  uint32_t thread,
                                  int32_t by_cookie,
                                  uint64_t cookie,
                                  uintptr_t *count);

/**
 * The thread `thread` (`npfs_host_thread` of it; 0: the calling one) ends, or has ended: its operations are cancelled, but for
 * those submitted with `NPFS_HOST_KEEP` (NP-CANCEL-08), and what it was in the middle of moving on is moved on by others.
 * Any thread.
 */
void npfs_host_exit_thread(uint32_t thread);

/**
 * Sleeps until `npfs_host_pump_run` has something to do, somebody kicks, or `deadline` (nanoseconds of CLOCK_MONOTONIC;
 * UINT64_MAX: never): then `NPFS_HOST_TIMED_OUT`. A futex wait on a word of each link; with more than 127 links it comes
 * back every millisecond. The host's pump thread, one at a time.
 */
npfs_host_status npfs_host_pump_wait(uint64_t deadline);

/**
 * Moves on what can be moved on, and completes what is done: at most `most` completions (0: all). How many there were. Never
 * waits but for the host's copies. The host's pump thread, one at a time.
 */
uintptr_t npfs_host_pump_run(uintptr_t most);

/** Wakes the thread in `npfs_host_pump_wait`, or the next one that comes. Any thread; async-signal-safe. */
void npfs_host_pump_kick(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* NPFS_HOST_H */

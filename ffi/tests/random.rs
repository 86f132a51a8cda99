//! Random argument vectors through every export: null and misaligned pointers, wild lengths, handles that are closed, of another kind, or
//! never were. Each call answers a status that has a name, and nothing crashes.
//!
//! 20,000 vectors; `NPFS_LONG=1`: a million. `NPFS_SEED` repeats a run.

#![allow(
    clippy::cast_possible_truncation,
    reason = "random numbers, and sizes of a few bytes"
)]

use std::{
    ffi::{c_char, c_void},
    ptr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use npfs::{BrokerOptions, NtStatus};
use npfs_ffi::{nt::*, numbers::*, objects::*, types::*, win32::*};

/// xorshift64*: what it gives is the test's to repeat.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 32) as usize % bound
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Small, a power of two or next to one, or anything.
    fn number(&mut self) -> u32 {
        match self.below(4) {
            0 => self.below(8) as u32,
            1 => (1_u32 << self.below(32)).wrapping_sub(self.below(2) as u32),
            2 => self.of(&[0x17, 0x18, 0x1F_01FF, 0xC000_0000, 0x8010_0000, 3, 5]),
            _ => self.next() as u32,
        }
    }

    /// One of these mostly, else anything.
    fn mostly(&mut self, all: &[u32]) -> u32 {
        if self.one_in(24) {
            self.number()
        } else {
            self.of(all)
        }
    }

    /// A time in milliseconds that a test can wait.
    fn time(&mut self) -> u32 {
        self.of(&[1, 1, 1, 2])
    }
}

/// Mapped memory, to point into: calls that pend write there at any time, so that no reference to it exists.
struct Arena {
    base: *mut u8,
    length: usize,
}

/// Where lengths up to this are mapped from any place in the first half on.
const ROOM: usize = 64 << 10;

impl Arena {
    fn new() -> Arena {
        // Room for the largest buffer that is taken; the pages are there once somebody writes.
        let length = (1 << 31) + ROOM;
        // SAFETY: a mapping of its own, which stays until the process ends.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert_ne!(base, libc::MAP_FAILED);
        Arena {
            base: base.cast(),
            length,
        }
    }

    /// NULL, misaligned, or a place for a `T`.
    fn place<T>(&self, random: &mut Random) -> *mut T {
        if random.one_in(24) {
            return ptr::null_mut();
        }
        let at = random.below(ROOM / 2) & !15;
        let at = at + usize::from(random.one_in(24));
        self.base.wrapping_add(at).cast()
    }

    /// A buffer to write to, with a length that is mapped, or larger than any that is taken.
    fn output(&self, random: &mut Random) -> (*mut c_void, u32) {
        let length = match random.below(8) {
            0 => 0,
            1 => 0x8000_0000 | random.next() as u32,
            2 => 0x7FFF_FFFF,
            3 => 16 + random.below(64) as u32,
            _ => random.below(ROOM / 2) as u32,
        };
        assert!(length as usize + ROOM / 2 <= self.length || length > 0x7FFF_FFFF);
        (self.place(random), length)
    }

    /// One to read from.
    fn input(&self, random: &mut Random) -> (*mut c_void, u32) {
        let length = match random.below(8) {
            0 => 0,
            1 => 0x8000_0000 | random.next() as u32,
            2 => random.below(ROOM / 2) as u32,
            _ => random.below(100) as u32,
        };
        (self.place(random), length)
    }
}

/// What was opened, and what was closed since.
struct Handles {
    live: Mutex<Vec<npfs_handle>>,
    /// Those that are files.
    files: Vec<npfs_handle>,
    dead: Vec<npfs_handle>,
    names: npfs_handle,
    broker: npfs_handle,
}

impl Handles {
    fn any(&self, random: &mut Random) -> npfs_handle {
        match random.below(16) {
            0 => random.next(),
            1 => 0,
            2 if !self.dead.is_empty() => random.of(&self.dead),
            3 => self.names,
            4 => self.broker,
            5..=13 if !self.files.is_empty() => random.of(&self.files),
            _ => {
                let live = self.live.lock().expect("no panic");
                if live.is_empty() { 0 } else { random.of(&live) }
            }
        }
    }

    fn names(&self, random: &mut Random) -> npfs_handle {
        if random.one_in(10) {
            self.any(random)
        } else {
            self.names
        }
    }

    fn is_live(&self, handle: npfs_handle) -> bool {
        self.live.lock().expect("no panic").contains(&handle)
    }

    fn opened(&self, handle: npfs_handle) {
        self.live.lock().expect("no panic").push(handle);
    }

    fn closed(&mut self, handle: npfs_handle) {
        self.live
            .lock()
            .expect("no panic")
            .retain(|live| *live != handle);
        self.files.retain(|file| *file != handle);
        self.dead.push(handle);
        if self.dead.len() > 64 {
            self.dead.remove(0);
        }
    }
}

unsafe extern "C" fn routine(_: *mut c_void, _: *mut npfs_io_status_block, _: u32) {
    CALLED.fetch_add(1, Ordering::Relaxed);
}

static CALLED: AtomicU64 = AtomicU64::new(0);

const TEXTS: [&std::ffi::CStr; 12] = [
    c"a",
    c"b",
    c"c",
    c"",
    c"\\\\.\\pipe\\a",
    c"\\??\\pipe\\a",
    c"\\??\\pipe\\b",
    c"\\??\\pipe\\c",
    c"\\Device\\NamedPipe\\",
    c"\\Device\\NamedPipe",
    c"\\nowhere",
    c"\xFF\xFE",
];

/// One of these mostly.
fn text(random: &mut Random, mostly: &[&'static std::ffi::CStr]) -> *const c_char {
    match random.below(24) {
        0 => ptr::null(),
        1..=3 => random.of(&TEXTS).as_ptr(),
        _ => random.of(mostly).as_ptr(),
    }
}

const NAMES: [&std::ffi::CStr; 3] = [c"a", c"b", c"c"];
const PATHS: [&std::ffi::CStr; 4] = [
    c"\\??\\pipe\\a",
    c"\\??\\pipe\\b",
    c"\\??\\pipe\\c",
    c"\\Device\\NamedPipe\\",
];

/// Attributes that mostly make sense.
fn attributes(random: &mut Random, handles: &Handles, arena: &Arena) -> npfs_object_attributes {
    let wild = random.one_in(16);
    let (descriptor, security_length) = arena.input(random);
    npfs_object_attributes {
        length: match random.one_in(24) {
            true => random.number(),
            false => size_of::<npfs_object_attributes>() as u32,
        },
        name_length: if wild { random.number() & 0x7FFF } else { 0 },
        name: if wild {
            arena.place(random)
        } else {
            ptr::null()
        },
        path: text(random, &PATHS),
        root_directory: if wild { handles.any(random) } else { 0 },
        security_descriptor: if wild { descriptor } else { ptr::null_mut() },
        security_length,
        quality: random.number(),
        attributes: match random.one_in(8) {
            true => random.number(),
            false => 0,
        },
        reserved: u32::from(random.one_in(64)),
    }
}

/// How many kinds of calls there are below.
const CALLS: usize = 47;

/// One call with random arguments. `out` is where a new handle goes.
///
/// Every pointer is NULL, misaligned, or into the arena or a constant, with a length that is mapped there or refused.
fn one_call(
    which: usize,
    random: &mut Random,
    handles: &mut Handles,
    arena: &Arena,
) -> npfs_status {
    let mut made: npfs_handle = 0;
    let null = random.one_in(20);
    let out: *mut npfs_handle = if null { ptr::null_mut() } else { &raw mut made };
    let handle = handles.any(random);
    let event = if random.one_in(2) {
        0
    } else {
        handles.any(random)
    };
    let callback: npfs_io_callback = random.one_in(4).then_some(routine as _);
    let context: *mut c_void = arena.place(random);
    let iosb = arena.place(random);
    let (output, output_length) = arena.output(random);
    let (input, input_length) = arena.input(random);
    let word: *mut u32 = arena.place(random);
    let number = random.number();
    let at = attributes(random, handles, arena);
    let at = if null { ptr::null() } else { &raw const at };
    let duration = -10_000_i64;
    // SAFETY: as the comment above says; new handles go to `made`.
    let status = unsafe {
        match which {
            0..=2 => npfs_create_named_pipe(
                handles.names(random),
                out,
                random.mostly(&[0xC010_0000]),
                at,
                iosb,
                random.mostly(&[3]),
                random.mostly(&[3]),
                random.mostly(&[0, 0, 0, 0x20]),
                random.mostly(&[1]),
                random.mostly(&[1, 1, 0]),
                random.mostly(&[0, 0, 0, 1]),
                random.mostly(&[255]),
                random.of(&[64, 4096, number & 0xF_FFFF]),
                random.of(&[64, 4096, number & 0xF_FFFF]),
                if null {
                    ptr::null()
                } else {
                    &raw const duration
                },
            ),
            3..=5 => npfs_open_file(
                handles.names(random),
                out,
                random.mostly(&[0xC010_0000]),
                at,
                iosb,
                number,
                random.mostly(&[0, 0, 0, 0x20]),
            ),
            6 | 7 => npfs_read_file(
                handle,
                event,
                callback,
                context,
                iosb,
                output,
                output_length,
            ),
            8 | 9 => npfs_write_file(handle, event, callback, context, iosb, input, input_length),
            10..=12 => {
                const CODES: [u32; 12] = [
                    NPFS_FSCTL_PIPE_LISTEN,
                    NPFS_FSCTL_PIPE_DISCONNECT,
                    NPFS_FSCTL_PIPE_PEEK,
                    NPFS_FSCTL_PIPE_TRANSCEIVE,
                    NPFS_FSCTL_PIPE_WAIT,
                    NPFS_FSCTL_PIPE_FLUSH,
                    NPFS_FSCTL_PIPE_IMPERSONATE,
                    NPFS_FSCTL_PIPE_QUERY_CLIENT_PROCESS,
                    NPFS_FSCTL_PIPE_GET_PIPE_ATTRIBUTE,
                    NPFS_FSCTL_PIPE_GET_CONNECTION_ATTRIBUTE,
                    NPFS_FSCTL_PIPE_INTERNAL_READ,
                    NPFS_FSCTL_PIPE_INTERNAL_WRITE,
                ];
                let code = if random.one_in(8) {
                    number
                } else {
                    random.of(&CODES)
                };
                npfs_fs_control_file(
                    handle,
                    event,
                    callback,
                    context,
                    iosb,
                    code,
                    input,
                    input_length,
                    output,
                    output_length,
                )
            }
            13 => npfs_flush_buffers_file(handle, iosb),
            14 => npfs_cancel_io_file(handle, iosb),
            15 => npfs_cancel_io_file_ex(handle, iosb, arena.place(random)),
            16 => npfs_cancel_synchronous_io_file(handle, iosb, arena.place(random)),
            17 => npfs_open_current_thread(out),
            18 => npfs_query_information_file(handle, iosb, output, output_length, number & 63),
            19 => npfs_set_information_file(
                handle,
                iosb,
                input,
                input_length,
                random.of(&[23, 41, number]),
            ),
            20 => {
                npfs_query_volume_information_file(handle, iosb, output, output_length, number & 15)
            }
            21 => npfs_query_directory_file(
                handle,
                iosb,
                output,
                output_length,
                random.of(&[1, 2, 3, 12, number]),
                number as u8,
                arena.place(random),
                number & 0xFF,
                random.below(2) as u8,
            ),
            22 => npfs_query_object_name(handle, output.cast(), output_length, word),
            23 => npfs_query_security_object(handle, number, output, output_length, word),
            24 => npfs_set_security_object(handle, number, input, input_length),
            25 => npfs_query_impersonation(arena.place(random)),
            26 => npfs_revert_to_self(),
            27 => npfs_duplicate_object(handle, number, random.of(&[0, 2, 2]), out),
            28 => npfs_give(handle, number, number, output.cast(), output_length),
            29 if random.below(2) == 0 => {
                let room = output.cast();
                npfs_give_to_user(handle, number, number, number, room, output_length)
            }
            29 => npfs_take(handles.names(random), text(random, &NAMES), out),
            30 => npfs_set_callbacks_may_wait(handle, number as u8),
            31 => npfs_abi(word, arena.place(random)),
            // Whatever stands there.
            32 => {
                let _ = npfs_io_status(iosb);
                NPFS_STATUS_SUCCESS
            }
            33 => {
                assert!(npfs_status_name(number, output.cast(), output_length) > 8);
                NPFS_STATUS_SUCCESS
            }
            // To nowhere: what NULL starts is not this test's.
            34 => npfs_namespace_open(c"/nowhere/at/all".as_ptr(), out),
            35 => npfs_broker_connect(handle, out),
            36 => npfs_event_create(out),
            37 => match random.below(3) {
                0 => npfs_event_set(handle),
                1 => npfs_event_reset(handle),
                _ => npfs_event_is_set(handle, arena.place(random)),
            },
            38 => npfs_port_create(number, out),
            39 => match random.below(3) {
                0 => npfs_port_associate(handle, handles.any(random), 7),
                1 => npfs_port_post(handle, 1, context, number, 2),
                _ => {
                    let most = random.of(&[0, 1, 16, u32::MAX]);
                    npfs_port_wait(handle, arena.place(random), most, word, random.time())
                }
            },
            40 => {
                let several: [npfs_handle; 3] = [handle, event, handles.any(random)];
                let count = random.of(&[0, 1, 2, 3, u32::MAX]);
                let array = if null { ptr::null() } else { several.as_ptr() };
                npfs_wait(array, count, random.time(), word)
            }
            41 => npfs_connect(
                handles.names(random),
                text(random, &NAMES),
                random.mostly(&[0]),
                random.mostly(&[0, 0, 0x20]),
                random.time(),
                out,
            ),
            42 => match random.below(2) {
                0 => npfs_wait_pipe(handles.names(random), text(random, &NAMES), random.time()),
                _ => npfs_call(
                    handles.names(random),
                    text(random, &NAMES),
                    input,
                    input_length,
                    output,
                    output_length,
                    word,
                    random.time(),
                ),
            },
            43 => match random.below(2) {
                0 => npfs_listen(handle),
                _ => npfs_disconnect(handle),
            },
            44 => match random.below(3) {
                0 => npfs_read(handle, output, output_length, word),
                1 => npfs_write(handle, input, input_length, word),
                _ => npfs_transact(handle, input, input_length, output, output_length, word),
            },
            45 => match random.below(3) {
                0 => npfs_peek(
                    handle,
                    output,
                    output_length,
                    word,
                    word,
                    arena.place(random),
                ),
                1 => npfs_get_handle_state(handle, word, arena.place(random), arena.place(random)),
                _ => npfs_set_handle_state(handle, word, arena.place(random)),
            },
            _ => {
                let full = handles.live.lock().expect("no panic").len() > 40;
                let mut status = NPFS_STATUS_SUCCESS;
                for _ in 0..if full { 10 } else { 1 } {
                    let handle = handles.any(random);
                    if handle != handles.names && handle != handles.broker {
                        // Who cancels must not take a new handle for it, and there is none: they are never used twice.
                        status = npfs_close(handle);
                        assert!(status == NPFS_STATUS_SUCCESS || !handles.is_live(handle));
                        handles.closed(handle);
                    }
                }
                status
            }
        }
    };
    if made != 0 {
        assert_eq!(status, NPFS_STATUS_SUCCESS, "written on success only");
        handles.opened(made);
        if matches!(which, 0..=5 | 29 | 41) {
            handles.files.push(made);
        }
    }
    status
}

#[test]
fn every_vector_gets_a_status() {
    let count = match std::env::var_os("NPFS_LONG") {
        Some(_) => 1_000_000,
        None => 20_000,
    };
    let seed = std::env::var("NPFS_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok()).unwrap_or(1_u64);
    let mut random = Random(seed.max(1));
    let folder = std::env::temp_dir().join(format!("npfs-random-{}", std::process::id()));
    let socket = folder.join("broker.sock");
    let _broker = BrokerOptions::new()
        .socket(&socket)
        .start()
        .expect("a broker");
    let socket = std::ffi::CString::new(socket.to_str().expect("a path")).expect("a path");
    let (mut names, mut broker) = (0, 0);
    // SAFETY: both are written; the path ends with a NUL.
    unsafe {
        assert_eq!(npfs_namespace_open(socket.as_ptr(), &raw mut names), 0);
        assert_eq!(npfs_broker_start(ptr::null(), &raw mut broker), 0);
    }
    let mut handles = Handles {
        live: Mutex::default(),
        files: Vec::new(),
        dead: Vec::new(),
        names,
        broker,
    };
    let arena = Arena::new();
    let over = AtomicBool::new(false);
    let started = Instant::now();
    let turn = AtomicU64::new(0);
    let main_thread = {
        let mut thread = 0;
        // SAFETY: it is written.
        assert_eq!(unsafe { npfs_open_current_thread(&raw mut thread) }, 0);
        thread
    };
    let mut seen = std::collections::BTreeMap::<u32, u64>::new();
    thread::scope(|scope| {
        // Calls that wait without a time of their own end by this.
        scope.spawn(|| {
            let mut before = u64::MAX;
            while !over.load(Ordering::SeqCst) {
                let now = turn.load(Ordering::SeqCst);
                if now == before {
                    let none = ptr::null_mut();
                    // SAFETY: nothing is pointed to.
                    unsafe { npfs_cancel_synchronous_io_file(main_thread, none, none) };
                    let files = FILES.lock().expect("no panic").clone();
                    for file in files {
                        // SAFETY: as above.
                        unsafe { npfs_cancel_io_file_ex(file, none, none) };
                    }
                }
                before = now;
                thread::sleep(Duration::from_millis(1));
            }
        });
        for vector in 0..count {
            FILES
                .lock()
                .expect("no panic")
                .clone_from(&handles.live.lock().expect("no panic"));
            turn.fetch_add(1, Ordering::SeqCst);
            let mut which = random.below(CALLS);
            // Files are what most calls are about: of other things a few will do.
            let others = handles.live.lock().expect("no panic").len() - handles.files.len();
            while others > 8 && matches!(which, 17 | 27 | 35 | 36 | 38) {
                which = random.below(CALLS);
            }
            let status = one_call(which, &mut random, &mut handles, &arena);
            let name = NtStatus(status).name();
            let known = [0xC000_0005, 0x8000_0002, 0xC000_0035].contains(&status);
            assert!(
                name.is_some() || known,
                "seed {seed}, vector {vector}, call {which}: {status:#x}"
            );
            *seen.entry(status).or_default() += 1;
            assert!(
                started.elapsed() < Duration::from_secs(1500),
                "too slow: {vector} vectors"
            );
        }
        over.store(true, Ordering::SeqCst);
    });
    for handle in handles.live.lock().expect("no panic").drain(..) {
        assert_eq!(npfs_close(handle), NPFS_STATUS_SUCCESS);
    }
    assert_eq!(npfs_close(names), 0);
    assert_eq!(npfs_close(broker), 0);
    let _ = std::fs::remove_dir_all(folder);
    println!(
        "{count} vectors in {:?}, {} routines called; statuses: {:?}",
        started.elapsed(),
        CALLED.load(Ordering::Relaxed),
        seen.iter()
            .map(|(status, count)| (NtStatus(*status).to_string(), count))
            .collect::<Vec<_>>()
    );
    assert!(seen.len() > 15, "{seen:?}");
}

/// What is open, for who ends calls that would wait for ever.
static FILES: Mutex<Vec<npfs_handle>> = Mutex::new(Vec::new());

#[test]
fn a_handle_that_another_thread_closes_is_a_status_ever_after() {
    let (mut broker, mut names) = (0, 0);
    // SAFETY: both are written.
    unsafe {
        assert_eq!(npfs_broker_start(ptr::null(), &raw mut broker), 0);
        assert_eq!(npfs_broker_connect(broker, &raw mut names), 0);
    }
    for _ in 0..200 {
        let mut server = 0;
        let at = npfs_object_attributes {
            length: size_of::<npfs_object_attributes>() as u32,
            name_length: 0,
            name: ptr::null(),
            path: c"\\??\\pipe\\closed".as_ptr(),
            root_directory: 0,
            security_descriptor: ptr::null(),
            security_length: 0,
            quality: 0,
            attributes: 0,
            reserved: 0,
        };
        let timeout = -10_000;
        // SAFETY: what is pointed to is alive, and `server` is written.
        let made = unsafe {
            npfs_create_named_pipe(
                names,
                &raw mut server,
                0xC010_0000,
                &raw const at,
                ptr::null_mut(),
                3,
                2,
                0,
                1,
                1,
                0,
                1,
                64,
                64,
                &raw const timeout,
            )
        };
        assert_eq!(made, NPFS_STATUS_SUCCESS);
        let closed = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(npfs_close(server), NPFS_STATUS_SUCCESS);
                closed.store(true, Ordering::SeqCst);
            });
            loop {
                let was_closed = closed.load(Ordering::SeqCst);
                let mut block = npfs_io_status_block {
                    status: 0,
                    information: 0,
                };
                let mut buffer = [0_u8; 8];
                let buffer: *mut c_void = (&raw mut buffer).cast();
                // SAFETY: nothing pends: a server end without a client refuses a read at once, and a closed one, too.
                let read = unsafe {
                    let none = ptr::null_mut();
                    npfs_read_file(server, 0, None, none, &raw mut block, buffer, 8)
                };
                let gone = [NPFS_STATUS_INVALID_HANDLE, NPFS_STATUS_PIPE_BROKEN];
                assert!(
                    read == NPFS_STATUS_PIPE_LISTENING || gone.contains(&read),
                    "{read:#x}"
                );
                if was_closed {
                    assert_eq!(read, NPFS_STATUS_INVALID_HANDLE);
                    break;
                }
            }
        });
    }
    assert_eq!(npfs_close(names), 0);
    assert_eq!(npfs_close(broker), 0);
}

//! What a call from C costs beyond the same call from Rust: write and read of 64 bytes, both done at once, by turns in one
//! thread; `npfs.h` against `npfs::nt`, `npfs_host.h` against `npfs_ringbuf`. `cargo run --release -p npfs-ffi --example cost`.

use std::{
    ffi::c_void,
    os::fd::IntoRawFd,
    ptr,
    time::{Duration, Instant},
};

use npfs::{BrokerOptions, Mask, NtStatus, nt::*};
use npfs_ffi::{
    host::{client::*, types::*},
    nt::*,
    objects::*,
    types::*,
    win32::*,
};
use npfs_ringbuf::{
    Conn, Link, PipeType,
    books::{ConnSpec, LinkBooks, LinkConfig},
};

const CALLS: u32 = 20_000;
const ROUNDS: usize = 51;

fn main() {
    program_level();
    host_level();
}

fn host_level() {
    unsafe extern "C" fn copy_in(_: *mut c_void, to: *mut c_void, from: usize, len: usize) -> i32 {
        // SAFETY: the addresses below are of buffers that are there.
        unsafe { ptr::copy_nonoverlapping(from as *const u8, to.cast(), len) };
        1
    }
    unsafe extern "C" fn copy_out(
        _: *mut c_void,
        to: usize,
        from: *const c_void,
        len: usize,
    ) -> i32 {
        // SAFETY: as above.
        unsafe { ptr::copy_nonoverlapping(from.cast::<u8>(), to as *mut u8, len) };
        1
    }
    let ops = npfs_host_ops {
        size: size_of::<npfs_host_ops>(),
        context: ptr::null_mut(),
        copy_in: Some(copy_in),
        copy_out: Some(copy_out),
        complete: None,
        start_pump: None,
    };
    // SAFETY: it can be read, and the functions do what they are for.
    assert_eq!(unsafe { npfs_host_init(&raw const ops) }, NPFS_HOST_OK);
    let mut books = LinkBooks::create(&LinkConfig::default()).expect("a link");
    let me = books.add_process(None).expect("an index");
    let link = Link::attach(books.share().expect("a descriptor"), me).expect("the link");
    let mut ends = || {
        let spec = ConnSpec::new(PipeType::Message, 4096);
        let (_, server, client) = books.connect(&spec, me, me).expect("a connection");
        [server, client]
    };
    let [server, client] = ends().map(|grant| Conn::open(&link, &grant).expect("an end"));
    let data = [7; 64];
    let rust = || {
        assert_eq!(client.try_write(&data), Ok(64));
        let mut buffer = [0_u8; 64];
        assert_eq!(
            server.try_read(&mut buffer).map(|read| read.count()),
            Ok(64)
        );
    };
    let mut known = false;
    let [c_server, c_client] = ends().map(|grant| {
        let end = npfs_host_end {
            link: books.token(),
            process: me.get().into(),
            side: NPFS_HOST_CLIENT,
            grant: grant.to_bytes(),
        };
        let memfd = if std::mem::replace(&mut known, true) {
            -1
        } else {
            books.share().expect("a descriptor").into_raw_fd()
        };
        let mut conn = 0;
        // SAFETY: both are there, and the descriptor is the library's from here on.
        let attached = unsafe { npfs_host_attach(memfd, &raw const end, &raw mut conn) };
        assert_eq!(attached, NPFS_HOST_OK);
        conn
    });
    let c = || {
        let mut buffer = [0_u8; 64];
        let (from, to) = (data.as_ptr() as usize, buffer.as_mut_ptr() as usize);
        let mut count = 0;
        // SAFETY: what is pointed to is alive.
        unsafe {
            let wrote = npfs_host_try_write(c_client, from, 64, &raw mut count);
            let read = npfs_host_try_read(c_server, to, 64, &raw mut count);
            assert_eq!((wrote, read, count), (0, 0, 64));
        }
    };
    compare("npfs_ringbuf", &rust, "npfs_host.h", &c);
}

fn program_level() {
    let broker = BrokerOptions::new().workers(1).start().expect("a broker");
    let nt = Nt::new(broker.connect().expect("a client"));
    let path = units(r"\??\pipe\rust");
    let at = Attributes::named(&path);
    let created = nt.create_named_pipe(&at, &CreatePipe::default());
    let (server, _) = created.expect("a pipe");
    let both = Mask::GENERIC_READ | Mask::GENERIC_WRITE;
    let (client, _) = nt.open_file(&at, both, 1, 0).expect("its client");
    let data = [7; 64];
    let rust = || {
        let io = Io::default();
        assert_eq!(nt.write_file(client, &io, &data), NtStatus::SUCCESS);
        let (io, buffer) = (Io::default(), Buffer::new(64));
        assert_eq!(nt.read_file(server, &io, &buffer), NtStatus::SUCCESS);
    };

    let (mut own, mut names, mut c_server, mut c_client) = (0, 0, 0, 0);
    let at = npfs_object_attributes {
        length: u32::try_from(size_of::<npfs_object_attributes>()).expect("small"),
        name_length: 0,
        name: ptr::null(),
        path: c"\\??\\pipe\\c".as_ptr(),
        root_directory: 0,
        security_descriptor: ptr::null(),
        security_length: 0,
        quality: 0,
        attributes: 0,
        reserved: 0,
    };
    let timeout = -500_000;
    let none = ptr::null_mut();
    // SAFETY: all that is pointed to is alive.
    unsafe {
        assert_eq!(npfs_broker_start(ptr::null(), &raw mut own), 0);
        assert_eq!(npfs_broker_connect(own, &raw mut names), 0);
        let made = npfs_create_named_pipe(
            names,
            &raw mut c_server,
            0xC010_0000,
            &raw const at,
            ptr::null_mut(),
            3,
            3,
            0,
            1,
            1,
            0,
            1,
            4096,
            4096,
            &raw const timeout,
        );
        assert_eq!(made, 0);
        let opened = npfs_connect(names, c"c".as_ptr(), 0, 0, 1000, &raw mut c_client);
        assert_eq!(opened, 0);
    }
    let c = || {
        let mut block = npfs_io_status_block {
            status: 0,
            information: 0,
        };
        let mut buffer = [0_u8; 64];
        let from: *const c_void = (&raw const data).cast();
        let to: *mut c_void = (&raw mut buffer).cast();
        let block = &raw mut block;
        // SAFETY: neither call pends, and what is pointed to is alive.
        unsafe {
            let wrote = npfs_write_file(c_client, 0, None, none, block, from, 64);
            let read = npfs_read_file(c_server, 0, None, none, block, to, 64);
            assert_eq!((wrote, read), (0, 0));
        }
    };

    compare("npfs::nt", &rust, "npfs.h", &c);
}

fn compare(rust_name: &str, rust: &dyn Fn(), c_name: &str, c: &dyn Fn()) {
    let time = |call: &dyn Fn()| {
        let start = Instant::now();
        (0..CALLS).for_each(|_| call());
        start.elapsed()
    };
    let mut of_rust = Vec::new();
    let mut of_c = Vec::new();
    for _ in 0..ROUNDS {
        of_rust.push(time(rust));
        of_c.push(time(c));
    }
    of_rust.sort();
    of_c.sort();
    let each = |times: &[Duration]| times[ROUNDS / 2].as_secs_f64() * 1e9 / f64::from(CALLS) / 2.0;
    println!(
        "a call, median of {ROUNDS} rounds: {rust_name} {:.1} ns, {c_name} {:.1} ns",
        each(&of_rust),
        each(&of_c)
    );
}

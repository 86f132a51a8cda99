//! What a call through `npfs.h` costs beyond the same call of `npfs::nt`: write and read of 64 bytes, both done at once, by turns in
//! one thread. `cargo run --release -p npfs-ffi --example cost`.

use std::{
    ffi::c_void,
    ptr,
    time::{Duration, Instant},
};

use npfs::{BrokerOptions, Mask, NtStatus, nt::*};
use npfs_ffi::{nt::*, objects::*, types::*, win32::*};

const CALLS: u32 = 20_000;
const ROUNDS: usize = 51;

fn main() {
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

    let time = |call: &dyn Fn()| {
        let start = Instant::now();
        (0..CALLS).for_each(|_| call());
        start.elapsed()
    };
    let mut of_rust = Vec::new();
    let mut of_c = Vec::new();
    for _ in 0..ROUNDS {
        of_rust.push(time(&rust));
        of_c.push(time(&c));
    }
    of_rust.sort();
    of_c.sort();
    let each = |times: &[Duration]| times[ROUNDS / 2].as_secs_f64() * 1e9 / f64::from(CALLS) / 2.0;
    println!(
        "a call, median of {ROUNDS} rounds: npfs::nt {:.1} ns, npfs.h {:.1} ns",
        each(&of_rust),
        each(&of_c)
    );
}

//! The native layer: handles, status blocks, events, and the NTSTATUS of every call. Sections 1 to 26 of the specification
//! as a program written against ntdll meets them.
//!
//! Tests with two ends run twice: with both in one handle table, and in two that only share the broker.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use npfs::npfs::{Quality, SecurityParts};
use npfs::nt::*;
use npfs::security::{SecurityDescriptor, Sid};
use npfs::{Broker, BrokerOptions, Deadline, Mask, NtStatus};
use npfs_tests::{Remote, Site, Table, child_exe, eventually};

const BOTH: Mask = Mask::GENERIC_READ.union(Mask::GENERIC_WRITE);
const SECOND: Duration = Duration::from_secs(1);
/// What a status block holds that nobody has written to.
const UNTOUCHED: (NtStatus, usize) = (NtStatus(0xDEAD_BEEF), 0xDEAD);

/// Two handle tables of one broker, and how the second comes to the first one's pipes.
struct World {
    near: Table,
    far: Table,
    broker: Broker,
}

impl World {
    fn new() -> World {
        let broker = BrokerOptions::new().workers(2).start().expect("a broker");
        let (near, far) = Table::here(table(&broker), table(&broker));
        World { near, far, broker }
    }
}

fn table(broker: &Broker) -> Nt {
    Nt::new(broker.connect().expect("a client"))
}

/// Once with both ends in one table, once in two.
fn both_ways(test: impl Fn(&Table, &Table)) {
    let world = World::new();
    test(&world.near, &world.near.clone());
    let world = World::new();
    test(&world.near, &world.far);
}

/// And with the ends in two processes, each once in either.
fn everywhere(test: impl Fn(&Table, &Table)) {
    both_ways(&test);
    apart(|here, there| test(here, there));
    apart(|here, there| test(there, here));
}

/// And with the far one in another process: for what is not mirrored from there, waits for ports and what a thread is.
fn near_here(test: impl Fn(&Table, &Table)) {
    both_ways(&test);
    apart(|here, there| test(here, there));
}

/// And with the near one in another process.
fn far_here(test: impl Fn(&Table, &Table)) {
    both_ways(&test);
    apart(|here, there| test(there, here));
}

/// A table of this process, and one of another.
fn apart(test: impl Fn(&Table, &Table)) {
    let site = Site::start(BrokerOptions::new().workers(2));
    let remote = Remote::spawn(child_exe!(), &site.socket);
    let (here, there) = Table::there(table(site.broker()), &remote);
    test(&here, &there);
}

fn path(name: &str) -> Vec<u16> {
    units(&format!(r"\??\pipe\{name}"))
}

fn create(nt: &Table, name: &str, with: impl FnOnce(&mut CreatePipe)) -> NtResult<Handle> {
    let mut create = CreatePipe::default();
    with(&mut create);
    let made = nt.create_named_pipe(&Attributes::named(&path(name)), &create);
    made.map(|(handle, _)| handle)
}

fn open(nt: &Table, name: &str, access: Mask) -> NtResult<Handle> {
    let access = access | Mask::SYNCHRONIZE | Mask::FILE_READ_ATTRIBUTES;
    open_at(nt, &Attributes::named(&path(name)), access)
}

fn open_at(nt: &Table, at: &Attributes<'_>, access: Mask) -> NtResult<Handle> {
    let opened = nt.open_file(at, access, 1, 0);
    opened.map(|(handle, information)| {
        assert_eq!(information, FILE_OPENED);
        handle
    })
}

fn volume(nt: &Table) -> Handle {
    let name = units(r"\Device\NamedPipe");
    open_at(nt, &Attributes::named(&name), BOTH).expect("the volume")
}

fn root(nt: &Table) -> Handle {
    let name = units(r"\Device\NamedPipe\");
    open_at(nt, &Attributes::named(&name), BOTH).expect("the root")
}

/// A connected pair: server, client.
fn pair(near: &Table, far: &Table, with: impl FnOnce(&mut CreatePipe)) -> (Handle, Handle) {
    let server = create(near, "pipe", with).expect("create");
    let client = open(far, "pipe", BOTH).expect("open");
    (server, client)
}

fn untouched() -> Io {
    Io {
        event: Some(Event::new()),
        status: StatusBlock::new(UNTOUCHED.0, UNTOUCHED.1),
        context: 0,
        callback: None,
    }
}

fn block(io: &Io) -> (NtStatus, usize) {
    (io.status.status(), io.status.information())
}

fn control(nt: &Table, handle: Handle, code: Control) -> NtStatus {
    nt.fs_control_file(handle, &untouched(), code, &[], &Buffer::new(64))
}

fn read(nt: &Table, handle: Handle, room: usize) -> (NtStatus, Io, Buffer) {
    let (io, buffer) = (untouched(), Buffer::new(room));
    (nt.read_file(handle, &io, &buffer), io, buffer)
}

fn write(nt: &Table, handle: Handle, data: &[u8]) -> (NtStatus, Io) {
    let io = untouched();
    (nt.write_file(handle, &io, data), io)
}

/// Waits for an event, with patience for a busy machine.
fn awaited(nt: &Table, io: &Io) -> (NtStatus, usize) {
    let event = io.event.clone().expect("an event");
    let waited = nt.wait(&[Waitable::Event(event)], Deadline::after(5 * SECOND));
    assert_eq!(waited, Ok(0));
    block(io)
}

fn query<const N: usize>(
    nt: &Table,
    handle: Handle,
    class: InfoClass,
) -> Result<[u8; N], NtStatus> {
    let (status, mut out) = (StatusBlock::default(), [0xAA; N]);
    match nt.query_information_file(handle, &status, class, &mut out) {
        NtStatus::SUCCESS => {
            assert_eq!(status.information(), N);
            Ok(out)
        }
        other => Err(other),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// FILE_PIPE_LOCAL_INFORMATION, number by number.
fn local(nt: &Table, handle: Handle) -> Result<[u32; 10], NtStatus> {
    let bytes: [u8; 40] = query(nt, handle, InfoClass::PIPE_LOCAL)?;
    Ok(std::array::from_fn(|index| word(&bytes, 4 * index)))
}

fn set_modes(nt: &Table, handle: Handle, read: u32, completion: u32) -> NtStatus {
    let data = [read.to_le_bytes(), completion.to_le_bytes()].concat();
    nt.set_information_file(handle, &StatusBlock::default(), InfoClass::PIPE, &data)
}

const QUEUE: u32 = 0;
const COMPLETE: u32 = 1;

// ---- 1: numbers ----------------------------------------------------------------------------------------------------

#[test]
fn np_num_01_a_control_code_says_what_rights_it_needs() {
    everywhere(|near, far| {
        create(near, "pipe", |_| ()).expect("create");
        let client = open(far, "pipe", Mask::GENERIC_WRITE).expect("open");
        // Before any state: a peek of an empty pipe would succeed.
        assert_eq!(control(far, client, Control::PEEK), NtStatus::ACCESS_DENIED);
        assert_eq!(
            control(far, client, Control::TRANSCEIVE),
            NtStatus::ACCESS_DENIED
        );
        assert_eq!(control(far, client, Control::FLUSH), NtStatus::SUCCESS);
    });
    for code in Control::ALL {
        let needs = code.needs();
        assert_eq!(
            needs.contains(Mask::FILE_READ_DATA),
            code.0 >> 14 & 1 != 0,
            "{code:?}"
        );
    }
}

#[test]
fn np_num_02_03_codes_that_pipes_do_not_know() {
    let world = World::new();
    let server = create(&world.near, "pipe", |_| ()).expect("create");
    for code in [
        Control(0x0011_0048),
        Control(0x0009_0000),
        Control(0),
        Control(0x0011_FFFF & !0xC000),
        Control::ASSIGN_EVENT,
        Control::QUERY_EVENT,
        Control::SET_CLIENT_PROCESS,
    ] {
        let io = untouched();
        let status = world
            .near
            .fs_control_file(server, &io, code, &[], &Buffer::new(64));
        assert_eq!(status, NtStatus::NOT_SUPPORTED, "{code:?}");
        assert_eq!(block(&io), UNTOUCHED);
    }
}

// ---- 3: names ------------------------------------------------------------------------------------------------------

#[test]
fn np_name_01_three_ways_to_one_object() {
    let world = World::new();
    create(&world.near, "Same", |create| create.max_instances = 3).expect("create");
    for prefix in [r"\??\pipe\", r"\DosDevices\PIPE\", r"\device\NamedPipe\"] {
        let name = units(&format!("{prefix}same"));
        let made = world
            .far
            .create_named_pipe(&Attributes::named(&name), &CreatePipe::default());
        match made {
            Ok((_, information)) => assert_eq!(information, FILE_OPENED, "{prefix}"),
            Err(status) => assert_eq!(status, NtStatus::INSTANCE_NOT_AVAILABLE, "{prefix}"),
        }
    }
    let elsewhere = units(r"\Device\NamedPipeX\same");
    let at = Attributes::named(&elsewhere);
    let opened = open_at(&world.far, &at, BOTH);
    assert_eq!(opened, Err(NtStatus::OBJECT_NAME_NOT_FOUND));
}

#[test]
fn np_name_07_08_09_the_device_is_no_pipe() {
    let world = World::new();
    let make = |name: &str| {
        let name = units(name);
        world
            .near
            .create_named_pipe(&Attributes::named(&name), &CreatePipe::default())
    };
    let invalid = Err(NtStatus::OBJECT_NAME_INVALID);
    assert_eq!(make(r"\Device\NamedPipe"), invalid);
    assert_eq!(make(r"\Device\NamedPipe\"), invalid);
    assert_eq!(make("no path"), invalid);
    let (_, information) = make(r"\Device\NamedPipe\\").expect("a backslash is a name");
    assert_eq!(information, FILE_CREATED);
    assert_ne!(volume(&world.near), root(&world.near));
}

#[test]
fn np_name_10_11_relative_to_the_device() {
    let world = World::new();
    let nt = &world.near;
    let (volume, root) = (volume(nt), root(nt));
    let make = |root: Handle, name: &str, disposition: u32| {
        let name = units(name);
        let create = CreatePipe {
            disposition,
            ..CreatePipe::default()
        };
        nt.create_named_pipe(&Attributes::relative(root, &name), &create)
    };
    let invalid = Err(NtStatus::OBJECT_NAME_INVALID);
    for name in ["", "pipe", r"\pipe"] {
        assert_eq!(make(volume, name, 3), invalid, "{name}");
    }
    assert_eq!(make(root, r"\pipe", 3), invalid);
    make(root, r"test3\pipe", 3).expect("relative to the root");
    open(nt, r"test3\pipe", BOTH).expect("the same");
    // Unnamed: each is another.
    let (one, information) = make(root, "", 3).expect("unnamed");
    assert_eq!(information, FILE_CREATED);
    let (two, information) = make(root, "", 2).expect("unnamed");
    assert_eq!(information, FILE_CREATED);
    assert_eq!(local(nt, one).expect("info")[3], 1, "instances");
    assert_eq!(local(nt, two).expect("info")[3], 1, "instances");
    assert_eq!(
        make(root, "", 1),
        Err(NtStatus::OBJECT_NAME_NOT_FOUND),
        "FILE_OPEN"
    );
}

#[test]
fn np_name_12_13_the_client_of_a_pipe_without_a_name() {
    let world = World::new();
    let nt = &world.near;
    let root = root(nt);
    let at_root = Attributes::relative(root, &[]);
    let (server, _) = nt
        .create_named_pipe(&at_root, &CreatePipe::default())
        .expect("unnamed");
    let named = create(nt, "named", |_| ()).expect("create");
    for end in [server, named] {
        let relative = units("x");
        assert_eq!(
            open_at(nt, &Attributes::relative(end, &relative), BOTH),
            Err(NtStatus::OBJECT_NAME_INVALID)
        );
        let client = open_at(nt, &Attributes::relative(end, &[]), BOTH).expect("its client");
        assert_eq!(
            open_at(nt, &Attributes::relative(end, &[]), BOTH),
            Err(NtStatus::PIPE_NOT_AVAILABLE)
        );
        assert_eq!(write(nt, client, b"through").0, NtStatus::SUCCESS);
        let (status, _, buffer) = read(nt, end, 7);
        assert_eq!(
            (status, buffer.bytes()),
            (NtStatus::SUCCESS, b"through".to_vec())
        );
        if end == server {
            let no_path = Err(NtStatus::OBJECT_PATH_INVALID);
            assert_eq!(nt.query_object_name(client), no_path);
            assert_eq!(nt.query_object_name(end), no_path);
        } else {
            assert_eq!(
                nt.query_object_name(client),
                Ok(units(r"\Device\NamedPipe\named"))
            );
        }
    }
}

// ---- 4: create -----------------------------------------------------------------------------------------------------

#[test]
fn np_create_01_02_03_04_05_06_10_arguments_that_cannot_be() {
    let world = World::new();
    let nt = &world.near;
    let refused = |why: &str, with: fn(&mut CreatePipe)| {
        assert_eq!(
            create(nt, "pipe", with),
            Err(NtStatus::INVALID_PARAMETER),
            "{why}"
        );
        // Also when the pipe exists, but for what counts for the first instance only.
        if !why.starts_with("first") {
            let _first = create(nt, "there", |_| ());
            assert_eq!(
                create(nt, "there", with),
                Err(NtStatus::INVALID_PARAMETER),
                "{why}"
            );
        }
    };
    refused("no share", |create| create.share = Share::empty());
    refused("delete", |create| create.share |= Share::DELETE);
    refused("another share", |create| {
        create.share |= Share::from_bits_retain(8)
    });
    for bad in [0, 4, 5, 6, u32::MAX] {
        let with = |create: &mut CreatePipe| create.disposition = bad;
        assert_eq!(
            create(nt, "pipe", with),
            Err(NtStatus::INVALID_PARAMETER),
            "{bad}"
        );
    }
    refused("an option", |create| {
        create.options = Options::from_bits_retain(0x40)
    });
    refused("both synchronous", |create| {
        create.options = Options::SYNCHRONOUS | Options::SYNCHRONOUS_ALERT;
    });
    refused("synchronous without the right", |create| {
        create.options = Options::SYNCHRONOUS;
        create.access = Mask::FILE_READ_DATA;
    });
    refused("type", |create| create.pipe_type = 4);
    refused("read mode", |create| create.read_mode = 2);
    refused("completion mode", |create| create.completion_mode = 2);
    refused("messages of a byte pipe", |create| create.pipe_type = 0);
    refused("first: no timeout", |create| create.default_timeout = None);
    refused("first: an absolute timeout", |create| {
        create.default_timeout = Some(1)
    });
    refused("first: no timeout at all", |create| {
        create.default_timeout = Some(0)
    });
    refused("first: no instances", |create| create.max_instances = 0);
}

#[test]
fn np_create_12_13_14_15_25_what_a_create_answers() {
    let world = World::new();
    let nt = &world.near;
    for (share, configuration) in [
        (Share::READ, 1),
        (Share::WRITE, 0),
        (Share::READ | Share::WRITE, 2),
    ] {
        let name = format!("{configuration}");
        let at = path(&name);
        let given = CreatePipe {
            share,
            ..CreatePipe::default()
        };
        let (server, information) = nt
            .create_named_pipe(&Attributes::named(&at), &given)
            .expect("create");
        assert_eq!(information, FILE_CREATED, "also with OPEN_IF");
        assert_eq!(local(nt, server).expect("info")[1], configuration);
        let (_, information) = nt
            .create_named_pipe(&Attributes::named(&at), &given)
            .expect("create");
        assert_eq!(information, FILE_OPENED);
    }
    // As little as SYNCHRONIZE: legal, and told nothing (NP-INFO-02).
    let small = create(nt, "small", |create| create.access = Mask::SYNCHRONIZE).expect("create");
    assert_eq!(local(nt, small), Err(NtStatus::ACCESS_DENIED));
    // NP-OBJ-06: and it listens only when it is told to.
    assert_eq!(open(nt, "small", BOTH), Err(NtStatus::PIPE_NOT_AVAILABLE));
}

#[test]
fn np_open_08_share_and_disposition_of_an_open_mean_nothing() {
    let world = World::new();
    let nt = &world.near;
    for disposition in 0..6 {
        create(nt, "pipe", |_| ()).expect("create");
        let name = path("pipe");
        let at = Attributes::named(&name);
        let access = Mask::GENERIC_READ | Mask::SYNCHRONIZE;
        let opened = nt.open_file(&at, access, disposition, 0);
        assert_eq!(opened.expect("open").1, FILE_OPENED, "{disposition}");
    }
}

#[test]
fn np_wine_01_what_wines_win32_layer_passes() {
    let world = World::new();
    let nt = &world.near;
    let as_wine = |create: &mut CreatePipe| {
        create.disposition = 5;
        create.default_timeout = Some(0);
    };
    assert_eq!(
        create(nt, "pipe", as_wine),
        Err(NtStatus::INVALID_PARAMETER)
    );
    nt.set_wine_win32(true);
    create(nt, "pipe", as_wine).expect("create");
    create(nt, "pipe", as_wine).expect("a further instance");
}

// ---- 6: security ---------------------------------------------------------------------------------------------------

#[test]
fn np_sec_01_02_security_through_either_end() {
    everywhere(|near, far| {
        let all = BOTH | Mask::SYNCHRONIZE | Mask::READ_CONTROL | Mask::WRITE_DAC;
        let server = create(near, "pipe", |create| create.access = all).expect("create");
        let client = open(far, "pipe", BOTH | Mask::READ_CONTROL).expect("open");
        let everyone = SecurityDescriptor::new().allow(Sid::EVERYONE, Mask::GENERIC_ALL);
        let dacl = SecurityParts::DACL;
        assert_eq!(
            far.set_security_object(client, dacl, &everyone),
            Err(NtStatus::ACCESS_DENIED)
        );
        near.set_security_object(server, dacl, &everyone)
            .expect("set");
        let seen = far.query_security_object(client, dacl).expect("query");
        assert_eq!(seen.dacl, everyone.dacl);
        let owner = far.query_security_object(client, SecurityParts::OWNER);
        assert!(owner.expect("query").owner.is_some());
        assert_eq!(
            control(near, server, Control::DISCONNECT),
            NtStatus::SUCCESS
        );
        let gone = Err(NtStatus::PIPE_DISCONNECTED);
        assert_eq!(far.query_security_object(client, dacl), gone);
        near.query_security_object(server, dacl)
            .expect("the server's end works");
        let device = root(near);
        assert_eq!(
            near.query_security_object(device, dacl),
            Err(NtStatus::INVALID_PARAMETER)
        );
    });
}

#[test]
fn np_sec_07_rejecting_remote_clients_rejects_no_local_one() {
    let world = World::new();
    create(&world.near, "pipe", |create| create.pipe_type = 3).expect("create");
    let client = open(&world.far, "pipe", BOTH).expect("open");
    assert_eq!(local(&world.far, client).expect("info")[0], 1, "messages");
}

// ---- 7, 8: listen, disconnect --------------------------------------------------------------------------------------

#[test]
fn np_listen_01_np_open_10_np_io_13_an_open_completes_every_listen_before_it_returns() {
    everywhere(|near, far| {
        let server = create(near, "pipe", |_| ()).expect("create");
        let listens: Vec<Io> = (0..3)
            .map(|_| {
                let io = untouched();
                let status =
                    near.fs_control_file(server, &io, Control::LISTEN, &[], &Buffer::new(0));
                assert_eq!(status, NtStatus::PENDING);
                assert_eq!(block(&io), UNTOUCHED);
                io
            })
            .collect();
        open(far, "pipe", BOTH).expect("open");
        for io in &listens {
            if !near.shares_a_process_with(far) {
                awaited(near, io);
            }
            assert_eq!(block(io), (NtStatus::SUCCESS, 0));
            assert!(io.event.as_ref().expect("one").is_set());
        }
        // NP-LISTEN-03, 07: an immediate error leaves all as it was.
        let io = untouched();
        let status = near.fs_control_file(server, &io, Control::LISTEN, &[], &Buffer::new(0));
        assert_eq!(status, NtStatus::PIPE_CONNECTED);
        assert_eq!(block(&io), UNTOUCHED);
        assert!(!io.event.expect("one").is_set());
    });
}

#[test]
fn np_listen_02_04_06_07_listens_that_are_refused() {
    everywhere(|near, far| {
        let server =
            create(near, "pipe", |create| create.completion_mode = COMPLETE).expect("create");
        assert_eq!(
            control(near, server, Control::LISTEN),
            NtStatus::PIPE_LISTENING
        );
        let client = open(far, "pipe", BOTH).expect("open");
        assert_eq!(
            control(far, client, Control::LISTEN),
            NtStatus::ILLEGAL_FUNCTION
        );
        assert_eq!(
            control(near, server, Control::LISTEN),
            NtStatus::PIPE_CONNECTED
        );
        far.close(client).expect("close");
        assert_eq!(
            control(near, server, Control::LISTEN),
            NtStatus::PIPE_CLOSING
        );
        assert_eq!(
            control(near, server, Control::DISCONNECT),
            NtStatus::SUCCESS
        );
        assert_eq!(open(far, "pipe", BOTH), Err(NtStatus::PIPE_NOT_AVAILABLE));
        assert_eq!(
            control(near, server, Control::LISTEN),
            NtStatus::PIPE_LISTENING
        );
        open(far, "pipe", BOTH).expect("it listens now");
        for device in [volume(near), root(near)] {
            assert_eq!(
                control(near, device, Control::LISTEN),
                NtStatus::ILLEGAL_FUNCTION
            );
        }
    });
}

#[test]
fn np_listen_09_10_np_close_04_listens_that_are_ended() {
    let world = World::new();
    let nt = &world.near;
    let server = create(nt, "pipe", |_| ()).expect("create");
    let listen = || {
        let io = untouched();
        let status = nt.fs_control_file(server, &io, Control::LISTEN, &[], &Buffer::new(0));
        assert_eq!(status, NtStatus::PENDING);
        io
    };
    let cancelled = listen();
    nt.cancel_io_file_ex(server, Some(&cancelled.status))
        .expect("cancel");
    assert_eq!(block(&cancelled), (NtStatus::CANCELLED, 0));
    assert_eq!(
        nt.cancel_io_file_ex(server, Some(&cancelled.status)),
        Err(NtStatus::NOT_FOUND)
    );
    let broken = listen();
    // The name vanishes with it, and whoever waits hears of it.
    let waits = untouched();
    let instance = open(nt, "pipe", BOTH).expect("it listened on");
    assert_eq!(block(&broken), (NtStatus::SUCCESS, 0));
    nt.close(instance).expect("close");
    assert_eq!(control(nt, server, Control::DISCONNECT), NtStatus::SUCCESS);
    let device = root(nt);
    assert_eq!(
        wait_for(nt, device, &waits, "pipe", Some(i64::MIN)),
        NtStatus::PENDING
    );
    nt.close(server).expect("close");
    assert_eq!(awaited(nt, &waits), (NtStatus::OBJECT_NAME_NOT_FOUND, 0));
    let server = create(nt, "pipe", |_| ()).expect("create");
    let io = untouched();
    let status = nt.fs_control_file(server, &io, Control::LISTEN, &[], &Buffer::new(0));
    assert_eq!(status, NtStatus::PENDING);
    nt.close(server).expect("close");
    assert_eq!(block(&io), (NtStatus::PIPE_BROKEN, 0));
    assert!(io.event.expect("one").is_set());
}

#[test]
fn np_disc_01_03_05_06_08_who_may_disconnect() {
    everywhere(|near, far| {
        let (server, client) = pair(near, far, |_| ());
        assert_eq!(
            control(far, client, Control::DISCONNECT),
            NtStatus::ILLEGAL_FUNCTION
        );
        let (_, server_reads, _) = read(near, server, 8);
        let (_, client_reads, _) = read(far, client, 8);
        let (status, client_writes) = write(far, client, &[1; 8192]);
        // The pended read takes eight of them.
        assert_eq!(status, NtStatus::PENDING);
        assert_eq!(block(&server_reads), (NtStatus::BUFFER_OVERFLOW, 8));
        assert_eq!(
            control(near, server, Control::DISCONNECT),
            NtStatus::SUCCESS
        );
        assert_eq!(block(&client_reads), (NtStatus::PIPE_DISCONNECTED, 0));
        assert_eq!(block(&client_writes), (NtStatus::PIPE_DISCONNECTED, 0));
        assert_eq!(
            control(near, server, Control::DISCONNECT),
            NtStatus::PIPE_DISCONNECTED
        );
        assert_eq!(
            control(far, client, Control::DISCONNECT),
            NtStatus::PIPE_DISCONNECTED
        );
        for device in [volume(near), root(near)] {
            assert_eq!(
                control(near, device, Control::DISCONNECT),
                NtStatus::PIPE_DISCONNECTED
            );
        }
    });
}

#[test]
fn np_disc_10_a_client_on_which_io_has_failed_is_not_signalled() {
    far_here(|near, far| {
        let (server, client) = pair(near, far, |_| ());
        let signalled = || {
            let soon = Deadline::after(Duration::from_millis(5));
            far.wait(&[Waitable::File(client)], soon).is_ok()
        };
        assert!(signalled(), "a new end is (NP-IO-04)");
        control(near, server, Control::DISCONNECT);
        let io = Io::default();
        assert_eq!(
            far.read_file(client, &io, &Buffer::new(1)),
            NtStatus::PIPE_DISCONNECTED
        );
        assert!(!signalled());
    });
}

// ---- 9: wait -------------------------------------------------------------------------------------------------------

/// FILE_PIPE_WAIT_FOR_BUFFER.
fn wait_input(name: &str, timeout: Option<i64>) -> Vec<u8> {
    let name = units(name);
    let mut input = timeout.unwrap_or(0).to_le_bytes().to_vec();
    let length = u32::try_from(2 * name.len()).expect("short");
    input.extend(length.to_le_bytes());
    input.extend([u8::from(timeout.is_some()), 0]);
    input.extend(name.iter().flat_map(|unit| unit.to_le_bytes()));
    input.resize(input.len().max(16), 0);
    input
}

fn wait_for(nt: &Table, root: Handle, io: &Io, name: &str, timeout: Option<i64>) -> NtStatus {
    let input = wait_input(name, timeout);
    nt.fs_control_file(root, io, Control::WAIT, &input, &Buffer::new(0))
}

#[test]
fn np_wait_01_02_03_what_a_wait_needs() {
    let world = World::new();
    let nt = &world.near;
    let server = create(nt, r"with\Backslash", |_| ()).expect("create");
    let (device, directory) = (volume(nt), root(nt));
    let io = untouched();
    for handle in [server, device] {
        assert_eq!(
            wait_for(nt, handle, &io, r"with\backslash", None),
            NtStatus::ILLEGAL_FUNCTION
        );
    }
    assert_eq!(
        wait_for(nt, directory, &io, r"WITH\backslash", None),
        NtStatus::SUCCESS
    );
    assert_eq!(
        wait_for(nt, directory, &io, r"\with\backslash", None),
        NtStatus::OBJECT_NAME_NOT_FOUND,
        "no leading backslash"
    );
    let good = wait_input(r"with\backslash", None);
    let ask = |input: &[u8]| {
        nt.fs_control_file(
            directory,
            &untouched(),
            Control::WAIT,
            input,
            &Buffer::new(0),
        )
    };
    for length in 0..16 {
        assert_eq!(ask(&good[..length]), NtStatus::INVALID_PARAMETER);
    }
    let mut long = good.clone();
    long[8..12].copy_from_slice(&0xFFFE_u32.to_le_bytes());
    long.resize(70_000, 0);
    assert_eq!(ask(&long), NtStatus::INVALID_PARAMETER);
    let mut short = good;
    short.pop();
    assert_eq!(ask(&short), NtStatus::INVALID_PARAMETER);
}

#[test]
fn np_wait_04_05_06_07_08_10_how_a_wait_ends() {
    everywhere(|near, far| {
        let directory = root(far);
        let wait = |timeout| {
            let io = untouched();
            (wait_for(far, directory, &io, "pipe", timeout), io)
        };
        assert_eq!(wait(Some(i64::MIN)).0, NtStatus::OBJECT_NAME_NOT_FOUND);
        let server = create(near, "pipe", |create| create.max_instances = 2).expect("create");
        assert_eq!(wait(Some(-1)).0, NtStatus::SUCCESS);
        open(far, "pipe", BOTH).expect("open");
        assert_eq!(wait(Some(0)).0, NtStatus::IO_TIMEOUT, "expires at once");
        let (status, expires) = wait(Some(-100_000));
        assert_eq!(status, NtStatus::PENDING);
        assert_eq!(awaited(far, &expires), (NtStatus::IO_TIMEOUT, 0));
        let (status, default) = wait(None);
        assert_eq!(status, NtStatus::PENDING);
        assert_eq!(awaited(far, &default), (NtStatus::IO_TIMEOUT, 0));
        let (status, cancelled) = wait(Some(i64::MIN));
        assert_eq!(status, NtStatus::PENDING);
        far.cancel_io_file(directory).expect("cancel");
        assert_eq!(block(&cancelled), (NtStatus::CANCELLED, 0));
        // For ever, as Wine says it; all are released at once.
        let both = [wait(Some(i64::MIN)), wait(Some(i64::MAX))];
        control(near, server, Control::DISCONNECT);
        let io = untouched();
        let listens = near.fs_control_file(server, &io, Control::LISTEN, &[], &Buffer::new(0));
        assert_eq!(listens, NtStatus::PENDING);
        for (status, io) in &both {
            assert_eq!(*status, NtStatus::PENDING);
            assert_eq!(awaited(far, io), (NtStatus::SUCCESS, 0));
        }
    });
}

// ---- 11 to 15: data ------------------------------------------------------------------------------------------------

#[test]
fn np_io_13_np_read_18_a_write_completes_the_reads_that_it_reaches_before_it_returns() {
    everywhere(|near, far| {
        let (server, client) = pair(near, far, |_| ());
        let reads: Vec<_> = (0..3).map(|_| read(near, server, 4)).collect();
        for (status, io, _) in &reads {
            assert_eq!((*status, block(io)), (NtStatus::PENDING, UNTOUCHED));
        }
        let (status, io) = write(far, client, b"0123456789");
        assert_eq!(
            (status, block(&io)),
            (NtStatus::SUCCESS, (NtStatus::SUCCESS, 10))
        );
        let expected = [
            (NtStatus::BUFFER_OVERFLOW, &b"0123"[..]),
            (NtStatus::BUFFER_OVERFLOW, b"4567"),
            (NtStatus::SUCCESS, b"89"),
        ];
        for ((_, io, buffer), (status, data)) in reads.iter().zip(expected) {
            assert_eq!(block(io), (status, data.len()));
            assert_eq!(&buffer.bytes()[..data.len()], data);
            assert!(io.event.as_ref().expect("one").is_set());
        }
    });
}

#[test]
fn np_queue_05_np_write_07_stalled_writes_complete_in_their_order() {
    everywhere(|near, far| {
        let (server, client) = pair(near, far, |create| create.in_quota = 5000);
        assert_eq!(write(far, client, &[1; 3000]).0, NtStatus::SUCCESS);
        let (status, second) = write(far, client, &[2; 5000]);
        assert_eq!(status, NtStatus::PENDING);
        let (status, third) = write(far, client, &[3]);
        assert_eq!(status, NtStatus::PENDING);
        assert_eq!(write(far, client, &[]).0, NtStatus::SUCCESS);
        let (status, io, _) = read(near, server, 3000);
        assert_eq!((status, block(&io).1), (NtStatus::SUCCESS, 3000));
        // Before the read has returned (NP-IO-13); between processes, once somebody looks.
        assert_eq!(block(&second), (NtStatus::SUCCESS, 5000));
        assert_eq!(block(&third), UNTOUCHED);
        assert_eq!(read(near, server, 1).0, NtStatus::BUFFER_OVERFLOW);
        assert_eq!(awaited(far, &third), (NtStatus::SUCCESS, 1));
    });
}

#[test]
fn np_read_01_02_03_04_05_and_the_write_side_in_each_state() {
    everywhere(|near, far| {
        let server = create(near, "pipe", |_| ()).expect("create");
        assert_eq!(read(near, server, 0).0, NtStatus::PIPE_LISTENING);
        assert_eq!(write(near, server, b"").0, NtStatus::PIPE_LISTENING);
        let client = open(far, "pipe", BOTH).expect("open");
        assert_eq!(set_modes(near, server, 1, COMPLETE), NtStatus::SUCCESS);
        assert_eq!(read(near, server, 1).0, NtStatus::PIPE_EMPTY);
        assert_eq!(write(far, client, b"left").0, NtStatus::SUCCESS);
        far.close(client).expect("close");
        let (status, _, buffer) = read(near, server, 4);
        assert_eq!(
            (status, buffer.bytes()),
            (NtStatus::SUCCESS, b"left".to_vec())
        );
        let (status, io, _) = read(near, server, 4);
        assert_eq!((status, block(&io)), (NtStatus::PIPE_BROKEN, UNTOUCHED));
        assert_eq!(write(near, server, b"x").0, NtStatus::PIPE_CLOSING);
        control(near, server, Control::DISCONNECT);
        assert_eq!(read(near, server, 0).0, NtStatus::PIPE_DISCONNECTED);
        assert_eq!(write(near, server, b"x").0, NtStatus::PIPE_DISCONNECTED);
    });
}

#[test]
fn np_read_22_np_write_16_np_peek_03_np_flush_03_np_attr_06_np_dev_01_02_03_04_05_06_07_08_the_device()
 {
    let world = World::new();
    let nt = &world.near;
    for device in [volume(nt), root(nt)] {
        assert_eq!(read(nt, device, 1).0, NtStatus::INVALID_PARAMETER);
        assert_eq!(write(nt, device, b"x").0, NtStatus::INVALID_PARAMETER);
        for (code, status) in [
            (Control::PEEK, NtStatus::INVALID_PARAMETER),
            (Control::LISTEN, NtStatus::ILLEGAL_FUNCTION),
            (Control::IMPERSONATE, NtStatus::ILLEGAL_FUNCTION),
            (Control::DISCONNECT, NtStatus::PIPE_DISCONNECTED),
            (Control::TRANSCEIVE, NtStatus::PIPE_DISCONNECTED),
            (Control::FLUSH, NtStatus::PIPE_DISCONNECTED),
            (Control::ASSIGN_EVENT, NtStatus::NOT_SUPPORTED),
            (Control::QUERY_EVENT, NtStatus::NOT_SUPPORTED),
            (Control::SET_CLIENT_PROCESS, NtStatus::NOT_SUPPORTED),
            (Control::QUERY_CLIENT_PROCESS, NtStatus::INVALID_PARAMETER),
            (
                Control::GET_CONNECTION_ATTRIBUTE,
                NtStatus::INVALID_PARAMETER,
            ),
        ] {
            assert_eq!(control(nt, device, code), status, "{code:?}");
        }
        let flushed = nt.flush_buffers_file(device, &StatusBlock::default());
        assert_eq!(flushed, NtStatus::PIPE_DISCONNECTED);
    }
    let io = untouched();
    assert_eq!(
        wait_for(nt, volume(nt), &io, "pipe", None),
        NtStatus::ILLEGAL_FUNCTION
    );
}

#[test]
fn np_flush_01_02_04_a_flush_waits_even_on_an_overlapped_handle() {
    everywhere(|near, far| {
        let server = create(near, "pipe", |_| ()).expect("create");
        let flush = |nt: &Table, handle| {
            let status = StatusBlock::default();
            let answer = nt.flush_buffers_file(handle, &status);
            assert_eq!(status.information(), 0);
            answer
        };
        assert_eq!(flush(near, server), NtStatus::SUCCESS, "listening");
        let client = open(far, "pipe", BOTH).expect("open");
        assert_eq!(flush(far, client), NtStatus::SUCCESS, "nothing unread");
        write(far, client, b"unread");
        thread::scope(|scope| {
            let flushes = scope.spawn(|| flush(far, client));
            thread::sleep(Duration::from_millis(30));
            assert!(!flushes.is_finished());
            assert_eq!(read(near, server, 6).0, NtStatus::SUCCESS);
            assert_eq!(flushes.join().expect("no panic"), NtStatus::SUCCESS);
        });
        far.close(client).expect("close");
        assert_eq!(flush(near, server), NtStatus::SUCCESS, "closing");
        control(near, server, Control::DISCONNECT);
        assert_eq!(flush(near, server), NtStatus::SUCCESS, "disconnected");
    });
}

#[test]
fn np_peek_01_02_04_05_07_08_the_form_of_a_peek() {
    everywhere(|near, far| {
        let server = create(near, "pipe", |_| ()).expect("create");
        let peek = |nt: &Table, handle, room| {
            let (io, out) = (untouched(), Buffer::new(room));
            let status = nt.fs_control_file(handle, &io, Control::PEEK, &[], &out);
            (status, block(&io), out.bytes())
        };
        assert_eq!(peek(near, server, 64).0, NtStatus::INVALID_PIPE_STATE);
        let client = open(far, "pipe", BOTH).expect("open");
        let (status, io, _) = peek(far, client, 15);
        assert_eq!((status, io), (NtStatus::INVALID_PARAMETER, UNTOUCHED));
        let (status, io, out) = peek(near, server, 16);
        assert_eq!((status, io), (NtStatus::SUCCESS, (NtStatus::SUCCESS, 16)));
        assert_eq!((word(&out, 0), word(&out, 4)), (3, 0));
        write(far, client, b"first");
        write(far, client, b"second");
        let (status, io, out) = peek(near, server, 16 + 3);
        assert_eq!(status, NtStatus::BUFFER_OVERFLOW);
        assert_eq!(io, (NtStatus::BUFFER_OVERFLOW, 16 + 3));
        assert_eq!((word(&out, 4), word(&out, 8), word(&out, 12)), (11, 2, 5));
        assert_eq!(&out[16..], b"fir");
        let (status, io, out) = peek(near, server, 64);
        assert_eq!((status, io.1), (NtStatus::SUCCESS, 16 + 5));
        assert_eq!(&out[16..21], b"first", "one message");
        assert_eq!(peek(near, server, 16).0, NtStatus::BUFFER_OVERFLOW);
        far.close(client).expect("close");
        assert_eq!(word(&peek(near, server, 64).2, 0), 4, "closing");
        read(near, server, 5);
        read(near, server, 6);
        assert_eq!(peek(near, server, 64).0, NtStatus::PIPE_BROKEN);
        control(near, server, Control::DISCONNECT);
        assert_eq!(peek(near, server, 64).0, NtStatus::INVALID_PIPE_STATE);
    });
}

#[test]
fn np_xcv_01_02_03_05_06_10_a_transceive_pends_and_brings_one_message() {
    everywhere(|near, far| {
        let server = create(near, "pipe", |_| ()).expect("create");
        assert_eq!(
            control(near, server, Control::TRANSCEIVE),
            NtStatus::INVALID_PIPE_STATE
        );
        let client = open(far, "pipe", BOTH).expect("open");
        assert_eq!(
            control(far, client, Control::TRANSCEIVE),
            NtStatus::INVALID_PIPE_STATE,
            "bytes"
        );
        assert_eq!(set_modes(far, client, 1, QUEUE), NtStatus::SUCCESS);
        let transceive = |request: &[u8], room| {
            let (io, out) = (untouched(), Buffer::new(room));
            let status = far.fs_control_file(client, &io, Control::TRANSCEIVE, request, &out);
            (status, io, out)
        };
        let (status, io, out) = transceive(b"question", 4);
        assert_eq!((status, block(&io)), (NtStatus::PENDING, UNTOUCHED));
        let (status, _, request) = read(near, server, 64);
        assert_eq!(
            (status, &request.bytes()[..8]),
            (NtStatus::SUCCESS, &b"question"[..])
        );
        assert_eq!(
            transceive(b"again", 4).0,
            NtStatus::PIPE_BUSY,
            "a read pends"
        );
        write(near, server, b"answer");
        assert_eq!(awaited(far, &io), (NtStatus::BUFFER_OVERFLOW, 4));
        assert_eq!(out.bytes(), b"answ");
        assert_eq!(
            transceive(b"again", 4).0,
            NtStatus::PIPE_BUSY,
            "the tail is unread"
        );
        assert_eq!(read(far, client, 2).0, NtStatus::SUCCESS);
        let (status, io, _) = transceive(b"", 0);
        assert_eq!(status, NtStatus::PENDING);
        assert_eq!(read(near, server, 1).0, NtStatus::SUCCESS);
        write(near, server, b"");
        assert_eq!(awaited(far, &io), (NtStatus::SUCCESS, 0));
        far.close(client).expect("close");
        assert_eq!(
            control(near, server, Control::TRANSCEIVE),
            NtStatus::INVALID_PIPE_STATE
        );
    });
}

// ---- 16, 17: cancel, close -----------------------------------------------------------------------------------------

#[test]
fn np_cancel_01_02_03_04_cancel_by_operation() {
    everywhere(|near, far| {
        let (server, client) = pair(near, far, |create| create.in_quota = 10);
        let reads: Vec<_> = (0..3).map(|_| read(near, server, 4)).collect();
        near.cancel_io_file_ex(server, Some(&reads[1].1.status))
            .expect("cancel");
        assert_eq!(block(&reads[1].1), (NtStatus::CANCELLED, 0));
        write(far, client, b"abcd");
        write(far, client, b"efgh");
        assert_eq!(block(&reads[0].1), (NtStatus::SUCCESS, 4));
        assert_eq!(reads[2].2.bytes(), b"efgh");
        // A write takes its unread bytes with it, and those behind it move up.
        let (status, stalled) = write(far, client, &[1; 20]);
        assert_eq!(status, NtStatus::PENDING);
        let (status, behind) = write(far, client, b"behind");
        assert_eq!(status, NtStatus::PENDING);
        far.cancel_io_file_ex(client, Some(&stalled.status))
            .expect("cancel");
        assert_eq!(block(&stalled), (NtStatus::CANCELLED, 0));
        assert_eq!(block(&behind), (NtStatus::SUCCESS, 6));
        let not_found = Err(NtStatus::NOT_FOUND);
        assert_eq!(
            far.cancel_io_file_ex(client, Some(&behind.status)),
            not_found
        );
        assert_eq!(far.cancel_io_file_ex(client, None), not_found);
        let (_, _, buffer) = read(near, server, 6);
        assert_eq!(buffer.bytes(), b"behind");
    });
}

#[test]
fn np_cancel_05_06_cancel_by_file_object_thread_and_status_block() {
    let world = World::new();
    let nt = &world.near;
    let (server, _client) = pair(nt, &world.far, |_| ());
    let other = nt.duplicate(server, None).expect("duplicate");
    let (_, mine, _) = read(nt, server, 4);
    thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let (over, until) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            tell.send(read(nt, server, 4).1).expect("heard");
            // It lives on: what it has pending would end with it.
            let _ = until.recv();
        });
        let theirs = told.recv().expect("told");
        // Through the other handle; this thread's only.
        nt.cancel_io_file(other).expect("cancel");
        assert_eq!(block(&mine), (NtStatus::CANCELLED, 0));
        assert_eq!(block(&theirs), UNTOUCHED);
        // Two that share a block go together, from any thread.
        let io = untouched();
        for _ in 0..2 {
            let status = nt.read_file(server, &io, &Buffer::new(1));
            assert_eq!(status, NtStatus::PENDING);
        }
        nt.cancel_io_file_ex(other, Some(&io.status))
            .expect("cancel");
        assert_eq!(block(&theirs), UNTOUCHED);
        nt.cancel_io_file_ex(other, Some(&theirs.status))
            .expect("cancel");
        drop(over);
    });
    assert_eq!(nt.cancel_io_file_ex(other, None), Err(NtStatus::NOT_FOUND));
    assert_eq!(
        nt.cancel_io_file(other),
        Ok(()),
        "nothing to do is no error here"
    );
}

fn synchronous(create: &mut CreatePipe) {
    create.options = Options::SYNCHRONOUS;
}

#[test]
fn np_cancel_07_np_io_10_calls_that_block_are_cancelled_by_their_thread() {
    let world = World::new();
    let nt = &world.near;
    let (server, client) = pair(nt, &world.far, synchronous);
    assert_eq!(
        nt.cancel_synchronous_io(calling_thread()),
        Err(NtStatus::NOT_FOUND)
    );
    thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let reads = scope.spawn(move || {
            tell.send(calling_thread()).expect("heard");
            let (status, io, _) = read(nt, server, 4);
            (status, block(&io))
        });
        let thread = told.recv().expect("told");
        // By now it is in the call, also on a busy machine.
        std::thread::sleep(Duration::from_millis(100));
        // A write through the same file object stands in line behind it.
        let writes = scope.spawn(move || write(nt, server, b"late").0);
        std::thread::sleep(Duration::from_millis(30));
        assert!(!writes.is_finished());
        let begin = std::time::Instant::now();
        while nt.cancel_synchronous_io(thread).is_err() {
            assert!(begin.elapsed() < 10 * SECOND);
        }
        let answer = reads.join().expect("no panic");
        assert_eq!(answer, (NtStatus::CANCELLED, UNTOUCHED));
        assert_eq!(writes.join().expect("no panic"), NtStatus::SUCCESS);
    });
    let (status, io, buffer) = read(&world.far, client, 4);
    assert_eq!(
        (status, block(&io).1, buffer.bytes()),
        (NtStatus::SUCCESS, 4, b"late".to_vec())
    );
}

#[test]
fn np_close_01_the_last_handle_closes() {
    everywhere(|near, far| {
        let (server, client) = pair(near, far, |_| ());
        let other = far
            .duplicate(client, Some(Mask::GENERIC_READ))
            .expect("duplicate");
        assert_eq!(
            far.duplicate(other, Some(Mask::GENERIC_WRITE)),
            Err(NtStatus::ACCESS_DENIED)
        );
        assert_eq!(write(far, other, b"x").0, NtStatus::ACCESS_DENIED);
        let (_, pended, _) = read(far, other, 4);
        far.close(other).expect("close");
        assert_eq!(block(&pended), UNTOUCHED, "issued through it, and goes on");
        assert_eq!(far.close(other), Err(NtStatus::INVALID_HANDLE));
        write(near, server, b"data");
        assert_eq!(awaited(far, &pended), (NtStatus::SUCCESS, 4));
        let (_, broken, _) = read(near, server, 4);
        far.close(client).expect("close");
        assert_eq!(block(&broken), (NtStatus::PIPE_BROKEN, 0));
    });
}

#[test]
fn np_close_01_a_handle_in_another_table_keeps_what_pends() {
    let world = World::new();
    let third = table(&world.broker);
    let (third, _) = Table::here(third.clone(), third);
    let (near, far) = (&world.near, &world.far);
    let (server, client) = pair(near, far, |_| ());
    let token = far.give(client).expect("a token");
    let (pends, io, buffer) = read(far, client, 16);
    assert_eq!(pends, NtStatus::PENDING);
    let twin = third.take(token).expect("its end");
    assert_eq!(third.take(token), Err(NtStatus::INVALID_HANDLE));
    assert_eq!(third.granted(twin), far.granted(client));
    far.close(client).expect("open");
    assert_eq!(block(&io), UNTOUCHED, "nothing ends for one of two handles");
    assert_eq!(write(near, server, b"first").0, NtStatus::SUCCESS);
    assert_eq!(awaited(far, &io), (NtStatus::SUCCESS, 5));
    assert_eq!(&buffer.bytes()[..5], b"first");
    // What the last one pends ends with it, and so does what the server reads.
    let (pends, last, _) = read(&third, twin, 16);
    assert_eq!(pends, NtStatus::PENDING);
    let (pends, servers, _) = read(near, server, 16);
    assert_eq!(pends, NtStatus::PENDING);
    third.close(twin).expect("open");
    assert_eq!(block(&last).0, NtStatus::PIPE_BROKEN);
    assert_eq!(awaited(near, &servers).0, NtStatus::PIPE_BROKEN);
}

#[test]
fn np_close_01_a_duplicate_for_another_table_has_the_rights_that_go_with_it() {
    let world = World::new();
    let (near, far) = (&world.near, &world.far);
    let (server, client) = pair(near, far, synchronous);
    let read_only = Mask::FILE_READ_DATA | Mask::SYNCHRONIZE;
    let more = Nt::give(far, client, Some(Mask::WRITE_OWNER));
    assert_eq!(more, Err(NtStatus::ACCESS_DENIED));
    let token = Nt::give(far, client, Some(read_only)).expect("a token");
    let twin = near.take(token).expect("its end");
    assert_eq!(near.granted(twin), Ok(read_only));
    assert_eq!(write(near, twin, b"x").0, NtStatus::ACCESS_DENIED);
    assert_eq!(write(near, server, b"x").0, NtStatus::SUCCESS);
    assert_eq!(read(near, twin, 1).0, NtStatus::SUCCESS);
    // A server end, back into its own table: a further handle of one synchronous file object.
    let token = near.give(server).expect("a token");
    let second = near.take(token).expect("its end");
    assert_ne!(second, server);
    near.close(server).expect("open");
    assert_eq!(write(near, second, b"y").0, NtStatus::SUCCESS);
    assert_eq!(read(far, client, 1).0, NtStatus::SUCCESS);
    // And into another one.
    let token = near.give(second).expect("a token");
    let third = far.take(token).expect("its end");
    let modes = query::<8>(far, third, InfoClass::PIPE).expect("modes");
    assert_eq!(modes[0], 1, "it reads messages, as the other does");
    assert_eq!(set_modes(far, third, 0, 0), NtStatus::SUCCESS);
    let modes = query::<8>(near, second, InfoClass::PIPE).expect("modes");
    assert_eq!(modes[0], 0, "and either sets them");
    assert_eq!(near.give(root(near)), Err(NtStatus::NOT_SUPPORTED));
    near.close(second).expect("open");
    assert_eq!(write(far, third, b"z").0, NtStatus::SUCCESS);
    far.close(third).expect("open");
    let (status, ..) = read(far, client, 1);
    assert_eq!(status, NtStatus::SUCCESS, "what was written stays");
    assert_eq!(read(far, client, 1).0, NtStatus::PIPE_BROKEN);
}

#[test]
fn np_attr_08_np_info_04_ids_are_those_of_who_has_opened_and_created() {
    let site = Site::start(BrokerOptions::new().workers(2));
    let remote = Remote::spawn(child_exe!(), &site.socket);
    let (here, there) = Table::there(table(site.broker()), &remote);
    let (ours, theirs) = (std::process::id(), remote.pid());
    let number = |table: &Table, handle, code, name: &[u8]| {
        let out = Buffer::new(4);
        let status = table.fs_control_file(handle, &untouched(), code, name, &out);
        assert_eq!(status, NtStatus::SUCCESS);
        word(&out.bytes(), 0)
    };
    let (client, server): (&[u8], &[u8]) = (b"ClientProcessId\0", b"ServerProcessId\0");
    let connection = Control::GET_CONNECTION_ATTRIBUTE;
    let (end, opened) = pair(&here, &there, |_| ());
    let taken = here
        .take(there.give(opened).expect("a token"))
        .expect("its end");
    let moved = there
        .take(here.give(end).expect("a token"))
        .expect("its end");
    let has_both = |table: &Table, handle| {
        assert_eq!(number(table, handle, connection, client), theirs);
        assert_eq!(number(table, handle, connection, server), ours);
    };
    has_both(&here, taken);
    has_both(&here, end);
    has_both(&there, opened);
    has_both(&there, moved);
    // Also once those who opened and created are there no more.
    here.close(end).expect("open");
    there.close(opened).expect("open");
    has_both(&here, taken);
    has_both(&there, moved);
    // And given on, by who has not opened it.
    let again = there
        .take(here.give(taken).expect("a token"))
        .expect("its end");
    has_both(&there, again);
    assert_eq!(write(&there, moved, b"x").0, NtStatus::SUCCESS);
    assert_eq!(read(&there, again, 1).0, NtStatus::SUCCESS);
}

#[test]
fn np_close_02_what_a_close_answers_before_it_returns() {
    everywhere(|near, far| {
        let (server, client) = pair(near, far, |create| create.out_quota = 4);
        let (_, reads, _) = read(near, server, 4);
        let (status, writes) = write(near, server, &[1; 64]);
        assert_eq!(status, NtStatus::PENDING);
        let (_, own, _) = read(far, client, 0);
        far.close(client).expect("close");
        assert_eq!(block(&reads), (NtStatus::PIPE_BROKEN, 0));
        assert_eq!(block(&writes), (NtStatus::PIPE_BROKEN, 0));
        // A read of no bytes was satisfied by the write, which it took nothing of.
        assert_ne!(block(&own).0, NtStatus::PENDING);
        assert_eq!(write(near, server, b"x").0, NtStatus::PIPE_CLOSING);
    });
}

/// Everything that may pend on an end, ended by its peer's death instead of its close.
fn all_break(nt: &Table, handle: Handle, peer: &mut npfs_tests::Actor) {
    assert_eq!(set_modes(nt, handle, 1, QUEUE), NtStatus::SUCCESS);
    let (io, out) = (untouched(), Buffer::new(8));
    let status = nt.fs_control_file(handle, &io, Control::TRANSCEIVE, b"question", &out);
    assert_eq!(status, NtStatus::PENDING);
    let (_, reads, _) = read(nt, handle, 8);
    let (status, writes) = write(nt, handle, &vec![1; 200_000]);
    assert_eq!(status, NtStatus::PENDING);
    let flushes = untouched();
    let status = nt.fs_control_file(handle, &flushes, Control::FLUSH, &[], &Buffer::new(0));
    assert_eq!(status, NtStatus::PENDING);
    peer.kill();
    for ended in [&io, &reads, &writes, &flushes] {
        assert_eq!(awaited(nt, ended), (NtStatus::PIPE_BROKEN, 0));
    }
    assert_eq!(read(nt, handle, 1).0, NtStatus::PIPE_BROKEN);
    assert_eq!(write(nt, handle, b"x").0, NtStatus::PIPE_CLOSING);
    assert_eq!(local(nt, handle).expect("info")[8], 4);
}

#[test]
fn np_close_02_np_write_14_the_peer_is_killed_with_everything_pending() {
    let site = npfs_tests::Site::start(BrokerOptions::new().workers(2));
    let nt = Nt::new(site.namespace());
    let mut client = site.actor(npfs_tests::child_exe!());
    let nt = Table::here(nt.clone(), nt).0;
    let server = create(&nt, "served", |_| ()).expect("create");
    let listens = untouched();
    let none = Buffer::new(0);
    let status = nt.fs_control_file(server, &listens, Control::LISTEN, &[], &none);
    assert_eq!(status, NtStatus::PENDING);
    client.must("open c served rw");
    assert_eq!(awaited(&nt, &listens), (NtStatus::SUCCESS, 0));
    all_break(&nt, server, &mut client);
    let mut victim = site.actor(npfs_tests::child_exe!());
    victim.must("create s theirs");
    let opened = open(&nt, "theirs", BOTH).expect("open");
    all_break(&nt, opened, &mut victim);
    // The name has gone with it, and whoever waits hears of it.
    let begin = std::time::Instant::now();
    while open(&nt, "theirs", BOTH) != Err(NtStatus::OBJECT_NAME_NOT_FOUND) {
        assert!(begin.elapsed() < 10 * SECOND);
    }
}

/// Answers that come from another process at any moment: before its reader waits, while it looks, and as it goes to sleep.
#[test]
fn np_io_07_a_port_hears_of_every_answer_of_another_process() {
    const ROUNDS: usize = 20_000;
    let site = Site::start(BrokerOptions::new().workers(2));
    let nt = Table::here(Nt::new(site.namespace()), Nt::new(site.namespace())).0;
    let server = create(&nt, "echoed", |_| ()).expect("create");
    let listens = untouched();
    let none = Buffer::new(0);
    let status = nt.fs_control_file(server, &listens, Control::LISTEN, &[], &none);
    assert_eq!(status, NtStatus::PENDING);
    let mut client = site.actor(npfs_tests::child_exe!());
    client.must("open c echoed rw");
    assert_eq!(awaited(&nt, &listens), (NtStatus::SUCCESS, 0));
    client.start("echo c");
    let port = Port::new();
    nt.set_completion_port(server, &port, 7).expect("a port");
    for round in 1..=ROUNDS {
        let io = Io {
            context: round,
            ..Io::default()
        };
        let buffer = Buffer::new(16);
        assert_eq!(nt.read_file(server, &io, &buffer), NtStatus::PENDING);
        let sent = round.to_le_bytes();
        let own = Io::with_event(Event::new());
        assert_eq!(nt.write_file(server, &own, &sent), NtStatus::SUCCESS);
        for _ in 0..round.wrapping_mul(0x9e37) % 4096 {
            std::hint::spin_loop();
        }
        let waited = nt.wait(
            &[Waitable::Port(port.clone())],
            Deadline::after(10 * SECOND),
        );
        assert_eq!(waited, Ok(0), "asleep on answer {round}");
        let packet = port.take().expect("a packet");
        let expected = (7, round, NtStatus::SUCCESS, sent.len());
        let PortPacket {
            key,
            context,
            status,
            information,
        } = packet;
        assert_eq!((key, context, status, information), expected);
        assert_eq!(buffer.bytes()[..information], sent);
    }
}

// ---- 18: information -----------------------------------------------------------------------------------------------

#[test]
fn np_info_01_02_03_04_18_who_is_told_what() {
    everywhere(|near, far| {
        let server = create(near, "pipe", |_| ()).expect("create");
        let reader =
            open_at(far, &Attributes::named(&path("pipe")), Mask::FILE_READ_DATA).expect("open");
        assert_eq!(local(far, reader), Err(NtStatus::ACCESS_DENIED));
        assert_eq!(
            set_modes(far, reader, 9, 9),
            NtStatus::ACCESS_DENIED,
            "before the values"
        );
        let name = query::<14>(far, reader, InfoClass::NAME).expect("needs no right");
        assert_eq!(word(&name, 0), 10);
        let mut short = [0; 39];
        let io = StatusBlock::new(UNTOUCHED.0, UNTOUCHED.1);
        let status = near.query_information_file(server, &io, InfoClass::PIPE_LOCAL, &mut short);
        assert_eq!(status, NtStatus::INFO_LENGTH_MISMATCH);
        assert_eq!((io.status(), io.information()), UNTOUCHED);
        for handle in [Handle::CURRENT_PROCESS, Handle::CURRENT_THREAD] {
            assert_eq!(local(near, handle), Err(NtStatus::OBJECT_TYPE_MISMATCH));
        }
        for class in [InfoClass::PIPE_REMOTE, InfoClass(0), InfoClass(999)] {
            assert_eq!(
                query::<64>(near, server, class),
                Err(NtStatus::INVALID_PARAMETER)
            );
            let set = near.set_information_file(server, &io, class, &[0; 64]);
            assert_eq!(set, NtStatus::INVALID_PARAMETER);
        }
        control(near, server, Control::DISCONNECT);
        for class in [
            InfoClass::NAME,
            InfoClass::BASIC,
            InfoClass::STANDARD,
            InfoClass::PIPE_LOCAL,
        ] {
            assert_eq!(
                query::<64>(far, reader, class),
                Err(NtStatus::PIPE_DISCONNECTED)
            );
        }
        local(near, server).expect("the server's end is told in every state");
    });
}

#[test]
fn np_info_05_06_07_np_close_07_modes_of_an_end() {
    everywhere(|near, far| {
        let (server, client) = pair(near, far, |_| ());
        let modes = |nt: &Table, handle| {
            let bytes: [u8; 8] = query(nt, handle, InfoClass::PIPE).expect("modes");
            (word(&bytes, 0), word(&bytes, 4))
        };
        assert_eq!((modes(near, server), modes(far, client)), ((1, 0), (0, 0)));
        for (read, completion) in [(2, 0), (0, 2), (u32::MAX, 0)] {
            assert_eq!(
                set_modes(far, client, read, completion),
                NtStatus::INVALID_PARAMETER
            );
        }
        assert_eq!(set_modes(far, client, 1, COMPLETE), NtStatus::SUCCESS);
        assert_eq!((modes(near, server), modes(far, client)), ((1, 0), (1, 1)));
        read(near, server, 1);
        assert_eq!(set_modes(near, server, 1, COMPLETE), NtStatus::PIPE_BUSY);
        near.cancel_io_file(server).expect("cancel");
        assert_eq!(set_modes(near, server, 1, COMPLETE), NtStatus::SUCCESS);
        far.close(client).expect("close");
        assert_eq!(set_modes(near, server, 0, QUEUE), NtStatus::SUCCESS);
        let bytes = create(near, "bytes", |create| {
            create.pipe_type = 0;
            create.read_mode = 0;
        });
        let bytes = bytes.expect("create");
        assert_eq!(
            set_modes(near, bytes, 1, QUEUE),
            NtStatus::INVALID_PARAMETER
        );
    });
}

#[test]
fn np_info_08_09_10_np_obj_01_local_information() {
    everywhere(|near, far| {
        let server = create(near, "pipe", |create| {
            create.in_quota = 100;
            create.out_quota = 200;
            create.share = Share::READ | Share::WRITE;
        });
        let server = server.expect("create");
        let most = u32::MAX;
        let listening = local(near, server).expect("info");
        assert_eq!(listening, [1, 2, most, 1, 100, 0, 200, 200, 2, 1]);
        let client = open(far, "pipe", BOTH).expect("open");
        create(near, "pipe", |_| ()).expect("a further instance");
        write(far, client, &[1; 30]);
        read(far, client, 50);
        let seen = local(near, server).expect("info");
        // A pended read is charged (NP-QUEUE-08).
        assert_eq!(seen, [1, 2, most, 2, 100, 30, 200, 150, 3, 1]);
        let seen = local(far, client).expect("info");
        assert_eq!(seen, [1, 2, most, 2, 100, 0, 200, 70, 3, 0]);
        near.close(server).expect("close");
        let seen = local(far, client).expect("info");
        assert_eq!((seen[3], seen[8]), (1, 4), "one instance, closing");
    });
}

#[test]
fn np_info_11_12_13_the_rest_of_it() {
    everywhere(|near, far| {
        let (server, client) = pair(near, far, |create| {
            create.in_quota = 100;
            create.out_quota = 200;
        });
        write(far, client, &[1; 30]);
        let standard: [u8; 24] = query(near, server, InfoClass::STANDARD).expect("standard");
        assert_eq!((word(&standard, 0), word(&standard, 8)), (300, 30));
        assert_eq!((word(&standard, 16), standard[20], standard[21]), (1, 1, 0));
        let position: [u8; 8] = query(near, server, InfoClass::POSITION).expect("position");
        assert_eq!(word(&position, 0), 30);
        let basic: [u8; 40] = query(near, server, InfoClass::BASIC).expect("basic");
        assert_eq!(basic[..32], [0; 32]);
        assert_eq!(word(&basic, 32), 0x80);
        let status = StatusBlock::default();
        let set = near.set_information_file(server, &status, InfoClass::BASIC, &basic);
        assert_eq!(set, NtStatus::SUCCESS);
        let ids: [[u8; 8]; 2] = [
            query(near, server, InfoClass::INTERNAL).expect("id"),
            query(far, client, InfoClass::INTERNAL).expect("id"),
        ];
        assert_ne!(ids[0], ids[1]);
        assert!(ids.iter().all(|id| *id != [0; 8]));
        assert_eq!(query::<4>(near, server, InfoClass::EA), Ok([0; 4]));
        assert_eq!(query::<4>(near, server, InfoClass::ALIGNMENT), Ok([0; 4]));
        let mode: [u8; 4] = query(near, server, InfoClass::MODE).expect("mode");
        assert_eq!(word(&mode, 0), 0);
    });
}

#[test]
fn np_info_14_15_16_17_names() {
    far_here(|near, far| {
        let server = create(near, "Spelled", |_| ()).expect("create");
        let client = open(far, "SPELLED", BOTH).expect("open");
        let expected: Vec<u8> = units(r"\Spelled")
            .iter()
            .flat_map(|unit| unit.to_le_bytes())
            .collect();
        let whole: [u8; 20] = query(far, client, InfoClass::NAME).expect("name");
        assert_eq!((word(&whole, 0), &whole[4..]), (16, &expected[..]));
        let short = |length: usize| {
            let (io, mut out) = (StatusBlock::default(), vec![0; length]);
            let status = far.query_information_file(client, &io, InfoClass::NAME, &mut out);
            (status, io.information(), out)
        };
        for length in [0, 4, 7] {
            assert_eq!(short(length).0, NtStatus::INFO_LENGTH_MISMATCH);
        }
        let (status, information, out) = short(10);
        assert_eq!((status, information), (NtStatus::BUFFER_OVERFLOW, 10));
        assert_eq!((word(&out, 0), &out[4..]), (16, &expected[..6]));
        near.close(server).expect("close");
        assert_eq!(query::<20>(far, client, InfoClass::NAME), Ok(whole));
        // All of it: basic, standard, internal, ea, access, position, mode, alignment, name.
        let all: [u8; 116] = query(far, client, InfoClass::ALL).expect("all");
        assert_eq!(word(&all, 76), far.granted(client).expect("granted").bits());
        assert_eq!(&all[100..], &expected[..]);
        let root = root(far);
        let name: [u8; 6] = [2, 0, 0, 0, b'\\', 0];
        let mut out = [0; 8];
        let io = StatusBlock::default();
        let status = far.query_information_file(root, &io, InfoClass::NAME, &mut out);
        assert_eq!((status, &out[..6]), (NtStatus::SUCCESS, &name[..]));
        assert_eq!(
            query::<64>(far, root, InfoClass::BASIC),
            Err(NtStatus::INVALID_PARAMETER)
        );
        let volume = volume(far);
        assert_eq!(
            query::<64>(far, volume, InfoClass::NAME),
            Err(NtStatus::INVALID_PARAMETER)
        );
    });
}

// ---- 19: directory and volume --------------------------------------------------------------------------------------

fn list(nt: &Table, root: Handle, part: &ListPart<'_>, room: usize) -> Result<Vec<u8>, NtStatus> {
    let (io, mut out) = (StatusBlock::default(), vec![0; room]);
    match nt.query_directory_file(root, &io, part, &mut out) {
        NtStatus::SUCCESS => {
            out.truncate(io.information());
            Ok(out)
        }
        status => Err(status),
    }
}

/// Names, EndOfFile and AllocationSize of FILE_DIRECTORY_INFORMATION.
fn entries(bytes: &[u8]) -> Vec<(String, u32, u32)> {
    let mut all = Vec::new();
    let mut at = 0;
    loop {
        assert_eq!(word(bytes, at + 56), 0x80);
        let length = word(bytes, at + 60) as usize;
        let name = bytes[at + 64..at + 64 + length].chunks(2);
        let name: Vec<u16> = name
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .collect();
        all.push((
            String::from_utf16(&name).expect("text"),
            word(bytes, at + 40),
            word(bytes, at + 48),
        ));
        let next = word(bytes, at) as usize;
        if next == 0 {
            return all;
        }
        assert_eq!(next % 8, 0);
        at += next;
    }
}

#[test]
fn np_dir_01_02_03_04_05_06_listing_pipes() {
    let world = World::new();
    let nt = &world.near;
    let all = ListPart {
        class: 1,
        pattern: None,
        restart: false,
        single: false,
    };
    let server = create(nt, r"dir\Alpha", |create| create.max_instances = 7).expect("create");
    create(nt, r"dir\alpha", |_| ()).expect("a further instance");
    create(nt, "beta", |_| ()).expect("create");
    nt.create_named_pipe(&Attributes::relative(root(nt), &[]), &CreatePipe::default())
        .expect("unnamed, not listed");
    let invalid = Err(NtStatus::INVALID_PARAMETER);
    assert_eq!(list(nt, server, &all, 4096), invalid);
    assert_eq!(list(nt, volume(nt), &all, 4096), invalid);
    let directory = root(nt);
    for class in [0, 4, 37] {
        let part = ListPart { class, ..all };
        assert_eq!(
            list(nt, directory, &part, 4096),
            Err(NtStatus::INVALID_INFO_CLASS)
        );
    }
    let listed = entries(&list(nt, directory, &all, 4096).expect("listing"));
    let expected = [
        ("beta".to_owned(), 1, u32::MAX),
        (r"dir\Alpha".to_owned(), 2, 7),
    ];
    assert_eq!(listed, expected);
    assert_eq!(
        list(nt, directory, &all, 4096),
        Err(NtStatus::NO_MORE_FILES)
    );
    let again = ListPart {
        restart: true,
        single: true,
        ..all
    };
    let first = entries(&list(nt, directory, &again, 4096).expect("listing"));
    assert_eq!(first, expected[..1]);
    let next = entries(&list(nt, directory, &all, 4096).expect("listing"));
    assert_eq!(next, expected[1..]);
    // The first pattern sticks, whatever the case.
    let directory = root(nt);
    let (pattern, other) = (units(r"DIR\*"), units("*"));
    let part = ListPart {
        pattern: Some(&pattern),
        ..all
    };
    assert_eq!(
        entries(&list(nt, directory, &part, 4096).expect("listing")),
        expected[1..]
    );
    let part = ListPart {
        pattern: Some(&other),
        restart: true,
        ..all
    };
    assert_eq!(
        entries(&list(nt, directory, &part, 4096).expect("listing")),
        expected[1..]
    );
    let none = units("nothing");
    let part = ListPart {
        pattern: Some(&none),
        ..all
    };
    assert_eq!(list(nt, root(nt), &part, 4096), Err(NtStatus::NO_SUCH_FILE));
    // Too small for one: it comes with the next.
    let directory = root(nt);
    assert_eq!(
        list(nt, directory, &all, 70),
        Err(NtStatus::BUFFER_OVERFLOW)
    );
    assert_eq!(
        entries(&list(nt, directory, &all, 80).expect("one")),
        expected[..1]
    );
    assert_eq!(
        entries(&list(nt, directory, &all, 4096).expect("one")),
        expected[1..]
    );
}

#[test]
fn np_vol_01_02_03_04_the_volume() {
    let world = World::new();
    let nt = &world.near;
    let server = create(nt, "pipe", |_| ()).expect("create");
    let query = |class, room: usize| {
        let (io, mut out) = (StatusBlock::default(), vec![0xAA; room]);
        let status = nt.query_volume_information_file(server, &io, class, &mut out);
        out.truncate(io.information());
        (status, out)
    };
    let (status, device) = query(VolumeClass::DEVICE, 8);
    assert_eq!(
        (status, device),
        (NtStatus::SUCCESS, vec![0x11, 0, 0, 0, 0, 0, 0, 0])
    );
    let (status, attribute) = query(VolumeClass::ATTRIBUTE, 64);
    assert_eq!((status, attribute.len()), (NtStatus::SUCCESS, 20));
    assert_eq!(
        (
            word(&attribute, 0),
            word(&attribute, 4),
            word(&attribute, 8)
        ),
        (2, u32::MAX, 8)
    );
    let (status, volume) = query(VolumeClass::VOLUME, 64);
    assert_eq!(
        (status, volume.len(), word(&volume, 12)),
        (NtStatus::SUCCESS, 36, 18)
    );
    let (status, volume) = query(VolumeClass::VOLUME, 24);
    assert_eq!(
        (status, volume.len(), word(&volume, 12)),
        (NtStatus::BUFFER_OVERFLOW, 24, 18)
    );
    let (status, size) = query(VolumeClass::SIZE, 24);
    assert_eq!(
        (status, word(&size, 16), word(&size, 20)),
        (NtStatus::SUCCESS, 1, 1)
    );
    assert_eq!(
        query(VolumeClass::FULL_SIZE, 32),
        (NtStatus::SUCCESS, vec![0; 32])
    );
    assert_eq!(query(VolumeClass(2), 64).0, NtStatus::NOT_SUPPORTED);
}

// ---- 20, 21: who the other end is ----------------------------------------------------------------------------------

#[test]
fn np_imp_01_02_03_04_07_08_10_impersonation_follows_what_was_read() {
    near_here(|near, far| {
        let server = create(near, "pipe", |_| ()).expect("create");
        assert_eq!(
            control(near, server, Control::IMPERSONATE),
            NtStatus::CANNOT_IMPERSONATE
        );
        let client = open(far, "pipe", BOTH).expect("open");
        assert_eq!(
            control(far, client, Control::IMPERSONATE),
            NtStatus::ILLEGAL_FUNCTION
        );
        // Dynamic: not before something was read, or peeked at.
        assert_eq!(
            control(near, server, Control::IMPERSONATE),
            NtStatus::CANNOT_IMPERSONATE
        );
        // What the server writes carries nothing, read or not.
        write(near, server, b"hello");
        read(far, client, 5);
        assert_eq!(
            control(far, client, Control::IMPERSONATE),
            NtStatus::ILLEGAL_FUNCTION
        );
        assert_eq!(
            control(near, server, Control::IMPERSONATE),
            NtStatus::CANNOT_IMPERSONATE
        );
        write(far, client, b"data");
        assert_eq!(
            control(near, server, Control::IMPERSONATE),
            NtStatus::CANNOT_IMPERSONATE
        );
        assert_eq!(impersonated(), None);
        control(near, server, Control::PEEK);
        assert_eq!(
            control(near, server, Control::IMPERSONATE),
            NtStatus::SUCCESS
        );
        let identity = impersonated().expect("somebody");
        assert_eq!(identity.level, Level::Impersonation);
        assert!(identity.effective_only);
        let peer = identity.client.expect("known");
        assert_eq!(peer.pid, far.pid());
        far.close(client).expect("close");
        assert_eq!(
            control(near, server, Control::IMPERSONATE),
            NtStatus::SUCCESS,
            "closing"
        );
        revert_to_self();
        assert_eq!(impersonated(), None);
        control(near, server, Control::DISCONNECT);
        assert_eq!(
            control(near, server, Control::IMPERSONATE),
            NtStatus::CANNOT_IMPERSONATE
        );
        // The next client has to be read from, too.
        assert_eq!(set_modes(near, server, 1, COMPLETE), NtStatus::SUCCESS);
        control(near, server, Control::LISTEN);
        open(far, "pipe", BOTH).expect("open");
        assert_eq!(
            control(near, server, Control::IMPERSONATE),
            NtStatus::CANNOT_IMPERSONATE
        );
    });
}

#[test]
fn np_imp_04_09_static_tracking_and_levels() {
    near_here(|near, far| {
        for level in 0..4 {
            let name = format!("level{level}");
            let server = create(near, &name, |_| ()).expect("create");
            let at = path(&name);
            let at = Attributes {
                quality: Some(Quality::from_bits_retain(level) | Quality::STATIC),
                ..Attributes::named(&at)
            };
            open_at(far, &at, BOTH | Mask::SYNCHRONIZE).expect("open");
            assert_eq!(
                control(near, server, Control::IMPERSONATE),
                NtStatus::SUCCESS
            );
            let identity = impersonated().expect("somebody");
            assert_eq!(identity.level as u32, level);
            assert_eq!(identity.client.is_none(), level == 0);
            revert_to_self();
        }
        // Without access in both directions the default counts, which is dynamic (NP-IMP-03).
        let server = create(near, "reader", |_| ()).expect("create");
        let at = path("reader");
        let at = Attributes {
            quality: Some(Quality::STATIC),
            ..Attributes::named(&at)
        };
        open_at(far, &at, Mask::GENERIC_READ).expect("open");
        assert_eq!(
            control(near, server, Control::IMPERSONATE),
            NtStatus::CANNOT_IMPERSONATE
        );
    });
}

#[test]
fn np_attr_01_02_03_04_05_07_process_and_session() {
    everywhere(|near, far| {
        let ask = |nt: &Table, handle, code, name: &[u8], room| {
            let out = Buffer::new(room);
            let status = nt.fs_control_file(handle, &untouched(), code, name, &out);
            if status == NtStatus::SUCCESS {
                Ok(word(&out.bytes(), 0))
            } else {
                Err(status)
            }
        };
        let server = create(near, "pipe", |_| ()).expect("create");
        let connection = Control::GET_CONNECTION_ATTRIBUTE;
        let not_found = Err(NtStatus::NOT_FOUND);
        assert_eq!(
            ask(near, server, connection, b"ClientProcessId\0", 4),
            not_found
        );
        let client = open(far, "pipe", BOTH).expect("open");
        for (nt, handle) in [(near, server), (far, client)] {
            for (name, pid) in [
                (&b"ClientProcessId\0"[..], far.pid()),
                (b"ServerProcessId\0", near.pid()),
            ] {
                for code in [connection, Control::GET_PIPE_ATTRIBUTE] {
                    assert_eq!(ask(nt, handle, code, name, 4), Ok(pid));
                }
            }
            let session = ask(nt, handle, connection, b"ClientSessionId\0", 4);
            assert_eq!(
                session,
                ask(nt, handle, connection, b"ServerSessionId\0", 4)
            );
            assert!(session.is_ok());
            assert_eq!(
                ask(nt, handle, connection, b"ClientComputerName\0", 64),
                not_found
            );
            let invalid = Err(NtStatus::INVALID_PARAMETER);
            assert_eq!(ask(nt, handle, connection, b"ClientProcessId", 4), invalid);
            let small = Err(NtStatus::BUFFER_TOO_SMALL);
            assert_eq!(ask(nt, handle, connection, b"ClientProcessId\0", 3), small);
        }
        let out = Buffer::new(16);
        let io = untouched();
        let status = near.fs_control_file(server, &io, Control::QUERY_CLIENT_PROCESS, &[], &out);
        assert_eq!((status, block(&io).1), (NtStatus::SUCCESS, 16));
        assert_eq!(word(&out.bytes(), 8), far.pid());
        control(near, server, Control::DISCONNECT);
        assert_eq!(
            ask(near, server, connection, b"ClientProcessId\0", 4),
            not_found
        );
        let own = ask(near, server, connection, b"ServerProcessId\0", 4);
        assert_eq!(own, Ok(near.pid()));
        let gone = Err(NtStatus::PIPE_DISCONNECTED);
        assert_eq!(ask(far, client, connection, b"ServerProcessId\0", 4), gone);
    });
}

// ---- 22: completion ------------------------------------------------------------------------------------------------

#[test]
fn np_io_01_02_04_05_09_14_what_is_written_and_set_when() {
    near_here(|near, far| {
        let (server, client) = pair(near, far, |_| ());
        let file_is_set = |nt: &Table, handle| {
            let soon = Deadline::after(Duration::ZERO);
            nt.wait(&[Waitable::File(handle)], soon).is_ok()
        };
        assert!(file_is_set(near, server) && file_is_set(far, client), "new");
        // (b) with an event: the event, and not the file object.
        let io = untouched();
        assert_eq!(far.write_file(client, &io, b"12345678"), NtStatus::SUCCESS);
        assert_eq!(block(&io), (NtStatus::SUCCESS, 8));
        assert!(io.event.expect("one").is_set());
        assert!(!file_is_set(far, client));
        // Without one: the file object.
        let (io, buffer) = (Io::default(), Buffer::new(3));
        assert_eq!(
            near.read_file(server, &io, &buffer),
            NtStatus::BUFFER_OVERFLOW
        );
        assert_eq!(block(&io), (NtStatus::BUFFER_OVERFLOW, 3));
        assert!(file_is_set(near, server));
        read(near, server, 5);
        // (c): the event is reset at the start, and set at the end.
        let io = untouched();
        let event = io.event.clone().expect("one");
        event.set();
        assert_eq!(
            near.read_file(server, &io, &Buffer::new(8)),
            NtStatus::PENDING
        );
        assert!(!event.is_set());
        write(far, client, b"x");
        assert_eq!(block(&io), (NtStatus::SUCCESS, 1));
        assert!(event.is_set());
        // (a): reset, and nothing else; an invalid handle leaves it alone.
        far.close(client).expect("close");
        let io = untouched();
        let event = io.event.clone().expect("one");
        event.set();
        assert_eq!(
            near.read_file(server, &io, &Buffer::new(8)),
            NtStatus::PIPE_BROKEN
        );
        assert_eq!((block(&io), event.is_set()), (UNTOUCHED, false));
        event.set();
        let nobody = Handle(4000);
        assert_eq!(
            near.read_file(nobody, &io, &Buffer::new(8)),
            NtStatus::INVALID_HANDLE
        );
        assert!(event.is_set());
    });
}

#[test]
fn np_io_03_an_overflow_is_answered_at_once() {
    everywhere(|near, far| {
        let (server, client) = pair(near, far, |_| ());
        write(far, client, b"long");
        let (io, out) = (untouched(), Buffer::new(18));
        let status = near.fs_control_file(server, &io, Control::PEEK, &[], &out);
        assert_eq!(status, NtStatus::BUFFER_OVERFLOW);
        assert_eq!(block(&io), (NtStatus::BUFFER_OVERFLOW, 18));
        let (status, io, _) = read(near, server, 2);
        assert_eq!(status, NtStatus::BUFFER_OVERFLOW);
        assert_eq!(block(&io), (NtStatus::BUFFER_OVERFLOW, 2));
        assert!(io.event.expect("one").is_set());
    });
}

#[test]
fn np_write_15_writing_through_changes_nothing() {
    let world = World::new();
    let nt = &world.near;
    let (server, client) = pair(nt, &world.far, |create| {
        create.options = Options::WRITE_THROUGH;
    });
    let (status, io) = write(nt, server, b"data");
    assert_eq!(
        (status, block(&io).1),
        (NtStatus::SUCCESS, 4),
        "unread, and complete"
    );
    assert_eq!(read(&world.far, client, 4).0, NtStatus::SUCCESS);
    let mode: [u8; 4] = query(nt, server, InfoClass::MODE).expect("mode");
    assert_eq!(word(&mode, 0), 2);
}

#[test]
fn np_wine_03_04_what_wine_asks_for() {
    let world = World::new();
    let nt = &world.near;
    create(nt, r"lrpc\endpoint", |_| ()).expect("create");
    let name = units(r"\??\PIPE\");
    let root = open_at(nt, &Attributes::named(&name), Mask::SYNCHRONIZE).expect("the root");
    let io = untouched();
    let forever = Some(i64::MAX);
    assert_eq!(
        wait_for(nt, root, &io, r"lrpc\endpoint", forever),
        NtStatus::SUCCESS
    );
    open(&world.far, r"LRPC\Endpoint", BOTH).expect("open");
    // Its probe: a wait of one millisecond.
    assert_eq!(
        wait_for(nt, root, &io, r"lrpc\endpoint", Some(-10_000)),
        NtStatus::PENDING
    );
    assert_eq!(awaited(nt, &io), (NtStatus::IO_TIMEOUT, 0));
    assert_eq!(
        wait_for(nt, root, &io, "endpoint", forever),
        NtStatus::OBJECT_NAME_NOT_FOUND
    );
}

#[test]
fn np_io_05_12_a_synchronous_file_object_is_signalled_in_any_case() {
    let world = World::new();
    let nt = &world.near;
    let (server, client) = pair(nt, &world.far, synchronous);
    let (status, io) = write(nt, server, b"data");
    assert_eq!(
        (status, block(&io)),
        (NtStatus::SUCCESS, (NtStatus::SUCCESS, 4))
    );
    assert!(io.event.expect("one").is_set());
    let soon = Deadline::after(Duration::ZERO);
    assert_eq!(nt.wait(&[Waitable::File(server)], soon), Ok(0));
    // COMPLETE is another thing than overlapped.
    assert_eq!(read(&world.far, client, 4).0, NtStatus::SUCCESS);
    assert_eq!(set_modes(nt, server, 1, COMPLETE), NtStatus::SUCCESS);
    assert_eq!(read(nt, server, 1).0, NtStatus::PIPE_EMPTY);
}

#[test]
fn np_io_07_08_packets_to_a_completion_port() {
    near_here(|near, far| {
        let (server, client) = pair(near, far, |_| ());
        let port = Port::new();
        near.set_completion_port(server, &port, 77).expect("a port");
        assert_eq!(
            near.set_completion_port(server, &port, 78),
            Err(NtStatus::INVALID_PARAMETER)
        );
        let with = |context| Io {
            context,
            ..Io::default()
        };
        let packet = |context, status, information| {
            Some(PortPacket {
                key: 77,
                context,
                status,
                information,
            })
        };
        assert_eq!(
            near.read_file(server, &with(1), &Buffer::new(4)),
            NtStatus::PENDING
        );
        write(far, client, b"abcd");
        assert_eq!(port.take(), packet(1, NtStatus::SUCCESS, 4));
        // Completed at once; without a context: none; immediate errors: none.
        write(far, client, b"abcd");
        assert_eq!(
            near.read_file(server, &with(2), &Buffer::new(2)),
            NtStatus::BUFFER_OVERFLOW
        );
        assert_eq!(port.take(), packet(2, NtStatus::BUFFER_OVERFLOW, 2));
        assert_eq!(
            near.read_file(server, &with(0), &Buffer::new(2)),
            NtStatus::SUCCESS
        );
        assert_eq!(port.take(), None);
        // FILE_SKIP_COMPLETION_PORT_ON_SUCCESS.
        let flags = near.set_information_file(
            server,
            &StatusBlock::default(),
            InfoClass::IO_COMPLETION_NOTIFICATION,
            &3_u32.to_le_bytes(),
        );
        assert_eq!(flags, NtStatus::SUCCESS);
        assert_eq!(near.write_file(server, &with(3), b"x"), NtStatus::SUCCESS);
        assert_eq!(port.take(), None);
        assert_eq!(
            near.read_file(server, &with(4), &Buffer::new(2)),
            NtStatus::PENDING
        );
        let waits = thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let within = Deadline::after(SECOND);
                near.wait(&[Waitable::Port(port.clone())], within)
            });
            thread::sleep(Duration::from_millis(20));
            far.close(client).expect("close");
            waits.join().expect("no panic")
        });
        assert_eq!(waits, Ok(0));
        assert_eq!(port.take(), packet(4, NtStatus::PIPE_BROKEN, 0));
        // FILE_SKIP_SET_EVENT_ON_HANDLE.
        let soon = Deadline::after(Duration::ZERO);
        assert_eq!(
            near.wait(&[Waitable::File(server)], soon),
            Err(NtStatus::TIMEOUT)
        );
    });
}

#[test]
fn one_thread_waits_for_many() {
    everywhere(|near, far| {
        let servers: Vec<Handle> = (0..200)
            .map(|number| create(near, &format!("pipe{number}"), |_| ()).expect("create"))
            .collect();
        let clients: Vec<Handle> = (0..200)
            .map(|number| open(far, &format!("pipe{number}"), BOTH).expect("open"))
            .collect();
        let reads: Vec<_> = servers
            .iter()
            .map(|server| read(near, *server, 4))
            .collect();
        let events: Vec<Waitable> = reads
            .iter()
            .map(|(_, io, _)| Waitable::Event(io.event.clone().expect("one")))
            .collect();
        for number in [150, 3, 77] {
            thread::scope(|scope| {
                let waits = scope.spawn(|| near.wait(&events, Deadline::after(5 * SECOND)));
                thread::sleep(Duration::from_millis(5));
                write(far, clients[number], b"data");
                assert_eq!(waits.join().expect("no panic"), Ok(number));
            });
            let (_, io, _) = &reads[number];
            assert_eq!(block(io), (NtStatus::SUCCESS, 4));
            io.event.as_ref().expect("one").reset();
        }
        let soon = Deadline::after(Duration::from_millis(10));
        assert_eq!(near.wait(&events, soon), Err(NtStatus::TIMEOUT));
    });
}

#[test]
fn what_is_issued_during_a_wait_is_waited_for_too() {
    near_here(|near, far| {
        let (server, client) = pair(near, far, |_| ());
        let port = Port::new();
        near.set_completion_port(server, &port, 1).expect("a port");
        thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let within = Deadline::after(5 * SECOND);
                near.wait(&[Waitable::Port(port.clone())], within)
            });
            thread::sleep(Duration::from_millis(20));
            let io = Io {
                context: 1,
                ..Io::default()
            };
            assert_eq!(
                near.read_file(server, &io, &Buffer::new(4)),
                NtStatus::PENDING
            );
            thread::sleep(Duration::from_millis(20));
            // By the data path alone, as from another process: nobody moves it on but the waiter.
            let writes = scope.spawn(|| write(far, client, b"data").0);
            assert_eq!(writes.join().expect("no panic"), NtStatus::SUCCESS);
            assert_eq!(waits.join().expect("no panic"), Ok(0));
        });
        assert_eq!(port.take().map(|packet| packet.information), Some(4));
    });
}

/// More than the area of a small quota holds.
const LARGE: usize = 300_000;

#[test]
fn np_flush_04_np_write_08_a_write_larger_than_its_area_goes_on_while_its_thread_waits() {
    everywhere(|near, far| {
        let (server, client) = pair(near, far, |create| create.in_quota = 0);
        let (status, writes) = write(far, client, &vec![7; LARGE]);
        assert_eq!(status, NtStatus::PENDING);
        thread::scope(|scope| {
            let reads = scope.spawn(|| {
                let (status, io, buffer) = read(near, server, LARGE);
                if status == NtStatus::PENDING {
                    awaited(near, &io);
                }
                (block(&io), buffer.bytes() == vec![7; LARGE])
            });
            // In a flush,
            let flushed = far.flush_buffers_file(client, &StatusBlock::default());
            assert_eq!(flushed, NtStatus::SUCCESS);
            assert_eq!(
                reads.join().expect("no panic"),
                ((NtStatus::SUCCESS, LARGE), true)
            );
        });
        assert_eq!(awaited(far, &writes), (NtStatus::SUCCESS, LARGE));
        // and in a wait for something else.
        let (_, answer, _) = read(far, client, 2);
        let (status, _) = write(far, client, &vec![8; LARGE]);
        assert_eq!(status, NtStatus::PENDING);
        thread::scope(|scope| {
            scope.spawn(|| {
                let (status, io, _) = read(near, server, LARGE);
                if status == NtStatus::PENDING {
                    awaited(near, &io);
                }
                assert_eq!(write(near, server, b"ok").0, NtStatus::SUCCESS);
            });
            assert_eq!(awaited(far, &answer), (NtStatus::SUCCESS, 2));
        });
    });
}

#[test]
fn np_write_05_np_io_09_a_thread_feeds_its_own_read() {
    everywhere(|near, far| {
        let server = create(near, "pipe", |create| create.in_quota = 0).expect("create");
        let name = path("pipe");
        let options = Options::SYNCHRONOUS.bits();
        let access = BOTH | Mask::SYNCHRONIZE;
        let client = far.open_file(&Attributes::named(&name), access, 1, options);
        let (client, _) = client.expect("open");
        let (status, io, buffer) = read(near, server, LARGE);
        assert_eq!(status, NtStatus::PENDING);
        let data = npfs_tests::pattern(1, LARGE);
        assert_eq!(write(far, client, &data).0, NtStatus::SUCCESS);
        assert_eq!(block(&io), (NtStatus::SUCCESS, LARGE));
        assert!(buffer.bytes() == data);
    });
}

#[test]
fn np_cancel_01_05_a_call_that_blocks_is_cancelled_by_its_file_object_too() {
    let world = World::new();
    let nt = &world.near;
    let (server, _client) = pair(nt, &world.far, synchronous);
    for by_block in [true, false] {
        let io = untouched();
        let begin = std::time::Instant::now();
        let status = thread::scope(|scope| {
            let reads = scope.spawn(|| nt.read_file(server, &io, &Buffer::new(4)));
            let with = by_block.then_some(&io.status);
            let other = StatusBlock::default();
            while nt.cancel_io_file_ex(server, with).is_err() {
                let none = nt.cancel_io_file_ex(server, Some(&other));
                assert_eq!(none, Err(NtStatus::NOT_FOUND));
                assert!(begin.elapsed() < 10 * SECOND);
            }
            reads.join().expect("no panic")
        });
        assert_eq!((status, block(&io)), (NtStatus::CANCELLED, UNTOUCHED));
    }
}

#[test]
fn np_cancel_08_what_a_thread_has_pending_ends_with_it() {
    far_here(|near, far| {
        let (server, client) = pair(near, far, |create| create.in_quota = 4);
        let other = create(far, "other", |_| ()).expect("create");
        let (reads, writes, listens) = thread::spawn({
            let far = far.clone();
            move || {
                let reads = read(&far, client, 4).1;
                let (status, writes) = write(&far, client, b"more than four");
                assert_eq!(status, NtStatus::PENDING);
                let listens = untouched();
                let none = Buffer::new(0);
                let status = far.fs_control_file(other, &listens, Control::LISTEN, &[], &none);
                assert_eq!(status, NtStatus::PENDING);
                (reads, writes, listens)
            }
        })
        .join()
        .expect("no panic");
        for io in [&reads, &writes, &listens] {
            assert_eq!(awaited(far, io), (NtStatus::CANCELLED, 0));
        }
        // The pipe is empty, and usable.
        assert_eq!(local(near, server).expect("info")[5], 0);
        assert_eq!(write(far, client, b"next").0, NtStatus::SUCCESS);
        assert_eq!(read(near, server, 4).0, NtStatus::SUCCESS);
    });
}

/// The same when other threads have come across it meanwhile: who looks for what pends lists a read that is polled.
#[test]
fn np_cancel_08_what_others_have_listed_ends_with_its_thread() {
    far_here(|near, far| {
        let (server, client) = pair(near, far, |_| ());
        let (pends, is_pending) = std::sync::mpsc::channel();
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let reader = thread::spawn({
            let far = far.clone();
            move || {
                let (status, io, _) = read(&far, client, 4);
                assert_eq!(status, NtStatus::PENDING);
                pends.send(io).expect("somebody waits");
                ends.recv().expect("a word");
            }
        });
        let io = is_pending.recv().expect("a read");
        // Nothing is this thread's, so it pends still.
        far.cancel_io_file(client).expect("cancel");
        assert_eq!(block(&io), UNTOUCHED);
        end.send(()).expect("it waits");
        reader.join().expect("no panic");
        assert_eq!(awaited(far, &io), (NtStatus::CANCELLED, 0));
        assert_eq!(write(near, server, b"next").0, NtStatus::SUCCESS);
        assert_eq!(read(far, client, 4).0, NtStatus::SUCCESS);
    });
}

/// A thread that uses one handle again and again knows what it stands for, until it is closed, wherever that is.
#[test]
fn a_handle_that_is_closed_stands_for_nothing_and_its_number_for_the_next() {
    far_here(|near, far| {
        let (server, client) = pair(near, far, |_| ());
        let again = far.duplicate(client, None).expect("a duplicate");
        let writes = |handle| [(); 3].map(|()| write(far, handle, b"x").0)[2];
        assert_eq!(writes(again), NtStatus::SUCCESS);
        thread::scope(|scope| {
            scope.spawn(|| far.close(again).expect("close"));
        });
        assert_eq!(writes(again), NtStatus::INVALID_HANDLE);
        let narrow = far
            .duplicate(client, Some(Mask::FILE_READ_DATA))
            .expect("a duplicate");
        assert_eq!(narrow, again, "the same number");
        assert_eq!(writes(narrow), NtStatus::ACCESS_DENIED);
        assert_eq!(writes(client), NtStatus::SUCCESS);
        assert_eq!(read(near, server, 6).0, NtStatus::SUCCESS);
    });
}

/// Keeps a status block's words, and is counted as long as anybody has the block.
struct Counted {
    _one: Arc<()>,
}

impl Elsewhere for Counted {
    fn write(&self, _: NtStatus, _: usize) {}
}

/// Calls that begin to pend while another thread closes their file are over when both have returned, and nothing is left of them.
#[test]
fn np_close_01_a_call_that_begins_as_its_file_closes_leaves_nothing() {
    let site = Site::start(BrokerOptions::new().workers(2));
    let (near, far) = (table(site.broker()), table(site.broker()));
    let everything = Arc::new(());
    for turn in 0..1000 {
        let access = BOTH | Mask::SYNCHRONIZE;
        let name = path("pipe");
        let at = Attributes::named(&name);
        let (server, _) = near
            .create_named_pipe(&at, &CreatePipe::default())
            .expect("create");
        let (client, _) = far.open_file(&at, access, 1, 0).expect("open");
        let status = StatusBlock::elsewhere(Counted {
            _one: everything.clone(),
        });
        let io = Io {
            status: status.clone(),
            ..untouched()
        };
        let begun = thread::scope(|scope| {
            let reads = scope.spawn(|| far.read_file(client, &io, &Buffer::new(4)));
            // Before, in the midst of it, and after.
            (0..turn % 100).for_each(|_| std::hint::spin_loop());
            far.close(client).expect("close");
            reads.join().expect("no panic")
        });
        if begun == NtStatus::PENDING {
            assert!(io.event.as_ref().is_some_and(Event::is_set), "it is over");
        }
        near.close(server).expect("close");
    }
    // What is over may stay until the next one pends.
    eventually("they are gone", || Arc::strong_count(&everything) <= 2);
}

#[test]
fn np_flush_05_06_07_the_control_that_flushes_pends() {
    everywhere(|near, far| {
        let (server, client) = pair(near, far, |_| ());
        let flush = || {
            let io = untouched();
            let status = far.fs_control_file(client, &io, Control::FLUSH, &[], &Buffer::new(0));
            (status, io)
        };
        assert_eq!(flush().0, NtStatus::SUCCESS);
        write(far, client, b"before");
        let (status, io) = flush();
        assert_eq!(status, NtStatus::PENDING);
        write(far, client, b"after");
        assert_eq!(read(near, server, 3).0, NtStatus::BUFFER_OVERFLOW);
        assert_eq!(block(&io), UNTOUCHED);
        assert_eq!(read(near, server, 3).0, NtStatus::SUCCESS);
        assert_eq!(block(&io), (NtStatus::SUCCESS, 0));
        let (_, io) = flush();
        near.close(server).expect("close");
        assert_eq!(block(&io), (NtStatus::PIPE_BROKEN, 0));
    });
}

#[test]
fn any_arguments_are_answered() {
    use npfs_tests::Rng;
    let world = World::new();
    let nt = &world.near;
    let mut rng = Rng::new(0x5EED);
    let mut handles = vec![
        Handle(0),
        Handle(3),
        Handle(4000),
        Handle::CURRENT_PROCESS,
        volume(nt),
        root(nt),
    ];
    let count = if std::env::var_os("NPFS_LONG").is_some() {
        1_000_000
    } else {
        20_000
    };
    for turn in 0..count {
        let mut any = || u32::try_from(rng.below(1 << 32)).unwrap_or(0);
        let pick = |number: u32, of: &[Handle]| of[number as usize % of.len()];
        let handle = pick(any(), &handles);
        let room = [0, 1, 15, 16, 17, 64, 5000][any() as usize % 7];
        let data = vec![7; room];
        let io = untouched();
        match any() % 16 {
            0 if handles.len() < 40 => {
                let name = path(&format!("any{}", any() % 3));
                let given = CreatePipe {
                    disposition: any() % 4,
                    pipe_type: any() % 3,
                    read_mode: any() % 2,
                    completion_mode: any() % 2,
                    in_quota: any() >> (any() % 32),
                    out_quota: any() >> (any() % 32),
                    max_instances: any() % 5,
                    ..CreatePipe::default()
                };
                let at = if any() % 4 == 0 {
                    Attributes::relative(handle, &[])
                } else {
                    Attributes::named(&name)
                };
                handles.extend(nt.create_named_pipe(&at, &given).ok().map(|(made, _)| made));
            }
            1 if handles.len() < 40 => {
                let name = path(&format!("any{}", any() % 3));
                let at = if any() % 4 == 0 {
                    Attributes::relative(handle, &[])
                } else {
                    Attributes::named(&name)
                };
                let access = Mask::from_bits_retain(any()) & Mask::from_bits_retain(0xF21F_01FF);
                handles.extend(
                    nt.open_file(&at, access, any(), 0)
                        .ok()
                        .map(|(made, _)| made),
                );
            }
            2 => {
                nt.read_file(handle, &io, &Buffer::new(room));
            }
            3 => {
                nt.write_file(handle, &io, &data);
            }
            4..=6 => {
                let code = Control::ALL[any() as usize % Control::ALL.len()];
                nt.fs_control_file(handle, &io, code, &data, &Buffer::new(room));
            }
            7 => {
                nt.fs_control_file(handle, &io, Control(any()), &data, &Buffer::new(room));
            }
            8 => {
                let mut out = data;
                nt.query_information_file(handle, &io.status, InfoClass(any() % 50), &mut out);
            }
            9 => {
                nt.set_information_file(handle, &io.status, InfoClass(any() % 50), &data);
            }
            10 => {
                let mut out = data;
                nt.query_volume_information_file(
                    handle,
                    &io.status,
                    VolumeClass(any() % 10),
                    &mut out,
                );
            }
            11 => {
                let part = ListPart {
                    class: any() % 14,
                    pattern: None,
                    restart: any() % 2 == 0,
                    single: any() % 2 == 0,
                };
                let mut out = data;
                nt.query_directory_file(handle, &io.status, &part, &mut out);
            }
            12 => {
                let _ = nt.cancel_io_file_ex(handle, None);
            }
            13 if handles.len() < 40 => {
                let access = Mask::from_bits_retain(any());
                handles.extend(nt.duplicate(handle, Some(access)).ok());
            }
            14 if turn % 3 == 0 => {
                if nt.close(handle).is_ok() {
                    handles.retain(|other| *other != handle);
                    handles.extend((handles.len() < 4).then(|| root(nt)));
                }
            }
            _ => {
                let _ = nt.query_security_object(handle, SecurityParts::from_bits_retain(any()));
            }
        }
    }
}

// ---- the event loop ------------------------------------------------------------------------------------------------

/// A broker, and one handle table of its namespace.
fn one_table() -> (Site, Nt, Table) {
    let site = Site::start(BrokerOptions::new().workers(2));
    let nt = Nt::new(site.namespace());
    let here = Table::here(nt.clone(), nt.clone()).0;
    (site, nt, here)
}

/// Until it has completed, without any call that could move it on.
fn by_itself(io: &Io) -> (NtStatus, usize) {
    let begin = std::time::Instant::now();
    // The status comes last.
    while io.status.status() == UNTOUCHED.0 {
        assert!(begin.elapsed() < 10 * SECOND, "nobody moves it on");
        thread::yield_now();
    }
    block(io)
}

#[test]
fn np_io_01_what_pends_completes_though_nobody_waits() {
    let (site, _, here) = one_table();
    let mut client = site.actor(child_exe!());
    let server = create(&here, "quiet", |create| create.in_quota = 10).expect("create");
    client.must("open c quiet rw");
    for turn in 0..50 {
        let (pends, io, buffer) = read(&here, server, 16);
        assert_eq!(pends, NtStatus::PENDING);
        client.must(&format!("write c {turn}"));
        let count = turn.to_string().len();
        assert_eq!(by_itself(&io), (NtStatus::SUCCESS, count));
        assert_eq!(&buffer.bytes()[..count], turn.to_string().as_bytes());
        // A wait in between takes the pump away, and gives it back.
        if turn % 8 == 0 {
            let event = Waitable::Event(Event::new());
            let soon = Deadline::after(Duration::from_millis(1));
            assert_eq!(here.wait(&[event], soon), Err(NtStatus::TIMEOUT));
        }
    }
    // A write beyond the quota, and beyond its area: the loop goes on laying it down.
    let (pends, long) = write(&here, server, &vec![7; 1 << 20]);
    assert_eq!(pends, NtStatus::PENDING);
    assert_eq!(client.must("read c").len(), 1 << 20);
    assert_eq!(by_itself(&long), (NtStatus::SUCCESS, 1 << 20));
    // And what the peer's death ends.
    let (_, io, _) = read(&here, server, 16);
    client.kill();
    assert_eq!(by_itself(&io), (NtStatus::PIPE_BROKEN, 0));
}

/// For a time that differs from turn to turn, a few microseconds at most.
fn linger(turn: u32) {
    for _ in 0..turn.wrapping_mul(0x9e37_79b9) >> 22 {
        std::hint::spin_loop();
    }
}

/// Cancels race completions: each read is answered once, with its message or with CANCELLED, and no message is lost.
#[test]
fn np_cancel_01_04_cancels_and_completions_exclude_each_other() {
    let rounds: u32 = match std::env::var_os("NPFS_LONG") {
        Some(_) => 1_000_000,
        None => 5000,
    };
    let site = Site::start(BrokerOptions::new().workers(2));
    let (near, far) = (Nt::new(site.namespace()), Nt::new(site.namespace()));
    let (near, far) = Table::here(near, far);
    let (server, client) = pair(&near, &far, |_| ());
    let done = std::sync::atomic::AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..rounds {
                // The read of the last one is over: the next one is about to pend, or to be cancelled.
                while done.load(std::sync::atomic::Ordering::SeqCst) < number {
                    thread::yield_now();
                }
                linger(number);
                let (status, _) = write(&far, client, &number.to_le_bytes());
                assert_eq!(status, NtStatus::SUCCESS);
            }
        });
        let (mut next, mut cancelled, mut too_late) = (0, 0, 0);
        while next != rounds {
            let (status, io, buffer) = read(&near, server, 4);
            if status == NtStatus::PENDING {
                linger(next + cancelled);
                let asked = near.cancel_io_file_ex(server, Some(&io.status));
                let (status, count) = awaited(&near, &io);
                assert_eq!(asked.is_ok(), status == NtStatus::CANCELLED);
                if status == NtStatus::CANCELLED {
                    assert_eq!(count, 0);
                    cancelled += 1;
                    continue;
                }
                too_late += 1;
            }
            assert_eq!(block(&io), (NtStatus::SUCCESS, 4));
            assert_eq!(buffer.bytes(), u32::to_le_bytes(next));
            next += 1;
            done.store(next, std::sync::atomic::Ordering::SeqCst);
        }
        let raced = cancelled > 0 && too_late > 0;
        assert!(raced, "{cancelled} cancelled, {too_late} too late");
    });
    assert_eq!(
        read(&near, server, 4).0,
        NtStatus::PENDING,
        "nothing is left"
    );
}

#[test]
fn several_threads_take_from_one_port() {
    let (_site, _, here) = one_table();
    let port = Port::new();
    let mut ends = Vec::new();
    for number in 0..20 {
        let name = format!("p{number}");
        let server = create(&here, &name, |_| ()).expect("create");
        here.set_completion_port(server, &port, number + 1)
            .expect("a port");
        ends.push((server, open(&here, &name, BOTH).expect("open")));
    }
    let taken = std::sync::Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let waitable = Waitable::Port(port.clone());
                    let waited = here.wait(&[waitable], Deadline::after(5 * SECOND));
                    assert_eq!(waited, Ok(0));
                    let Some(packet) = port.take() else { continue };
                    let mut taken = taken.lock().expect("no panic");
                    taken.push(packet.context);
                    // The last few are left, so that nobody waits for what another has taken.
                    if taken.len() + 4 > 400 {
                        return;
                    }
                }
            });
        }
        for round in 0..20_usize {
            for (number, (server, client)) in ends.iter().enumerate() {
                let io = Io {
                    context: round * 20 + number + 1,
                    ..Io::default()
                };
                let status = here.read_file(*server, &io, &Buffer::new(4));
                assert_eq!(status, NtStatus::PENDING);
                assert_eq!(write(&here, *client, b"x").0, NtStatus::SUCCESS);
            }
        }
    });
    let mut taken = taken.into_inner().expect("no panic");
    taken.extend(std::iter::from_fn(|| port.take()).map(|packet| packet.context));
    taken.sort_unstable();
    assert_eq!(taken, (1..=400).collect::<Vec<_>>(), "each once");
}

/// What callbacks were told, and on which threads.
#[derive(Clone, Default)]
struct Told(std::sync::Arc<std::sync::Mutex<Vec<(NtStatus, usize, String)>>>);

impl Told {
    fn note(&self, status: NtStatus, information: usize) {
        let thread = thread::current().name().unwrap_or_default().to_owned();
        let mut told = self.0.lock().expect("no panic");
        told.push((status, information, thread));
    }

    /// Waits until so many have come.
    fn after(&self, count: usize) -> Vec<(NtStatus, usize, String)> {
        let come = || self.0.lock().expect("no panic").len() >= count;
        assert!(npfs_tests::until(5 * SECOND, come), "not told");
        self.0.lock().expect("no panic").clone()
    }
}

fn with_callback(callback: Callback) -> Io {
    Io {
        callback: Some(callback),
        ..Io::default()
    }
}

#[test]
fn np_io_01_callbacks_are_told_of_completions_on_the_loop() {
    let (_site, _, here) = one_table();
    let (server, client) = pair(&here, &here, |_| ());
    let told = Told::default();
    let callback = {
        let told = told.clone();
        move || {
            let told = told.clone();
            with_callback(Callback::new(move |status, count| told.note(status, count)))
        }
    };
    // (c): when it completes, and not on the thread that completes it.
    let buffer = Buffer::new(8);
    assert_eq!(
        here.read_file(server, &callback(), &buffer),
        NtStatus::PENDING
    );
    assert!(told.0.lock().expect("no panic").is_empty());
    assert_eq!(write(&here, client, b"one").0, NtStatus::SUCCESS);
    // (b): at once.
    assert_eq!(
        here.write_file(client, &callback(), b"second"),
        NtStatus::SUCCESS
    );
    assert_eq!(
        here.read_file(server, &callback(), &Buffer::new(4)),
        NtStatus::BUFFER_OVERFLOW
    );
    // (a): not at all.
    assert!(!here.write_file(Handle(4000), &callback(), b"").is_success());
    // And what is cancelled, or closed.
    assert_eq!(
        here.read_file(client, &callback(), &buffer),
        NtStatus::PENDING
    );
    here.cancel_io_file_ex(client, None).expect("cancelled");
    assert_eq!(
        here.read_file(client, &callback(), &buffer),
        NtStatus::PENDING
    );
    here.close(server).expect("close");
    let expected = [
        (NtStatus::SUCCESS, 3),
        (NtStatus::SUCCESS, 6),
        (NtStatus::BUFFER_OVERFLOW, 4),
        (NtStatus::CANCELLED, 0),
        (NtStatus::PIPE_BROKEN, 0),
    ];
    let told = told.after(expected.len());
    for ((status, count, thread), expected) in told.iter().zip(expected) {
        assert_eq!(
            ((*status, *count), thread.as_str()),
            (expected, "npfs-loop")
        );
    }
    assert_eq!(told.len(), expected.len());
}

/// What a call was given is let go: a callback's own once that was told, the rest with the file object at the latest.
#[test]
fn np_io_01_what_a_completed_call_was_given_is_let_go() {
    #[derive(Clone)]
    struct Kept(std::sync::Arc<()>);
    impl Elsewhere for Kept {
        fn write(&self, _: NtStatus, _: usize) {}
    }
    let (_site, _, here) = one_table();
    let (server, client) = pair(&here, &here, |_| ());
    let kept = Kept(std::sync::Arc::default());
    let is_ours_alone = || std::sync::Arc::strong_count(&kept.0) == 1;
    for _ in 0..3 {
        let told = Told::default();
        let io = with_callback(Callback::new({
            let (own, told) = (kept.clone(), told.clone());
            move |status, count| {
                let _own = &own;
                told.note(status, count);
            }
        }));
        let pends = here.read_file(server, &io, &Buffer::new(8));
        assert_eq!(pends, NtStatus::PENDING);
        drop(io);
        assert!(!is_ours_alone());
        assert_eq!(write(&here, client, b"one").0, NtStatus::SUCCESS);
        assert_eq!(told.after(1)[0].0, NtStatus::SUCCESS);
        assert!(npfs_tests::until(5 * SECOND, is_ours_alone), "kept");
    }
    for _ in 0..3 {
        let io = Io {
            status: StatusBlock::elsewhere(kept.clone()),
            ..Io::default()
        };
        let pends = here.read_file(server, &io, &Buffer::new(8));
        assert_eq!(pends, NtStatus::PENDING);
        assert_eq!(write(&here, client, b"two").0, NtStatus::SUCCESS);
        assert_eq!(block(&io), (NtStatus::SUCCESS, 3));
    }
    here.close(server).expect("close");
    assert!(npfs_tests::until(5 * SECOND, is_ours_alone), "kept");
}

#[test]
fn np_io_07_a_callback_and_a_port_exclude_each_other() {
    let (_site, _, here) = one_table();
    let (server, _client) = pair(&here, &here, |_| ());
    here.set_completion_port(server, &Port::new(), 1)
        .expect("a port");
    let io = with_callback(Callback::new(|_, _| panic!("never called")));
    let answer = here.read_file(server, &io, &Buffer::new(8));
    assert_eq!(answer, NtStatus::INVALID_PARAMETER);
}

#[test]
fn a_callback_on_the_loop_must_not_wait_and_one_on_a_thread_of_its_own_may() {
    let (_site, nt, here) = one_table();
    let (server, client) = pair(&here, &here, |_| ());
    // One that blocks: a synchronous handle of another pipe, on which nothing comes for now.
    let quiet = create(&here, "quiet", |_| ()).expect("create");
    let open = nt.open_file(
        &Attributes::named(&units(r"\??\pipe\quiet")),
        BOTH | Mask::SYNCHRONIZE,
        0,
        0x20,
    );
    let blocks = open.expect("open").0;
    let told = Told::default();
    let wait_inside = {
        let (nt, told) = (nt.clone(), told.clone());
        move |_, _| {
            let io = Io::default();
            let status = nt.read_file(blocks, &io, &Buffer::new(8));
            told.note(status, io.status.information());
            let event = Waitable::Event(Event::new());
            let waited = nt.wait(&[event], Deadline::after(Duration::from_millis(20)));
            told.note(waited.expect_err("never set"), 0);
        }
    };
    let io = with_callback(Callback::new(wait_inside.clone()));
    assert_eq!(
        here.read_file(server, &io, &Buffer::new(8)),
        NtStatus::PENDING
    );
    assert_eq!(write(&here, client, b"x").0, NtStatus::SUCCESS);
    let first = told.after(2);
    for (status, _, thread) in &first {
        assert_eq!(
            (*status, thread.as_str()),
            (NtStatus::POSSIBLE_DEADLOCK, "npfs-loop")
        );
    }
    let io = with_callback(Callback::that_may_wait(wait_inside));
    assert_eq!(
        here.read_file(server, &io, &Buffer::new(8)),
        NtStatus::PENDING
    );
    assert_eq!(write(&here, client, b"x").0, NtStatus::SUCCESS);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(told.after(2).len(), 2, "it waits");
    // The loop goes on meanwhile, and what it waits for comes.
    assert_eq!(write(&here, quiet, b"at last").0, NtStatus::SUCCESS);
    let all = told.after(4);
    assert_eq!(all[2], (NtStatus::SUCCESS, 7, "npfs-callback".to_owned()));
    assert_eq!(all[3].0, NtStatus::TIMEOUT);
}

/// A panic in a callback ends the callback.
#[test]
fn a_callback_that_panics_ends_nothing_else() {
    let (_site, _, here) = one_table();
    let (server, client) = pair(&here, &here, |_| ());
    let told = Told::default();
    for make in [
        Callback::new as fn(Box<dyn Fn(NtStatus, usize) + Send + Sync>) -> Callback,
        Callback::that_may_wait,
    ] {
        for panics in [true, false] {
            let told = told.clone();
            let io = with_callback(make(Box::new(move |status, count| {
                assert!(!panics, "on purpose");
                told.note(status, count);
            })));
            assert_eq!(
                here.read_file(server, &io, &Buffer::new(8)),
                NtStatus::PENDING
            );
            assert_eq!(write(&here, client, b"x").0, NtStatus::SUCCESS);
        }
    }
    assert_eq!(told.after(2).len(), 2);
}

fn packet(context: usize) -> PortPacket {
    PortPacket {
        key: 1,
        context,
        status: NtStatus::SUCCESS,
        information: 0,
    }
}

#[test]
fn a_port_gives_packets_in_batches() {
    let port = Port::new();
    for number in 1..=10 {
        port.post(packet(number));
    }
    let mut batch = Vec::new();
    let soon = || Deadline::after(Duration::from_millis(1));
    assert_eq!(port.wait(&mut batch, 4, soon()), Ok(4));
    assert_eq!(port.wait(&mut batch, 100, soon()), Ok(6));
    let taken: Vec<_> = batch.iter().map(|packet| packet.context).collect();
    assert_eq!(taken, (1..=10).collect::<Vec<_>>(), "the oldest first");
    assert_eq!(port.wait(&mut batch, 1, soon()), Err(NtStatus::TIMEOUT));
}

/// With a limit of one and two waiters the second is released only when the first waits again, here or elsewhere, or ends.
#[test]
fn a_port_lets_so_many_threads_work_at_a_time() {
    let one = std::num::NonZeroUsize::MIN;
    let (port, other) = (Port::with_concurrency(one), Port::new());
    let (tell, told) = std::sync::mpsc::channel();
    let start = |orders: std::sync::mpsc::Receiver<&'static str>| {
        let (port, other, tell) = (port.clone(), other.clone(), tell.clone());
        thread::spawn(move || {
            let me = thread::current().id();
            for order in orders {
                let at = if order == "wait" { &port } else { &other };
                let mut batch = Vec::new();
                let waited = at.wait(&mut batch, 1, Deadline::after(5 * SECOND));
                tell.send((me, waited.map(|_| batch[0].context)))
                    .expect("told");
            }
        })
    };
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let (order, orders) = std::sync::mpsc::channel();
            (start(orders), order)
        })
        .collect();
    let order = |worker: thread::ThreadId, what| {
        let (_, order) = workers
            .iter()
            .find(|(one, _)| one.thread().id() == worker)
            .expect("one");
        order.send(what).expect("told");
    };
    let next = || told.recv_timeout(5 * SECOND).expect("a packet");
    let nobody = || {
        told.recv_timeout(Duration::from_millis(50))
            .expect_err("nobody may")
    };
    for (worker, _) in &workers {
        order(worker.thread().id(), "wait");
    }
    for number in 1..=4 {
        port.post(packet(number));
    }
    let (first, got) = next();
    assert_eq!(got, Ok(1));
    nobody();
    // The first waits again: one of the two has the next, and still one at a time.
    order(first, "wait");
    let (second, got) = next();
    assert_eq!(got, Ok(2));
    nobody();
    // It waits elsewhere.
    order(second, "wait elsewhere");
    let (third, got) = next();
    assert_eq!(got, Ok(3));
    assert_ne!(second, third);
    nobody();
    // It ends: the other comes back for what is left.
    other.post(packet(99));
    assert_eq!(next(), (second, Ok(99)));
    order(second, "wait");
    nobody();
    for (worker, order) in workers {
        drop(order);
        if worker.thread().id() == third {
            worker.join().expect("no panic");
        }
    }
    assert_eq!(next(), (second, Ok(4)));
}

/// For a program with an event loop of its own: one descriptor, readable once something has completed.
#[test]
fn a_notice_is_readable_once_something_has_completed() {
    use std::os::fd::AsFd;
    let (site, _, here) = one_table();
    let mut client = site.actor(child_exe!());
    let server = create(&here, "noticed", |_| ()).expect("create");
    client.must("open c noticed rw");
    let port = Port::new();
    here.set_completion_port(server, &port, 7).expect("a port");
    let notice = npfs::Notice::of_this_process().expect("a descriptor");
    let readable = |millis| npfs_tests::sys::is_readable(notice.as_fd(), millis);
    for turn in 1..=50_usize {
        let io = Io {
            context: turn,
            ..Io::default()
        };
        assert_eq!(
            here.read_file(server, &io, &Buffer::new(16)),
            NtStatus::PENDING
        );
        client.must(&format!("write c {turn}"));
        // Other tests of this process complete things, too: until it is ours.
        let packet = loop {
            assert!(readable(5000), "not told");
            notice.take();
            if let Some(packet) = port.take() {
                break packet;
            }
        };
        assert_eq!((packet.context, packet.key), (turn, 7));
    }
}

/// What forbids io_uring is met with futexes.
#[test]
fn all_of_this_under_a_filter_that_forbids_io_uring() {
    const INSIDE: &str = "NPFS_TEST_WITHOUT_IO_URING";
    if std::env::var_os(INSIDE).is_some() {
        assert_eq!(npfs::event_loop(), "futex");
        return;
    }
    let tests = std::env::current_exe().expect("this program");
    let mut inside = std::process::Command::new(tests);
    inside.env(INSIDE, "1");
    npfs_tests::sys::forbid_io_uring(&mut inside);
    let ran = inside.output().expect("run");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}");
    assert!(said.contains("test result: ok"), "{said}");
}

/// A thread is at work on what its callback has taken until the callback returns, wherever that runs.
#[test]
fn a_callback_that_takes_from_a_limited_port_comes_back() {
    let (_site, _, here) = one_table();
    let (server, client) = pair(&here, &here, |_| ());
    for make in [
        Callback::new as fn(Box<dyn Fn(NtStatus, usize) + Send + Sync>) -> Callback,
        Callback::that_may_wait,
    ] {
        let port = Port::with_concurrency(std::num::NonZeroUsize::MIN);
        port.post(packet(1));
        port.post(packet(2));
        let told = Told::default();
        let take = {
            let (port, told) = (port.clone(), told.clone());
            move |_, _| {
                let mut taken = Vec::new();
                let got = port.wait(&mut taken, 1, Deadline::after(Duration::ZERO));
                told.note(NtStatus::SUCCESS, got.expect("there is one"));
            }
        };
        let io = with_callback(make(Box::new(take)));
        assert_eq!(
            here.read_file(server, &io, &Buffer::new(8)),
            NtStatus::PENDING
        );
        assert_eq!(write(&here, client, b"x").0, NtStatus::SUCCESS);
        told.after(1);
        let mut taken = Vec::new();
        assert_eq!(port.wait(&mut taken, 1, Deadline::after(5 * SECOND)), Ok(1));
        assert_eq!(taken[0].context, 2);
    }
}

/// On the loop nothing waits: not for another call's turn on a synchronous file object, not for a place among sixteen reads.
#[test]
fn np_io_10_a_callback_does_not_wait_for_its_turn() {
    let (_site, nt, here) = one_table();
    let (server, client) = pair(&here, &here, |_| ());
    let quiet = create(&here, "quiet", |_| ()).expect("create");
    let path = units(r"\??\pipe\quiet");
    let open = nt.open_file(&Attributes::named(&path), BOTH | Mask::SYNCHRONIZE, 0, 0x20);
    let busy = open.expect("open").0;
    let reader = thread::spawn({
        let nt = nt.clone();
        move || nt.read_file(busy, &Io::default(), &Buffer::new(8))
    });
    // It has its turn, and waits.
    thread::sleep(Duration::from_millis(50));
    let told = Told::default();
    let io = with_callback(Callback::new({
        let (nt, told) = (nt.clone(), told.clone());
        move |_, _| told.note(nt.write_file(busy, &Io::default(), b"y"), 0)
    }));
    assert_eq!(
        here.read_file(server, &io, &Buffer::new(8)),
        NtStatus::PENDING
    );
    assert_eq!(write(&here, client, b"x").0, NtStatus::SUCCESS);
    assert_eq!(told.after(1)[0].0, NtStatus::POSSIBLE_DEADLOCK);
    assert_eq!(write(&here, quiet, b"now").0, NtStatus::SUCCESS);
    assert_eq!(reader.join().expect("no panic"), NtStatus::SUCCESS);
}

/// A child of fork(2) has none of what its parent waits for, and waits for what is its own.
#[test]
fn a_child_of_fork_waits_for_itself() {
    let (site, nt, here) = one_table();
    let socket = site.socket.clone();
    let mut peer = site.actor(child_exe!());
    let server = create(&here, "parent", |_| ()).expect("create");
    peer.must("open c parent rw");
    let (pends, io, _) = read(&here, server, 16);
    assert_eq!(pends, NtStatus::PENDING);
    let event = || [Waitable::Event(Event::new())];
    let soon = || Deadline::after(Duration::from_millis(30));
    // This thread knows the link, and the loop sleeps on it.
    assert_eq!(nt.wait(&event(), soon()), Err(NtStatus::TIMEOUT));
    thread::sleep(Duration::from_millis(30));
    let mut inherited = Some(nt.clone());
    let status = npfs_tests::sys::in_a_fork(|| {
        let before = std::time::Instant::now();
        assert_eq!(
            inherited.as_ref().expect("one").wait(&event(), soon()),
            Err(NtStatus::TIMEOUT)
        );
        assert!(before.elapsed() < 10 * SECOND);
        // What it inherits goes, and takes nothing of its own along.
        let large: Vec<Vec<u8>> = (0..64).map(|n| vec![n; 1 << 20]).collect();
        drop(inherited.take());
        assert!(
            (0..)
                .zip(&large)
                .all(|(n, one)| one.iter().all(|byte| *byte == n))
        );
        // Pipes of its own, whose reads the loop completes, and a thread that waits.
        let own = Nt::new(npfs::Namespace::connect(&socket).expect("a broker"));
        let own = Table::here(own.clone(), own).0;
        let (server, client) = pair(&own, &own, |_| ());
        for _ in 0..20 {
            let (pends, io, _) = read(&own, server, 8);
            assert_eq!(pends, NtStatus::PENDING);
            assert_eq!(write(&own, client, b"own").0, NtStatus::SUCCESS);
            assert_eq!(awaited(&own, &io), (NtStatus::SUCCESS, 3));
        }
        let used = npfs_tests::sys::process_cpu_time();
        thread::sleep(Duration::from_millis(200));
        let used = npfs_tests::sys::process_cpu_time() - used;
        assert!(used < Duration::from_millis(100), "it spins: {used:?}");
        0
    });
    assert_eq!(status.expect("a fork"), Some(0));
    // The parent's goes on.
    peer.must("write c still");
    assert_eq!(by_itself(&io), (NtStatus::SUCCESS, 5));
}

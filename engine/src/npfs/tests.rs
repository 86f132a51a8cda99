//! The state machine, rule by rule, without a process or a descriptor.

use std::time::Duration;

use npfs_ringbuf::{Access, CompletionMode, End, PipeType, ReadMode};

use super::*;
use crate::security::Sid;

/// What the machine did with connections: numbers instead of memory.
#[derive(Default)]
struct Numbers {
    next: u32,
    closed: Vec<(u32, End)>,
    cut: Vec<u32>,
    plans: Vec<Plan>,
    refuse: Option<NtStatus>,
    /// Further holders that came and went, and ends that are kept open.
    joined: Vec<(u32, End, ClientId)>,
    left: Vec<(u32, End, ClientId)>,
    kept: Vec<(u32, End)>,
    apart: Vec<u32>,
}

impl Wires for Numbers {
    type Conn = u32;

    fn connect(&mut self, plan: &Plan) -> Result<u32, NtStatus> {
        if let Some(status) = self.refuse {
            return Err(status);
        }
        self.plans.push(*plan);
        self.next += 1;
        Ok(self.next)
    }

    fn close(&mut self, conn: &u32, end: End) {
        self.closed.push((*conn, end));
    }

    fn disconnect(&mut self, conn: &u32) {
        self.cut.push(*conn);
    }

    fn join(&mut self, conn: &u32, end: End, session: ClientId) -> Result<(), NtStatus> {
        if let Some(status) = self.refuse {
            return Err(status);
        }
        self.joined.push((*conn, end, session));
        Ok(())
    }

    fn set_apart(&mut self, conn: &u32) -> Result<(), NtStatus> {
        if let Some(status) = self.refuse {
            return Err(status);
        }
        self.apart.push(*conn);
        Ok(())
    }

    fn leave(&mut self, conn: &u32, end: End, session: ClientId) {
        self.left.push((*conn, end, session));
    }

    fn keep(&mut self, conn: &u32, end: End, keep: bool) {
        self.kept.retain(|kept| *kept != (*conn, end));
        if keep {
            self.kept.push((*conn, end));
        }
    }
}

/// A namespace, and who asks of it.
struct World {
    shard: Shard<u32>,
    wires: Numbers,
    now: Moment,
    tag: u64,
    tokens: Vec<Token>,
    /// What was not asked for.
    heard: Vec<Completion<u32>>,
}

const SERVER: ClientId = ClientId(1);
const CLIENT: ClientId = ClientId(2);
/// Another user.
const STRANGER: ClientId = ClientId(3);
const ROOT: ClientId = ClientId(4);

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

fn create(text: &str) -> Create {
    Create {
        name: Some(name(text)),
        access: Mask::FILE_GENERIC_READ | Mask::FILE_GENERIC_WRITE | Mask::SYNCHRONIZE,
        direction: Direction::Duplex,
        disposition: Disposition::OpenIf,
        pipe_type: PipeType::Byte,
        max_instances: 4,
        in_quota: 100,
        out_quota: 200,
        default_timeout: Some(Duration::from_millis(50)),
        security: None,
        apart: false,
    }
}

const MODES: Modes = (ReadMode::Message, CompletionMode::Queue);
const BOTH: Mask = Mask::GENERIC_READ.union(Mask::GENERIC_WRITE);

impl World {
    fn new() -> World {
        let token = |uid| Token::new(uid, uid, Vec::new());
        World {
            shard: Shard::new(0, 1),
            wires: Numbers::default(),
            now: 0,
            tag: 0,
            // By ClientId.
            tokens: vec![token(99), token(1000), token(1000), token(2000), token(0)],
            heard: Vec::new(),
        }
    }

    fn ask(
        &mut self,
        client: ClientId,
        request: impl FnOnce(
            &mut Shard<u32>,
            &mut Numbers,
            Asker<'_>,
            Moment,
            &mut Vec<Completion<u32>>,
        ),
    ) -> (Tag, Vec<Completion<u32>>) {
        self.tag += 1;
        let tag = Tag(self.tag);
        let token = self.tokens[usize::try_from(client.0).expect("small")].clone();
        let asker = Asker {
            client,
            tag,
            token: &token,
        };
        let mut out = Vec::new();
        request(&mut self.shard, &mut self.wires, asker, self.now, &mut out);
        (tag, out)
    }

    /// The answer to the request itself; the rest goes to `heard`.
    fn answer(&mut self, tag: Tag, out: Vec<Completion<u32>>) -> Option<Completion<u32>> {
        let mut own = None;
        for completion in out {
            let of = match &completion {
                Completion::Done(_, tag, _)
                | Completion::Created { tag, .. }
                | Completion::Opened { tag, .. }
                | Completion::Taken { tag, .. } => Some(*tag),
                Completion::Connected { listener, .. } => *listener,
            };
            if of == Some(tag) {
                assert!(own.is_none(), "answered twice");
                own = Some(completion);
            } else {
                self.heard.push(completion);
            }
        }
        own
    }

    fn create(&mut self, client: ClientId, create: Create) -> Result<EndId, NtStatus> {
        let (tag, out) = self.ask(client, |shard, _, asker, _, out| {
            shard.create(asker, create, out);
        });
        match self.answer(tag, out) {
            Some(Completion::Created { end, .. }) => Ok(end),
            Some(Completion::Done(_, _, Err(status))) => Err(status),
            other => panic!("{other:?}"),
        }
    }

    fn open(&mut self, client: ClientId, text: &str, access: Mask) -> Result<EndId, NtStatus> {
        let (tag, out) = self.ask(client, |shard, wires, asker, _, out| {
            shard.open(asker, &name(text), Wanted::access(access), wires, out);
        });
        match self.answer(tag, out) {
            Some(Completion::Opened { end, .. }) => Ok(end),
            Some(Completion::Done(_, _, Err(status))) => Err(status),
            other => panic!("{other:?}"),
        }
    }

    /// `None`: it pends.
    fn listen(
        &mut self,
        client: ClientId,
        end: EndId,
        pends: bool,
    ) -> (Tag, Option<Result<(), NtStatus>>) {
        let (tag, out) = self.ask(client, |shard, _, asker, _, out| {
            shard.listen(asker, end, pends, out);
        });
        (tag, self.answer(tag, out).map(done))
    }

    fn disconnect(&mut self, client: ClientId, end: EndId) -> Result<(), NtStatus> {
        let (tag, out) = self.ask(client, |shard, wires, asker, _, out| {
            shard.disconnect(asker, end, wires, out);
        });
        self.answer(tag, out).map(done).expect("never pends")
    }

    fn close(&mut self, client: ClientId, end: EndId) {
        let (_, out) = self.ask(client, |shard, wires, asker, _, out| {
            assert!(shard.close(asker.client, end, wires, out));
        });
        self.heard.extend(out);
    }

    fn give(&mut self, client: ClientId, end: EndId) -> Result<Mask, NtStatus> {
        self.shard.give(client, end, MODES, false, &mut self.wires)
    }

    fn take(&mut self, client: ClientId, end: EndId) -> Result<Taken<u32>, NtStatus> {
        let (tag, out) = self.ask(client, |shard, wires, asker, _, out| {
            shard.take(asker, end, BOTH, wires, out);
        });
        match self.answer(tag, out) {
            Some(Completion::Taken { taken, .. }) => Ok(*taken),
            Some(Completion::Done(_, _, Err(status))) => Err(status),
            other => panic!("{other:?}"),
        }
    }

    fn refresh(&mut self, client: ClientId, end: EndId) -> Result<Taken<u32>, NtStatus> {
        let (tag, out) = self.ask(client, |shard, wires, asker, _, out| {
            shard.refresh(asker, end, wires, out);
        });
        match self.answer(tag, out) {
            Some(Completion::Taken { taken, .. }) => Ok(*taken),
            Some(Completion::Done(_, _, Err(status))) => Err(status),
            other => panic!("{other:?}"),
        }
    }

    /// Nobody has come for it.
    fn too_late(&mut self, end: EndId) {
        let mut out = Vec::new();
        self.shard.keep_no_longer(end, &mut self.wires, &mut out);
        self.heard.extend(out);
    }

    fn wait(
        &mut self,
        client: ClientId,
        text: &str,
        timeout: Timeout,
    ) -> (Tag, Option<Result<(), NtStatus>>) {
        let (tag, out) = self.ask(client, |shard, _, asker, now, out| {
            shard.wait(asker, &name(text), timeout, now, out);
        });
        (tag, self.answer(tag, out).map(done))
    }

    /// The answer to a request that had pended.
    fn late(&mut self, tag: Tag) -> Option<Result<(), NtStatus>> {
        let at = self.heard.iter().position(|one| match one {
            Completion::Done(_, of, _) => *of == tag,
            Completion::Connected { listener, .. } => *listener == Some(tag),
            _ => false,
        });
        at.map(|at| done(self.heard.remove(at)))
    }

    fn state(&self, text: &str, which: usize) -> State {
        let (_, instances) = self.shard.info(&name(text), 0, 100).expect("a pipe");
        instances[which].state
    }

    fn pass(&mut self, time: Duration) {
        self.now += u64::try_from(time.as_nanos()).expect("short");
        let mut out = Vec::new();
        self.shard.expire(self.now, &mut out);
        self.heard.extend(out);
    }
}

fn done(completion: Completion<u32>) -> Result<(), NtStatus> {
    match completion {
        Completion::Done(_, _, answer) => answer,
        Completion::Connected { .. } => Ok(()),
        other => panic!("{other:?}"),
    }
}

// ---- section 2 -------------------------------------------------------------------------------------------------

#[test]
fn np_obj_01_a_name_is_free_once_its_last_server_end_is_closed() {
    let mut world = World::new();
    let server = world.create(SERVER, create("a")).expect("first");
    let client = world.open(CLIENT, "a", BOTH).expect("open");
    world.close(SERVER, server);
    assert_eq!(
        world.open(CLIENT, "a", BOTH),
        Err(NtStatus::OBJECT_NAME_NOT_FOUND)
    );
    // Anew, of another type, while the old client is still there.
    let mut other = create("A");
    other.pipe_type = PipeType::Message;
    let again = world.create(SERVER, other).expect("anew");
    let (pipe, _) = world.shard.info(&name("a"), 0, 1).expect("a pipe");
    assert_eq!((pipe.pipe_type, pipe.instances), (PipeType::Message, 1));
    world.close(CLIENT, client);
    world.close(SERVER, again);
    assert!(world.shard.is_empty());
    assert_eq!(world.wires.closed, [(1, End::Server), (1, End::Client)]);
}

#[test]
fn np_obj_02_03_np_create_24_the_first_instance_decides_for_the_pipe() {
    let mut world = World::new();
    let mut first = create("Name");
    first.max_instances = 2;
    world.create(SERVER, first).expect("first");
    let mut second = create("NAME");
    second.pipe_type = PipeType::Message;
    second.max_instances = 9;
    second.in_quota = 7;
    second.default_timeout = None;
    world.create(SERVER, second).expect("second");
    let (pipe, instances) = world.shard.info(&name("name"), 0, 9).expect("a pipe");
    assert_eq!(pipe.name.to_string(), "Name");
    assert_eq!((pipe.pipe_type, pipe.max_instances), (PipeType::Byte, 2));
    assert_eq!(pipe.default_timeout, Duration::from_millis(50));
    // NP-OBJ-03: quotas are each instance's own.
    assert_eq!((instances[0].in_quota, instances[1].in_quota), (100, 7));
}

#[test]
fn np_obj_05_a_client_needs_no_listen() {
    let mut world = World::new();
    world.create(SERVER, create("a")).expect("create");
    assert_eq!(world.state("a", 0), State::Listening);
    world.open(CLIENT, "a", BOTH).expect("open");
    assert!(matches!(
        world.heard[..],
        [Completion::Connected { listener: None, .. }]
    ));
}

#[test]
fn np_obj_06_np_create_15_without_data_access_a_server_end_only_reserves_the_name() {
    let mut world = World::new();
    let mut reserve = create("a");
    reserve.access = Mask::SYNCHRONIZE;
    let end = world.create(SERVER, reserve).expect("create");
    assert_eq!(world.state("a", 0), State::Disconnected);
    assert_eq!(
        world.open(CLIENT, "a", BOTH),
        Err(NtStatus::PIPE_NOT_AVAILABLE)
    );
    assert_eq!(world.listen(SERVER, end, true).1, None);
    world.open(CLIENT, "a", BOTH).expect("open");
    assert_eq!(
        world.wires.plans[0].server_access,
        Access {
            read: false,
            write: false
        }
    );
}

#[test]
fn np_obj_07_08_closing_is_left_by_disconnect_alone() {
    let mut world = World::new();
    let server = world.create(SERVER, create("a")).expect("create");
    let client = world.open(CLIENT, "a", BOTH).expect("open");
    assert_eq!(world.state("a", 0), State::Connected);
    world.close(CLIENT, client);
    assert_eq!(world.state("a", 0), State::Closing);
    assert_eq!(
        world.open(CLIENT, "a", BOTH),
        Err(NtStatus::PIPE_NOT_AVAILABLE)
    );
    assert_eq!(world.disconnect(SERVER, server), Ok(()));
    assert_eq!(world.state("a", 0), State::Disconnected);
    world.listen(SERVER, server, true);
    assert_eq!(world.state("a", 0), State::Listening);
}

#[test]
fn np_obj_09_a_client_that_was_cut_off_stays_so() {
    let mut world = World::new();
    let server = world.create(SERVER, create("a")).expect("create");
    let client = world.open(CLIENT, "a", BOTH).expect("open");
    world.disconnect(SERVER, server).expect("disconnect");
    world.listen(SERVER, server, true);
    let next = world.open(CLIENT, "a", BOTH).expect("open");
    // Its close does not touch the connection that came after it.
    world.close(CLIENT, client);
    assert_eq!(world.state("a", 0), State::Connected);
    assert_eq!(world.wires.cut, [1]);
    assert_eq!(world.wires.closed, [(1, End::Client)]);
    world.close(CLIENT, next);
    assert_eq!(world.state("a", 0), State::Closing);
}

// ---- section 4 -------------------------------------------------------------------------------------------------

#[test]
fn np_create_10_11_np_lim_01_first_instance() {
    let mut world = World::new();
    let mut none = create("a");
    none.max_instances = 0;
    none.disposition = Disposition::Open;
    assert_eq!(
        world.create(SERVER, none.clone()),
        Err(NtStatus::INVALID_PARAMETER),
        "the check of 10 comes first"
    );
    none.max_instances = 1;
    none.default_timeout = None;
    assert_eq!(
        world.create(SERVER, none.clone()),
        Err(NtStatus::INVALID_PARAMETER)
    );
    none.default_timeout = Some(Duration::ZERO);
    assert_eq!(
        world.create(SERVER, none.clone()),
        Err(NtStatus::INVALID_PARAMETER)
    );
    none.default_timeout = Some(Duration::from_nanos(100));
    assert_eq!(
        world.create(SERVER, none),
        Err(NtStatus::OBJECT_NAME_NOT_FOUND)
    );
    assert!(world.shard.is_empty(), "a refusal leaves nothing");
}

#[test]
fn np_create_13_25_created_then_opened() {
    let mut world = World::new();
    for (which, expected) in [true, false].into_iter().enumerate() {
        let (_, out) = world.ask(SERVER, |shard, _, asker, _, out| {
            shard.create(asker, create("a"), out);
        });
        let Some(Completion::Created { first, .. }) = out.last() else {
            panic!("{out:?}");
        };
        assert_eq!(*first, expected, "instance {which}");
    }
}

#[test]
fn np_create_20_21_22_23_in_their_order() {
    let mut world = World::new();
    let mut first = create("a");
    first.max_instances = 1;
    world.create(SERVER, first).expect("first");
    // Everything is wrong: the descriptor speaks first.
    let mut wrong = create("a");
    wrong.disposition = Disposition::Create;
    wrong.direction = Direction::Inbound;
    assert_eq!(
        world.create(STRANGER, wrong.clone()),
        Err(NtStatus::ACCESS_DENIED)
    );
    // Then the number of instances, although the disposition and the direction are wrong too.
    assert_eq!(
        world.create(SERVER, wrong.clone()),
        Err(NtStatus::INSTANCE_NOT_AVAILABLE)
    );
    let mut room = create("b");
    room.max_instances = 2;
    world.create(SERVER, room.clone()).expect("first");
    let mut exists = room.clone();
    exists.disposition = Disposition::Create;
    assert_eq!(world.create(SERVER, exists), Err(NtStatus::ACCESS_DENIED));
    let mut direction = room.clone();
    direction.direction = Direction::Outbound;
    assert_eq!(
        world.create(SERVER, direction),
        Err(NtStatus::ACCESS_DENIED)
    );
    world.create(SERVER, room).expect("second");
}

#[test]
fn np_create_26_an_instance_counts_while_its_server_end_is_open() {
    let mut world = World::new();
    let mut one = create("a");
    one.max_instances = 1;
    let server = world.create(SERVER, one.clone()).expect("first");
    let client = world.open(CLIENT, "a", BOTH).expect("open");
    world.close(CLIENT, client);
    assert_eq!(
        world.create(SERVER, one.clone()),
        Err(NtStatus::INSTANCE_NOT_AVAILABLE),
        "closing"
    );
    world.disconnect(SERVER, server).expect("disconnect");
    assert_eq!(
        world.create(SERVER, one.clone()),
        Err(NtStatus::INSTANCE_NOT_AVAILABLE),
        "disconnected"
    );
    world.close(SERVER, server);
    world.create(SERVER, one).expect("anew");
}

#[test]
fn np_create_27_a_further_descriptor_changes_nothing() {
    let mut world = World::new();
    world.create(SERVER, create("a")).expect("first");
    let mut open_to_all = create("a");
    open_to_all.security = Some(SecurityDescriptor::new().allow(Sid::EVERYONE, Mask::GENERIC_ALL));
    world.create(SERVER, open_to_all.clone()).expect("second");
    assert_eq!(
        world.open(STRANGER, "a", BOTH),
        Err(NtStatus::ACCESS_DENIED)
    );
    let with_owner = open_to_all
        .security
        .take()
        .map(|security| security.with_owner(Sid::user(1)));
    open_to_all.security = with_owner;
    open_to_all.access |= Mask::WRITE_OWNER;
    assert_eq!(
        world.create(SERVER, open_to_all),
        Err(NtStatus::ACCESS_DENIED)
    );
}

#[test]
fn np_lim_04_quotas_are_kept_as_given_and_have_a_limit() {
    let mut world = World::new();
    for quota in [0, 1, 4095, 4097, 512 << 10, i32::MAX as u32] {
        let mut odd = create(&format!("q{quota}"));
        odd.in_quota = quota;
        world.create(SERVER, odd).expect("create");
        world
            .open(CLIENT, &format!("q{quota}"), BOTH)
            .expect("open");
        assert_eq!(world.wires.plans.last().expect("one").in_quota, quota);
    }
    let mut large = create("large");
    large.out_quota = 1 << 31;
    assert_eq!(
        world.create(SERVER, large),
        Err(NtStatus::INVALID_PARAMETER)
    );
}

// ---- sections 5 and 6 ------------------------------------------------------------------------------------------

#[test]
fn np_open_01_02_03_04_06_in_their_order() {
    let mut world = World::new();
    assert_eq!(
        world.open(STRANGER, "a", BOTH),
        Err(NtStatus::OBJECT_NAME_NOT_FOUND)
    );
    let mut outbound = create("a");
    outbound.direction = Direction::Outbound;
    let server = world.create(SERVER, outbound).expect("create");
    // NP-OPEN-06: against the direction, and busy: the direction comes first.
    let client = world.open(CLIENT, "a", Mask::GENERIC_READ).expect("read");
    assert_eq!(world.open(CLIENT, "a", BOTH), Err(NtStatus::ACCESS_DENIED));
    assert_eq!(
        world.open(CLIENT, "a", Mask::GENERIC_READ),
        Err(NtStatus::PIPE_NOT_AVAILABLE)
    );
    assert_eq!(
        world.wires.plans[0].client_access,
        Access::READ,
        "and the server end only writes"
    );
    assert_eq!(world.wires.plans[0].server_access, Access::WRITE);
    world.close(CLIENT, client);
    world.close(SERVER, server);
}

#[test]
fn np_open_05_generic_writing_needs_no_right_to_create_instances() {
    let mut world = World::new();
    let mut limited = create("a");
    limited.security = Some(SecurityDescriptor::new().allow(
        Sid::EVERYONE,
        (Mask::FILE_GENERIC_READ | Mask::FILE_GENERIC_WRITE) - Mask::FILE_CREATE_PIPE_INSTANCE,
    ));
    world.create(SERVER, limited.clone()).expect("create");
    world.open(STRANGER, "a", BOTH).expect("open");
    assert_eq!(
        world.create(STRANGER, limited),
        Err(NtStatus::ACCESS_DENIED)
    );
}

#[test]
fn np_open_02_as_much_as_is_allowed_is_not_a_right_to_create_instances() {
    let mut world = World::new();
    world.create(SERVER, create("a")).expect("create");
    let (_, out) = world.ask(CLIENT, |shard, wires, asker, _, out| {
        shard.open(
            asker,
            &name("a"),
            Wanted::access(Mask::MAXIMUM_ALLOWED),
            wires,
            out,
        );
    });
    let Some(Completion::Opened { granted, .. }) = out.last() else {
        panic!("{out:?}");
    };
    assert_eq!(
        *granted,
        Mask::FILE_ALL_ACCESS - Mask::FILE_CREATE_PIPE_INSTANCE
    );
}

#[test]
fn np_open_07_an_open_without_data_access_takes_an_instance() {
    let mut world = World::new();
    world.create(SERVER, create("a")).expect("create");
    world
        .open(CLIENT, "a", Mask::FILE_READ_ATTRIBUTES | Mask::SYNCHRONIZE)
        .expect("probe");
    assert_eq!(
        world.open(CLIENT, "a", BOTH),
        Err(NtStatus::PIPE_NOT_AVAILABLE)
    );
}

#[test]
fn np_open_09_who_has_listened_longest_is_next() {
    let mut world = World::new();
    let ends: Vec<EndId> = (0..3)
        .map(|_| world.create(SERVER, create("a")).expect("create"))
        .collect();
    // A pended listen gives no priority.
    world.listen(SERVER, ends[2], true);
    let taken = |world: &mut World| {
        world.open(CLIENT, "a", BOTH).expect("open");
        world.wires.plans.last().expect("one").server_end
    };
    assert_eq!(taken(&mut world), ends[0]);
    // Listening again goes to the end of the line.
    world.disconnect(SERVER, ends[0]).expect("disconnect");
    world.listen(SERVER, ends[0], true);
    assert_eq!(taken(&mut world), ends[1]);
    assert_eq!(taken(&mut world), ends[2]);
    assert_eq!(taken(&mut world), ends[0]);
}

#[test]
fn np_open_10_np_listen_08_every_listen_is_answered_before_the_open() {
    let mut world = World::new();
    let end = world.create(SERVER, create("a")).expect("create");
    let (first, none) = world.listen(SERVER, end, true);
    assert_eq!(none, None);
    let (second, _) = world.listen(SERVER, end, true);
    let (_, out) = world.ask(CLIENT, |shard, wires, asker, _, out| {
        shard.open(asker, &name("a"), Wanted::access(BOTH), wires, out);
    });
    assert!(
        matches!(
            out[..],
            [
                Completion::Connected { listener: Some(a), .. },
                Completion::Done(SERVER, b, Ok(())),
                Completion::Opened { .. }
            ] if (a, b) == (first, second)
        ),
        "{out:?}"
    );
}

#[test]
fn np_open_an_open_that_gets_no_memory_leaves_the_instance_listening() {
    let mut world = World::new();
    world.create(SERVER, create("a")).expect("create");
    world.wires.refuse = Some(NtStatus::INSUFFICIENT_RESOURCES);
    assert_eq!(
        world.open(CLIENT, "a", BOTH),
        Err(NtStatus::INSUFFICIENT_RESOURCES)
    );
    world.wires.refuse = None;
    world.open(CLIENT, "a", BOTH).expect("open");
}

#[test]
fn np_sec_04_05_by_default_a_stranger_reads_and_root_does_everything() {
    let mut world = World::new();
    for _ in 0..3 {
        world.create(SERVER, create("a")).expect("create");
    }
    assert_eq!(
        world.open(STRANGER, "a", BOTH),
        Err(NtStatus::ACCESS_DENIED)
    );
    world
        .open(STRANGER, "a", Mask::GENERIC_READ)
        .expect("reading");
    assert_eq!(
        world.wires.plans[0].client_access,
        Access::READ,
        "and its end can do no more"
    );
    world.open(ROOT, "a", BOTH).expect("root");
    assert_eq!(
        world.create(STRANGER, create("a")),
        Err(NtStatus::ACCESS_DENIED)
    );
    world.create(ROOT, create("a")).expect("root");
}

// ---- section 7 -------------------------------------------------------------------------------------------------

#[test]
fn np_listen_01_02_03_04_14_by_state_and_mode() {
    let mut world = World::new();
    let end = world.create(SERVER, create("a")).expect("create");
    assert_eq!(
        world.listen(SERVER, end, false).1,
        Some(Err(NtStatus::PIPE_LISTENING))
    );
    assert_eq!(world.listen(SERVER, end, true).1, None);
    let client = world.open(CLIENT, "a", BOTH).expect("open");
    for pends in [true, false] {
        assert_eq!(
            world.listen(SERVER, end, pends).1,
            Some(Err(NtStatus::PIPE_CONNECTED))
        );
    }
    world.close(CLIENT, client);
    for pends in [true, false] {
        assert_eq!(
            world.listen(SERVER, end, pends).1,
            Some(Err(NtStatus::PIPE_CLOSING)),
            "NP-LISTEN-11"
        );
    }
    world.disconnect(SERVER, end).expect("disconnect");
    // In COMPLETE mode it fails and yet listens from now on.
    assert_eq!(
        world.listen(SERVER, end, false).1,
        Some(Err(NtStatus::PIPE_LISTENING))
    );
    world.open(CLIENT, "a", BOTH).expect("open");
}

#[test]
fn np_listen_05_np_disc_05_06_not_at_a_client_end() {
    let mut world = World::new();
    let server = world.create(SERVER, create("a")).expect("create");
    let client = world.open(CLIENT, "a", BOTH).expect("open");
    assert_eq!(
        world.listen(CLIENT, client, true).1,
        Some(Err(NtStatus::ILLEGAL_FUNCTION))
    );
    assert_eq!(
        world.disconnect(CLIENT, client),
        Err(NtStatus::ILLEGAL_FUNCTION)
    );
    assert_eq!(world.state("a", 0), State::Connected);
    world.disconnect(SERVER, server).expect("disconnect");
    assert_eq!(
        world.listen(CLIENT, client, true).1,
        Some(Err(NtStatus::ILLEGAL_FUNCTION))
    );
    assert_eq!(
        world.disconnect(CLIENT, client),
        Err(NtStatus::PIPE_DISCONNECTED)
    );
}

#[test]
fn np_listen_09_a_cancelled_listen_leaves_the_instance_listening() {
    let mut world = World::new();
    let end = world.create(SERVER, create("a")).expect("create");
    let (tag, _) = world.listen(SERVER, end, true);
    let mut out = Vec::new();
    assert!(
        !world.shard.cancel(CLIENT, tag, &mut out),
        "somebody else's"
    );
    assert!(world.shard.cancel(SERVER, tag, &mut out));
    assert!(!world.shard.cancel(SERVER, tag, &mut out), "once");
    assert_eq!(
        out,
        [Completion::Done(SERVER, tag, Err(NtStatus::CANCELLED))]
    );
    world.open(CLIENT, "a", BOTH).expect("open");
    assert!(matches!(
        world.heard[..],
        [Completion::Connected { listener: None, .. }]
    ));
}

#[test]
fn np_listen_10_closing_the_end_breaks_its_listens() {
    let mut world = World::new();
    let end = world.create(SERVER, create("a")).expect("create");
    let (tag, _) = world.listen(SERVER, end, true);
    world.close(SERVER, end);
    assert_eq!(world.late(tag), Some(Err(NtStatus::PIPE_BROKEN)));
    assert!(world.shard.is_empty());
}

// ---- section 8 -------------------------------------------------------------------------------------------------

#[test]
fn np_disc_01_02_03_by_state() {
    let mut world = World::new();
    let server = world.create(SERVER, create("a")).expect("create");
    let client = world.open(CLIENT, "a", BOTH).expect("open");
    assert_eq!(world.disconnect(SERVER, server), Ok(()));
    assert_eq!(
        world.disconnect(SERVER, server),
        Err(NtStatus::PIPE_DISCONNECTED)
    );
    assert_eq!(world.wires.cut, [1]);
    world.close(CLIENT, client);
    world.listen(SERVER, server, true);
    let client = world.open(CLIENT, "a", BOTH).expect("open");
    world.close(CLIENT, client);
    assert_eq!(world.disconnect(SERVER, server), Ok(()), "closing");
}

#[test]
fn np_disc_04_a_listening_end_stops_listening() {
    let mut world = World::new();
    let server = world.create(SERVER, create("a")).expect("create");
    let (tag, _) = world.listen(SERVER, server, true);
    assert_eq!(world.disconnect(SERVER, server), Ok(()));
    assert_eq!(world.late(tag), Some(Err(NtStatus::PIPE_DISCONNECTED)));
    assert_eq!(
        world.open(CLIENT, "a", BOTH),
        Err(NtStatus::PIPE_NOT_AVAILABLE),
        "NP-DISC-09"
    );
}

// ---- section 9 -------------------------------------------------------------------------------------------------

#[test]
fn np_wait_03_04_05_what_is_answered_at_once() {
    let mut world = World::new();
    assert_eq!(
        world.wait(CLIENT, "a", Timeout::Never).1,
        Some(Err(NtStatus::OBJECT_NAME_NOT_FOUND))
    );
    world.create(SERVER, create("a")).expect("create");
    assert_eq!(world.wait(CLIENT, "A", Timeout::Never).1, Some(Ok(())));
}

#[test]
fn np_wait_06_07_timeouts() {
    let mut world = World::new();
    world.create(SERVER, create("a")).expect("create");
    world.open(CLIENT, "a", BOTH).expect("open");
    let zero = Timeout::After(Duration::ZERO);
    assert_eq!(
        world.wait(CLIENT, "a", zero).1,
        Some(Err(NtStatus::IO_TIMEOUT))
    );
    let (default, _) = world.wait(CLIENT, "a", Timeout::Default);
    let (longer, _) = world.wait(CLIENT, "a", Timeout::After(Duration::from_millis(80)));
    let (ever, _) = world.wait(CLIENT, "a", Timeout::Never);
    assert_eq!(world.shard.next_deadline(), Some(50_000_000));
    world.pass(Duration::from_millis(49));
    assert_eq!(world.late(default), None);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.late(default), Some(Err(NtStatus::IO_TIMEOUT)));
    assert_eq!(world.late(longer), None);
    world.pass(Duration::from_secs(100_000));
    assert_eq!(world.late(longer), Some(Err(NtStatus::IO_TIMEOUT)));
    assert_eq!(world.late(ever), None);
    assert_eq!(world.shard.next_deadline(), None);
}

#[test]
fn np_wait_08_np_listen_02_12_all_waiters_are_released_together() {
    let mut world = World::new();
    let server = world.create(SERVER, create("a")).expect("create");
    world.open(CLIENT, "a", BOTH).expect("open");
    let (one, _) = world.wait(CLIENT, "a", Timeout::Never);
    let (two, _) = world.wait(STRANGER, "a", Timeout::Default);
    world.disconnect(SERVER, server).expect("disconnect");
    assert_eq!(world.late(one), None, "not by the disconnect");
    world.listen(SERVER, server, false);
    assert_eq!(world.late(one), Some(Ok(())));
    assert_eq!(world.late(two), Some(Ok(())));
    assert_eq!(world.shard.next_deadline(), None);
    // And by a new instance (NP-CREATE-25).
    world.open(CLIENT, "a", BOTH).expect("open");
    let (three, _) = world.wait(CLIENT, "a", Timeout::Never);
    world.create(SERVER, create("a")).expect("another");
    assert_eq!(world.late(three), Some(Ok(())));
}

#[test]
fn np_wait_09_the_last_server_end_goes() {
    let mut world = World::new();
    let server = world.create(SERVER, create("a")).expect("create");
    let client = world.open(CLIENT, "a", BOTH).expect("open");
    let (tag, _) = world.wait(CLIENT, "a", Timeout::Never);
    world.close(SERVER, server);
    assert_eq!(world.late(tag), Some(Err(NtStatus::OBJECT_NAME_NOT_FOUND)));
    world.close(CLIENT, client);
    assert!(world.shard.is_empty());
}

#[test]
fn np_wait_10_a_wait_can_be_cancelled() {
    let mut world = World::new();
    world.create(SERVER, create("a")).expect("create");
    world.open(CLIENT, "a", BOTH).expect("open");
    let (tag, _) = world.wait(CLIENT, "a", Timeout::Default);
    let mut out = Vec::new();
    assert!(world.shard.cancel(CLIENT, tag, &mut out));
    assert_eq!(
        out,
        [Completion::Done(CLIENT, tag, Err(NtStatus::CANCELLED))]
    );
    world.pass(Duration::from_secs(1));
    assert_eq!(world.late(tag), None, "answered once");
}

// ---- sessions --------------------------------------------------------------------------------------------------

#[test]
fn np_close_a_session_that_ends_leaves_nothing() {
    let mut world = World::new();
    let server = world.create(SERVER, create("a")).expect("create");
    world.create(SERVER, create("a")).expect("second");
    world.create(SERVER, create("b")).expect("other");
    world.listen(SERVER, server, true);
    world.open(CLIENT, "a", BOTH).expect("open");
    world.open(CLIENT, "b", BOTH).expect("open");
    let (waits, _) = world.wait(CLIENT, "b", Timeout::Default);
    world.heard.clear();
    let mut out = Vec::new();
    world.shard.gone(CLIENT, &mut world.wires, &mut out);
    assert_eq!(out, [], "nobody to tell");
    assert_eq!(world.state("a", 0), State::Closing);
    assert_eq!(world.state("a", 1), State::Listening);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.late(waits), None);
    world.shard.gone(SERVER, &mut world.wires, &mut out);
    assert!(world.shard.is_empty());
    // Each end was closed, once.
    let mut closed = world.wires.closed.clone();
    closed.sort_by_key(|(conn, end)| (*conn, *end as u8));
    assert_eq!(
        closed,
        [
            (1, End::Client),
            (1, End::Server),
            (2, End::Client),
            (2, End::Server)
        ]
    );
}

#[test]
fn nobody_reaches_ends_of_others() {
    let mut world = World::new();
    let server = world.create(SERVER, create("a")).expect("create");
    assert_eq!(
        world.listen(CLIENT, server, true).1,
        Some(Err(NtStatus::INVALID_HANDLE))
    );
    assert_eq!(
        world.disconnect(CLIENT, server),
        Err(NtStatus::INVALID_HANDLE)
    );
    let mut out = Vec::new();
    assert!(
        !world
            .shard
            .close(CLIENT, server, &mut world.wires, &mut out)
    );
    assert_eq!(world.state("a", 0), State::Listening);
}

// ---- ends of several sessions --------------------------------------------------------------------------------------

#[test]
fn np_close_01_a_client_end_of_two_sessions_closes_with_the_last() {
    let mut world = World::new();
    world.create(SERVER, create("a")).expect("create");
    let end = world.open(CLIENT, "a", BOTH).expect("open");
    assert_eq!(world.give(SERVER, end), Err(NtStatus::INVALID_HANDLE));
    world.give(CLIENT, end).expect("its own");
    assert_eq!(world.wires.kept, [(1, End::Client)]);
    let taken = world.take(STRANGER, end).expect("kept for it");
    assert_eq!((taken.end, taken.side), (end, End::Client));
    assert_eq!(taken.conn, Some(1));
    assert_eq!(world.wires.joined, [(1, End::Client, STRANGER)]);
    assert_eq!(world.wires.kept, []);
    world.close(CLIENT, end);
    assert_eq!(world.wires.left, [(1, End::Client, CLIENT)]);
    assert_eq!(world.state("a", 0), State::Connected);
    // Who the client is, is whoever has it.
    let (_, instances) = world.shard.info(&name("a"), 0, 9).expect("there");
    assert_eq!(instances[0].client, Some(STRANGER));
    assert!(world.shard.describe(STRANGER, end).is_ok());
    assert!(world.shard.describe(CLIENT, end).is_err());
    assert_eq!(world.wires.closed, []);
    world.close(STRANGER, end);
    assert_eq!(world.wires.closed, [(1, End::Client)]);
    assert_eq!(world.state("a", 0), State::Closing);
}

/// What goes to another user is in memory of its own: the connection that is there, if it can be, and those to come.
#[test]
fn an_end_that_goes_abroad_is_set_apart() {
    let mut world = World::new();
    let server = world.create(SERVER, create("a")).expect("create");
    let end = world.open(CLIENT, "a", BOTH).expect("open");
    world.wires.refuse = Some(NtStatus::SHARING_VIOLATION);
    let mut give = |client, end, wires: &mut Numbers| {
        let given = world.shard.give(client, end, MODES, true, wires);
        given.map(|_| world.shard.peer_of(end).0)
    };
    let refused = Err(NtStatus::SHARING_VIOLATION);
    assert_eq!(give(SERVER, server, &mut world.wires), refused);
    assert_eq!(world.wires.kept, [], "nothing is kept for nobody");
    world.wires.refuse = None;
    assert_eq!(give(SERVER, server, &mut world.wires), Ok(CLIENT));
    assert_eq!(give(CLIENT, end, &mut world.wires), Ok(SERVER));
    assert_eq!(world.wires.apart, [1, 1]);
    world.close(CLIENT, end);
    world.too_late(end);
    // What it has written is there, and nobody answers for it.
    assert_eq!(world.state("a", 0), State::Closing);
    assert_eq!(world.shard.peer_of(server), (ClientId(0), Quality::NOBODY));
    world.disconnect(SERVER, server).expect("disconnect");
    world.listen(SERVER, server, true);
    world.open(CLIENT, "a", BOTH).expect("open again");
    let apart: Vec<Option<End>> = world.wires.plans.iter().map(|plan| plan.apart).collect();
    assert_eq!(apart, [None, Some(End::Server)]);
    let own = Create {
        apart: true,
        ..create("b")
    };
    world.create(SERVER, own).expect("create");
    world.open(CLIENT, "b", BOTH).expect("open");
    assert_eq!(world.wires.plans[2].apart, Some(End::Server));
    world.create(SERVER, create("c")).expect("create");
    let wanted = Wanted {
        apart: true,
        ..Wanted::access(BOTH)
    };
    world.ask(CLIENT, |shard, wires, asker, _, out| {
        shard.open(asker, &name("c"), wanted, wires, out);
    });
    assert_eq!(world.wires.plans[3].apart, Some(End::Client));
}

#[test]
fn np_close_01_an_end_that_nobody_takes_closes_in_the_end() {
    let mut world = World::new();
    let server = world.create(SERVER, create("a")).expect("create");
    world.give(SERVER, server).expect("its own");
    world.give(SERVER, server).expect("twice");
    world.close(SERVER, server);
    // It is there, and nobody is behind it.
    assert_eq!(world.state("a", 0), State::Listening);
    assert_eq!(
        world.open(CLIENT, "a", BOTH),
        Err(NtStatus::PIPE_NOT_AVAILABLE)
    );
    world.too_late(server);
    assert_eq!(world.state("a", 0), State::Listening);
    world.too_late(server);
    assert!(world.shard.is_empty());
    assert_eq!(
        world.take(CLIENT, server).err(),
        Some(NtStatus::INVALID_HANDLE)
    );
    assert!(world.shard.is_empty());
}

#[test]
fn a_server_end_of_two_sessions_serves_both() {
    let mut world = World::new();
    let server = world.create(SERVER, create("a")).expect("create");
    world.give(SERVER, server).expect("its own");
    let taken = world.take(STRANGER, server).expect("kept for it");
    assert_eq!((taken.side, taken.listening), (End::Server, true));
    assert_eq!(taken.modes, MODES);
    let (first, _) = world.listen(SERVER, server, true);
    let (second, _) = world.listen(STRANGER, server, true);
    let end = world.open(CLIENT, "a", BOTH).expect("open");
    let plan = world.wires.plans[0];
    assert_eq!((plan.server, plan.server_modes), (SERVER, Some(MODES)));
    assert_eq!(world.wires.joined, [(1, End::Server, STRANGER)]);
    let heard: Vec<_> = world
        .heard
        .drain(..)
        .filter_map(|one| match one {
            Completion::Connected {
                server, listener, ..
            } => Some((server, listener)),
            _ => None,
        })
        .collect();
    assert_eq!(
        heard,
        [(SERVER, Some(first)), (STRANGER, Some(second))],
        "NP-OPEN-10"
    );
    // Either may cut it off, and the other finds it so.
    world.disconnect(STRANGER, server).expect("connected");
    let seen = world.refresh(SERVER, server).expect("its own");
    assert_eq!(
        (seen.conn, seen.listening, seen.modes),
        (None, false, MODES)
    );
    let other = (ReadMode::Byte, CompletionMode::Complete);
    world
        .shard
        .set_modes(SERVER, server, other)
        .expect("its own");
    let (_, answer) = world.listen(SERVER, server, false);
    assert_eq!(answer, Some(Err(NtStatus::PIPE_LISTENING)));
    let seen = world.refresh(STRANGER, server).expect("its own");
    assert_eq!((seen.conn, seen.listening, seen.modes), (None, true, other));
    assert_eq!(
        world.refresh(CLIENT, server).err(),
        Some(NtStatus::INVALID_HANDLE)
    );
    // Its session's end is the end of one holder.
    let mut out = Vec::new();
    world.shard.gone(SERVER, &mut world.wires, &mut out);
    assert_eq!(world.state("a", 0), State::Listening);
    world.close(CLIENT, end);
    world.open(CLIENT, "a", BOTH).expect("open");
    assert_eq!(world.wires.plans[1].server, STRANGER);
    world.shard.gone(STRANGER, &mut world.wires, &mut out);
    assert!(world.wires.closed.contains(&(2, End::Server)));
}

#[test]
fn an_end_taken_by_its_own_session_is_closed_as_often_as_it_was_taken() {
    let mut world = World::new();
    world.create(SERVER, create("a")).expect("create");
    let end = world.open(CLIENT, "a", BOTH).expect("open");
    world.give(CLIENT, end).expect("its own");
    world.take(CLIENT, end).expect("back");
    assert_eq!(world.wires.joined, [], "it is there already");
    world.close(CLIENT, end);
    assert_eq!(world.wires.left, []);
    assert_eq!(world.state("a", 0), State::Connected);
    // One that cannot be joined stays with those who have it.
    world.give(CLIENT, end).expect("its own");
    world.wires.refuse = Some(NtStatus::INSUFFICIENT_RESOURCES);
    let refused = world.take(STRANGER, end);
    assert_eq!(refused.err(), Some(NtStatus::INSUFFICIENT_RESOURCES));
    assert_eq!(world.state("a", 0), State::Connected);
    world.close(CLIENT, end);
    assert_eq!(world.state("a", 0), State::Closing);
}

#[test]
fn an_instance_that_waits_to_be_taken_hides_no_other() {
    let mut world = World::new();
    let kept = world.create(SERVER, create("a")).expect("create");
    world.give(SERVER, kept).expect("its own");
    world.close(SERVER, kept);
    let (_, waited) = world.wait(CLIENT, "a", Timeout::Default);
    assert_eq!(waited, None, "nobody would answer an open");
    world.create(SERVER, create("a")).expect("another");
    world.open(CLIENT, "a", BOTH).expect("the other one");
    assert_eq!(
        world.wires.plans[0].server_end,
        EndId(kept.0 + (1 << 33) + 2)
    );
    // Once it is taken it stands in the line again, and waiters hear of it.
    let (tag, waited) = world.wait(CLIENT, "a", Timeout::Default);
    assert_eq!(waited, None);
    world.take(STRANGER, kept).expect("kept for it");
    assert_eq!(world.late(tag), Some(Ok(())));
    world.open(CLIENT, "a", BOTH).expect("that one");
}

#[test]
fn np_close_01_a_listen_outlives_its_handle_and_is_answered() {
    let mut world = World::new();
    let server = world.create(SERVER, create("a")).expect("create");
    world.give(SERVER, server).expect("its own");
    world.take(STRANGER, server).expect("kept for it");
    let (tag, pended) = world.listen(SERVER, server, true);
    assert_eq!(pended, None);
    world.close(SERVER, server);
    assert_eq!(world.late(tag), None);
    world.open(CLIENT, "a", BOTH).expect("open");
    assert_eq!(world.late(tag), Some(Ok(())));
    // The last one's close answers what is left.
    let second = world.create(STRANGER, create("b")).expect("create");
    world.give(STRANGER, second).expect("its own");
    let (tag, _) = world.listen(STRANGER, second, true);
    world.close(STRANGER, second);
    assert_eq!(world.late(tag), None, "it is kept");
    world.too_late(second);
    assert_eq!(world.late(tag), Some(Err(NtStatus::PIPE_BROKEN)));
}

#[test]
fn one_end_has_only_so_many_holders() {
    let mut world = World::new();
    let token = world.tokens[1].clone();
    world.tokens.resize(20, token);
    let server = world.create(SERVER, create("a")).expect("create");
    let give = |world: &mut World, to| {
        world.give(SERVER, server).expect("its own");
        world.take(ClientId(to), server).map(drop)
    };
    for other in 10..15 {
        assert_eq!(give(&mut world, other), Ok(()));
    }
    let full = Err(NtStatus::INSUFFICIENT_RESOURCES);
    assert_eq!(give(&mut world, 15), full);
    // One that has it may have it more often, and is one holder all the same.
    for _ in 0..10_000 {
        assert_eq!(give(&mut world, 14), Ok(()));
    }
    let mut out = Vec::new();
    world.shard.gone(ClientId(14), &mut world.wires, &mut out);
    assert_eq!(give(&mut world, 15), Ok(()));
}

#[test]
fn listings_go_on_where_they_ended() {
    let mut world = World::new();
    for text in ["b", "a", "C", "d"] {
        world.create(SERVER, create(text)).expect("create");
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let some = world.shard.list(after.as_ref(), 3);
        if some.is_empty() {
            break;
        }
        for (key, pipe) in some {
            seen.push(pipe.name.to_string());
            after = Some(key);
        }
    }
    assert_eq!(seen, ["a", "b", "C", "d"]);
}

/// Random requests of three sessions: whatever they do, each request is answered once at most, and what has pended is
/// answered or forgotten with its session.
#[test]
fn random_requests_are_each_answered_once() {
    for seed in 1..if cfg!(miri) { 3 } else { 300 } {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed);
        let mut next = |most: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % most
        };
        let mut world = World::new();
        let mut answered = std::collections::HashSet::new();
        let mut ends: Vec<(ClientId, EndId)> = Vec::new();
        let mut gifts: Vec<EndId> = Vec::new();
        for _ in 0..200 {
            let client = ClientId(1 + next(3));
            let text = ["a", "b", "A\\x"][usize::try_from(next(3)).expect("small")];
            let end = match ends.len() as u64 {
                0 => EndId(next(9)),
                count => ends[usize::try_from(next(count)).expect("small")].1,
            };
            let (what, pends) = (next(12), next(2) == 0);
            let gift = match gifts.len() as u64 {
                0 => None,
                count => Some(usize::try_from(next(count)).expect("small")),
            };
            let (_, out) = world.ask(client, |shard, wires, asker, now, out| match what {
                0 | 1 => shard.create(asker, create(text), out),
                2 | 3 => shard.open(asker, &name(text), Wanted::access(BOTH), wires, out),
                4 => shard.listen(asker, end, pends, out),
                5 => shard.disconnect(asker, end, wires, out),
                6 => {
                    shard.close(client, end, wires, out);
                }
                7 => shard.wait(asker, &name(text), Timeout::Default, now, out),
                8 => gifts.extend(shard.give(client, end, MODES, false, wires).map(|_| end)),
                9 => {
                    if let Some(gift) = gift {
                        shard.take(asker, gifts.swap_remove(gift), BOTH, wires, out);
                    }
                }
                10 => {
                    if let Some(gift) = gift {
                        shard.keep_no_longer(gifts.swap_remove(gift), wires, out);
                    }
                }
                _ => {
                    shard.gone(client, wires, out);
                }
            });
            world.pass(Duration::from_millis(next(30)));
            let expired = std::mem::take(&mut world.heard);
            for completion in out.into_iter().chain(expired) {
                let answers = match completion {
                    Completion::Done(to, tag, _) => Some((to, tag)),
                    Completion::Created {
                        client, tag, end, ..
                    }
                    | Completion::Opened {
                        client, tag, end, ..
                    } => {
                        ends.push((client, end));
                        Some((client, tag))
                    }
                    Completion::Connected {
                        server, listener, ..
                    } => listener.map(|tag| (server, tag)),
                    Completion::Taken { client, tag, .. } => Some((client, tag)),
                };
                if let Some(of) = answers {
                    assert!(answered.insert(of), "seed {seed}: {of:?} answered twice");
                }
            }
        }
        let mut out = Vec::new();
        for client in 1..4 {
            world
                .shard
                .gone(ClientId(client), &mut world.wires, &mut out);
        }
        for gift in gifts {
            world.shard.keep_no_longer(gift, &mut world.wires, &mut out);
        }
        assert!(world.shard.is_empty(), "seed {seed}");
        // Both ends of every connection were closed, or cut off and closed, once.
        for conn in 1..=world.wires.next {
            let count = |end| {
                let closed = world.wires.closed.iter();
                closed.filter(|one| **one == (conn, end)).count()
            };
            let cut = world.wires.cut.iter().filter(|one| **one == conn).count();
            assert_eq!(count(End::Client), 1, "seed {seed}");
            assert_eq!(count(End::Server) + cut, 1, "seed {seed}");
        }
    }
}

// ---- about an end --------------------------------------------------------------------------------------------------

impl World {
    fn open_at(&mut self, client: ClientId, end: EndId, access: Mask) -> Result<EndId, NtStatus> {
        let (tag, out) = self.ask(client, |shard, wires, asker, _, out| {
            shard.open_at(asker, end, Wanted::access(access), wires, out);
        });
        match self.answer(tag, out) {
            Some(Completion::Opened { end, .. }) => Ok(end),
            Some(Completion::Done(_, _, Err(status))) => Err(status),
            other => panic!("{other:?}"),
        }
    }

    fn set_security(
        &mut self,
        client: ClientId,
        end: EndId,
        parts: SecurityParts,
        given: SecurityDescriptor,
    ) -> Result<(), NtStatus> {
        let mut answer = Ok(());
        self.ask(client, |shard, _, asker, _, _| {
            answer = shard.set_security(asker, end, parts, given);
        });
        answer
    }
}

fn unnamed() -> Create {
    Create {
        name: None,
        ..create("x")
    }
}

#[test]
fn np_name_11_two_pipes_without_a_name_never_meet() {
    let mut world = World::new();
    let one = world.create(SERVER, unnamed()).expect("create");
    let two = world.create(SERVER, unnamed()).expect("create");
    assert_ne!(one, two);
    for end in [one, two] {
        let info = world.shard.describe(SERVER, end).expect("info");
        assert_eq!((info.pipe.instances, info.pipe.listening), (1, 1));
        assert!(info.pipe.name.units().is_empty());
    }
    let open_only = Create {
        disposition: Disposition::Open,
        ..unnamed()
    };
    assert_eq!(
        world.create(SERVER, open_only),
        Err(NtStatus::OBJECT_NAME_NOT_FOUND)
    );
}

#[test]
fn np_dir_07_pipes_without_a_name_are_not_listed() {
    let mut world = World::new();
    world.create(SERVER, unnamed()).expect("create");
    world.create(SERVER, create("named")).expect("create");
    let listed = world.shard.list(None, 100);
    let names: Vec<String> = listed
        .iter()
        .map(|(_, pipe)| pipe.name.to_string())
        .collect();
    assert_eq!(names, ["named"]);
}

#[test]
fn np_name_12_an_end_leads_to_the_client_end_of_its_pipe() {
    let mut world = World::new();
    for given in [unnamed(), create("named")] {
        let server = world.create(SERVER, given).expect("create");
        world.open_at(SERVER, server, BOTH).expect("open");
        assert_eq!(
            world.open_at(SERVER, server, BOTH),
            Err(NtStatus::PIPE_NOT_AVAILABLE)
        );
        // Somebody else's handle leads nowhere.
        assert_eq!(
            world.open_at(CLIENT, server, BOTH),
            Err(NtStatus::INVALID_HANDLE)
        );
    }
}

#[test]
fn np_obj_01_np_info_15_a_client_knows_its_pipe_when_that_has_gone() {
    let mut world = World::new();
    let server = world.create(SERVER, create("Spelled")).expect("create");
    let client = world.open(CLIENT, "spelled", BOTH).expect("open");
    let before = world.shard.describe(CLIENT, client).expect("info");
    assert_eq!(before.pipe.instances, 1);
    assert_eq!(before.quotas, None, "its connection has them");
    let of_server = world.shard.describe(SERVER, server).expect("info");
    assert_eq!(of_server.quotas, Some((100, 200)));
    world.close(SERVER, server);
    let after = world.shard.describe(CLIENT, client).expect("info");
    assert_eq!(after.pipe.instances, 0);
    assert_eq!(after.pipe.name.to_string(), "Spelled");
    // The name is free, and the next pipe of that name is another.
    world.create(SERVER, create("SPELLED")).expect("create");
    let still = world.shard.describe(CLIENT, client).expect("info");
    assert_eq!((still.pipe.instances, still), (0, after));
    assert_eq!(
        world.open_at(CLIENT, client, BOTH),
        Err(NtStatus::OBJECT_NAME_NOT_FOUND)
    );
}

#[test]
fn np_info_01_np_sec_02_a_client_that_was_disconnected_is_told_nothing() {
    let mut world = World::new();
    let server = world.create(SERVER, create("a")).expect("create");
    let client = world.open(CLIENT, "a", BOTH).expect("open");
    world.disconnect(SERVER, server).expect("disconnect");
    let gone = Err(NtStatus::PIPE_DISCONNECTED);
    assert_eq!(world.shard.describe(CLIENT, client), gone);
    let parts = SecurityParts::DACL;
    assert_eq!(
        world.shard.security(CLIENT, client, parts),
        Err(NtStatus::PIPE_DISCONNECTED)
    );
    assert_eq!(
        world.set_security(CLIENT, client, parts, SecurityDescriptor::new()),
        Err(NtStatus::PIPE_DISCONNECTED)
    );
    world.shard.describe(SERVER, server).expect("info");
    world
        .shard
        .security(SERVER, server, parts)
        .expect("security");
    // Also once the server end is closed.
    world.close(SERVER, server);
    assert_eq!(
        world.shard.describe(CLIENT, client),
        Err(NtStatus::PIPE_DISCONNECTED)
    );
}

#[test]
fn np_sec_01_one_descriptor_for_all_ends_and_instances_to_come() {
    let mut world = World::new();
    let all = Create {
        access: BOTH | Mask::READ_CONTROL | Mask::WRITE_DAC | Mask::WRITE_OWNER,
        ..create("a")
    };
    let server = world.create(SERVER, all).expect("create");
    let client = world.open(CLIENT, "a", BOTH).expect("open");
    let everyone = SecurityDescriptor::new().allow(Sid::EVERYONE, Mask::GENERIC_ALL);
    let dacl = SecurityParts::DACL;
    assert_eq!(
        world.set_security(CLIENT, client, dacl, everyone.clone()),
        Err(NtStatus::ACCESS_DENIED),
        "its handle may not"
    );
    world
        .set_security(SERVER, server, dacl, everyone.clone())
        .expect("set");
    let seen = world
        .shard
        .security(CLIENT, client, dacl)
        .expect("security");
    assert_eq!(seen.dacl, everyone.dacl);
    assert_eq!(seen.owner, None, "not asked for");
    // The stranger may now, and adds an instance, which has the same.
    let theirs = world.create(STRANGER, create("a")).expect("create");
    world.close(SERVER, server);
    let seen = world
        .shard
        .security(STRANGER, theirs, dacl)
        .expect("security");
    assert_eq!(seen.dacl, everyone.dacl);
}

#[test]
fn an_owner_is_named_by_who_is_it_or_by_an_administrator() {
    let mut world = World::new();
    let all = Create {
        access: BOTH | Mask::WRITE_OWNER,
        security: Some(SecurityDescriptor::new().allow(Sid::EVERYONE, Mask::GENERIC_ALL)),
        ..create("a")
    };
    let server = world.create(SERVER, all).expect("create");
    let other = SecurityDescriptor::new().with_owner(Sid::user(2000));
    let parts = SecurityParts::OWNER;
    assert_eq!(
        world.set_security(SERVER, server, parts, other.clone()),
        Err(NtStatus::INVALID_OWNER)
    );
    assert_eq!(
        world.set_security(SERVER, server, parts, SecurityDescriptor::new()),
        Err(NtStatus::INVALID_SECURITY_DESCR)
    );
    let own = SecurityDescriptor::new().with_owner(Sid::user(1000));
    world.set_security(SERVER, server, parts, own).expect("set");
    let roots = world
        .open(ROOT, "a", BOTH | Mask::WRITE_OWNER)
        .expect("open");
    world.set_security(ROOT, roots, parts, other).expect("set");
    let sacl = SecurityParts::SACL;
    assert_eq!(
        world.shard.security(ROOT, roots, sacl),
        Err(NtStatus::ACCESS_DENIED)
    );
}

//! Every message survives the wire, and no bytes do harm.

use std::time::Duration;

use npfs_ringbuf::{CompletionMode, End, Grant, PipeType, ReadMode, books::*};

use super::*;
use crate::{
    name::Name,
    npfs::{
        Create, Direction, Disposition, EndId, EndInfo, PipeInfo, Quality, SecurityParts, State,
        Tag, Taken, Timeout, Wanted,
    },
    security::{Mask, SecurityDescriptor, Sid},
    status::NtStatus,
};

fn requests() -> Vec<Request> {
    let name = Name::parse("Ä name").expect("a name");
    let create = |security, timeout| {
        let unnamed = timeout == Some(Duration::from_millis(8));
        Box::new(Create {
            name: (!unnamed).then(|| name.clone()),
            access: Mask::GENERIC_ALL,
            direction: Direction::Outbound,
            disposition: Disposition::Create,
            pipe_type: PipeType::Message,
            max_instances: 3,
            in_quota: 4,
            out_quota: 5,
            default_timeout: timeout,
            security,
            apart: timeout.is_none(),
        })
    };
    let security = SecurityDescriptor::new().allow(Sid::EVERYONE, Mask::GENERIC_READ);
    vec![
        Request::Hello(Hello::ours()),
        Request::Create(Tag(1), create(None, None)),
        Request::Create(
            Tag(2),
            create(Some(security.clone()), Some(Duration::from_millis(7))),
        ),
        Request::Create(Tag(16), create(None, Some(Duration::from_millis(8)))),
        Request::Open(Tag(3), name.clone(), Wanted::access(Mask::GENERIC_WRITE)),
        Request::OpenAt(
            Tag(17),
            EndId(1),
            Wanted {
                access: Mask::GENERIC_READ,
                quality: Quality::STATIC,
                apart: true,
            },
        ),
        Request::Describe(Tag(18), EndId(2)),
        Request::Security(Tag(19), EndId(3), SecurityParts::OWNER),
        Request::SetSecurity(
            Tag(20),
            EndId(4),
            SecurityParts::DACL | SecurityParts::GROUP,
            Box::new(security),
        ),
        Request::Listen(Tag(4), EndId(9), true),
        Request::Listen(Tag(5), EndId(9), false),
        Request::Disconnect(Tag(6), EndId(8)),
        Request::Close(EndId(7)),
        Request::Wait(Tag(8), name.clone(), Timeout::Default),
        Request::Wait(Tag(9), name.clone(), Timeout::Never),
        Request::Wait(
            Tag(10),
            name.clone(),
            Timeout::After(Duration::from_nanos(3)),
        ),
        Request::Cancel(Tag(11)),
        Request::List(Tag(12), 5, vec![65, 66]),
        Request::Info(Tag(13), name, 400),
        Request::LostLink(14),
        Request::Rejoin([15, u64::MAX], 7),
        Request::Give(
            Tag(21),
            EndId(22),
            Mask::FILE_WRITE_DATA,
            (ReadMode::Message, CompletionMode::Complete),
            Some(29),
            Words {
                options: 0x10,
                peer: Peer {
                    pid: 1,
                    ..Peer::default()
                },
                ..Words::default()
            },
        ),
        Request::Give(
            Tag(30),
            EndId(31),
            Mask::all(),
            (ReadMode::Byte, CompletionMode::Queue),
            None,
            Words::default(),
        ),
        Request::Take(Tag(23), [24, u64::MAX]),
        Request::Refresh(Tag(27), EndId(28)),
        Request::SetModes(
            Tag(25),
            EndId(26),
            (ReadMode::Message, CompletionMode::Queue),
        ),
    ]
}

fn grant() -> Grant {
    let mut books = LinkBooks::create(&LinkConfig::default()).expect("a link");
    let me = books.add_process(None).expect("a process");
    let spec = ConnSpec::new(PipeType::Message, 100);
    books.connect(&spec, me, me).expect("a connection").1
}

fn replies() -> Vec<Reply> {
    let peer = Peer {
        pid: 1,
        uid: 2,
        gid: 3,
        session: 4,
    };
    let conn = WireConn {
        quality: Quality::STATIC,
        link: 77,
        process: 1,
        peer,
        grant: grant(),
    };
    let pipe = |text, owner| PipeInfo {
        name: Name::parse(text).expect("a name"),
        pipe_type: PipeType::Message,
        direction: Direction::Inbound,
        instances: 1,
        max_instances: 2,
        listening: 3,
        connected: 4,
        waiters: 5,
        default_timeout: Duration::from_millis(6),
        owner,
    };
    let instance = |client| InstanceEntry {
        state: State::Connected,
        server: peer,
        client,
        in_quota: 8,
        out_quota: 9,
    };
    vec![
        Reply::Welcome {
            version: 1,
            abi: 2,
            layout: 3,
            pid: 4,
        },
        Reply::Done(Tag(1), NtStatus::PIPE_CLOSING),
        Reply::Created {
            tag: Tag(2),
            end: EndId(3),
            pipe_type: PipeType::Message,
            first: true,
            granted: Mask::FILE_GENERIC_READ,
        },
        Reply::Opened {
            tag: Tag(3),
            end: EndId(4),
            granted: Mask::FILE_GENERIC_WRITE,
            conn,
        },
        Reply::Connected {
            tag: Tag(0),
            end: EndId(5),
            conn,
        },
        Reply::LinkGone(6),
        Reply::PeerLost([7, 8], 1, true),
        Reply::PeerLost([u64::MAX, 0], u8::MAX, false),
        Reply::Given(Tag(12), [9, u64::MAX]),
        Reply::Taken {
            tag: Tag(13),
            taken: Box::new(Taken {
                end: EndId(14),
                side: End::Server,
                pipe_type: PipeType::Message,
                granted: Mask::FILE_GENERIC_READ,
                modes: (ReadMode::Message, CompletionMode::Queue),
                listening: true,
                conn: None,
            }),
            words: Words {
                options: 0x20,
                origin: peer,
                peer: Peer::default(),
                quality: Quality::STATIC,
            },
        },
        Reply::Taken {
            tag: Tag(15),
            taken: Box::new(Taken {
                end: EndId(16),
                side: End::Client,
                pipe_type: PipeType::Byte,
                granted: Mask::FILE_WRITE_DATA,
                modes: (ReadMode::Byte, CompletionMode::Complete),
                listening: false,
                conn: Some(conn),
            }),
            words: Words::default(),
        },
        Reply::Pipes {
            tag: Tag(7),
            next: (3, vec![1, 2, 3]),
            pipes: vec![pipe("a", None), pipe("b", Some(Sid::user(1000)))],
        },
        Reply::Described {
            tag: Tag(9),
            info: Box::new(EndInfo {
                pipe: PipeInfo {
                    name: Name::none(),
                    ..pipe("unnamed", None)
                },
                quotas: Some((1, u32::MAX)),
            }),
        },
        Reply::Described {
            tag: Tag(11),
            info: Box::new(EndInfo {
                pipe: pipe("of a client", None),
                quotas: None,
            }),
        },
        Reply::Security(
            Tag(10),
            Box::new(SecurityDescriptor::new().with_owner(Sid::user(1))),
        ),
        Reply::Instances {
            tag: Tag(8),
            pipe: Box::new(pipe("c", Some(Sid::EVERYONE))),
            instances: vec![instance(None), instance(Some(peer))],
        },
    ]
}

#[test]
fn requests_survive_the_wire() {
    for request in requests() {
        let bytes = request.encode();
        let back = Request::decode(&bytes).expect("a request");
        assert_eq!(format!("{back:?}"), format!("{request:?}"));
        assert_eq!(back.encode(), bytes);
    }
}

#[test]
fn replies_survive_the_wire() {
    for reply in replies() {
        let bytes = reply.encode();
        assert_eq!(Reply::decode(&bytes), Ok(reply));
    }
}

#[test]
fn other_namespaces_than_that_of_pipes_are_refused() {
    for request in requests() {
        let mut bytes = request.encode();
        bytes[56] = 1;
        assert!(Request::decode(&bytes).is_err());
    }
}

#[test]
fn what_is_cut_short_or_too_long_is_refused() {
    let requests = requests().into_iter().map(|one| one.encode());
    let replies = replies().into_iter().map(|one| one.encode());
    for bytes in requests {
        for length in 0..bytes.len() {
            assert!(Request::decode(&bytes[..length]).is_err());
        }
        assert!(Request::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
    for bytes in replies {
        for length in 0..bytes.len() {
            assert!(Reply::decode(&bytes[..length]).is_err());
        }
        assert!(Reply::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
}

#[test]
fn changed_bytes_do_no_harm() {
    let messages = requests().into_iter().map(|one| one.encode());
    let messages = messages.chain(replies().into_iter().map(|one| one.encode()));
    for bytes in messages {
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                let _ = Request::decode(&bytes);
                let _ = Reply::decode(&bytes);
            }
        }
    }
}

#[test]
fn a_descriptor_that_cannot_be_sent_is_refused_and_not_left_out() {
    let mut requests = requests();
    let Request::Create(_, create) = &mut requests[2] else {
        panic!("a create");
    };
    let mut security = SecurityDescriptor::new();
    for uid in 0..10_000 {
        security = security.allow(Sid::user(uid), Mask::GENERIC_READ);
    }
    create.security = Some(security);
    assert!(Request::decode(&requests[2].encode()).is_err());
}

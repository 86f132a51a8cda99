//! Descriptors and grants that are not what they should be: each is refused with a reason, none crashes.

use npfs_ringbuf::books::{ConnSpec, LinkBooks, LinkConfig};
use npfs_ringbuf::{AttachError, Conn, Error, Grant, Link, PipeType, ProcessIndex, Shared};
use npfs_tests::sys::{self, Map};
use npfs_tests::{Rng, within};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::Ordering::SeqCst;

/// Where the link's header keeps them, in bytes.
const MAGIC: usize = 0;
const VERSION: usize = 4;
const LAYOUT: usize = 8;

const SEALS: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

const SMALL: LinkConfig = LinkConfig {
    size: 4 << 20,
    slots: 4,
};

fn books() -> LinkBooks {
    LinkBooks::create(&SMALL).expect("a link")
}

fn index() -> ProcessIndex {
    ProcessIndex::new(0).expect("below 8")
}

/// Why a descriptor is refused, with a look at what it leaves behind.
fn refused(fd: OwnedFd) -> AttachError {
    match Link::attach(fd, index()) {
        Err(error) => {
            assert!(!error.to_string().is_empty());
            error
        }
        Ok(_) => panic!("attached"),
    }
}

/// The books' memory copied into a memfd of another length, with these seals.
fn copy(len: u64, seals: i32) -> OwnedFd {
    let original = Map::new(books().fd()).expect("a mapping");
    let fd = sys::memfd(libc::MFD_ALLOW_SEALING, len).expect("a memfd");
    let map = Map::new(fd.as_fd()).expect("a mapping");
    for at in (0..original.len().min(map.len()).min(1 << 16)).step_by(4) {
        map.word(at).store(original.word(at).load(SeqCst), SeqCst);
    }
    sys::seal(fd.as_fd(), seals).expect("seals");
    fd
}

#[test]
fn a_sound_link_is_attached_and_its_descriptor_closed() {
    within(30, || {
        let mut books = books();
        let index = books.add_process(None).expect("room");
        // Other tests of this process open and map at the same time: a leak of ours would show in every round.
        let attach = |books: &npfs_ringbuf::books::LinkBooks| {
            Link::attach(books.share().expect("a duplicate"), index).expect("a sound link")
        };
        let quiet = (0..200).any(|_| {
            let before = sys::descriptors();
            let link = attach(&books);
            let after = sys::descriptors();
            drop(link);
            before == after
        });
        assert!(quiet, "the descriptor is closed");
        let quiet = (0..200).any(|_| {
            let before = sys::mappings();
            drop(attach(&books));
            sys::mappings() == before
        });
        assert!(quiet, "and the mapping goes with the link");
        let quiet = (0..200).any(|_| {
            let before = sys::descriptors();
            assert!(matches!(
                refused(File::open("/dev/null").unwrap().into()),
                AttachError::NotMemory
            ));
            sys::descriptors() == before
        });
        assert!(quiet, "a refused one is closed too");
    });
}

#[test]
fn an_exact_copy_of_a_link_is_what_the_other_cases_differ_from() {
    // Otherwise they would be refused for some other reason.
    let books = books();
    let len = File::from(books.share().unwrap()).metadata().unwrap().len();
    drop(Link::attach(copy(len, SEALS), index()).expect("a copy is as good as the link"));
}

#[test]
fn what_is_no_memory() {
    let file = std::env::temp_dir().join(format!("npfs-attach-{}", std::process::id()));
    let mut regular = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&file)
        .unwrap();
    std::fs::remove_file(&file).unwrap();
    regular.write_all(&[0; 65536]).unwrap();
    let (pipe, _other) = std::io::pipe().unwrap();
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let strangers: [(&str, OwnedFd); 6] = [
        ("a regular file", regular.into()),
        ("a pipe", pipe.into()),
        ("a socket", socket.into()),
        ("an eventfd", sys::eventfd().unwrap()),
        ("a device", File::open("/dev/zero").unwrap().into()),
        ("a directory", File::open("/").unwrap().into()),
    ];
    for (what, fd) in strangers {
        let error = refused(fd);
        // A file on tmpfs passes for memory until its seals are asked for.
        assert!(
            matches!(
                error,
                AttachError::NotMemory | AttachError::NotSealed { .. }
            ),
            "{what}: {error:?}"
        );
    }
}

#[test]
fn a_link_that_could_shrink_or_grow() {
    for missing in [libc::F_SEAL_SHRINK, libc::F_SEAL_GROW, libc::F_SEAL_SEAL] {
        match refused(copy(4 << 20, SEALS & !missing)) {
            AttachError::NotSealed { missing: said } => assert_eq!(said, missing),
            other => panic!("{other:?}"),
        }
    }
    let unsealable = sys::memfd(0, 4 << 20).unwrap();
    assert!(matches!(refused(unsealable), AttachError::NotSealed { .. }));
}

#[test]
fn truncated() {
    for len in [0, 1, 64, 4095, 4096, 8192] {
        let fd = if len == 0 {
            let fd = sys::memfd(libc::MFD_ALLOW_SEALING, 0).unwrap();
            sys::seal(fd.as_fd(), SEALS).unwrap();
            fd
        } else if len < 4096 {
            let fd = sys::memfd(libc::MFD_ALLOW_SEALING, len).unwrap();
            sys::seal(fd.as_fd(), SEALS).unwrap();
            fd
        } else {
            copy(len, SEALS)
        };
        let error = refused(fd);
        assert!(
            matches!(error, AttachError::TooSmall { .. } | AttachError::Geometry),
            "{len} bytes: {error:?}"
        );
        if let AttachError::TooSmall { len: said } = error {
            assert_eq!(said, len);
        }
    }
}

/// A link with one word of its header changed.
fn patched(patch: impl FnOnce(&Map)) -> AttachError {
    let books = books();
    patch(&Map::new(books.fd()).expect("a mapping"));
    refused(books.share().expect("a duplicate"))
}

#[test]
fn not_ready_yet() {
    let error = patched(|map| map.word(MAGIC).store(0, SeqCst));
    assert!(matches!(error, AttachError::NotReady), "{error:?}");
}

#[test]
fn another_magic() {
    let error = patched(|map| map.word(MAGIC).store(0x1234_5678, SeqCst));
    assert!(
        matches!(error, AttachError::Magic(0x1234_5678)),
        "{error:?}"
    );
}

#[test]
fn another_version() {
    for change in [1_u32, u32::MAX, 0x8000_0000] {
        let mut expected = 0;
        let error = patched(|map| {
            expected = map.word(VERSION).load(SeqCst).wrapping_add(change);
            map.word(VERSION).store(expected, SeqCst);
        });
        match error {
            AttachError::Version { found } => assert_eq!(found, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn another_layout() {
    let mut expected = 0;
    let error = patched(|map| {
        expected = map.double(LAYOUT).load(SeqCst) ^ 1;
        map.double(LAYOUT).store(expected, SeqCst);
    });
    match error {
        AttachError::Layout { found } => assert_eq!(found, expected),
        other => panic!("{other:?}"),
    }
}

#[test]
fn garbage() {
    within(60, || {
        for seed in 0..50 {
            let fd = sys::memfd(libc::MFD_ALLOW_SEALING, 1 << 20).unwrap();
            let map = Map::new(fd.as_fd()).unwrap();
            let mut rng = Rng::new(seed);
            for at in (0..1 << 14).step_by(8) {
                map.double(at).store(rng.next_u64(), SeqCst);
            }
            sys::seal(fd.as_fd(), SEALS).unwrap();
            let error = refused(fd);
            assert!(matches!(error, AttachError::Magic(_)), "{error:?}");
        }
    });
}

/// Right magic, version and layout, noise in the rest of the header: refused, or a link that harms nobody.
#[test]
fn garbage_behind_a_good_header() {
    within(60, || {
        for seed in 0..200 {
            let books = books();
            let map = Map::new(books.fd()).unwrap();
            let mut rng = Rng::new(seed);
            for _ in 0..=rng.below(8) {
                let at = 16 + rng.below(1024) * 4;
                let values = [
                    u32::MAX,
                    0,
                    1,
                    0x7fff_ffff,
                    rng.next_u64().to_le_bytes()[0].into(),
                ];
                map.word(at).store(values[rng.below(values.len())], SeqCst);
            }
            if let Ok(link) = Link::attach(books.share().unwrap(), index()) {
                drop(link);
            }
        }
    });
}

#[test]
fn huge_pages() {
    // It passes the look at its seals, and kills by SIGBUS whoever touches it when no huge page is free.
    let huge = sys::memfd(libc::MFD_ALLOW_SEALING | libc::MFD_HUGETLB, 4 << 20)
        .and_then(|fd| sys::seal(fd.as_fd(), SEALS).map(|()| fd));
    match huge {
        Ok(fd) => {
            let error = refused(fd);
            assert!(matches!(error, AttachError::NotMemory), "{error:?}");
        }
        Err(error) => eprintln!("SKIPPED huge_pages: this kernel makes no hugetlb memfd ({error})"),
    }
}

#[test]
fn indices() {
    for i in 0..8 {
        assert_eq!(ProcessIndex::new(i).map(ProcessIndex::get), Some(i));
    }
    assert_eq!(ProcessIndex::new(8), None);
    assert_eq!(ProcessIndex::new(255), None);
    let mut books = books();
    let all: Vec<_> = (0..8)
        .map(|_| books.add_process(None).expect("eight").get())
        .collect();
    assert_eq!(
        all.iter().collect::<std::collections::BTreeSet<_>>().len(),
        8
    );
    assert!(matches!(
        books.add_process(None),
        Err(npfs_ringbuf::BooksError::TooManyProcesses)
    ));
}

#[test]
fn books_that_refuse() {
    use npfs_ringbuf::BooksError;
    within(30, || {
        let mut books = books();
        let index = books.add_process(None).unwrap();
        let mut conns = Vec::new();
        let spec = ConnSpec::new(PipeType::Byte, 512);
        for _ in 0..4 {
            conns.push(books.connect(&spec, index, index).expect("four slots"));
        }
        assert!(matches!(
            books.connect(&spec, index, index),
            Err(BooksError::NoFreeSlot)
        ));
        let large = ConnSpec::new(PipeType::Byte, u32::MAX);
        let error = LinkBooks::create(&LinkConfig::default()).and_then(|mut books| {
            let index = books.add_process(None)?;
            books.connect(&large, index, index)
        });
        assert!(
            matches!(error, Err(BooksError::QuotaTooLarge(u32::MAX))),
            "{error:?}"
        );
        let mut other = LinkBooks::create(&SMALL).unwrap();
        assert!(matches!(
            other.disconnect(conns[0].0),
            Err(BooksError::NoSuchConnection)
        ));
        for config in [
            LinkConfig { size: 0, slots: 4 },
            LinkConfig {
                size: 4096,
                slots: 1024,
            },
            LinkConfig {
                size: 4 << 20,
                slots: 0,
            },
            LinkConfig {
                size: u64::MAX,
                slots: 4,
            },
            LinkConfig {
                size: 1 << 30,
                slots: u32::MAX,
            },
        ] {
            let made = LinkBooks::create(&config);
            assert!(made.is_err(), "{config:?}");
        }
        // Data areas until the link's memory is used up.
        let mut tiny = LinkBooks::create(&SMALL).unwrap();
        let index = tiny.add_process(None).unwrap();
        let large = ConnSpec::new(PipeType::Byte, 1 << 20);
        let full = (0..4).find_map(|_| tiny.connect(&large, index, index).err());
        assert!(matches!(full, Some(BooksError::NoFreeArea)), "{full:?}");
    });
}

// -------------------------------------------------------------------------------------------------------- grants

fn link_and_grant() -> (LinkBooks, Shared<Link>, Grant, Grant) {
    let mut books = books();
    let index = books.add_process(None).unwrap();
    let link = Link::attach(books.share().unwrap(), index).unwrap();
    let spec = ConnSpec::new(PipeType::Message, 512);
    let (_, server, client) = books.connect(&spec, index, index).unwrap();
    (books, link, server, client)
}

/// Calls on an end that should not be: any answer, at once.
fn harmless(conn: &Conn) {
    let mut buf = [0; 64];
    let _ = (
        conn.state(),
        conn.end(),
        conn.pipe_type(),
        conn.read_mode(),
        conn.completion_mode(),
    );
    let _ = conn.info();
    let _ = conn.peek(&mut buf);
    let _ = conn.try_read(&mut buf);
    let _ = conn.try_write(&buf);
    conn.close();
}

#[test]
fn a_grant_survives_its_bytes() {
    let (_books, _link, server, client) = link_and_grant();
    for grant in [server, client] {
        let bytes = grant.to_bytes();
        assert_eq!(bytes.len(), Grant::SIZE);
        assert_eq!(Grant::from_bytes(&bytes).unwrap(), grant);
        for len in [0, 1, Grant::SIZE - 1] {
            assert!(
                matches!(Grant::from_bytes(&bytes[..len]), Err(AttachError::Grant(_))),
                "{len}"
            );
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(matches!(
            Grant::from_bytes(&longer),
            Err(AttachError::Grant(_))
        ));
    }
}

#[test]
fn grants_of_random_bytes() {
    within(60, || {
        let (_books, link, ..) = link_and_grant();
        for seed in 0..20_000 {
            let bytes = npfs_tests::pattern(seed, Grant::SIZE);
            match Grant::from_bytes(&bytes) {
                Err(error) => assert!(!error.to_string().is_empty()),
                Ok(grant) => {
                    if let Ok(conn) = Conn::open(&link, &grant) {
                        harmless(&conn);
                    }
                }
            }
        }
    });
}

#[test]
fn grants_with_one_byte_changed() {
    within(60, || {
        for at in 0..Grant::SIZE {
            for change in [1, 2, 0x7f, 0x80, 0xff] {
                let (_books, link, server, _) = link_and_grant();
                let mut bytes = server.to_bytes();
                bytes[at] ^= change;
                let Ok(grant) = Grant::from_bytes(&bytes) else {
                    continue;
                };
                if let Ok(conn) = Conn::open(&link, &grant) {
                    harmless(&conn);
                }
            }
        }
    });
}

/// A grant outlives its connection: the slot's next connection is none of its business.
#[test]
fn a_grant_of_an_earlier_connection() {
    within(30, || {
        let mut books = LinkBooks::create(&LinkConfig { slots: 1, ..SMALL }).unwrap();
        let index = books.add_process(None).unwrap();
        let link = Link::attach(books.share().unwrap(), index).unwrap();
        let spec = ConnSpec::new(PipeType::Message, 512);
        let (id, server, client) = books.connect(&spec, index, index).unwrap();
        let old = Conn::open(&link, &server).unwrap();
        books.close(id, npfs_ringbuf::End::Server).unwrap();
        books.close(id, npfs_ringbuf::End::Client).unwrap();
        let (_, server_again, client_again) =
            books.connect(&spec, index, index).expect("the only slot");
        let (a, b) = (
            Conn::open(&link, &server_again).unwrap(),
            Conn::open(&link, &client_again).unwrap(),
        );
        assert_eq!(a.try_write(b"new"), Ok(3));
        let mut buf = [0; 16];
        assert_eq!(old.try_read(&mut buf), Err(Error::Stale));
        assert_eq!(old.try_write(b"old"), Err(Error::Stale));
        old.close();
        match Conn::open(&link, &client) {
            Err(AttachError::Grant(_)) => {}
            Err(other) => panic!("{other:?}"),
            Ok(late) => {
                assert_eq!(late.try_read(&mut buf), Err(Error::Stale));
                late.close();
            }
        }
        assert_eq!(b.try_read(&mut buf).map(|r| r.count()), Ok(3));
        assert_eq!(
            a.state(),
            npfs_ringbuf::State::Connected,
            "the old close closed nothing"
        );
    });
}
